// SPDX-License-Identifier: MIT OR Apache-2.0
//! Random and all short sequences of operations, on the crate and on a model of it.

use proptest::prelude::*;
use tests_host::lockstep::{Failure, Lockstep, Manner, Op, cells};

/// Operations; the more interesting ones are more likely.
fn op() -> impl Strategy<Value = Op> {
    any::<[u8; 3]>().prop_map(|bytes| Op::decode(&mut bytes.into_iter()).expect("three bytes"))
}

fn honest_op() -> impl Strategy<Value = Op> {
    op().prop_filter("an honest pager", |op| op.is_honest())
}

fn run(vcpus: usize, gfns: usize, spare: usize, ops: Vec<Op>) {
    let cells = cells(vcpus);
    Lockstep::new(&cells, gfns, spare).run(ops);
}

fn config(cases: u32) -> ProptestConfig {
    // A failure prints the smallest sequence and its seed. PROPTEST_CASES sets the number of cases.
    let cases = std::env::var("PROPTEST_CASES").map_or(cases, |n| n.parse().unwrap_or(cases));
    ProptestConfig {
        cases,
        failure_persistence: None,
        ..ProptestConfig::default()
    }
}

proptest! {
    #![proptest_config(config(4000))]

    #[test]
    fn few_vcpus_few_pages(ops in prop::collection::vec(op(), 0..120)) {
        run(3, 3, 2, ops);
    }

    #[test]
    fn more_vcpus_than_slots(ops in prop::collection::vec(op(), 0..200)) {
        run(20, 24, 3, ops);
    }

    #[test]
    fn an_honest_pager_and_memory_for_all(ops in prop::collection::vec(honest_op(), 0..200)) {
        run(18, 12, 12, ops);
    }
}

/// Operations on one page and two vcpus.
const ALPHABET: [Op; 18] = [
    Op::Nominate(0),
    Op::Evict(0),
    Op::Read(0, 0),
    Op::Write(0, 0),
    Op::Write(1, 0),
    Op::Foreign(0),
    Op::Take,
    Op::PrepFilled(0),
    Op::PrepEmpty(0),
    Op::Answer(0, Manner::Honest),
    Op::Event,
    Op::Drop(0, 0),
    Op::Give(0),
    Op::Disable,
    Op::Enable,
    Op::Detach,
    Op::TakeOver,
    Op::Fail(Failure::SetType),
];

/// With the ring full and its pages out: which vcpus are in the wait queue, and for which pages.
const BUSY_ALPHABET: [Op; 14] = [
    Op::Write(8, 0),
    Op::Write(9, 0),
    Op::Write(9, 8),
    Op::Drop(8, 9),
    Op::Drop(10, 0),
    Op::PrepFilled(0),
    Op::Nominate(0),
    Op::Evict(0),
    Op::Answer(0, Manner::Honest),
    Op::Event,
    Op::Foreign(0),
    Op::ShutDown,
    Op::Detach,
    Op::TakeOver,
];

/// Runs every sequence of `depth` operations after `start`; yields how many.
fn enumerate(vcpus: usize, gfns: usize, start: &[Op], alphabet: &[Op], depth: u32) -> u64 {
    let total = (alphabet.len() as u64).pow(depth);
    for number in 0..total {
        let mut rest = number;
        let sequence: Vec<Op> = (0..depth)
            .map(|_| {
                let op = alphabet[usize::try_from(rest % alphabet.len() as u64).unwrap()];
                rest /= alphabet.len() as u64;
                op
            })
            .collect();
        let cells = cells(vcpus);
        let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            Lockstep::new(&cells, gfns, 2).run(start.iter().chain(&sequence).copied());
        }));
        assert!(
            outcome.is_ok(),
            "sequence {number}: {start:?}, then {sequence:?}"
        );
    }
    total
}

/// Release builds go as deep as 20 seconds allow. Debug builds go one step less deep.
const LESS: u32 = if cfg!(debug_assertions) { 2 } else { 0 };

#[test]
fn every_short_sequence_on_one_page() {
    let depth = 5 - LESS;
    let sequences = enumerate(2, 1, &[], &ALPHABET, depth);
    println!("{sequences} sequences of {depth} operations on one page");
    let out = [Op::Nominate(0), Op::Evict(0)];
    let sequences = enumerate(2, 1, &out, &ALPHABET, depth);
    println!("{sequences} sequences of {depth} operations on a page that is out");
}

#[test]
fn every_short_sequence_with_the_ring_full() {
    let depth = 5 - LESS;
    let out = (0..10).flat_map(|gfn| [Op::Nominate(gfn), Op::Evict(gfn)]);
    let full = (1..8).map(|n| Op::Write(n, n));
    let taken = [Op::Take, Op::Take];
    let start: Vec<Op> = out.chain(full).chain(taken).collect();
    let sequences = enumerate(11, 10, &start, &BUSY_ALPHABET, depth);
    println!("{sequences} sequences of {depth} operations with the ring full");
}
