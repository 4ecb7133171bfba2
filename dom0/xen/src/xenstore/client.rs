// SPDX-License-Identifier: MIT OR Apache-2.0
//! A connection to xenstore. Each request has a time limit.
//!
//! One request is in flight at a time. Watch events that arrive meanwhile are kept in order. If a
//! request was not answered in time, its reply is still awaited, and ignored, before the next
//! request is sent: a daemon that hangs gets one request, however long it hangs.

use std::collections::VecDeque;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};
use zerocopy::IntoBytes;

use super::wire::{Header, Incoming, PAYLOAD_MAX, message, text};
use super::{XenstoreError, at};

const SOCKETS: [&str; 2] = ["/run/xenstored/socket", "/var/run/xenstored/socket"];
const DEVICES: [&str; 2] = ["/dev/xen/xenbus", "/proc/xen/xenbus"];

/// The time limit of a request.
const REQUEST_LIMIT: Duration = Duration::from_secs(5);

/// A connection.
#[derive(Debug)]
pub struct Xenstore {
    /// Does not block.
    stream: OwnedFd,
    incoming: Incoming,
    /// The tokens of watches that have fired.
    fired: VecDeque<String>,
    requests: u32,
    /// The request that was sent and has not been answered.
    pub(super) unanswered: Option<u32>,
    pub(super) limit: Duration,
    is_socket: bool,
}

impl Xenstore {
    /// Connects to the daemon, or through the kernel if xenstore runs in its own domain.
    pub fn connect() -> Result<Self, XenstoreError> {
        match Self::connect_to_daemon() {
            Err(XenstoreError::NotRunning) => {}
            connected => return connected,
        }
        for path in DEVICES {
            let flags = OFlags::RDWR | OFlags::CLOEXEC | OFlags::NONBLOCK;
            match rustix::fs::open(Path::new(path), flags, Mode::empty()) {
                Ok(device) => return Ok(Self::on(device, false)),
                Err(Errno::NOENT | Errno::NODEV | Errno::NXIO) => {}
                Err(errno) => return Err(at("open of xenbus")(errno)),
            }
        }
        Err(XenstoreError::NotRunning)
    }

    /// Connects to the daemon. This opens no file, so a pager can do it once it has given up its
    /// rights.
    pub(super) fn connect_to_daemon() -> Result<Self, XenstoreError> {
        for path in SOCKETS {
            match Self::connect_at(Path::new(path)) {
                Err(XenstoreError::NotRunning) => {}
                connected => return connected,
            }
        }
        Err(XenstoreError::NotRunning)
    }

    /// Connects to the daemon that listens at this path. Does not wait for it.
    pub(super) fn connect_at(path: &Path) -> Result<Self, XenstoreError> {
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let socket = rustix::net::socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None);
        let socket = socket.map_err(at("socket"))?;
        let address = SocketAddrUnix::new(path).map_err(at("socket name"))?;
        match rustix::net::connect(&socket, &address) {
            Ok(()) => Ok(Self::on(socket, true)),
            Err(Errno::NOENT | Errno::CONNREFUSED) => Err(XenstoreError::NotRunning),
            Err(errno) => Err(at("connect")(errno)),
        }
    }

    pub(super) fn on(stream: OwnedFd, is_socket: bool) -> Self {
        Self {
            stream,
            incoming: Incoming::default(),
            fired: VecDeque::new(),
            requests: 0,
            unanswered: None,
            limit: REQUEST_LIMIT,
            is_socket,
        }
    }

    /// Whether this is a socket of the daemon, as opposed to the kernel's device.
    pub(super) fn is_socket(&self) -> bool {
        self.is_socket
    }

    /// Reads a node's value; `None` if there is no such node.
    pub fn read(&mut self, path: &str) -> Result<Option<String>, XenstoreError> {
        match self.request(message::READ, path, &[path.as_bytes(), b"\0"]) {
            Ok(value) => Ok(Some(String::from_utf8_lossy(&value).into_owned())),
            Err(XenstoreError::Refused { error, .. }) if error == "ENOENT" => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Lists the names of a node's children; empty if there is no such node.
    pub fn directory(&mut self, path: &str) -> Result<Vec<String>, XenstoreError> {
        match self.request(message::DIRECTORY, path, &[path.as_bytes(), b"\0"]) {
            Ok(names) => Ok(names.split(|&byte| byte == 0).map(text).collect()),
            Err(XenstoreError::Refused { error, .. }) if error == "ENOENT" => Ok(Vec::new()),
            Err(error) => Err(error),
        }
    }

    /// Sets a node's value. Creates the node if necessary.
    pub fn write(&mut self, path: &str, value: &str) -> Result<(), XenstoreError> {
        let parts = [path.as_bytes(), b"\0", value.as_bytes()];
        self.request(message::WRITE, path, &parts).map(drop)
    }

    /// Removes a node and everything below it.
    pub fn remove(&mut self, path: &str) -> Result<(), XenstoreError> {
        let parts = [path.as_bytes(), b"\0"];
        self.request(message::RM, path, &parts).map(drop)
    }

    /// Watches a node. [`Self::fired`] returns the token once at first, and again when the node
    /// changes. A watch that is set already stays set.
    pub fn watch(&mut self, path: &str, token: &str) -> Result<(), XenstoreError> {
        let parts = [path.as_bytes(), b"\0", token.as_bytes(), b"\0"];
        match self.request(message::WATCH, path, &parts) {
            Err(XenstoreError::Refused { error, .. }) if error == "EEXIST" => Ok(()),
            set => set.map(drop),
        }
    }

    /// The token of a watch that has fired; `None`: none has. Does not wait.
    pub fn fired(&mut self) -> Result<Option<String>, XenstoreError> {
        while self.fired.is_empty() {
            match self.receive(Instant::now())? {
                None => break,
                Some((header, _)) if header.kind == message::WATCH_EVENT => {}
                Some((header, _)) => self.answered(header.req_id)?,
            }
        }
        Ok(self.fired.pop_front())
    }

    fn request(
        &mut self,
        kind: u32,
        path: &str,
        parts: &[&[u8]],
    ) -> Result<Vec<u8>, XenstoreError> {
        let payload = parts.concat();
        if payload.len() > PAYLOAD_MAX {
            return Err(at("request")(Errno::TOOBIG));
        }
        let deadline = Instant::now() + self.limit;
        while self.unanswered.is_some() {
            self.reply(deadline)?;
        }
        self.requests = self.requests.wrapping_add(1);
        let header = Header {
            kind,
            req_id: self.requests,
            tx_id: 0,
            len: u32::try_from(payload.len()).unwrap_or(u32::MAX),
        };
        self.send(&[header.as_bytes(), &payload].concat(), deadline)?;
        self.unanswered = Some(header.req_id);
        match self.reply(deadline)? {
            (reply, body) if reply.kind == message::ERROR => Err(XenstoreError::Refused {
                path: path.to_owned(),
                error: text(&body),
            }),
            (reply, body) if reply.kind == kind => Ok(body),
            _ => Err(XenstoreError::Broken),
        }
    }

    /// Waits for the reply to the request that is not answered yet.
    fn reply(&mut self, deadline: Instant) -> Result<(Header, Vec<u8>), XenstoreError> {
        loop {
            match self.receive(deadline)? {
                None => return Err(XenstoreError::TimedOut),
                Some((header, _)) if header.kind == message::WATCH_EVENT => {}
                Some((header, body)) => {
                    self.answered(header.req_id)?;
                    return Ok((header, body));
                }
            }
        }
    }

    /// Notes a reply. A reply that was not asked for is an error.
    fn answered(&mut self, request: u32) -> Result<(), XenstoreError> {
        match self.unanswered.take() {
            Some(unanswered) if unanswered == request => Ok(()),
            _ => Err(XenstoreError::Broken),
        }
    }

    /// Receives the next message; `None`: there is none until then. A watch event is also noted.
    fn receive(&mut self, deadline: Instant) -> Result<Option<(Header, Vec<u8>)>, XenstoreError> {
        let mut bytes = [0; 1024];
        loop {
            if let Some((header, body)) = self.incoming.next()? {
                if header.kind == message::WATCH_EVENT {
                    // Path and token, each with a terminating zero.
                    let token = body.split(|&byte| byte == 0).nth(1);
                    self.fired
                        .push_back(text(token.ok_or(XenstoreError::Broken)?));
                }
                return Ok(Some((header, body)));
            }
            match rustix::io::read(&self.stream, &mut bytes) {
                Ok(0) => return Err(XenstoreError::Broken),
                Ok(received) => self.incoming.push(&bytes[..received]),
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => {
                    if !self.is_ready(PollFlags::IN, deadline)? {
                        return Ok(None);
                    }
                }
                Err(errno) => return Err(at("read")(errno)),
            }
        }
    }

    /// Sends a message. A message that was sent in part breaks the connection.
    fn send(&self, message: &[u8], deadline: Instant) -> Result<(), XenstoreError> {
        let mut rest = message;
        while !rest.is_empty() {
            match rustix::io::write(&self.stream, rest) {
                Ok(written) => rest = &rest[written..],
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => {
                    if !self.is_ready(PollFlags::OUT, deadline)? {
                        return Err(if rest.len() == message.len() {
                            XenstoreError::TimedOut
                        } else {
                            XenstoreError::Broken
                        });
                    }
                }
                Err(Errno::PIPE) => return Err(XenstoreError::Broken),
                Err(errno) => return Err(at("write")(errno)),
            }
        }
        Ok(())
    }

    /// Waits until the stream can be read or written. `false`: it cannot until then.
    fn is_ready(&self, how: PollFlags, deadline: Instant) -> Result<bool, XenstoreError> {
        let left = deadline.saturating_duration_since(Instant::now());
        let left = Timespec::try_from(left).map_err(|_| XenstoreError::TimedOut)?;
        match rustix::event::poll(&mut [PollFd::new(&self.stream, how)], Some(&left)) {
            Ok(0) => Ok(false),
            Ok(_) | Err(Errno::INTR) => Ok(true),
            Err(errno) => Err(at("poll")(errno)),
        }
    }
}

impl AsFd for Xenstore {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.stream.as_fd()
    }
}
