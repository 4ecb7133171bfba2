// SPDX-License-Identifier: MIT OR Apache-2.0
//! The batches of each lane: which are parked, which are in flight, and how many pages those have.
//!
//! Every batch is made at the start and used again, so a fault allocates nothing.

use super::batch::{Lane, LaneBatch, LaneStep, MoveStep, PageError, PageInStep, PageOutStep};
use super::config::Config;
use super::event::{Action, Actions};

/// Page-out batches in flight: while the shell works on one, the core takes the next step of the other.
const OUT_BATCHES: usize = 2;

/// All batches. Indices count through them: demand, then one of prefetch, one that moves, those out.
#[derive(Debug)]
pub(super) struct Lanes {
    pub(super) page_in: Pool<PageInStep>,
    pub(super) moves: Pool<MoveStep>,
    pub(super) page_out: Pool<PageOutStep>,
}

/// The batches of lanes that have the same steps.
#[derive(Debug)]
pub(super) struct Pool<S> {
    /// The index of the first.
    first: usize,
    places: Vec<Place<S>>,
}

/// Where a batch is.
#[derive(Debug)]
enum Place<S> {
    Parked(LaneBatch<S>),
    /// The core works on it.
    Taken,
    /// The shell has it.
    InFlight {
        step: S,
        pages: u64,
    },
}

impl Lanes {
    pub(super) fn new(config: &Config) -> Self {
        let (out, ahead, requests) = (config.out_batch, config.prefetch_batch, config.requests);
        let mut page_in = Pool::new(0);
        (0..requests).for_each(|_| page_in.add(Lane::Demand, requests));
        page_in.add(Lane::Prefetch, ahead);
        let mut moves = Pool::new(requests + 1);
        moves.add(Lane::Move, ahead);
        let mut page_out = Pool::new(requests + 2);
        (0..OUT_BATCHES).for_each(|_| page_out.add(Lane::Out, OUT_BATCHES * out));
        Self {
            page_in,
            moves,
            page_out,
        }
    }

    /// How many batches there are.
    pub(super) fn len(&self) -> usize {
        self.page_out.first + self.page_out.places.len()
    }

    /// How many pages can be in flight, all batches together.
    pub(super) fn pages(config: &Config) -> usize {
        OUT_BATCHES * config.out_batch + 2 * config.prefetch_batch + config.requests
    }

    /// How many pages can wait to be restored.
    pub(super) fn pages_to_restore(config: &Config) -> usize {
        OUT_BATCHES * config.out_batch
    }

    /// Whether the shell has no batch.
    pub(super) fn are_idle(&self) -> bool {
        self.page_in.is_idle() && self.moves.is_idle() && self.page_out.is_idle()
    }

    /// Pages in page-out batches that are to be evicted, as far as is known.
    pub(super) fn evicting_pages(&self) -> u64 {
        self.page_out.pages_in_flight(PageOutStep::evicts)
    }

    /// Pages in page-out batches that may be nominated. Leftovers are not counted here, nor are pages
    /// that count as out.
    pub(super) fn paging_out_pages(&self) -> u64 {
        self.page_out.pages_in_flight(PageOutStep::pages_out)
    }

    /// Of the pages that are to be evicted, the ones that the store has.
    pub(super) fn saved_pages(&self) -> u64 {
        self.page_out
            .pages_in_flight(|step| step == PageOutStep::Evict)
    }
}

impl<S: LaneStep> Pool<S> {
    fn new(first: usize) -> Self {
        Self {
            first,
            places: Vec::new(),
        }
    }

    fn add(&mut self, lane: Lane, capacity: usize) {
        let index = self.first + self.places.len();
        let batch = LaneBatch::new(index, lane, capacity);
        self.places.push(Place::Parked(batch));
    }

    /// A batch of this lane that is not in flight.
    pub(super) fn take(&mut self, lane: Lane) -> Option<LaneBatch<S>> {
        let of_lane =
            |place: &&mut Place<S>| matches!(place, Place::Parked(batch) if batch.lane == lane);
        let place = self.places.iter_mut().find(of_lane)?;
        match std::mem::replace(place, Place::Taken) {
            Place::Parked(batch) => Some(batch),
            Place::Taken | Place::InFlight { .. } => None,
        }
    }

    /// The shell has handed the batch back: its pages are not in flight any more.
    pub(super) fn returned(&mut self, batch: &LaneBatch<S>) {
        self.set(batch.index, Place::Taken);
    }

    /// The batch is done.
    pub(super) fn park(&mut self, batch: LaneBatch<S>) {
        self.set(batch.index, Place::Parked(batch));
    }

    /// Hands the batch to the shell, to do this step.
    pub(super) fn run(&mut self, mut batch: LaneBatch<S>, step: S, actions: &mut Actions) {
        batch.step = step;
        for page in &mut batch.pages {
            page.outcome = Err(PageError::NotDone);
        }
        let pages = (batch.pages.len() + batch.aside.len()) as u64;
        self.set(batch.index, Place::InFlight { step, pages });
        actions.push(Action::Run(S::into_batch(batch)));
    }

    /// Pages of the batches that are in flight in these steps.
    fn pages_in_flight(&self, is_counted: impl Fn(S) -> bool) -> u64 {
        let pages = self.places.iter().map(|place| match place {
            Place::InFlight { step, pages } if is_counted(*step) => *pages,
            Place::InFlight { .. } | Place::Parked(_) | Place::Taken => 0,
        });
        pages.sum()
    }

    fn is_idle(&self) -> bool {
        let mut places = self.places.iter();
        places.all(|place| matches!(place, Place::Parked(_)))
    }

    fn set(&mut self, index: usize, to: Place<S>) {
        let nth = index.checked_sub(self.first);
        if let Some(place) = nth.and_then(|nth| self.places.get_mut(nth)) {
            *place = to;
        }
    }
}

#[cfg(test)]
mod tests {
    use p2m_paging::Gfn;

    use super::*;
    use crate::batch::AnyLane;
    use crate::locations::Location;

    fn lanes() -> Lanes {
        Lanes::new(&Config::new(1000))
    }

    /// The shell hands back the only batch that it has.
    fn hand_back(lanes: &mut Lanes, actions: &mut Actions) -> LaneBatch<PageOutStep> {
        let mut runs = actions.drain().filter_map(|action| match action {
            Action::Run(batch) => Some(batch),
            _ => None,
        });
        let Some(AnyLane::PageOut(batch)) = runs.next().map(|batch| batch.0) else {
            panic!("no page-out batch");
        };
        assert!(runs.next().is_none());
        lanes.page_out.returned(&batch);
        batch
    }

    #[test]
    fn pages_are_counted_while_their_batch_is_in_flight() {
        let (mut lanes, mut actions) = (lanes(), Actions::with_capacity(4));
        let mut batch = lanes.page_out.take(Lane::Out).unwrap();
        for gfn in 0..3 {
            batch.add(Gfn::new_truncate(gfn), Location::Zeros);
        }
        let counted = |lanes: &Lanes| {
            let paging_out = lanes.paging_out_pages();
            (lanes.evicting_pages(), lanes.saved_pages(), paging_out)
        };
        assert_eq!(counted(&lanes), (0, 0, 0));
        for (step, expected) in [
            (PageOutStep::Nominate, (3, 0, 3)),
            (PageOutStep::Save, (3, 0, 3)),
            (PageOutStep::Evict, (3, 3, 3)),
            (PageOutStep::Restore, (0, 0, 3)),
            (PageOutStep::RestoreLeftovers, (0, 0, 0)),
            (PageOutStep::Probe, (0, 0, 0)),
        ] {
            lanes.page_out.run(batch, step, &mut actions);
            assert_eq!(counted(&lanes), expected, "{step:?}");
            assert!(!lanes.are_idle());
            batch = hand_back(&mut lanes, &mut actions);
            assert_eq!(counted(&lanes), (0, 0, 0), "handed back after {step:?}");
        }
        lanes.page_out.park(batch);
        assert!(lanes.are_idle());
    }

    /// Pages that are set aside while others are compared are to be evicted too.
    #[test]
    fn pages_set_aside_are_counted() {
        let (mut lanes, mut actions) = (lanes(), Actions::with_capacity(4));
        let mut batch = lanes.page_out.take(Lane::Out).unwrap();
        batch.add(Gfn::new_truncate(1), Location::Zeros);
        batch.aside = batch.pages.clone();
        lanes.page_out.run(batch, PageOutStep::Save, &mut actions);
        assert_eq!(lanes.evicting_pages(), 2);
    }

    #[test]
    fn each_batch_is_taken_once_and_has_an_index_of_its_own() {
        let config = Config::new(1000);
        let mut lanes = Lanes::new(&config);
        let mut indices = Vec::new();
        for lane in [Lane::Demand, Lane::Prefetch] {
            while let Some(batch) = lanes.page_in.take(lane) {
                assert_eq!(batch.lane, lane);
                indices.push(batch.index);
            }
        }
        indices.extend(lanes.moves.take(Lane::Move).map(|batch| batch.index));
        while let Some(batch) = lanes.page_out.take(Lane::Out) {
            indices.push(batch.index);
        }
        assert_eq!(indices, (0..lanes.len()).collect::<Vec<_>>());
        assert_eq!(lanes.len(), config.requests + 2 + OUT_BATCHES);
    }
}
