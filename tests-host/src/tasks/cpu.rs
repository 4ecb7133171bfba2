// SPDX-License-Identifier: MIT OR Apache-2.0
//! The parts of a CPU that a program in user space cannot have: the page table in use, the
//! task-state segment, the switch that makes the FPU trap, segments, debug registers, ports. This
//! is a model, which checks how it is used.

/// Bytes of the task-state segment before the I/O bitmap, which is where a valid bitmap begins.
pub const BITMAP_OFFSET: u16 = 104;
/// No bitmap: beyond the segment's limit.
pub const BITMAP_ABSENT: u16 = 0x8000;
/// The task has a bitmap that is not in the segment. This value is beyond the limit, too, but the
/// fault handler knows it.
pub const BITMAP_LAZY: u16 = 0x9000;
const PORTS: usize = 65536;
/// Ports in a word: 64.
pub(super) const BITMAP_WORDS: usize = PORTS / 64;
/// The control bits of dr7 that turn breakpoints on.
const DR7_ENABLED: u64 = 0xff;

/// The exceptions of an instruction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// #NM: an FPU instruction with CR0.TS set.
    DeviceNotAvailable,
    /// #GP: a port that the bitmap does not allow, a forbidden RDTSC, an empty selector.
    GeneralProtection,
    /// #DB: a breakpoint.
    Debug,
}

/// The FPU's registers: what FXSAVE saves of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FpuRegisters {
    /// The control word.
    pub control: u16,
    /// The control and status of SSE.
    pub mxcsr: u32,
    /// The eight registers of the stack.
    pub st: [u128; 8],
    /// The sixteen XMM registers.
    pub xmm: [u128; 16],
}

impl Default for FpuRegisters {
    /// As after FNINIT.
    fn default() -> Self {
        Self {
            control: 0x37f,
            mxcsr: 0x1f80,
            st: [0; 8],
            xmm: [0; 16],
        }
    }
}

/// The part of the task-state segment that is still used.
#[derive(Clone, Debug)]
pub struct TaskState {
    /// Where the kernel's stack begins when it is entered from user mode.
    pub sp0: u64,
    /// Where the bitmap begins, or one of the values beyond the limit.
    pub bitmap_base: u16,
    /// A bit for each port: 0 allows it. The last word is what the CPU reads beyond the last port.
    bitmap: Box<[u64; BITMAP_WORDS + 1]>,
    /// Words of the bitmap that may have zeros.
    pub bitmap_words: usize,
    /// The number of the task whose bitmap it is, and the version: a task that has changed its
    /// bitmap on another CPU does not find an old one.
    pub bitmap_owner: Option<(u32, u32)>,
}

/// A CPU.
#[derive(Clone, Debug)]
pub struct Cpu {
    /// Its number.
    pub number: u32,
    cr3: u64,
    /// How often CR3 was loaded.
    pub cr3_loads: u64,
    /// CR0.TS: the next FPU instruction faults.
    pub task_switched: bool,
    /// CR4.TSD: RDTSC faults.
    pub no_tsc: bool,
    /// The FPU, whichever task's values these are.
    pub fpu: FpuRegisters,
    /// How often FPU registers were saved, and restored.
    pub fpu_saves_restores: [u64; 2],
    /// The segment registers FS and GS.
    pub fs: u16,
    /// See [`Self::fs`].
    pub gs: u16,
    /// Entries 6, 7 and 8 of the descriptor table.
    pub tls: [u64; 3],
    /// The local descriptor table.
    pub ldt: u64,
    /// Debug registers.
    pub dr: [u64; 8],
    /// How often debug registers were loaded.
    pub dr_loads: u64,
    /// The privilege level that may use all ports.
    pub iopl: u8,
    /// The task-state segment.
    pub tss: TaskState,
    /// A kernel task runs in an address space that is not its own: a flush need not reach it now.
    pub lazy_tlb: bool,
}

impl TaskState {
    fn new() -> Self {
        Self {
            sp0: 0,
            bitmap_base: BITMAP_ABSENT,
            bitmap: Box::new([u64::MAX; BITMAP_WORDS + 1]),
            bitmap_words: 0,
            bitmap_owner: None,
        }
    }

    /// Copies a task's bitmap in. Words that the former bitmap had and this one has not allow
    /// nothing.
    pub fn install(&mut self, owner: (u32, u32), bitmap: &[u64]) {
        let before = std::mem::replace(&mut self.bitmap_words, bitmap.len());
        self.bitmap[..bitmap.len()].copy_from_slice(bitmap);
        if let Some(rest) = self.bitmap.get_mut(bitmap.len()..before) {
            rest.fill(u64::MAX);
        }
        self.bitmap_owner = Some(owner);
        self.bitmap_base = BITMAP_OFFSET;
    }

    /// No bitmap remains.
    pub fn clear(&mut self) {
        let words = std::mem::take(&mut self.bitmap_words);
        self.bitmap[..words].fill(u64::MAX);
        self.bitmap_owner = None;
        self.bitmap_base = BITMAP_ABSENT;
    }

    fn allows(&self, port: u16) -> bool {
        let port = usize::from(port);
        self.bitmap_base == BITMAP_OFFSET && self.bitmap[port / 64] & 1 << (port % 64) == 0
    }
}

impl Cpu {
    /// A CPU in the kernel's own address space.
    pub fn new(number: u32) -> Self {
        Self {
            number,
            cr3: 0,
            cr3_loads: 0,
            task_switched: true,
            no_tsc: false,
            fpu: FpuRegisters::default(),
            fpu_saves_restores: [0; 2],
            fs: 0,
            gs: 0,
            tls: [0; 3],
            ldt: 0,
            dr: [0; 8],
            dr_loads: 0,
            iopl: 0,
            tss: TaskState::new(),
            lazy_tlb: false,
        }
    }

    /// The page table in use.
    pub fn cr3(&self) -> u64 {
        self.cr3
    }

    /// Loads a page table.
    pub fn load_cr3(&mut self, pgd: u64) {
        self.cr3 = pgd;
        self.cr3_loads += 1;
    }

    /// An FPU instruction.
    pub fn fpu_instruction(&mut self) -> Result<&mut FpuRegisters, Fault> {
        if self.task_switched {
            return Err(Fault::DeviceNotAvailable);
        }
        Ok(&mut self.fpu)
    }

    /// An IN or OUT by a user program.
    pub fn port_instruction(&self, port: u16) -> Result<(), Fault> {
        if self.iopl == 3 || self.tss.allows(port) {
            Ok(())
        } else {
            Err(Fault::GeneralProtection)
        }
    }

    /// RDTSC by a user program.
    pub fn tsc_instruction(&self) -> Result<(), Fault> {
        if self.no_tsc {
            Err(Fault::GeneralProtection)
        } else {
            Ok(())
        }
    }

    /// An access to thread-local storage by a user program: yields what the descriptor behind GS
    /// contains.
    pub fn gs_instruction(&self) -> Result<u64, Fault> {
        let entry = (self.gs >> 3).checked_sub(6).map(usize::from);
        let held = entry.and_then(|entry| self.tls.get(entry)).copied();
        held.filter(|base| *base != 0)
            .ok_or(Fault::GeneralProtection)
    }

    /// Reaches an address that may have a breakpoint.
    pub fn reach(&self, address: u64) -> Result<(), Fault> {
        let is_on = |n: &usize| self.dr[7] & DR7_ENABLED & 3 << (2 * n) != 0;
        if (0..4).filter(is_on).any(|n| self.dr[n] == address) {
            Err(Fault::Debug)
        } else {
            Ok(())
        }
    }
}
