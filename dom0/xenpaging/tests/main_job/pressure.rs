// SPDX-License-Identifier: MIT OR Apache-2.0
//! A host that is short of memory (row C4).

use super::{run, run_until_paged};

/// The guest's own target is its whole size, so pages go out only because the host is short of
/// memory.
#[test]
fn c4_a_guest_makes_room_on_a_host_that_is_short_of_memory() {
    let room = ["--host-memory", "15M", "--watermarks", "1M,2M,4M"];
    let finished = run_until_paged(&[&["--target", "16M"][..], &room].concat());
    finished.nothing_was_lost();
    assert!(finished.figure("evicted") >= 1024, "{}", finished.out);
}

#[test]
fn c4_marks_that_make_no_sense_are_refused_in_a_line() {
    let refused = |marks: &str, why: &str| {
        run(&["--host-memory", "16M", "--watermarks", marks]).refused(2, why);
    };
    refused("1M,2M", "three sizes");
    refused("1M,2M,2M", "require 0 < MIN < LOW < HIGH");
    refused("0,2M,3M", "require 0 < MIN < LOW < HIGH");
    refused("1M,2M,lots", "lots");
    run(&["--watermarks", "1M,2M,3M"]).refused(2, "--host-memory");
    let never = ["--host-memory", "16M", "--watermarks", "1M,2M,17M"];
    run(&never).refused(1, "4352 pages are never free on a host that has 4096");
}
