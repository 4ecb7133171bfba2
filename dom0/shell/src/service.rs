// SPDX-License-Identifier: MIT OR Apache-2.0
//! What systemd is told of this process, which may be the pager of several guests.

use std::cell::Cell;
use std::env;
use std::ffi::OsStr;
use std::fmt::Write as _;
use std::io;
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use sd_notify::NotifyState;

/// How long a message waits for systemd to take it. A systemd that hangs takes none.
const LIMIT: Duration = Duration::from_secs(1);

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
    /// systemd has heard that it pages.
    is_ready: Cell<bool>,
}

impl SystemdService {
    pub(super) fn join(&self) -> ServiceMember {
        let mut states = self.0.lock();
        states.push(State::Quiet);
        ServiceMember {
            service: self.clone(),
            place: states.len() - 1,
            is_ready: Cell::new(false),
        }
    }
}

impl ServiceMember {
    /// Reports that it pages. All pagers attach before the first of them pages.
    pub(super) fn begin(&self) {
        self.tell(&[]);
    }

    /// Reports a status line, and whether the main thread makes progress. The watchdog is told once
    /// every pager has made progress.
    pub(super) fn report(&self, line: &str, lives: bool) {
        let status = NotifyState::Status(line);
        if lives && self.note(State::Lives) {
            self.tell(&[status, NotifyState::Watchdog]);
        } else {
            self.tell(&[status]);
        }
    }

    /// Tells systemd this, and that the pager pages if systemd has not heard of that.
    fn tell(&self, state: &[NotifyState<'_>]) {
        let is_told = if self.is_ready.get() {
            tell(state)
        } else {
            let ready = std::iter::once(&NotifyState::Ready);
            let all: Vec<_> = ready.chain(state).cloned().collect();
            tell(&all)
        };
        if is_told {
            self.is_ready.set(true);
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

/// A guest that is not paged any more does not keep the watchdog from being told.
impl Drop for ServiceMember {
    fn drop(&mut self) {
        self.leave();
    }
}

/// Tells systemd. Without systemd this does nothing. Returns whether there is nobody left to tell.
fn tell(state: &[NotifyState<'_>]) -> bool {
    let Some(socket) = env::var_os("NOTIFY_SOCKET") else {
        return true;
    };
    let sent = send(&socket, state);
    if let Err(error) = &sent {
        tracing::debug!(%error, "systemd is not told");
    }
    sent.is_ok()
}

/// Sends a message to systemd's socket, and waits no longer than [`LIMIT`].
fn send(socket: &OsStr, state: &[NotifyState<'_>]) -> io::Result<()> {
    let address = match socket.as_bytes() {
        [b'@', name @ ..] => SocketAddr::from_abstract_name(name)?,
        _ => SocketAddr::from_pathname(socket)?,
    };
    let mut message = String::new();
    for state in state {
        let _ = writeln!(message, "{state}");
    }
    let from = UnixDatagram::unbound()?;
    from.set_write_timeout(Some(LIMIT))?;
    from.send_to_addr(message.as_bytes(), &address).map(drop)
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;
    use std::thread;

    use super::*;

    /// A socket that takes messages, and what is sent to it.
    #[test]
    fn systemd_gets_the_message_at_a_path_and_at_an_abstract_name() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("notify");
        let name = format!("p2m-paging-notify-{}", std::process::id());
        let address = SocketAddr::from_abstract_name(&name).unwrap();
        for (socket, name) in [
            (UnixDatagram::bind(&path), path.into_os_string()),
            (UnixDatagram::bind_addr(&address), format!("@{name}").into()),
        ] {
            let states = [NotifyState::Status("paging"), NotifyState::Watchdog];
            send(&name, &states).unwrap();
            let mut message = [0; 100];
            let bytes = socket.unwrap().recv(&mut message).unwrap();
            assert_eq!(&message[..bytes], b"STATUS=paging\nWATCHDOG=1\n");
        }
    }

    #[test]
    fn a_systemd_that_takes_no_messages_is_not_waited_for() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("notify");
        let _hangs = UnixDatagram::bind(&path).unwrap();
        let (ends, ended) = mpsc::channel();
        thread::spawn(move || {
            // Until its queue is full.
            while send(path.as_os_str(), &[NotifyState::Ready]).is_ok() {}
            ends.send(())
        });
        let ended = ended.recv_timeout(Duration::from_secs(60));
        assert_eq!(ended, Ok(()), "the pager waits for systemd");
    }

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
