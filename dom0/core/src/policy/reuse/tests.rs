// SPDX-License-Identifier: MIT OR Apache-2.0
use super::*;
use crate::policy::PART_PAGES;

fn gfn(n: u64) -> Gfn {
    Gfn::new_truncate(n)
}

fn reuse(pages: u64) -> Reuse {
    Reuse::new(&[0..=pages - 1], &SweepOptions::default())
}

fn scan(policy: &mut Reuse, accessed: &[u64]) {
    let mut bits = [0; PART_PAGES / 64];
    for gfn in accessed {
        let place = usize::try_from(*gfn).unwrap();
        bits[place / 64] |= 1 << (place % 64);
    }
    policy.referenced(&ScanPart {
        first: 0,
        accessed: &bits,
    });
    policy.scanned();
}

#[test]
fn pages_that_nobody_has_seen_used_go_first_from_the_middle_on() {
    let mut policy = reuse(8);
    scan(&mut policy, &[5, 6]);
    let victims: Vec<_> = std::iter::from_fn(|| policy.choose().map(Gfn::get)).collect();
    assert_eq!(victims[..6], [4, 7, 0, 1, 2, 3]);
}

#[test]
fn the_access_that_brings_a_page_in_counts_once() {
    let mut policy = reuse(64);
    for n in 0..64 {
        let victim = policy.choose().unwrap();
        assert_eq!(victim, gfn((32 + n) % 64));
    }
    policy.paged_in(gfn(7), true);
    scan(&mut policy, &[7]);
    let once = History::new(NEW, YOUNG).resident();
    assert_eq!(policy.states.get(7), once);
    // The next scan is a tick, for this page makes up all there is. After that nothing happens, and
    // time stands still.
    (0..10).for_each(|_| scan(&mut policy, &[]));
    assert_eq!(policy.states.get(7), older(once, 1));
}

#[test]
fn a_page_left_in_flight_keeps_its_history() {
    let mut policy = reuse(2);
    scan(&mut policy, &[]);
    let victims = [policy.choose().unwrap(), policy.choose().unwrap()];
    victims
        .iter()
        .for_each(|victim| policy.paged_in(*victim, true));
    let before = victims.map(|victim| policy.states.get(victim.get()));
    let chosen = policy.choose().unwrap();
    policy.abandoned(chosen);
    assert_eq!(
        victims.map(|victim| policy.states.get(victim.get())),
        before
    );
}

#[test]
fn where_scans_end_it_goes_on_by_page_ins() {
    let mut policy = reuse(64);
    scan(&mut policy, &[1, 2, 3]);
    for _ in 0..1000 {
        let victim = policy.choose().unwrap();
        policy.paged_in(victim, true);
    }
    assert!(matches!(policy.sight, Sight::Blind { .. }));
    assert!(policy.ticks > 10, "{} ticks", policy.ticks);
}

#[test]
fn old_pages_go_in_the_order_in_which_they_were_used_last() {
    let mut policy = reuse(64);
    let all: Vec<_> = (0..64).collect();
    scan(&mut policy, &all);
    // Each scan makes a tick: sixteen pages are used that were not in the last one.
    for ticks_left in (0..2000).rev() {
        let from = if ticks_left % 2 == 0 { 16 } else { 48 };
        let mut used: Vec<_> = (from..from + 16).collect();
        // These are used until so many ticks before the end.
        let until = [(7, 200), (5, 400), (6, 800), (4, 1600)];
        used.extend(
            until
                .iter()
                .filter(|(_, end)| ticks_left >= *end)
                .map(|(gfn, _)| gfn),
        );
        scan(&mut policy, &used);
    }
    let victims: Vec<_> = std::iter::from_fn(|| policy.choose().map(Gfn::get)).collect();
    // Twelve and sixteen have never been used again.
    assert_eq!(victims[28..32], [4, 6, 5, 7], "{victims:?}");
}

fn nothing_used() -> ScanPart<'static> {
    ScanPart {
        first: 0,
        accessed: &[0; PART_PAGES / 64],
    }
}

/// All pages seen used once, then all chosen: in the order of their numbers.
fn all_out(pages: u64) -> Reuse {
    let mut policy = reuse(pages);
    let all: Vec<_> = (0..pages).collect();
    scan(&mut policy, &all);
    while policy.choose().is_some() {}
    policy
}

#[test]
fn c8_a_page_that_came_in_unasked_is_spared_until_others_have_come_in_after_it() {
    let mut policy = all_out(4096);
    (100..700).for_each(|n| policy.paged_in(gfn(n), true));
    let limit = 600 / SPARED_OF;
    (0..limit).for_each(|n| policy.paged_in(gfn(n), false));
    for _ in 0..600 {
        assert!(policy.choose().unwrap() >= gfn(100));
    }
    // Nothing else is left.
    assert_eq!(policy.choose(), Some(gfn(0)));
    (100..700).for_each(|n| policy.paged_in(gfn(n), true));
    // One more than may be, so the oldest is as any other, and worth less than pages just used.
    policy.paged_in(gfn(90), false);
    policy.paged_in(gfn(91), false);
    assert_eq!(policy.choose(), Some(gfn(1)));
    assert_ne!(policy.choose(), Some(gfn(2)));
}

#[test]
fn c8_an_awaited_page_that_is_used_is_as_one_that_was_asked_for() {
    let [mut asked, mut seen] = [all_out(64), all_out(64)];
    // Coming in may set the bit: the first look at it tells nothing.
    seen.paged_in(gfn(7), false);
    scan(&mut seen, &[7]);
    assert_eq!(seen.spared.scanned(&nothing_used()), []);
    asked.paged_in(gfn(7), true);
    for policy in [&mut asked, &mut seen] {
        scan(policy, &[7]);
    }
    assert_eq!(asked.states.get(7), seen.states.get(7));
    assert_eq!(seen.choose(), Some(gfn(7)), "and is no longer spared");
}

#[test]
fn c8_an_awaited_page_that_the_guest_gives_back_is_awaited_no_longer() {
    let mut policy = all_out(64);
    policy.paged_in(gfn(7), false);
    policy.dropped(gfn(7));
    assert_eq!(policy.choose(), Some(gfn(7)));
    assert_eq!(policy.choose(), None, "it is out, not awaited");
}
