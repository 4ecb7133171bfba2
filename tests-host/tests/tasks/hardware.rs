// SPDX-License-Identifier: MIT OR Apache-2.0
//! What a switch does beyond stack and registers (row D3).

use std::cell::Cell;
use std::rc::Rc;

use tests_host::scheduler::{Policy, State, Waker};
use tests_host::tasks::{BITMAP_ABSENT, BITMAP_LAZY, BITMAP_OFFSET, Exit, Fault, Kernel};

use super::{CPU, OTHER, boot, run_all, spawn};

type K = Kernel<&'static str>;

fn bitmap_base(kernel: &K) -> u16 {
    kernel.cpu(CPU).tss.bitmap_base
}

#[test]
fn d3_each_task_finds_its_own_fpu_registers() {
    let kernel = boot(1);
    for n in 0..3u128 {
        spawn(&kernel, move |kernel| {
            for round in 0..300u128 {
                kernel.fpu(|registers| {
                    if round > 0 {
                        assert_eq!(
                            (registers.xmm[3], registers.st[1]),
                            (n << 64 | (round - 1), n)
                        );
                    }
                    (registers.xmm[3], registers.st[1]) = (n << 64 | round, n);
                });
                kernel.yield_now();
            }
        });
    }
    run_all(&kernel);
}

#[test]
fn d3_the_fpu_is_saved_only_for_who_used_it_and_restored_at_its_first_use() {
    let kernel = boot(1);
    spawn(&kernel, |kernel| (0..20).for_each(|_| kernel.yield_now()));
    spawn(&kernel, |kernel| {
        assert!(kernel.cpu(CPU).task_switched, "the first use faults");
        kernel.fpu(|registers| registers.control = 0x27f);
        assert!(!kernel.cpu(CPU).task_switched);
        (0..20).for_each(|_| kernel.yield_now());
        assert_eq!(kernel.fpu(|registers| registers.control), 0x27f);
    });
    run_all(&kernel);
    assert_eq!(kernel.cpu(CPU).fpu_saves_restores, [2, 2]);
}

/// In how many turns in a row the first use of the FPU did not fault.
fn turns_without_a_fault(kernel: &K, turns: usize) -> Rc<Cell<Vec<usize>>> {
    let eager = Rc::new(Cell::new(Vec::new()));
    let seen = eager.clone();
    spawn(kernel, move |kernel| {
        for turn in 0..turns {
            if !kernel.cpu(CPU).task_switched {
                let mut turns = seen.take();
                turns.push(turn);
                seen.set(turns);
            }
            kernel.fpu(|registers| registers.mxcsr += 1);
            kernel.yield_now();
        }
    });
    spawn(kernel, move |kernel| {
        (0..turns).for_each(|_| kernel.yield_now())
    });
    eager
}

#[test]
fn d3_after_more_than_five_turns_in_a_row_the_fpu_is_restored_at_the_switch() {
    let kernel = boot(1);
    let eager = turns_without_a_fault(&kernel, 300);
    run_all(&kernel);
    let expected: Vec<_> = (6..256).chain(262..300).collect();
    assert_eq!(
        eager.take(),
        expected,
        "and the count begins anew after 255"
    );
}

#[test]
fn d3_a_turn_without_the_fpu_ends_the_row() {
    let kernel = boot(1);
    spawn(&kernel, |kernel| {
        for turn in 0..20 {
            assert!(kernel.cpu(CPU).task_switched, "turn {turn}");
            if turn % 5 != 4 {
                kernel.fpu(|registers| registers.mxcsr += 1);
            }
            kernel.yield_now();
        }
    });
    spawn(&kernel, |kernel| (0..20).for_each(|_| kernel.yield_now()));
    run_all(&kernel);
}

#[test]
fn d3_thread_local_segments_are_the_tasks_own() {
    let kernel = boot(1);
    for n in 0..3usize {
        spawn(&kernel, move |kernel| {
            assert_eq!(
                kernel.tls(),
                Err(Fault::GeneralProtection),
                "it has none yet"
            );
            for round in 1..10 {
                kernel.set_tls(n, (n as u64) << 32 | round);
                kernel.yield_now();
                assert_eq!(kernel.tls(), Ok((n as u64) << 32 | round));
            }
        });
    }
    run_all(&kernel);
}

#[test]
fn d3_debug_registers_are_loaded_only_for_who_uses_them() {
    let kernel = boot(1);
    spawn(&kernel, |kernel| {
        kernel.set_breakpoints(&[0x1000, 0x2000]);
        for _ in 0..3 {
            kernel.yield_now();
            assert!(kernel.reach(0x1000) && kernel.reach(0x2000) && !kernel.reach(0x3000));
        }
    });
    spawn(&kernel, |kernel| {
        for _ in 0..3 {
            assert_eq!(kernel.cpu(CPU).dr[0], 0x1000, "left over");
            assert!(!kernel.reach(0x1000), "not its own");
            assert_eq!(kernel.cpu(CPU).dr[7], 0, "and turned off when it was hit");
            kernel.yield_now();
        }
    });
    run_all(&kernel);
    assert_eq!(kernel.cpu(CPU).dr_loads, 3);
}

#[test]
fn d3_the_time_stamp_counter_can_be_forbidden() {
    let kernel = boot(1);
    spawn(&kernel, |kernel| {
        kernel.permit_tsc(false);
        kernel.yield_now();
        assert_eq!(kernel.tsc(), Err(Fault::GeneralProtection));
    });
    spawn(&kernel, |kernel| {
        assert!(kernel.tsc().is_ok());
        kernel.yield_now();
        assert!(kernel.tsc().is_ok());
    });
    run_all(&kernel);
}

#[test]
fn d3_without_a_bitmap_ports_are_refused() {
    let kernel = boot(1);
    spawn(&kernel, |kernel| {
        assert_eq!(bitmap_base(kernel), BITMAP_ABSENT);
        assert_eq!(kernel.port(0x70), Err(Fault::GeneralProtection));
        kernel.permit_all_ports(true);
        kernel.yield_now();
        assert_eq!(kernel.port(0x70), Ok(()), "unless all are allowed");
    });
    spawn(&kernel, |kernel| {
        kernel.yield_now();
        assert_eq!(kernel.port(0x70), Err(Fault::GeneralProtection));
    });
    run_all(&kernel);
}

#[test]
fn d3_the_bitmap_comes_with_the_first_use_and_stays_until_another_needs_the_place() {
    let kernel = boot(1);
    spawn(&kernel, |kernel| {
        kernel.permit_ports(0x70..0x72, true);
        assert_eq!(bitmap_base(kernel), BITMAP_LAZY);
        assert_eq!(kernel.port(0x70), Ok(()));
        assert_eq!(bitmap_base(kernel), BITMAP_OFFSET, "installed by the fault");
        assert_eq!(
            (kernel.port(0x71), kernel.port(0x72)),
            (Ok(()), Err(Fault::GeneralProtection))
        );
        kernel.yield_now();
        // A task without a bitmap has run: ours is still in place.
        assert_eq!(bitmap_base(kernel), BITMAP_OFFSET);
        kernel.trap("second");
        kernel.yield_now();
        // Another task's bitmap has been put there.
        assert_eq!(bitmap_base(kernel), BITMAP_LAZY);
        assert_eq!(
            (kernel.port(0x3f8), kernel.port(0x70)),
            (Err(Fault::GeneralProtection), Ok(()))
        );
    });
    spawn(&kernel, |kernel| {
        assert_eq!(bitmap_base(kernel), BITMAP_ABSENT);
        assert_eq!(kernel.port(0x70), Err(Fault::GeneralProtection));
    });
    assert!(matches!(kernel.run(CPU), Exit::Trap(_, "second")));
    spawn(&kernel, |kernel| {
        kernel.permit_ports(0x3f8..0x400, true);
        assert_eq!(
            (kernel.port(0x3f8), kernel.port(0x70)),
            (Ok(()), Err(Fault::GeneralProtection))
        );
        kernel.permit_ports(0x3f8..0x3f9, false);
        assert_eq!(
            (kernel.port(0x3f8), kernel.port(0x3f9)),
            (Err(Fault::GeneralProtection), Ok(()))
        );
        kernel.yield_now();
    });
    run_all(&kernel);
}

#[test]
fn d3_a_bitmap_changed_on_another_cpu_is_not_taken_from_before() {
    let kernel = boot(2);
    let task = kernel.spawn(Policy::NORMAL, None, CPU, |kernel| {
        kernel.permit_ports(0x70..0x72, true);
        assert_eq!(kernel.port(0x70), Ok(()));
        let moves = || {
            kernel.set_state(State::Uninterruptible);
            kernel.block();
        };
        moves();
        kernel.permit_ports(0x70..0x71, false);
        moves();
        assert_eq!(kernel.port(0x70), Err(Fault::GeneralProtection));
        assert_eq!(kernel.port(0x71), Ok(()));
        kernel.trap("back");
    });
    assert_eq!(kernel.run(CPU), Exit::Halt);
    let hog = kernel.spawn(Policy::NORMAL, None, CPU, |kernel| kernel.trap("hog"));
    kernel.run(CPU);
    assert_eq!(kernel.wake(task, Waker::Task), Some(OTHER));
    assert_eq!(kernel.run(OTHER), Exit::Halt);
    assert_eq!(kernel.run(CPU), Exit::Halt, "{hog:?} has ended");
    kernel.spawn(Policy::NORMAL, None, OTHER, |kernel| kernel.trap("hog"));
    kernel.run(OTHER);
    assert_eq!(kernel.wake(task, Waker::Task), Some(CPU));
    assert_eq!(kernel.run(CPU), Exit::Trap(task, "back"));
}
