//! The reporter thread: once a second it passes the figures on to whoever wants them, so that the main
//! thread waits for none of them.

use std::io::{IsTerminal as _, Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::time::Duration;

use parking_lot::{Condvar, Mutex};
use sd_notify::NotifyState;

use super::figures::Figures;
use super::machine::Publish;

/// Where the main thread leaves its figures.
#[derive(Debug, Default)]
pub(super) struct Board {
    state: Mutex<State>,
    ended: Condvar,
}

#[derive(Debug, Default)]
struct State {
    figures: Figures,
    ended: bool,
    /// The terminal has a line that is drawn over.
    live: bool,
}

impl Board {
    /// With `live`, a terminal has a line of figures.
    pub(super) fn new(live: bool) -> Self {
        let board = Self::default();
        board.state.lock().live = live && std::io::stderr().is_terminal();
        board
    }

    /// Somebody else draws on the terminal from here on.
    pub(super) fn give_up_terminal(&self) {
        let mut state = self.state.lock();
        if std::mem::take(&mut state.live) {
            eprint!("{CLEAR}");
        }
    }

    /// Draws the line over the last one; whether there is a place for it.
    fn draw(&self, line: &str) -> bool {
        let state = self.state.lock();
        if state.live {
            eprint!("{CLEAR}{line}");
        }
        state.live
    }

    pub(super) fn post(&self, figures: &Figures) {
        self.state.lock().figures = *figures;
    }

    /// There will be no more.
    pub(super) fn end(&self) {
        self.state.lock().ended = true;
        self.ended.notify_all();
    }

    fn figures(&self) -> Figures {
        self.state.lock().figures
    }

    /// The figures in a second; `None` once there are no more.
    fn next(&self) -> Option<Figures> {
        let mut state = self.state.lock();
        if !state.ended {
            self.ended.wait_for(&mut state, SECOND);
        }
        (!state.ended).then_some(state.figures)
    }
}

/// Back to the start of the line, and nothing on it.
const CLEAR: &str = "\r\x1b[K";
const SECOND: Duration = Duration::from_secs(1);
/// What a client that asks for figures has to say at most, and how long it may take.
const REQUEST_BYTES: usize = 4096;
const CLIENT_PATIENCE: Duration = Duration::from_secs(2);

/// Passes figures on until there are no more.
pub(super) fn report(board: &Board, mut publish: Option<Box<dyn Publish>>) {
    let mut before = board.figures();
    tell_systemd(&[NotifyState::Ready]);
    while let Some(now) = board.next() {
        let line = now.since(&before).to_string();
        if !board.draw(&line) {
            tracing::info!("{line}");
        }
        if let Some(publish) = &mut publish {
            publish.publish(&now.line());
        }
        let status = NotifyState::Status(&line);
        if now.ticks == before.ticks {
            tell_systemd(&[status]);
        } else {
            // The main thread lives.
            tell_systemd(&[status, NotifyState::Watchdog]);
        }
        before = now;
    }
    board.give_up_terminal();
    tell_systemd(&[NotifyState::Stopping]);
}

/// Without systemd this does nothing.
fn tell_systemd(state: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(state) {
        tracing::debug!(%error, "systemd is not told");
    }
}

/// Where Prometheus asks: one client at a time.
pub(super) fn listen(address: SocketAddr) -> std::io::Result<TcpListener> {
    TcpListener::bind(address)
}

/// Answers every client until the process ends.
pub(super) fn serve_metrics(listener: &TcpListener, board: &Board, labels: &str) {
    for client in listener.incoming() {
        let answered = client.and_then(|client| answer(client, board, labels));
        if let Err(error) = answered {
            tracing::debug!(%error, "figures were asked for and not delivered");
        }
    }
}

fn answer(mut client: TcpStream, board: &Board, labels: &str) -> std::io::Result<()> {
    client.set_read_timeout(Some(CLIENT_PATIENCE))?;
    client.set_write_timeout(Some(CLIENT_PATIENCE))?;
    let mut request = [0; REQUEST_BYTES];
    let mut read = 0;
    while !request[..read].windows(4).any(|end| end == b"\r\n\r\n") {
        match client.read(&mut request[read..])? {
            0 => return Ok(()),
            bytes => read += bytes,
        }
    }
    let (status, body) = if request.starts_with(b"GET /metrics ") {
        ("200 OK", board.figures().prometheus(labels))
    } else {
        ("404 Not Found", "only /metrics is here\n".to_owned())
    };
    let head = format!(
        "HTTP/1.1 {status}\r\nContent-Type: text/plain; version=0.0.4\r\nContent-Length: {}\r\n\
         Connection: close\r\n\r\n",
        body.len()
    );
    client.write_all(head.as_bytes())?;
    client.write_all(body.as_bytes())
}

#[cfg(test)]
mod tests {
    use std::thread;

    use super::*;

    fn ask(address: SocketAddr, request: &str) -> String {
        let mut client = TcpStream::connect(address).unwrap();
        client.write_all(request.as_bytes()).unwrap();
        let mut reply = String::new();
        client.read_to_string(&mut reply).unwrap();
        reply
    }

    #[test]
    fn figures_are_served_and_nothing_else_is() {
        let listener = listen("127.0.0.1:0".parse().unwrap()).unwrap();
        let address = listener.local_addr().unwrap();
        let board = Board::default();
        board.post(&Figures {
            resident_pages: 77,
            ..Figures::default()
        });
        thread::spawn(move || serve_metrics(&listener, &board, "{domain=\"3\"}"));
        let reply = ask(address, "GET /metrics HTTP/1.1\r\nHost: here\r\n\r\n");
        assert!(reply.starts_with("HTTP/1.1 200 OK\r\n"), "{reply}");
        assert!(reply.contains("xenpaging_resident_pages{domain=\"3\"} 77\n"));
        assert!(ask(address, "GET / HTTP/1.1\r\n\r\n").starts_with("HTTP/1.1 404"));
        // A client that says too much, or nothing, is let go; the next one is served.
        assert_eq!(ask(address, &"x".repeat(REQUEST_BYTES)), "");
        drop(TcpStream::connect(address).unwrap());
        assert!(ask(address, "GET /metrics HTTP/1.0\r\n\r\n").contains(" 77\n"));
    }
}
