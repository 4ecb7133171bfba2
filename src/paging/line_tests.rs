// SPDX-License-Identifier: MIT OR Apache-2.0
//! Tests of the line.

use core::sync::atomic::AtomicU32;

use super::*;
use crate::pause::VcpuCell;
use crate::ring::testing::TestPage;

/// A foreign caller claims its slot before the page leaves, a vcpu may ask in between.
#[test]
fn a_page_that_was_asked_for_meanwhile_is_not_asked_for_twice() {
    let (cells, waiting) = ([VcpuCell::new()], AtomicU32::new(0));
    let vcpus = Vcpus::new(&cells, &waiting);
    let mut line = Line::new();
    line.open(Front::new(TestPage::new().map(), 1));
    let want = Want {
        gfn: Gfn::new_truncate(7),
        p2mt: P2mType::RamPaged,
        kind: Kind::Page,
        in_place: false,
    };
    let claim = line.claim_in_turn(Asker::Foreign).unwrap();
    assert!(matches!(line.send(vcpus, VcpuId(0), want), Sent::Pushed(_)));
    let sent = line.push(claim, want, Caller::Foreign(VcpuId(0)));
    assert!(matches!(sent, Sent::Already));
    assert_eq!(line.front().unwrap().held(), 1);
}

/// A cell of a vcpu keeps what it wants in one word.
#[test]
fn what_a_vcpu_wants_is_read_as_it_was_noted() {
    for p2mt in P2mType::ALL {
        for (gfn, kind, in_place) in [
            (0, Kind::Page, false),
            (0, Kind::Drop, true),
            (Gfn::MAX.get(), Kind::Page, true),
            (Gfn::MAX.get(), Kind::Drop, false),
        ] {
            let want = Want {
                gfn: Gfn::new_truncate(gfn),
                p2mt,
                kind,
                in_place,
            };
            assert_eq!(Want::unpack(want.pack()), Some(want));
        }
    }
    assert_eq!(Want::unpack(0), None, "a new cell's vcpu wants nothing");
}

/// A vcpu has removed its page and found the ring full; before it goes on, another pager attaches.
#[test]
fn a_drop_that_found_one_ring_full_is_not_sent_on_the_next() {
    let (cells, waiting) = ([VcpuCell::new()], AtomicU32::new(0));
    let vcpus = Vcpus::new(&cells, &waiting);
    let mut line = Line::new();
    let dropped = |gfn| Want {
        gfn: Gfn::new_truncate(gfn),
        p2mt: P2mType::RamPaged,
        kind: Kind::Drop,
        in_place: false,
    };
    let attach = |line: &mut Line| {
        let epoch = line.next_epoch().unwrap();
        line.open(Front::new(TestPage::new().map(), epoch));
    };
    let fill = |line: &mut Line| loop {
        match line.claim_in_turn(Asker::Guest) {
            Ok(claim) => {
                let sent = line.push(claim, dropped(1), Caller::Guest(VcpuId(0)));
                assert!(matches!(sent, Sent::Pushed(_)));
            }
            Err(NotSent::Full(full)) => break full,
            Err(NotSent::NoRing) => panic!("a pager is attached"),
        }
    };

    attach(&mut line);
    let full = fill(&mut line);
    assert!(line.close().is_some());
    attach(&mut line);
    let (paused, _) = vcpus.pause(VcpuId(0)).unwrap();
    let (sent, paused) = line.send_drop(vcpus, paused, dropped(7), full);
    assert!(matches!(sent, Sent::Not), "{sent:?}");
    assert_eq!(line.front().unwrap().held(), 0);

    let full = fill(&mut line);
    let (sent, paused) = line.send_drop(vcpus, paused.unwrap(), dropped(7), full);
    assert!(matches!(sent, Sent::InLine), "{sent:?}");
    assert!(paused.is_none(), "the wait queue has it");
}
