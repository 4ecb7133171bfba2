// SPDX-License-Identifier: MIT OR Apache-2.0
//! A store that is full, or has room again.

use std::collections::BTreeSet;

use super::cases::guest;
use super::sim::Entry;
use crate::{Event, Report};

#[test]
fn c7_a_full_store_takes_the_slots_of_copies_first() {
    let mut sim = guest(1000);
    sim.store_pages = 300;
    sim.event(Event::Target(700));
    sim.settle();
    // All home again, and others go out: into the slots of the copies.
    sim.event(Event::Target(1000));
    sim.settle();
    assert_eq!(sim.pager.progress().copies, 300);
    for _ in 0..20 {
        sim.event(Event::Target(710));
        sim.settle();
        sim.event(Event::Tick);
        sim.settle();
    }
    assert_eq!(sim.pager.progress().out_pages, 290);
    assert_eq!(sim.reports, []);
    assert!(sim.store.len() <= 300);
}

/// More is wanted out than the store holds without any copies: that is said, whatever copies there are.
#[test]
fn c7_copies_do_not_hide_that_the_store_is_full() {
    let mut sim = guest(1000);
    sim.store_pages = 300;
    sim.event(Event::Target(750));
    sim.settle();
    let out: Vec<_> = (0..1000)
        .filter(|&n| sim.entries[n] == Entry::Paged)
        .collect();
    for round in out[..160].chunks(16) {
        let visit = |(vcpu, page): (usize, &usize)| sim.access(vcpu, *page, false);
        round.iter().enumerate().for_each(visit);
        sim.settle();
    }
    assert!(sim.pager.progress().copies > 0);
    let writes = sim.writes;
    sim.event(Event::Target(100));
    sim.settle();
    let progress = sim.pager.progress();
    assert!((200..=300).contains(&progress.out_pages), "{progress:?}");
    assert!(matches!(sim.reports[..], [Report::StoreFull { .. }]));
    assert!(sim.writes - writes < 1500, "{} writes", sim.writes - writes);
}

#[test]
fn a_full_store_stops_page_out_says_so_once_and_goes_on_when_there_is_room() {
    let mut sim = guest(1000);
    sim.store_pages = 300;
    sim.event(Event::Target(100));
    sim.settle();
    for _ in 0..5 {
        sim.event(Event::Tick);
        sim.settle();
    }
    assert_eq!(sim.pager.progress().out_pages, 300);
    assert_eq!(sim.reports, [Report::StoreFull { pages_out: 300 }]);
    // A page that comes home makes room for another.
    let out = sim
        .entries
        .iter()
        .position(|entry| *entry == Entry::Paged)
        .unwrap();
    sim.access(0, out, true);
    sim.settle();
    sim.event(Event::Tick);
    sim.settle();
    assert_eq!(sim.pager.progress().out_pages, 300);
    sim.store_pages = 2000;
    for _ in 0..20 {
        sim.event(Event::Tick);
        sim.settle();
    }
    assert_eq!(sim.pager.progress().out_pages, 900);
    assert!(matches!(
        sim.reports[..],
        [Report::StoreFull { .. }, Report::StoreRecovered { .. }]
    ));
}

/// A disk is full, and the file on it has holes where no page was ever written.
#[test]
fn a_full_disk_takes_pages_where_the_file_has_room() {
    let mut sim = guest(2000);
    sim.store_pages = 300;
    sim.file = Some(BTreeSet::new());
    sim.event(Event::Target(1700));
    sim.settle();
    assert_eq!(sim.pager.progress().out_pages, 300);
    // Most come in again, and are written.
    for page in 0..2000 {
        if sim.entries[page] == Entry::Paged && page % 8 != 0 {
            sim.access(page % 16, page, true);
            sim.settle();
        }
    }
    sim.event(Event::Target(100));
    for _ in 0..400 {
        sim.event(Event::Tick);
        sim.settle();
    }
    assert_eq!(sim.pager.progress().out_pages, 300);
}
