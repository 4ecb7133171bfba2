// SPDX-License-Identifier: MIT OR Apache-2.0
//! Vcpus that nobody would wake, and requests whose contents are out of date.

mod common;

use std::sync::mpsc::{self, Receiver};
use std::thread;

use common::{Domain, gfn};
use p2m_paging::paging::{Caller, PopulateError, Populated};
use p2m_paging::ring::{Back, PagingFlags, Request, Response};
use p2m_paging::{Errno, P2mType, VcpuId};
use tests_host::plain::{Buffer, PAGEABLE_DOMAIN, RingPage};

/// The pager dies with a request that it has taken. The next pager does not know of it.
#[test]
fn a_page_in_flight_is_asked_for_again_after_a_reattach() {
    let mut d = Domain::new(2, 4);
    d.out([1]);
    assert_eq!(d.fault(0, 1), Ok(Populated::Paused));
    assert!(d.take().is_some());
    d.reattach();
    assert!(!d.is_waiting(0), "woken by the tear-down");
    assert_eq!(d.fault(0, 1), Ok(Populated::Paused));
    assert_eq!(d.fault(1, 1), Ok(Populated::Paused));
    let request = d.serve_one().expect("the new pager is asked");
    assert_eq!(
        (request.gfn, request.p2mt),
        (gfn(1), P2mType::RamPagingInStart)
    );
    assert!(d.take().is_none(), "once");
    d.assert_settled();
    assert_eq!(d.machine().contents(gfn(1)), Some(1));
}

#[test]
fn a_foreign_caller_asks_again_after_a_reattach() {
    let mut d = Domain::new(1, 4);
    d.out([1]);
    let foreign = Caller::Foreign(VcpuId(5));
    assert_eq!(d.paging.populate(gfn(1), foreign), Ok(Populated::InFlight));
    d.reattach();
    for _ in 0..3 {
        assert_eq!(d.paging.populate(gfn(1), foreign), Ok(Populated::InFlight));
    }
    assert!(d.serve_one().is_some());
    assert!(d.take().is_none(), "once");
    d.assert_settled();
    assert_eq!(d.p2mt(1), P2mType::RamRw);
}

/// A page is nominated under one pager and written under the next, which does not know of it.
#[test]
fn a_page_nominated_before_a_reattach_goes_home() {
    let mut d = Domain::new(1, 4);
    d.nominate(2).unwrap();
    d.reattach();
    assert_eq!(d.fault(0, 2), Ok(Populated::Present));
    assert!(d.take().is_none());
    d.assert_settled();
    assert_eq!(d.p2mt(2), P2mType::RamRw);
}

/// A vcpu keeps its place in the wait queue when its page becomes resident without it. The request
/// that it makes there must be right when its turn comes.
#[test]
fn a_place_in_line_says_what_the_page_is_now() {
    let mut d = Domain::new(10, 12);
    d.out(0..7);
    for vcpu in 0..7 {
        assert_eq!(d.fault(vcpu, vcpu.into()), Ok(Populated::Paused));
    }
    // Vcpu 7 is in the wait queue for a page that is out.
    d.out([9]);
    assert_eq!(d.fault(7, 9), Ok(Populated::Paused));
    // A prep without a request makes it resident, and it goes out again.
    d.prep(9, Some(Buffer::Page(0))).unwrap();
    assert!(!d.is_waiting(7));
    d.out([9]);
    // Vcpu 8 requests it. Vcpu 7 waits with it, at its old place in the queue.
    assert_eq!(d.fault(8, 9), Ok(Populated::Paused));
    assert_eq!(d.fault(7, 9), Ok(Populated::Paused));
    let mut asked = 0;
    while let Some(request) = d.serve_one() {
        if request.gfn == gfn(9) {
            asked += 1;
            assert_eq!(request.p2mt, P2mType::RamPagingInStart, "{request:?}");
        }
    }
    assert!(asked >= 1);
    d.assert_settled();
}

/// A response ends the request. If the page is not resident all the same, its vcpu requests it
/// again, instead of waiting for a response that has been given.
#[test]
fn an_answer_that_brings_nothing_home_lets_the_vcpu_ask_again() {
    type Cheat = fn(&mut Domain, &Request);
    let too_soon: Cheat = |d, request| d.respond_to(request);
    let for_another_page: Cheat = |d, request| {
        let gfn = gfn(3);
        d.respond(&Response {
            gfn,
            ..Response::to(request)
        });
    };
    let for_no_vcpu: Cheat = |d, request| {
        let vcpu = VcpuId(99);
        d.respond(&Response {
            vcpu,
            ..Response::to(request)
        });
    };
    let as_if_dropped: Cheat = |d, request| {
        let paging = PagingFlags::DROP_PAGE;
        d.respond(&Response {
            paging,
            ..Response::to(request)
        });
    };
    let of_another_version: Cheat = |d, request| {
        d.back.respond(&Response::to(request)).unwrap();
        let _ = d.back.publish();
        d.page.poke(16, 6);
        let _ = d.paging.on_event();
    };
    for cheat in [
        too_soon,
        for_another_page,
        for_no_vcpu,
        as_if_dropped,
        of_another_version,
    ] {
        let mut d = Domain::new(2, 4);
        d.out([1]);
        assert_eq!(d.fault(0, 1), Ok(Populated::Paused));
        assert_eq!(d.fault(1, 1), Ok(Populated::Paused));
        let request = d.take().unwrap();
        cheat(&mut d, &request);
        assert!(
            !d.is_waiting(0) && !d.is_waiting(1),
            "nobody else would wake them"
        );
        assert_eq!(d.fault(0, 1), Ok(Populated::Paused));
        assert!(d.serve_one().is_some(), "asked again");
        d.assert_settled();
        assert_eq!(d.machine().contents(gfn(1)), Some(1));
    }
}

/// The platform could not change the entry when the response came: the page must be requested
/// again.
#[test]
fn a_page_that_could_not_be_sent_home_is_asked_for_again() {
    let mut d = Domain::new(1, 4);
    d.out([2]);
    assert_eq!(d.fault(0, 2), Ok(Populated::Paused));
    let request = d.take().unwrap();
    d.prep(2, None).unwrap();
    d.machine()
        .with(|core| core.failures.set_type = Some(Errno::ENOMEM));
    d.respond_to(&request);
    assert_eq!(d.p2mt(2), P2mType::RamPagingIn);
    assert!(!d.is_waiting(0), "nobody else would wake it");
    assert_eq!(d.fault(0, 2), Ok(Populated::Paused));
    assert!(d.serve_one().is_some(), "asked again");
    d.assert_settled();
    assert_eq!(d.p2mt(2), P2mType::RamRw);
}

/// Runs this on another thread when the next vcpu is stopped. The vcpu continues when there is no ring
/// any more. The p2m is locked until then, so the disable itself returns later. Receives one value when
/// all is done.
fn while_a_vcpu_is_being_stopped(
    d: &'static Domain,
    meanwhile: impl FnOnce() + Send + 'static,
) -> Receiver<()> {
    let (done, is_done) = mpsc::channel();
    d.machine().on_next_pause(move || {
        thread::spawn(move || {
            meanwhile();
            done.send(()).expect("the test waits for it");
        });
        while d.paging.is_enabled() {
            thread::yield_now();
        }
    });
    is_done
}

/// The pager is replaced after the vcpu has seen that there is one, and before the vcpu waits. On
/// the new ring nobody has requested the page.
#[test]
fn a_pager_replaced_while_a_vcpu_is_being_stopped() {
    for second_vcpu in [false, true] {
        let d: &'static mut Domain = Box::leak(Box::new(Domain::new(2, 4)));
        d.out([1]);
        if second_vcpu {
            // Requested already: the vcpu under test only waits with the others.
            assert_eq!(d.fault(1, 1), Ok(Populated::Paused));
        }
        let new_page: &'static RingPage = Box::leak(Box::new(RingPage::new()));
        let d: &'static Domain = d;
        let replaced = while_a_vcpu_is_being_stopped(d, || {
            let _ = d.paging.disable().unwrap();
            let attached = d.paging.enable(&PAGEABLE_DOMAIN, || Some(new_page.map()));
            attached.unwrap();
        });
        let got = d.fault(0, 1);
        replaced.recv().expect("the pager is replaced");
        let mut back = Back::new(new_page.map());
        match got {
            Ok(Populated::Paused) => {
                let request = back.take().unwrap().expect("asked on the new ring");
                assert_eq!(request.unwrap().gfn, gfn(1));
            }
            other => {
                assert_eq!(other, Ok(Populated::InFlight));
                assert!(!d.is_waiting(0) && !d.machine().is_stopped(VcpuId(0)));
            }
        }
    }
}

/// The ring goes away for good at that moment: the vcpu is unpaused and told.
#[test]
fn a_pager_that_leaves_while_a_vcpu_is_being_stopped() {
    let d: &'static mut Domain = Box::leak(Box::new(Domain::new(1, 4)));
    d.out([1]);
    let d: &'static Domain = d;
    let left = while_a_vcpu_is_being_stopped(d, || {
        let _ = d.paging.disable().unwrap();
    });
    assert_eq!(d.fault(0, 1), Ok(Populated::InFlight));
    left.recv().expect("the pager is gone");
    assert!(!d.is_waiting(0) && !d.machine().is_stopped(VcpuId(0)));
    assert_eq!(d.paging.vcpus().pauses(VcpuId(0)), 0);
    assert_eq!(d.fault(0, 1), Err(PopulateError::NoRing));
}
