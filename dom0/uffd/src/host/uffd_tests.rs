// SPDX-License-Identifier: MIT OR Apache-2.0
//! Tests against the running kernel. A vcpu is a thread; each of its actions has a limit of 10 s.

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::mpsc::{Receiver, RecvTimeoutError, TryRecvError, channel};
use std::thread;
use std::time::Duration;

use p2m_paging::Gfn;
use rustix::event::{PollFd, PollFlags, Timespec};

use super::*;

const DEADLINE: Duration = Duration::from_secs(10);

struct Machine {
    uffd: Userfaultfd,
    memory: Arc<GuestMemory>,
}

/// A thread that makes one access. It sends its id first, and then the result of the access.
struct Vcpu {
    thread_id: u32,
    value: Receiver<u64>,
}

fn run(first: u64, pages: u64) -> FrameRun {
    FrameRun::new(Gfn::new_truncate(first), pages).expect("a run")
}

fn page(fill: u8) -> Vec<u8> {
    vec![fill; PAGE_SIZE]
}

fn word(fill: u8) -> u64 {
    u64::from_ne_bytes([fill; 8])
}

impl Machine {
    fn new(pages: u64) -> Self {
        let memory = Arc::new(GuestMemory::create(pages).expect("memory"));
        let uffd = Userfaultfd::open(Options {
            nonblocking: true,
            ..Options::MESSAGES
        })
        .expect("userfaultfd");
        uffd.register(&memory, Modes::MISSING | Modes::WRITE_PROTECT)
            .expect("register");
        Self { uffd, memory }
    }

    fn start(&self, access: impl FnOnce(&AtomicU64) -> u64 + Send + 'static, gfn: u64) -> Vcpu {
        let memory = Arc::clone(&self.memory);
        let (tell_id, id) = channel();
        let (tell_value, value) = channel();
        thread::spawn(move || {
            let tid = rustix::thread::gettid()
                .as_raw_nonzero()
                .get()
                .cast_unsigned();
            tell_id.send(tid).expect("the test waits");
            let page = memory.page(Gfn::new_truncate(gfn)).expect("in the guest");
            // The test may have failed and ended.
            let _ = tell_value.send(access(&page[0]));
        });
        Vcpu {
            thread_id: id.recv_timeout(DEADLINE).expect("vcpu starts"),
            value,
        }
    }

    fn read(&self, gfn: u64) -> Vcpu {
        self.start(|word| word.load(Relaxed), gfn)
    }

    fn write(&self, gfn: u64, value: u64) -> Vcpu {
        self.start(move |word| word.swap(value, Relaxed), gfn)
    }

    /// Reads faults until there are `count`.
    fn faults(&self, count: usize) -> Vec<Fault> {
        let mut faults = Vec::new();
        while faults.len() < count {
            let deadline = Timespec::try_from(DEADLINE).expect("a short time");
            let mut polled = [PollFd::new(&self.uffd, PollFlags::IN)];
            let ready = rustix::event::poll(&mut polled, Some(&deadline)).expect("poll");
            assert_eq!(ready, 1, "no fault came; so far {faults:?}");
            self.uffd.read(&mut faults).expect("read");
        }
        assert_eq!(faults.len(), count, "{faults:?}");
        faults
    }

    fn fault(&self, vcpu: &Vcpu, gfn: u64, kind: FaultKind, write: bool) {
        let address = self.memory.address(run(gfn, 1)).expect("in the guest");
        let expected = Fault {
            address,
            thread_id: Some(vcpu.thread_id),
            kind,
            write,
        };
        assert_eq!(self.faults(1), [expected]);
    }

    fn assert_no_fault(&self) {
        assert_eq!(self.uffd.read(&mut Vec::new()), Ok(0));
    }

    fn copy(&self, gfn: u64, fill: u8, flags: CopyFlags) -> Result<(), CopyError> {
        self.uffd
            .copy(&self.memory, run(gfn, 1), page(fill).as_slice(), flags)
    }

    fn protect(&self, gfn: u64) {
        self.uffd
            .protect(&self.memory, run(gfn, 1))
            .expect("protect");
    }

    fn unprotect(&self, gfn: u64, wake: Wake) {
        self.uffd
            .unprotect(&self.memory, run(gfn, 1), wake)
            .expect("unprotect");
    }

    fn wake(&self, gfn: u64) {
        self.uffd.wake(&self.memory, run(gfn, 1)).expect("wake");
    }

    fn discard(&self, gfn: u64) {
        self.memory.discard(run(gfn, 1)).expect("discard");
    }
}

impl Vcpu {
    fn finishes(self) -> u64 {
        self.value.recv_timeout(DEADLINE).expect("the vcpu goes on")
    }

    fn assert_waiting(&self) {
        assert_eq!(
            self.value.try_recv(),
            Err(TryRecvError::Empty),
            "the vcpu went on"
        );
    }

    /// A stronger check: the vcpu also does not continue within some time, in case a wake arrives
    /// late.
    fn assert_keeps_waiting(&self) {
        let moment = Duration::from_millis(20);
        assert_eq!(
            self.value.recv_timeout(moment),
            Err(RecvTimeoutError::Timeout)
        );
    }
}

#[test]
fn a_missing_page_stops_its_reader_until_it_is_copied_in() {
    let machine = Machine::new(8);
    let vcpu = machine.read(5);
    machine.fault(&vcpu, 5, FaultKind::Missing, false);
    vcpu.assert_waiting();
    assert_eq!(machine.copy(5, 0x5a, CopyFlags::empty()), Ok(()));
    assert_eq!(vcpu.finishes(), word(0x5a));
    assert_eq!(machine.memory.resident_pages(), Ok(1));
}

#[test]
fn a_missing_page_stops_its_writer_and_tells_that_it_writes() {
    let machine = Machine::new(8);
    let vcpu = machine.write(7, 77);
    machine.fault(&vcpu, 7, FaultKind::Missing, true);
    assert_eq!(machine.copy(7, 3, CopyFlags::empty()), Ok(()));
    assert_eq!(vcpu.finishes(), word(3));
    assert_eq!(machine.read(7).finishes(), 77);
}

#[test]
fn two_vcpus_on_one_page_send_two_messages_and_one_copy_wakes_both() {
    let machine = Machine::new(2);
    let (first, second) = (machine.read(0), machine.read(0));
    let threads = machine
        .faults(2)
        .into_iter()
        .map(|fault| fault.thread_id.expect("asked for"));
    let mut threads = threads.collect::<Vec<_>>();
    let mut expected = [first.thread_id, second.thread_id];
    threads.sort_unstable();
    expected.sort_unstable();
    assert_eq!(threads, expected);
    assert_eq!(machine.copy(0, 9, CopyFlags::empty()), Ok(()));
    assert_eq!((first.finishes(), second.finishes()), (word(9), word(9)));
}

#[test]
fn a_page_from_shared_memory_arrives_too() {
    let machine = Machine::new(2);
    let data = GuestMemory::create(1).expect("data page");
    data.store(Gfn::new_truncate(0), &[0x77; PAGE_SIZE])
        .expect("in it");
    let source = data.page(Gfn::new_truncate(0)).expect("in it").as_slice();
    let copied = machine
        .uffd
        .copy(&machine.memory, run(1, 1), source, CopyFlags::empty());
    assert_eq!(copied, Ok(()));
    assert_eq!(machine.read(1).finishes(), word(0x77));
}

#[test]
fn without_waking_the_vcpu_waits_for_the_wake() {
    let machine = Machine::new(2);
    let vcpu = machine.read(1);
    machine.fault(&vcpu, 1, FaultKind::Missing, false);
    assert_eq!(machine.copy(1, 4, CopyFlags::DONT_WAKE), Ok(()));
    vcpu.assert_keeps_waiting();
    machine.wake(1);
    assert_eq!(vcpu.finishes(), word(4));
}

#[test]
fn a_page_that_is_present_is_kept_and_nobody_wakes() {
    let machine = Machine::new(2);
    let vcpu = machine.read(1);
    machine.fault(&vcpu, 1, FaultKind::Missing, false);
    assert_eq!(machine.copy(1, 4, CopyFlags::DONT_WAKE), Ok(()));
    assert_eq!(
        machine.copy(1, 5, CopyFlags::empty()),
        Err(CopyError::Present)
    );
    vcpu.assert_keeps_waiting();
    machine.wake(1);
    assert_eq!(vcpu.finishes(), word(4));
}

#[test]
fn a_run_that_meets_a_present_page_says_how_far_it_came() {
    let machine = Machine::new(8);
    assert_eq!(machine.copy(4, 1, CopyFlags::empty()), Ok(()));
    let source = vec![2; 4 * PAGE_SIZE];
    let copied = machine.uffd.copy(
        &machine.memory,
        run(2, 4),
        source.as_slice(),
        CopyFlags::empty(),
    );
    assert_eq!(copied, Err(CopyError::Partial { pages: 2 }));
    assert_eq!(
        [2, 3, 4].map(|gfn| machine.read(gfn).finishes()),
        [word(2), word(2), word(1)]
    );
    assert_eq!(machine.memory.resident_pages(), Ok(3));
}

#[test]
fn a_protected_page_stops_writers_only() {
    let machine = Machine::new(4);
    assert_eq!(machine.copy(2, 6, CopyFlags::empty()), Ok(()));
    machine.protect(2);
    assert_eq!(machine.read(2).finishes(), word(6));
    let vcpu = machine.write(2, 1);
    machine.fault(&vcpu, 2, FaultKind::WriteProtect, true);
    machine.unprotect(2, Wake::Later);
    vcpu.assert_keeps_waiting();
    machine.wake(2);
    assert_eq!(vcpu.finishes(), word(6));
}

#[test]
fn unprotecting_wakes() {
    let machine = Machine::new(4);
    assert_eq!(machine.copy(2, 6, CopyFlags::WRITE_PROTECT), Ok(()));
    let vcpu = machine.write(2, 1);
    machine.fault(&vcpu, 2, FaultKind::WriteProtect, true);
    machine.unprotect(2, Wake::Now);
    assert_eq!(vcpu.finishes(), word(6));
    assert_eq!(machine.write(2, 2).finishes(), 1);
    machine.assert_no_fault();
}

#[test]
fn a_page_without_a_page_table_entry_is_protected_too() {
    let machine = Machine::new(4);
    // The write goes through another mapping: the page is in the file, but was never touched in the
    // registered mapping.
    let other = machine.memory.as_fd().try_clone_to_owned().expect("dup");
    let file = crate::host::guest_memory::GuestFile::open(other).expect("open");
    let other = GuestMemory::map(file).expect("map");
    other
        .store(Gfn::new_truncate(3), &[8; PAGE_SIZE])
        .expect("in the guest");
    machine.protect(3);
    assert_eq!(machine.read(3).finishes(), word(8));
    let vcpu = machine.write(3, 1);
    machine.fault(&vcpu, 3, FaultKind::WriteProtect, true);
    machine.unprotect(3, Wake::Now);
    assert_eq!(vcpu.finishes(), word(8));
}

#[test]
fn a_protected_page_that_is_discarded_is_missing_and_comes_back_writable() {
    let machine = Machine::new(4);
    assert_eq!(machine.copy(1, 6, CopyFlags::empty()), Ok(()));
    machine.protect(1);
    machine.discard(1);
    assert_eq!(machine.memory.resident_pages(), Ok(0));
    let vcpu = machine.write(1, 11);
    machine.fault(&vcpu, 1, FaultKind::Missing, true);
    assert_eq!(machine.copy(1, 6, CopyFlags::empty()), Ok(()));
    assert_eq!(vcpu.finishes(), word(6));
    machine.assert_no_fault();
}

#[test]
fn a_hole_that_is_protected_is_missing_and_comes_back_writable() {
    let machine = Machine::new(4);
    machine.protect(1);
    let vcpu = machine.write(1, 11);
    machine.fault(&vcpu, 1, FaultKind::Missing, true);
    assert_eq!(machine.copy(1, 6, CopyFlags::empty()), Ok(()));
    assert_eq!(vcpu.finishes(), word(6));
    machine.assert_no_fault();
}

#[test]
fn a_writer_that_waits_on_a_page_discarded_meanwhile_must_be_woken_to_fault_again() {
    let machine = Machine::new(4);
    assert_eq!(machine.copy(1, 6, CopyFlags::WRITE_PROTECT), Ok(()));
    let vcpu = machine.write(1, 11);
    machine.fault(&vcpu, 1, FaultKind::WriteProtect, true);
    machine.discard(1);
    vcpu.assert_keeps_waiting();
    machine.assert_no_fault();
    machine.wake(1);
    machine.fault(&vcpu, 1, FaultKind::Missing, true);
    assert_eq!(machine.copy(1, 7, CopyFlags::empty()), Ok(()));
    assert_eq!(vcpu.finishes(), word(7));
}

#[test]
fn zeros_fill_a_page_and_wake() {
    let machine = Machine::new(4);
    let vcpu = machine.write(3, 5);
    machine.fault(&vcpu, 3, FaultKind::Missing, true);
    assert_eq!(
        machine.uffd.zero(&machine.memory, run(3, 1), Wake::Now),
        Ok(())
    );
    assert_eq!(vcpu.finishes(), 0);
    let again = machine.uffd.zero(&machine.memory, run(3, 1), Wake::Now);
    assert_eq!(again, Err(CopyError::Present));
    assert_eq!(machine.read(3).finishes(), 5);
}

#[test]
fn unregistered_memory_is_ordinary_again() {
    let machine = Machine::new(4);
    let vcpu = machine.read(0);
    machine.fault(&vcpu, 0, FaultKind::Missing, false);
    machine
        .uffd
        .unregister(&machine.memory)
        .expect("unregister");
    assert_eq!(vcpu.finishes(), 0);
    let copied = machine.copy(1, 1, CopyFlags::empty());
    assert_eq!(
        copied,
        Err(CopyError::System {
            step: "UFFDIO_COPY",
            errno: Errno::NOENT
        })
    );
}

#[test]
fn ranges_and_sources_that_do_not_fit_are_refused() {
    let machine = Machine::new(4);
    let outside = FrameError::OutOfGuest {
        end: 5,
        size_pages: 4,
    };
    let (uffd, memory) = (&machine.uffd, &*machine.memory);
    assert_eq!(uffd.protect(memory, run(3, 2)), Err(outside.into()));
    assert_eq!(
        uffd.unprotect(memory, run(3, 2), Wake::Now),
        Err(outside.into())
    );
    assert_eq!(uffd.wake(memory, run(4, 1)), Err(outside.into()));
    assert_eq!(uffd.zero(memory, run(4, 1), Wake::Now), Err(outside.into()));
    assert_eq!(machine.copy(4, 0, CopyFlags::empty()), Err(outside.into()));
    let short = uffd.copy(memory, run(0, 2), page(1).as_slice(), CopyFlags::empty());
    assert_eq!(
        short,
        Err(CopyError::SourceSize {
            needed: 8192,
            given: 4096
        })
    );
}
