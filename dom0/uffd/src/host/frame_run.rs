// SPDX-License-Identifier: MIT OR Apache-2.0
//! Runs of consecutive guest frames, each of which one system call on guest memory can handle.
//!
//! A call costs microseconds however few pages it covers, and more if it must reach a running
//! vcpu's TLB. A page inside a run costs a tenth of that. Code that handles many frames therefore
//! sorts them, joins them to runs and makes one call for each run.

use p2m_paging::{Gfn, PAGE_SIZE};

/// Frames `first`, `first + 1`, and so on: at least one, and none beyond [`Gfn::MAX`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FrameRun {
    // INVARIANT: pages > 0, and first + pages - 1 <= Gfn::MAX.
    first: Gfn,
    pages: u64,
}

impl FrameRun {
    /// `pages` frames from `first` on. `None` if there is no frame, or one beyond [`Gfn::MAX`].
    pub fn new(first: Gfn, pages: u64) -> Option<Self> {
        let last = first.get().checked_add(pages.checked_sub(1)?)?;
        Gfn::try_new(last)?;
        Some(Self { first, pages })
    }

    /// A run of one frame.
    pub const fn one(gfn: Gfn) -> Self {
        Self {
            first: gfn,
            pages: 1,
        }
    }

    /// The first frame.
    pub const fn first(self) -> Gfn {
        self.first
    }

    /// The number of frames; never 0.
    pub const fn size_pages(self) -> u64 {
        self.pages
    }

    /// The number of bytes.
    pub const fn size_bytes(self) -> u64 {
        self.pages * PAGE_SIZE as u64
    }

    /// The offset of the run, in bytes, in a file that holds guest memory from frame 0 on.
    pub const fn offset_bytes(self) -> u64 {
        self.first.get() * PAGE_SIZE as u64
    }

    /// The number of the frame after the last one.
    pub const fn end(self) -> u64 {
        self.first.get() + self.pages
    }

    /// All frames, ascending.
    pub fn frames(self) -> impl Iterator<Item = Gfn> {
        (self.first.get()..self.end()).map(Gfn::new_truncate)
    }
}

/// Joins neighbours: each longest stretch of `gfns` that ascends by one becomes a run. The order of
/// the frames does not change, so sorted input gives the fewest runs.
pub fn runs(gfns: impl IntoIterator<Item = Gfn>) -> impl Iterator<Item = FrameRun> {
    let mut gfns = gfns.into_iter().peekable();
    std::iter::from_fn(move || {
        let mut run = FrameRun::one(gfns.next()?);
        while gfns.next_if(|gfn| gfn.get() == run.end()).is_some() {
            run.pages += 1;
        }
        Some(run)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pairs(gfns: &[u64]) -> Vec<(u64, u64)> {
        runs(gfns.iter().map(|&gfn| Gfn::new_truncate(gfn)))
            .map(|run| (run.first().get(), run.size_pages()))
            .collect()
    }

    #[test]
    fn neighbours_join_and_gaps_part() {
        assert_eq!(pairs(&[]), []);
        assert_eq!(pairs(&[7]), [(7, 1)]);
        assert_eq!(pairs(&[0, 1, 2, 4, 5, 9]), [(0, 3), (4, 2), (9, 1)]);
    }

    #[test]
    fn repeated_and_descending_frames_are_kept_in_their_order() {
        assert_eq!(pairs(&[3, 3, 2, 3]), [(3, 1), (3, 1), (2, 2)]);
        assert_eq!(
            pairs(&[Gfn::MAX.get() - 1, Gfn::MAX.get()]),
            [(Gfn::MAX.get() - 1, 2)]
        );
    }

    #[test]
    fn a_run_is_never_empty_and_never_beyond_the_last_frame() {
        let frame = Gfn::new_truncate(5);
        assert_eq!(FrameRun::new(frame, 0), None);
        assert_eq!(FrameRun::new(frame, u64::MAX), None);
        assert_eq!(FrameRun::new(Gfn::MAX, 2), None);
        assert_eq!(FrameRun::new(Gfn::MAX, 1), Some(FrameRun::one(Gfn::MAX)));
        let run = FrameRun::new(frame, 2).expect("two frames");
        assert_eq!(run.frames().map(Gfn::get).collect::<Vec<_>>(), [5, 6]);
        assert_eq!(
            (run.offset_bytes(), run.size_bytes(), run.end()),
            (5 * 4096, 2 * 4096, 7)
        );
    }
}
