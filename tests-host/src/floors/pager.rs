// SPDX-License-Identifier: MIT OR Apache-2.0
//! The second process of the relay floor, and the first process's side of it.
//!
//! Its standard input is the eventfd on which requests arrive. Its standard output is the one on
//! which it answers. There are two shared pages: one of counters, one for the requested page. There
//! is one request at a time.

use std::io;
use std::os::fd::{AsFd as _, AsRawFd as _, OwnedFd};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::{Acquire, Relaxed, Release};

use p2m_paging::Gfn;
use pager_uffd::host::guest_memory::{GuestFile, GuestMemory};
use pager_uffd::host::uffd::Source;
use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec, eventfd, poll};
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use rustix::process::Signal;

use super::{FloorError, Placement, Store, pin};

const CONTROL: Gfn = Gfn::new_truncate(0);
const DATA: Gfn = Gfn::new_truncate(1);
const SHARED_PAGES: u64 = 2;

// Words of the control page, each in a cache line of its own.
const REQUESTS: usize = 0;
const ANSWERS: usize = 8;
const FRAME: usize = 16;

/// A frame number that asks the second process to end.
const STOP: u64 = u64::MAX;

/// How long the second process may take to start.
const START_S: i64 = 10;

/// The machine process's side.
pub(super) struct Relay {
    shared: GuestMemory,
    request: OwnedFd,
    answer: OwnedFd,
    placement: Placement,
    child: Child,
}

impl Relay {
    pub(super) fn start(program: &Path, placement: Placement) -> Result<Self, FloorError> {
        let (_, cpu) = placement.cpus()?;
        let shared = GuestMemory::create(SHARED_PAGES)?;
        let event = || eventfd(0, EventfdFlags::CLOEXEC).map_err(FloorError::at("eventfd"));
        let (request, answer) = (event()?, event()?);
        let path = format!(
            "/proc/{}/fd/{}",
            std::process::id(),
            shared.as_fd().as_raw_fd()
        );
        let theirs = |fd: &OwnedFd| fd.try_clone().map(Stdio::from);
        let start = || {
            Command::new(program)
                .args(["--second-process", &path])
                .arg(cpu.map_or_else(|| "any".to_owned(), |cpu| cpu.to_string()))
                .arg(if placement.answerer_polls() {
                    "poll"
                } else {
                    "block"
                })
                .stdin(theirs(&request)?)
                .stdout(theirs(&answer)?)
                .spawn()
        };
        let child = start().map_err(FloorError::SecondProcess)?;
        let relay = Self {
            shared,
            request,
            answer,
            placement,
            child,
        };
        relay.wait_until_it_serves()?;
        Ok(relay)
    }

    fn wait_until_it_serves(&self) -> Result<(), FloorError> {
        let deadline = Timespec {
            tv_sec: START_S,
            tv_nsec: 0,
        };
        let exit = rustix::process::pidfd_open(
            rustix::process::Pid::from_child(&self.child),
            rustix::process::PidfdFlags::empty(),
        )
        .map_err(FloorError::at("pidfd_open"))?;
        let mut events = [
            PollFd::new(&self.answer, PollFlags::IN),
            PollFd::new(&exit, PollFlags::IN),
        ];
        poll(&mut events, Some(&deadline)).map_err(FloorError::at("poll"))?;
        if events[0].revents().is_empty() {
            let reason = io::Error::other("it ended, or took too long, before it served");
            return Err(FloorError::SecondProcess(reason));
        }
        wait(&self.answer)
    }

    /// Has a page brought to [`Self::data`].
    pub(super) fn fetch(&self, gfn: Gfn) -> Result<(), FloorError> {
        let control = control(&self.shared)?;
        control[FRAME].store(gfn.get(), Relaxed);
        // Pairs with the second process's acquire: the frame before the count.
        let asked = control[REQUESTS].fetch_add(1, Release) + 1;
        if !self.placement.answerer_polls() {
            ring(&self.request)?;
        }
        if self.placement == Placement::AllPoll {
            // Pairs with the second process's release: the page before the count.
            while control[ANSWERS].load(Acquire) != asked {
                std::hint::spin_loop();
            }
            return Ok(());
        }
        wait(&self.answer)
    }

    /// The page fetched last.
    pub(super) fn data(&self) -> Source<'_> {
        self.shared.page(DATA).map_or_else(
            || Source::from([0; 0].as_slice()),
            |page| page.as_slice().into(),
        )
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        // If the process is gone already, there is nobody to tell.
        if let Ok(control) = control(&self.shared) {
            control[FRAME].store(STOP, Relaxed);
            control[REQUESTS].fetch_add(1, Release);
        }
        let _ = ring(&self.request);
        let _ = self.child.wait();
    }
}

/// What the second process does. `arguments` are those after the program's name. Yields `Ok(false)`
/// if they are not for this function.
pub fn serve(arguments: &[String]) -> Result<bool, FloorError> {
    let [mark, path, cpu, waiting] = arguments else {
        return Ok(false);
    };
    if mark != "--second-process" {
        return Ok(false);
    }
    // After the end of the first process nobody rings it any more.
    rustix::process::set_parent_process_death_signal(Some(Signal::KILL))
        .map_err(FloorError::at("PR_SET_PDEATHSIG"))?;
    pin(cpu.parse().ok())?;
    let flags = OFlags::RDWR | OFlags::CLOEXEC;
    let file = rustix::fs::open(path, flags, Mode::empty()).map_err(FloorError::at("open"))?;
    let shared = GuestMemory::map(GuestFile::open(file)?)?;
    let control = control(&shared)?;
    let (store, polls) = (Store::new(), waiting == "poll");
    let (request, answer) = (io::stdin(), io::stdout());
    ring(&answer)?;
    for served in 0.. {
        // Pairs with the handler's release: the frame before the count.
        while control[REQUESTS].load(Acquire) == served {
            if polls {
                std::hint::spin_loop()
            } else {
                wait(&request)?
            }
        }
        let frame = control[FRAME].load(Relaxed);
        if frame == STOP {
            break;
        }
        let Some(()) = shared.store(DATA, store.bytes(Gfn::new_truncate(frame))) else {
            break;
        };
        control[ANSWERS].store(served + 1, Release);
        ring(&answer)?;
    }
    Ok(true)
}

fn control(shared: &GuestMemory) -> Result<&[AtomicU64], FloorError> {
    let missing = FloorError::System {
        step: "shared pages",
        errno: Errno::FAULT,
    };
    shared
        .page(CONTROL)
        .map(|page| page.as_slice())
        .ok_or(missing)
}

fn ring(event: impl std::os::fd::AsFd) -> Result<(), FloorError> {
    rustix::io::write(event, &1_u64.to_ne_bytes()).map_err(FloorError::at("eventfd write"))?;
    Ok(())
}

fn wait(event: impl std::os::fd::AsFd) -> Result<(), FloorError> {
    rustix::io::read(event, &mut [0_u8; 8]).map_err(FloorError::at("eventfd read"))?;
    Ok(())
}
