// SPDX-License-Identifier: MIT OR Apache-2.0
//! Access to Xen through Linux's privcmd device: hypercalls and foreign frames.

use std::ffi::c_void;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::ptr::{self, NonNull};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use p2m_paging::PAGE_SIZE;
use pager_store::PageBuf;
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use rustix::ioctl::{Ioctl, IoctlOutput, Opcode};
use rustix::mm::{MapFlags, ProtFlags};
use zerocopy::{FromBytes, Immutable, IntoBytes};

use super::abi::{
    DMOP_SET_MEM_TYPE, HVMMEM_RAM_RW, PRIVCMD_DM_OP, PRIVCMD_HYPERCALL, PRIVCMD_MMAPBATCH_V2,
    PrivcmdDmOp, PrivcmdDmOpBuf, PrivcmdHypercall, PrivcmdMmapBatch, SetMemType,
};
use super::error::{XenError, device};
use super::memory::locked_pages;

const DEVICES: [&str; 2] = ["/dev/xen/privcmd", "/proc/xen/privcmd"];

static HYPERCALLS: AtomicU64 = AtomicU64::new(0);
static MAPS: AtomicU64 = AtomicU64::new(0);

/// The numbers of hypercalls and of calls to map frames that this process has made. They show what
/// a page costs.
pub fn calls_made() -> (u64, u64) {
    let count = |calls: &AtomicU64| calls.load(Ordering::Relaxed);
    (count(&HYPERCALLS), count(&MAPS))
}

/// One thread's access to Xen.
#[derive(Debug)]
pub(super) struct Privcmd {
    device: Arc<OwnedFd>,
    /// The memory for the argument of a call.
    argument: &'static mut PageBuf,
}

impl Privcmd {
    pub(super) fn open() -> Result<Self, XenError> {
        let flags = OFlags::RDWR | OFlags::CLOEXEC;
        for path in DEVICES {
            match rustix::fs::open(Path::new(path), flags, Mode::empty()) {
                Ok(device) => return Self::on(Arc::new(device)),
                Err(Errno::NOENT | Errno::NODEV | Errno::NXIO) => {}
                Err(errno) => return Err(device(path)(errno)),
            }
        }
        Err(XenError::NoXen)
    }

    /// Opens another one for another thread.
    pub(super) fn another(&self) -> Result<Self, XenError> {
        Self::on(Arc::clone(&self.device))
    }

    fn on(device: Arc<OwnedFd>) -> Result<Self, XenError> {
        let [argument] = locked_pages(1)? else {
            return Err(XenError::NoXen);
        };
        Ok(Self { device, argument })
    }

    /// Makes a hypercall whose arguments are numbers.
    pub(super) fn call_numbers(&mut self, op: u64, arg: [u64; 5]) -> Result<u32, Errno> {
        HYPERCALLS.fetch_add(1, Ordering::Relaxed);
        ioctl(
            &self.device,
            PRIVCMD_HYPERCALL,
            &mut PrivcmdHypercall { op, arg },
        )
    }

    /// Makes a hypercall with a command and one structure, which Xen may write to. Addresses in the
    /// structure must name memory that Xen may read and write and that stays in place.
    pub(super) fn call<T: FromBytes + IntoBytes + Immutable>(
        &mut self,
        op: u64,
        command: Option<u64>,
        argument: &mut T,
    ) -> Result<u32, Errno> {
        let bytes = &mut self.argument.0[..size_of::<T>()];
        bytes.copy_from_slice(argument.as_bytes());
        let address = bytes.as_ptr() as u64;
        let arg = match command {
            Some(command) => [command, address, 0, 0, 0],
            None => [address, 0, 0, 0, 0],
        };
        let returned = self.call_numbers(op, arg);
        if let Ok(out) = T::read_from_bytes(&self.argument.0[..size_of::<T>()]) {
            *argument = out;
        }
        returned
    }

    /// The address of the argument of the next [`Self::call`], for structures that point into
    /// themselves.
    pub(super) fn argument_address(&self) -> u64 {
        self.argument.0.as_ptr() as u64
    }

    /// Tells Xen that a page is ordinary memory, as a device model would. If the page has a paging
    /// type, Xen requests it from the pager instead and returns EAGAIN.
    pub(super) fn set_ram(&mut self, domain: u16, gfn: u64) -> Result<(), Errno> {
        let mut op = SetMemType {
            op: DMOP_SET_MEM_TYPE,
            pad: 0,
            nr: 1,
            mem_type: HVMMEM_RAM_RW,
            pad2: 0,
            first_pfn: gfn,
            rest: 0,
        };
        // Linux copies the buffers.
        let buffer = PrivcmdDmOpBuf {
            uptr: ptr::from_mut(&mut op).cast(),
            size: size_of::<SetMemType>(),
        };
        let mut call = PrivcmdDmOp {
            dom: domain,
            num: 1,
            pad: 0,
            ubufs: &raw const buffer,
        };
        HYPERCALLS.fetch_add(1, Ordering::Relaxed);
        ioctl(&self.device, PRIVCMD_DM_OP, &mut call).map(drop)
    }

    /// Maps frames of a domain. A nominated frame can be mapped for reading only. Entry n of
    /// `errors` is 0 or the error of frame n. A frame with an error must not be accessed in the
    /// mapping; the call as a whole succeeds nevertheless. A frame that is paged out has the error
    /// `ENOENT`: it has been requested, and can be tried again alone.
    pub(super) fn map(
        &self,
        domain: u16,
        gfns: &[u64],
        errors: &mut [i32],
        prot: ProtFlags,
    ) -> Result<ForeignFrames, Errno> {
        let num = u32::try_from(gfns.len()).map_err(|_| Errno::INVAL)?;
        if gfns.is_empty() || errors.len() != gfns.len() {
            return Err(Errno::INVAL);
        }
        let (bytes, flags) = (gfns.len() * PAGE_SIZE, MapFlags::SHARED);
        // SAFETY: the kernel picks an unused address range, so no existing mapping is replaced.
        let base =
            unsafe { rustix::mm::mmap(ptr::null_mut(), bytes, prot, flags, &self.device, 0) }?;
        let base = NonNull::new(base.cast()).ok_or(Errno::FAULT)?;
        let frames = ForeignFrames {
            base,
            pages: gfns.len(),
        };
        errors.fill(0);
        MAPS.fetch_add(1, Ordering::Relaxed);
        let mut batch = PrivcmdMmapBatch {
            num,
            dom: domain,
            pad: 0,
            addr: base.as_ptr() as u64,
            arr: gfns.as_ptr(),
            err: errors.as_mut_ptr(),
        };
        match ioctl(&self.device, PRIVCMD_MMAPBATCH_V2, &mut batch) {
            // ENOENT: some or all frames are paged out; `errors` says which.
            Ok(_) | Err(Errno::NOENT) => Ok(frames),
            Err(errno) => Err(errno),
        }
    }
}

/// Frames of another domain. They stay mapped until this is dropped.
#[derive(Debug)]
pub(super) struct ForeignFrames {
    // INVARIANT: a mapping of `pages` pages that is this value's own.
    base: NonNull<PageBuf>,
    pages: usize,
}

// SAFETY: the mapping belongs to the process, not to a thread.
unsafe impl Send for ForeignFrames {}

impl ForeignFrames {
    /// Copies a frame that the guest may be writing. The copy is not atomic.
    ///
    /// # Safety
    ///
    /// The frame must have been mapped without an error.
    pub(super) unsafe fn copy(&self, frame: usize, to: &mut PageBuf) {
        assert!(frame < self.pages, "frame {frame} of {}", self.pages);
        // SAFETY: the address is inside the mapping.
        let from = unsafe { self.base.add(frame) };
        // SAFETY: PAGE_SIZE bytes are readable at `from` as the caller promises, and writable at
        // `to`. The copy is outside the language's memory model, like the kernel's own: a
        // concurrent writer makes the bytes a mixture and does no other harm.
        unsafe {
            std::arch::asm!(
                "rep movsq",
                inout("rcx") PAGE_SIZE / size_of::<u64>() => _,
                inout("rsi") from.as_ptr() => _,
                inout("rdi") to => _,
                options(nostack, preserves_flags),
            );
        }
    }

    /// The address of the mapping.
    pub(super) fn base(&self) -> NonNull<u8> {
        self.base.cast()
    }

    /// Keeps the mapping until the process ends.
    pub(super) fn leak(self) {
        std::mem::forget(self);
    }
}

impl Drop for ForeignFrames {
    fn drop(&mut self) {
        // SAFETY: this value owns the mapping, and nothing refers to it any more.
        let unmapped =
            unsafe { rustix::mm::munmap(self.base.as_ptr().cast(), self.pages * PAGE_SIZE) };
        debug_assert_eq!(unmapped, Ok(()));
    }
}

/// Makes one of the devices' ioctls and returns its result.
pub(super) fn ioctl<T>(device: &OwnedFd, opcode: Opcode, argument: &mut T) -> Result<u32, Errno> {
    loop {
        let call = Call { opcode, argument };
        // SAFETY: each caller pairs an opcode with the structure that its number was made from
        // (`abi`). The kernel checks the addresses inside.
        match unsafe { rustix::ioctl::ioctl(device, call) } {
            Err(Errno::INTR) => {}
            done => return done,
        }
    }
}

struct Call<'a, T> {
    opcode: Opcode,
    argument: &'a mut T,
}

// SAFETY: the pointer is that of a live value of the type that belongs to the opcode, as `ioctl`
// requires.
unsafe impl<T> Ioctl for Call<'_, T> {
    type Output = u32;
    const IS_MUTATING: bool = true;

    fn opcode(&self) -> Opcode {
        self.opcode
    }

    fn as_ptr(&mut self) -> *mut c_void {
        ptr::from_mut(self.argument).cast()
    }

    unsafe fn output_from_ptr(out: IoctlOutput, _: *mut c_void) -> Result<u32, Errno> {
        Ok(out.cast_unsigned())
    }
}
