// SPDX-License-Identifier: MIT OR Apache-2.0
//! The socket between machine and pager, or between pager and operator. It carries packets of
//! 64-bit words, together with descriptors.

use std::io::{IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Duration;

use rustix::io::Errno;
use rustix::net::sockopt::Timeout;
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags,
    SendAncillaryBuffer, SendAncillaryMessage, SendFlags, Shutdown, SocketAddrUnix, SocketFlags,
    SocketType,
};
use zerocopy::IntoBytes as _;

/// The most words of a packet.
pub const PACKET_WORDS: usize = 2049;
/// The most descriptors that go with one packet.
pub const MAX_FDS: usize = 8;
/// How long a send waits for memory before it tries again.
const MEMORY_PAUSE: Duration = Duration::from_millis(1);

/// Why there is no connection.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ConnectError {
    /// Nothing listens under that name.
    #[error("nobody listens as {name:?}: {errno}")]
    NoHost {
        /// The name.
        name: String,
        /// The kernel's error.
        errno: Errno,
    },
    /// The listener under that name belongs to another user.
    #[error("user {uid} listens as {name:?}")]
    Stranger {
        /// The name.
        name: String,
        /// The listener's user.
        uid: u32,
    },
    /// A system call failed.
    #[error("{step}: {errno}")]
    System {
        /// The system call.
        step: &'static str,
        /// Its error.
        errno: Errno,
    },
}

fn at(step: &'static str) -> impl Fn(Errno) -> ConnectError {
    move |errno| ConnectError::System { step, errno }
}

/// The peer's user, if it is neither this user nor root. Any user may listen under any name and
/// connect to it.
fn untrusted_peer(socket: &OwnedFd) -> Result<Option<u32>, Errno> {
    let peer = rustix::net::sockopt::socket_peercred(socket)?;
    let is_known = peer.uid.is_root() || peer.uid == rustix::process::geteuid();
    Ok((!is_known).then_some(peer.uid.as_raw()))
}

/// The socket to which others connect. Its name is in the abstract namespace, so it leaves no file
/// behind.
#[derive(Debug)]
pub struct Listener(OwnedFd);

/// One end of a connection. Dropping it closes it.
#[derive(Debug)]
pub struct Connection(OwnedFd);

/// A packet that was received.
#[derive(Debug)]
pub struct Received {
    /// How many words of the buffer the packet filled.
    pub words: usize,
    /// The packet's descriptors, in the order in which they were sent.
    pub fds: Vec<OwnedFd>,
}

fn socket() -> Result<OwnedFd, ConnectError> {
    rustix::net::socket_with(
        AddressFamily::UNIX,
        SocketType::SEQPACKET,
        SocketFlags::CLOEXEC,
        None,
    )
    .map_err(at("socket"))
}

impl Listener {
    /// Listens under `name`.
    pub fn bind(name: &str) -> Result<Self, ConnectError> {
        let socket = socket()?;
        let address =
            SocketAddrUnix::new_abstract_name(name.as_bytes()).map_err(at("socket name"))?;
        rustix::net::bind(&socket, &address).map_err(at("bind"))?;
        rustix::net::listen(&socket, 1).map_err(at("listen"))?;
        Ok(Self(socket))
    }

    /// Accepts no more connections: a thread that waits in [`Self::accept`] gets an error.
    pub fn close(&self) {
        // This cannot fail: it is a socket, and it listens.
        let _ = rustix::net::shutdown(&self.0, Shutdown::Both);
    }

    /// Returns the next peer that runs as the same user or as root. Others are refused.
    pub fn accept(&self) -> Result<Connection, Errno> {
        loop {
            let socket = match rustix::net::accept_with(&self.0, SocketFlags::CLOEXEC) {
                Ok(socket) => socket,
                Err(Errno::INTR | Errno::CONNABORTED) => continue,
                Err(errno) => return Err(errno),
            };
            match untrusted_peer(&socket)? {
                None => return Ok(Connection(socket)),
                Some(uid) => tracing::warn!(uid, "refused a connection of another user"),
            }
        }
    }
}

impl Connection {
    /// Connects to the listener `name`, if it runs as the same user or as root.
    pub fn connect(name: &str) -> Result<Self, ConnectError> {
        let socket = socket()?;
        let address =
            SocketAddrUnix::new_abstract_name(name.as_bytes()).map_err(at("socket name"))?;
        rustix::net::connect(&socket, &address).map_err(|errno| ConnectError::NoHost {
            name: name.to_owned(),
            errno,
        })?;
        match untrusted_peer(&socket).map_err(at("credentials"))? {
            None => Ok(Self(socket)),
            Some(uid) => Err(ConnectError::Stranger {
                name: name.to_owned(),
                uid,
            }),
        }
    }

    /// From now on a wait for a packet ends after this time, with EAGAIN.
    pub fn set_timeout(&self, timeout: Duration) -> Result<(), Errno> {
        rustix::net::sockopt::set_socket_timeout(&self.0, Timeout::Recv, Some(timeout))
    }

    /// Creates two connected ends. The second one is for the other process.
    pub fn pair() -> Result<(Self, Self), Errno> {
        let (ours, theirs) = rustix::net::socketpair(
            AddressFamily::UNIX,
            SocketType::SEQPACKET,
            SocketFlags::CLOEXEC,
            None,
        )?;
        Ok((Self(ours), Self(theirs)))
    }

    /// Wraps an end that was received.
    pub fn from_fd(fd: OwnedFd) -> Self {
        Self(fd)
    }

    /// Another handle on the same end.
    pub fn try_clone(&self) -> std::io::Result<Self> {
        self.0.try_clone().map(Self)
    }

    /// Sends a packet, and waits for room and for memory.
    pub fn send(&self, words: &[u64], fds: &[BorrowedFd<'_>]) -> Result<(), Errno> {
        self.send_with(words, fds, SendFlags::NOSIGNAL)
    }

    /// Sends a packet. EAGAIN: there is no room for it now. ENOBUFS or ENOMEM: there is no memory.
    pub fn try_send(&self, words: &[u64]) -> Result<(), Errno> {
        self.send_with(words, &[], SendFlags::NOSIGNAL | SendFlags::DONTWAIT)
    }

    fn send_with(
        &self,
        words: &[u64],
        fds: &[BorrowedFd<'_>],
        flags: SendFlags,
    ) -> Result<(), Errno> {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_FDS))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        if !fds.is_empty() && !control.push(SendAncillaryMessage::ScmRights(fds)) {
            return Err(Errno::INVAL);
        }
        until_sent(flags, || {
            let bytes = IoSlice::new(words.as_bytes());
            rustix::net::sendmsg(&self.0, &[bytes], &mut control, flags).map(drop)
        })
    }

    /// Waits for a packet. `None`: the other side is gone. EMSGSIZE: the packet was too long, or
    /// its length was not a whole number of words.
    pub fn receive(&self, words: &mut [u64; PACKET_WORDS]) -> Result<Option<Received>, Errno> {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_FDS))];
        loop {
            let mut control = RecvAncillaryBuffer::new(&mut space);
            let mut bytes = [IoSliceMut::new(words.as_mut_bytes())];
            let flags = RecvFlags::CMSG_CLOEXEC;
            let received = match rustix::net::recvmsg(&self.0, &mut bytes, &mut control, flags) {
                Ok(received) => received,
                Err(Errno::INTR) => continue,
                Err(Errno::CONNRESET) => return Ok(None),
                Err(errno) => return Err(errno),
            };
            if received.bytes == 0 {
                return Ok(None);
            }
            let cut = ReturnFlags::TRUNC | ReturnFlags::CTRUNC;
            if received.flags.intersects(cut) || !received.bytes.is_multiple_of(8) {
                return Err(Errno::MSGSIZE);
            }
            let fds = control
                .drain()
                .filter_map(|message| match message {
                    RecvAncillaryMessage::ScmRights(fds) => Some(fds),
                    _ => None,
                })
                .flatten()
                .collect();
            return Ok(Some(Received {
                words: received.bytes / 8,
                fds,
            }));
        }
    }
}

/// Sends, and tries again after a temporary error with which the kernel has sent nothing.
///
/// Packets are charged to the memory cgroup. A send that may wait for room therefore waits for
/// memory too: a lost reply, or a lost call, would end the pager. The attempts end with EPIPE when
/// the peer is gone.
fn until_sent(flags: SendFlags, mut send: impl FnMut() -> Result<(), Errno>) -> Result<(), Errno> {
    loop {
        match send() {
            Err(Errno::INTR) => {}
            Err(Errno::NOBUFS | Errno::NOMEM) if !flags.contains(SendFlags::DONTWAIT) => {
                std::thread::sleep(MEMORY_PAUSE);
            }
            done => return done,
        }
    }
}

impl AsFd for Connection {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use std::thread;

    use super::*;
    use crate::EventChannel;

    #[test]
    fn packets_arrive_whole_with_their_descriptors() {
        let (a, b) = Connection::pair().unwrap();
        let event = EventChannel::new().unwrap();
        a.send(&[1, 2, 3], &[event.as_fd()]).unwrap();
        a.send(&[4], &[]).unwrap();
        let mut words = [0; PACKET_WORDS];
        let mut first = b.receive(&mut words).unwrap().unwrap();
        assert_eq!((first.words, first.fds.len()), (3, 1));
        assert_eq!(words[..3], [1, 2, 3]);
        EventChannel::from_fd(first.fds.remove(0)).kick().unwrap();
        event.wait().unwrap();
        assert_eq!(b.receive(&mut words).unwrap().unwrap().words, 1);
        drop(a);
        assert!(b.receive(&mut words).unwrap().is_none());
    }

    #[test]
    fn a_packet_of_odd_length_is_an_error_and_no_panic() {
        let (a, b) = Connection::pair().unwrap();
        rustix::net::send(&a, &[1, 2, 3], SendFlags::empty()).unwrap();
        let mut words = [0; PACKET_WORDS];
        assert_eq!(b.receive(&mut words).unwrap_err(), Errno::MSGSIZE);
        let long = vec![0_u64; PACKET_WORDS + 1];
        a.send(&long, &[]).unwrap();
        assert_eq!(b.receive(&mut words).unwrap_err(), Errno::MSGSIZE);
    }

    /// Sends where `times` attempts fail with `errno`. Also returns the number of attempts.
    fn sends_after(flags: SendFlags, errno: Errno, times: u32) -> (Result<(), Errno>, u32) {
        let (a, b) = Connection::pair().unwrap();
        let mut tries = 0;
        let sent = until_sent(flags, || {
            tries += 1;
            if tries <= times {
                return Err(errno);
            }
            rustix::net::send(&a, 7_u64.as_bytes(), flags).map(drop)
        });
        drop(a);
        let mut words = [0; PACKET_WORDS];
        let received = b.receive(&mut words).unwrap();
        assert_eq!(received.is_some(), sent.is_ok());
        (sent, tries)
    }

    /// The kernel has sent nothing then. Packets are charged to the memory cgroup, and if a reply
    /// were lost, nobody would page the guest's pages in.
    #[test]
    fn a_send_that_finds_no_memory_is_tried_again() {
        for errno in [Errno::INTR, Errno::NOBUFS, Errno::NOMEM] {
            let sent = sends_after(SendFlags::NOSIGNAL, errno, 3);
            assert_eq!(sent, (Ok(()), 4), "{errno}");
        }
        let flags = SendFlags::NOSIGNAL | SendFlags::DONTWAIT;
        for errno in [Errno::NOBUFS, Errno::NOMEM] {
            assert_eq!(sends_after(flags, errno, 3), (Err(errno), 1), "{errno}");
        }
        let gone = sends_after(SendFlags::NOSIGNAL, Errno::PIPE, 3);
        assert_eq!(gone, (Err(Errno::PIPE), 1));
    }

    #[test]
    fn a_listener_is_found_by_name_and_its_absence_is_clear() {
        let name = format!("xenpaging-test-{}", std::process::id());
        let listener = Listener::bind(&name).unwrap();
        thread::scope(|scope| {
            scope.spawn(|| listener.accept().unwrap().send(&[9], &[]).unwrap());
            let mut words = [0; PACKET_WORDS];
            let connection = Connection::connect(&name).unwrap();
            connection.receive(&mut words).unwrap().unwrap();
            assert_eq!(words[0], 9);
        });
        drop(listener);
        let error = Connection::connect(&name).unwrap_err();
        assert!(error.to_string().contains(&name), "{error}");
    }
}
