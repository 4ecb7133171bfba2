// SPDX-License-Identifier: MIT OR Apache-2.0
// One page of a guest goes out and comes back: the smallest platform, with the pager's half in the
// same program. `cargo run -p p2m-paging --example one_page` runs it.
#![allow(missing_docs, clippy::cast_possible_truncation)] // Frame numbers are small here.
use std::ptr::NonNull;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard};

use p2m_paging::p2m::{Access, P2mType, Permit};
use p2m_paging::paging::{DomainProperties, Job, Populated, RingState};
use p2m_paging::pause::VcpuCell;
use p2m_paging::platform::{AllocError, Contents, InvariantViolation, TakeCondition};
use p2m_paging::platform::{Entry, FrameUsers, Leak, TakeError};
use p2m_paging::ring::{Back, Notify, Response, SharedPage};
use p2m_paging::{Errno, Gfn, Mfn, P2m, PAGE_SIZE, Paging, Platform, SpinLock, VcpuId};

// What a hypervisor has anyway: frames, a p2m, a vcpu. One word stands for a page's contents.
#[derive(Default)]
struct Guest {
    memory: Mutex<Memory>,
    vcpu_stopped: AtomicBool,
}
#[derive(Default)]
struct Memory {
    frames: Vec<u64>, // By mfn.
    free: Vec<Mfn>,
    p2m: Vec<Entry>, // By gfn.
}
struct LockedP2m<'a>(MutexGuard<'a, Memory>);
struct Frame(Mfn);
type Taken = Result<Frame, TakeError>;
impl Leak for Frame {}
impl Guest {
    fn memory(&self) -> MutexGuard<'_, Memory> {
        self.memory.lock().unwrap()
    }
}
fn entry(p2mt: P2mType, mfn: Option<Mfn>) -> Entry {
    Entry { p2mt, mfn }
}

impl Platform for Guest {
    type P2m<'a> = LockedP2m<'a>;
    type Buffer = u64;
    type RingLock = SpinLock;
    fn lock_p2m(&self) -> LockedP2m<'_> {
        LockedP2m(self.memory())
    }
    fn pause_vcpu(&self, _: VcpuId) {
        self.vcpu_stopped.store(true, Ordering::SeqCst);
    }
    fn unpause_vcpu(&self, _: VcpuId) {
        self.vcpu_stopped.store(false, Ordering::SeqCst);
    }
    fn notify_pager(&self) {} // `main` looks at the ring by itself.
    fn defer_event(&self) {} // `main` calls `on_event` until the ring is empty.
    fn invariant_violated(&self, what: InvariantViolation) {
        panic!("{what}");
    }
}

impl P2m for LockedP2m<'_> {
    type Frame = Frame;
    type Buffer = u64;
    fn get(&self, gfn: Gfn) -> Entry {
        let found = self.0.p2m.get(gfn.get() as usize);
        found.copied().unwrap_or(entry(P2mType::Invalid, None))
    }
    fn users(&self, _: Mfn) -> FrameUsers {
        FrameUsers::default() // Nobody maps frames here.
    }
    fn set_type(&mut self, _: Permit, gfn: Gfn, to: P2mType) -> Result<(), Errno> {
        self.0.p2m[gfn.get() as usize].p2mt = to;
        Ok(())
    }
    fn take(&mut self, _: Permit, gfn: Gfn, mfn: Mfn, to: P2mType, _: TakeCondition) -> Taken {
        self.0.p2m[gfn.get() as usize] = entry(to, None);
        Ok(Frame(mfn))
    }
    fn alloc(&mut self, contents: Contents<'_, u64>) -> Result<Frame, AllocError> {
        let mfn = self.0.free.pop().ok_or(AllocError::NoMemory)?;
        self.0.frames[mfn.get() as usize] = match contents {
            Contents::Zero => 0,
            Contents::From(buffer) => *buffer,
        };
        Ok(Frame(mfn))
    }
    fn install(&mut self, _: Permit, gfn: Gfn, frame: Frame, to: P2mType) -> Result<Mfn, Errno> {
        self.0.p2m[gfn.get() as usize] = entry(to, Some(frame.0));
        Ok(frame.0)
    }
    fn restore_m2p(&mut self, _: Mfn, _: Gfn) {} // There is no m2p.
    fn resident_type(&self) -> P2mType {
        P2mType::RamRw
    }
    fn flush(&mut self) {} // There is no TLB.
    fn free(&mut self, frames: impl Iterator<Item = Frame>) {
        for Frame(mfn) in frames {
            self.0.frames[mfn.get() as usize] = 0;
            self.0.free.push(mfn);
        }
    }
    fn count_out(&mut self) {} // Nobody asks how many pages are out.
    fn count_in(&mut self) {}
}

fn main() {
    // A guest of one page, in frame 0, with 7 in it.
    let (gfn, mfn) = (Gfn::try_new(0).unwrap(), Mfn::try_new(0).unwrap());
    let guest = Guest::default();
    guest.memory().frames.push(7);
    guest.memory().p2m.push(entry(P2mType::RamRw, Some(mfn)));
    let cells = [VcpuCell::new()]; // One for each vcpu.
    let paging = Paging::new(guest, &cells);
    let guest = paging.platform();

    // A pager attaches: both halves have the ring page mapped.
    let page = NonNull::from(Box::leak(Box::new([0_u64; PAGE_SIZE / 8]))).cast();
    // SAFETY: aligned to 8, PAGE_SIZE bytes, never freed, accessed through `SharedPage` only.
    let map = || unsafe { SharedPage::new(page) };
    let properties = DomainProperties::PAGEABLE;
    paging.enable(&properties, || Some(map())).unwrap();
    let mut pager = Back::new(map());

    // Out: nominate, copy, evict. The frame is free, and the pager has the only copy.
    let mut batch = [Job::new(gfn)];
    paging.nominate(paging.epoch(), &mut batch);
    assert_eq!(batch[0].outcome, Some(Ok(())));
    let copy = guest.memory().frames[0];
    let mut batch = [Job::new(gfn)];
    paging.evict(paging.epoch(), &mut batch);
    assert_eq!(batch[0].outcome, Some(Ok(())));
    assert_eq!(guest.memory().free, [mfn]);

    // The guest reads the page: its vcpu stops, and a request is on the ring.
    assert!(paging.fault(VcpuId(0), gfn, Access::READ) == Ok(Populated::Paused));
    assert!(guest.vcpu_stopped.load(Ordering::SeqCst));

    // In: the prep fills a frame and wakes the vcpu. The response frees the ring slot.
    let request = pager.take().unwrap().unwrap().unwrap();
    paging.prep(paging.epoch(), &mut [Job::filled(request.gfn, copy)]);
    assert!(!guest.vcpu_stopped.load(Ordering::SeqCst));
    pager.respond(&Response::to(&request)).unwrap();
    if pager.publish() == Notify::Owed {
        while paging.on_event().state == RingState::More {}
    }
    assert_eq!(guest.memory().frames[0], 7);
    println!("{}", paging.counters());
    paging.disable().unwrap();
}
