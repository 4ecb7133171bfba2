// SPDX-License-Identifier: MIT OR Apache-2.0
//! One actor's operation: the crate's code on a stack of its own, stopped at every point where
//! another CPU may run.
//!
//! What a stopped operation will do next depends on the shared state and on the contents of its
//! stack. The stack is therefore part of a state's key, from the innermost frame to the operation's
//! first one, with the registers that a call preserves. Words that are dead there can split one
//! state into two. They never merge two states. Everything to which a stack points has the
//! same address in every run.

#![allow(unsafe_code)]

use std::arch::{asm, naked_asm};
use std::cell::Cell;
use std::ffi::c_void;
use std::hash::Hasher;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::ptr::null;

use corosensei::stack::{DefaultStack, Stack};
use corosensei::{Coroutine, Yielder};

const STACK_SIZE: usize = 128 * 1024;
/// No operation's frames are deeper. The stack is zeroed before each, so that no earlier frame
/// remains.
const WIPED: usize = 16 * 1024;

thread_local! {
    /// The fiber whose operation runs now; null: none.
    static YIELDER: Cell<*const Yielder<(), ()>> = const { Cell::new(null()) };
    /// The first point where the operation would stop does not count: nothing happens before it.
    static AT_ONCE: Cell<bool> = const { Cell::new(false) };
    /// Where the stack of the last stopped operation begins.
    static LOW: Cell<usize> = const { Cell::new(0) };
    /// An operation has panicked.
    pub(crate) static PANICKED: Cell<bool> = const { Cell::new(false) };
    /// Where the frames of the operation that began last end.
    static TOP: Cell<usize> = const { Cell::new(0) };
}

/// An actor's stack, and the operation on it.
pub(crate) struct Fiber {
    idle: Option<DefaultStack>,
    busy: Option<Coroutine<(), (), (), DefaultStack>>,
    yielder: *const Yielder<(), ()>,
    low: usize,
    top: usize,
}

/// Other CPUs run. Nothing happens outside of an operation.
#[inline(never)]
pub(crate) fn pause() {
    let yielder = YIELDER.get();
    if yielder.is_null() || AT_ONCE.take() {
        return;
    }
    let mut registers = [0_u64; 6];
    let at = registers.as_mut_ptr();
    // SAFETY: stores registers into the array, all of it.
    unsafe {
        asm!(
            "mov [{at}], rbx", "mov [{at} + 8], rbp", "mov [{at} + 16], r12",
            "mov [{at} + 24], r13", "mov [{at} + 32], r14", "mov [{at} + 40], r15",
            at = in(reg) at, options(nostack, preserves_flags),
        );
    }
    LOW.set(at.addr());
    // SAFETY: `Fiber::resume` set it: the operation that runs is the one that this belongs to.
    unsafe { &*yielder }.suspend(());
    std::hint::black_box(&mut registers);
}

impl Fiber {
    pub(crate) fn new() -> Self {
        Self {
            idle: Some(DefaultStack::new(STACK_SIZE).expect("memory for a stack")),
            busy: None,
            yielder: null(),
            low: 0,
            top: 0,
        }
    }

    pub(crate) fn is_busy(&self) -> bool {
        self.busy.is_some()
    }

    /// Begins an operation and runs it to the first point where it stops; `at_once`: to the second
    /// one.
    pub(crate) fn begin(&mut self, at_once: bool, operation: impl FnOnce() + 'static) {
        AT_ONCE.set(at_once);
        let stack = self.idle.take().expect("one operation at a time");
        let wiped = std::ptr::with_exposed_provenance_mut::<u8>(stack.base().get() - WIPED);
        // SAFETY: the upper part of a stack that nobody runs on.
        unsafe { wiped.write_bytes(0, WIPED) };
        self.busy = Some(Coroutine::with_stack(
            stack,
            move |yielder: &Yielder<(), ()>, ()| {
                YIELDER.set(yielder);
                let mut operation = Some(operation);
                start_over(&mut operation);
            },
        ));
        self.yielder = null();
        self.resume();
        self.top = TOP.get();
    }

    /// Runs the operation on, to where it stops next or ends.
    pub(crate) fn resume(&mut self) {
        let operation = self.busy.as_mut().expect("an operation is under way");
        YIELDER.set(self.yielder);
        let done = operation.resume(()).as_return().is_some();
        self.yielder = YIELDER.replace(null());
        self.low = LOW.get();
        if done {
            self.idle = self.busy.take().map(Coroutine::into_stack);
        }
    }

    /// Drops the operation where it has stopped.
    pub(crate) fn abandon(&mut self) {
        if let Some(mut operation) = self.busy.take() {
            // SAFETY: the contents of the stack own no memory and are never used again: the world
            // on which it works is about to be made anew.
            unsafe { operation.force_reset() };
            self.idle = Some(operation.into_stack());
        }
    }

    /// The state from which the operation will go on.
    pub(crate) fn digest(&self, hasher: &mut impl Hasher) {
        if self.busy.is_none() {
            return;
        }
        for at in (self.low..self.top).step_by(8) {
            let word = std::ptr::with_exposed_provenance::<u64>(at);
            // SAFETY: between the innermost frame and the first one of a stopped operation, whose
            // stack is mapped; 8-aligned, as `low` is. Nobody else runs on it.
            hasher.write_u64(unsafe { word.read_volatile() });
        }
    }
}

impl Drop for Fiber {
    fn drop(&mut self) {
        self.abandon();
    }
}

/// Runs the operation with none of its caller's values in the registers that a call preserves. Such
/// values, saved on the operation's stack, would make equal states look different.
fn start_over<F: FnOnce()>(operation: &mut Option<F>) {
    // SAFETY: `run::<F>` is for an `Option<F>`, which lives until the call returns.
    unsafe { call_with_clean_registers(run::<F>, std::ptr::from_mut(operation).cast()) };
}

unsafe extern "sysv64" fn run<F: FnOnce()>(operation: *mut c_void) {
    let top = 0_u64;
    TOP.set((&raw const top).addr());
    // SAFETY: as `start_over` says.
    let operation = unsafe { &mut *operation.cast::<Option<F>>() };
    if let Some(operation) = operation.take() {
        inside(operation);
    }
    std::hint::black_box(&top);
}

#[inline(never)]
fn inside(operation: impl FnOnce()) {
    // No panic crosses assembly.
    if catch_unwind(AssertUnwindSafe(operation)).is_err() {
        PANICKED.set(true);
    }
}

/// # Safety
/// As for `call` itself. It does not unwind.
#[unsafe(naked)]
unsafe extern "sysv64" fn call_with_clean_registers(
    call: unsafe extern "sysv64" fn(*mut c_void),
    with: *mut c_void,
) {
    naked_asm!(
        "push rbp; push rbx; push r12; push r13; push r14; push r15; push rax",
        "mov rax, rdi; mov rdi, rsi; xor esi, esi; xor ebp, ebp; xor ebx, ebx",
        "xor r12d, r12d; xor r13d, r13d; xor r14d, r14d; xor r15d, r15d",
        "call rax",
        "pop rax; pop r15; pop r14; pop r13; pop r12; pop rbx; pop rbp; ret",
    )
}
