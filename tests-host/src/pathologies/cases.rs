// SPDX-License-Identifier: MIT OR Apache-2.0
//! The cases. Each fills a guest, has the host take memory, and lets the guest work.

use std::rc::Rc;

use fastrand::Rng;

use super::{Case, Host};
use crate::guest::{Backing, Cpu, DATA, Guest, PROGRAM, Region, SpaceId, Virt};
use crate::simulate::{Counts, MeasuredGuest};

/// A guest of 256 pages, without injected faults. The pager spares the last eight pages that came
/// in.
pub(super) const SCENARIO: &str =
    "seed=1,steps=1000,gfns=256,vcpus=2,spare=64,target=100,mru=8,batch=16";
/// The pages that the host leaves the guest.
const RESIDENT: usize = 112;

/// All of them.
pub const CASES: &[Case] = &[
    Case {
        name: "silent writes: a file was read, and is read again",
        produce: silent_writes,
    },
    Case {
        name: "stale reads: other files are read into memory that is out",
        produce: stale_reads,
    },
    Case {
        name: "false reads: memory that is out is zeroed for a new process",
        produce: false_reads,
    },
    Case {
        name: "sequence, fresh: a file is read in order, once it was out",
        produce: sequence_fresh,
    },
    Case {
        name: "sequence, decayed: the same after it was used at random",
        produce: sequence_decayed,
    },
    Case {
        name: "false anonymity: memory in use beside a file that is not",
        produce: false_anonymity,
    },
    Case {
        name: "paged twice: the guest swaps while it is paged",
        produce: paged_twice,
    },
];

fn silent_writes(setup: &MeasuredGuest<'_>, host: Host) -> Counts {
    let file = region(0, 160, Backing::Private(PROGRAM));
    let space = process(setup, vec![file]);
    read(setup, space, file, 1);
    measured(setup, || {
        take(setup, host);
        read(setup, space, file, 1);
    })
}

fn stale_reads(setup: &MeasuredGuest<'_>, host: Host) -> Counts {
    let old = region(0, 120, Backing::Private(PROGRAM));
    let new = region(120, 200, Backing::Private(DATA));
    let space = process(setup, vec![old, new]);
    read(setup, space, old, 1);
    take(setup, host);
    measured(setup, || read(setup, space, new, 1))
}

fn false_reads(setup: &MeasuredGuest<'_>, host: Host) -> Counts {
    let memory = region(0, 180, Backing::Anonymous);
    let before = process(setup, vec![memory]);
    store(setup, before, memory, 1);
    setup.run(move |guest, cpu| async move { guest.end(&cpu, before).await });
    take(setup, host);
    let memory = region(0, 80, Backing::Anonymous);
    let after = process(setup, vec![memory]);
    measured(setup, || store(setup, after, memory, 1))
}

fn sequence_fresh(setup: &MeasuredGuest<'_>, host: Host) -> Counts {
    sequence(setup, host, 0)
}

fn sequence_decayed(setup: &MeasuredGuest<'_>, host: Host) -> Counts {
    sequence(setup, host, 1_000)
}

fn sequence(setup: &MeasuredGuest<'_>, host: Host, at_random: u32) -> Counts {
    let file = region(0, 160, Backing::Private(PROGRAM));
    let space = process(setup, vec![file]);
    read(setup, space, file, 1);
    take(setup, host);
    setup.run(move |guest, cpu| async move {
        let mut rng = Rng::with_seed(7);
        for _ in 0..at_random {
            let virt = Virt(rng.u32(0..file.pages));
            load(&guest, &cpu, space, virt).await;
        }
    });
    measured(setup, || read(setup, space, file, 1))
}

fn false_anonymity(setup: &MeasuredGuest<'_>, host: Host) -> Counts {
    let hot = region(0, 40, Backing::Anonymous);
    let file = region(40, 140, Backing::Private(PROGRAM));
    let space = process(setup, vec![hot, file]);
    store(setup, space, hot, 1);
    read(setup, space, file, 1);
    read(setup, space, hot, 2);
    measured(setup, || {
        take(setup, host);
        read(setup, space, hot, 4);
    })
}

fn paged_twice(setup: &MeasuredGuest<'_>, host: Host) -> Counts {
    let memory = region(0, 300, Backing::Anonymous);
    let space = process(setup, vec![memory]);
    store(setup, space, memory, 1);
    measured(setup, || {
        take(setup, host);
        store(setup, space, memory, 1);
    })
}

/// The host takes memory.
fn take(setup: &MeasuredGuest<'_>, host: Host) {
    match host {
        Host::Pages | Host::PagesByUse => setup.page_out(RESIDENT),
        Host::Balloons => setup.balloon_to(RESIDENT),
    }
}

fn measured(setup: &MeasuredGuest<'_>, work: impl FnOnce()) -> Counts {
    let before = setup.counts();
    work();
    setup.counts().since(&before)
}

fn region(start: u32, pages: u32, backing: Backing) -> Region {
    Region {
        start: Virt(start),
        pages,
        backing,
    }
}

fn process(setup: &MeasuredGuest<'_>, regions: Vec<Region>) -> SpaceId {
    setup.run(|guest, cpu| async move {
        let space = guest.new_space(&cpu, regions).await;
        space.expect("there is memory")
    })
}

/// A process reads a region in order, so many times.
fn read(setup: &MeasuredGuest<'_>, space: SpaceId, region: Region, rounds: u32) {
    setup.run(move |guest, cpu| async move {
        for virt in (0..rounds).flat_map(|_| region.virts()) {
            load(&guest, &cpu, space, virt).await;
        }
    });
}

/// A process writes a region in order, so many times.
fn store(setup: &MeasuredGuest<'_>, space: SpaceId, region: Region, rounds: u32) {
    setup.run(move |guest, cpu| async move {
        for virt in (0..rounds).flat_map(|_| region.virts()) {
            let stored = guest.store(&cpu, space, virt, 0).await;
            stored.expect("there is memory");
        }
    });
}

async fn load(guest: &Rc<Guest>, cpu: &Cpu, space: SpaceId, virt: Virt) {
    let loaded = guest.access(cpu, space, virt, 0, None).await;
    loaded.expect("there is memory");
}
