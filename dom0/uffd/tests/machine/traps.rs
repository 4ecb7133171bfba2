// SPDX-License-Identifier: MIT OR Apache-2.0
//! What happens to a vcpu at a page that is out or protected.

use std::os::unix::process::ExitStatusExt as _;
use std::process::Command;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::mpsc::{Receiver, channel};
use std::thread;
use std::time::Duration;

use p2m_paging::paging::{Caller, Count};
use p2m_paging::{PAGE_SIZE, VcpuId};
use pager_store::PageBuf;
use pager_uffd::host::Machine;
use pager_uffd::link::Op;

use super::{gfn, machine, pager, wait_for};

const DEADLINE: Duration = Duration::from_secs(10);

/// A vcpu that reads a word of a page, writes it if `write` has a value, and sends what it read.
fn visit(machine: &'static Machine, vcpu: u32, page: u64, write: Option<u64>) -> Receiver<u64> {
    let (tell, told) = channel();
    thread::spawn(move || {
        machine.become_vcpu(VcpuId(vcpu));
        let word = &machine.memory().page(gfn(page)).expect("in the guest")[0];
        let found = match write {
            Some(value) => word.swap(value, Relaxed),
            None => word.load(Relaxed),
        };
        // The test may have failed and ended.
        let _ = tell.send(found);
    });
    told
}

fn word(byte: u8) -> u64 {
    u64::from_ne_bytes([byte; 8])
}

fn wait_for_count(machine: &Machine, count: Count, number: u64) {
    let counters = machine.paging().counters();
    wait_for(|| (counters.get(count) == number).then_some(()));
}

#[test]
fn all_vcpus_that_touch_a_page_that_is_out_sleep_until_it_is_home() {
    let (machine, name) = machine("trap-missing");
    let mut pager = pager(&name);
    assert_eq!(pager.batch(Op::Nominate, &[7]), [Ok(())]);
    assert_eq!(pager.batch(Op::Evict, &[7]), [Ok(())]);
    let reader = visit(machine, 0, 7, None);
    wait_for_count(machine, Count::Paused, 1);
    let writer = visit(machine, 1, 7, Some(9));
    wait_for_count(machine, Count::Paused, 2);
    assert_eq!(
        (reader.try_iter().count(), writer.try_iter().count()),
        (0, 0)
    );
    pager.buffers[1] = PageBuf([0xab; PAGE_SIZE]);
    assert_eq!(pager.prep(&[(7, PAGE_SIZE as u64)]), [Ok(())]);
    let read = reader.recv_timeout(DEADLINE).expect("the reader goes on");
    assert!([word(0xab), 9].contains(&read), "{read:#x}");
    assert_eq!(writer.recv_timeout(DEADLINE), Ok(word(0xab)));
    assert_eq!(
        (machine.faults(VcpuId(0)), machine.faults(VcpuId(1))),
        (1, 1)
    );
    let requests = machine.paging().counters().get(Count::Requests);
    assert_eq!(requests, 1, "one request for both");
}

/// Defect 2: in C even a read of a nominated page goes to the pager.
#[test]
fn a_nominated_page_is_read_without_a_trap_and_written_with_one() {
    let (machine, name) = machine("trap-protected");
    let mut pager = pager(&name);
    assert_eq!(pager.batch(Op::Nominate, &[3]), [Ok(())]);
    let read = visit(machine, 0, 3, None).recv_timeout(DEADLINE);
    assert_eq!((read, machine.faults(VcpuId(0))), (Ok(word(3)), 0));
    // The page becomes resident at once, and nobody waits for the pager.
    let writer = visit(machine, 1, 3, Some(5));
    assert_eq!(writer.recv_timeout(DEADLINE), Ok(word(3)));
    let restored = machine.paging().counters().get(Count::RestoredOnAccess);
    assert_eq!((machine.faults(VcpuId(1)), restored), (1, 1));
    assert_eq!(
        pager.batch(Op::Evict, &[3]),
        [Err(p2m_paging::Errno::EBUSY)]
    );
    let read = visit(machine, 0, 3, None).recv_timeout(DEADLINE);
    assert_eq!(read, Ok(5));
}

#[test]
fn a_vcpu_whose_page_is_given_back_goes_on_with_an_empty_one() {
    let (machine, name) = machine("trap-dropped");
    let mut pager = pager(&name);
    assert_eq!(pager.batch(Op::Nominate, &[4]), [Ok(())]);
    assert_eq!(pager.batch(Op::Evict, &[4]), [Ok(())]);
    let reader = visit(machine, 0, 4, None);
    wait_for_count(machine, Count::Paused, 1);
    machine.give_back(gfn(4), Caller::Guest(VcpuId(1))).unwrap();
    assert_eq!(reader.recv_timeout(DEADLINE), Ok(0));
    assert_eq!(machine.stray_accesses(), 1);
}

/// The environment variable with which [`no_vcpu`] runs again in its own process.
const NO_VCPU: &str = "XENPAGING_TEST_NO_VCPU";

#[test]
fn a_thread_that_is_no_vcpu_is_ended_by_a_page_that_is_out() {
    if std::env::var_os(NO_VCPU).is_some() {
        return no_vcpu();
    }
    let this = thread::current().name().map(str::to_owned).expect("a name");
    let output = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", &this, "--nocapture"])
        .env(NO_VCPU, "1")
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.signal(), Some(7), "SIGBUS: {said}");
    assert!(
        said.contains("touched by a thread that is no vcpu"),
        "{said}"
    );
}

fn no_vcpu() {
    let (machine, name) = machine("trap-stranger");
    let mut pager = pager(&name);
    assert_eq!(pager.batch(Op::Nominate, &[7]), [Ok(())]);
    assert_eq!(pager.batch(Op::Evict, &[7]), [Ok(())]);
    machine.memory().page(gfn(7)).unwrap()[0].load(Relaxed);
}
