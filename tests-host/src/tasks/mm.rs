// SPDX-License-Identifier: MIT OR Apache-2.0
//! Address spaces, and the CPUs that use each (the first half of row D2).

use std::cell::{Cell, RefCell};
use std::rc::Rc;

use super::cpu::Cpu;

/// An address space. It is freed when nobody has it and no kernel task borrows it. Panics if a CPU
/// still uses its page table then.
#[derive(Debug)]
pub struct Mm {
    pgd: u64,
    ldt: u64,
    /// A bit for each CPU that uses the page table and must be told of flushes.
    cpus: Cell<u64>,
}

impl Mm {
    /// An address space with this page table and, unless 0, this local descriptor table.
    pub fn new(pgd: u64, ldt: u64) -> Rc<Self> {
        let cpus = Cell::new(0);
        Rc::new(Self { pgd, ldt, cpus })
    }

    /// The page table.
    pub fn pgd(&self) -> u64 {
        self.pgd
    }

    /// The CPUs, one bit each, that must be told of flushes.
    pub fn cpus(&self) -> u64 {
        self.cpus.get()
    }

    /// The CPUs that use it do not exist any more.
    pub(super) fn forget_cpus(&self) {
        self.cpus.set(0);
    }
}

impl Drop for Mm {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            assert_eq!(
                self.cpus.get(),
                0,
                "page table {:#x} is freed in use",
                self.pgd
            );
        }
    }
}

/// A CPU changes its address space from `prev` to `next`.
pub(super) fn switch_mm(prev: &Rc<Mm>, next: &Rc<Mm>, cpu: &mut Cpu) {
    let bit = 1 << cpu.number;
    cpu.lazy_tlb = false;
    if Rc::ptr_eq(prev, next) {
        if next.cpus.get() & bit == 0 {
            // Flushes of which it was not told while it was lazy.
            next.cpus.set(next.cpus.get() | bit);
            cpu.load_cr3(next.pgd);
            cpu.ldt = next.ldt;
        }
        return;
    }
    prev.cpus.set(prev.cpus.get() & !bit);
    next.cpus.set(next.cpus.get() | bit);
    cpu.load_cr3(next.pgd);
    if prev.ldt != next.ldt {
        cpu.ldt = next.ldt;
    }
}

/// Entries of an address space have changed. Every CPU that uses it forgets the old ones. A lazy
/// CPU leaves it, so that it is not told again. `kernel` is the kernel's own page table.
pub(super) fn flush_tlb<'c>(mm: &Mm, kernel: u64, cpus: impl Iterator<Item = &'c RefCell<Cpu>>) {
    for cpu in cpus {
        let mut cpu = cpu.borrow_mut();
        let bit = 1 << cpu.number;
        if mm.cpus.get() & bit == 0 {
            continue;
        }
        if cpu.lazy_tlb {
            mm.cpus.set(mm.cpus.get() & !bit);
            cpu.load_cr3(kernel);
        } else {
            let own = cpu.cr3();
            cpu.load_cr3(own);
        }
    }
}
