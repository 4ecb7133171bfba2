// SPDX-License-Identifier: MIT OR Apache-2.0
//! The pager as a second process.

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd as _;
use std::os::unix::process::CommandExt as _;
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};

use rustix::process::{Pid, Signal};

use super::options::{JobOptions, Sizes, StoreChoice};

/// How to start a pager: this program, under another name.
#[derive(Clone, Debug)]
pub struct PagerCommand {
    /// The file to execute.
    pub program: PathBuf,
    /// The name under which it is executed.
    pub name: &'static str,
}

/// Why there is no running pager.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ChildError {
    /// The pager could not be started.
    #[error("the pager cannot be started: {0}")]
    NotStarted(io::Error),
    /// The pager ended before it attached.
    #[error("the pager did not attach ({0})")]
    Ended(ExitStatus),
    /// The pager did not attach in time.
    #[error("the pager did not attach in time")]
    Silent,
    /// The pager could not be queried or signalled.
    #[error("the pager cannot be reached: {0}")]
    Unreachable(io::Error),
}

/// A running pager. It is killed when this is dropped, unless it has ended.
#[derive(Debug)]
pub(super) struct PagerProcess(Child);

impl PagerProcess {
    /// Starts a pager for the host that listens as `host`. `index` survives the pager.
    pub(super) fn start(
        pager: &PagerCommand,
        host: &str,
        options: &JobOptions,
        sizes: Sizes,
        index: Option<&File>,
    ) -> Result<Self, ChildError> {
        let mut command = Command::new(&pager.program);
        command.arg0(pager.name).stdin(Stdio::null());
        // Ctrl-C is for the machine, which tells the pager.
        command.process_group(0);
        command.args(["--embedded-host", host]);
        command.args(["--mru_size", &mru_pages(sizes).to_string()]);
        if let Some(policy) = options.policy {
            command.args(["--policy", policy.name()]);
        }
        if !options.read_ahead {
            command.arg("--no-read-ahead");
        }
        if options.dedup {
            command.arg("--dedup");
        }
        if let Some(file) = &options.record_seen {
            command.arg("--record").arg(file);
        }
        for gfns in &options.never {
            command.args(["--gfns", &format!("{}-{}", gfns.start(), gfns.end())]);
        }
        if let Some((bytes, marks)) = &options.host_memory {
            command.args(["--watermarks", marks]);
            command.args(["--host-memory", &format!("{}K", bytes >> 10)]);
        }
        match &options.store {
            StoreChoice::Memory => {}
            StoreChoice::File(path) => {
                command.arg("--pagefile").arg(path);
            }
            StoreChoice::Areas(areas) => {
                for area in areas {
                    let mut name = area.path.clone().into_os_string();
                    name.push(format!(":{}", area.priority));
                    command.arg("--swap").arg(name);
                }
            }
        }
        if let Some(index) = index {
            // The pager opens it anew, so that its lock ends with the pager.
            let (host, fd) = (std::process::id(), index.as_raw_fd());
            command.args(["--index", &format!("/proc/{host}/fd/{fd}")]);
        }
        command.args((0..options.verbosity).map(|_| "--verbose"));
        command.spawn().map(Self).map_err(ChildError::NotStarted)
    }

    /// The exit status, if the pager has ended.
    pub(super) fn exited(&mut self) -> Result<Option<ExitStatus>, ChildError> {
        self.0.try_wait().map_err(ChildError::Unreachable)
    }

    /// Waits until the pager has ended.
    pub(super) fn status(&mut self) -> Option<ExitStatus> {
        self.0.wait().ok()
    }

    /// Kills the pager.
    pub(super) fn kill(&mut self) -> Result<(), ChildError> {
        self.0.kill().map_err(ChildError::Unreachable)
    }

    /// Tells the pager to bring everything back and end.
    pub(super) fn terminate(&self) -> Result<(), ChildError> {
        let pid = Pid::from_child(&self.0);
        rustix::process::kill_process(pid, Signal::TERM)
            .map_err(|errno| ChildError::Unreachable(errno.into()))
    }
}

impl Drop for PagerProcess {
    fn drop(&mut self) {
        // This signals only a child of this process that has not been waited for.
        if matches!(self.0.try_wait(), Ok(None)) {
            let _ = self.0.kill();
            let _ = self.0.wait();
        }
    }
}

/// The value of `-r`: a quarter of the target, rounded down to a power of two, and at most the
/// default. In a small guest the default would leave no victims.
fn mru_pages(sizes: Sizes) -> u64 {
    let usual = pager_core::policy::DEFAULT_MRU_PAGES as u64;
    let quarter = sizes.target / 4;
    quarter.checked_ilog2().map_or(1, |log| 1 << log).min(usual)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_small_guest_keeps_victims() {
        for (target, mru) in [(0, 1), (3, 1), (32_768, 8192), (1 << 30, 16_384)] {
            assert_eq!(
                mru_pages(Sizes {
                    pages: 1 << 30,
                    target
                }),
                mru,
                "{target}"
            );
        }
    }
}
