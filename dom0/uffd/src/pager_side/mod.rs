// SPDX-License-Identifier: MIT OR Apache-2.0
//! The embedded host as a [`Machine`]: the pager's end of [`crate::link`].

mod calls;
mod hypercalls;
mod posted;

use p2m_paging::{Gfn, PAGE_SIZE};
use pager_shell::socket::{ConnectError, Connection, PACKET_WORDS};
use pager_shell::{
    AttachMode, Attached, EventChannel, EventPort, GuestInfo, Machine, MachineError, MachineEvent,
    Watch,
};
use rustix::io::Errno;

pub use hypercalls::{CallError, Handles, HostInfo, Hypercalls};

use crate::link::{Mailbox, Op, SharedArea, packet};

/// A host to which a connection exists.
#[derive(Debug)]
pub struct EmbeddedMachine {
    hypercalls: Hypercalls,
    guest: GuestInfo,
}

impl EmbeddedMachine {
    /// Connects to the host that listens under this name.
    pub fn connect(name: &str) -> Result<Self, MachineError> {
        let connected = |error: ConnectError| CallError::from(error);
        let mut hypercalls = Hypercalls::connect(name).map_err(connected)?;
        let info = hypercalls.info()?;
        let guest = GuestInfo {
            max_pages: info.max_pages,
            out_pages: info.out_pages,
            memory: vec![0..=info.max_pages.saturating_sub(1)],
            uuid: [0; 16],
            cpu: info.cpu,
        };
        Ok(Self { hypercalls, guest })
    }
}

impl Machine for EmbeddedMachine {
    fn guest(&self) -> &GuestInfo {
        &self.guest
    }

    /// The host knows whether there was a pager that died.
    fn attach(
        mut self: Box<Self>,
        buffers: usize,
        _mode: AttachMode,
    ) -> Result<Attached, MachineError> {
        let area = SharedArea::create("pager-buffers", buffers).map_err(CallError::from)?;
        if let Err(errno) = area.lock_in_memory() {
            tracing::warn!(
                "{} KiB of page buffers cannot be locked in memory ({errno}): raise RLIMIT_MEMLOCK \
                 (`ulimit -l`), or a fault may wait for the pager itself to be paged in",
                buffers * PAGE_SIZE / 1024
            );
        }
        let (pages, file) = area.into_pages();
        let handles = self.hypercalls.attach(&file, buffers)?;
        let shared: &'static SharedArea = Box::leak(Box::new(handles.shared));
        let mailbox = Mailbox::new(shared).ok_or(CallError::Gone(Errno::BADMSG))?;
        self.hypercalls.call(Op::Enable)?;
        let first = Gfn::new_truncate(0);
        let has_access_bits = self.hypercalls.uses(first, &mut [0])?.is_ok();
        Ok(Attached {
            ring: shared.ring_page(),
            buffers: pages,
            event_port: Box::new(Channels {
                events: handles.events,
                doorbell: handles.doorbell,
            }),
            preps: Box::new(posted::PostedPreps::new(mailbox)),
            calls: Box::new(calls::SocketCalls(self.hypercalls)),
            frames: Box::new(calls::MemoryFrames(handles.memory)),
            watch: Box::new(EventSource(handles.watch)),
            has_access_bits,
            publish: None,
        })
    }
}

/// Both event channels. Other threads kick the same one as the machine.
struct Channels {
    events: EventChannel,
    doorbell: EventChannel,
}

impl EventPort for Channels {
    fn waker(&self) -> std::io::Result<EventChannel> {
        self.events.try_clone()
    }

    fn wait(&mut self) -> rustix::io::Result<()> {
        self.events.wait()
    }

    fn notify(&mut self) -> rustix::io::Result<()> {
        self.doorbell.kick()
    }
}

struct EventSource(Connection);

impl Watch for EventSource {
    fn run(self: Box<Self>, tell: &dyn Fn(MachineEvent)) {
        let mut words = Box::new([0; PACKET_WORDS]);
        while let Ok(Some(packet)) = self.0.receive(&mut words) {
            match packet::parse_event(&words[..packet.words]) {
                Some(event) => tell(event),
                None => tracing::warn!("a notice is not valid"),
            }
        }
        tell(MachineEvent::DomainGone);
    }
}
