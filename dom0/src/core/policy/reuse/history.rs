//! What is remembered of a page: how often it has been used, roughly, and how long ago, roughly.

use super::super::states::{NONE, State};

/// How long ago pages were used last, in about doubling steps; see [`AGE_TICKS`].
pub(super) const AGES: usize = 9;

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

/// Combinations of class and age.
pub(super) const HISTORIES: usize = CLASSES * AGES;

/// States of pages.
pub(super) const STATES: usize = 2 * HISTORIES + 4;

/// Nobody has seen it used; in.
pub(super) const UNKNOWN_IN: State = state_number(2 * HISTORIES + 1);
/// The same; out, or on its way.
pub(super) const UNKNOWN_OUT: State = state_number(2 * HISTORIES + 2);
/// The hypervisor would not let it go.
pub(super) const REFUSED: State = state_number(2 * HISTORIES + 3);

/// Class and age of a page that has been seen used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct History {
    pub(super) class: usize,
    pub(super) age: usize,
}

impl History {
    /// All of them, by [`index`](Self::index).
    pub(super) fn all() -> impl Iterator<Item = Self> {
        (0..HISTORIES).map(|index| Self {
            class: index / AGES,
            age: index % AGES,
        })
    }

    /// Below [`HISTORIES`].
    pub(super) fn index(self) -> usize {
        self.class * AGES + self.age
    }

    /// The state of such a page while it is in.
    pub(super) fn resident(self) -> State {
        state_number(1 + self.index())
    }

    /// The state of such a page while it is out, or on its way.
    pub(super) fn away(self) -> State {
        state_number(1 + HISTORIES + self.index())
    }

    /// Of a page that is in.
    pub(super) fn of_resident(state: State) -> Option<Self> {
        (state != NONE)
            .then(|| Self::all().nth(usize::from(state) - 1))
            .flatten()
            .filter(|history| history.resident() == state)
    }

    /// Of a page that is out, or on its way.
    pub(super) fn of_away(state: State) -> Option<Self> {
        let index = usize::from(state).checked_sub(1 + HISTORIES)?;
        (index < HISTORIES).then_some(Self {
            class: index / AGES,
            age: index % AGES,
        })
    }

    /// A tick later; `tick` counts them.
    ///
    /// An age of about n ticks ends at every nth tick, so nobody need remember when it began.
    pub(super) fn older(self, tick: u64) -> Self {
        let period = 1_u64 << self.age.saturating_sub(1);
        let ends = self.age + 1 < AGES && tick.is_multiple_of(period);
        Self {
            age: self.age + usize::from(ends),
            ..self
        }
    }

    /// The class of a page with this history that is used again now. Moves by a step at a time, and
    /// not at every use (`chance`, from 0 to 1, decides): the class is a running average. A page used for the
    /// second time begins with the slowest: once is no habit.
    pub(super) fn next_class(self, chance: f64) -> usize {
        // The class whose interval ends at this age.
        let seen = (2 * self.age).saturating_sub(5).min(SLOWEST);
        match self.class {
            NEW => SLOWEST,
            class if chance >= STEP_CHANCE => class,
            class if seen > class => class + 1,
            class if seen < class => class - 1,
            class => class,
        }
    }
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

    #[test]
    fn every_state_is_one_thing() {
        let mut seen = vec![NONE, UNKNOWN_IN, UNKNOWN_OUT, REFUSED];
        for history in History::all() {
            seen.extend([history.resident(), history.away()]);
            assert_eq!(History::of_resident(history.resident()), Some(history));
            assert_eq!(History::of_away(history.away()), Some(history));
            assert_eq!(History::of_away(history.resident()), None);
            assert_eq!(History::of_resident(history.away()), None);
        }
        seen.sort_unstable();
        assert_eq!(seen, (0..=REFUSED).collect::<Vec<_>>());
        for other in [NONE, UNKNOWN_IN, UNKNOWN_OUT, REFUSED] {
            assert_eq!(History::of_resident(other), None);
            assert_eq!(History::of_away(other), None);
        }
    }

    #[test]
    fn ages_double() {
        // From each tick that a page may have been used at: when it reaches the last age.
        for used in 1..=256 {
            let mut page = History {
                class: 0,
                age: YOUNG,
            };
            let mut reached = [0; AGES];
            for tick in used + 1.. {
                let older = page.older(tick);
                if older.age != page.age {
                    reached[older.age] = tick - used;
                }
                page = older;
                if page.age == AGES - 1 {
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
    fn the_class_follows_the_interval() {
        for (age, class) in [(YOUNG, 0), (3, 1), (5, 5), (8, 11)] {
            let mut page = History { class: NEW, age };
            assert_eq!(page.next_class(1.0), SLOWEST);
            page.class = 4;
            assert_eq!(page.next_class(STEP_CHANCE), 4);
            for _ in 0..CLASSES {
                page.class = page.next_class(0.0);
            }
            assert_eq!(page.class, class);
        }
    }
}
