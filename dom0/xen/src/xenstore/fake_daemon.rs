// SPDX-License-Identifier: MIT OR Apache-2.0
//! A xenstore daemon for tests. It can hang, and it can restart.

use std::collections::BTreeMap;
use std::io::{self, Read as _, Write as _};
use std::net::Shutdown;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread;

use parking_lot::{Condvar, Mutex};
use zerocopy::{FromBytes as _, IntoBytes as _};

use super::wire::text;
use super::{Header, message};

pub(crate) fn send(daemon: &mut UnixStream, kind: u32, req_id: u32, body: &[u8]) -> io::Result<()> {
    let header = Header {
        kind,
        req_id,
        tx_id: 0,
        len: body.len().try_into().unwrap(),
    };
    daemon.write_all(&[header.as_bytes(), body].concat())
}

pub(crate) fn request(daemon: &mut UnixStream) -> io::Result<(Header, Vec<u8>)> {
    let mut header = [0; 16];
    daemon.read_exact(&mut header)?;
    let header = Header::read_from_bytes(&header).unwrap();
    let mut body = vec![0; header.len.try_into().unwrap()];
    daemon.read_exact(&mut body)?;
    Ok((header, body))
}

/// The daemon. Its clients are disconnected when this is dropped.
pub(crate) struct FakeDaemon {
    path: PathBuf,
    shared: Arc<Shared>,
}

#[derive(Default)]
struct Shared {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    nodes: BTreeMap<String, String>,
    clients: Vec<UnixStream>,
    watches: Vec<(usize, String, String)>,
    hangs: bool,
}

impl FakeDaemon {
    pub(crate) fn start(path: &Path, nodes: &[(&str, &str)]) -> Self {
        let shared = Arc::new(Shared::default());
        let owned = |(path, value): &(&str, &str)| ((*path).into(), (*value).into());
        shared.state.lock().nodes = nodes.iter().map(owned).collect();
        let listener = UnixListener::bind(path).unwrap();
        let serving = Arc::clone(&shared);
        thread::spawn(move || {
            while let Ok((stream, _)) = listener.accept() {
                let shared = Arc::clone(&serving);
                thread::spawn(move || shared.serve(stream));
            }
        });
        Self {
            path: path.to_owned(),
            shared,
        }
    }

    /// From now on it receives requests and does not answer, or answers them all.
    pub(crate) fn hang(&self, hangs: bool) {
        self.shared.state.lock().hangs = hangs;
        self.shared.changed.notify_all();
    }

    pub(crate) fn set(&self, path: &str, value: &str) {
        self.shared.state.lock().write(path, value);
        self.shared.changed.notify_all();
    }

    pub(crate) fn value(&self, path: &str) -> Option<String> {
        self.shared.state.lock().nodes.get(path).cloned()
    }

    /// Waits until the node has this value.
    pub(crate) fn await_value(&self, path: &str, value: Option<&str>) {
        let mut state = self.shared.state.lock();
        let differs = |state: &mut State| state.nodes.get(path).map(String::as_str) != value;
        let waited =
            self.shared
                .changed
                .wait_while_for(&mut state, differs, super::super::TEST_LIMIT);
        assert!(!waited.timed_out(), "{path}: {:?}", state.nodes.get(path));
    }
}

impl Drop for FakeDaemon {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.path);
        self.hang(false);
        let state = self.shared.state.lock();
        for client in &state.clients {
            let _ = client.shutdown(Shutdown::Both);
        }
    }
}

impl State {
    fn write(&mut self, path: &str, value: &str) {
        self.nodes.insert(path.into(), value.into());
        let fired = self.watches.iter().filter(|(_, at, _)| at == path);
        for (client, at, token) in fired {
            let body = format!("{at}\0{token}\0");
            let _ = send(
                &mut self.clients[*client],
                message::WATCH_EVENT,
                0,
                body.as_bytes(),
            );
        }
    }
}

impl Shared {
    fn serve(&self, mut stream: UnixStream) {
        let client = {
            let mut state = self.state.lock();
            state.clients.push(stream.try_clone().unwrap());
            state.clients.len() - 1
        };
        while let Ok((header, body)) = request(&mut stream) {
            let mut state = self.state.lock();
            self.changed.wait_while(&mut state, |state| state.hangs);
            let (path, rest) = body.split_at(body.iter().position(|byte| *byte == 0).unwrap());
            let (path, rest) = (text(path), text(&rest[1..]));
            let mut event = None;
            let reply = match header.kind {
                message::READ => state.nodes.get(&path).cloned(),
                message::WRITE => {
                    state.write(&path, &rest);
                    Some("OK\0".into())
                }
                message::RM => state.nodes.remove(&path).map(|_| "OK\0".into()),
                message::WATCH => {
                    event = Some(format!("{path}\0{rest}\0"));
                    state.watches.push((client, path, rest));
                    Some("OK\0".into())
                }
                _ => None,
            };
            let (kind, body) = match reply {
                Some(reply) => (header.kind, reply),
                None => (message::ERROR, "ENOENT\0".into()),
            };
            let mut sent = send(&mut stream, kind, header.req_id, body.as_bytes());
            if let (Ok(()), Some(event)) = (&sent, event) {
                sent = send(&mut stream, message::WATCH_EVENT, 0, event.as_bytes());
            }
            drop(state);
            self.changed.notify_all();
            if sent.is_err() {
                return;
            }
        }
    }
}
