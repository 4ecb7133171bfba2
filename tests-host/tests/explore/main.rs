// SPDX-License-Identifier: MIT OR Apache-2.0
//! A small instance of the protocol, explored completely: vcpus, pager, ring, another domain that
//! maps pages, and pagers that attach and detach, over the crate's own code.
//!
//! Each actor runs real operations on a stack of its own and stops wherever another CPU may run
//! ([`fiber`]). All orders are tried ([`search`]). In every state the rules are checked
//! ([`check`]). All vcpus and pages are distinct: there is no reduction by symmetry.
//! `docs/model.md` has the figures.

#![allow(clippy::cast_possible_truncation)] // Small machines: all numbers have few bits.

mod check;
mod config;
mod fiber;
mod key;
mod lock;
mod machine;
mod ops;
mod outside;
mod search;
mod steps;
mod world;

use config::{Config, LONG, SHORT};
use search::explore;

/// `MODEL_ONLY` names a part of a bound, to explore that one.
fn all(bounds: &[Config]) -> usize {
    let only = std::env::var("MODEL_ONLY").unwrap_or_default();
    let mut states = 0;
    for config in bounds.iter().filter(|c| c.name.contains(&only)) {
        match explore(*config) {
            Ok(explored) => states += explored.states,
            Err(violation) => panic!("{}: {violation}", config.name),
        }
    }
    println!("{states} states in all");
    states
}

#[test]
fn within_small_bounds() {
    // One bound alone has more states than the largest of stateright's examples. A search that
    // stops early has fewer.
    let whole = std::env::var_os("MODEL_ONLY").is_none();
    assert!(all(&SHORT) > 100_000 || !whole);
}

/// Minutes to hours: `cargo test --release -p tests-host --test explore -- --ignored --nocapture`.
#[test]
#[ignore = "takes minutes to hours"]
fn within_large_bounds() {
    all(&LONG);
}
