// SPDX-License-Identifier: MIT OR Apache-2.0
//! A connection against a daemon that is made up message by message.

use std::io::Write as _;
use std::os::unix::net::UnixStream;
use std::thread;
use std::time::{Duration, Instant};

use proptest::prelude::*;
use zerocopy::IntoBytes as _;

use super::super::TEST_LIMIT;
use super::fake_daemon::{request, send};
use super::{Header, PAYLOAD_MAX, Xenstore, XenstoreError, message};

fn pair() -> (Xenstore, UnixStream) {
    let (ours, theirs) = UnixStream::pair().unwrap();
    ours.set_nonblocking(true).unwrap();
    (Xenstore::on(ours.into(), true), theirs)
}

/// Waits for a watch to fire.
fn next(store: &mut Xenstore) -> Result<String, XenstoreError> {
    let begun = Instant::now();
    loop {
        if let Some(token) = store.fired()? {
            return Ok(token);
        }
        assert!(begun.elapsed() < TEST_LIMIT);
        thread::yield_now();
    }
}

#[test]
fn watch_events_between_request_and_reply_are_kept_in_order() {
    let (mut store, mut daemon) = pair();
    thread::scope(|scope| {
        scope.spawn(move || {
            let (header, body) = request(&mut daemon).unwrap();
            assert_eq!((header.kind, &*body), (message::READ, &b"/a\0"[..]));
            send(&mut daemon, message::WATCH_EVENT, 0, b"/x\0first\0").unwrap();
            send(
                &mut daemon,
                message::WATCH_EVENT,
                0,
                b"@releaseDomain\0second\0",
            )
            .unwrap();
            send(&mut daemon, message::READ, header.req_id, b"4096").unwrap();
            send(&mut daemon, message::WATCH_EVENT, 0, b"/x\0third\0").unwrap();
        });
        assert_eq!(store.read("/a").unwrap().as_deref(), Some("4096"));
        for token in ["first", "second", "third"] {
            assert_eq!(next(&mut store), Ok(token.into()));
        }
        assert_eq!(next(&mut store), Err(XenstoreError::Broken), "it goes");
    });
}

#[test]
fn a_node_that_is_not_there_is_no_error_and_other_refusals_are() {
    let (mut store, mut daemon) = pair();
    thread::scope(|scope| {
        scope.spawn(move || {
            for error in [&b"ENOENT\0"[..], b"EACCES\0"] {
                let (header, _) = request(&mut daemon).unwrap();
                send(&mut daemon, message::ERROR, header.req_id, error).unwrap();
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
        send(&mut daemon, kind, req_id, body).unwrap();
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
fn a_request_has_a_time_limit_and_a_late_reply_is_not_taken_for_another() {
    let (mut store, mut daemon) = pair();
    assert_eq!(store.fired(), Ok(None));
    store.limit = Duration::from_millis(20);
    assert_eq!(store.read("/a"), Err(XenstoreError::TimedOut));
    // Nothing more is sent to a daemon that hangs.
    assert_eq!(store.read("/b"), Err(XenstoreError::TimedOut));
    store.limit = TEST_LIMIT;
    thread::scope(|scope| {
        scope.spawn(move || {
            for (path, value) in [(&b"/a\0"[..], &b"late"[..]), (b"/c\0", b"in time")] {
                let (header, body) = request(&mut daemon).unwrap();
                assert_eq!(body, path);
                send(&mut daemon, message::READ, header.req_id, value).unwrap();
            }
        });
        assert_eq!(store.read("/c").unwrap().as_deref(), Some("in time"));
    });
}

#[test]
fn a_daemon_that_takes_nothing_delays_a_request_no_longer_than_its_limit() {
    let (mut store, _daemon) = pair();
    // Requests fill the socket, as if each had been answered.
    store.limit = Duration::ZERO;
    let full = loop {
        store.unanswered = None;
        match store.write("/a", &"x".repeat(PAYLOAD_MAX - 3)) {
            Err(XenstoreError::TimedOut) if store.unanswered.is_some() => {}
            error => break error,
        }
    };
    let full = full.unwrap_err();
    assert!(
        matches!(full, XenstoreError::TimedOut | XenstoreError::Broken),
        "{full}"
    );
}

/// A message of a daemon that may be wrong in every field: kind, request, length, body.
fn any_message() -> impl Strategy<Value = Vec<u8>> {
    let kind = prop_oneof![
        Just(message::READ),
        Just(message::WATCH_EVENT),
        Just(message::ERROR),
        any::<u32>(),
    ];
    let request = prop_oneof![Just(1_u32), 0..3_u32, any::<u32>()];
    let wrong_length = prop_oneof![Just(None), any::<u32>().prop_map(Some)];
    let body = prop_oneof![
        prop::collection::vec(any::<u8>(), 0..40),
        "[a-z@/]{0,9}\0[a-z]{0,9}\0?".prop_map(String::into_bytes),
    ];
    (
        kind,
        request,
        prop::option::weighted(0.1, wrong_length),
        body,
    )
        .prop_map(|(kind, req_id, len, body)| {
            let header = Header {
                kind,
                req_id,
                tx_id: 0,
                len: len.flatten().unwrap_or(body.len().try_into().unwrap()),
            };
            [header.as_bytes(), &body].concat()
        })
}

proptest! {
    /// Whatever the daemon sends, the first reply to the first request decides, and nothing panics.
    #[test]
    fn a_daemon_that_sends_anything_is_answered_or_refused(
        messages in prop::collection::vec(any_message(), 0..8),
        cut in 0..64_usize,
    ) {
        let (mut store, mut daemon) = pair();
        let mut stream = messages.concat();
        stream.truncate(stream.len().saturating_sub(cut));
        daemon.write_all(&stream).unwrap();
        daemon.shutdown(std::net::Shutdown::Write).unwrap();
        let answer = store.read("/a");
        let is_reply = |message: &&Vec<u8>| {
            let kind = u32::from_ne_bytes(message[..4].try_into().unwrap());
            kind != message::WATCH_EVENT
        };
        let first = messages.iter().find(is_reply).map(|message| &message[..8]);
        let asked = [message::READ.to_ne_bytes(), 1_u32.to_ne_bytes()].concat();
        let is_whole = |message: &Vec<u8>| {
            u32::from_ne_bytes(message[12..16].try_into().unwrap()) as usize == message.len() - 16
        };
        if answer.as_ref().is_ok_and(Option::is_some) && messages.iter().all(is_whole) {
            prop_assert_eq!(first, Some(&asked[..]));
        }
        // What is left of the stream ends, too.
        while store.fired().is_ok_and(|token| token.is_some()) {}
    }
}
