// SPDX-License-Identifier: MIT OR Apache-2.0
//! The machine's side of the socket and the mailbox.

use std::thread;

use p2m_paging::paging::Attachment;
use p2m_paging::{Errno, PAGE_SIZE, VcpuId};
use pager_shell::PagingStates;
use pager_shell::socket::{Connection, PACKET_WORDS};
use pager_store::PageBuf;
use pager_uffd::host::PagerExit;
use pager_uffd::link::mailbox::ENTRIES;
use pager_uffd::link::{Mailbox, Op, PostedPrep, SharedArea};
use pager_uffd::pager_side::CallError;

use super::{BUFFERS, PAGES, buffers, gfn, machine, pager, wait_for};

#[test]
fn pages_go_out_and_come_back_in_batches() {
    let (machine, name) = machine("batches");
    let mut pager = pager(&name);
    let all: Vec<u64> = (0..PAGES).collect();
    assert!(pager.batch(Op::Nominate, &all).iter().all(Result::is_ok));
    assert!(pager.batch(Op::Evict, &all).iter().all(Result::is_ok));
    assert_eq!(machine.memory().resident_pages(), Ok(0));
    pager.buffers[3] = PageBuf([0xab; PAGE_SIZE]);
    let at = 3 * PAGE_SIZE as u64;
    assert_eq!(
        pager.prep(&[(5, at), (5, at)]),
        [Ok(()), Err(Errno::ENOENT)]
    );
    let mut page = [0; PAGE_SIZE];
    machine.memory().load(gfn(5), &mut page).unwrap();
    assert_eq!(page, [0xab; PAGE_SIZE]);
}

/// Rows A1 and A2: a used frame is not nominated, and a nominated page that a foreign caller wants
/// to write is not evicted.
#[test]
fn a_foreign_map_keeps_a_page_from_going_out() {
    let (_machine, name) = machine("map");
    let mut pager = pager(&name);
    assert_eq!(pager.batch(Op::Nominate, &[1]), [Ok(())]);
    assert_eq!(pager.batch(Op::Map, &[1, 2]), [Err(Errno::ENOENT), Ok(())]);
    // It became resident for the writer, which tries again.
    assert_eq!(pager.batch(Op::Evict, &[1]), [Err(Errno::EBUSY)]);
    assert_eq!(pager.batch(Op::Map, &[1]), [Ok(())]);
    let in_use = [Err(Errno::EBUSY), Err(Errno::EBUSY)];
    assert_eq!(pager.batch(Op::Nominate, &[1, 2]), in_use);
    assert_eq!(
        pager.batch(Op::Unmap, &[1, 1, 2]),
        [Ok(()), Err(Errno::EINVAL), Ok(())]
    );
    assert_eq!(pager.batch(Op::Nominate, &[1]), [Ok(())]);
    assert_eq!(pager.batch(Op::Evict, &[1]), [Ok(())]);
    // The page is out and has been requested, so the caller tries again. Then it is on its way.
    assert_eq!(pager.batch(Op::Map, &[1]), [Err(Errno::ENOENT)]);
    assert_eq!(pager.batch(Op::Map, &[1]), [Err(Errno::ENOENT)]);
    assert_eq!(pager.prep(&[(1, 0)]), [Ok(())]);
    assert_eq!(pager.batch(Op::Map, &[1]), [Ok(())]);
}

#[test]
fn a_second_pager_and_one_that_leaves_pages_out_are_refused() {
    let (machine, name) = machine("second");
    let mut first = pager(&name);
    assert_eq!(first.batch(Op::Nominate, &[1]), [Ok(())]);
    assert_eq!(first.batch(Op::Evict, &[1]), [Ok(())]);
    let busy = |result: Result<(), CallError>| {
        matches!(
            result,
            Err(CallError::Refused {
                errno: Errno::EBUSY,
                ..
            })
        )
    };
    assert!(busy(first.calls.call(Op::Enable)));
    assert!(busy(first.calls.call(Op::Disable)));
    let (_, file) = buffers();
    assert!(busy(first.calls.attach(&file, BUFFERS).map(drop)));
    assert_eq!(first.prep(&[(1, 0)]), [Ok(())]);
    first.calls.call(Op::Disable).unwrap();
    assert_eq!(machine.pager_exit(), Some(PagerExit::Detached));
    drop(first);
    drop(pager(&name));
    let pager_exit = wait_for(|| machine.pager_exit());
    assert_eq!(pager_exit, PagerExit::Died { out_pages: 0 });
}

#[test]
fn a_pager_that_is_gone_is_noticed_and_what_it_took_is_counted() {
    let (machine, name) = machine("gone");
    let mut pager = pager(&name);
    assert!(
        pager
            .batch(Op::Nominate, &[1, 2, 3])
            .iter()
            .all(Result::is_ok)
    );
    assert!(pager.batch(Op::Evict, &[1, 2]).iter().all(Result::is_ok));
    drop(pager);
    let pager_exit = wait_for(|| machine.pager_exit());
    assert_eq!(pager_exit, PagerExit::Died { out_pages: 2 });
    assert_eq!(machine.paging().attachment(), Attachment::Detached);
    machine.give_up();
    assert_eq!(machine.paging().attachment(), Attachment::None);
}

/// A vcpu needs a page while there is no pager. It waits, and the next pager is asked for the page.
#[test]
fn a_pager_that_follows_one_that_died_takes_over_its_pages() {
    let (machine, name) = machine("follows");
    let mut first = pager(&name);
    assert!(
        first
            .batch(Op::Nominate, &[1, 2, 3])
            .iter()
            .all(Result::is_ok)
    );
    assert!(first.batch(Op::Evict, &[1, 2]).iter().all(Result::is_ok));
    drop(first);
    wait_for(|| machine.pager_exit());
    let vcpu = thread::spawn(move || {
        machine.become_vcpu(VcpuId(0));
        let mut page = [0; PAGE_SIZE];
        machine.memory().load(gfn(1), &mut page).unwrap();
        page
    });
    wait_for(|| machine.paging().vcpus().waiting().next());

    let mut next = pager(&name);
    let mut states = [PagingStates::default()];
    next.calls.states(gfn(0), &mut states).unwrap();
    assert_eq!(states[0].out, 0b110);
    assert_eq!(states[0].nominated, 0b1000);
    assert_eq!(next.batch(Op::Restore, &[3]), [Ok(())]);
    next.buffers[0] = PageBuf([1; PAGE_SIZE]);
    assert_eq!(next.prep(&[(1, 0)]), [Ok(())]);
    assert_eq!(vcpu.join().unwrap(), [1; PAGE_SIZE]);
}

#[test]
fn nonsense_on_the_socket_is_an_error_and_the_machine_lives() {
    let (machine, name) = machine("nonsense");
    let connection = Connection::connect(&name).unwrap();
    let mut words = Box::new([0; PACKET_WORDS]);
    let mut call = |packet: &[u64]| {
        connection.send(packet, &[]).unwrap();
        connection.receive(&mut words).unwrap().unwrap();
        words[0]
    };
    let (einval, enosys) = (Errno::EINVAL as u64, Errno::ENOSYS as u64);
    assert_eq!(call(&[0]), enosys);
    assert_eq!(call(&[u64::MAX, 1, 2, 3]), enosys);
    assert_eq!(call(&[Op::Info as u64, 99]), enosys, "another protocol");
    assert_eq!(call(&[Op::Attach as u64, 4]), einval, "no descriptor");
    assert_eq!(call(&[Op::Nominate as u64, u64::MAX]), einval);
    assert_eq!(call(&[Op::Prep as u64, 1]), einval, "half a prep");
    // With frames beyond the guest and no pager attached, each page is refused.
    assert_eq!(call(&[Op::Nominate as u64, PAGES, 1 << 39]), 0);
    assert_eq!(call(&[Op::Restore as u64, u64::MAX]), einval);
    assert_eq!(call(&[Op::Restore as u64, PAGES, 1 << 39]), 0);
    connection.send(&[0; PACKET_WORDS + 1], &[]).unwrap();
    drop(connection);
    assert_eq!(machine.counts().paged, 0);
    drop(pager(&name));
}

#[test]
fn nonsense_in_the_mailbox_is_answered_and_harms_nobody() {
    let (machine, name) = machine("mailbox");
    let mut pager = pager(&name);
    assert_eq!(pager.batch(Op::Nominate, &[7]), [Ok(())]);
    assert_eq!(pager.batch(Op::Evict, &[7]), [Ok(())]);
    let shared: &'static SharedArea = Box::leak(Box::new(pager.attached.shared));
    let mailbox = Mailbox::new(shared).unwrap();
    let preps = [
        (u64::MAX, 0, Err(Errno::EINVAL)),
        (1 << 39, 0, Err(Errno::ENOENT)),
        (3, 0, Err(Errno::ENOENT)),
        (7, 1, Err(Errno::EINVAL)),
        (7, u64::MAX - 4095, Err(Errno::EINVAL)),
        (7, (BUFFERS * PAGE_SIZE) as u64, Err(Errno::EINVAL)),
        (7, 0, Ok(())),
    ];
    for (entry, (gfn, buffer, _)) in preps.into_iter().enumerate() {
        mailbox.post(PostedPrep { entry, gfn, buffer });
    }
    pager.attached.doorbell.kick().unwrap();
    let mut done = [None; ENTRIES];
    wait_for(|| {
        for entry in mailbox.collect_done() {
            done[entry] = Some(mailbox.result(entry));
        }
        (done.iter().flatten().count() == preps.len()).then_some(())
    });
    for (entry, (gfn, buffer, expected)) in preps.into_iter().enumerate() {
        assert_eq!(
            done[entry],
            Some(expected),
            "gfn {gfn:#x} buffer {buffer:#x}"
        );
    }
    assert_eq!(machine.counts().paged, 0);
    assert_eq!(machine.crashed(), None);
}
