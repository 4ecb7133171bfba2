// SPDX-License-Identifier: MIT OR Apache-2.0
//! The address space that a CPU uses (row D2).

use std::cell::Cell;
use std::rc::Rc;

use tests_host::scheduler::{Policy, State, TaskId, Waker};
use tests_host::tasks::{Exit, Mm, WaitQueue};

use super::{CPU, OTHER, boot, run_all};

#[test]
fn d2_a_switch_loads_the_page_table_of_the_next() {
    let kernel = boot(1);
    for pgd in [0x1000, 0x2000] {
        kernel.spawn(
            Policy::NORMAL,
            Some(Mm::new(pgd, pgd + 1)),
            CPU,
            move |kernel| {
                for _ in 0..3 {
                    let cpu = kernel.cpu(CPU);
                    assert_eq!((cpu.cr3(), cpu.ldt), (pgd, pgd + 1));
                    drop(cpu);
                    kernel.yield_now();
                }
            },
        );
    }
    run_all(&kernel);
    assert!(kernel.cpu(CPU).cr3_loads >= 6);
}

#[test]
fn d2_a_kernel_task_borrows_the_last_address_space() {
    let kernel = boot(1);
    let mm = Mm::new(0x1000, 0);
    let seen = Rc::new(Cell::new(0));
    let (of_user, of_kernel) = (mm.clone(), seen.clone());
    kernel.spawn(Policy::NORMAL, Some(of_user), CPU, |kernel| {
        (0..10).for_each(|_| kernel.yield_now());
    });
    kernel.spawn(Policy::NORMAL, None, CPU, move |kernel| {
        for _ in 0..10 {
            let cpu = kernel.cpu(CPU);
            if cpu.cr3() == 0x1000 {
                assert!(cpu.lazy_tlb);
                of_kernel.set(of_kernel.get() + 1);
            }
            drop(cpu);
            kernel.yield_now();
        }
    });
    run_all(&kernel);
    assert!(seen.get() >= 9, "{}", seen.get());
    assert_eq!(kernel.cpu(CPU).cr3_loads, 1, "there and back is no load");
}

#[test]
fn d2_a_lazy_cpu_is_told_of_one_flush_and_loads_the_table_anew() {
    let kernel = boot(1);
    let mm = Mm::new(0x1000, 0);
    let (of_kernel, woken) = (mm.clone(), Rc::new(WaitQueue::default()));
    kernel.spawn(Policy::NORMAL, Some(mm.clone()), CPU, |kernel| {
        (0..3).for_each(|_| kernel.yield_now());
    });
    kernel.spawn(Policy::NORMAL, None, CPU, move |kernel| {
        assert_eq!((kernel.cpu(CPU).cr3(), of_kernel.cpus()), (0x1000, 1));
        kernel.flush(&of_kernel);
        assert_eq!(
            (kernel.cpu(CPU).cr3(), of_kernel.cpus()),
            (0, 0),
            "it has left"
        );
        let loads = kernel.cpu(CPU).cr3_loads;
        kernel.flush(&of_kernel);
        assert_eq!(kernel.cpu(CPU).cr3_loads, loads, "and is not told again");
        kernel.yield_now();
        assert!(kernel.cpu(CPU).cr3_loads > loads);
    });
    drop(woken);
    run_all(&kernel);
}

#[test]
fn d2_an_address_space_lives_as_long_as_a_kernel_task_borrows_it() {
    let kernel = boot(1);
    let mm = Mm::new(0x1000, 0);
    let weak = Rc::downgrade(&mm);
    let seen = weak.clone();
    kernel.spawn(Policy::NORMAL, Some(mm), CPU, |_| {});
    kernel.spawn(Policy::NORMAL, None, CPU, move |kernel| {
        assert!(
            seen.upgrade().is_some(),
            "its owner has ended, and it is still in use"
        );
        assert_eq!(kernel.cpu(CPU).cr3(), 0x1000);
        kernel.trap("borrows");
        (0..10).for_each(|_| kernel.yield_now());
    });
    assert_eq!(kernel.run(CPU), Exit::Trap(TaskId(1), "borrows"));
    kernel.spawn(Policy::NORMAL, Some(Mm::new(0x2000, 0)), CPU, |kernel| {
        kernel.trap("own")
    });
    assert_eq!(kernel.run(CPU), Exit::Trap(TaskId(2), "own"));
    assert!(weak.upgrade().is_none(), "nobody uses it any more");
    run_all(&kernel);
}

#[test]
fn d2_who_leaves_an_address_space_has_those_leave_who_borrow_it() {
    let kernel = boot(2);
    let mm = Mm::new(0x1000, 0);
    let task = kernel.spawn(Policy::NORMAL, Some(mm.clone()), CPU, |kernel| {
        kernel.set_state(State::Uninterruptible);
        kernel.block();
        kernel.set_mm(Some(Mm::new(0x2000, 0)));
        kernel.trap("another's");
        kernel.set_mm(None);
        kernel.trap("the kernel's");
    });
    assert_eq!(kernel.run(CPU), Exit::Halt);
    let hog = kernel.spawn(Policy::NORMAL, None, CPU, |kernel| kernel.trap("hog"));
    assert_eq!(kernel.run(CPU), Exit::Trap(hog, "hog"));
    assert_eq!(
        kernel.cpu(CPU).cr3(),
        0x1000,
        "the kernel's task borrows it"
    );
    assert_eq!(kernel.wake(task, Waker::Task), Some(OTHER));
    assert_eq!(kernel.run(OTHER), Exit::Trap(task, "another's"));
    assert_eq!(kernel.cpu(OTHER).cr3(), 0x2000);
    assert_eq!(
        (kernel.cpu(CPU).cr3(), mm.cpus()),
        (0, 0),
        "its table can be freed"
    );
    assert_eq!(kernel.run(OTHER), Exit::Trap(task, "the kernel's"));
    assert_eq!(kernel.cpu(OTHER).cr3(), 0);
    assert_eq!(kernel.run(OTHER), Exit::Halt);
}
