// SPDX-License-Identifier: MIT OR Apache-2.0
//! Stacks, and the switch from one to another: all of this room's `unsafe`, except for the handler
//! that reports an overflow ([`overflow`](super::overflow)).
//!
//! A stack begins, at an address that is a multiple of its size, with a page that contains the
//! task's descriptor. Code that runs on it therefore finds the descriptor by masking the stack
//! pointer. A guard page follows, then the stack proper, which grows down towards it.
//!
//! Registers are kept as the x86-64 calling convention says. A switch is a call: the caller-saved
//! registers are dead, there is no red zone to preserve, and the stack is aligned as at any call.
//! MXCSR and the x87 control word are not kept: Rust code never changes them. The FPU of
//! [`Cpu`](super::Cpu) is a model.

use std::arch::{asm, naked_asm};
use std::cell::Cell;
use std::ffi::c_void;
use std::mem::offset_of;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::ptr::{NonNull, null_mut};
use std::rc::Rc;

use rustix::mm::{MapFlags, MprotectFlags, ProtFlags, mmap_anonymous, mprotect, munmap};

use super::task::Task;
use super::thread::switch_hardware;

/// Bytes of a stack with its descriptor, and its alignment. Pages that are never used cost nothing.
/// A panic's message with a backtrace fits.
pub(super) const STACK_SIZE: usize = 256 * 1024;
pub(super) const PAGE_SIZE: usize = 4096;

/// The contents of a stack's base.
#[repr(C)]
struct Descriptor {
    task: *const Task,
}

/// The stack of a task, mapped as long as this lives.
pub(super) struct Stack {
    base: NonNull<c_void>,
}

/// A suspended task's context: its stack pointer and the address at which it goes on.
#[derive(Debug, Default)]
#[repr(C)]
pub(super) struct Context {
    sp: Cell<u64>,
    ip: Cell<u64>,
}

/// The stage of a task's life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Execution {
    /// It has not begun.
    Fresh,
    /// It runs.
    Running,
    /// It does not run now. Its context says where it goes on.
    Suspended,
    /// It has ended: nothing on its stack is needed any more.
    Ended,
}

/// The whole life of a task. It gets the task that ran before it began, and yields the one that
/// runs once it has ended.
pub(super) type Life = Box<dyn FnOnce(Option<Rc<Task>>) -> Departure>;

/// What runs after a task that has ended.
pub(super) enum Departure {
    /// Another task of the CPU.
    Next(Rc<Task>),
    /// The host.
    Host,
}

thread_local! {
    /// The task that runs on this thread, if not the host.
    static RUNNING: Cell<Option<Rc<Task>>> = const { Cell::new(None) };
    /// Where the host goes on.
    static HOST: Context = const { Context { sp: Cell::new(0), ip: Cell::new(0) } };
}

impl Stack {
    pub(super) fn new() -> rustix::io::Result<Self> {
        // Twice the size, so that it contains an aligned part. The rest is unmapped.
        let flags = MapFlags::PRIVATE | MapFlags::NORESERVE;
        let access = ProtFlags::READ | ProtFlags::WRITE;
        // SAFETY: a new mapping, at an address that the kernel chooses.
        let whole = unsafe { mmap_anonymous(null_mut(), 2 * STACK_SIZE, access, flags)? };
        let before = whole.align_offset(STACK_SIZE);
        let base = whole.wrapping_byte_add(before);
        for (from, len) in [
            (whole, before),
            (base.wrapping_byte_add(STACK_SIZE), STACK_SIZE - before),
        ] {
            if len > 0 {
                // SAFETY: a part of the mapping just made, which nobody uses.
                unsafe { munmap(from, len)? };
            }
        }
        let guard = base.wrapping_byte_add(PAGE_SIZE);
        // SAFETY: as above.
        unsafe { mprotect(guard, PAGE_SIZE, MprotectFlags::empty())? };
        let base = NonNull::new(base).expect("a mapping is not at 0");
        Ok(Self { base })
    }

    /// The first address beyond the stack.
    pub(super) fn top(&self) -> u64 {
        self.base.addr().get() as u64 + STACK_SIZE as u64
    }

    /// A task that begins on this stack when it is first switched to.
    pub(super) fn plant(&self, task: &Rc<Task>) {
        let descriptor = self.base.cast::<Descriptor>();
        let task_address = Rc::as_ptr(task);
        // SAFETY: the first page of the mapping is readable and writable, and aligned.
        unsafe { descriptor.write(Descriptor { task: task_address }) };
        // Two words of zeros, which a fresh mapping has, end a backtrace there. Aligned to 16.
        task.context.sp.set(self.top() - 16);
        task.context.ip.set(begin as *const () as u64);
        task.execution.set(Execution::Fresh);
    }
}

impl Drop for Stack {
    fn drop(&mut self) {
        // SAFETY: mapped in `new`. `Task` keeps a stack on which somebody may still run.
        let unmapped = unsafe { munmap(self.base.as_ptr(), STACK_SIZE) };
        debug_assert_eq!(unmapped, Ok(()));
    }
}

/// The task that runs, found from the stack pointer. `None` on the host's stack.
pub(super) fn current() -> Option<Rc<Task>> {
    if !super::overflow::is_on_task() {
        return None;
    }
    let sp: usize;
    // SAFETY: reads a register.
    unsafe { asm!("mov {}, rsp", out(reg) sp, options(nomem, nostack, preserves_flags)) };
    let descriptor = std::ptr::with_exposed_provenance::<Descriptor>(sp & !(STACK_SIZE - 1));
    // SAFETY: a task runs on this thread, so the stack pointer is within its stack, whose first
    // page `plant` has written; `RUNNING` keeps the task, and so its stack.
    let task = unsafe { (*descriptor).task };
    // SAFETY: `plant` had it from an `Rc`, which lives, as above.
    unsafe { Rc::increment_strong_count(task) };
    // SAFETY: the count was just raised for this.
    Some(unsafe { Rc::from_raw(task) })
}

/// From the host to a task, until it [`leave`]s.
pub(super) fn enter(task: Rc<Task>) {
    let to = &raw const task.context;
    begin_running(&task);
    assert!(
        RUNNING.replace(Some(task)).is_none(),
        "a task enters a task"
    );
    super::overflow::set_on_task(true);
    // SAFETY: `to` was suspended or fresh, so its context is one that `plant` or a switch left. It
    // lives in `RUNNING`. The host's context is this thread's, and only `leave` goes on in it.
    HOST.with(|host| unsafe { swap(host, to) });
    super::overflow::set_on_task(false);
    RUNNING.take();
}

/// From the running task to the host, until it is entered again.
pub(super) fn leave() {
    let task = current().expect("only a task leaves");
    stop_running(&task);
    let from = &raw const task.context;
    // `RUNNING` keeps it: a task that has ended must not leave anything that it owns on its stack.
    drop(task);
    // SAFETY: `from` is the context of the running task, kept by `RUNNING`. The host's context was
    // left by `enter`, which has called us.
    HOST.with(|host| unsafe { swap(from, host) });
}

/// From the running task to another one of its CPU. Returns when somebody has switched back. Yields
/// the task that ran before; `None`: the host has entered instead, to have the task killed.
pub(super) fn switch(next: Rc<Task>) -> Option<Rc<Task>> {
    let to = Rc::as_ptr(&next);
    let prev = RUNNING.replace(Some(next)).expect("only a task switches");
    assert!(!std::ptr::eq(Rc::as_ptr(&prev), to), "a switch to oneself");
    stop_running(&prev);
    // SAFETY: it lives in `RUNNING`.
    begin_running(unsafe { &*to });
    // The task that runs then takes it back.
    let prev = Rc::into_raw(prev);
    // SAFETY: `prev` runs; `to` has a context that `plant` or a switch left. Both live: one count
    // of `prev` is passed to `last`, and `RUNNING` has one of `to`.
    let last = unsafe { switch_to(prev, to) };
    // SAFETY: `last` came with the switch back to us.
    unsafe { received(last) }
}

/// The task that ran before. The switch has passed a count of it.
///
/// # Safety
/// `last` is what the switch to this task has yielded, and is taken once.
unsafe fn received(last: *const Task) -> Option<Rc<Task>> {
    // SAFETY: `switch` has passed a count of it.
    (!last.is_null()).then(|| unsafe { Rc::from_raw(last) })
}

fn begin_running(task: &Task) {
    let was = task.execution.replace(Execution::Running);
    let can = matches!(was, Execution::Fresh | Execution::Suspended);
    assert!(can, "a task that is {was:?} is switched to");
}

fn stop_running(task: &Task) {
    if task.execution.get() != Execution::Ended {
        assert_eq!(
            task.execution.replace(Execution::Suspended),
            Execution::Running
        );
    }
}

/// Assembly that saves the registers that a call preserves on the stack of the running task. The
/// context at rdi gets the stack pointer, and the address of [`resume`] to go on at.
macro_rules! suspend {
    () => {
        "pushfq; push rbp; push rbx; push r12; push r13; push r14; push r15
         mov [rdi + {sp}], rsp
         lea rax, [rip + 2f]
         mov [rdi + {ip}], rax"
    };
}

/// Assembly at which a suspended task goes on: restores what [`suspend`] has saved, and returns.
macro_rules! resume {
    () => {
        "2: pop r15; pop r14; pop r13; pop r12; pop rbx; pop rbp; popfq
         ret"
    };
}

/// The switch of stack and registers from `prev` to `next`. It returns, on the stack of `prev`,
/// when somebody switches back: `last` is the task that did.
///
/// # Safety
/// `prev` is the running task. `next` is suspended or fresh. Both live until they have run again or
/// are dropped.
#[unsafe(naked)]
unsafe extern "sysv64" fn switch_to(prev: *const Task, next: *const Task) -> *const Task {
    naked_asm!(
        suspend!(),
        // From here on this is the stack of `next`.
        "mov rsp, [rsi + {sp}]",
        // Returns to where `next` goes on, with `prev` in rax.
        "push [rsi + {ip}]",
        "jmp {rest}",
        resume!(),
        sp = const offset_of!(Task, context) + offset_of!(Context, sp),
        ip = const offset_of!(Task, context) + offset_of!(Context, ip),
        rest = sym switch_rest,
    )
}

/// The rest of the switch, on the stack of `next`.
unsafe extern "sysv64" fn switch_rest(prev: *const Task, next: *const Task) -> *const Task {
    // SAFETY: it lives, as `switch_to` demands.
    let from = unsafe { &*prev };
    // SAFETY: as above.
    let to = unsafe { &*next };
    to.on_cpu(|cpu| {
        switch_hardware(
            &mut from.thread.borrow_mut(),
            &mut to.thread.borrow_mut(),
            cpu,
        );
    });
    prev
}

/// Entry into a task, or exit to the host: stacks and registers, nothing else of the CPU.
///
/// # Safety
/// As for [`switch_to`].
#[unsafe(naked)]
unsafe extern "sysv64" fn swap(from: *const Context, to: *const Context) {
    naked_asm!(
        suspend!(),
        "mov rsp, [rsi + {sp}]",
        // A task that begins finds that nobody ran before it.
        "xor eax, eax",
        "jmp [rsi + {ip}]",
        resume!(),
        sp = const offset_of!(Context, sp),
        ip = const offset_of!(Context, ip),
    )
}

/// Where a fresh task begins: the stack is empty and aligned, rax has the task that ran before.
#[unsafe(naked)]
unsafe extern "sysv64" fn begin() {
    naked_asm!("mov rdi, rax", "xor ebp, ebp", "call {main}", "ud2", main = sym main)
}

/// A task's life. Panics end here; they never cross a switch.
unsafe extern "sysv64" fn main(last: *const Task) -> ! {
    // SAFETY: `last` came with the switch to this task.
    let last = unsafe { received(last) };
    let live = || {
        let task = current().expect("a task has begun");
        let life = task.life.take().expect("a task begins once");
        drop(task);
        life(last)
    };
    let Ok(departure) = catch_unwind(AssertUnwindSafe(live)) else {
        // The life catches the panics of the code that runs in the task: this panic is the kernel's
        // own.
        std::process::abort();
    };
    current()
        .expect("it still runs")
        .execution
        .set(Execution::Ended);
    match departure {
        Departure::Next(next) => drop(switch(next)),
        Departure::Host => leave(),
    }
    std::process::abort();
}
