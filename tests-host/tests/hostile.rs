// SPDX-License-Identifier: MIT OR Apache-2.0
//! A pager and a hypervisor that write any values: an error, never a panic or a hang.

use p2m_paging::ring::abi::RawEntry;
use p2m_paging::ring::{Back, Epoch, Front, SLOTS};
use proptest::prelude::*;
use tests_host::hostile::Hostile;
use tests_host::lockstep::{Op, cells};
use tests_host::plain::RingPage;

/// Values next to every limit.
const GARBAGE: [u32; 12] = [
    0,
    1,
    2,
    7,
    8,
    9,
    16,
    0x7fff_ffff,
    0x8000_0000,
    0xffff_fff8,
    0xffff_fffe,
    u32::MAX,
];
const HEADER: usize = 16;
const ENTRY: usize = size_of::<RawEntry>() / 4;

/// Some vcpus wait, and one page is in each state.
fn busy(hostile: &mut Hostile<'_>) {
    for g in 0..9 {
        hostile.apply(Op::Nominate(g));
        if g != 4 {
            hostile.apply(Op::Evict(g));
        }
    }
    for v in 0..9 {
        hostile.apply(Op::Write(v, v));
    }
    hostile.apply(Op::PrepEmpty(5));
}

#[test]
fn every_index_garbage() {
    let cells = cells(9);
    for index in 0..4 {
        for value in GARBAGE {
            let mut hostile = Hostile::new(&cells, 10);
            busy(&mut hostile);
            hostile.poke(index, value);
            for _ in 0..3 {
                hostile.event();
                hostile.apply(Op::Write(1, 1));
                hostile.apply(Op::Drop(2, 9));
            }
            hostile.settle();
        }
    }
}

/// Each field of each response, alone, with the index that publishes it.
#[test]
fn every_field_garbage() {
    let cells = cells(9);
    for slot in 0..SLOTS as usize {
        for field in 0..14 {
            for value in GARBAGE {
                let mut hostile = Hostile::new(&cells, 10);
                busy(&mut hostile);
                hostile.poke(HEADER + slot * ENTRY + field, value);
                hostile.poke(2, 7);
                hostile.event();
                hostile.settle();
            }
        }
    }
}

/// The contents of the slots are published as responses again and again: the requests themselves,
/// old responses, responses for pages in every other state.
#[test]
fn everything_replayed() {
    let cells = cells(9);
    let mut hostile = Hostile::new(&cells, 10);
    busy(&mut hostile);
    for round in 0..200_u32 {
        hostile.poke(2, round);
        hostile.event();
        let page = u8::try_from(round % 10).unwrap();
        hostile.apply(Op::Write(page, page));
        hostile.apply(Op::PrepFilled(page));
        hostile.apply(Op::Nominate(page));
        hostile.apply(Op::Evict(page));
    }
    hostile.settle();
}

/// A hypervisor that writes any values, against our own pager half.
#[test]
fn a_hostile_hypervisor_is_an_error() {
    for prod in GARBAGE {
        for field in 0..14 {
            for value in GARBAGE {
                let page = RingPage::new();
                let _ = Front::new(page.map(), Epoch::from_raw(1));
                let mut back = Back::new(page.map());
                for slot in 0..SLOTS as usize {
                    page.poke(HEADER + slot * ENTRY + field, value);
                }
                page.poke(0, prod);
                let mut taken = 0;
                while let Ok(Some(_)) = back.take() {
                    taken += 1;
                    assert!(taken <= SLOTS, "{prod:#x} in req_prod");
                }
            }
        }
    }
}

/// An entry is copied out of the page before it is read, and cannot change then. A torn entry, half
/// of one response and half of another, is therefore an entry like any other.
#[test]
fn torn_answers() {
    let cells = cells(9);
    for tear in 0..14 {
        let mut hostile = Hostile::new(&cells, 10);
        busy(&mut hostile);
        for word in tear..ENTRY {
            let value = hostile.peek(HEADER + ENTRY + word);
            hostile.poke(HEADER + word, value);
        }
        hostile.poke(2, 2);
        hostile.event();
        hostile.settle();
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 3000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn bytes_are_a_hostile_life(bytes in prop::collection::vec(any::<u8>(), 0..400)) {
        tests_host::fuzz::ring(&bytes);
    }
}
