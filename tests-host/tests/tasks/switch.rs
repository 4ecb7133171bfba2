//! Stack, registers, address space; what becomes of tasks that end, panic, or run out of stack.

use std::arch::asm;
use std::cell::{Cell, RefCell};
use std::os::unix::process::ExitStatusExt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::Command;
use std::rc::Rc;

use tests_host::scheduler::{CpuId, Policy, State, TaskId, Waker};
use tests_host::tasks::{Exit, Interrupted, Kernel, Mm, WaitQueue};

use super::{CPU, OTHER, Said, TICK_NS, boot, run_all, spawn};

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

/// Fills what a callee must keep with values of its own, lets others run, and reads it back. Bit 21
/// of the flags is one that a program may set without harm.
fn registers_across_a_switch(kernel: &K, seed: u64, flag: u64) -> ([u64; 6], u64) {
    let mut kept = [0u64; 6];
    let flags: u64;
    // SAFETY: what the compiler keeps in rbx and rbp is put back; the stack is aligned at the call.
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

/// Whoever waits looks after it has said that it will sleep, and may be preempted while it looks.
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

struct SaysSo(Said, &'static str);

impl Drop for SaysSo {
    fn drop(&mut self) {
        self.0.borrow_mut().push(self.1);
    }
}

#[test]
fn d2_tasks_that_have_not_ended_are_unwound() {
    let said = Said::default();
    let kernel = boot(1);
    for (name, yields) in [("trapped", false), ("switched from", true), ("fresh", true)] {
        let holds = SaysSo(said.clone(), name);
        spawn(&kernel, move |kernel| {
            let _holds = holds;
            if yields {
                kernel.yield_now();
            }
            kernel.trap("host");
            unreachable!("it is not run again");
        });
        if name == "switched from" {
            assert_eq!(kernel.run(CPU), Exit::Trap(TaskId(0), "host"));
        }
    }
    drop(kernel);
    let mut said = said.take();
    said.sort_unstable();
    assert_eq!(said, ["fresh", "switched from", "trapped"]);
}

#[test]
fn d2_a_panic_ends_at_the_host_with_everybody_unwound() {
    let said = Said::default();
    let kernel = boot(1);
    let holds = SaysSo(said.clone(), "bystander");
    spawn(&kernel, move |kernel| {
        let _holds = holds;
        kernel.yield_now();
        unreachable!();
    });
    let holds = SaysSo(said.clone(), "panicked");
    spawn(&kernel, move |kernel| {
        let _holds = holds;
        assert!(kernel.port(0x80).is_ok(), "no such port");
    });
    let ran = catch_unwind(AssertUnwindSafe(|| kernel.run(CPU)));
    let panic = ran.expect_err("it panics");
    assert!(
        panic
            .downcast_ref::<&str>()
            .is_some_and(|said| said.contains("no such port"))
    );
    assert_eq!(said.borrow()[..], ["panicked"]);
    drop(kernel);
    assert_eq!(said.take(), ["panicked", "bystander"]);
}

#[test]
fn d2_a_host_that_panics_has_its_tasks_unwound_on_the_way() {
    let said = Said::default();
    let holds = SaysSo(said.clone(), "task");
    let ran = catch_unwind(AssertUnwindSafe(|| {
        let kernel = boot(1);
        spawn(&kernel, move |kernel| {
            let _holds = holds;
            kernel.trap("host");
        });
        kernel.run(CPU);
        panic!("the host's own");
    }));
    assert!(ran.is_err());
    assert_eq!(said.take(), ["task"]);
}

#[test]
#[ignore = "run by the test below, in a process of its own"]
fn overflows() {
    #[expect(unconditional_recursion)]
    fn deeper(n: u64) -> u64 {
        std::hint::black_box(deeper(n + 1)) + std::hint::black_box(n)
    }
    let kernel = boot(1);
    spawn(&kernel, |_| {
        deeper(0);
    });
    kernel.run(CPU);
}

#[test]
fn d1_a_stack_that_overflows_ends_the_process_and_says_why() {
    let own = std::env::current_exe().expect("this program");
    let mut command = Command::new(own);
    command.args(["--ignored", "--exact", "switch::overflows", "--nocapture"]);
    let output = command.output().expect("it runs");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(said.contains("a task has overflowed its stack"), "{said}");
    assert_eq!(output.status.signal(), Some(6));
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
