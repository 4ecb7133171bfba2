// SPDX-License-Identifier: MIT OR Apache-2.0
//! Tests of the wait queue.

use core::sync::atomic::AtomicU32;

use super::*;
use crate::pause::VcpuCell;
use crate::ring::testing::TestPage;

/// A foreign caller claims its slot before the page leaves, a vcpu may ask in between.
#[test]
fn a_page_that_was_asked_for_meanwhile_is_not_asked_for_twice() {
    let (cells, waiting) = ([VcpuCell::new()], AtomicU32::new(0));
    let vcpus = Vcpus::new(&cells, &waiting);
    let mut queue = WaitQueue::new();
    queue.open(Front::new(TestPage::new().map(), Epoch::from_raw(1)));
    let request = QueuedRequest {
        gfn: Gfn::new_truncate(7),
        p2mt: P2mType::RamPaged,
        kind: RequestKind::PageIn,
        contents_resident: false,
    };
    let claim = queue.claim_behind_queue(Requester::Foreign).unwrap();
    assert!(matches!(
        queue.send(vcpus, VcpuId(0), request),
        Sent::Pushed(_)
    ));
    let sent = queue.push(claim, request, Caller::Foreign(VcpuId(0)));
    assert!(matches!(sent, Sent::AlreadyPending));
    assert_eq!(queue.front().unwrap().slots_in_use(), 1);
}

/// A cell of a vcpu keeps what it wants in one word.
#[test]
fn what_a_vcpu_wants_is_read_as_it_was_noted() {
    for p2mt in P2mType::ALL {
        for (gfn, kind, contents_resident) in [
            (0, RequestKind::PageIn, false),
            (0, RequestKind::Drop, true),
            (Gfn::MAX.get(), RequestKind::PageIn, true),
            (Gfn::MAX.get(), RequestKind::Drop, false),
        ] {
            let request = QueuedRequest {
                gfn: Gfn::new_truncate(gfn),
                p2mt,
                kind,
                contents_resident,
            };
            assert_eq!(QueuedRequest::unpack(request.pack()), Some(request));
        }
    }
    assert_eq!(
        QueuedRequest::unpack(0),
        None,
        "a new cell's vcpu wants nothing"
    );
}

/// A vcpu has removed its page and found the ring full; before it goes on, another pager attaches.
#[test]
fn a_drop_that_found_one_ring_full_is_not_sent_on_the_next() {
    let (cells, waiting) = ([VcpuCell::new()], AtomicU32::new(0));
    let vcpus = Vcpus::new(&cells, &waiting);
    let mut queue = WaitQueue::new();
    let dropped = |gfn| QueuedRequest {
        gfn: Gfn::new_truncate(gfn),
        p2mt: P2mType::RamPaged,
        kind: RequestKind::Drop,
        contents_resident: false,
    };
    let attach = |queue: &mut WaitQueue| {
        let epoch = queue.next_epoch();
        queue.open(Front::new(TestPage::new().map(), epoch));
    };
    let fill = |queue: &mut WaitQueue| loop {
        match queue.claim_behind_queue(Requester::Guest) {
            Ok(claim) => {
                let sent = queue.push(claim, dropped(1), Caller::Guest(VcpuId(0)));
                assert!(matches!(sent, Sent::Pushed(_)));
            }
            Err(ClaimError::RingFull(full)) => break full,
            Err(ClaimError::NoRing | ClaimError::Detached(_)) => panic!("a pager is attached"),
        }
    };

    attach(&mut queue);
    let full = fill(&mut queue);
    assert!(queue.close().is_some());
    attach(&mut queue);
    let (paused, _) = vcpus.pause(VcpuId(0)).unwrap();
    let (sent, paused) = queue.send_drop(vcpus, paused, dropped(7), full);
    assert!(matches!(sent, Sent::Refused), "{sent:?}");
    assert_eq!(queue.front().unwrap().slots_in_use(), 0);

    let full = fill(&mut queue);
    let (sent, paused) = queue.send_drop(vcpus, paused.unwrap(), dropped(7), full);
    assert!(matches!(sent, Sent::Queued), "{sent:?}");
    assert!(paused.is_none(), "the wait queue has it");
}
