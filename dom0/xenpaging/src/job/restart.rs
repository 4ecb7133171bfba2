// SPDX-License-Identifier: MIT OR Apache-2.0
//! A pager that died is started again, and takes over.

use std::fs::File;
use std::os::unix::process::ExitStatusExt as _;
use std::sync::atomic::Ordering;
use std::thread;
use std::time::{Duration, Instant};

use p2m_paging::paging::{Attachment, Count};
use rustix::fs::{MemfdFlags, Mode};

use super::child::{ChildError, PagerCommand, PagerProcess};
use super::options::{JobOptions, Sizes};
use super::{Job, JobError};
use crate::exit::Exit;

/// The time between two looks while vcpus wait for the next pager.
const LOOK: Duration = Duration::from_micros(200);
/// The pause after a take-over that failed. It grows as long as take-overs fail.
const FIRST_PAUSE: Duration = Duration::from_millis(50);
const LONGEST_PAUSE: Duration = Duration::from_secs(5);

/// Starts the pagers of a job, one after the other.
pub(super) struct Pagers<'a> {
    command: &'a PagerCommand,
    host: String,
    options: &'a JobOptions,
    sizes: Sizes,
    /// Where each page lies. It is in this process, so it survives the pager.
    index: Option<File>,
}

impl<'a> Pagers<'a> {
    pub(super) fn new(
        command: &'a PagerCommand,
        host: String,
        options: &'a JobOptions,
        sizes: Sizes,
    ) -> Result<Self, JobError> {
        let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
        let create = || {
            let index = rustix::fs::memfd_create("paging-index", flags)?;
            rustix::fs::fchmod(&index, Mode::RUSR | Mode::WUSR)?;
            Ok(File::from(index))
        };
        let index = options.pages_survive().then(create).transpose();
        Ok(Self {
            command,
            host,
            options,
            sizes,
            index: index.map_err(JobError::Index)?,
        })
    }

    pub(super) fn start(&self) -> Result<PagerProcess, ChildError> {
        let index = self.index.as_ref();
        PagerProcess::start(self.command, &self.host, self.options, self.sizes, index)
    }
}

impl Job<'_> {
    /// Starts the next pager, and waits until it has brought in a page or nobody waits for one. A pager
    /// that is killed meanwhile, or cannot take over, has a next one, too.
    pub(super) fn restart(&mut self) -> Result<(), JobError> {
        let died = Instant::now();
        let served = self.machine.paging().counters().get(Count::Prepped);
        let mut pause = FIRST_PAUSE;
        loop {
            // The host notices the end of a process a moment later than the process' parent.
            while self.machine.paging().attachment() == Attachment::Attached {
                thread::sleep(LOOK);
            }
            self.child = self.pagers.start()?;
            match self.await_page(served) {
                Err(JobError::Child(ChildError::Ended(status))) if status.signal().is_some() => {}
                Err(JobError::Child(ChildError::Ended(status)))
                    if status.code() == Some(i32::from(Exit::NextTakesOver as u8))
                        && !self.interrupted.load(Ordering::Relaxed) =>
                {
                    self.pause(pause);
                    pause = (2 * pause).min(LONGEST_PAUSE);
                }
                ended => {
                    self.phases.restarts.push(died.elapsed());
                    return ended;
                }
            }
        }
    }

    /// Waits for so long, or until the job is interrupted.
    fn pause(&self, pause: Duration) {
        let began = Instant::now();
        while began.elapsed() < pause && !self.interrupted.load(Ordering::Relaxed) {
            thread::sleep(LOOK);
        }
    }

    fn await_page(&mut self, served: u64) -> Result<(), JobError> {
        self.await_pager()?;
        let paging = self.machine.paging();
        while paging.counters().get(Count::Prepped) == served
            && paging.vcpus().waiting().next().is_some()
            && !self.interrupted.load(Ordering::Relaxed)
        {
            if let Some(status) = self.child.exited()? {
                return Err(ChildError::Ended(status).into());
            }
            thread::sleep(LOOK);
        }
        Ok(())
    }
}
