// SPDX-License-Identifier: MIT OR Apache-2.0
//! What holds for every policy.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;

/// Two pieces of memory; gfns 10 to 13 are never to go.
const MEMORY: [RangeInclusive<u64>; 2] = [0..=19, 20_000..=20_009];

fn options() -> SweepOptions {
    SweepOptions {
        mru_pages: 0,
        never: vec![10..=13],
        only: vec![],
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    In,
    Chosen,
    Out,
    Refused,
}

fn eligible_gfns() -> Vec<u64> {
    let all = MEMORY.into_iter().flatten();
    all.filter(|gfn| !(10..=13).contains(gfn)).collect()
}

fn find(pages: &BTreeMap<u64, Place>, pick: usize, place: Place) -> Option<u64> {
    let all: Vec<_> = pages.iter().filter(|(_, p)| **p == place).collect();
    (!all.is_empty()).then(|| *all[pick % all.len()].0)
}

/// One step; `pick` says which page, if it is about one.
fn step(
    policy: &mut dyn Policy,
    pages: &mut BTreeMap<u64, Place>,
    op: u8,
    pick: usize,
) -> Result<(), TestCaseError> {
    match op {
        0..6 => match policy.choose() {
            Some(gfn) => {
                let was = pages.insert(gfn.get(), Place::Chosen);
                prop_assert!(
                    matches!(was, Some(Place::In | Place::Refused)),
                    "{gfn} was {was:?}"
                );
            }
            None => prop_assert_eq!(find(pages, pick, Place::In), None, "there was a victim"),
        },
        6..12 => {
            if let Some(gfn) = find(pages, pick, Place::Chosen) {
                let (place, told): (_, fn(&mut dyn Policy, Gfn)) = match op {
                    6..9 => (Place::Out, |policy, gfn| policy.paged_out(gfn)),
                    9 => (Place::Refused, |policy, gfn| policy.refused(gfn)),
                    10 => (Place::In, |policy, gfn| policy.abandoned(gfn)),
                    _ => (Place::In, |policy, gfn| policy.dropped(gfn)),
                };
                pages.insert(gfn, place);
                told(policy, Gfn::new_truncate(gfn));
            }
        }
        12..16 => {
            if let Some(gfn) = find(pages, pick, Place::Out) {
                pages.insert(gfn, Place::In);
                if op == 12 {
                    policy.dropped(Gfn::new_truncate(gfn));
                } else {
                    policy.paged_in(Gfn::new_truncate(gfn), op > 13);
                }
            }
        }
        16 => {
            let mut accessed = [0; PART_PAGES / 64];
            accessed[0] = pick as u64;
            accessed[(20_000 % PART_PAGES) / 64] = !(pick as u64);
            for first in [0, PART_PAGES as u64, 1 << 39] {
                policy.referenced(&ScanPart {
                    first,
                    accessed: &accessed,
                });
            }
            policy.scanned();
        }
        _ => policy.tick(),
    }
    Ok(())
}

proptest! {
    #[test]
    fn a_page_is_chosen_only_while_it_is_in_and_found_if_there_is_any(
        name in prop::sample::select(&PolicyName::ALL[..]),
        ops in prop::collection::vec((0..18_u8, any::<usize>()), 0..400),
    ) {
        let mut policy = name.policy(&MEMORY, &options());
        let mut pages: BTreeMap<_, _> =
            eligible_gfns().into_iter().map(|gfn| (gfn, Place::In)).collect();
        for (op, pick) in ops {
            step(&mut *policy, &mut pages, op, pick)?;
        }
        // Whatever happened: every page that is in can be had, and every refused one in the end.
        for gfn in std::iter::from_fn(|| policy.choose()) {
            pages.insert(gfn.get(), Place::Chosen);
        }
        prop_assert!(pages.values().all(|place| *place != Place::In));
        for _ in 0..300 {
            policy.tick();
            while let Some(gfn) = policy.choose() {
                prop_assert_eq!(pages.insert(gfn.get(), Place::Chosen), Some(Place::Refused));
            }
        }
        prop_assert!(pages.values().all(|place| *place != Place::Refused));
    }
}

#[test]
fn refused_pages_are_tried_ever_more_rarely() {
    for name in PolicyName::ALL {
        let mut policy = name.policy(&[0..=0], &options());
        let mut waits = Vec::new();
        for _ in 0..10 {
            let victim = policy.choose().unwrap();
            policy.refused(victim);
            let mut ticks = 0;
            while policy
                .choose()
                .map(|victim| policy.abandoned(victim))
                .is_none()
            {
                policy.tick();
                ticks += 1;
            }
            waits.push(ticks);
        }
        assert_eq!(waits, [1, 2, 4, 8, 16, 32, 64, 128, 128, 128], "{name:?}");
    }
}

#[test]
fn ranges_are_cut_to_what_may_go() {
    let options = SweepOptions {
        mru_pages: 0,
        never: vec![5..=6, 0..=0, 9..=u64::MAX],
        only: vec![0..=7, 8..=30],
    };
    assert_eq!(
        eligible(&[0..=2, 4..=u64::MAX], &options),
        [1..=2, 4..=4, 7..=7, 8..=8]
    );
}

/// A page of another part has not been looked at.
#[test]
fn the_first_look_at_a_page_says_nothing_of_its_use() {
    let accessed = [!0; PART_PAGES / 64];
    let part = |first| ScanPart {
        first,
        accessed: &accessed,
    };
    let mut first_look = true;
    assert!(!part(PART_PAGES as u64).shows_use(3, &mut first_look) && first_look);
    assert!(!part(0).shows_use(3, &mut first_look) && !first_look);
    assert!(!part(PART_PAGES as u64).shows_use(3, &mut first_look));
    assert!(part(0).shows_use(3, &mut first_look));
}
