// SPDX-License-Identifier: MIT OR Apache-2.0
//! Which pages go out.

mod lru2;
mod retry;
mod reuse;
mod states;
mod sweep;

use std::ops::RangeInclusive;

use p2m_paging::Gfn;

pub use lru2::{Lru2, ScanCounts};
pub use reuse::Reuse;
pub use states::PART_PAGES;
pub use sweep::{DEFAULT_MRU_PAGES, Sweep, SweepOptions};

/// The policies by name.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum PolicyName {
    /// In turn, but for pages that came back lately.
    #[default]
    Sweep,
    /// Two lists, by whether a page has been accessed again.
    Lru2,
    /// What is likely to be used again soonest stays, by what has been seen so far.
    Reuse,
}

impl PolicyName {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Sweep, Self::Lru2, Self::Reuse];

    /// As `--policy` takes it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Sweep => "sweep",
            Self::Lru2 => "lru2",
            Self::Reuse => "reuse",
        }
    }

    /// What it goes by, in a line.
    pub fn about(self) -> &'static str {
        match self {
            Self::Sweep => "In turn, but for pages that came back lately",
            Self::Lru2 => "Two lists, by whether a page has been accessed again",
            Self::Reuse => {
                "What is likely to be used again soonest stays, by what has been seen so far"
            }
        }
    }

    /// The one of this name.
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|policy| policy.name() == name)
    }

    /// The policy, over a guest's memory, all of it resident.
    pub fn policy(self, memory: &[RangeInclusive<u64>], options: &SweepOptions) -> Box<dyn Policy> {
        match self {
            Self::Sweep => Box::new(Sweep::new(memory, options)),
            Self::Lru2 => Box::new(Lru2::new(memory, options)),
            Self::Reuse => Box::new(Reuse::new(memory, options)),
        }
    }
}

/// Chooses victims, and is told what became of them.
///
/// A gfn that [`choose`](Self::choose) returned is the pager's until one of
/// [`paged_out`](Self::paged_out), [`refused`](Self::refused), [`abandoned`](Self::abandoned) or
/// [`dropped`](Self::dropped) follows, exactly once. After `paged_out` it is not to be chosen until
/// [`paged_in`](Self::paged_in) or `dropped`.
///
/// `paged_in` and `dropped` are called while a vcpu waits: they allocate nothing.
pub trait Policy: std::fmt::Debug + Send {
    /// The next page to go out, `None` if there is none at present.
    fn choose(&mut self) -> Option<Gfn>;

    /// It is out already, before anything was chosen: a pager before this one chose it.
    fn adopted(&mut self, gfn: Gfn);

    /// It went out.
    fn paged_out(&mut self, gfn: Gfn);

    /// It came home; `asked` if somebody wanted it, false if it was brought ahead of need.
    fn paged_in(&mut self, gfn: Gfn, asked: bool);

    /// The hypervisor would not let it go, or the guest took it back on its way.
    fn refused(&mut self, gfn: Gfn);

    /// It was not tried after all (no room, nothing to be paged out any more): as good as before.
    fn abandoned(&mut self, gfn: Gfn);

    /// The guest gave it back. It may be memory again one day.
    fn dropped(&mut self, gfn: Gfn);

    /// Some time passed (about ten times a second).
    fn tick(&mut self);

    /// Whether accessed bits are of use to it.
    fn wants_scans(&self) -> bool {
        false
    }

    /// Part of a scan of accessed bits.
    ///
    /// A policy that is never told of any goes by the pages that come in.
    fn referenced(&mut self, part: &ScanPart<'_>) {
        let _ = part;
    }

    /// A scan is complete: every page that is in has been asked about once.
    fn scanned(&mut self) {}

    /// Memory in use, in bytes.
    fn table_bytes(&self) -> usize;
}

/// Which of some neighbouring pages were accessed since the scan before, by the accessed bits of the
/// tables that map them, read and cleared. A page that has come in since has its bit set, by the access that brought
/// it in; if none did, by being mapped on some machines (the embedded host, Xen) and not on others.
#[derive(Clone, Copy, Debug)]
pub struct ScanPart<'a> {
    /// The first page; a multiple of [`PART_PAGES`].
    pub first: u64,
    /// Bit n of word m stands for gfn `first + 64 * m + n`. Bits of pages that are not in are ignored.
    pub accessed: &'a [u64; PART_PAGES / 64],
}

impl ScanPart<'_> {
    /// Whether it speaks of a page.
    pub fn contains(&self, gfn: u64) -> bool {
        gfn.checked_sub(self.first)
            .is_some_and(|place| place < PART_PAGES as u64)
    }

    /// Whether a page that came in unasked is seen to be used. Mapping a page may set its accessed bit,
    /// so the first look after it came in says nothing. `first_look` is true until that look.
    pub(super) fn shows_use(&self, gfn: u64, first_look: &mut bool) -> bool {
        if *first_look {
            *first_look = !self.contains(gfn);
            return false;
        }
        self.is_accessed(gfn)
    }

    /// Whether a page is part of this, and was accessed.
    pub fn is_accessed(&self, gfn: u64) -> bool {
        let place = gfn.checked_sub(self.first).unwrap_or(u64::MAX);
        let word = usize::try_from(place / 64).unwrap_or(usize::MAX);
        self.accessed
            .get(word)
            .is_some_and(|word| word >> (place % 64) & 1 == 1)
    }
}

/// How many pages may go out at all.
pub fn eligible_pages(memory: &[RangeInclusive<u64>], options: &SweepOptions) -> u64 {
    let ranges = eligible(memory, options);
    ranges
        .iter()
        .map(|range| range.end() - range.start() + 1)
        .sum()
}

/// The ranges of memory that may go out at all, apart from each other.
fn eligible(memory: &[RangeInclusive<u64>], options: &SweepOptions) -> Vec<RangeInclusive<u64>> {
    let last = Gfn::MAX.get();
    let within = |range: &RangeInclusive<u64>, part: &RangeInclusive<u64>| {
        *range.start().max(part.start())..=last.min(*range.end()).min(*part.end())
    };
    let mut left: Vec<_> = match &options.only[..] {
        [] => memory.to_vec(),
        only => memory
            .iter()
            .flat_map(|range| only.iter().map(move |part| within(range, part)))
            .collect(),
    };
    for never in &options.never {
        left = left
            .into_iter()
            .flat_map(|range| {
                let below = never
                    .start()
                    .checked_sub(1)
                    .map(|end| within(&range, &(0..=end)));
                let above = never
                    .end()
                    .checked_add(1)
                    .map(|start| within(&range, &(start..=last)));
                [below, above]
            })
            .flatten()
            .collect();
    }
    left.retain(|range| !range.is_empty());
    left
}

#[cfg(test)]
mod tests;
