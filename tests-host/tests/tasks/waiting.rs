// SPDX-License-Identifier: MIT OR Apache-2.0
//! Tasks that wait, are woken, give way, and move (rows D7 and D8).

use std::cell::Cell;
use std::rc::Rc;

use tests_host::scheduler::{Policy, State, Waker};
use tests_host::tasks::{Exit, Interrupted, Mm, WaitQueue};

use super::{CPU, OTHER, Said, TICK_NS, boot, run_all, spawn};

#[test]
fn d7_the_tick_takes_the_cpu_away_at_the_next_occasion() {
    let kernel = boot(1);
    let said = Said::default();
    for name in ["a", "b"] {
        let said = said.clone();
        spawn(&kernel, move |kernel| {
            for _ in 0..250 {
                said.borrow_mut().push(name);
                kernel.trap(name);
            }
        });
    }
    for now in 0..1000 {
        kernel.advance(now * TICK_NS);
        kernel.run(CPU);
        kernel.tick(CPU);
    }
    let said = said.borrow();
    let stretches: Vec<_> = said.chunk_by(PartialEq::eq).map(<[_]>::len).collect();
    assert_eq!(stretches, [100, 100, 100, 100, 50, 50]);
}

#[test]
fn d7_a_sleeper_wakes_in_time_or_by_a_signal() {
    let kernel = boot(1);
    let slept = Rc::new(Cell::new(None));
    let said = slept.clone();
    let task = spawn(&kernel, move |kernel| {
        for _ in 0..2 {
            let before = kernel.now_ns();
            said.set(Some((kernel.sleep_ns(500), kernel.now_ns() - before)));
        }
    });
    assert_eq!(kernel.run(CPU), Exit::Halt);
    assert_eq!(kernel.next_timer(), Some(500));
    kernel.advance(499);
    assert!(!kernel.has_work(CPU));
    kernel.advance(500);
    assert!(kernel.has_work(CPU));
    run_all(&kernel);
    assert_eq!(slept.get(), Some((Ok(()), 500)));
    kernel.advance(700);
    kernel.signal(task);
    run_all(&kernel);
    assert_eq!(slept.get(), Some((Err(Interrupted), 200)));
}

#[test]
fn d7_who_waits_sleeps_until_it_is_woken_or_a_signal_comes() {
    let kernel = boot(1);
    let queue = Rc::new(WaitQueue::default());
    let (waits_on, outcome) = (queue.clone(), Rc::new(Cell::new(None)));
    let said = outcome.clone();
    let task = spawn(&kernel, move |kernel| {
        let mut looks = 0;
        let waited = waits_on.wait_until(kernel, State::Interruptible, || {
            looks += 1;
            false
        });
        said.set(Some((waited, looks)));
    });
    assert_eq!(kernel.run(CPU), Exit::Halt);
    assert_eq!(kernel.scheduler().state(task), State::Interruptible);
    queue.wake_all(&kernel);
    assert_eq!(kernel.run(CPU), Exit::Halt);
    kernel.signal(task);
    assert_eq!(kernel.run(CPU), Exit::Halt);
    assert_eq!(outcome.get(), Some((Err(Interrupted), 2)));
}

/// A task that waits checks after it has said that it will sleep, and may be preempted while it
/// checks.
#[test]
fn d7_no_wake_up_is_lost_wherever_it_comes() {
    for comes_at in 0..12 {
        let kernel = boot(1);
        let (queue, is_there) = (Rc::new(WaitQueue::default()), Rc::new(Cell::new(false)));
        let (waits_on, looks_at) = (queue.clone(), is_there.clone());
        let task = spawn(&kernel, move |kernel| {
            let waited = waits_on.wait_until(kernel, State::Uninterruptible, || {
                kernel.trap("looks");
                let there = looks_at.get();
                kernel.trap("has looked");
                there
            });
            assert_eq!(waited, Ok(()));
        });
        spawn(&kernel, |kernel| (0..5).for_each(|_| kernel.trap("runs")));
        for step in 0.. {
            if step == comes_at {
                is_there.set(true);
                queue.wake_all(&kernel);
            }
            kernel.advance(step * 60 * TICK_NS);
            (0..60).for_each(|_| kernel.tick(CPU));
            if kernel.run(CPU) == Exit::Halt && step > comes_at {
                break;
            }
        }
        assert_eq!(
            kernel.scheduler().state(task),
            State::Dead,
            "came at {comes_at}"
        );
    }
}

#[test]
fn d8_a_task_goes_on_on_another_cpu() {
    let kernel = boot(2);
    let mm = Mm::new(0x1000, 0);
    let task = kernel.spawn(Policy::NORMAL, Some(mm.clone()), CPU, |kernel| {
        kernel.fpu(|registers| registers.xmm[0] = 42);
        kernel.set_state(State::Uninterruptible);
        kernel.block();
        assert_eq!(kernel.fpu(|registers| registers.xmm[0]), 42);
        kernel.trap("moved");
    });
    assert_eq!(kernel.run(CPU), Exit::Halt);
    let hog = kernel.spawn(Policy::NORMAL, None, CPU, |kernel| kernel.trap("hog"));
    assert_eq!(kernel.run(CPU), Exit::Trap(hog, "hog"));
    assert_eq!(
        kernel.wake(task, Waker::Task),
        Some(OTHER),
        "the one that is idle"
    );
    assert_eq!(kernel.run(OTHER), Exit::Trap(task, "moved"));
    assert_eq!(
        (kernel.cpu(OTHER).cr3(), mm.cpus()),
        (0x1000, 0b11),
        "the first borrows it still"
    );
}
