// SPDX-License-Identifier: MIT OR Apache-2.0
//! The event channel to Xen: Linux's evtchn device, and an eventfd for the pager's other threads.

use std::os::fd::OwnedFd;
use std::path::Path;

use pager_shell::{EventChannel, EventPort};
use rustix::event::{PollFd, PollFlags};
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use zerocopy::IntoBytes as _;

use super::abi::{EVTCHN_BIND_INTERDOMAIN, EVTCHN_NOTIFY, EvtchnBind};
use super::error::{XenError, device};
use super::privcmd::ioctl;

const DEVICE: &str = "/dev/xen/evtchn";

/// A bound event channel. Closing it unbinds.
#[derive(Debug)]
pub(super) struct XenEventPort {
    device: OwnedFd,
    port: u32,
    others: EventChannel,
    /// Xen has sent an event that has not been read from the device.
    pending: bool,
}

impl XenEventPort {
    /// Binds to a port of the domain.
    pub(super) fn bind(domain: u16, remote_port: u32) -> Result<Self, XenError> {
        let flags = OFlags::RDWR | OFlags::CLOEXEC | OFlags::NONBLOCK;
        let events = rustix::fs::open(Path::new(DEVICE), flags, Mode::empty());
        let events = events.map_err(device(DEVICE))?;
        let mut bind = EvtchnBind {
            remote_domain: domain.into(),
            remote_port,
        };
        let port = ioctl(&events, EVTCHN_BIND_INTERDOMAIN, &mut bind);
        Ok(Self {
            port: port.map_err(device("event channel"))?,
            device: events,
            others: EventChannel::new().map_err(device("eventfd"))?,
            pending: false,
        })
    }
}

impl XenEventPort {
    /// Reads the event from the device. The port is masked from the event on until the port is
    /// written back. An event that arrives in between is not lost: it is delivered when the mask is
    /// removed. So the write can wait until there is nothing else to do, and no fault waits for it.
    fn unmask(&mut self) -> Result<(), Errno> {
        if !std::mem::take(&mut self.pending) {
            return Ok(());
        }
        let mut ports = [0_u32; 8];
        match rustix::io::read(&self.device, ports.as_mut_bytes()) {
            Ok(bytes) => rustix::io::write(&self.device, &ports.as_bytes()[..bytes]).map(drop),
            Err(Errno::AGAIN | Errno::INTR) => Ok(()),
            Err(errno) => Err(errno),
        }
    }
}

impl EventPort for XenEventPort {
    fn waker(&self) -> std::io::Result<EventChannel> {
        self.others.try_clone()
    }

    fn wait(&mut self) -> Result<(), Errno> {
        self.unmask()?;
        let mut fds = [
            PollFd::new(&self.device, PollFlags::IN),
            PollFd::new(&self.others, PollFlags::IN),
        ];
        loop {
            match rustix::event::poll(&mut fds, None) {
                Ok(_) => break,
                Err(Errno::INTR) => {}
                Err(errno) => return Err(errno),
            }
        }
        let [events, others] = fds.map(|fd| fd.revents());
        if others.contains(PollFlags::IN) {
            self.others.wait()?;
        }
        self.pending = !events.is_empty();
        Ok(())
    }

    fn notify(&mut self) -> Result<(), Errno> {
        ioctl(&self.device, EVTCHN_NOTIFY, &mut self.port).map(drop)
    }
}
