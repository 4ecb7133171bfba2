// SPDX-License-Identifier: MIT OR Apache-2.0
//! How long a task has slept and run, and the effect on its priority (row D6).

use super::priority::{MOST_BONUS, MOST_SLEEP, Policy};
use super::{CpuId, State};

/// The value of the sleep that ends, which still counts while the task waits for its CPU.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Sleep {
    Normal,
    NonInteractive,
    Interactive,
    Interrupted,
}

/// The scheduler's record of a task.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Task {
    pub(super) policy: Policy,
    /// With the effect of sleep.
    pub(super) priority: u8,
    pub(super) state: State,
    pub(super) has_signal: bool,
    pub(super) cpu: CpuId,
    /// Which of the CPU's two arrays it is on.
    pub(super) array: Option<usize>,
    /// The rest of its slice, in ticks.
    pub(super) slice: u32,
    pub(super) sleep_ns: u64,
    pub(super) sleep: Sleep,
    /// When it was woken, began to run or stopped, in nanoseconds.
    pub(super) since_ns: u64,
    /// Its CPU's ticks for normal tasks when it last ran or was queued.
    pub(super) waits_since: u64,
}

impl Task {
    pub(super) fn bonus(&self, tick_ns: u64) -> u32 {
        let whole = u64::from(MOST_SLEEP) * tick_ns;
        u32::try_from(self.sleep_ns * u64::from(MOST_BONUS) / whole).unwrap_or(MOST_BONUS)
    }

    /// It was asleep, or queued, until now: that raises the priority of a normal task.
    pub(super) fn gain(&mut self, until_ns: u64, tick_ns: u64) {
        if self.policy.is_real_time() {
            return;
        }
        let slept = until_ns.saturating_sub(self.since_ns);
        let enough = u64::from(self.policy.worth_of_one_sleep()) * tick_ns;
        if slept > enough && self.sleep_ns < enough {
            self.sleep_ns = enough;
            self.sleep = Sleep::NonInteractive;
        } else if self.sleep == Sleep::NonInteractive {
            // A task that waits for a disk is not interactive because of that.
            self.sleep_ns = self.sleep_ns.max((self.sleep_ns + slept).min(enough));
        } else {
            self.sleep_ns += slept;
        }
        self.sleep_ns = self.sleep_ns.min(u64::from(MOST_SLEEP) * tick_ns);
        self.priority = self.policy.priority(self.bonus(tick_ns));
    }

    /// It was queued since it was woken: all of the time counts after an interrupt, three tenths
    /// otherwise.
    pub(super) fn gain_in_line(&mut self, now_ns: u64, tick_ns: u64) {
        let waited = now_ns.saturating_sub(self.since_ns);
        let counts = if self.sleep == Sleep::Interactive {
            waited * 3 / 10
        } else {
            waited
        };
        self.gain(self.since_ns + counts, tick_ns);
    }

    /// It ran until now, which costs it the less the more it has slept.
    pub(super) fn pay(&mut self, now_ns: u64, tick_ns: u64) {
        let most = u64::from(MOST_SLEEP) * tick_ns;
        let ran = now_ns.saturating_sub(self.since_ns).min(most);
        let costs = ran / u64::from(self.bonus(tick_ns).max(1));
        self.sleep_ns = self.sleep_ns.saturating_sub(costs);
    }
}
