// SPDX-License-Identifier: MIT OR Apache-2.0
use std::sync::atomic::Ordering::Relaxed;

use p2m_paging::p2m::{Access, AccessBits, ClearBits};
use p2m_paging::paging::{
    AccessBitsError, Caller, DomainProperties, DropError, EvictError, Job, NominateError,
    Populated, PrepError,
};
use p2m_paging::pause::VcpuCell;
use p2m_paging::{Errno, PAGE_SIZE, Paging};
use rustix::mm::{MapFlags, ProtFlags};

use super::super::uffd::{Modes, Options};
use super::*;

fn gfn(raw: u64) -> Gfn {
    Gfn::try_new(raw).expect("a frame number")
}

/// A guest of `pages` pages, each filled with its number plus one, with paging enabled.
fn guest(pages: u64) -> Paging<'static, HostPlatform> {
    let memory = GuestMemory::create(pages).unwrap();
    for page in 0..pages {
        memory.store(gfn(page), &contents(page)).unwrap();
    }
    let uffd = Userfaultfd::open(Options::GUEST).unwrap();
    let modes = Modes::MISSING | Modes::WRITE_PROTECT;
    uffd.register(&memory, modes).unwrap();
    let events = EventChannel::new().unwrap();
    let platform = HostPlatform::new(memory, uffd, 1, events);
    platform.set_buffers(Some(SharedArea::create("buffers", 4).unwrap()));
    let paging = Paging::new(platform, Box::leak(Box::new([VcpuCell::new()])));
    let ring: &'static SharedArea = Box::leak(Box::new(SharedArea::create("ring", 1).unwrap()));
    paging
        .enable(&DomainProperties::PAGEABLE, || Some(ring.ring_page()))
        .unwrap();
    paging
}

fn contents(page: u64) -> [u8; PAGE_SIZE] {
    [u8::try_from(page + 1).unwrap(); PAGE_SIZE]
}

fn nominate(paging: &Paging<'_, HostPlatform>, page: u64) -> Result<(), NominateError> {
    let mut jobs = [Job::new(gfn(page))];
    paging.nominate(paging.epoch(), &mut jobs);
    jobs[0].outcome.unwrap()
}

fn evict(paging: &Paging<'_, HostPlatform>, page: u64) -> Result<(), EvictError> {
    let mut jobs = [Job::new(gfn(page))];
    paging.evict(paging.epoch(), &mut jobs);
    jobs[0].outcome.unwrap()
}

fn prep(paging: &Paging<'_, HostPlatform>, page: u64, buffer: u64) -> Result<(), PrepError> {
    let mut jobs = [Job::filled(gfn(page), BufferIndex(buffer))];
    paging.prep(paging.epoch(), &mut jobs);
    jobs[0].outcome.unwrap()
}

/// Fills a buffer as the pager would.
fn fill_buffer(paging: &Paging<'_, HostPlatform>, buffer: usize, byte: u8) {
    let table = paging.platform().table.lock();
    let words = table.buffers.as_ref().unwrap().page(buffer).unwrap();
    let word = u64::from_ne_bytes([byte; 8]);
    words.iter().for_each(|w| w.store(word, Relaxed));
}

fn resident(paging: &Paging<'_, HostPlatform>) -> u64 {
    paging.platform().memory().resident_pages().unwrap()
}

fn read(paging: &Paging<'_, HostPlatform>, page: u64) -> [u8; PAGE_SIZE] {
    let mut bytes = [0; PAGE_SIZE];
    let run = FrameRun::one(gfn(page));
    paging.platform().memory().read(run, &mut bytes).unwrap();
    bytes
}

#[test]
fn an_evicted_page_frees_its_memory_and_comes_back_with_what_the_pager_supplies() {
    let paging = guest(4);
    nominate(&paging, 1).unwrap();
    assert_eq!(read(&paging, 1), contents(1), "the contents stay in place");
    evict(&paging, 1).unwrap();
    assert_eq!(resident(&paging), 3);
    let counts = paging.platform().counts();
    assert_eq!((counts.paged, counts.resident()), (1, 3));
    fill_buffer(&paging, 2, 9);
    prep(&paging, 1, 2 * PAGE_SIZE as u64).unwrap();
    assert_eq!(read(&paging, 1), [9; PAGE_SIZE]);
    assert_eq!(paging.platform().counts().resident(), 4);
}

#[test]
fn a_mapped_frame_is_neither_nominated_nor_evicted() {
    let paging = guest(2);
    let platform = paging.platform();
    platform.map(gfn(0), Mapper::Writer).unwrap();
    platform.map(gfn(0), Mapper::Writer).unwrap();
    let in_use = |references| NominateError::InUse {
        references,
        typed: 0,
    };
    assert_eq!(nominate(&paging, 0), Err(in_use(3)));
    assert!(platform.unmap(gfn(0)) && platform.unmap(gfn(0)) && !platform.unmap(gfn(0)));
    nominate(&paging, 0).unwrap();
    // A write after the pager's copy would be lost.
    assert_eq!(
        platform.map(gfn(0), Mapper::Writer),
        Err(P2mType::RamPagingOut)
    );
    platform.map(gfn(0), Mapper::Reader).unwrap();
    let refused = evict(&paging, 0).unwrap_err();
    assert_eq!(refused.errno(), Errno::EBUSY);
    assert_eq!(read(&paging, 0), contents(0));
    // Nor does the guest's balloon take it from its user.
    let dropped = paging.drop_page(gfn(0), Caller::Foreign(VcpuId(0)));
    assert_eq!(dropped, Err(DropError::Platform(Errno::EBUSY)));
    assert!(platform.unmap(gfn(0)));
    evict(&paging, 0).unwrap();
    assert_eq!(platform.map(gfn(0), Mapper::Writer), Err(P2mType::RamPaged));
}

#[test]
fn a_buffer_beyond_the_pagers_memory_is_refused_and_the_page_stays_out() {
    let paging = guest(2);
    nominate(&paging, 0).unwrap();
    evict(&paging, 0).unwrap();
    for wrong in [1, 4 * PAGE_SIZE as u64, u64::MAX, u64::MAX - 4095] {
        assert_eq!(
            prep(&paging, 0, wrong),
            Err(PrepError::InvalidBuffer),
            "{wrong:#x}"
        );
    }
    paging.platform().set_buffers(None);
    assert_eq!(prep(&paging, 0, 0), Err(PrepError::InvalidBuffer));
    assert_eq!(paging.platform().counts().paged, 1);
    let mut empty = [Job::empty(gfn(0))];
    paging.prep(paging.epoch(), &mut empty);
    assert_eq!(empty[0].outcome, Some(Err(PrepError::InvalidBuffer)));
}

#[test]
fn frames_beyond_the_guest_are_no_memory() {
    let paging = guest(2);
    for beyond in [2, Gfn::MAX.get()] {
        let refused = nominate(&paging, beyond).unwrap_err();
        assert_eq!(refused, NominateError::NoFrame(P2mType::Invalid));
        assert_eq!(
            paging.platform().map(gfn(beyond), Mapper::Writer),
            Err(P2mType::Invalid)
        );
    }
}

#[test]
fn a_page_put_where_one_is_already_replaces_it() {
    let paging = guest(2);
    nominate(&paging, 0).unwrap();
    evict(&paging, 0).unwrap();
    // Touches the hole without the p2m.
    let memory = paging.platform().memory();
    let file = std::os::fd::AsFd::as_fd(&**memory);
    rustix::io::pwrite(file, &[7; PAGE_SIZE], 0).unwrap();
    fill_buffer(&paging, 0, 5);
    prep(&paging, 0, 0).unwrap();
    assert_eq!(read(&paging, 0), [5; PAGE_SIZE]);
}

#[test]
fn a_page_given_back_while_out_counts_as_neither_in_nor_out() {
    let paging = guest(3);
    nominate(&paging, 0).unwrap();
    evict(&paging, 0).unwrap();
    nominate(&paging, 1).unwrap();
    for page in [0, 1] {
        let foreign = Caller::Foreign(VcpuId(0));
        paging.drop_page(gfn(page), foreign).unwrap();
    }
    let counts = paging.platform().counts();
    assert_eq!(
        (counts.paged, counts.given_back, counts.resident()),
        (0, 2, 1)
    );
    assert_eq!(resident(&paging), 1);
    assert!(paging.platform().refill(gfn(0)).unwrap());
    assert!(!paging.platform().refill(gfn(0)).unwrap(), "once");
    assert_eq!(read(&paging, 0), [0; PAGE_SIZE]);
    assert_eq!(paging.platform().counts().resident(), 2);
}

#[test]
fn a_write_to_a_nominated_page_takes_it_home_and_the_evict_fails() {
    let paging = guest(1);
    nominate(&paging, 0).unwrap();
    let vcpu = VcpuId(0);
    assert_eq!(
        paging.fault(vcpu, gfn(0), Access::READ),
        Ok(Populated::Present)
    );
    let write = Access::READ | Access::WRITE;
    assert_eq!(paging.fault(vcpu, gfn(0), write), Ok(Populated::Present));
    assert_eq!(
        paging.platform().pauses[0].load(Relaxed),
        0,
        "it may run on"
    );
    assert_eq!(evict(&paging, 0).unwrap_err().errno(), Errno::EBUSY);
    assert_eq!(read(&paging, 0), contents(0));
    // A write that does not trap shows that the protection is gone.
    paging.platform().memory().page(gfn(0)).unwrap()[0].store(7, Relaxed);
    assert_eq!(prep(&paging, 0, 0).unwrap_err().errno(), Errno::ENOENT);
}

/// Puts another mapping over a page, so that the kernel cannot protect the page.
fn cover(paging: &Paging<'_, HostPlatform>, page: u64) {
    let at = std::ptr::from_ref(paging.platform().memory().page(gfn(page)).unwrap());
    let (prot, flags) = (
        ProtFlags::READ | ProtFlags::WRITE,
        MapFlags::PRIVATE | MapFlags::FIXED,
    );
    // SAFETY: one page of a mapping that belongs to this test. Nothing refers to it.
    unsafe { rustix::mm::mmap_anonymous(at.cast_mut().cast(), PAGE_SIZE, prot, flags) }.unwrap();
}

/// Maps the page's memory again and registers it as before.
fn uncover(paging: &Paging<'_, HostPlatform>, page: u64) {
    let platform = paging.platform();
    let at = std::ptr::from_ref(platform.memory().page(gfn(page)).unwrap());
    let (prot, flags) = (
        ProtFlags::READ | ProtFlags::WRITE,
        MapFlags::SHARED | MapFlags::FIXED,
    );
    let (file, offset) = (
        std::os::fd::AsFd::as_fd(&**platform.memory()),
        page * PAGE_SIZE as u64,
    );
    // SAFETY: as above.
    unsafe { rustix::mm::mmap(at.cast_mut().cast(), PAGE_SIZE, prot, flags, file, offset) }
        .unwrap();
    let modes = Modes::MISSING | Modes::WRITE_PROTECT;
    platform.uffd.register(platform.memory(), modes).unwrap();
}

#[test]
fn pages_that_cannot_be_protected_go_home_and_may_go_out_later() {
    let paging = guest(4);
    cover(&paging, 2);
    let mut jobs = [0, 1, 2, 3].map(|page| Job::new(gfn(page)));
    paging.nominate(paging.epoch(), &mut jobs);
    let home = EvictError::NotNominated(P2mType::RamRw);
    for page in 0..4 {
        assert_eq!(evict(&paging, page), Err(home), "page {page}");
    }
    // A write that does not trap shows that no protection is left.
    for page in [0, 1, 3] {
        paging.platform().memory().page(gfn(page)).unwrap()[0].store(7, Relaxed);
    }
    uncover(&paging, 2);
    for page in 0..4 {
        assert_eq!(nominate(&paging, page), Ok(()), "page {page}");
        assert_eq!(evict(&paging, page), Ok(()), "page {page}");
    }
    assert_eq!(resident(&paging), 0);
}

#[test]
fn a_page_that_is_home_and_protected_becomes_writable_when_it_is_written() {
    let paging = guest(2);
    let platform = paging.platform();
    platform
        .uffd
        .protect(platform.memory(), FrameRun::new(gfn(0), 2).unwrap())
        .unwrap();
    nominate(&paging, 1).unwrap();
    platform.lift_protection(gfn(0)).unwrap();
    platform.memory().page(gfn(0)).unwrap()[0].store(7, Relaxed);
    // A nominated page stays protected.
    platform.lift_protection(gfn(1)).unwrap();
    assert_eq!(evict(&paging, 1), Ok(()));
}

/// The accessed bits of the guest's first 64 pages.
fn accessed(paging: &Paging<'_, HostPlatform>) -> u64 {
    let mut uses = [AccessBits::default(); 2];
    paging
        .read_clear_access_bits(gfn(0), &mut uses, ClearBits::Accessed)
        .unwrap();
    // This guest has no gfns beyond.
    assert!(uses[1].accessed.not_any());
    uses[0].accessed.into_inner()[0]
}

#[test]
fn pages_that_are_used_are_seen_and_others_are_not() {
    let paging = guest(60);
    let memory = paging.platform().memory();
    assert_eq!(accessed(&paging), !0 >> 4, "all of it was filled");
    assert_eq!(accessed(&paging), 0);
    for (page, write) in [(0, true), (7, false), (31, true), (59, false)] {
        let word = &memory.page(gfn(page)).unwrap()[0];
        let value = word.load(Relaxed);
        assert_eq!(value.to_ne_bytes()[..], contents(page)[..8]);
        if write {
            word.store(value, Relaxed);
        }
    }
    assert_eq!(accessed(&paging), 1 | 1 << 7 | 1 << 31 | 1 << 59);
    assert_eq!(accessed(&paging), 0);
    // The pager's read of a frame is not a use.
    let mut page = [0; PAGE_SIZE];
    memory.read(FrameRun::one(gfn(3)), &mut page).unwrap();
    assert_eq!((page, accessed(&paging)), (contents(3), 0));
}

#[test]
fn a_look_at_the_bits_changes_nothing_of_a_page_on_its_way() {
    let paging = guest(4);
    let memory = paging.platform().memory();
    nominate(&paging, 1).unwrap();
    accessed(&paging);
    // It is still protected, mapped or not.
    memory.page(gfn(1)).unwrap()[0].load(Relaxed);
    assert_eq!(accessed(&paging), 1 << 1);
    let asked = paging.fault(VcpuId(0), gfn(1), Access::READ | Access::WRITE);
    assert_eq!(asked, Ok(Populated::Present));
    // A page that is out has not been used, and a page that comes in has the pager's contents.
    nominate(&paging, 2).unwrap();
    evict(&paging, 2).unwrap();
    assert_eq!(accessed(&paging) & 1 << 2, 0);
    fill_buffer(&paging, 0, 0x77);
    prep(&paging, 2, 0).unwrap();
    accessed(&paging);
    let word = memory.page(gfn(2)).unwrap()[5].load(Relaxed);
    assert_eq!(word.to_ne_bytes(), [0x77; 8]);
    assert_eq!(accessed(&paging), 1 << 2);
}

#[test]
fn bits_that_are_nobodys_are_refused() {
    let paging = guest(1);
    let mut uses = [AccessBits::default(); 2];
    let mut take =
        |first| paging.read_clear_access_bits(gfn(first), &mut uses, ClearBits::Accessed);
    assert_eq!(take(1), Err(AccessBitsError::Unaligned(gfn(1))));
    assert_eq!(take(Gfn::MAX.get() - 63), Err(AccessBitsError::Beyond));
    assert_eq!(take(64), Ok(()));
}
