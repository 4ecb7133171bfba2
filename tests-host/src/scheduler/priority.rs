// SPDX-License-Identifier: MIT OR Apache-2.0
//! Priorities, time slices, and the effect of sleep on them.
//!
//! Durations are in ticks of the [`Scheduler`](super::Scheduler)'s clock; the figures are Linux
//! 2.6's at 1,000 ticks a second.

/// The number of real-time priorities. All other priorities are numerically higher.
pub(super) const REAL_TIME: u8 = 100;
/// All priorities: 0 is the most urgent.
pub(super) const PRIORITIES: usize = 140;
const LAST: u8 = 139;
/// The priority of nice 0.
const NICE_0: u8 = 120;

/// A slice at nice 0.
const SLICE: u32 = 100;
/// The shortest slice.
pub(super) const SHORTEST_SLICE: u32 = 5;
/// The longest slice: nice -20.
pub(super) const LONGEST_SLICE: u32 = 800;
/// A task that slept for this long gets the whole bonus.
pub(super) const MOST_SLEEP: u32 = 1000;
/// If expired tasks wait for this long, for each task that can run, every task expires.
pub(super) const STARVATION: u32 = MOST_SLEEP;
/// Half of this is the most by which sleep raises or lowers a priority.
pub(super) const MOST_BONUS: u32 = 10;
/// By how much a task of nice 0 must exceed its own priority in order to count as interactive.
const INTERACTIVE: i32 = 2;

/// A real-time priority: 1, the lowest, to 99.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct RealTime(u8);

/// How much a task gives way to the others: -20, not at all, to 19.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Nice(i8);

/// The rules by which a task gets a CPU.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Policy {
    /// Until it blocks, yields, or one of a higher priority can run.
    Fifo(RealTime),
    /// As FIFO, but in turn with others of its priority, a slice each.
    RoundRobin(RealTime),
    /// After all real-time tasks, a slice in each round; earlier, the more it has slept.
    Normal(Nice),
}

impl RealTime {
    /// From 1 to 99.
    pub const fn try_new(priority: u8) -> Option<Self> {
        if matches!(priority, 1..REAL_TIME) {
            Some(Self(priority))
        } else {
            None
        }
    }
}

impl Nice {
    /// From -20 to 19.
    pub const fn try_new(nice: i8) -> Option<Self> {
        if matches!(nice, -20..=19) {
            Some(Self(nice))
        } else {
            None
        }
    }
}

impl Policy {
    /// Nice 0.
    pub const NORMAL: Self = Self::Normal(Nice(0));

    /// Whether it goes before all normal tasks.
    pub const fn is_real_time(self) -> bool {
        !matches!(self, Self::Normal(_))
    }

    /// The priority without the effect of sleep.
    pub(super) const fn own_priority(self) -> u8 {
        match self {
            Self::Fifo(RealTime(priority)) | Self::RoundRobin(RealTime(priority)) => {
                REAL_TIME - 1 - priority
            }
            Self::Normal(Nice(nice)) => NICE_0.saturating_add_signed(nice),
        }
    }

    /// The priority of a task whose sleep gives this bonus.
    pub(super) fn priority(self, bonus: u32) -> u8 {
        let own = self.own_priority();
        if self.is_real_time() {
            return own;
        }
        let raised = u32::from(own) + MOST_BONUS / 2 - bonus.min(MOST_BONUS);
        u8::try_from(raised).map_or(LAST, |raised| raised.clamp(REAL_TIME, LAST))
    }

    /// How long it runs before the others of its round have had their turn.
    pub(super) fn slice(self) -> u32 {
        if self.is_real_time() {
            return SLICE;
        }
        let own = self.own_priority();
        let base = if own < NICE_0 { 4 * SLICE } else { SLICE };
        let share = u32::from(LAST + 1 - own);
        (base * share / 20).max(SHORTEST_SLICE)
    }

    /// By how much it must exceed its own priority in order to count as interactive.
    fn delta(self) -> i32 {
        let nice = i32::from(self.own_priority()) - i32::from(NICE_0);
        (nice + 20) * 10 / 40 - 5 + INTERACTIVE
    }

    /// Whether a normal task at this priority runs again in this round although its slice is used
    /// up.
    pub(super) fn is_interactive(self, priority: u8) -> bool {
        i32::from(priority) <= i32::from(self.own_priority()) - self.delta()
    }

    /// A single sleep, however long, gives no more than this: slightly less than a task needs to be
    /// interactive for long.
    pub(super) fn worth_of_one_sleep(self) -> u32 {
        let parts = 5 + self.delta() + 1;
        MOST_SLEEP * parts.unsigned_abs() / MOST_BONUS - 1
    }
}

/// An interactive task gives way to others of its priority once in this many ticks.
pub(super) fn granularity(bonus: u32, cpus: usize) -> u32 {
    let cpus = u32::try_from(cpus).unwrap_or(u32::MAX);
    let shift = MOST_BONUS.saturating_sub(bonus).max(1) - 1;
    (SHORTEST_SLICE << shift).saturating_mul(cpus)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn nice(nice: i8) -> Policy {
        Policy::Normal(Nice::try_new(nice).unwrap())
    }

    #[test]
    fn d4_real_time_lies_before_normal() {
        let lowest = Policy::Fifo(RealTime::try_new(1).unwrap());
        let highest = Policy::RoundRobin(RealTime::try_new(99).unwrap());
        assert_eq!((highest.priority(0), lowest.priority(10)), (0, 98));
        assert!(lowest.priority(0) < nice(-20).priority(10));
        assert_eq!(RealTime::try_new(0), None);
        assert_eq!(RealTime::try_new(100), None);
        assert_eq!((Nice::try_new(-21), Nice::try_new(20)), (None, None));
    }

    #[test]
    fn d6_sleep_is_worth_five_priorities_either_way() {
        assert_eq!(
            (
                nice(0).priority(0),
                nice(0).priority(5),
                nice(0).priority(10)
            ),
            (125, 120, 115)
        );
        assert_eq!((nice(-20).priority(10), nice(19).priority(0)), (100, 139));
    }

    /// The figures of Linux 2.6.
    #[test]
    fn d6_slices_are_those_of_linux() {
        let slices = [-20, -10, -1, 0, 10, 19].map(|n| nice(n).slice());
        assert_eq!(slices, [800, 600, 420, 100, 50, 5]);
        assert_eq!(
            Policy::RoundRobin(RealTime::try_new(1).unwrap()).slice(),
            SLICE
        );
        assert_eq!(nice(-20).slice(), LONGEST_SLICE);
    }

    #[test]
    fn d6_the_nicer_the_harder_it_is_to_be_interactive() {
        let least_bonus =
            |n: i8| (0..=10).find(|bonus| nice(n).is_interactive(nice(n).priority(*bonus)));
        assert_eq!(
            [-20, -10, 0, 10, 19].map(least_bonus),
            [Some(2), Some(4), Some(7), Some(9), None]
        );
        assert_eq!(nice(0).worth_of_one_sleep(), 799);
        assert_eq!(
            (granularity(10, 1), granularity(0, 1), granularity(0, 2)),
            (5, 2560, 5120)
        );
    }
}
