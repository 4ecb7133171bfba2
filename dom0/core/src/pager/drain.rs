// SPDX-License-Identifier: MIT OR Apache-2.0
//! Areas that are to go (row C5): in which order, how far each drain is, and where shared slots went.

use std::collections::HashMap;

use foldhash::fast::RandomState;

use super::rounds::Rounds;
use crate::store::{Slot, SlotRange};

/// Areas that are to go. The first is being drained.
#[derive(Debug, Default)]
pub(super) struct Drains {
    queue: Vec<Drain>,
}

/// The drain of one area: rounds over all pages with a location.
#[derive(Debug)]
pub(super) struct Drain {
    pub(super) area: SlotRange,
    pub(super) rounds: Rounds,
    /// A page found no slot elsewhere. The drain ends once what is being moved has been.
    pub(super) no_room: bool,
    /// Of slots that had more owners when they were moved, where to. The drain owns those slots as well,
    /// so that they stay what they are.
    followed: HashMap<Slot, Slot, RandomState>,
}

impl Drains {
    /// An area is to go. Returns whether that is news.
    pub(super) fn add(&mut self, area: SlotRange) -> bool {
        let is_news = self.queue.iter().all(|drain| drain.area != area);
        if is_news {
            self.queue.push(Drain {
                area,
                rounds: Rounds::default(),
                no_room: false,
                followed: HashMap::default(),
            });
        }
        is_news
    }

    /// What failed is tried again.
    pub(super) fn tick(&mut self) {
        for drain in &mut self.queue {
            drain.rounds.waits = false;
        }
    }

    pub(super) fn current(&self) -> Option<&Drain> {
        self.queue.first()
    }

    pub(super) fn current_mut(&mut self) -> Option<&mut Drain> {
        self.queue.first_mut()
    }

    /// A page could not be moved.
    pub(super) fn fails(&mut self) {
        if let Some(drain) = self.current_mut() {
            drain.rounds.fails();
        }
    }

    /// A slot of the area was given up.
    pub(super) fn makes_progress(&mut self) {
        if let Some(drain) = self.current_mut() {
            drain.rounds.makes_progress();
        }
    }

    /// The current drain has ended. Returns its area, and the slots that it owned.
    pub(super) fn end(&mut self) -> Option<(SlotRange, Vec<Slot>)> {
        if self.queue.is_empty() {
            return None;
        }
        let Drain { area, followed, .. } = self.queue.remove(0);
        Some((area, followed.into_values().collect()))
    }

    /// Nothing is moved any more. Returns the slots that drains owned.
    pub(super) fn stop(&mut self) -> Vec<Slot> {
        let followed = self
            .queue
            .iter_mut()
            .flat_map(|drain| drain.followed.drain());
        followed.map(|(_, to)| to).collect()
    }
}

impl Drain {
    /// Where a slot's contents have been moved to with another of its owners.
    pub(super) fn moved_to(&self, from: Slot) -> Option<Slot> {
        self.followed.get(&from).copied()
    }

    /// The other owners of this slot are to follow.
    pub(super) fn follow(&mut self, from: Slot, to: Slot) {
        self.followed.insert(from, to);
    }

    /// A round is over. After one that led nowhere the next one waits for a tick. Returns whether the
    /// drain is to be given up, after `attempts` rounds in a row that failed without progress.
    pub(super) fn next_round(&mut self, nothing_found: bool, attempts: u32) -> bool {
        let round = self.rounds.next_round();
        self.rounds.waits = !round.progress && (round.failed || nothing_found);
        self.rounds.stalled_rounds = if round.progress {
            0
        } else {
            self.rounds.stalled_rounds + u32::from(round.failed)
        };
        self.rounds.stalled_rounds >= attempts
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn area(first: u32) -> SlotRange {
        SlotRange {
            first: Slot(first),
            slots: 64,
            priority: 0,
        }
    }

    #[test]
    fn areas_go_one_after_the_other_and_each_once() {
        let mut drains = Drains::default();
        assert!(drains.add(area(0)) && drains.add(area(64)) && !drains.add(area(0)));
        let current = |drains: &Drains| drains.current().map(|drain| drain.area);
        assert_eq!(current(&drains), Some(area(0)));
        assert_eq!(drains.end(), Some((area(0), vec![])));
        assert_eq!(current(&drains), Some(area(64)));
        assert!(drains.end().is_some() && drains.end().is_none());
    }

    #[test]
    fn a_drain_owns_the_slots_that_others_follow_to_until_it_ends() {
        let mut drains = Drains::default();
        drains.add(area(0));
        let drain = drains.current_mut().unwrap();
        drain.follow(Slot(1), Slot(101));
        assert_eq!(drain.moved_to(Slot(1)), Some(Slot(101)));
        assert_eq!(drain.moved_to(Slot(2)), None);
        assert_eq!(drains.stop(), [Slot(101)]);
        assert_eq!(drains.end(), Some((area(0), vec![])), "given up already");
    }

    #[test]
    fn a_drain_is_given_up_after_some_stalled_rounds() {
        let mut drains = Drains::default();
        drains.add(area(0));
        let drain = drains.current_mut().unwrap();
        drain.rounds.fails();
        assert!(!drain.next_round(false, 2));
        assert!(drain.rounds.waits);
        // Progress makes up for it.
        drain.rounds.fails();
        drain.rounds.makes_progress();
        assert!(!drain.next_round(false, 2));
        assert!(!drain.rounds.waits);
        // A round that found nothing waits, and is not stalled.
        assert!(!drain.next_round(true, 1));
        assert!(drain.rounds.waits);
        drain.rounds.fails();
        assert!(!drain.next_round(false, 2));
        drain.rounds.fails();
        assert!(drain.next_round(false, 2));
    }
}
