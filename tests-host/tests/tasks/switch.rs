// SPDX-License-Identifier: MIT OR Apache-2.0
//! Stacks and registers (rows D1 and D2).

use std::arch::asm;
use std::cell::{Cell, RefCell};
use std::rc::Rc;

use tests_host::scheduler::{CpuId, TaskId};
use tests_host::tasks::Kernel;

use super::{CPU, boot, run_all, spawn};

type K = Kernel<&'static str>;

#[test]
fn d1_a_task_is_found_from_its_stack_pointer() {
    fn deep(kernel: &K, own: TaskId, depth: u32) {
        assert_eq!(kernel.current(), Some(own));
        kernel.yield_now();
        if depth > 0 {
            deep(kernel, own, depth - 1);
        }
        assert_eq!(kernel.current(), Some(own));
    }
    let kernel = boot(1);
    let ended = Rc::new(Cell::new(0));
    for n in 0..5 {
        let ended = ended.clone();
        spawn(&kernel, move |kernel| {
            deep(kernel, TaskId(n), 20);
            ended.set(ended.get() + 1);
        });
    }
    assert_eq!(kernel.current(), None, "the host is no task");
    run_all(&kernel);
    assert_eq!(ended.get(), 5);
}

extern "sysv64" fn lets_others(kernel: *const K) {
    // SAFETY: a task has called, which has a reference to it.
    unsafe { &*kernel }.yield_now();
}

/// Fills the registers that a callee must preserve with values of its own, lets others run, and
/// reads them back. Bit 21 of the flags is one that a program may set without harm.
fn registers_across_a_switch(kernel: &K, seed: u64, flag: u64) -> ([u64; 6], u64) {
    let mut kept = [0u64; 6];
    let flags: u64;
    // SAFETY: what the compiler keeps in rbx and rbp is restored; the stack is aligned at the call.
    unsafe {
        asm!(
            "push rbx",
            "push rbp",
            "push rdx",
            "pushfq",
            "and qword ptr [rsp], {mask}",
            "or qword ptr [rsp], rcx",
            "popfq",
            "push rdx",
            "lea rbx, [rsi + 1]",
            "lea rbp, [rsi + 2]",
            "lea r12, [rsi + 3]",
            "lea r13, [rsi + 4]",
            "lea r14, [rsi + 5]",
            "lea r15, [rsi + 6]",
            "call {lets_others}",
            "pop rdx",
            "pushfq",
            "pop rax",
            "mov [rdx], rbx",
            "mov [rdx + 8], rbp",
            "mov [rdx + 16], r12",
            "mov [rdx + 24], r13",
            "mov [rdx + 32], r14",
            "mov [rdx + 40], r15",
            "pop rdx",
            "pop rbp",
            "pop rbx",
            lets_others = sym lets_others,
            mask = const !(1i32 << 21),
            in("rdi") kernel,
            in("rsi") seed,
            in("rcx") flag << 21,
            in("rdx") kept.as_mut_ptr(),
            lateout("rax") flags,
            out("r12") _, out("r13") _, out("r14") _, out("r15") _,
            clobber_abi("sysv64"),
        );
    }
    (kept, flags >> 21 & 1)
}

#[test]
fn d2_registers_and_flags_are_the_tasks_own() {
    let kernel = boot(1);
    for n in 0..4u64 {
        spawn(&kernel, move |kernel| {
            for round in 0..50 {
                let seed = n << 32 | round << 8;
                let flag = (n + round) & 1;
                let expected = [1, 2, 3, 4, 5, 6].map(|k| seed + k);
                assert_eq!(
                    registers_across_a_switch(kernel, seed, flag),
                    (expected, flag)
                );
            }
        });
    }
    run_all(&kernel);
    assert!(kernel.scheduler().switches(CPU) > 200);
}

#[test]
fn d2_the_stack_is_aligned_wherever_a_task_is() {
    #[repr(align(16))]
    struct Aligned(u128);
    fn is_aligned() -> bool {
        let here = Aligned(7);
        let address = std::hint::black_box(&here);
        address.0 == 7 && (&raw const *address).addr().is_multiple_of(16)
    }
    let kernel = boot(1);
    for _ in 0..3 {
        spawn(&kernel, |kernel| {
            for _ in 0..5 {
                assert!(is_aligned());
                // Formatting of floats uses SSE with aligned operands.
                assert_eq!(format!("{:.3}", std::hint::black_box(1.5)), "1.500");
                kernel.yield_now();
                kernel.trap("host");
            }
        });
    }
    run_all(&kernel);
}

fn mappings() -> usize {
    let maps = std::fs::read_to_string("/proc/self/maps").expect("Linux");
    maps.lines().count()
}

#[test]
fn d2_who_runs_next_clears_up_after_a_task_that_has_ended() {
    let kernel = boot(1);
    let before = mappings();
    for _ in 0..1000 {
        spawn(&kernel, |kernel| kernel.yield_now());
        run_all(&kernel);
    }
    assert!(mappings() < before + 500, "stacks are left behind");
    for _ in 0..1000 {
        let kernel = boot(1);
        spawn(&kernel, |kernel| kernel.trap("is killed"));
        kernel.run(CPU);
    }
    assert!(mappings() < before + 500, "kernels are left behind");
}

#[test]
fn d1_kernels_do_not_mix() {
    let (one, two) = (boot(1), boot(1));
    let order = Rc::new(RefCell::new(Vec::new()));
    for (kernel, name) in [(&one, 1), (&two, 2)] {
        let order = order.clone();
        spawn(kernel, move |kernel| {
            for _ in 0..3 {
                order.borrow_mut().push(name);
                kernel.trap("turn");
            }
        });
    }
    for _ in 0..4 {
        one.run(CpuId(0));
        two.run(CpuId(0));
    }
    assert_eq!(order.take(), [1, 2, 1, 2, 1, 2]);
}
