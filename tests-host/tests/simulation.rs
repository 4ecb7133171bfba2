// SPDX-License-Identifier: MIT OR Apache-2.0
//! The simulation, with enough seeds to reach every cell of the table.

use p2m_paging::p2m::table::Outcome;
use tests_host::simulate::{Knob, Scenario, Trace, run, run_many};

/// Enough for the rarest cells: a drop of a page that is paging in occurs about once in a thousand
/// runs.
const SEEDS: u64 = 4000;

/// Runs that once failed, each with the defect that it found. See docs/simulation.md.
const FOUND: &[(&str, &str)] = &[
    (
        "a back end's write to a nominated page was lost",
        "seed=70,steps=393,gfns=24,high=7,vcpus=2,spare=12,target=35,mru=4,batch=11,writes=130,hot=39,\
         mappers=4,others=1,lost=65,short=46,room=15,fails=4,buffers=134,races=193",
    ),
    (
        "a late answer took a page home that the pager had not filled",
        "seed=27714,steps=542,gfns=10,vcpus=16,spare=5,npt=1,target=24,batch=3,writes=168,lost=133,\
         torn=14,empty=780,races=362",
    ),
    (
        "a page dropped before its request was heard kept its slot",
        "seed=27,steps=1303,gfns=25,vcpus=13,spare=12,npt=1,target=13,batch=10,writes=462,hot=627,\
         balloon=149,others=1,lost=228,doubled=55,short=30,fails=62,hostile=12,rogue=1",
    ),
    (
        "vcpus whose tasks all waited, and spun, kept others that share their CPU from running",
        "seed=17,gfns=28,vcpus=2,cpus=1,kernel=1",
    ),
    (
        "a pager was replaced while the hypervisor took its answers, and the simulation counted them wrongly",
        "seed=73740,steps=1711,target=75,writes=558,lost=111,disk=188,torn=1,kills=1,hostile=133,races=411",
    ),
    (
        "a page given back between its empty frame and its contents was no victim any more",
        "seed=774885,steps=434,gfns=28,vcpus=4,spare=8,target=78,batch=5,writes=509,balloon=170,tools=3,\
         lost=230,empty=782,races=260,zeros=457,cpus=3,kernel=1",
    ),
    (
        "the same, of a guest whose vcpus run tasks",
        "seed=535255,steps=582,gfns=16,high=1,vcpus=2,target=8,mru=1,batch=8,writes=882,hot=88,balloon=31,\
         tools=6,lost=169,disk=2,rogue=1,empty=833,races=343,tasks=5",
    ),
    (
        "more was out than a full store was known to hold, and page-out stood still",
        "seed=404962,steps=1092,gfns=36,vcpus=9,target=75,policy=1,batch=4,writes=703,torn=1,short=1,room=34,\
         empty=995,races=91,areas=2",
    ),
    (
        "a pager that took over forgot what it had evicted, for a late drop of what was lost",
        "seed=240931,steps=2178,gfns=41,vcpus=58,target=34,policy=1,batch=10,balloon=175,others=1,lost=159,doubled=24,\
         kills=2,destroy=1,rogue=1,areas=4,cpus=1",
    ),
    (
        "the same, and who wanted the page waited for ever",
        "seed=412913,steps=1807,gfns=41,vcpus=58,target=40,mru=1,batch=3,writes=136,hot=211,mappers=4,balloon=24,\
         others=1,lost=341,short=9,room=37,kills=1,destroy=1,rogue=1,zeros=386,cpus=1",
    ),
    (
        "whether a page is gone cannot be learned if it does not read back",
        "seed=7745,steps=1252,gfns=14,policy=2,batch=3,balloon=64,torn=16,short=69,fails=44,buffers=69,kills=1,rogue=1,\
         races=372",
    ),
];

#[test]
fn thousands_of_seeds_hold_and_see_every_legal_move() {
    let tally = run_many(0..SEEDS, None, 2);
    if let Some((scenario, failed)) = &tally.failed {
        panic!("{scenario}\nstep {}: {}", failed.step, failed.what);
    }
    assert_eq!(tally.passed, SEEDS);
    let (missed, legal) = tally
        .sum
        .coverage
        .missed(|outcome| matches!(outcome, Outcome::To(_)));
    assert_eq!((missed, legal), (vec![], 26));
}

#[test]
fn the_same_seed_is_the_same_run_on_any_thread() {
    let hash = |seed| {
        let trace = Trace::new();
        let passed = run(&Scenario::of_seed(seed), &trace).expect("it holds");
        (passed.hash, trace.hash(), passed.happened)
    };
    for seed in 0..20 {
        let elsewhere = std::thread::spawn(move || hash(seed)).join();
        assert_eq!(hash(seed), elsewhere.expect("no panic"), "seed {seed}");
    }
    assert_ne!(hash(0).0, hash(1).0);
}

/// Tasks on vcpus, vcpus on fewer CPUs: vcpus that wait for pages are descheduled, and woken.
#[test]
fn d7_d8_guests_with_tasks_hold_on_shared_cpus() {
    let mut switches = 0;
    for seed in 0..150 {
        let mut scenario = Scenario::of_seed(seed);
        let few = u32::try_from(seed).expect("small");
        scenario.set(Knob::Kernel, 0);
        scenario.set(Knob::Cpus, 1 + few % 3);
        scenario.set(Knob::Tasks, 1 + few % 12);
        switches += switches_of(&scenario);
    }
    assert!(switches > 10_000, "{switches}");
}

/// Processes with page tables in the guest's memory, scheduled on vcpus, these on fewer CPUs.
#[test]
fn c9_d2_d8_guests_that_page_hold_on_shared_cpus() {
    let mut switches = 0;
    for seed in 0..150 {
        let mut scenario = Scenario::of_seed(seed);
        let few = u32::try_from(seed).expect("small");
        scenario.set(Knob::Tasks, 0);
        scenario.set(Knob::Kernel, 1 + few % 3);
        scenario.set(Knob::Gfns, scenario.get(Knob::Gfns).max(52));
        scenario.set(Knob::Vcpus, 1 + few % 4);
        scenario.set(Knob::Cpus, 1 + few % 3);
        switches += switches_of(&scenario);
    }
    assert!(switches > 10_000, "{switches}");
}

#[test]
fn what_once_failed_holds() {
    for (what, scenario) in FOUND {
        let scenario: Scenario = scenario.parse().expect("a scenario");
        if let Err(failed) = run(&scenario, &Trace::new()) {
            panic!(
                "{what}, again: {scenario}\nstep {}: {}",
                failed.step, failed.what
            );
        }
    }
}

/// How often tasks are switched in a run, which must not fail.
fn switches_of(scenario: &Scenario) -> u64 {
    match run(scenario, &Trace::new()) {
        Ok(passed) => passed.switches,
        Err(failed) => panic!("{scenario}\nstep {}: {}", failed.step, failed.what),
    }
}
