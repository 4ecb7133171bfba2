// SPDX-License-Identifier: MIT OR Apache-2.0
//! A task's hardware context, and what a switch does with it beyond stack and registers (row D3).

use super::cpu::{
    BITMAP_ABSENT, BITMAP_LAZY, BITMAP_OFFSET, BITMAP_WORDS, Cpu, Fault, FpuRegisters,
};

/// If a task used the FPU in more turns in a row than this, the switch restores its FPU registers,
/// without a fault.
const FPU_EAGER: u8 = 5;

/// The state of a task's CPU that is kept while the task does not run.
#[derive(Clone, Debug)]
pub struct Thread {
    /// The task's number.
    pub number: u32,
    /// Where its kernel stack begins.
    pub sp0: u64,
    pub(super) fpu: FpuRegisters,
    /// The FPU holds this task's values, newer than the saved ones.
    pub(super) used_fpu: bool,
    /// In how many turns in a row it has used the FPU. After 255 it begins again at 0, so that it
    /// is noticed if the task does not use the FPU any more.
    pub fpu_counter: u8,
    pub(super) fs: u16,
    pub(super) gs: u16,
    /// Thread-local segments.
    pub tls: [u64; 3],
    pub(super) debug: [u64; 8],
    /// It has breakpoints.
    pub(super) uses_debug: bool,
    pub(super) io_bitmap: Option<Box<[u64; BITMAP_WORDS]>>,
    /// Words of it that may have zeros.
    pub(super) io_bitmap_words: usize,
    io_bitmap_version: u32,
    pub(super) iopl: u8,
    /// It may not read the time-stamp counter.
    pub no_tsc: bool,
}

impl Thread {
    pub(super) fn new(number: u32, sp0: u64) -> Self {
        Self {
            number,
            sp0,
            fpu: FpuRegisters::default(),
            used_fpu: false,
            fpu_counter: 0,
            fs: 0,
            gs: 0,
            tls: [0; 3],
            debug: [0; 8],
            uses_debug: false,
            io_bitmap: None,
            io_bitmap_words: 0,
            io_bitmap_version: 0,
            iopl: 0,
            no_tsc: false,
        }
    }

    /// Gives the running task its FPU registers, by whatever steps that needs.
    pub(super) fn fpu<'c>(&mut self, cpu: &'c mut Cpu) -> &'c mut FpuRegisters {
        if cpu.fpu_instruction() == Err(Fault::DeviceNotAvailable) {
            self.restore_fpu(cpu);
        }
        cpu.fpu_instruction().expect("it was just made available")
    }

    fn restore_fpu(&mut self, cpu: &mut Cpu) {
        cpu.task_switched = false;
        cpu.fpu = self.fpu;
        cpu.fpu_saves_restores[1] += 1;
        self.used_fpu = true;
        self.fpu_counter = self.fpu_counter.wrapping_add(1);
    }

    /// The running task uses a port. At the first use in its turn the CPU gets its bitmap. An error
    /// is the task's own fault.
    pub(super) fn port(&self, cpu: &mut Cpu, port: u16) -> Result<(), Fault> {
        let tried = cpu.port_instruction(port);
        match &self.io_bitmap {
            Some(bitmap) if tried.is_err() && cpu.tss.bitmap_base == BITMAP_LAZY => {
                let owner = (self.number, self.io_bitmap_version);
                cpu.tss.install(owner, &bitmap[..self.io_bitmap_words]);
                cpu.port_instruction(port)
            }
            _ => tried,
        }
    }

    /// The running task may use these ports, or may not any more.
    pub(super) fn permit_ports(&mut self, cpu: &mut Cpu, ports: std::ops::Range<u16>, may: bool) {
        let bitmap = self
            .io_bitmap
            .get_or_insert_with(|| Box::new([u64::MAX; BITMAP_WORDS]));
        for port in ports.map(usize::from) {
            let bit = 1 << (port % 64);
            if may {
                bitmap[port / 64] &= !bit;
            } else {
                bitmap[port / 64] |= bit;
            }
        }
        let last = bitmap.iter().rposition(|word| *word != u64::MAX);
        self.io_bitmap_words = last.map_or(0, |last| last + 1);
        // The CPU's bitmap differs from the task's now.
        self.io_bitmap_version += 1;
        (cpu.tss.bitmap_base, cpu.tss.bitmap_owner) = (BITMAP_LAZY, None);
    }

    /// The running task is about to end.
    pub(super) fn drop_ports(&mut self, cpu: &mut Cpu) {
        if self.io_bitmap.take().is_some() {
            cpu.tss.clear();
        }
    }

    /// The running task reaches an address; yields whether one of its own breakpoints is there.
    pub(super) fn reach(&self, cpu: &mut Cpu, address: u64) -> bool {
        let is_hit = cpu.reach(address).is_err();
        if is_hit && !self.uses_debug {
            // It is left over from an earlier task, and belongs to nobody any more.
            cpu.dr[7] = 0;
            return false;
        }
        is_hit
    }

    /// The running task sets breakpoints, or none.
    pub(super) fn set_breakpoints(&mut self, cpu: &mut Cpu, addresses: &[u64]) {
        self.debug = [0; 8];
        for (n, address) in addresses.iter().take(4).enumerate() {
            self.debug[n] = *address;
            self.debug[7] |= 1 << (2 * n);
        }
        self.uses_debug = self.debug[7] != 0;
        cpu.dr = self.debug;
    }

    /// Panics unless the CPU is as this task, which runs on it, may expect.
    pub(super) fn check(&self, cpu: &Cpu) {
        let Self { number, .. } = *self;
        assert_eq!(
            cpu.tss.sp0, self.sp0,
            "task {number}: another's kernel stack"
        );
        assert_eq!(
            cpu.tls, self.tls,
            "task {number}: another's thread-local segments"
        );
        assert_eq!(
            (cpu.iopl, cpu.no_tsc),
            (self.iopl, self.no_tsc),
            "task {number}"
        );
        assert!(
            cpu.task_switched != self.used_fpu,
            "task {number}: the FPU is {}",
            cpu.task_switched
        );
        if self.uses_debug {
            assert_eq!(cpu.dr, self.debug, "task {number}: another's breakpoints");
        }
        if cpu.tss.bitmap_base == BITMAP_OFFSET {
            let own = Some((number, self.io_bitmap_version));
            assert_eq!(cpu.tss.bitmap_owner, own, "another's ports");
        }
    }
}

/// Everything but stack and registers. Runs on the stack of `next`.
pub(super) fn switch_hardware(prev: &mut Thread, next: &mut Thread, cpu: &mut Cpu) {
    if prev.used_fpu {
        prev.fpu = cpu.fpu;
        cpu.fpu_saves_restores[0] += 1;
        prev.used_fpu = false;
        cpu.task_switched = true;
    } else {
        prev.fpu_counter = 0;
    }
    cpu.tss.sp0 = next.sp0;
    (prev.fs, prev.gs) = (cpu.fs, cpu.gs);
    cpu.tls = next.tls;
    if prev.iopl != next.iopl {
        cpu.iopl = next.iopl;
    }
    if next.uses_debug {
        cpu.dr = next.debug;
        cpu.dr_loads += 1;
    }
    if prev.io_bitmap.is_some() || next.io_bitmap.is_some() {
        cpu.tss.bitmap_base = if next.io_bitmap.is_none() {
            BITMAP_ABSENT
        } else if cpu.tss.bitmap_owner == Some((next.number, next.io_bitmap_version)) {
            BITMAP_OFFSET
        } else {
            BITMAP_LAZY
        };
    }
    if prev.no_tsc != next.no_tsc {
        cpu.no_tsc = next.no_tsc;
    }
    if next.fpu_counter > FPU_EAGER {
        next.restore_fpu(cpu);
    }
    for (had, has, register) in [
        (prev.fs, next.fs, &mut cpu.fs),
        (prev.gs, next.gs, &mut cpu.gs),
    ] {
        if had | has != 0 {
            *register = has;
        }
    }
}
