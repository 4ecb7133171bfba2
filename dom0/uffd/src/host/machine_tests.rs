// SPDX-License-Identifier: MIT OR Apache-2.0
use std::time::{Duration, Instant};

use p2m_paging::platform::Platform as _;
use p2m_paging::{Errno, PAGE_SIZE};
use pager_shell::Machine as _;

use super::*;
use crate::link::{Op, PostedPrep};
use crate::pager_side::{CallError, EmbeddedMachine, Hypercalls};

const BUFFERS: usize = 2;

fn machine(test: &str) -> (&'static Machine, String) {
    let name = format!("xenpaging-{test}-{}", std::process::id());
    let options = MachineOptions {
        vcpus: 1,
        cpu: None,
        name: name.clone(),
    };
    let memory = GuestMemory::create(4).unwrap();
    (Machine::start(memory, &options).unwrap(), name)
}

/// Attaches a pager and detaches it again.
fn attach(name: &str) -> Result<(), CallError> {
    let mut calls = Hypercalls::connect(name)?;
    let (_, file) = SharedArea::create("buffers", BUFFERS)?.into_pages();
    calls.attach(&file, BUFFERS).map(drop)
}

fn prep() -> PostedPrep {
    PostedPrep {
        entry: 3,
        gfn: 0,
        buffer: PAGE_SIZE as u64,
    }
}

fn wait_for(mut look: impl FnMut() -> bool) {
    let began = Instant::now();
    while !look() {
        assert!(began.elapsed() < Duration::from_secs(60), "nothing happens");
        thread::sleep(Duration::from_millis(1));
    }
}

/// Whether the mailbox stays locked. Once it is locked, it is not released before the p2m is
/// unlocked.
fn stays_locked(machine: &Machine) -> bool {
    (0..50).all(|_| {
        thread::sleep(Duration::from_millis(1));
        machine.mailbox.try_lock().is_none()
    })
}

#[test]
fn a_round_of_preps_ends_before_another_pager_attaches() {
    let (machine, name) = machine("round");
    let p2m = machine.paging().platform().lock_p2m();
    let mailbox = Mailbox::new(machine.shared).unwrap();
    mailbox.post(prep());
    machine.doorbell.kick().unwrap();
    wait_for(|| !mailbox.has_posted());
    assert!(stays_locked(machine), "taken, and not worked off");
    drop(p2m);
    wait_for(|| mailbox.collect_done().eq([3]));
    assert_eq!(
        mailbox.result(3),
        Err(Errno::ENOTCONN),
        "no pager is attached"
    );
    attach(&name).unwrap();
}

#[test]
fn no_round_of_preps_begins_while_another_pager_attaches() {
    let (machine, name) = machine("attach");
    let p2m = machine.paging().platform().lock_p2m();
    let mailbox = Mailbox::new(machine.shared).unwrap();
    mailbox.post(prep());
    let attaches = thread::spawn(move || attach(&name));
    wait_for(|| !mailbox.has_posted());
    assert!(stays_locked(machine), "cleared, and its buffers not set");
    drop(p2m);
    attaches.join().unwrap().unwrap();
}

/// A pager that attached and left before it enabled paging.
#[test]
fn a_pager_that_never_began_is_told_of_nothing_more() {
    let (machine, name) = machine("never");
    attach(&name).unwrap();
    wait_for(|| machine.pager_exit() == Some(PagerExit::Detached));
    assert!(machine.watch.lock().connection.is_none());
    // The next pager is served.
    let mut calls = Hypercalls::connect(&name).unwrap();
    let (_, file) = SharedArea::create("buffers", BUFFERS).unwrap().into_pages();
    calls.attach(&file, BUFFERS).unwrap();
    wait_for(|| machine.pager_exit().is_none());
    calls.call(Op::Enable).unwrap();
}

/// A pager checks this before it forgets a page: a dropped page may be one that the first pager
/// took out.
#[test]
fn a_pager_is_told_of_pages_that_the_one_before_it_left_out() {
    let (machine, name) = machine("leaves");
    let mut calls = Hypercalls::connect(&name).unwrap();
    assert_eq!(calls.info().unwrap().out_pages, 0);
    let (_, file) = SharedArea::create("buffers", BUFFERS).unwrap().into_pages();
    calls.attach(&file, BUFFERS).unwrap();
    calls.call(Op::Enable).unwrap();
    for op in [Op::Nominate, Op::Evict] {
        let gfns = [1, 2].map(Gfn::new_truncate);
        calls
            .batch(op, gfns, |done| assert_eq!(done, Ok(())))
            .unwrap();
    }
    drop(calls);
    wait_for(|| machine.pager_exit() == Some(PagerExit::Died { out_pages: 2 }));
    let next = EmbeddedMachine::connect(&name).unwrap();
    assert_eq!(next.guest().out_pages, 2);
}
