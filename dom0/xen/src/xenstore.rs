// SPDX-License-Identifier: MIT OR Apache-2.0
//! A client of xenstore: the wire protocol of `public/io/xs_wire.h`, over the daemon's socket or
//! the kernel's device. It supports any number of watches.
//!
//! One request is in flight at a time. Watch events that arrive meanwhile are kept in order.

use std::collections::VecDeque;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::time::Duration;

use pager_shell::Publish;
use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

const SOCKETS: [&str; 2] = ["/run/xenstored/socket", "/var/run/xenstored/socket"];
const DEVICES: [&str; 2] = ["/dev/xen/xenbus", "/proc/xen/xenbus"];

/// `XENSTORE_PAYLOAD_MAX`.
pub const PAYLOAD_MAX: usize = 4096;

/// `XS_READ` and so on (`enum xsd_sockmsg_type`).
pub mod message {
    #![allow(missing_docs)] // The names are Xen's.
    pub const DIRECTORY: u32 = 1;
    pub const READ: u32 = 2;
    pub const WATCH: u32 = 4;
    pub const WRITE: u32 = 11;
    pub const RM: u32 = 13;
    pub const WATCH_EVENT: u32 = 15;
    pub const ERROR: u32 = 16;
}

/// `struct xsd_sockmsg`.
#[repr(C)]
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct Header {
    /// One of [`message`].
    pub kind: u32,
    /// The reply carries the same number.
    pub req_id: u32,
    /// The transaction; 0 for none.
    pub tx_id: u32,
    /// The number of bytes that follow.
    pub len: u32,
}

/// Why a request to xenstore failed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum XenstoreError {
    /// No daemon and no device could be opened.
    #[error("xenstore does not run: {} is not there", SOCKETS[0])]
    NotRunning,
    /// The connection failed.
    #[error("xenstore: {step}: {errno}")]
    System {
        /// The system call.
        step: &'static str,
        /// Its error.
        errno: Errno,
    },
    /// Xenstore refused, with the name of an error.
    #[error("xenstore: {path}: {error}")]
    Refused {
        /// The node of the request.
        path: String,
        /// `ENOENT` and the like.
        error: String,
    },
    /// The connection was closed, or a reply is not valid.
    #[error("xenstore has closed the connection, or its reply is not valid")]
    Broken,
}

fn at(step: &'static str) -> impl Fn(Errno) -> XenstoreError {
    move |errno| XenstoreError::System { step, errno }
}

/// A connection.
#[derive(Debug)]
pub struct Xenstore {
    stream: OwnedFd,
    /// The tokens of watches that have fired.
    fired: VecDeque<String>,
    requests: u32,
}

impl Xenstore {
    /// Connects to the daemon, or through the kernel if xenstore runs in its own domain.
    pub fn connect() -> Result<Self, XenstoreError> {
        for path in SOCKETS {
            let flags = SocketFlags::CLOEXEC;
            let socket =
                rustix::net::socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None);
            let socket = socket.map_err(at("socket"))?;
            let address = SocketAddrUnix::new(path).map_err(at("socket name"))?;
            match rustix::net::connect(&socket, &address) {
                Ok(()) => return Ok(Self::on(socket)),
                Err(Errno::NOENT | Errno::CONNREFUSED) => {}
                Err(errno) => return Err(at("connect")(errno)),
            }
        }
        for path in DEVICES {
            let flags = OFlags::RDWR | OFlags::CLOEXEC;
            match rustix::fs::open(Path::new(path), flags, Mode::empty()) {
                Ok(device) => return Ok(Self::on(device)),
                Err(Errno::NOENT | Errno::NODEV | Errno::NXIO) => {}
                Err(errno) => return Err(at("open of xenbus")(errno)),
            }
        }
        Err(XenstoreError::NotRunning)
    }

    fn on(stream: OwnedFd) -> Self {
        Self {
            stream,
            fired: VecDeque::new(),
            requests: 0,
        }
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
    /// changes.
    pub fn watch(&mut self, path: &str, token: &str) -> Result<(), XenstoreError> {
        let parts = [path.as_bytes(), b"\0", token.as_bytes(), b"\0"];
        self.request(message::WATCH, path, &parts).map(drop)
    }

    /// Waits for a watch and returns its token; `None`: none has fired within that time.
    pub fn fired(&mut self, timeout: Duration) -> Result<Option<String>, XenstoreError> {
        if let Some(token) = self.fired.pop_front() {
            return Ok(Some(token));
        }
        let mut fds = [PollFd::new(&self.stream, PollFlags::IN)];
        let timeout = Timespec::try_from(timeout).map_err(|_| XenstoreError::Broken)?;
        match rustix::event::poll(&mut fds, Some(&timeout)) {
            Ok(0) | Err(Errno::INTR) => return Ok(None),
            Ok(_) => {}
            Err(errno) => return Err(at("poll")(errno)),
        }
        // A reply without a request is an error.
        match self.receive()? {
            (header, _) if header.kind != message::WATCH_EVENT => Err(XenstoreError::Broken),
            _ => Ok(self.fired.pop_front()),
        }
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
        self.requests = self.requests.wrapping_add(1);
        let header = Header {
            kind,
            req_id: self.requests,
            tx_id: 0,
            len: u32::try_from(payload.len()).unwrap_or(u32::MAX),
        };
        self.send(&[header.as_bytes(), &payload].concat())?;
        loop {
            let (reply, body) = self.receive()?;
            match reply.kind {
                message::WATCH_EVENT => {}
                _ if reply.req_id != header.req_id => return Err(XenstoreError::Broken),
                message::ERROR => {
                    return Err(XenstoreError::Refused {
                        path: path.to_owned(),
                        error: text(&body),
                    });
                }
                _ if reply.kind == kind => return Ok(body),
                _ => return Err(XenstoreError::Broken),
            }
        }
    }

    /// Receives the next message. A watch event is also noted.
    fn receive(&mut self) -> Result<(Header, Vec<u8>), XenstoreError> {
        let mut header = [0; size_of::<Header>()];
        self.fill(&mut header)?;
        let header = Header::read_from_bytes(&header).map_err(|_| XenstoreError::Broken)?;
        let length = usize::try_from(header.len).unwrap_or(usize::MAX);
        if length > PAYLOAD_MAX {
            return Err(XenstoreError::Broken);
        }
        let mut body = vec![0; length];
        self.fill(&mut body)?;
        if header.kind == message::WATCH_EVENT {
            // Path and token, each with a terminating zero.
            let token = body.split(|&byte| byte == 0).nth(1);
            self.fired
                .push_back(text(token.ok_or(XenstoreError::Broken)?));
        }
        Ok((header, body))
    }

    fn fill(&self, mut buffer: &mut [u8]) -> Result<(), XenstoreError> {
        while !buffer.is_empty() {
            match rustix::io::read(&self.stream, &mut *buffer) {
                Ok(0) => return Err(XenstoreError::Broken),
                Ok(bytes) => buffer = &mut buffer[bytes..],
                Err(Errno::INTR) => {}
                Err(errno) => return Err(at("read")(errno)),
            }
        }
        Ok(())
    }

    fn send(&self, mut bytes: &[u8]) -> Result<(), XenstoreError> {
        while !bytes.is_empty() {
            match rustix::io::write(&self.stream, bytes) {
                Ok(written) => bytes = &bytes[written..],
                Err(Errno::INTR) => {}
                Err(Errno::PIPE) => return Err(XenstoreError::Broken),
                Err(errno) => return Err(at("write")(errno)),
            }
        }
        Ok(())
    }
}

/// The node at which a domain's pager publishes its metrics. The guest may read it, but not write
/// it.
pub fn status_path(domain: u16) -> String {
    format!("/local/domain/{domain}/memory/paging")
}

/// A pager's metrics in xenstore. They are removed when this is dropped.
#[derive(Debug)]
pub(super) struct StatusNode {
    store: Xenstore,
    path: String,
    works: bool,
}

impl StatusNode {
    pub(super) fn connect(domain: u16) -> Result<Self, XenstoreError> {
        Ok(Self {
            store: Xenstore::connect()?,
            path: status_path(domain),
            works: true,
        })
    }
}

impl Publish for StatusNode {
    fn publish(&mut self, line: &str) {
        if self.works
            && let Err(error) = self.store.write(&self.path, line)
        {
            tracing::warn!("metrics are not published any more: {error}");
            self.works = false;
        }
    }
}

impl Drop for StatusNode {
    fn drop(&mut self) {
        if self.works {
            // If the domain is gone, the node is gone already.
            let _ = self.store.remove(&self.path);
        }
    }
}

fn text(bytes: &[u8]) -> String {
    let end = bytes.iter().position(|&byte| byte == 0);
    String::from_utf8_lossy(&bytes[..end.unwrap_or(bytes.len())]).into_owned()
}

#[cfg(test)]
mod tests {
    use std::io::{Read as _, Write as _};
    use std::os::unix::net::UnixStream;
    use std::thread;

    use super::*;

    fn pair() -> (Xenstore, UnixStream) {
        let (ours, theirs) = UnixStream::pair().unwrap();
        (Xenstore::on(ours.into()), theirs)
    }

    fn send(daemon: &mut UnixStream, kind: u32, req_id: u32, body: &[u8]) {
        let header = Header {
            kind,
            req_id,
            tx_id: 0,
            len: body.len().try_into().unwrap(),
        };
        daemon.write_all(header.as_bytes()).unwrap();
        daemon.write_all(body).unwrap();
    }

    fn request(daemon: &mut UnixStream) -> (Header, Vec<u8>) {
        let mut header = [0; 16];
        daemon.read_exact(&mut header).unwrap();
        let header = Header::read_from_bytes(&header).unwrap();
        let mut body = vec![0; header.len.try_into().unwrap()];
        daemon.read_exact(&mut body).unwrap();
        (header, body)
    }

    #[test]
    fn watch_events_between_request_and_reply_are_kept_in_order() {
        let (mut store, mut daemon) = pair();
        thread::scope(|scope| {
            scope.spawn(move || {
                let (header, body) = request(&mut daemon);
                assert_eq!((header.kind, &*body), (message::READ, &b"/a\0"[..]));
                send(&mut daemon, message::WATCH_EVENT, 0, b"/x\0first\0");
                send(
                    &mut daemon,
                    message::WATCH_EVENT,
                    0,
                    b"@releaseDomain\0second\0",
                );
                send(&mut daemon, message::READ, header.req_id, b"4096");
                send(&mut daemon, message::WATCH_EVENT, 0, b"/x\0third\0");
            });
            assert_eq!(store.read("/a").unwrap().as_deref(), Some("4096"));
            for token in ["first", "second", "third"] {
                let fired = store.fired(Duration::from_secs(10)).unwrap();
                assert_eq!(fired.as_deref(), Some(token));
            }
            assert_eq!(
                store.fired(Duration::from_secs(10)),
                Err(XenstoreError::Broken),
                "it goes"
            );
        });
    }

    #[test]
    fn a_node_that_is_not_there_is_no_error_and_other_refusals_are() {
        let (mut store, mut daemon) = pair();
        thread::scope(|scope| {
            scope.spawn(move || {
                for error in [&b"ENOENT\0"[..], b"EACCES\0"] {
                    let (header, _) = request(&mut daemon);
                    send(&mut daemon, message::ERROR, header.req_id, error);
                }
            });
            assert_eq!(store.read("/none"), Ok(None));
            let refused = store.write("/mine", "1").unwrap_err();
            assert_eq!(refused.to_string(), "xenstore: /mine: EACCES");
        });
    }

    #[test]
    fn nonsense_from_the_daemon_is_an_error_and_no_panic() {
        let replies: [(u32, u32, &[u8]); 4] = [
            (message::READ, 77, b"a reply to another request"),
            (message::WRITE, 1, b"a reply of another kind"),
            (message::WATCH_EVENT, 0, b"no token"),
            (message::ERROR, 9, b"EINVAL\0"),
        ];
        for (kind, req_id, body) in replies {
            let (mut store, mut daemon) = pair();
            send(&mut daemon, kind, req_id, body);
            assert_eq!(
                store.read("/a"),
                Err(XenstoreError::Broken),
                "{kind} {req_id}"
            );
        }
        let (mut store, mut daemon) = pair();
        let long = Header {
            kind: message::READ,
            req_id: 1,
            tx_id: 0,
            len: u32::MAX,
        };
        daemon.write_all(long.as_bytes()).unwrap();
        assert_eq!(store.read("/a"), Err(XenstoreError::Broken));
        assert!(store.read(&"x".repeat(PAYLOAD_MAX)).is_err());
    }

    #[test]
    fn no_event_within_the_time_is_none() {
        let (mut store, _daemon) = pair();
        assert_eq!(store.fired(Duration::from_millis(1)), Ok(None));
    }
}
