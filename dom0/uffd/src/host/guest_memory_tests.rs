// SPDX-License-Identifier: MIT OR Apache-2.0
use std::os::fd::AsFd as _;
use std::sync::atomic::Ordering::Relaxed;

use super::*;

fn gfn(raw: u64) -> Gfn {
    Gfn::try_new(raw).expect("a frame number")
}

fn run(first: u64, pages: u64) -> FrameRun {
    FrameRun::new(gfn(first), pages).expect("a run")
}

fn another_handle(file: &GuestFile) -> OwnedFd {
    file.as_fd().try_clone_to_owned().expect("dup")
}

#[test]
fn sizes_that_cannot_be_are_refused() {
    assert_eq!(GuestFile::create(0).unwrap_err(), CreateError::NoPages);
    for pages in [Gfn::MAX.get() + 1, u64::MAX / 4096, u64::MAX] {
        assert_eq!(
            GuestFile::create(pages).unwrap_err(),
            CreateError::TooLarge { pages }
        );
    }
}

#[test]
fn memory_is_resident_once_touched_and_gone_once_discarded() {
    let memory = GuestMemory::create(64).expect("memory");
    assert_eq!(memory.size_pages(), 64);
    assert_eq!(memory.resident_pages(), Ok(0));
    for frame in run(0, 64).frames() {
        memory.page(frame).expect("in the guest")[3].store(frame.get() + 1, Relaxed);
    }
    assert_eq!(memory.resident_pages(), Ok(64));
    memory.discard(run(10, 20)).expect("discard");
    assert_eq!(memory.resident_pages(), Ok(44));
    memory.discard(run(0, 64)).expect("discard, partly again");
    assert_eq!(memory.resident_pages(), Ok(0));
}

#[test]
fn discarding_takes_only_the_frames_named() {
    let memory = GuestMemory::create(8).expect("memory");
    for frame in run(0, 8).frames() {
        memory.page(frame).expect("in the guest")[0].store(frame.get() + 1, Relaxed);
    }
    memory.discard(run(3, 2)).expect("discard");
    let words = run(0, 8)
        .frames()
        .map(|frame| memory.page(frame).unwrap()[0].load(Relaxed));
    assert_eq!(words.collect::<Vec<_>>(), [1, 2, 3, 0, 0, 6, 7, 8]);
}

#[test]
fn reading_frames_that_are_out_gives_zeros_and_brings_nothing_in() {
    let memory = GuestMemory::create(8).expect("memory");
    memory.store(gfn(1), &[7; PAGE_SIZE]).expect("in the guest");
    let pager = GuestFile::open(another_handle(&memory)).expect("the pager's handle");
    let mut buffer = vec![1; 3 * PAGE_SIZE];
    pager.read(run(0, 3), &mut buffer).expect("read");
    assert!(buffer[..PAGE_SIZE].iter().all(|&byte| byte == 0));
    assert!(
        buffer[PAGE_SIZE..2 * PAGE_SIZE]
            .iter()
            .all(|&byte| byte == 7)
    );
    assert!(buffer[2 * PAGE_SIZE..].iter().all(|&byte| byte == 0));
    assert_eq!(pager.resident_pages(), Ok(1));
}

#[test]
fn another_process_discards_for_everyone() {
    let memory = GuestMemory::create(4).expect("memory");
    memory.store(gfn(2), &[9; PAGE_SIZE]).expect("in the guest");
    let other = GuestMemory::map(GuestFile::open(another_handle(&memory)).expect("open"))
        .expect("a second mapping");
    assert_eq!(
        other.page(gfn(2)).expect("in the guest")[511].load(Relaxed),
        0x0909_0909_0909_0909
    );
    other.discard(run(2, 1)).expect("discard");
    assert_eq!(
        memory.page(gfn(2)).expect("in the guest")[511].load(Relaxed),
        0
    );
}

#[test]
fn pages_come_out_as_they_went_in() {
    let memory = GuestMemory::create(3).expect("memory");
    let mut page = [0; PAGE_SIZE];
    for (byte, value) in page.iter_mut().zip((0..=250).cycle()) {
        *byte = value;
    }
    memory.store(gfn(1), &page).expect("in the guest");
    let mut back = [0xff; PAGE_SIZE];
    memory.load(gfn(1), &mut back).expect("in the guest");
    assert_eq!(back, page);
    for neighbour in [0, 2] {
        memory
            .load(gfn(neighbour), &mut back)
            .expect("in the guest");
        assert_eq!(back, [0; PAGE_SIZE], "frame {neighbour}");
    }
}

#[test]
fn frames_outside_the_guest_are_refused() {
    let memory = GuestMemory::create(4).expect("memory");
    let outside = FrameError::OutOfGuest {
        end: 5,
        size_pages: 4,
    };
    assert_eq!(memory.discard(run(3, 2)), Err(outside));
    assert_eq!(
        memory.read(run(3, 2), &mut [0; 2 * PAGE_SIZE]),
        Err(outside)
    );
    assert_eq!(memory.address(run(4, 1)), Err(outside));
    assert!(memory.page(gfn(4)).is_none());
    assert!(memory.page(Gfn::MAX).is_none());
    assert!(memory.store(gfn(4), &[0; PAGE_SIZE]).is_none());
    assert!(memory.load(gfn(4), &mut [0; PAGE_SIZE]).is_none());
    let size = FrameError::BufferSize {
        needed: 4096,
        given: 4095,
    };
    assert_eq!(memory.read(run(3, 1), &mut [0; PAGE_SIZE - 1]), Err(size));
}

#[test]
fn addresses_and_frames_belong_together() {
    let memory = GuestMemory::create(4).expect("memory");
    let base = memory.base();
    assert_eq!(memory.address(run(3, 1)), Ok(base + 3 * 4096));
    assert_eq!(memory.gfn(base), Some(gfn(0)));
    assert_eq!(memory.gfn(base + 4 * 4096 - 1), Some(gfn(3)));
    assert_eq!(memory.gfn(base + 4 * 4096), None);
    assert_eq!(memory.gfn(base - 1), None);
    assert_eq!(memory.gfn(0), None);
}

#[test]
fn a_file_that_could_shrink_is_no_guest_memory() {
    let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
    let open = |bytes, seals| {
        let file = rustix::fs::memfd_create("not-yet-guest-memory", flags).expect("memfd");
        rustix::fs::ftruncate(&file, bytes).expect("ftruncate");
        rustix::fs::fcntl_add_seals(&file, seals).expect("seals");
        GuestFile::open(file).map(|file| file.size_pages())
    };
    assert_eq!(open(8192, SealFlags::GROW), Err(CreateError::NotSealed));
    assert_eq!(open(8192, SealFlags::SHRINK), Err(CreateError::NotSealed));
    assert_eq!(
        open(8191, SIZE_SEALS),
        Err(CreateError::PartPage { bytes: 8191 })
    );
    assert_eq!(open(0, SIZE_SEALS), Err(CreateError::NoPages));
    assert_eq!(open(8192, SIZE_SEALS), Ok(2));
}

#[test]
fn the_size_of_guest_memory_stays() {
    let file = GuestFile::create(4).expect("memory");
    assert_eq!(rustix::fs::ftruncate(&file, 4096), Err(Errno::PERM));
    assert_eq!(rustix::fs::ftruncate(&file, 5 * 4096), Err(Errno::PERM));
    assert_eq!(
        rustix::fs::fcntl_add_seals(&file, SealFlags::WRITE),
        Err(Errno::PERM)
    );
}
