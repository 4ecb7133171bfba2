// SPDX-License-Identifier: MIT OR Apache-2.0
//! What is remembered of a page: how often it has been used, roughly, and how long ago, roughly.
//!
//! Pages that have not been used for longer than any of them usually takes are *old*. How often they were used before is
//! forgotten, and they are new when they are used again. The states which that saves tell the old pages that are in
//! apart by how long ago they were used, more finely than ages do: they go in the order in which LRU would take them.

use std::ops::RangeInclusive;

use super::super::states::State;

/// How long ago pages were used last, in about doubling steps; see [`AGE_TICKS`].
pub(super) const AGES: usize = 9;

/// The last age, beyond what the classes tell apart.
pub(super) const OLD: usize = AGES - 1;

/// In since the last scan: the access that brought it in is still to be seen by the next one.
pub(super) const FRESH: usize = 0;

/// Used, but for those in since the last scan, since the last tick.
pub(super) const YOUNG: usize = 1;

/// By age: for how many ticks a page stays that old, on average. The last age has no end.
pub(super) const AGE_TICKS: [f64; AGES] = [1.0, 1.0, 1.5, 3.0, 6.0, 12.0, 24.0, 48.0, 128.0];

/// How often pages are used: the usual time between two uses, each class 1.4 times the one before,
/// from about four ticks on; and at the end pages used once.
pub(super) const CLASSES: usize = 13;

/// Used once so far.
pub(super) const NEW: usize = CLASSES - 1;

/// Used at longer intervals than any other.
pub(super) const SLOWEST: usize = NEW - 1;

/// Combinations of class and age, but for the last age.
const RECENT: usize = CLASSES * OLD;

/// All that is told apart of what is learned.
pub(super) const HISTORIES: usize = RECENT + 1;

/// Old pages that are in, by how long they have been: so that the oldest of them go first.
const LEVELS: usize = 40;

/// Levels until they take twice as long.
const LEVELS_AN_OCTAVE: usize = 4;

/// The first state of pages that are away.
const AWAY: usize = 1 + RECENT + LEVELS;

/// States of pages.
pub(super) const STATES: usize = AWAY + HISTORIES + 3;

/// Nobody has seen it used; in.
pub(super) const UNKNOWN_IN: State = state_number(AWAY + HISTORIES);
/// The same; out, or on its way.
pub(super) const UNKNOWN_OUT: State = state_number(AWAY + HISTORIES + 1);
/// The hypervisor would not let it go.
pub(super) const REFUSED: State = state_number(AWAY + HISTORIES + 2);

/// What is remembered of a page that has been seen used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum History {
    /// It was used not long ago.
    Recent {
        /// Below [`CLASSES`].
        class: usize,
        /// Below [`OLD`].
        age: usize,
    },
    /// It was not.
    Old,
}

impl History {
    /// Of this class and age.
    pub(super) fn new(class: usize, age: usize) -> Self {
        if age < OLD {
            Self::Recent { class, age }
        } else {
            Self::Old
        }
    }

    /// All of them, by [`index`](Self::index).
    pub(super) fn all() -> impl Iterator<Item = Self> {
        (0..HISTORIES).map(Self::of_index)
    }

    fn of_index(index: usize) -> Self {
        if index < RECENT {
            Self::new(index / OLD, index % OLD)
        } else {
            Self::Old
        }
    }

    /// Below [`HISTORIES`].
    pub(super) fn index(self) -> usize {
        match self {
            Self::Recent { class, age } => class * OLD + age,
            Self::Old => RECENT,
        }
    }

    pub(super) fn age(self) -> usize {
        match self {
            Self::Recent { age, .. } => age,
            Self::Old => OLD,
        }
    }

    /// The states of such pages while they are in, those used last first.
    pub(super) fn residents(self) -> RangeInclusive<State> {
        let first = 1 + self.index();
        let others = if self == Self::Old { LEVELS - 1 } else { 0 };
        state_number(first)..=state_number(first + others)
    }

    /// The state of such a page while it is in: if there are several, that of the oldest.
    pub(super) fn resident(self) -> State {
        *self.residents().end()
    }

    /// The state of such a page while it is out, or on its way.
    pub(super) fn away(self) -> State {
        state_number(AWAY + self.index())
    }

    /// Of a page that is in.
    pub(super) fn of_resident(state: State) -> Option<Self> {
        let place = usize::from(state).checked_sub(1)?;
        (place < RECENT + LEVELS).then(|| Self::of_index(place))
    }

    /// Of a page that is out, or on its way.
    pub(super) fn of_away(state: State) -> Option<Self> {
        let index = usize::from(state).checked_sub(AWAY)?;
        (index < HISTORIES).then(|| Self::of_index(index))
    }

    /// A tick later; `tick` counts them.
    ///
    /// An age of about n ticks ends at every nth tick, so nobody need remember when it began.
    fn older(self, tick: u64) -> Self {
        match self {
            Self::Recent { class, age } => {
                let ends = tick.is_multiple_of(1 << age.saturating_sub(1));
                Self::new(class, age + usize::from(ends))
            }
            Self::Old => Self::Old,
        }
    }

    /// The class of a page with this history that is used again now. Moves by a step at a time, and
    /// not at every use (`chance`, from 0 to 1, decides): the class is a running average. A page used for the
    /// second time begins with the slowest: once is no habit. An old one begins anew.
    pub(super) fn next_class(self, chance: f64) -> usize {
        let Self::Recent { class, age } = self else {
            return NEW;
        };
        // The class whose interval ends at this age.
        let seen = (2 * age).saturating_sub(5).min(SLOWEST);
        match class {
            NEW => SLOWEST,
            class if chance >= STEP_CHANCE => class,
            class if seen > class => class + 1,
            class if seen < class => class - 1,
            class => class,
        }
    }
}

/// The state of a page a tick later, if it is not used; `tick` counts them.
pub(super) fn older(state: State, tick: u64) -> State {
    if let Some(history) = History::of_away(state) {
        return history.older(tick).away();
    }
    match History::of_resident(state) {
        None => state,
        Some(History::Old) => {
            let level = usize::from(state) - 1 - RECENT;
            let ends = level + 1 < LEVELS && tick.is_multiple_of(level_ticks(level));
            state + State::from(ends)
        }
        // It becomes old, if it does, at the first level.
        Some(recent) => *recent.older(tick).residents().start(),
    }
}

/// For how many ticks a page stays at a level, of old pages.
fn level_ticks(level: usize) -> u64 {
    1 << (OLD - 2 + level / LEVELS_AN_OCTAVE)
}

/// How often a use that tells against a page's class moves it.
const STEP_CHANCE: f64 = 0.3;

#[expect(
    clippy::cast_possible_truncation,
    reason = "STATES fit a byte, as asserted"
)]
const fn state_number(number: usize) -> State {
    const { assert!(STATES <= 256) };
    number as State
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::states::NONE;

    #[test]
    fn every_state_is_one_thing() {
        let mut seen = vec![NONE, UNKNOWN_IN, UNKNOWN_OUT, REFUSED];
        for history in History::all() {
            seen.extend(history.residents().chain([history.away()]));
            for state in history.residents() {
                assert_eq!(History::of_resident(state), Some(history));
                assert_eq!(History::of_away(state), None);
            }
            assert_eq!(History::of_away(history.away()), Some(history));
            assert_eq!(History::of_resident(history.away()), None);
        }
        seen.sort_unstable();
        assert_eq!(seen, (0..=REFUSED).collect::<Vec<_>>());
        for other in [NONE, UNKNOWN_IN, UNKNOWN_OUT, REFUSED] {
            assert_eq!(History::of_resident(other), None);
            assert_eq!(History::of_away(other), None);
            assert_eq!(older(other, 64), other);
        }
    }

    #[test]
    fn ages_double() {
        // From each tick that a page may have been used at: when it reaches the last age.
        for used in 1..=256 {
            let young = History::new(0, YOUNG);
            let (mut page, mut away) = (young.resident(), young.away());
            let mut reached = [0; AGES];
            for tick in used + 1.. {
                let before = History::of_resident(page).unwrap();
                (page, away) = (older(page, tick), older(away, tick));
                let now = History::of_resident(page).unwrap();
                assert_eq!(History::of_away(away), Some(now));
                if now != before {
                    reached[now.age()] = tick - used;
                }
                if now == History::Old {
                    assert_eq!(page, *now.residents().start());
                    break;
                }
            }
            for (age, ticks) in reached.into_iter().enumerate().skip(YOUNG + 1) {
                let longest = 1 << (age - 1);
                assert!((longest / 2..=longest).contains(&ticks), "{age}: {ticks}");
            }
        }
    }

    #[test]
    fn old_pages_are_told_apart_by_when_they_were_used() {
        let last = 5_000;
        // By when they were used, one at each tick.
        let mut pages: Vec<State> = Vec::new();
        for tick in 1..=last {
            pages.iter_mut().for_each(|page| *page = older(*page, tick));
            pages.push(History::new(3, YOUNG).resident());
        }
        assert!(pages.is_sorted_by(|a, b| a >= b));
        for ago in 256..pages.len() * 2 / 3 {
            let [one, other] = [ago, ago * 3 / 2].map(|ago| pages[pages.len() - ago]);
            assert!(one < other, "{ago}");
            assert_eq!(History::of_resident(one), Some(History::Old));
        }
    }

    #[test]
    fn the_class_follows_the_interval() {
        for (age, class) in [(YOUNG, 0), (3, 1), (5, 5), (7, 9)] {
            assert_eq!(History::new(NEW, age).next_class(1.0), SLOWEST);
            assert_eq!(History::new(4, age).next_class(STEP_CHANCE), 4);
            let mut found = 4;
            for _ in 0..CLASSES {
                found = History::new(found, age).next_class(0.0);
            }
            assert_eq!(found, class);
        }
        assert_eq!(History::Old.next_class(0.0), NEW);
    }
}
