// SPDX-License-Identifier: MIT OR Apache-2.0
//! One test for each known defect of Xen's paging in C that this design could have too, by its
//! number in the survey, and one for each defect that was fixed there.

mod common;

use common::{Domain, domain, gfn};
use p2m_paging::p2m::{Access, P2mType};
use p2m_paging::paging::{
    Caller, Count, DropError, EnableError, EvictError, PopulateError, Populated, RingState,
};
use p2m_paging::ring::{EntryFlags, PagingFlags, SLOTS};
use p2m_paging::{Errno, VcpuId};
use tests_host::plain::{Buffer, PAGEABLE_DOMAIN, RingPage};

/// A dom0 that copies: its vcpu's number is larger than any of the guest's.
const DOM0: Caller = Caller::Foreign(VcpuId(31));

/// A nominated page that somebody else needs becomes resident at once. In C it can remain paging
/// in.
#[test]
fn defect_01_an_evict_that_failed_for_a_foreign_caller_does_not_stick() {
    let mut d = Domain::new(1, 4);
    d.nominate(1).unwrap();
    assert_eq!(d.paging.populate(gfn(1), DOM0), Ok(Populated::Present));
    assert_eq!(d.p2mt(1), P2mType::RamRw);
    assert_eq!(d.evict(1), Err(EvictError::NotNominated(P2mType::RamRw)));
    assert_eq!(d.take(), None);
    d.assert_settled();
}

#[test]
fn defect_02_a_read_of_a_nominated_page_costs_no_round_trip() {
    let mut d = Domain::new(1, 4);
    d.nominate(1).unwrap();
    let read = d.paging.fault(VcpuId(0), gfn(1), Access::READ);
    assert_eq!(read, Ok(Populated::Present));
    assert_eq!(d.take(), None);
    let npt = P2mType::RamPagingOut.npt_flags().unwrap();
    assert!(!npt.is_empty(), "present for reading on AMD too");
    d.evict(1).unwrap();
}

#[test]
fn defect_03_a_second_vcpu_on_a_page_in_flight_sleeps() {
    let mut d = Domain::new(3, 4);
    d.out([1]);
    for vcpu in 0..3 {
        assert_eq!(d.fault(vcpu, 1), Ok(Populated::Paused));
        assert!(d.machine().is_stopped(VcpuId(vcpu)));
    }
    assert!(d.serve_one().is_some());
    assert_eq!(d.take(), None, "one request for all");
    d.assert_settled();
    assert_eq!(d.paging.counters().get(Count::Woken), 3);
}

/// The frame is freed, and counted out, only after the entry has changed and CPUs are flushed.
#[test]
fn defect_04_an_evict_that_fails_late_frees_and_counts_nothing() {
    let d = Domain::new(1, 4);
    d.nominate(1).unwrap();
    let before = d.machine().with(|core| {
        core.failures.take = Some(Errno::ENOMEM);
        (core.paged_pages, core.free_frames())
    });
    assert_eq!(d.evict(1), Err(EvictError::Platform(Errno::ENOMEM)));
    let after = d
        .machine()
        .with(|core| (core.paged_pages, core.free_frames()));
    assert_eq!(after, before);
    assert_eq!(d.machine().contents(gfn(1)), Some(1));
    // The machine panics if a frame is freed before its flush.
    d.evict(1).unwrap();
    d.machine().check();
}

/// Every field of a drop request is written: no value of an earlier request remains.
#[test]
fn defect_11_a_drop_request_says_drop_and_nothing_stale() {
    let mut d = Domain::new(2, 20);
    d.nominate(0).unwrap();
    d.out(1..9);
    // Gives every slot flags and vcpus.
    for n in 0..8 {
        assert!(d.fault(1, n).is_ok());
        let _ = d.serve_one();
    }
    for n in 1..9 {
        let _ = d.prep(n, Some(Buffer::Page(n)));
        d.out([n]);
        assert_eq!(d.paging.drop_page(gfn(n), Caller::Guest(VcpuId(0))), Ok(()));
        let request = d.take().unwrap();
        assert_eq!(request.paging, PagingFlags::DROP_PAGE, "page {n}");
        assert_eq!(request.flags, EntryFlags::empty());
        assert_eq!((request.vcpu, request.gfn), (VcpuId(0), gfn(n)));
        d.respond_to(&request);
        assert_eq!(d.p2mt(n), P2mType::Invalid);
    }
    d.assert_settled();
}

/// Garbage in the pager's index: in C the hypervisor walks up to 2^32 responses.
#[test]
fn defect_12_an_impossible_index_is_an_error_in_bounded_time() {
    let mut d = Domain::new(2, 4);
    d.out([1]);
    assert_eq!(d.fault(0, 1), Ok(Populated::Paused));
    for garbage in [2, SLOTS, SLOTS + 1, 1 << 31, u32::MAX] {
        d.page.poke(2, garbage);
        let handled = d.paging.on_event();
        assert_eq!(handled.responses, 0);
        assert!(
            matches!(handled.state, RingState::Overrun(_)),
            "{handled:?}"
        );
    }
    d.page.poke(2, 0);
    assert!(d.serve_one().is_some(), "mended");
    d.assert_settled();
}

/// The pager dies. The next one is told so, no vcpu is lost, and the pages that it left are
/// available again.
#[test]
fn defect_14_a_pager_can_be_replaced() {
    let mut d = Domain::new(2, 4);
    d.out([1, 2]);
    let other = RingPage::new();
    let second = d.paging.enable(&PAGEABLE_DOMAIN, || Some(other.map()));
    assert_eq!(second, Err(EnableError::Enabled));
    assert_eq!(second.unwrap_err().errno(), Errno::EBUSY);
    assert_eq!(d.fault(0, 1), Ok(Populated::Paused));
    let _ = d.paging.disable().unwrap();
    assert_eq!(
        d.fault(0, 1),
        Err(PopulateError::NoRing),
        "an error, no crash"
    );
    assert!(!d.machine().is_stopped(VcpuId(0)));
    d.reattach();
    assert_eq!(d.fault(0, 1), Ok(Populated::Paused));
    assert_eq!(d.fault(1, 2), Ok(Populated::Paused));
    while d.serve_one().is_some() {}
    d.assert_settled();
    assert_eq!(d.machine().contents(gfn(1)), Some(1));
}

/// First come, first served, however often the others try.
#[test]
fn defect_15_who_waits_for_a_slot_is_not_passed() {
    let mut d = Domain::new(20, 40);
    d.out(0..40);
    for n in 0..20 {
        assert_eq!(d.fault(n, n.into()), Ok(Populated::Paused));
    }
    let mut last_of_line = None;
    for served in 0..20_u32 {
        let request = d.serve_one().unwrap();
        assert_eq!(request.vcpu, VcpuId(served));
        if served < 5 {
            // Comes back at once for another page: behind those that wait.
            let again = 20 + u64::from(served);
            assert_eq!(d.fault(served, again), Ok(Populated::Paused));
        }
        last_of_line = Some(served);
    }
    assert_eq!(last_of_line, Some(19));
    while d.serve_one().is_some() {}
    d.assert_settled();
}

#[test]
fn defect_16_a_page_that_is_out_can_be_given_back() {
    let mut d = Domain::new(1, 4);
    d.out([1]);
    let free = d.machine().with(|core| core.free_frames());
    assert_eq!(d.paging.drop_page(gfn(1), Caller::Guest(VcpuId(0))), Ok(()));
    assert_eq!(d.p2mt(1), P2mType::Invalid);
    d.machine().with(|core| {
        assert_eq!(core.paged_pages, 0);
        assert_eq!(core.free_frames(), free);
    });
    let request = d.take().expect("the pager hears of it");
    assert_eq!(request.gfn, gfn(1));
    assert!(request.paging.contains(PagingFlags::DROP_PAGE));
    d.respond_to(&request);
    d.assert_settled();
}

/// A balloon deflates faster than the pager reads: the vcpu waits for a slot, and nothing is lost.
#[test]
fn defect_16_a_guest_that_drops_more_than_the_ring_holds_is_made_to_wait() {
    let mut d = Domain::new(2, 20);
    d.out(0..12);
    for n in 0..7 {
        assert_eq!(d.paging.drop_page(gfn(n), Caller::Guest(VcpuId(0))), Ok(()));
        assert!(!d.machine().is_stopped(VcpuId(0)));
    }
    assert_eq!(d.paging.drop_page(gfn(7), Caller::Guest(VcpuId(0))), Ok(()));
    assert!(d.machine().is_stopped(VcpuId(0)));
    // Before the pause takes effect it may try once more. It is told to wait, and nothing happens.
    let again = d.paging.drop_page(gfn(8), Caller::Guest(VcpuId(0)));
    assert_eq!(again, Err(DropError::RingFull));
    assert_eq!(d.p2mt(8), P2mType::RamPaged);
    assert_eq!(d.fault(0, 9), Err(PopulateError::RingFull));
    let mut dropped = Vec::new();
    while let Some(request) = d.take() {
        dropped.push(request.gfn.get());
        d.respond_to(&request);
    }
    assert_eq!(dropped, (0..8).collect::<Vec<_>>());
    d.assert_settled();
}

/// 7f8445d967: with more vcpus than slots the guest locked up.
#[test]
fn fixed_7f8445d967_more_vcpus_than_slots() {
    for vcpus in [8, 9, 16, 128] {
        let mut d = Domain::new(vcpus, vcpus);
        let all = 0..u32::try_from(vcpus).unwrap();
        d.out(all.clone().map(u64::from));
        for n in all {
            assert_eq!(d.fault(n, n.into()), Ok(Populated::Paused));
        }
        let mut served = 0;
        while d.serve_one().is_some() {
            served += 1;
        }
        assert_eq!(served, vcpus);
        d.assert_settled();
    }
}

/// 15e4dd5e86: whether a slot was reserved was read from the wrong return value, and slots leaked.
#[test]
fn fixed_15e4dd5e86_every_way_out_gives_its_slot_back() {
    let mut d = Domain::new(1, 4);
    d.out([1]);
    for _ in 0..50 {
        // The slot is reserved, then the entry cannot be changed.
        d.machine()
            .with(|core| core.failures.set_type = Some(Errno::ENOMEM));
        let failed = d.paging.populate(gfn(1), DOM0);
        assert_eq!(failed, Err(PopulateError::Platform(Errno::ENOMEM)));
        d.machine()
            .with(|core| core.failures.set_type = Some(Errno::ENOMEM));
        let failed = d.paging.drop_page(gfn(1), DOM0);
        assert_eq!(failed, Err(DropError::Platform(Errno::ENOMEM)));
        // The slot is reserved, then there is nothing to request.
        assert_eq!(d.paging.populate(gfn(2), DOM0), Ok(Populated::NotPaging));
        assert!(d.paging.drop_page(gfn(2), DOM0).is_err());
        assert_eq!(d.paging.slots_in_use(), 0);
    }
    assert_eq!(d.take(), None);
    d.assert_settled();
}

/// 868d9b99b3: responses for vcpus that were not paused took their pause count below zero.
#[test]
fn fixed_868d9b99b3_answers_too_many_unpause_nobody() {
    let mut d = Domain::new(2, 4);
    let held = d.paging.pause(VcpuId(1)).unwrap();
    d.out([1]);
    for _ in 0..5 {
        assert_eq!(d.paging.populate(gfn(1), DOM0), Ok(Populated::InFlight));
        let mut request = d.take().unwrap();
        // As if vcpu 1 had been paused for it.
        request.vcpu = VcpuId(1);
        request.flags = EntryFlags::VCPU_PAUSED;
        d.respond_to(&request);
        assert_eq!(d.paging.vcpus().pauses(VcpuId(1)), 1);
        assert!(
            d.machine().is_stopped(VcpuId(1)),
            "paused for another reason"
        );
    }
    d.paging.unpause(held);
    assert!(!d.machine().is_stopped(VcpuId(1)));
}

/// 461f048203: the response came before the vcpu had been switched out.
#[test]
fn fixed_461f048203_an_answer_before_the_vcpu_has_stopped() {
    let mut d = Domain::new(1, 4);
    d.out([1]);
    // The page is resident, and the pause undone, before `fault` returns to a caller that then
    // stops the
    // vcpu: the pause was made under the p2m lock, before the request.
    assert_eq!(d.fault(0, 1), Ok(Populated::Paused));
    assert!(d.serve_one().is_some());
    assert!(!d.machine().is_stopped(VcpuId(0)));
    assert_eq!(d.machine().stops(VcpuId(0)), 1);
    assert_eq!(d.fault(0, 1), Ok(Populated::NotPaging));
    d.assert_settled();
}

/// 66b7f58e58: the caller's domain was mistaken for the paged one.
#[test]
fn fixed_66b7f58e58_a_foreign_vcpu_is_none_of_the_guests() {
    let mut d = Domain::new(4, 4);
    d.out([1]);
    let caller = Caller::Foreign(VcpuId(2));
    assert_eq!(d.paging.populate(gfn(1), caller), Ok(Populated::InFlight));
    assert!(
        !d.machine().is_stopped(VcpuId(2)),
        "the guest's vcpu 2 has asked for nothing"
    );
    let request = d.serve_one().unwrap();
    assert!(request.flags.contains(EntryFlags::FOREIGN));
    assert!(!request.flags.contains(EntryFlags::VCPU_PAUSED));
    d.assert_settled();
    // Two domains side by side share nothing.
    let other = domain(4, 4, 1);
    assert_eq!(
        other.fault(VcpuId(0), gfn(1), Access::READ),
        Ok(Populated::NotPaging)
    );
}

/// 64f9219d68: a nominated page that the balloon gave back leaked its frame.
#[test]
fn fixed_64f9219d68_a_nominated_page_given_back_is_freed() {
    let mut d = Domain::new(1, 4);
    let free = d.machine().with(|core| core.free_frames());
    d.nominate(1).unwrap();
    assert_eq!(d.paging.drop_page(gfn(1), Caller::Guest(VcpuId(0))), Ok(()));
    d.machine().with(|core| {
        assert_eq!(core.free_frames(), free + 1);
        assert_eq!(core.paged_pages, 0);
    });
    assert!(d.evict(1).is_err());
    let request = d.take().unwrap();
    assert_eq!(
        request.paging,
        PagingFlags::DROP_PAGE | PagingFlags::EVICT_FAIL
    );
    d.respond_to(&request);
    // Mapped by somebody: it is freed with its last user.
    d.nominate(2).unwrap();
    let mfn = d.machine().get_frame(gfn(2)).unwrap();
    assert_eq!(d.paging.drop_page(gfn(2), DOM0), Ok(()));
    assert_eq!(d.machine().with(|core| core.free_frames()), free + 1);
    d.machine().put_frame(mfn);
    assert_eq!(d.machine().with(|core| core.free_frames()), free + 2);
    d.machine().check();
}

/// 2ad467f6a3: a page that became resident while the domain was log-dirty was not logged.
#[test]
fn fixed_2ad467f6a3_pages_come_home_to_be_logged() {
    let mut d = Domain::new(1, 8);
    d.out([1, 2]);
    d.nominate(3).unwrap();
    d.machine().with(|core| core.log_dirty = true);
    assert_eq!(d.fault(0, 3), Ok(Populated::Present));
    for n in 1..4 {
        if n < 3 {
            assert_eq!(d.fault(0, n), Ok(Populated::Paused));
            let request = d.take().unwrap();
            d.prep(n, (n == 1).then_some(Buffer::Page(n))).unwrap();
            d.respond_to(&request);
        }
        assert_eq!(d.p2mt(n), P2mType::RamLogDirty, "page {n}");
    }
    d.assert_settled();
}

/// daf20794ed: the m2p entry of a page that became resident was not restored.
#[test]
fn fixed_daf20794ed_the_m2p_entry_comes_back() {
    let mut d = Domain::new(1, 8);
    d.out([1, 2]);
    d.nominate(3).unwrap();
    assert_eq!(d.fault(0, 3), Ok(Populated::Present));
    for n in 1..4 {
        if n < 3 {
            assert_eq!(d.fault(0, n), Ok(Populated::Paused));
            let request = d.take().unwrap();
            d.prep(n, (n == 1).then_some(Buffer::Page(n))).unwrap();
            d.respond_to(&request);
        }
        d.machine().with(|core| {
            let mfn = core.entry(gfn(n)).mfn.unwrap();
            assert_eq!(core.m2p(mfn), Some(gfn(n)), "page {n}");
        });
    }
    d.assert_settled();
}
