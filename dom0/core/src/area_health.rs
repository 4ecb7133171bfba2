// SPDX-License-Identifier: MIT OR Apache-2.0
//! An area that fails to write, and how it comes back (row C5).
//!
//! A slot that could not be written is *retired*: it is not free, and nobody's. It may be bad, or the
//! whole device may be gone for a while. So after a pause one page is written to the slot that has been
//! retired longest. If that works, all retired slots are free again. If it does not, the next pause is
//! twice as long. A device with a bad place fails again soon after its slots came back: the pause
//! becomes short again only after a time without failures.
//!
//! The core has no clock. Pauses are counted in ticks.

use std::collections::VecDeque;

use crate::store::Slot;

/// The pause after the first failure, in ticks: about a second.
const FIRST_PAUSE: u32 = 10;
/// The longest pause, in ticks, and the time without failures after which an area is as good as new:
/// about a minute.
const LONGEST_PAUSE: u32 = 600;

/// How an area stands with its device.
#[derive(Debug, Default)]
pub(super) struct AreaHealth {
    state: State,
    /// The last write failed.
    failed: bool,
    /// The length of the last pause.
    pause: u32,
    /// Slots that could not be written, the one retired longest first. While one of them is tried it
    /// is the first.
    retired: VecDeque<Slot>,
    /// Its failure has been reported, and not yet that it is over.
    pub(super) is_reported: bool,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum State {
    /// It has not failed, or long ago.
    #[default]
    Sound,
    /// After so many ticks one slot is tried.
    Pauses { ticks: u32 },
    /// This slot is taken, to see whether it can be written.
    Tries { slot: Slot },
    /// Nothing is wrong any more. After so many ticks it is sound.
    Settles { ticks: u32 },
}

impl AreaHealth {
    /// Whether the last write failed.
    pub(super) fn has_failed(&self) -> bool {
        self.failed
    }

    /// Whether one slot is to be tried now.
    pub(super) fn is_due(&self) -> bool {
        self.state == State::Pauses { ticks: 0 }
    }

    /// The slot that is to be tried, if one is retired. Any other will do if none is.
    pub(super) fn longest_retired(&self) -> Option<Slot> {
        self.retired.front().copied()
    }

    /// This slot is taken, to be tried.
    pub(super) fn tries(&mut self, slot: Slot) {
        self.state = State::Tries { slot };
    }

    /// A slot could not be written. Of failures during a pause nothing is to be learned.
    pub(super) fn fails(&mut self, slot: Slot) {
        self.failed = true;
        match self.state {
            State::Tries { slot: tried } if tried != slot => return,
            State::Pauses { .. } => return,
            State::Sound | State::Tries { .. } | State::Settles { .. } => {}
        }
        self.pause = (2 * self.pause).clamp(FIRST_PAUSE, LONGEST_PAUSE);
        self.state = State::Pauses { ticks: self.pause };
    }

    /// A slot has been written. Returns the slots that are free again.
    pub(super) fn works(&mut self, slot: Slot) -> VecDeque<Slot> {
        self.failed = false;
        if self.state != (State::Tries { slot }) {
            return VecDeque::new();
        }
        self.state = State::Settles {
            ticks: LONGEST_PAUSE,
        };
        let mut free = std::mem::take(&mut self.retired);
        if free.front() == Some(&slot) {
            free.pop_front();
        }
        free
    }

    /// A slot is out of use, because it could not be written.
    pub(super) fn retire(&mut self, slot: Slot) {
        if !self.stays_retired(slot) {
            self.retired.push_back(slot);
        }
    }

    /// Its owner gives a slot up, whatever was tried with it. Whether it is still retired: then another
    /// is the next to be tried. Allocates nothing.
    pub(super) fn stays_retired(&mut self, slot: Slot) -> bool {
        if self.state == (State::Tries { slot }) {
            self.state = State::Pauses { ticks: 0 };
        }
        let is_retired = self.retired.front() == Some(&slot);
        if is_retired {
            self.retired.rotate_left(1);
        }
        is_retired
    }

    /// Memory in use, in bytes.
    pub(super) fn table_bytes(&self) -> usize {
        self.retired.capacity() * size_of::<Slot>()
    }

    /// Some time passed. Whether the area is sound again, and its failure was reported.
    pub(super) fn tick(&mut self) -> bool {
        match &mut self.state {
            State::Sound | State::Tries { .. } => return false,
            State::Pauses { ticks } => *ticks = ticks.saturating_sub(1),
            State::Settles { ticks: 0 } => {
                self.state = State::Sound;
                self.pause = 0;
                return std::mem::take(&mut self.is_reported);
            }
            State::Settles { ticks } => *ticks -= 1,
        }
        if self.is_due() && !self.failed && self.retired.is_empty() {
            // For a time there was no space in it.
            self.state = State::Settles {
                ticks: LONGEST_PAUSE,
            };
        }
        false
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BAD: Slot = Slot(7);

    /// How many ticks pass before a slot is to be tried.
    fn pause(health: &mut AreaHealth) -> u32 {
        let mut ticks = 0;
        while !health.is_due() {
            assert!(!health.tick());
            ticks += 1;
        }
        ticks
    }

    #[test]
    fn pauses_grow_to_a_minute_and_are_short_again_after_a_time_without_failures() {
        let mut health = AreaHealth::default();
        health.fails(BAD);
        health.retire(BAD);
        let mut pauses = Vec::new();
        for _ in 0..8 {
            // Whatever else fails meanwhile changes nothing.
            health.fails(Slot(8));
            pauses.push(pause(&mut health));
            health.tries(BAD);
            health.fails(BAD);
            health.retire(BAD);
        }
        assert_eq!(pauses, [10, 20, 40, 80, 160, 320, 600, 600]);
        pause(&mut health);
        health.tries(BAD);
        assert!(health.has_failed());
        assert_eq!(health.works(BAD), []);
        assert!(!health.has_failed());
        // A failure soon after is the same trouble.
        health.fails(BAD);
        assert_eq!(pause(&mut health), 600);
        health.tries(BAD);
        health.works(BAD);
        health.is_reported = true;
        assert!((0..600).all(|_| !health.tick()) && health.tick() && !health.tick());
        health.fails(BAD);
        assert_eq!(pause(&mut health), 10);
    }

    #[test]
    fn retired_slots_take_turns_until_one_works() {
        let mut health = AreaHealth::default();
        for slot in [1, 2, 3].map(Slot) {
            health.fails(slot);
            health.retire(slot);
        }
        pause(&mut health);
        assert_eq!(health.longest_retired(), Some(Slot(1)));
        health.tries(Slot(1));
        health.fails(Slot(1));
        health.retire(Slot(1));
        pause(&mut health);
        assert_eq!(health.longest_retired(), Some(Slot(2)));
        health.tries(Slot(2));
        // Another works, but that one has not been tried: its page stayed in the guest.
        assert_eq!(health.works(Slot(9)), []);
        assert!(health.stays_retired(Slot(2)) && health.is_due());
        health.tries(Slot(3));
        assert_eq!(health.works(Slot(3)), [1, 2].map(Slot));
        assert!(!health.stays_retired(Slot(3)));
        assert_eq!(health.longest_retired(), None);
    }
}
