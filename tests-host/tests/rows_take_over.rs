// SPDX-License-Identifier: MIT OR Apache-2.0
//! Row A10: the pager is gone, and another one takes over. Who waits goes on waiting, in the same order,
//! and nothing of the old pager reaches the new one.

mod common;

use common::{Domain, gfn};
use p2m_paging::p2m::{Access, GfnSet};
use p2m_paging::paging::{
    Attachment, Caller, Count, EnableError, EvictError, Job, NominateError, PagingStates,
    PagingStatesError, PopulateError, Populated, PrepError, RestoreError, RingState, TakeOverError,
};
use p2m_paging::ring::{Back, Epoch, PagingFlags, Request, Response};
use p2m_paging::{Errno, Gfn, P2mType, VcpuId};
use tests_host::plain::{Buffer, PAGEABLE_DOMAIN, RingPage};

const FOREIGN: Caller = Caller::Foreign(VcpuId(40));

fn requested(d: &mut Domain) -> Vec<u64> {
    let requests = std::iter::from_fn(|| d.take());
    requests.map(|request| request.gfn.get()).collect()
}

/// What has not been answered on the old ring, in its order, then the wait queue, as slots allow.
/// Nobody runs in between.
#[test]
fn a10_what_is_waited_for_is_requested_again_in_order() {
    for noticed in [false, true] {
        let mut d = Domain::new(12, 16);
        d.out(0..12);
        for vcpu in [3, 1, 4, 0, 6, 2, 5] {
            assert_eq!(d.fault(vcpu, vcpu.into()), Ok(Populated::Paused));
        }
        for vcpu in 7..10 {
            assert_eq!(d.fault(vcpu, vcpu.into()), Ok(Populated::Paused));
        }
        // The pager answers two requests out of turn. The slot of one goes to vcpu 7, that of the other to 8.
        let requests: Vec<_> = std::iter::from_fn(|| d.take()).collect();
        for n in [1, 4] {
            d.prep(requests[n].gfn.get(), Some(Buffer::Page(n as u64)))
                .unwrap();
            d.respond_to(&requests[n]);
        }
        let woken = d.paging.counters().get(Count::Woken);
        if noticed {
            assert!(d.paging.detach().is_some());
            assert!(d.paging.detach().is_none());
            // Who faults now comes last.
            assert_eq!(d.fault(10, 10), Ok(Populated::Paused));
        }
        assert_eq!(d.take_over(), !noticed);
        assert_eq!(requested(&mut d), [3, 4, 0, 2, 5, 7, 8]);
        assert_eq!(d.paging.counters().get(Count::Woken), woken, "a vcpu ran");
        for vcpu in [3, 4, 0, 2, 5, 7, 8, 9] {
            assert!(d.machine().is_stopped(VcpuId(vcpu)));
            assert_eq!(d.machine().stops(VcpuId(vcpu)), 1, "paused again");
        }
        for n in [3, 4, 0, 2, 5, 7, 8] {
            d.prep(n, Some(Buffer::Page(n))).unwrap();
            assert!(!d.is_waiting(u32::try_from(n).unwrap()));
        }
        let last: &[u64] = if noticed { &[9, 10] } else { &[9] };
        let answered = [3, 4, 0, 2, 5, 7, 8].map(|n| Response {
            gfn: gfn(n),
            ..Response::to(&requests[0])
        });
        answered.iter().for_each(|response| d.respond(response));
        let mut then = Vec::new();
        while let Some(request) = d.serve_one() {
            then.push(request.gfn.get());
        }
        assert_eq!(then, last);
        d.assert_settled();
    }
}

/// A foreign caller's request is repeated only if a vcpu waits for its page.
#[test]
fn a10_what_only_a_foreign_caller_asked_for_is_asked_for_by_him_again() {
    let mut d = Domain::new(2, 8);
    d.out([1, 2]);
    for n in [1, 2] {
        assert_eq!(d.paging.populate(gfn(n), FOREIGN), Ok(Populated::InFlight));
    }
    assert_eq!(d.fault(0, 2), Ok(Populated::Paused));
    assert!(d.take_over());
    let request = d.take().unwrap();
    assert_eq!((request.gfn, request.vcpu), (gfn(2), VcpuId(0)));
    assert_eq!(request.p2mt, P2mType::RamPagingInStart);
    assert_eq!(d.take(), None);
    d.prep(2, Some(Buffer::Page(2))).unwrap();
    d.respond_to(&request);
    assert_eq!(d.paging.populate(gfn(1), FOREIGN), Ok(Populated::InFlight));
    assert!(d.serve_one().is_some());
    assert_eq!(d.p2mt(1), P2mType::RamRw);
    d.assert_settled();
}

#[test]
fn a10_while_the_pager_is_gone_who_needs_a_page_waits() {
    let mut d = Domain::new(3, 8);
    d.out([1, 2, 3]);
    d.nominate(4).unwrap();
    let old = d.paging.epoch();
    assert_eq!(d.paging.attachment(), Attachment::Attached);
    assert!(d.paging.detach().is_some());
    assert_eq!(d.paging.attachment(), Attachment::Detached);
    assert!(d.paging.is_enabled());
    assert_eq!(d.paging.on_event().state, RingState::NoRing);
    assert_eq!(d.fault(0, 1), Ok(Populated::Paused));
    assert_eq!(d.fault(1, 1), Ok(Populated::Paused));
    let full = Err(PopulateError::RingFull);
    assert_eq!(d.paging.populate(gfn(2), FOREIGN), full);
    assert_eq!(d.p2mt(2), P2mType::RamPaged);
    assert_eq!(d.fault(2, 4), Ok(Populated::Present), "it has its contents");
    // Nobody can tell a pager, and nobody needs to: the page is in no list.
    assert_eq!(d.paging.drop_page(gfn(3), Caller::Guest(VcpuId(2))), Ok(()));
    assert_eq!(d.machine().stops(VcpuId(2)), 0);
    let page = RingPage::new();
    let other = d.paging.enable(&PAGEABLE_DOMAIN, || Some(page.map()));
    assert_eq!(other, Err(EnableError::Detached));
    assert_eq!(EnableError::Detached.errno(), Errno::EBUSY);
    for epoch in [old, Epoch::NONE] {
        let mut evict = [Job::new(gfn(4))];
        d.paging.evict(epoch, &mut evict);
        assert_eq!(evict[0].outcome, Some(Err(EvictError::Replaced)));
    }
    assert!(!d.take_over());
    assert_eq!(requested(&mut d), [1], "for both");
    d.prep(1, Some(Buffer::Page(1))).unwrap();
    assert!(!d.is_waiting(0) && !d.is_waiting(1));
}

/// The toolstack waits no longer: all who wait are told, and the domain can be paged anew.
#[test]
fn a10_patience_ends() {
    for by_force in [false, true] {
        let mut d = Domain::new(9, 12);
        d.out(0..9);
        for n in 0..9 {
            assert_eq!(d.fault(n, n.into()), Ok(Populated::Paused));
        }
        assert!(d.paging.detach().is_some());
        let page = if by_force {
            d.paging.shut_down()
        } else {
            d.paging.disable().unwrap()
        };
        assert!(page.is_none(), "it was unmapped before");
        d.assert_settled();
        assert_eq!(d.paging.attachment(), Attachment::None);
        assert_eq!(d.fault(3, 3), Err(PopulateError::NoRing));
        assert!(d.paging.detach().is_none());
        assert_eq!(d.paging.attachment(), Attachment::None);
        let refused = d.paging.take_over(|| panic!("not asked for"));
        assert_eq!(refused.map(drop), Err(TakeOverError::NotEnabled));
        assert_eq!(TakeOverError::NotEnabled.errno(), Errno::ENOENT);
        d.reattach();
        assert_eq!(d.fault(3, 3), Ok(Populated::Paused));
        assert!(d.serve_one().is_some());
        d.assert_settled();
    }
}

/// In the p2m the page is gone, so the new pager knows. To it, the request could be about a page that it
/// has evicted itself.
#[test]
fn a10_a_drop_that_the_dead_pager_was_to_be_told_is_told_to_nobody() {
    for noticed in [false, true] {
        let mut d = Domain::new(10, 16);
        d.out(0..13);
        assert_eq!(d.paging.drop_page(gfn(12), FOREIGN), Ok(()));
        for vcpu in 0..7 {
            assert_eq!(d.fault(vcpu, vcpu.into()), Ok(Populated::Paused));
        }
        let vcpus = [7, 8].map(VcpuId);
        for (vcpu, n) in vcpus.into_iter().zip([10, 11]) {
            assert_eq!(d.paging.drop_page(gfn(n), Caller::Guest(vcpu)), Ok(()));
            assert!(d.machine().is_stopped(vcpu));
        }
        assert_eq!(d.fault(9, 9), Ok(Populated::Paused));
        if noticed {
            assert!(d.paging.detach().is_some());
        } else {
            assert!(d.take_over());
        }
        for vcpu in vcpus {
            assert!(!d.machine().is_stopped(vcpu), "{vcpu:?} waits for ever");
        }
        if noticed {
            assert!(!d.take_over());
        }
        let mut requests = Vec::new();
        while let Some(request) = d.serve_one() {
            assert!(request.paging.is_empty(), "{request:?}");
            requests.push(request.gfn.get());
        }
        assert_eq!(requests, [0, 1, 2, 3, 4, 5, 6, 9]);
        d.assert_settled();
    }
}

/// The page goes after the new pager may have listed it: that pager is told.
#[test]
fn a10_a_drop_that_a_take_over_passes_is_told_to_the_new_pager() {
    for noticed in [false, true] {
        let d = Domain::new(1, 4);
        d.out([1]);
        if noticed {
            assert!(d.paging.detach().is_some());
        }
        let (paging, page): (_, &'static RingPage) =
            (d.paging, Box::leak(Box::new(RingPage::new())));
        d.machine().on_next_p2m_lock(move || {
            paging.take_over(|| Some(page.map())).unwrap();
            let mut states = [PagingStates::default()];
            let listed = paging.paging_states(paging.epoch(), gfn(0), &mut states);
            assert_eq!((listed, states[0].out[1]), (Ok(()), true));
        });
        assert_eq!(d.paging.drop_page(gfn(1), Caller::Guest(VcpuId(0))), Ok(()));
        let told = Back::new(page.map())
            .take()
            .unwrap()
            .expect("told")
            .unwrap();
        assert_eq!((told.gfn, told.paging), (gfn(1), PagingFlags::DROP_PAGE));
        assert_eq!(d.paging.slots_in_use(), 1);
    }
}

/// A foreign caller claimed its slot on the old ring.
#[test]
fn a10_a_slot_of_the_old_ring_is_worth_nothing_on_the_new_one() {
    let mut d = Domain::new(1, 4);
    d.out([1]);
    let (paging, page): (_, &'static RingPage) = (d.paging, Box::leak(Box::new(RingPage::new())));
    d.machine().on_next_p2m_lock(move || {
        paging.take_over(|| Some(page.map())).unwrap();
    });
    let asked = d.paging.populate(gfn(1), FOREIGN);
    assert_eq!(asked, Ok(Populated::InFlight), "it asks again");
    assert_eq!(d.paging.slots_in_use(), 0);
    assert_eq!(d.paging.populate(gfn(1), FOREIGN), asked);
    d.back = Back::new(page.map());
    assert!(d.serve_one().is_some());
    d.assert_settled();
}

/// As [`a10_answers_on_the_ring_are_taken_before_it_goes`](rows_attach), when the pager was killed.
#[test]
fn a10_what_a_pager_has_answered_before_its_death_counts() {
    for noticed in [false, true] {
        let mut d = Domain::new(1, 4);
        d.out([1]);
        assert_eq!(d.fault(0, 1), Ok(Populated::Paused));
        let request = d.take().unwrap();
        d.prep(1, None).unwrap();
        fill(&d, 1);
        d.back.respond(&Response::to(&request)).unwrap();
        let _ = d.back.publish();
        if noticed {
            assert!(d.paging.detach().is_some());
        }
        assert_eq!(d.take_over(), !noticed);
        assert_eq!(d.p2mt(1), P2mType::RamRw);
        assert_eq!(d.take(), None);
        d.assert_settled();
    }
}

fn fill(d: &Domain, n: u64) {
    d.machine().with(|core| {
        let mfn = core.entry(gfn(n)).mfn.unwrap();
        core.frame_mut(mfn).contents = n;
    });
}

/// The pager got an empty frame, and was killed before it filled it. The page is out, and a prep replaces
/// the frame.
#[test]
fn a10_a_frame_that_a_dead_pager_did_not_fill_is_never_seen() {
    let mut d = Domain::new(2, 4);
    d.out([1, 2]);
    assert_eq!(d.fault(0, 1), Ok(Populated::Paused));
    d.prep(1, None).unwrap();
    assert_eq!(d.paging.populate(gfn(2), FOREIGN), Ok(Populated::InFlight));
    d.prep(2, None).unwrap();
    assert!(d.take_over());
    for n in [1, 2] {
        assert_eq!(d.p2mt(n), P2mType::RamPagingIn);
        assert!(d.states().out[usize::try_from(n).unwrap()]);
    }
    let request = d.take().unwrap();
    assert_eq!(request.gfn, gfn(1));
    let in_already = PrepError::NotOut(P2mType::RamPagingIn);
    assert_eq!(d.prep(1, None), Err(in_already));
    for (failing, errno) in [(true, Errno::ENOMEM), (false, Errno::EFAULT)] {
        if failing {
            d.machine().with(|core| core.failures.take = Some(errno));
            let refused = Err(PrepError::Platform(errno));
            assert_eq!(d.prep(1, Some(Buffer::Page(1))), refused);
            assert_eq!(d.p2mt(1), P2mType::RamPagingIn);
        } else {
            let refused = Err(PrepError::BufferFault);
            assert_eq!(d.prep(1, Some(Buffer::Faulting)), refused);
            assert_eq!(d.p2mt(1), P2mType::RamPagingInStart, "its frame is gone");
        }
        assert!(d.is_waiting(0));
        d.machine().check();
    }
    for n in [1, 2] {
        d.prep(n, Some(Buffer::Page(n))).unwrap();
        assert_eq!(
            (d.p2mt(n), d.machine().contents(gfn(n))),
            (P2mType::RamRw, Some(n))
        );
    }
    assert!(!d.is_waiting(0));
    d.respond_to(&request);
    assert_eq!(d.paging.counters().get(Count::Ignored), 0);
    d.assert_settled();
}

/// The hypervisor has taken a response off the old ring, and goes on only after the new pager has asked
/// for an empty frame for the same page.
#[test]
fn a10_a_response_that_a_take_over_passes_makes_nothing_resident() {
    let mut d = Domain::new(1, 4);
    d.out([1]);
    assert_eq!(d.fault(0, 1), Ok(Populated::Paused));
    let request = d.take().unwrap();
    d.prep(1, None).unwrap();
    fill(&d, 1);
    let (paging, page): (_, &'static RingPage) = (d.paging, Box::leak(Box::new(RingPage::new())));
    d.machine().on_next_p2m_lock(move || {
        paging.take_over(|| Some(page.map())).unwrap();
        let epoch = paging.epoch();
        let mut prep = [Job::filled(gfn(1), Buffer::Page(1))];
        paging.prep(epoch, &mut prep);
        paging.nominate(epoch, &mut [Job::new(gfn(1))]);
        paging.evict(epoch, &mut [Job::new(gfn(1))]);
        let mut prep = [Job::empty(gfn(1))];
        paging.prep(epoch, &mut prep);
        assert_eq!(prep[0].outcome, Some(Ok(())));
    });
    d.respond_to(&request);
    assert_eq!(d.p2mt(1), P2mType::RamPagingIn, "nobody has filled it");
    assert_eq!(d.paging.counters().get(Count::Ignored), 1);
    assert!(!d.is_waiting(0));
    assert_eq!(d.fault(0, 1), Ok(Populated::Paused));
    d.back = Back::new(page.map());
    assert!(d.serve_one().is_some());
    assert_eq!(d.machine().contents(gfn(1)), Some(1));
    d.assert_settled();
}

/// A pager that was stopped and not killed continues.
#[test]
fn a10_the_old_pager_can_do_nothing_after_a_take_over() {
    let mut d = Domain::new(1, 4);
    d.nominate(1).unwrap();
    d.out([2]);
    let old = d.paging.epoch();
    let failed = d.paging.take_over(|| None);
    assert_eq!(failed.map(drop), Err(TakeOverError::NoRingPage));
    assert_eq!(TakeOverError::NoRingPage.errno(), Errno::EOPNOTSUPP);
    assert!(d.paging.is_current(old), "nothing has changed");
    assert!(d.take_over());
    assert!(!d.paging.is_current(old) && !d.paging.is_current(Epoch::NONE));
    let mut nominate = [Job::new(gfn(3))];
    d.paging.nominate(old, &mut nominate);
    assert_eq!(nominate[0].outcome, Some(Err(NominateError::Replaced)));
    let mut evict = [Job::new(gfn(1))];
    d.paging.evict(old, &mut evict);
    assert_eq!(evict[0].outcome, Some(Err(EvictError::Replaced)));
    let mut restore = [Job::new(gfn(1))];
    d.paging.restore(old, &mut restore);
    assert_eq!(restore[0].outcome, Some(Err(RestoreError::Replaced)));
    let mut prep = [Job::filled(gfn(2), Buffer::Page(9))];
    d.paging.prep(old, &mut prep);
    assert_eq!(prep[0].outcome, Some(Err(PrepError::Replaced)));
    let listed = d
        .paging
        .paging_states(old, gfn(0), &mut [PagingStates::default()]);
    assert_eq!(listed, Err(PagingStatesError::Replaced));
    assert_eq!(PagingStatesError::Replaced.errno(), Errno::ENOTCONN);
    d.restore(1).unwrap();
    d.prep(2, Some(Buffer::Page(2))).unwrap();
    d.assert_settled();
}

#[test]
fn a10_states_are_listed_as_the_p2m_has_them() {
    let d = Domain::new(1, 200);
    d.nominate(5).unwrap();
    d.nominate(63).unwrap();
    d.out([0, 64, 130, 131]);
    assert_eq!(d.fault(0, 64), Ok(Populated::Paused));
    d.prep(130, None).unwrap();
    let epoch = d.paging.epoch();
    let full = PagingStates {
        out: GfnSet::new([u64::MAX]),
        nominated: GfnSet::new([u64::MAX]),
    };
    let mut states = [full; 5];
    assert_eq!(d.paging.paging_states(epoch, gfn(0), &mut states), Ok(()));
    let words = states.map(|s| (s.out.data[0], s.nominated.data[0]));
    let expected = [(1, 1 << 5 | 1 << 63), (1, 0), (0b1100, 0), (0, 0), (0, 0)];
    assert_eq!(words, expected);
    let mut second = [full];
    assert_eq!(d.paging.paging_states(epoch, gfn(128), &mut second), Ok(()));
    assert_eq!(second[0], states[2]);
    for n in [1, 63, 65] {
        let unaligned = PagingStatesError::Unaligned(gfn(n));
        let listed = d.paging.paging_states(epoch, gfn(n), &mut second);
        assert_eq!((listed, unaligned.errno()), (Err(unaligned), Errno::EINVAL));
    }
    let last = Gfn::new_truncate(Gfn::MAX.get() - 63);
    assert_eq!(
        d.paging.paging_states(epoch, last, &mut states[..1]),
        Ok(())
    );
    let beyond = d.paging.paging_states(epoch, last, &mut states[..2]);
    assert_eq!(beyond, Err(PagingStatesError::Beyond));
}

/// A vcpu that another CPU is about to pause waits on the new ring.
#[test]
fn a10_a_fault_in_the_middle_of_a_take_over_finds_a_ring() {
    let mut d = Domain::new(2, 4);
    d.out([1, 2]);
    assert_eq!(d.fault(0, 1), Ok(Populated::Paused));
    let paging = d.paging;
    // Between the end of the old epoch and the new ring.
    d.machine().on_next_p2m_lock(move || {
        let asked = paging.fault(VcpuId(1), gfn(2), Access::WRITE);
        assert_eq!(asked, Ok(Populated::Paused));
    });
    assert!(d.take_over());
    let requests: Vec<Request> = std::iter::from_fn(|| d.serve_one()).collect();
    assert!(requests.iter().map(|r| r.gfn).eq([gfn(1), gfn(2)]));
    d.assert_settled();
}
