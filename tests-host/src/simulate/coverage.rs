// SPDX-License-Identifier: MIT OR Apache-2.0
//! The cells of the state machine's table that a run has been through.

use p2m_paging::p2m::table::{Event, Outcome, State, transition};

/// How often each cell was hit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Coverage([[u64; Event::ALL.len()]; State::ALL.len()]);

impl Default for Coverage {
    fn default() -> Self {
        Self([[0; Event::ALL.len()]; State::ALL.len()])
    }
}

impl Coverage {
    pub(super) fn hit(&mut self, state: State, event: Event) {
        self.0[state as usize][event as usize] += 1;
    }

    /// Adds another run's counts.
    pub fn add(&mut self, other: &Self) {
        let cells = self.0.iter_mut().flatten();
        cells
            .zip(other.0.iter().flatten())
            .for_each(|(cell, by)| *cell += by);
    }

    /// How often a cell was hit.
    pub fn hits(&self, state: State, event: Event) -> u64 {
        self.0[state as usize][event as usize]
    }

    /// The cells with this kind of outcome that were never hit, and how many such cells there are.
    pub fn missed(&self, kind: impl Fn(Outcome) -> bool) -> (Vec<(State, Event)>, usize) {
        let all = State::ALL
            .into_iter()
            .flat_map(|state| Event::ALL.map(|event| (state, event)));
        let of_kind: Vec<_> = all
            .filter(|(state, event)| kind(transition(*state, *event, false)))
            .collect();
        let count = of_kind.len();
        let missed = of_kind
            .into_iter()
            .filter(|(state, event)| self.hits(*state, *event) == 0);
        (missed.collect(), count)
    }
}
