use super::*;
use crate::core::policy::PART_PAGES;

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
    let once = History {
        class: NEW,
        age: YOUNG,
    };
    assert_eq!(policy.states.get(7), once.resident());
    // The next scan is a tick, for this page makes up all there is. After that nothing happens, and
    // time stands still.
    (0..10).for_each(|_| scan(&mut policy, &[]));
    assert_eq!(policy.states.get(7), once.older(1).resident());
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
