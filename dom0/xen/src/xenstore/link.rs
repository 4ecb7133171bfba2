// SPDX-License-Identifier: MIT OR Apache-2.0
//! The xenstore thread of a pager. It alone waits for xenstore. The pager's other threads leave
//! their wishes here and take what has arrived. If the daemon restarts, the thread connects again
//! and sets its watches again. If the daemon hangs, the thread waits for it.

use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use pager_shell::{EventChannel, Publish, Repeated};
use parking_lot::{Condvar, Mutex};
use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::io::Errno;

use super::{Xenstore, XenstoreError, at, status_path};

/// The pause before the next attempt to connect.
const RECONNECT_PAUSE: Duration = Duration::from_secs(1);
/// The target is read this often although it is watched. The kernel's device does not report that
/// the daemon has restarted and forgotten the watches.
const TARGET_PAUSE: Duration = Duration::from_secs(5);
/// How long the end of a pager waits until its metrics are removed.
const CLOSE_LIMIT: Duration = Duration::from_secs(2);
/// The stack size of the thread. All of it is locked in memory.
const STACK_BYTES: usize = 256 << 10;

const TARGET: &str = "target";
const RELEASE: &str = "release";

/// What passes between the xenstore thread and the other threads of a pager.
#[derive(Debug)]
pub(crate) struct Link {
    target: String,
    status: String,
    device_model: String,
    state: Mutex<State>,
    changed: Condvar,
    /// Wakes the xenstore thread.
    wake: EventChannel,
}

#[derive(Debug, Default)]
struct State {
    /// Metrics to publish.
    status: Option<String>,
    /// The device model is to drop its mappings.
    flush: bool,
    /// The pager ends.
    ends: bool,
    /// There is a xenstore thread.
    runs: bool,
    /// A target that has not been taken.
    target: Option<String>,
    /// A domain is gone, maybe this one.
    released: bool,
}

/// What has arrived.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum News {
    /// Nothing, or a domain is gone.
    None,
    /// The target's node has this value.
    Target(String),
    /// The pager ends.
    Over,
}

/// The state of one connection.
struct Session {
    store: Xenstore,
    is_watching: bool,
    /// When the target is read next.
    target_due: Instant,
}

impl Link {
    pub(crate) fn new(domain: u16) -> rustix::io::Result<Arc<Self>> {
        Ok(Arc::new(Self {
            target: format!("/local/domain/{domain}/memory/target-tot_pages"),
            status: status_path(domain),
            device_model: format!("/local/domain/0/device-model/{domain}"),
            state: Mutex::default(),
            changed: Condvar::new(),
            wake: EventChannel::new()?,
        }))
    }

    /// Starts the xenstore thread. `first` was connected before the pager gave up its rights.
    pub(crate) fn start(self: &Arc<Self>, first: Xenstore) {
        let connect = if first.is_socket() {
            Xenstore::connect_to_daemon
        } else {
            Xenstore::connect
        };
        self.start_with(first, connect);
    }

    pub(super) fn start_with(
        self: &Arc<Self>,
        first: Xenstore,
        mut connect: impl FnMut() -> Result<Xenstore, XenstoreError> + Send + 'static,
    ) {
        self.state.lock().runs = true;
        let link = Arc::clone(self);
        let guest = tracing::Span::current();
        let builder = thread::Builder::new().name("xenstore".into());
        let run = move || guest.in_scope(|| link.run(first, &mut connect));
        if let Err(error) = builder.stack_size(STACK_BYTES).spawn(run) {
            self.state.lock().runs = false;
            tracing::error!("the xenstore thread cannot be started, there is no target: {error}");
        }
    }

    /// Publishes metrics soon.
    pub(super) fn publish(&self, line: &str) {
        self.state.lock().status = Some(line.to_owned());
        self.wake_up();
    }

    /// Makes the device model drop its mappings soon.
    pub(crate) fn flush_cache(&self) {
        self.state.lock().flush = true;
        self.wake_up();
    }

    /// Waits for news, but not longer than this.
    pub(crate) fn wait(&self, timeout: Duration) -> News {
        let mut state = self.state.lock();
        let none = |state: &mut State| !state.ends && !state.released && state.target.is_none();
        self.changed.wait_while_for(&mut state, none, timeout);
        state.released = false;
        match state.target.take() {
            _ if state.ends => News::Over,
            Some(target) => News::Target(target),
            None => News::None,
        }
    }

    /// Ends the xenstore thread, which removes the metrics first if xenstore answers in time.
    pub(super) fn close(&self, limit: Duration) {
        let mut state = self.state.lock();
        state.ends = true;
        self.wake_up();
        self.changed.notify_all();
        self.changed
            .wait_while_for(&mut state, |state| state.runs, limit);
    }

    fn wake_up(&self) {
        if let Err(errno) = self.wake.kick() {
            tracing::error!(%errno, "the xenstore thread cannot be woken");
        }
    }

    fn run(&self, first: Xenstore, connect: &mut dyn FnMut() -> Result<Xenstore, XenstoreError>) {
        let mut outage = Repeated::default();
        let mut connected = Ok(first);
        while let Err(error) = connected.and_then(|store| self.serve(store, &mut outage)) {
            log_failure(&mut outage, &error);
            let mut state = self.state.lock();
            let pauses = |state: &mut State| !state.ends;
            self.changed
                .wait_while_for(&mut state, pauses, RECONNECT_PAUSE);
            if state.ends {
                break;
            }
            drop(state);
            connected = connect();
        }
        self.state.lock().runs = false;
        self.changed.notify_all();
    }

    /// Serves until the pager ends or the connection breaks.
    fn serve(&self, store: Xenstore, outage: &mut Repeated) -> Result<(), XenstoreError> {
        let mut session = Session {
            store,
            is_watching: false,
            target_due: Instant::now(),
        };
        while !self.state.lock().ends {
            match self.round(&mut session) {
                Ok(()) => {
                    if let Some(length) = outage.ended(Instant::now()) {
                        let seconds = length.as_secs_f64();
                        tracing::info!("xenstore answers again, after {seconds:.1} s");
                    }
                }
                // The daemon hangs, or has forgotten the request and the watches.
                Err(error @ XenstoreError::TimedOut) => {
                    log_failure(outage, &error);
                    session.is_watching = false;
                    session.target_due = Instant::now();
                }
                Err(error) => return Err(error),
            }
            self.sleep(&mut session)?;
        }
        // If the domain is gone, the node is gone already.
        let _ = session.store.remove(&self.status);
        Ok(())
    }

    /// Does all that is due.
    fn round(&self, session: &mut Session) -> Result<(), XenstoreError> {
        let Session { store, .. } = session;
        if !session.is_watching {
            store.watch("@releaseDomain", RELEASE)?;
            store.watch(&self.target, TARGET)?;
            session.is_watching = true;
        }
        if session.target_due <= Instant::now() {
            if let Some(target) = store.read(&self.target)? {
                self.state.lock().target = Some(target);
                self.changed.notify_all();
            }
            session.target_due = Instant::now() + TARGET_PAUSE;
        }
        let (flush, status) = {
            let mut state = self.state.lock();
            (std::mem::take(&mut state.flush), state.status.take())
        };
        // Without this node there is no device model that takes commands.
        if flush
            && store
                .read(&format!("{}/state", self.device_model))?
                .is_some()
        {
            let command = format!("{}/command", self.device_model);
            if_not_refused(store.write(&command, "flush-cache"))?;
        }
        if let Some(line) = status {
            if_not_refused(store.write(&self.status, &line))?;
        }
        Ok(())
    }

    /// Waits until something may be due.
    fn sleep(&self, session: &mut Session) -> Result<(), XenstoreError> {
        let mut any = false;
        while let Some(token) = session.store.fired()? {
            any = true;
            if token == TARGET {
                session.target_due = Instant::now();
            } else {
                self.state.lock().released = true;
                self.changed.notify_all();
            }
        }
        if any {
            return Ok(());
        }
        let left = session.target_due.saturating_duration_since(Instant::now());
        let left = Timespec::try_from(left).map_err(|_| XenstoreError::TimedOut)?;
        let mut fds = [
            PollFd::new(&session.store, PollFlags::IN),
            PollFd::new(&self.wake, PollFlags::IN),
        ];
        match rustix::event::poll(&mut fds, Some(&left)) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(errno) => return Err(at("poll")(errno)),
        }
        if fds[1].revents().contains(PollFlags::IN) {
            self.wake.wait().map_err(at("eventfd"))?;
        }
        Ok(())
    }
}

/// A refusal does not concern the connection.
fn if_not_refused(done: Result<(), XenstoreError>) -> Result<(), XenstoreError> {
    match done {
        Err(error @ XenstoreError::Refused { .. }) => {
            tracing::debug!("{error}");
            Ok(())
        }
        done => done,
    }
}

fn log_failure(outage: &mut Repeated, error: &XenstoreError) {
    if outage.happened(Instant::now()) {
        tracing::warn!(
            "{error}: the target stays what it is, and no metrics are published there, until it answers"
        );
    }
}

/// A pager's metrics in xenstore. They are removed when this is dropped.
#[derive(Debug)]
pub(crate) struct StatusNode(pub(crate) Arc<Link>);

impl Publish for StatusNode {
    fn publish(&mut self, line: &str) {
        self.0.publish(line);
    }
}

impl Drop for StatusNode {
    fn drop(&mut self) {
        self.0.close(CLOSE_LIMIT);
    }
}
