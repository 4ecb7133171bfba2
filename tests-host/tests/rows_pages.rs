// SPDX-License-Identifier: MIT OR Apache-2.0
//! Rows A1, A2, A4 and A5: a page goes out and comes back. Every refusal has the number that Xen's
//! callers get.

mod common;

use common::{Domain, gfn};
use p2m_paging::p2m::P2mType;
use p2m_paging::paging::{
    Caller, Count, EvictError, Job, NominateError, Populated, PrepError, RestoreError,
};
use p2m_paging::platform::AllocError;
use p2m_paging::ring::Response;
use p2m_paging::{Errno, VcpuId};
use tests_host::plain::{Buffer, SCRUBBED};

const FOREIGN: Caller = Caller::Foreign(VcpuId(40));

#[track_caller]
fn nominate_refused(d: &Domain, n: u64, why: NominateError) {
    let before = d.machine().with(|core| core.entry(gfn(n)));
    assert_eq!(d.nominate(n), Err(why));
    assert_eq!(d.machine().with(|core| core.entry(gfn(n))), before);
    assert_eq!(why.errno(), Errno::EBUSY);
}

#[test]
fn a1_nominate_takes_writing_away_and_nothing_else() {
    let d = Domain::new(1, 4);
    d.nominate(1).unwrap();
    assert_eq!(d.p2mt(1), P2mType::RamPagingOut);
    assert_eq!(d.machine().contents(gfn(1)), Some(1));
    let flushes = d.machine().with(|core| core.flushes);
    assert_eq!(flushes, 1, "before the pager copies");
}

#[test]
fn a1a_no_valid_frame() {
    let d = Domain::new(1, 4);
    nominate_refused(&d, 100, NominateError::NoFrame(P2mType::Invalid));
}

#[test]
fn a1b_d_e_types_that_are_not_pageable_being_paged_or_shared() {
    for t in P2mType::ALL {
        let d = Domain::new(1, 4);
        d.machine().with(|core| core.force_type(gfn(1), t));
        if t.is_pageable() {
            assert_eq!(d.nominate(1), Ok(()));
        } else if t == P2mType::RamShared {
            nominate_refused(&d, 1, NominateError::Shared);
        } else if t.is_paging() {
            nominate_refused(&d, 1, NominateError::Paging(t));
        } else {
            nominate_refused(&d, 1, NominateError::NotPageable(t));
        }
    }
}

#[test]
fn a1c_mmio() {
    let d = Domain::new(1, 4);
    d.machine().with(|core| {
        let mfn = core.entry(gfn(1)).mfn.unwrap();
        core.frame_mut(mfn).mmio = true;
    });
    nominate_refused(&d, 1, NominateError::Mmio);
}

#[test]
fn a1f_somebody_uses_the_frame() {
    let d = Domain::new(1, 4);
    let in_use = |references, typed| NominateError::InUse { references, typed };
    let mfn = d.machine().get_frame(gfn(1)).unwrap();
    nominate_refused(&d, 1, in_use(2, 0));
    d.machine().put_frame(mfn);
    d.machine().with(|core| core.frame_mut(mfn).typed = 1);
    nominate_refused(&d, 1, in_use(1, 1));
    d.machine().with(|core| core.frame_mut(mfn).typed = 0);
    d.nominate(1).unwrap();
}

#[test]
fn a1_a_batch_says_for_each_page_what_became_of_it() {
    let d = Domain::new(1, 200);
    let mut batch: Vec<_> = (0..300).map(|n| Job::new(gfn(n))).collect();
    d.paging.nominate(d.paging.epoch(), &mut batch);
    for (n, job) in batch.iter().enumerate() {
        assert_eq!(job.outcome.unwrap().is_ok(), n < 200, "{n}");
    }
    let flushes = d.machine().with(|core| core.flushes);
    assert_eq!(flushes, 4, "one for each 64 of which one was nominated");
}

#[test]
fn a2_evict_scrubs_frees_and_counts() {
    let d = Domain::new(1, 4);
    let free = d.machine().with(|core| core.free_frames());
    let mfn = d.machine().with(|core| core.entry(gfn(1)).mfn.unwrap());
    d.out([1]);
    assert_eq!(d.p2mt(1), P2mType::RamPaged);
    d.machine().with(|core| {
        assert_eq!(core.paged_pages, 1);
        assert_eq!(core.free_frames(), free + 1);
        assert_eq!(core.frame(mfn).contents, SCRUBBED);
    });
}

#[test]
fn a2_a_batch_is_evicted_in_chunks_and_each_has_one_flush() {
    let d = Domain::new(1, 200);
    let mut batch: Vec<_> = (0..200).map(|n| Job::new(gfn(n))).collect();
    d.paging.nominate(d.paging.epoch(), &mut batch);
    let free = d.machine().with(|core| core.free_frames());
    let flushes = d.machine().with(|core| core.flushes);
    let mut batch: Vec<_> = (0..200).map(|n| Job::new(gfn(n))).collect();
    d.paging.evict(d.paging.epoch(), &mut batch);
    assert!(batch.iter().all(|job| job.outcome == Some(Ok(()))));
    d.machine().with(|core| {
        assert_eq!(core.free_frames(), free + 200, "none is leaked");
        assert_eq!(core.flushes, flushes + 4, "one for each 64");
    });
    assert_eq!(d.paging.counters().get(Count::Evicted), 200);
}

#[test]
fn a2_refusals() {
    let d = Domain::new(1, 6);
    let refused = |n, why: EvictError| {
        assert_eq!(d.evict(n), Err(why));
        assert_eq!(why.errno(), Errno::EBUSY);
        d.machine().check();
    };
    refused(0, EvictError::NotNominated(P2mType::RamRw));
    refused(99, EvictError::NotNominated(P2mType::Invalid));
    d.out([1]);
    refused(1, EvictError::NotNominated(P2mType::RamPaged));
    d.nominate(2).unwrap();
    let _ = d.fault(0, 2).unwrap();
    refused(2, EvictError::NotNominated(P2mType::RamRw));
    d.prep(1, None).unwrap();
    refused(1, EvictError::NotNominated(P2mType::RamPagingIn));
    // A user that came after the nomination. The page can go out once the user has left.
    d.nominate(3).unwrap();
    let mfn = d.machine().get_frame(gfn(3)).unwrap();
    let (references, typed) = (2, 0);
    refused(3, EvictError::InUse { references, typed });
    d.machine().put_frame(mfn);
    d.evict(3).unwrap();
}

#[test]
fn a4_refusals() {
    let d = Domain::new(1, 4);
    let page = Some(Buffer::Page(1));
    d.out([1]);
    let refused = |got: Result<(), PrepError>, why: PrepError, errno: Errno| {
        assert_eq!(got, Err(why));
        assert_eq!(why.errno(), errno);
        assert_eq!(d.p2mt(1), P2mType::RamPaged, "as it was");
        d.machine().check();
    };
    let no_memory = Some(AllocError::NoMemory);
    d.machine().with(|core| core.failures.alloc = no_memory);
    refused(d.prep(1, page), PrepError::NoMemory, Errno::ENOMEM);
    let invalid = d.prep(1, Some(Buffer::Invalid));
    refused(invalid, PrepError::InvalidBuffer, Errno::EINVAL);
    let faulting = d.prep(1, Some(Buffer::Faulting));
    refused(faulting, PrepError::BufferFault, Errno::EFAULT);
    let enomem = Errno::ENOMEM;
    d.machine()
        .with(|core| core.failures.install = Some(enomem));
    refused(d.prep(1, page), PrepError::Platform(enomem), enomem);
    let not_out = PrepError::NotOut;
    refused(d.prep(0, page), not_out(P2mType::RamRw), Errno::ENOENT);
    refused(d.prep(99, page), not_out(P2mType::Invalid), Errno::ENOENT);
    d.prep(1, page).unwrap();
    assert_eq!(d.prep(1, page), Err(not_out(P2mType::RamRw)));
}

#[test]
fn a4_an_empty_frame_is_zeroed_and_untouchable_until_the_answer() {
    let mut d = Domain::new(1, 4);
    d.out([1]);
    assert_eq!(d.fault(0, 1), Ok(Populated::Paused));
    d.prep(1, None).unwrap();
    assert_eq!(d.machine().contents(gfn(1)), Some(0));
    assert_eq!(d.p2mt(1), P2mType::RamPagingIn);
    assert!(d.is_waiting(0));
    let request = d.take().unwrap();
    d.respond_to(&request);
    assert_eq!(d.p2mt(1), P2mType::RamRw);
    d.assert_settled();
}

/// The pager takes a nomination back: no request, no response, no vcpu waits.
#[test]
fn a1_a_nomination_that_is_taken_back_sends_the_page_home() {
    let mut d = Domain::new(1, 70);
    let nominated = 65;
    for n in 0..nominated {
        d.nominate(n).unwrap();
    }
    let mut batch: Vec<_> = (0..nominated + 1).map(|n| Job::new(gfn(n))).collect();
    d.paging.restore(d.paging.epoch(), &mut batch);
    for (n, job) in (0..).zip(&batch) {
        let home = Err(RestoreError::NotNominated(P2mType::RamRw));
        let expected = if n < nominated { Ok(()) } else { home };
        assert_eq!(job.outcome, Some(expected), "page {n}");
        assert_eq!(d.p2mt(n), P2mType::RamRw);
        assert_eq!(d.machine().contents(gfn(n)), Some(n));
    }
    assert_eq!(d.paging.counters().get(Count::Restored), nominated);
    assert_eq!(d.take(), None);
    d.assert_settled();
}

#[test]
fn a1_what_is_not_nominated_is_not_restored() {
    let d = Domain::new(1, 8);
    let refused = |n, why: RestoreError, errno: Errno| {
        assert_eq!(d.restore(n), Err(why));
        assert_eq!(why.errno(), errno);
        d.machine().check();
    };
    refused(0, RestoreError::NotNominated(P2mType::RamRw), Errno::ENOENT);
    refused(
        99,
        RestoreError::NotNominated(P2mType::Invalid),
        Errno::ENOENT,
    );
    d.out([1, 2, 3]);
    refused(
        1,
        RestoreError::NotNominated(P2mType::RamPaged),
        Errno::ENOENT,
    );
    let _ = d.fault(0, 2).unwrap();
    let started = P2mType::RamPagingInStart;
    refused(2, RestoreError::NotNominated(started), Errno::ENOENT);
    d.prep(3, None).unwrap();
    refused(
        3,
        RestoreError::NotNominated(P2mType::RamPagingIn),
        Errno::ENOENT,
    );
    d.nominate(4).unwrap();
    let failure = Some(Errno::ENOMEM);
    d.machine().with(|core| core.failures.set_type = failure);
    refused(4, RestoreError::Platform(Errno::ENOMEM), Errno::ENOMEM);
    assert_eq!(d.restore(4), Ok(()));
}

#[test]
fn a5_answers_to_nothing_change_nothing() {
    let mut d = Domain::new(2, 8);
    d.out([1, 2]);
    for (ignored, target) in (0..).zip([0, 2, 5, 99]) {
        assert_eq!(d.paging.counters().get(Count::Ignored), ignored);
        let asked = d.paging.populate(gfn(1), FOREIGN);
        assert_eq!(asked, Ok(Populated::InFlight));
        let request = d.take().unwrap();
        let before = d.machine().with(|core| core.entry(gfn(target)));
        d.respond(&Response {
            gfn: gfn(target),
            ..Response::to(&request)
        });
        let after = d.machine().with(|core| core.entry(gfn(target)));
        assert_eq!(after, before);
    }
    while d.serve_one().is_some() {}
    d.machine().check();
}

/// Pages that only a response can make resident are counted. A page that becomes resident in
/// another way is not counted any more, and does not hide one that still is.
#[test]
fn a5_an_answer_sends_its_page_home_after_others_went_another_way() {
    let mut d = Domain::new(1, 8);
    let asked = |d: &mut Domain, n| {
        d.out([n]);
        let asked = d.paging.populate(gfn(n), FOREIGN);
        assert_eq!(asked, Ok(Populated::InFlight));
        d.take().unwrap()
    };
    let filled = asked(&mut d, 1);
    d.prep(1, Some(Buffer::Page(1))).unwrap();
    d.respond_to(&filled);
    let dropped = asked(&mut d, 2);
    d.prep(2, None).unwrap();
    d.paging.drop_page(gfn(2), FOREIGN).unwrap();
    d.respond_to(&dropped);
    let drop_heard = d.take().unwrap();
    d.respond_to(&drop_heard);
    for n in [3, 4] {
        let emptied = asked(&mut d, n);
        d.prep(n, None).unwrap();
        d.respond_to(&emptied);
        assert_eq!(d.p2mt(n), P2mType::RamRw);
    }
    assert_eq!(d.paging.counters().get(Count::Resumed), 2);
    d.assert_settled();
}

/// The response to an earlier request is taken late, when the page is paging in anew.
#[test]
fn a4_a_late_answer_takes_no_page_home_that_its_pager_has_not_filled() {
    let mut d = Domain::new(2, 4);
    d.out([1]);
    assert_eq!(d.fault(0, 1), Ok(Populated::Paused));
    let first = d.take().unwrap();
    d.prep(1, Some(Buffer::Page(1))).unwrap();
    d.back.respond(&Response::to(&first)).unwrap();
    let _ = d.back.publish();
    d.out([1]);
    assert_eq!(d.fault(1, 1), Ok(Populated::Paused));
    let second = d.take().unwrap();
    d.prep(1, None).unwrap();
    assert_eq!(d.paging.on_event().responses, 1);
    assert_eq!(d.p2mt(1), P2mType::RamPagingIn);
    d.respond_to(&second);
    assert_eq!(d.p2mt(1), P2mType::RamRw);
    d.assert_settled();
}
