// SPDX-License-Identifier: MIT OR Apache-2.0
//! Rows A3 and A6 to A9: who makes a request, who waits, and by what means. Every refusal has the
//! number that Xen's callers get.

mod common;

use common::{Domain, gfn};
use p2m_paging::p2m::{Access, P2mType};
use p2m_paging::paging::{
    Caller, DropError, EVENT_RESPONSES, EvictError, Job, PopulateError, Populated, RingState,
};
use p2m_paging::ring::{Back, EntryFlags, FOREIGN_SLOTS, PagingFlags, Response};
use p2m_paging::{Errno, VcpuId};
use tests_host::plain::{Buffer, PAGEABLE_DOMAIN, RingPage};

const FOREIGN: Caller = Caller::Foreign(VcpuId(40));

#[test]
fn a3_a_request_says_who_and_what() {
    let mut d = Domain::new(2, 6);
    d.out([1, 2]);
    assert_eq!(d.fault(1, 1), Ok(Populated::Paused));
    let out = d.take().unwrap();
    let seen = (out.gfn, out.vcpu, out.p2mt);
    assert_eq!(seen, (gfn(1), VcpuId(1), P2mType::RamPaged));
    assert_eq!(out.flags, EntryFlags::VCPU_PAUSED);
    assert_eq!(out.paging, PagingFlags::empty());
    let on_its_way = Ok(Populated::InFlight);
    assert_eq!(d.paging.populate(gfn(2), FOREIGN), on_its_way);
    let foreign = d.take().unwrap();
    assert_eq!((foreign.gfn, foreign.vcpu), (gfn(2), VcpuId(40)));
    assert_eq!(foreign.flags, EntryFlags::FOREIGN);
    assert_eq!(foreign.paging, PagingFlags::empty());
    // It is requested already: no second request, but a vcpu that faults waits too.
    assert_eq!(d.fault(0, 1), Ok(Populated::Paused));
    assert_eq!(d.paging.populate(gfn(1), FOREIGN), on_its_way);
    assert_eq!(d.take(), None);
}

#[test]
fn a3_foreign_callers_are_told_to_retry_when_the_ring_is_full() {
    let mut d = Domain::new(8, 20);
    d.out(0..20);
    let on_its_way = Ok(Populated::InFlight);
    let most = u64::from(FOREIGN_SLOTS);
    for n in 0..most {
        assert_eq!(d.paging.populate(gfn(n), FOREIGN), on_its_way);
    }
    let full = d.paging.populate(gfn(most), FOREIGN);
    assert_eq!(full, Err(PopulateError::RingFull));
    assert_eq!(full.unwrap_err().errno(), Errno::EBUSY);
    assert_eq!(d.p2mt(most), P2mType::RamPaged, "nothing has changed");
    // They do not keep the guest's own requests out: these have the next slots.
    for vcpu in 0..8 {
        assert_eq!(d.fault(vcpu, 10 + u64::from(vcpu)), Ok(Populated::Paused));
    }
    while d.serve_one().is_some() {}
    assert_eq!(d.paging.populate(gfn(most), FOREIGN), on_its_way);
    while d.serve_one().is_some() {}
    d.assert_settled();
}

#[test]
fn a3_without_a_ring_there_is_a_clear_error() {
    let mut d = Domain::new(1, 4);
    d.out([1]);
    let _ = d.paging.disable().unwrap();
    let no_ring = PopulateError::NoRing;
    assert_eq!(d.fault(0, 1), Err(no_ring));
    assert_eq!(d.paging.populate(gfn(1), FOREIGN), Err(no_ring));
    assert_eq!(no_ring.errno(), Errno::EOPNOTSUPP);
    assert!(!d.is_waiting(0));
    assert_eq!(d.p2mt(1), P2mType::RamPaged);
    d.reattach();
    assert_eq!(d.fault(0, 1), Ok(Populated::Paused));
    while d.serve_one().is_some() {}
    d.assert_settled();
}

#[test]
fn a3_an_entry_that_cannot_be_changed_pauses_nobody() {
    let d = Domain::new(1, 4);
    d.out([1]);
    let failure = PopulateError::Platform(Errno::ENOMEM);
    d.machine()
        .with(|core| core.failures.set_type = Some(Errno::ENOMEM));
    assert_eq!(d.fault(0, 1), Err(failure));
    assert_eq!(failure.errno(), Errno::ENOMEM);
    d.assert_settled();
}

/// The result is not one with which the caller would try for ever.
#[test]
fn a3_an_entry_that_contradicts_itself_is_an_error_of_its_own() {
    let types = [
        P2mType::RamPagingOut,
        P2mType::RamPaged,
        P2mType::RamPagingInStart,
        P2mType::RamPagingIn,
    ];
    for t in types {
        let d = Domain::new(1, 4);
        let wants_frame = matches!(t, P2mType::RamPagingOut | P2mType::RamPagingIn);
        if wants_frame {
            d.out([1]);
        }
        d.machine().with(|core| core.force_type(gfn(1), t));
        let entry = d.machine().with(|core| core.entry(gfn(1)));
        let broken = PopulateError::InconsistentEntry(entry);
        assert_eq!(entry.mfn.is_none(), wants_frame);
        assert_eq!(d.paging.populate(gfn(1), FOREIGN), Err(broken));
        let write = Access::READ | Access::WRITE;
        assert_eq!(d.paging.fault(VcpuId(0), gfn(1), write), Err(broken));
        assert_eq!(broken.errno(), Errno::EIO);
        assert!(!d.is_waiting(0));
        assert_eq!(d.paging.slots_in_use(), 0, "the slot is free again");
    }
}

/// Its contents are in place: nobody must bring them, with a pager or without one.
#[test]
fn a3_a_nominated_page_goes_home_when_it_is_written() {
    for with_pager in [true, false] {
        let mut d = Domain::new(2, 8);
        for n in [1, 2, 3] {
            d.nominate(n).unwrap();
        }
        if !with_pager {
            let _ = d.paging.disable().unwrap();
        }
        assert_eq!(d.fault(0, 1), Ok(Populated::Present));
        assert_eq!(d.paging.populate(gfn(2), FOREIGN), Ok(Populated::Present));
        let unknown = d.paging.fault(VcpuId(0), gfn(3), Access::empty());
        assert_eq!(
            unknown,
            Ok(Populated::Present),
            "an access that says nothing"
        );
        for n in [1, 2, 3] {
            assert_eq!(d.p2mt(n), P2mType::RamRw);
            assert_eq!(d.machine().contents(gfn(n)), Some(n));
            let refused = if with_pager {
                EvictError::NotNominated(P2mType::RamRw)
            } else {
                EvictError::Replaced
            };
            assert_eq!(d.evict(n), Err(refused), "which tells the pager");
        }
        if with_pager {
            assert_eq!(d.take(), None);
        }
        d.assert_settled();
    }
}

/// A full ring does not stop a page that has its contents.
#[test]
fn a3_a_nominated_page_goes_home_though_the_ring_is_full() {
    let mut d = Domain::new(10, 20);
    d.out(0..10);
    for n in 0..8 {
        assert_eq!(d.fault(n, n.into()), Ok(Populated::Paused));
    }
    let last = d.paging.populate(gfn(9), FOREIGN);
    assert_eq!(last, Ok(Populated::InFlight));
    d.nominate(11).unwrap();
    assert_eq!(d.paging.populate(gfn(11), FOREIGN), Ok(Populated::Present));
    assert_eq!(d.p2mt(11), P2mType::RamRw);
    while d.serve_one().is_some() {}
    d.assert_settled();
}

/// A foreign caller has reserved a slot. The pager is replaced before the caller pushes.
#[test]
fn a3_a_slot_of_a_ring_that_was_replaced_is_no_missing_pager() {
    let mut d = Domain::new(1, 4);
    d.out([1]);
    let paging = d.paging;
    let page: &'static RingPage = Box::leak(Box::new(RingPage::new()));
    d.machine().on_next_p2m_lock(move || {
        paging.disable().unwrap();
        paging
            .enable(&PAGEABLE_DOMAIN, || Some(page.map()))
            .unwrap();
    });
    let asked = d.paging.populate(gfn(1), FOREIGN);
    assert_eq!(asked, Ok(Populated::InFlight));
    d.back = Back::new(page.map());
    assert_eq!(d.take(), None, "it was not asked for on the new ring");
    let asked = d.paging.populate(gfn(1), FOREIGN);
    assert_eq!(asked, Ok(Populated::InFlight));
    assert!(d.serve_one().is_some());
    d.assert_settled();
}

#[test]
fn a6_a_drop_needs_a_ring_with_room() {
    let mut d = Domain::new(3, 20);
    let most = u64::from(FOREIGN_SLOTS);
    d.out(0..=most);
    for n in 0..most {
        assert_eq!(d.paging.drop_page(gfn(n), FOREIGN), Ok(()));
    }
    let full = d.paging.drop_page(gfn(most), FOREIGN);
    assert_eq!(full, Err(DropError::RingFull));
    assert_eq!(DropError::RingFull.errno(), Errno::EAGAIN);
    assert_eq!(d.p2mt(most), P2mType::RamPaged);
    let home = d.paging.drop_page(gfn(15), Caller::Guest(VcpuId(0)));
    assert_eq!(home, Err(DropError::NotPaging(P2mType::RamRw)));
    assert_eq!(home.unwrap_err().errno(), Errno::EINVAL);
    assert_eq!(
        d.paging.slots_in_use(),
        FOREIGN_SLOTS,
        "its slot is free again"
    );
    while d.serve_one().is_some() {}
    let _ = d.paging.disable().unwrap();
    let no_ring = d.paging.drop_page(gfn(most), FOREIGN);
    assert_eq!(no_ring, Err(DropError::NoRing));
    assert_eq!(no_ring.unwrap_err().errno(), Errno::EOPNOTSUPP);
    d.assert_settled();
}

/// What the pager may drop at once, and what it may have evicted anew by the time it is told.
#[test]
fn a6_a_drop_says_whether_the_page_had_its_contents() {
    let mut d = Domain::new(1, 8);
    d.out([1, 2, 4]);
    assert_eq!(d.paging.populate(gfn(2), FOREIGN), Ok(Populated::InFlight));
    d.prep(4, None).unwrap();
    d.nominate(5).unwrap();
    while let Some(request) = d.take() {
        d.back
            .respond(&Response {
                paging: PagingFlags::DROP_PAGE,
                ..Response::to(&request)
            })
            .unwrap();
    }
    let _ = d.back.publish();
    let _ = d.paging.on_event();
    for (n, in_place) in [(1, false), (2, false), (4, true), (5, true)] {
        assert_eq!(d.paging.drop_page(gfn(n), FOREIGN), Ok(()));
        let request = d.take().unwrap();
        let mut expected = PagingFlags::DROP_PAGE;
        expected.set(PagingFlags::EVICT_FAIL, in_place);
        assert_eq!(request.paging, expected, "page {n}");
        d.respond_to(&request);
    }
    d.assert_settled();
}

/// Row A7 through the whole entry: type and access decide.
#[test]
fn a7_a_nominated_page_is_read_without_the_pager() {
    let mut d = Domain::new(1, 4);
    d.nominate(1).unwrap();
    for access in [Access::READ, Access::FETCH] {
        let got = d.paging.fault(VcpuId(0), gfn(1), access);
        assert_eq!(got, Ok(Populated::Present));
    }
    assert_eq!(d.take(), None);
    d.evict(1).unwrap();
    assert_eq!(d.fault(0, 0), Ok(Populated::NotPaging));
}

#[test]
fn a8_a_vcpu_runs_when_its_last_reason_is_gone() {
    let mut d = Domain::new(2, 4);
    let vcpu = VcpuId(0);
    let first = d.paging.pause(vcpu).unwrap();
    d.out([1]);
    assert_eq!(d.fault(0, 1), Ok(Populated::Paused));
    let second = d.paging.pause(vcpu).unwrap();
    assert_eq!(d.paging.vcpus().pauses(vcpu), 3);
    assert!(d.serve_one().is_some());
    assert!(d.machine().is_stopped(vcpu));
    d.paging.unpause(second);
    assert!(d.machine().is_stopped(vcpu));
    d.paging.unpause(first);
    d.assert_settled();
    assert_eq!(d.machine().stops(vcpu), 1);
    assert!(d.paging.pause(VcpuId(2)).is_none(), "no such vcpu");
}

/// A platform may pin a page until those that have waited for it have made progress: it is told of
/// each of them, of nobody else, and before they run (the plain machine checks that they are still
/// paused).
#[test]
fn a8_who_has_waited_is_named_before_it_runs() {
    let mut d = Domain::new(3, 4);
    d.out([1, 2]);
    assert_eq!(d.fault(0, 1), Ok(Populated::Paused));
    assert_eq!(d.fault(2, 1), Ok(Populated::Paused));
    let foreign = d.paging.populate(gfn(2), FOREIGN);
    assert_eq!(foreign, Ok(Populated::InFlight));
    while d.serve_one().is_some() {}
    let told = d.machine().told();
    assert_eq!(told, [(VcpuId(0), gfn(1)), (VcpuId(2), gfn(1))]);
    d.assert_settled();
}

/// More vcpus than slots, all at once, again and again: each gets its turn, in order.
#[test]
fn a9_nobody_starves_in_line() {
    let vcpus = 40;
    let mut d = Domain::new(vcpus, 40);
    d.out(0..40);
    for n in 0..40 {
        assert_eq!(d.fault(n, n.into()), Ok(Populated::Paused));
    }
    let mut order = Vec::new();
    while let Some(request) = d.serve_one() {
        order.push(request.vcpu.0);
        // A vcpu that was served needs its page again at once, and goes to the end of the queue.
        if order.len() < 200 {
            let n = request.gfn.get();
            d.out([n]);
            assert_eq!(d.fault(request.vcpu.0, n), Ok(Populated::Paused));
        }
    }
    for (at, vcpu) in order.iter().enumerate() {
        assert_eq!(*vcpu as usize, at % vcpus, "served out of turn at {at}");
    }
    d.assert_settled();
}

#[test]
fn a9_foreign_callers_do_not_pass_those_in_line() {
    let mut d = Domain::new(10, 40);
    d.out(0..30);
    for n in 0..10 {
        assert_eq!(d.fault(n, n.into()), Ok(Populated::Paused));
    }
    let mut foreign = 20;
    for _ in 0..3 {
        while d.paging.populate(gfn(foreign), FOREIGN) == Ok(Populated::InFlight) {
            foreign += 1;
        }
        let request = d.serve_one().unwrap();
        assert!(!request.flags.contains(EntryFlags::FOREIGN), "{request:?}");
        assert_eq!(d.paging.slots_in_use(), 8, "it went to the vcpu in line");
    }
    while d.serve_one().is_some() {}
    d.assert_settled();
}

/// A pager that answers each request as fast as it is made: a platform whose `notify_pager` has the
/// response on the ring when it returns. No event comes for those responses, so the crate must ask
/// to be called again.
#[test]
fn a9_answers_that_one_event_does_not_take_are_not_left_behind() {
    let vcpus = 400;
    let d = Domain::new(vcpus, vcpus);
    let all = vcpus as u64;
    d.out(0..all);
    for n in 0..all {
        let vcpu = u32::try_from(n).unwrap();
        assert_eq!(d.fault(vcpu, n), Ok(Populated::Paused));
    }
    let paging = d.paging;
    let page = d.page.map();
    let mut back = Back::new(page);
    let mut answer = move || {
        while let Ok(Some(Ok(request))) = back.take() {
            let n = request.gfn.get();
            let mut batch = [Job::filled(request.gfn, Buffer::Page(n))];
            paging.prep(paging.epoch(), &mut batch);
            back.respond(&Response::to(&request)).unwrap();
        }
        let _ = back.publish();
    };
    answer();
    d.machine().on_notify(answer);
    let first = d.paging.on_event();
    assert_eq!(first.responses, EVENT_RESPONSES);
    assert_eq!(first.state, RingState::More);
    let mut calls = 1;
    while d.machine().deferred() == calls {
        let _ = d.paging.on_event();
        calls += 1;
    }
    d.assert_settled();
}
