// SPDX-License-Identifier: MIT OR Apache-2.0
//! Row A10: a pager attaches, detaches and is replaced. Every refusal has the number that Xen's callers
//! get.

mod common;

use common::{Domain, domain, gfn};
use p2m_paging::paging::{
    CHUNK, DisableError, DomainProperties, EnableError, EvictError, Job, NominateError,
    PopulateError, Populated, PrepError, RestoreError, RingState,
};
use p2m_paging::ring::{Back, Response};
use p2m_paging::{Errno, P2mType};
use tests_host::plain::{Buffer, PAGEABLE_DOMAIN, RingPage};

#[test]
fn a10_refusals_in_xens_order() {
    let paging = domain(1, 1, 0);
    let page = RingPage::new();
    let mut properties = DomainProperties {
        hvm_control_domain: true,
        hap: false,
        iommu: true,
        populate_on_demand: true,
        nested_virt: true,
        alternate_p2ms: true,
    };
    let refused = |properties: &DomainProperties, why: EnableError, errno: Errno| {
        assert_eq!(
            paging.enable(properties, || panic!("not asked for")),
            Err(why)
        );
        assert_eq!(why.errno(), errno);
        assert!(!paging.is_enabled());
    };
    refused(
        &properties,
        EnableError::HvmControlDomain,
        Errno::EOPNOTSUPP,
    );
    properties.hvm_control_domain = false;
    refused(&properties, EnableError::NoHap, Errno::ENODEV);
    properties.hap = true;
    refused(&properties, EnableError::Iommu, Errno::EMLINK);
    properties.iommu = false;
    refused(&properties, EnableError::PopulateOnDemand, Errno::EXDEV);
    properties.populate_on_demand = false;
    refused(&properties, EnableError::NestedVirt, Errno::EOPNOTSUPP);
    properties.nested_virt = false;
    refused(&properties, EnableError::AlternateP2ms, Errno::EOPNOTSUPP);
    properties.alternate_p2ms = false;
    assert_eq!(
        paging.enable(&properties, || None),
        Err(EnableError::NoRingPage)
    );
    assert_eq!(EnableError::NoRingPage.errno(), Errno::EOPNOTSUPP);
    assert_eq!(paging.on_event().state, RingState::NoRing);
    assert_eq!(paging.enable(&properties, || Some(page.map())), Ok(()));
    let again = paging.enable(&properties, || panic!("not asked for"));
    assert_eq!(again, Err(EnableError::Enabled));
    assert_eq!(EnableError::Enabled.errno(), Errno::EBUSY);
    assert!(paging.disable().unwrap().is_some());
    assert!(paging.disable().unwrap().is_none());
}

/// The pager answers its requests and detaches, before its event has been handled.
#[test]
fn a10_answers_on_the_ring_are_taken_before_it_goes() {
    let mut d = Domain::new(1, 4);
    d.out([1]);
    assert_eq!(d.fault(0, 1), Ok(Populated::Paused));
    let request = d.take().unwrap();
    d.prep(1, None).unwrap();
    d.back.respond(&Response::to(&request)).unwrap();
    let _ = d.back.publish();
    let _ = d.paging.disable().unwrap();
    assert_eq!(d.p2mt(1), P2mType::RamRw);
    assert_eq!(d.fault(0, 1), Ok(Populated::NotPaging));
    d.assert_settled();
}

#[test]
fn a10_whoever_stands_in_line_keeps_the_ring_from_being_disabled() {
    let mut d = Domain::new(9, 12);
    d.out(0..9);
    for n in 0..9 {
        assert_eq!(d.fault(n, n.into()), Ok(Populated::Paused));
    }
    let refused = d.paging.disable().map(drop);
    assert_eq!(refused, Err(DisableError::VcpusQueued));
    assert_eq!(DisableError::VcpusQueued.errno(), Errno::EBUSY);
    // Torn down: all are woken, and find no ring. A new pager serves them.
    assert!(d.paging.shut_down().is_some());
    d.assert_settled();
    assert_eq!(d.fault(3, 3), Err(PopulateError::NoRing));
    let page = &d.page;
    let attached = d.paging.enable(&PAGEABLE_DOMAIN, || Some(page.map()));
    assert_eq!(attached, Ok(()));
    d.back = Back::new(d.page.map());
    for n in 0..9 {
        assert_eq!(d.fault(n, n.into()), Ok(Populated::Paused));
    }
    while d.serve_one().is_some() {}
    d.assert_settled();
}

/// A pager that was stopped is replaced, and continues. Its copies are outdated, and what it would
/// evict was nominated by its successor.
#[test]
fn a10_a_replaced_pager_can_do_nothing() {
    let mut d = Domain::new(1, 4);
    d.nominate(1).unwrap();
    d.out([2]);
    let old = d.paging.epoch();
    assert!(d.paging.is_current(old));
    let _ = d.paging.disable().unwrap();
    // Detached, it can do nothing either.
    let mut evict = [Job::new(gfn(1))];
    d.paging.evict(old, &mut evict);
    assert_eq!(evict[0].outcome, Some(Err(EvictError::Replaced)));
    let page = &d.page;
    let attached = d.paging.enable(&PAGEABLE_DOMAIN, || Some(page.map()));
    assert_eq!(attached, Ok(()));
    d.back = Back::new(d.page.map());
    assert_ne!(old, d.paging.epoch());

    let mut nominate = [Job::new(gfn(3))];
    d.paging.nominate(old, &mut nominate);
    assert_eq!(nominate[0].outcome, Some(Err(NominateError::Replaced)));
    let mut evict = [Job::new(gfn(1)); CHUNK + 1];
    d.paging.evict(old, &mut evict[..1]);
    d.paging.evict(old, &mut evict[1..]);
    let refused = |job: &Job<_>| job.outcome == Some(Err(EvictError::Replaced));
    assert!(evict.iter().all(refused));
    let mut restore = [Job::new(gfn(1))];
    d.paging.restore(old, &mut restore);
    assert_eq!(restore[0].outcome, Some(Err(RestoreError::Replaced)));
    let mut prep = [Job::filled(gfn(2), Buffer::Page(9))];
    d.paging.prep(old, &mut prep);
    assert_eq!(prep[0].outcome, Some(Err(PrepError::Replaced)));
    assert_eq!(PrepError::Replaced.errno(), Errno::ENOTCONN);
    assert_eq!(d.p2mt(1), P2mType::RamPagingOut);
    assert_eq!(d.p2mt(2), P2mType::RamPaged);
    assert_eq!(d.p2mt(3), P2mType::RamRw);

    // Its successor can.
    d.evict(1).unwrap();
    d.prep(2, Some(Buffer::Page(2))).unwrap();
}
