// SPDX-License-Identifier: MIT OR Apache-2.0
//! Owed flushes, and the frames that must not be freed before them.
//!
//! A CPU may still hold the old translation of an entry that was changed. If its frame were freed before
//! the flush, that CPU could write a frame that belongs to somebody else. So an error here leaks the
//! frame and never frees it.

use crate::platform::{Leak, P2m};

/// A flush that is owed for a change, and the frame that the change took out, if any.
///
/// [`Self::flush_and_free`] flushes and frees the frame. A value that is dropped unpaid leaks its frame
/// ([`Leak::leak`]); the flush then happens when the p2m is unlocked
/// ([`Platform::lock_p2m`](crate::Platform::lock_p2m)).
#[must_use = "the flush is owed, and the frame with it is only freed after it"]
#[derive(Debug)]
pub struct FlushOwed<F: Leak>(Option<F>);

impl<F: Leak> FlushOwed<F> {
    /// For a change that took this frame out.
    pub(super) const fn with_frame(frame: F) -> Self {
        Self(Some(frame))
    }

    /// For a change that takes no frame out.
    pub(super) const fn without_frame() -> Self {
        Self(None)
    }

    /// Flushes, then frees the frame.
    pub fn flush_and_free<M: P2m<Frame = F>>(mut self, p2m: &mut M) {
        p2m.flush();
        p2m.free(self.0.take().into_iter());
    }
}

impl<F: Leak> Drop for FlushOwed<F> {
    fn drop(&mut self) {
        if let Some(frame) = self.0.take() {
            frame.leak();
        }
    }
}

/// The owed flushes of a batch, paid by one flush. It holds up to `N` frames. Dropped unpaid, it leaks
/// them.
#[must_use = "flush before the lock is released"]
#[derive(Debug)]
pub struct OwedFlushes<F: Leak, const N: usize> {
    frames: [Option<F>; N],
    len: usize,
    flush: bool,
}

impl<F: Leak, const N: usize> OwedFlushes<F, N> {
    /// Nothing owed.
    pub fn new() -> Self {
        Self {
            frames: [const { None }; N],
            len: 0,
            flush: false,
        }
    }

    /// Adds an owed flush. Beyond `N` frames, the frame is leaked.
    pub fn add(&mut self, mut owed: FlushOwed<F>) {
        self.flush = true;
        if let Some(room) = self.frames.get_mut(self.len) {
            *room = owed.0.take();
            self.len = self.len.saturating_add(usize::from(room.is_some()));
        }
    }

    /// Flushes once, then frees all frames.
    pub fn flush_and_free<M: P2m<Frame = F>>(mut self, p2m: &mut M) {
        if self.flush {
            p2m.flush();
            // Out of where they are: a copy of all of them might be too large for a hypervisor's stack.
            let frames = self.frames.iter_mut().take(self.len);
            p2m.free(frames.filter_map(Option::take));
        }
    }
}

impl<F: Leak, const N: usize> Default for OwedFlushes<F, N> {
    fn default() -> Self {
        Self::new()
    }
}

impl<F: Leak, const N: usize> Drop for OwedFlushes<F, N> {
    fn drop(&mut self) {
        for frame in self.frames.iter_mut().take(self.len) {
            if let Some(frame) = frame.take() {
                frame.leak();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use core::cell::Cell;

    use super::*;

    /// Records whether it was leaked or, as dropping would in a hypervisor, freed.
    struct Recorded<'a> {
        freed: &'a Cell<u32>,
        leaked: &'a Cell<u32>,
    }

    impl Drop for Recorded<'_> {
        fn drop(&mut self) {
            self.freed.set(self.freed.get() + 1);
        }
    }

    impl Leak for Recorded<'_> {
        fn leak(self) {
            self.leaked.set(self.leaked.get() + 1);
            core::mem::forget(self);
        }
    }

    struct Count {
        freed: Cell<u32>,
        leaked: Cell<u32>,
    }

    impl Count {
        fn new() -> Self {
            Self {
                freed: Cell::new(0),
                leaked: Cell::new(0),
            }
        }

        fn owed(&self) -> FlushOwed<Recorded<'_>> {
            FlushOwed::with_frame(Recorded {
                freed: &self.freed,
                leaked: &self.leaked,
            })
        }

        fn freed_and_leaked(&self) -> (u32, u32) {
            (self.freed.get(), self.leaked.get())
        }
    }

    #[test]
    fn a_dropped_owed_flush_leaks_its_frame() {
        let count = Count::new();
        drop(count.owed());
        assert_eq!(count.freed_and_leaked(), (0, 1));
    }

    #[test]
    fn a_batch_that_is_not_flushed_leaks_its_frames() {
        let count = Count::new();
        let mut owed_flushes: OwedFlushes<_, 3> = OwedFlushes::new();
        owed_flushes.add(count.owed());
        owed_flushes.add(FlushOwed::without_frame());
        owed_flushes.add(count.owed());
        drop(owed_flushes);
        assert_eq!(count.freed_and_leaked(), (0, 2));
    }

    #[test]
    fn one_owed_flush_too_many_leaks_its_frame_and_no_other() {
        let count = Count::new();
        let mut owed_flushes: OwedFlushes<_, 1> = OwedFlushes::new();
        owed_flushes.add(count.owed());
        owed_flushes.add(count.owed());
        assert_eq!(count.freed_and_leaked(), (0, 1));
        drop(owed_flushes);
        assert_eq!(count.freed_and_leaked(), (0, 2));
    }
}
