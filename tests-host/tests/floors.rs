// SPDX-License-Identifier: MIT OR Apache-2.0
//! The relay floor needs its second process, which is a program of this package.

use std::path::Path;
use std::process::{Command, Stdio};

use tests_host::floors::{FloorError, Placement, relay};

#[test]
fn every_relayed_fault_arrives_with_its_page_in_every_placement() {
    for placement in Placement::ALL {
        match relay(Path::new(env!("CARGO_BIN_EXE_floors")), placement, 2000) {
            Ok(latency) => assert!(0 < latency.p50_ns && latency.p50_ns <= latency.p99_ns),
            Err(FloorError::OneCpuOnly) if placement.needs_two_cpus() => {}
            Err(error) => panic!("{placement:?}: {error}"),
        }
    }
}

#[test]
fn arguments_that_mean_nothing_are_an_error() {
    let status = Command::new(env!("CARGO_BIN_EXE_floors"))
        .arg("--fast")
        .stderr(Stdio::null())
        .status()
        .expect("it starts");
    assert_eq!(status.code(), Some(2));
}
