// SPDX-License-Identifier: MIT OR Apache-2.0
//! What systemd is told of this process, which may be the pager of several guests.

use std::sync::Arc;
use std::thread;

use parking_lot::Mutex;
use sd_notify::NotifyState;

/// All pagers of this process.
#[derive(Clone, Debug, Default)]
pub struct SystemdService(Arc<Mutex<Vec<State>>>);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Quiet,
    /// Has made progress since the watchdog was last told.
    Lives,
    Left,
}

/// One of these pagers.
#[derive(Debug)]
pub(super) struct ServiceMember {
    service: SystemdService,
    place: usize,
}

impl SystemdService {
    pub(super) fn join(&self) -> ServiceMember {
        let mut states = self.0.lock();
        states.push(State::Quiet);
        ServiceMember {
            service: self.clone(),
            place: states.len() - 1,
        }
    }
}

impl ServiceMember {
    /// Reports that it pages. All pagers attach before the first of them pages.
    pub(super) fn begin(&self) {
        tell(&[NotifyState::Ready]);
    }

    /// Reports a status line, and whether the main thread makes progress. The watchdog is told once
    /// every pager has made progress.
    pub(super) fn report(&self, line: &str, lives: bool) {
        let status = NotifyState::Status(line);
        if lives && self.note(State::Lives) {
            tell(&[status, NotifyState::Watchdog]);
        } else {
            tell(&[status]);
        }
    }

    /// Reports that the guest is not paged any more. The process ends with the last one.
    fn leave(&self) {
        self.note(State::Left);
        if self
            .service
            .0
            .lock()
            .iter()
            .all(|state| *state == State::Left)
        {
            tell(&[NotifyState::Stopping]);
        }
    }

    /// Whether all remaining pagers have made progress. If so, each has to show it again.
    fn note(&self, state: State) -> bool {
        let mut states = self.service.0.lock();
        states[self.place] = state;
        let all = !states.contains(&State::Quiet);
        for state in states
            .iter_mut()
            .filter(|state| all && **state == State::Lives)
        {
            *state = State::Quiet;
        }
        all
    }
}

/// A guest that is not paged any more does not keep the watchdog from being told. After a panic of the
/// thread that reports, the guest is still paged.
impl Drop for ServiceMember {
    fn drop(&mut self) {
        if !thread::panicking() {
            self.leave();
        }
    }
}

/// Tells systemd. Without systemd this does nothing.
fn tell(state: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(state) {
        tracing::debug!(%error, "systemd is not told");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_watchdog_hears_of_all_or_not_at_all() {
        let service = SystemdService::default();
        let (one, other) = (service.join(), service.join());
        assert!(
            !one.note(State::Lives) && !one.note(State::Lives),
            "the other hangs"
        );
        assert!(other.note(State::Lives));
        assert!(!other.note(State::Lives) && one.note(State::Lives));
        other.note(State::Left);
        assert!(
            one.note(State::Lives) && one.note(State::Lives),
            "there is no other"
        );
    }
}
