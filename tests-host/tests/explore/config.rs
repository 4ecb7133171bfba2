// SPDX-License-Identifier: MIT OR Apache-2.0
//! The bounds that are explored: the actors, and the number of each object.

/// A bound.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Config {
    pub(crate) name: &'static str,
    /// Pages of the guest, at most [`MOST_GFNS`](crate::machine::MOST_GFNS).
    pub(crate) gfns: usize,
    /// Ring slots that can be used. The others are taken by requests that nobody answers.
    pub(crate) slots: usize,
    /// Vcpus that use memory.
    pub(crate) vcpus: usize,
    /// How many of them also write.
    pub(crate) writers: usize,
    /// Another domain maps pages.
    pub(crate) foreign: bool,
    /// How often the pager is replaced.
    pub(crate) replaced: u8,
    /// The pager was stopped when it was replaced, and continues afterwards.
    pub(crate) stopped: bool,
    /// How many pagers are killed. The next one takes over, with the index of the last one.
    pub(crate) dies: u8,
    /// The toolstack may see that a pager was killed, before the next one takes over.
    pub(crate) noticed: bool,
    /// The guest gives its last page back and takes it again.
    pub(crate) drops: bool,
    /// The pager asks for empty frames and fills them through a mapping.
    pub(crate) empty: bool,
    /// The pager brings in pages without a request.
    pub(crate) prefetch: bool,
    /// CPUs remember translations.
    pub(crate) tlb: bool,
    /// The pager publishes more responses than there were requests.
    pub(crate) hostile: bool,
    /// Another CPU takes the pager's event, and the pager goes on meanwhile.
    pub(crate) elsewhere: bool,
    /// Others run after each lock too, not only before.
    pub(crate) fine: bool,
    /// The defect of the platform, or of the pager.
    pub(crate) defect: Option<Defect>,
}

/// Defects of a platform, and of a pager.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Defect {
    /// An owed flush is lost.
    FlushLost,
    /// Nobody calls again when responses are left on the ring.
    EventLost,
    /// The pager writes its index after the evict.
    IndexLate,
    /// The pager clears its index before the prep.
    IndexEarly,
    /// A pager that took over does not ask whether the page of a drop request is out.
    DropBelieved,
}

/// Two vcpus, two pages and a pager, on a ring with two slots.
pub(crate) const SMALL: Config = Config {
    name: "two vcpus, two pages",
    gfns: 2,
    slots: 2,
    vcpus: 2,
    writers: 1,
    foreign: false,
    replaced: 0,
    stopped: false,
    dies: 0,
    noticed: false,
    drops: false,
    empty: false,
    prefetch: false,
    tlb: false,
    hostile: false,
    elsewhere: false,
    fine: false,
    defect: None,
};

/// One page, and everybody who can need it.
const ONE: Config = Config {
    name: "one page",
    gfns: 1,
    ..SMALL
};

/// What every run of the tests explores.
pub(crate) const SHORT: [Config; 15] = [
    Config {
        name: "one page, only another domain",
        vcpus: 0,
        foreign: true,
        empty: true,
        ..ONE
    },
    Config {
        name: "one page, one slot, given away",
        slots: 1,
        vcpus: 1,
        drops: true,
        ..ONE
    },
    Config {
        name: "three pages, one vcpu",
        gfns: 3,
        vcpus: 1,
        writers: 0,
        ..SMALL
    },
    Config {
        name: "two pages, one slot",
        slots: 1,
        writers: 0,
        ..SMALL
    },
    Config {
        name: "one page, events taken elsewhere",
        slots: 1,
        vcpus: 1,
        writers: 0,
        elsewhere: true,
        ..ONE
    },
    Config {
        name: "one page, a hostile index",
        vcpus: 1,
        hostile: true,
        ..ONE
    },
    Config {
        name: "one page, the pager is replaced",
        vcpus: 1,
        writers: 0,
        replaced: 1,
        ..ONE
    },
    Config {
        name: "one page, a replaced pager continues",
        slots: 1,
        vcpus: 1,
        replaced: 1,
        stopped: true,
        ..ONE
    },
    Config {
        name: "one page, written without a pager",
        vcpus: 1,
        replaced: 1,
        ..ONE
    },
    Config {
        name: "one page, remembered translations",
        vcpus: 1,
        tlb: true,
        ..ONE
    },
    Config {
        name: "one page, the pager is killed",
        vcpus: 1,
        dies: 1,
        noticed: true,
        ..ONE
    },
    Config {
        name: "one page, two pagers are killed",
        vcpus: 1,
        dies: 2,
        noticed: true,
        ..ONE
    },
    Config {
        name: "one page, the pager is killed, filled through a mapping",
        vcpus: 1,
        dies: 1,
        empty: true,
        ..ONE
    },
    Config {
        name: "one page, the pager is killed, and continues",
        slots: 1,
        vcpus: 1,
        dies: 1,
        stopped: true,
        ..ONE
    },
    Config {
        name: "one page, the pager is killed, given up",
        vcpus: 1,
        writers: 0,
        replaced: 1,
        dies: 1,
        noticed: true,
        ..ONE
    },
];

/// What is explored by hand: minutes to hours.
pub(crate) const LONG: [Config; 14] = [
    Config {
        name: "long: brought back unasked",
        vcpus: 1,
        writers: 0,
        replaced: 1,
        prefetch: true,
        ..ONE
    },
    Config {
        name: "long: one page, the pager is killed, another domain maps it",
        vcpus: 1,
        writers: 0,
        foreign: true,
        dies: 1,
        noticed: true,
        ..ONE
    },
    Config {
        name: "long: one page, the pager is killed, events taken elsewhere",
        vcpus: 1,
        writers: 0,
        dies: 1,
        empty: true,
        elsewhere: true,
        ..ONE
    },
    Config {
        name: "long: two pages, one slot, the pager is killed",
        slots: 1,
        writers: 0,
        dies: 1,
        noticed: true,
        ..SMALL
    },
    Config {
        name: "long: one page, the pager is killed, given away",
        slots: 1,
        vcpus: 1,
        writers: 0,
        dies: 1,
        drops: true,
        ..ONE
    },
    Config {
        name: "long: one page, the pager is killed, given away, noticed",
        slots: 1,
        vcpus: 1,
        writers: 0,
        dies: 1,
        noticed: true,
        drops: true,
        ..ONE
    },
    Config {
        name: "long: one page, two vcpus, the pager is killed",
        dies: 1,
        noticed: true,
        elsewhere: true,
        ..ONE
    },
    Config {
        name: "long: one page, two vcpus",
        ..ONE
    },
    Config {
        name: "long: one page, another domain maps it",
        vcpus: 1,
        foreign: true,
        empty: true,
        ..ONE
    },
    Config {
        name: "long: two vcpus, the pager is replaced",
        writers: 0,
        replaced: 1,
        ..ONE
    },
    Config {
        name: "long: every point of a switch",
        fine: true,
        writers: 2,
        prefetch: true,
        ..ONE
    },
    Config {
        name: "long: one slot and two writers",
        slots: 1,
        writers: 2,
        ..SMALL
    },
    Config {
        name: "long: two pages, two vcpus",
        ..SMALL
    },
    Config {
        name: "long: eight slots",
        slots: 8,
        writers: 2,
        ..SMALL
    },
];
