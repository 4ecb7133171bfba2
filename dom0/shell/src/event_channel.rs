// SPDX-License-Identifier: MIT OR Apache-2.0
//! An event channel: one side kicks, the other sleeps until it is kicked.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::event::EventfdFlags;
use rustix::io::{Errno, Result};

/// An eventfd. Several kicks before a wait count as one.
#[derive(Debug)]
pub struct EventChannel(OwnedFd);

impl EventChannel {
    /// Creates a channel that has not been kicked.
    pub fn new() -> Result<Self> {
        rustix::event::eventfd(0, EventfdFlags::CLOEXEC).map(Self)
    }

    /// Wraps the descriptor of a channel that the other side created.
    pub fn from_fd(fd: OwnedFd) -> Self {
        Self(fd)
    }

    /// Another handle on the same channel.
    pub fn try_clone(&self) -> std::io::Result<Self> {
        self.0.try_clone().map(Self)
    }

    /// Wakes the other side, or makes its next wait return at once.
    pub fn kick(&self) -> Result<()> {
        loop {
            match rustix::io::write(&self.0, &1_u64.to_ne_bytes()) {
                Ok(_) => return Ok(()),
                Err(Errno::INTR) => {}
                Err(errno) => return Err(errno),
            }
        }
    }

    /// Sleeps until the channel has been kicked since the last wait.
    pub fn wait(&self) -> Result<()> {
        let mut count = [0; 8];
        loop {
            match rustix::io::read(&self.0, &mut count) {
                Ok(_) => return Ok(()),
                Err(Errno::INTR) => {}
                Err(errno) => return Err(errno),
            }
        }
    }
}

impl AsFd for EventChannel {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}
