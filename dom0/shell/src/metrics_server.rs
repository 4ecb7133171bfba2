// SPDX-License-Identifier: MIT OR Apache-2.0
//! Serves the metrics of all guests of this process to Prometheus.

use std::io::{self, Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::time::Duration;

use super::metrics::prometheus;
use super::pressure::PagerHandle;

/// The most bytes of a client's request, and the longest that the client may take.
const REQUEST_BYTES: usize = 4096;
const CLIENT_TIMEOUT: Duration = Duration::from_secs(2);

/// Opens the socket at which Prometheus connects, one client at a time.
pub fn listen(address: SocketAddr) -> io::Result<TcpListener> {
    TcpListener::bind(address)
}

/// Answers clients until the process ends. Each guest's metrics carry its labels, such as
/// `{name="value"}`. A guest that is gone is left out.
pub fn serve(listener: &TcpListener, guests: &[(String, PagerHandle)]) {
    for client in listener.incoming() {
        let answered = client.and_then(|client| answer(client, guests));
        if let Err(error) = answered {
            tracing::debug!(%error, "a request for metrics failed");
        }
    }
}

fn answer(mut client: TcpStream, guests: &[(String, PagerHandle)]) -> io::Result<()> {
    client.set_read_timeout(Some(CLIENT_TIMEOUT))?;
    client.set_write_timeout(Some(CLIENT_TIMEOUT))?;
    let mut request = [0; REQUEST_BYTES];
    let mut read = 0;
    while !request[..read].windows(4).any(|end| end == b"\r\n\r\n") {
        match client.read(&mut request[read..])? {
            0 => return Ok(()),
            bytes => read += bytes,
        }
    }
    let (status, body) = if request.starts_with(b"GET /metrics ") {
        let living = guests.iter().filter(|(_, handle)| !handle.is_finished());
        let metrics = living.map(|(labels, handle)| (&**labels, handle.metrics()));
        ("200 OK", prometheus(&metrics.collect::<Vec<_>>()))
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
    use crate::Metrics;

    fn ask(address: SocketAddr, request: &str) -> String {
        let mut client = TcpStream::connect(address).unwrap();
        client.write_all(request.as_bytes()).unwrap();
        let mut reply = String::new();
        client.read_to_string(&mut reply).unwrap();
        reply
    }

    #[test]
    fn metrics_are_served_and_nothing_else_is() {
        let listener = listen("127.0.0.1:0".parse().unwrap()).unwrap();
        let address = listener.local_addr().unwrap();
        let handle = PagerHandle::detached();
        handle.post(&Metrics {
            resident_pages: 77,
            ..Metrics::default()
        });
        thread::spawn(move || serve(&listener, &[("{domain=\"3\"}".into(), handle)]));
        let reply = ask(address, "GET /metrics HTTP/1.1\r\nHost: here\r\n\r\n");
        assert!(reply.starts_with("HTTP/1.1 200 OK\r\n"), "{reply}");
        assert!(reply.contains("xenpaging_resident_pages{domain=\"3\"} 77\n"));
        assert!(ask(address, "GET / HTTP/1.1\r\n\r\n").starts_with("HTTP/1.1 404"));
        // The server closes the connection of a client that sends too much, or nothing, and serves
        // the next.
        assert_eq!(ask(address, &"x".repeat(REQUEST_BYTES)), "");
        drop(TcpStream::connect(address).unwrap());
        assert!(ask(address, "GET /metrics HTTP/1.0\r\n\r\n").contains(" 77\n"));
    }
}
