// SPDX-License-Identifier: MIT OR Apache-2.0
//! Which vcpus are in the wait queue, and what the pager is told when their turn comes: rows A3,
//! A5, A6 and A10.

mod common;

use common::{Domain, gfn};
use p2m_paging::p2m::Access;
use p2m_paging::paging::{Caller, Count, EvictError, NominateError, Populated};
use p2m_paging::ring::PagingFlags;
use p2m_paging::{Errno, P2mType, VcpuId};
use tests_host::plain::{Buffer, PAGEABLE_DOMAIN, RingPage};

const FOREIGN: Caller = Caller::Foreign(VcpuId(40));

/// Vcpus 0 to 6 hold the guest's slots, for pages of their own numbers.
fn busy(vcpus: usize, gfns: usize) -> Domain {
    let d = Domain::new(vcpus, gfns);
    d.out(0..7);
    for vcpu in 0..7 {
        assert_eq!(d.fault(vcpu, vcpu.into()), Ok(Populated::Paused));
    }
    d
}

/// Serves all requests; yields how often the page was requested.
fn serve_all(d: &mut Domain, page: u64) -> usize {
    let served = std::iter::from_fn(|| d.serve_one());
    served.filter(|request| request.gfn == gfn(page)).count()
}

#[test]
fn a3_whose_page_has_come_home_asks_for_nothing() {
    let mut d = busy(8, 12);
    d.out([9]);
    assert_eq!(d.fault(7, 9), Ok(Populated::Paused));
    d.prep(9, Some(Buffer::Page(9))).unwrap();
    assert!(!d.is_waiting(7));
    assert_eq!(serve_all(&mut d, 9), 0);
    d.assert_settled();
}

/// It keeps its place, and makes the request that it needs at that time.
#[test]
fn a3_whose_page_has_come_home_stands_in_line_for_another() {
    let mut d = busy(8, 12);
    d.out([9, 10]);
    assert_eq!(d.fault(7, 9), Ok(Populated::Paused));
    d.prep(9, Some(Buffer::Page(9))).unwrap();
    assert_eq!(d.fault(7, 10), Ok(Populated::Paused));
    assert_eq!(serve_all(&mut d, 10), 1);
    assert_eq!(d.p2mt(10), P2mType::RamRw);
    d.assert_settled();
}

/// It had no slot when it made its request, but there is a pager now: it is not told that nobody
/// will bring the page.
#[test]
fn a3_a_pager_that_comes_meanwhile_is_no_missing_pager() {
    let mut d = Domain::new(1, 4);
    d.out([1]);
    d.paging.disable().unwrap();
    let paging = d.paging;
    let page: &'static RingPage = Box::leak(Box::new(RingPage::new()));
    d.machine().on_next_p2m_lock(move || {
        let attached = paging.enable(&PAGEABLE_DOMAIN, || Some(page.map()));
        attached.unwrap();
    });
    let asked = d.paging.populate(gfn(1), FOREIGN);
    assert_eq!(asked, Ok(Populated::InFlight));
    assert_eq!(d.p2mt(1), P2mType::RamPaged, "nobody has been asked");
    d.reattach();
    let asked = d.paging.populate(gfn(1), FOREIGN);
    assert_eq!(asked, Ok(Populated::InFlight));
    assert_eq!(serve_all(&mut d, 1), 1);
    d.assert_settled();
}

/// A foreign caller holds the last slot while a vcpu comes, and then has nothing to request.
#[test]
fn a9_a_slot_that_is_given_back_unused_goes_to_the_first_in_line() {
    let mut d = Domain::new(8, 12);
    d.out(0..8);
    for vcpu in 0..6 {
        assert_eq!(d.fault(vcpu, vcpu.into()), Ok(Populated::Paused));
    }
    let asked = d.paging.populate(gfn(6), FOREIGN);
    assert_eq!(asked, Ok(Populated::InFlight));
    let paging = d.paging;
    d.machine().on_next_p2m_lock(move || {
        let got = paging.fault(VcpuId(7), gfn(7), Access::WRITE);
        assert_eq!(got, Ok(Populated::Paused));
    });
    let home = d.paging.populate(gfn(10), FOREIGN);
    assert_eq!(home, Ok(Populated::NotPaging));
    let requests: Vec<_> = std::iter::from_fn(|| d.take()).collect();
    assert_eq!(requests.last().map(|last| last.gfn), Some(gfn(7)));
    for request in &requests {
        let n = request.gfn.get();
        d.prep(n, Some(Buffer::Page(n))).unwrap();
        d.respond_to(request);
    }
    d.assert_settled();
}

/// A response for a page that is resident changes nothing, whichever pages are still paging in.
#[test]
fn a5_an_answer_for_a_page_that_a_prep_brought_home_means_something() {
    let mut d = Domain::new(1, 4);
    d.out([1, 2]);
    for n in [1, 2] {
        let asked = d.paging.populate(gfn(n), FOREIGN);
        assert_eq!(asked, Ok(Populated::InFlight));
    }
    let (first, second) = (d.take().unwrap(), d.take().unwrap());
    d.prep(2, None).unwrap();
    d.prep(1, Some(Buffer::Page(1))).unwrap();
    d.respond_to(&first);
    d.respond_to(&second);
    assert_eq!(d.paging.counters().get(Count::Ignored), 0);
    assert_eq!(d.paging.counters().get(Count::Resumed), 1);
    d.assert_settled();
}

/// A page that no response was to make resident does not reduce the count of those that a response
/// does.
#[test]
fn a5_a_page_dropped_without_a_frame_or_nominated_hides_none_to_be_sent_home() {
    for nominated in [false, true] {
        let mut d = Domain::new(1, 4);
        d.nominate(1).unwrap();
        if !nominated {
            d.evict(1).unwrap();
        }
        d.paging.drop_page(gfn(1), FOREIGN).unwrap();
        let dropped = d.take().unwrap();
        d.respond_to(&dropped);
        d.out([2]);
        let asked = d.paging.populate(gfn(2), FOREIGN);
        assert_eq!(asked, Ok(Populated::InFlight));
        let request = d.take().unwrap();
        d.prep(2, None).unwrap();
        d.respond_to(&request);
        assert_eq!(d.p2mt(2), P2mType::RamRw);
        d.assert_settled();
    }
}

#[test]
fn a6_a_drop_that_the_ring_has_room_for_stops_nobody() {
    let mut d = Domain::new(1, 4);
    d.out([1]);
    let vcpu = VcpuId(0);
    assert_eq!(d.paging.drop_page(gfn(1), Caller::Guest(vcpu)), Ok(()));
    assert_eq!(d.machine().stops(vcpu), 0);
    assert_eq!(serve_all(&mut d, 1), 1);
    d.assert_settled();
}

/// Its vcpu waits only until this has been pushed, and the request does not say that it waits for a
/// page.
#[test]
fn a6_a_drop_in_line_is_said_as_one_that_was_not() {
    let mut d = busy(8, 12);
    d.out([9]);
    let vcpu = VcpuId(7);
    assert_eq!(d.paging.drop_page(gfn(9), Caller::Guest(vcpu)), Ok(()));
    assert!(d.machine().is_stopped(vcpu));
    let mut said = 0;
    while let Some(request) = d.serve_one() {
        if request.gfn == gfn(9) {
            assert_eq!(request.paging, PagingFlags::DROP_PAGE);
            assert!(request.flags.is_empty());
            said += 1;
        }
    }
    assert_eq!(said, 1);
    d.assert_settled();
}

#[test]
fn a10_who_stands_in_line_to_say_a_drop_is_let_go_when_the_domain_ends() {
    let mut d = busy(9, 12);
    d.out([9, 10]);
    assert_eq!(d.fault(7, 10), Ok(Populated::Paused));
    let vcpu = VcpuId(8);
    assert_eq!(d.paging.drop_page(gfn(9), Caller::Guest(vcpu)), Ok(()));
    assert!(d.machine().is_stopped(vcpu));
    assert!(d.paging.shut_down().is_some());
    d.assert_settled();
    // The wait queue is empty: the next pager gets new requests only.
    d.reattach();
    assert_eq!(d.fault(7, 10), Ok(Populated::Paused));
    assert_eq!(serve_all(&mut d, 10), 1);
    d.assert_settled();
}

/// Rows A1 and A2: the pager gets what the platform returns.
#[test]
fn a1_a2_an_entry_that_cannot_be_changed_has_the_platforms_number() {
    let platform = NominateError::Platform(Errno::ENOMEM);
    assert_eq!(platform.errno(), Errno::ENOMEM);
    let platform = EvictError::Platform(Errno::ENOMEM);
    assert_eq!(platform.errno(), Errno::ENOMEM);
}
