// SPDX-License-Identifier: MIT OR Apache-2.0
//! What happens after a stop while pages do not come back: the pager does not end. It says once what
//! it waits for, and once more when that is over. Only an operator who insists ends it.
//!
//! Two signals within a second insist. The first time, the pager says what will be lost. It ends
//! after the second time. Thus a terminal that closes, and sends two signals at once, ends nothing.

use std::time::{Duration, Instant};

use pager_core::{Progress, Ticks};

/// Ticks without a page that came back after which this is said: two seconds.
const SAID_TICKS: u64 = 20;
/// Two signals within this time insist.
const PAIR: Duration = Duration::from_secs(1);
/// The time in which an operator has to insist again.
const CONFIRM: Duration = Duration::from_secs(60);

/// The pages that keep a pager from ending.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Left {
    /// Pages that are out.
    pub(super) out: u64,
    /// Of these, pages that the store did not return.
    pub(super) unreadable: u64,
    /// Of the pages that are out, those that are being read for somebody who waits.
    pub(super) being_read: u64,
    /// Pages that are nominated because they could not be restored.
    pub(super) nominated: u64,
    /// Pages that were on their way out, and whose batch has not come back.
    pub(super) paging_out: u64,
}

impl Left {
    pub(super) fn of(progress: &Progress, being_read: u64) -> Self {
        Self {
            being_read,
            out: progress.out_pages,
            unreadable: progress.unreadable_pages,
            nominated: progress.nominated_pages,
            paging_out: progress.paging_out_pages,
        }
    }

    /// All of them.
    fn pages(self) -> u64 {
        self.out + self.stay_nominated()
    }

    /// Pages whose contents are in the guest, and that are nominated if the pager ends now.
    pub(super) fn stay_nominated(self) -> u64 {
        self.nominated + self.paging_out
    }

    /// What it means for the guest if the pager ends now.
    fn consequences(self) -> String {
        let mut consequences = Vec::new();
        if self.out > 0 {
            let out = self.out;
            consequences.push(format!("the guest cannot go on without {out} pages"));
        }
        if self.stay_nominated() > 0 {
            consequences.push(format!(
                "{} pages stay nominated (with Xen's own code, a vcpu that writes one of them waits \
                 for ever)",
                self.stay_nominated()
            ));
        }
        consequences.join(", and ")
    }

    /// What is waited for.
    fn reasons(self) -> String {
        let others = self.out.saturating_sub(self.unreadable + self.being_read);
        let reasons = [
            (self.unreadable, "cannot be read from the page store"),
            (
                self.being_read,
                "are being read, and the page store does not answer",
            ),
            (others, "are waited for"),
            (self.nominated, "cannot be restored"),
            (
                self.paging_out,
                "are nominated and on their way to the page store",
            ),
        ];
        let reasons = reasons.iter().filter(|(pages, _)| *pages > 0);
        let reasons: Vec<_> = reasons.map(|(n, why)| format!("{n} {why}")).collect();
        reasons.join(", ")
    }
}

/// What an operator's signal means.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Insists {
    /// Nothing new.
    No,
    /// The operator is told this.
    Told(String),
    /// The pager is to end, whatever is lost.
    Yes,
}

/// How the stop is getting on.
#[derive(Debug, Default)]
pub(super) struct StopWait {
    left: Left,
    /// Ticks since a page came back.
    still: u64,
    last_signal: Option<Instant>,
    warned: Option<Instant>,
}

impl StopWait {
    pub(super) fn new(left: Left) -> Self {
        Self {
            left,
            ..Self::default()
        }
    }

    /// Some time passed. Returns the line to log, if one is due.
    pub(super) fn tick(&mut self, left: Left) -> Option<String> {
        let before = self.left.pages();
        self.left = left;
        if left.pages() != before {
            let still = std::mem::take(&mut self.still);
            self.warned = None;
            return (still >= SAID_TICKS)
                .then(|| format!("pages come back again, after {}", Ticks(still)));
        }
        self.still += 1;
        (self.still == SAID_TICKS && left.pages() > 0).then(|| {
            format!(
                "no page has come back for {}: {}. The pager tries again until all are back, and \
                 does not end before",
                Ticks(SAID_TICKS),
                left.reasons()
            )
        })
    }

    /// A signal after the one that stopped the pager.
    pub(super) fn signalled(&mut self, at: Instant) -> Insists {
        let is_pair = self
            .last_signal
            .replace(at)
            .is_some_and(|last| at.saturating_duration_since(last) <= PAIR);
        if !is_pair {
            return Insists::No;
        }
        // A third signal begins another pair.
        self.last_signal = None;
        if self.still < SAID_TICKS {
            let pages = self.left.pages();
            return Insists::Told(format!(
                "{pages} pages come back: the pager does not end before"
            ));
        }
        let is_confirmed = self
            .warned
            .replace(at)
            .is_some_and(|warned| at.saturating_duration_since(warned) <= CONFIRM);
        if is_confirmed {
            return Insists::Yes;
        }
        Insists::Told(format!(
            "{}. If the pager ends now, {}. To end it all the same, send two signals within a second \
             once more",
            self.left.reasons(),
            self.left.consequences()
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn left(out: u64) -> Left {
        Left {
            out,
            unreadable: out,
            ..Left::default()
        }
    }

    fn stalled() -> StopWait {
        let mut wait = StopWait::default();
        (0..=SAID_TICKS).for_each(|_| drop(wait.tick(left(7))));
        wait
    }

    #[test]
    fn a_stall_is_said_once_and_so_is_its_end() {
        let mut wait = StopWait::default();
        let said: Vec<_> = (0..500).filter_map(|_| wait.tick(left(7))).collect();
        assert_eq!(said.len(), 1, "{said:?}");
        assert!(
            said[0].contains("7 cannot be read from the page store"),
            "{said:?}"
        );
        let ends = wait.tick(left(6)).unwrap();
        assert_eq!(ends, "pages come back again, after 49.9 s");
        // Pages that come back one after the other are no stall.
        assert!((0..5).all(|n| wait.tick(left(5 - n)).is_none()));
        assert!((0..500).all(|_| wait.tick(left(1)).is_none() || wait.left.out > 0));
    }

    #[test]
    fn nothing_left_is_nothing_to_wait_for() {
        let mut wait = StopWait::default();
        assert!((0..500).all(|_| wait.tick(left(0)).is_none()));
    }

    #[test]
    fn only_two_pairs_of_signals_give_pages_up() {
        let mut wait = stalled();
        let at = Instant::now();
        let s = Duration::from_secs;
        assert_eq!(wait.signalled(at), Insists::No);
        assert_eq!(wait.signalled(at + s(2)), Insists::No, "too late");
        let told = wait.signalled(at + s(3));
        assert!(
            matches!(&told, Insists::Told(why) if why.contains("7 pages")),
            "{told:?}"
        );
        assert_eq!(wait.signalled(at + s(4)), Insists::No, "half a pair");
        assert_eq!(wait.signalled(at + s(4)), Insists::Yes);
    }

    #[test]
    fn an_old_warning_and_pages_that_come_back_do_not_count() {
        let at = Instant::now();
        let pair = |wait: &mut StopWait, seconds| {
            let at = at + Duration::from_secs(seconds);
            (wait.signalled(at), wait.signalled(at)).1
        };
        let mut wait = stalled();
        assert!(matches!(pair(&mut wait, 0), Insists::Told(_)));
        assert!(matches!(pair(&mut wait, 100), Insists::Told(_)));
        wait.tick(left(6));
        let told = pair(&mut wait, 101);
        assert_eq!(
            told,
            Insists::Told("6 pages come back: the pager does not end before".into())
        );
        (0..=SAID_TICKS).for_each(|_| drop(wait.tick(left(6))));
        assert!(matches!(pair(&mut wait, 102), Insists::Told(_)));
        assert_eq!(pair(&mut wait, 103), Insists::Yes);
    }
}
