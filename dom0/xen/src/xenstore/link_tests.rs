// SPDX-License-Identifier: MIT OR Apache-2.0
//! The xenstore thread while its daemon hangs and restarts.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::super::TEST_LIMIT;
use super::fake_daemon::FakeDaemon;
use super::{Link, News, Xenstore};

const TARGET: &str = "/local/domain/3/memory/target-tot_pages";
const STATUS: &str = "/local/domain/3/memory/paging";
const STATE: &str = "/local/domain/0/device-model/3/state";
const COMMAND: &str = "/local/domain/0/device-model/3/command";

fn start(path: &Path) -> Arc<Link> {
    let connect = {
        let path = path.to_owned();
        move || {
            let mut store = Xenstore::connect_at(&path)?;
            store.limit = Duration::from_millis(50);
            Ok(store)
        }
    };
    let link = Link::new(3).unwrap();
    link.start_with(connect().unwrap(), connect);
    link
}

/// The next target that differs from the last one.
fn target(link: &Link, last: &str) -> String {
    let begun = Instant::now();
    loop {
        match link.wait(TEST_LIMIT) {
            News::Target(target) if target != last => return target,
            News::Over => panic!("the thread has ended"),
            _ => assert!(begun.elapsed() < TEST_LIMIT, "the target stays {last}"),
        }
    }
}

#[test]
fn a_daemon_that_restarts_is_connected_to_again_and_watched_again() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("socket");
    let daemon = FakeDaemon::start(&path, &[(TARGET, "400")]);
    let link = start(&path);
    assert_eq!(target(&link, ""), "400");
    daemon.set(TARGET, "300");
    assert_eq!(target(&link, "400"), "300");
    link.publish("one");
    daemon.await_value(STATUS, Some("one"));
    drop(daemon);
    let daemon = FakeDaemon::start(&path, &[(TARGET, "200")]);
    assert_eq!(target(&link, "300"), "200");
    daemon.set(TARGET, "100");
    assert_eq!(target(&link, "200"), "100");
    link.publish("two");
    daemon.await_value(STATUS, Some("two"));
    link.close(TEST_LIMIT);
    assert_eq!(daemon.value(STATUS), None);
    assert_eq!(link.wait(TEST_LIMIT), News::Over);
}

#[test]
fn a_daemon_that_hangs_delays_nobody_and_is_served_again_when_it_continues() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("socket");
    let daemon = FakeDaemon::start(&path, &[(TARGET, "400"), (STATE, "running")]);
    let link = start(&path);
    assert_eq!(target(&link, ""), "400");
    daemon.hang(true);
    let begun = Instant::now();
    for _ in 0..1000 {
        link.flush_cache();
        link.publish("hung");
    }
    // Longer than a request may take.
    while begun.elapsed() < Duration::from_millis(200) {
        link.wait(Duration::from_millis(10));
    }
    assert!(begun.elapsed() < TEST_LIMIT / 2);
    daemon.hang(false);
    daemon.set(TARGET, "200");
    assert_eq!(target(&link, "400"), "200");
    link.publish("two");
    daemon.await_value(STATUS, Some("two"));
    link.flush_cache();
    daemon.await_value(COMMAND, Some("flush-cache"));
    daemon.hang(true);
    let begun = Instant::now();
    link.close(Duration::from_millis(100));
    assert!(begun.elapsed() < TEST_LIMIT / 2, "the end waits");
}

#[test]
fn a_domain_without_a_device_model_gets_no_command() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("socket");
    let daemon = FakeDaemon::start(&path, &[]);
    let link = start(&path);
    link.flush_cache();
    link.publish("after the command");
    daemon.await_value(STATUS, Some("after the command"));
    link.close(TEST_LIMIT);
    assert_eq!(daemon.value(COMMAND), None);
}
