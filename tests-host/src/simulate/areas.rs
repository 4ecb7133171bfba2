// SPDX-License-Identifier: MIT OR Apache-2.0
//! The store's swap areas: one is drained, and is added again, while pages lie in it.

use pager_core::{DrainError, Event};
use pager_store::{Slot, SlotRange};

use super::event_queue::SimEvent;
use super::pager::{News, Process};
use super::scenario::Knob;
use super::world::{TICK_NS, World};

/// Slots of each area: more than the worst disk spoils in a run.
const SLOTS: u32 = 1024;

/// The state of an area.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stands {
    In,
    Leaving,
    Gone,
}

/// Two areas side by side.
pub(super) fn areas() -> [SlotRange; 2] {
    [0, SLOTS].map(|first| SlotRange {
        first: Slot(first),
        slots: SLOTS,
        priority: 0,
    })
}

impl World<'_> {
    /// The areas as the last pager has left them: what was to be drained is to stay.
    pub(super) fn areas_after_death(&self) -> [Stands; 2] {
        self.areas_left.borrow().map(|area| match area {
            Stands::In | Stands::Leaving => Stands::In,
            Stands::Gone if self.has_index() => Stands::Gone,
            Stands::Gone => Stands::In,
        })
    }

    /// The areas that a pager begins with.
    pub(super) fn areas_there(&self) -> Vec<SlotRange> {
        let there = areas().into_iter().zip(self.areas_after_death());
        let there = there.filter(|(_, stands)| *stands == Stands::In);
        there.map(|(area, _)| area).collect()
    }

    pub(super) fn change_areas(&self) {
        if self.quiesced.get() {
            return;
        }
        self.tell_pager(News::Area(self.below(2)));
        let ticks = u64::from(self.scenario.get(Knob::Areas));
        self.soon(TICK_NS * ticks, SimEvent::Area);
    }
}

impl Process {
    /// Drains an area while the other one stays, or adds it again.
    pub(super) fn change_area(&mut self, world: &World<'_>, which: usize) {
        let area = areas()[which];
        match (self.areas[which], self.areas[1 - which]) {
            (Stands::Gone, _) => {
                self.areas[which] = Stands::In;
                self.handle(world, Event::AreaAdded(area));
            }
            (Stands::In, Stands::In) => {
                self.areas[which] = Stands::Leaving;
                self.handle(world, Event::Drain(area));
            }
            _ => {}
        }
    }
}

/// An area is empty, or stays. What a killed pager has left there belongs to nobody, unless another
/// one takes over.
pub(super) fn drained(
    world: &World<'_>,
    stands: &mut [Stands; 2],
    knows_all: bool,
    area: SlotRange,
    outcome: Result<(), DrainError>,
) {
    world.note("drained", [area.first.0.into(), outcome.is_ok().into()]);
    let which = usize::from(area == areas()[1]);
    assert_eq!(stands[which], Stands::Leaving);
    stands[which] = match outcome {
        Ok(()) => Stands::Gone,
        Err(_) => Stands::In,
    };
    if outcome.is_ok() && knows_all {
        let disk = world.disk.borrow();
        let held = (area.first.0..area.end()).find(|slot| disk.trusted(Slot(*slot)).is_some());
        assert_eq!(held, None, "a slot of a drained area holds a page");
    }
}
