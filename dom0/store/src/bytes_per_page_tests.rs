// SPDX-License-Identifier: MIT OR Apache-2.0
//! The bytes that pager and store together keep for each page.

use pager_core::policy::{PolicyName, SweepOptions};
use pager_core::sparse::SparseMap;
use pager_core::{Action, Actions, Config, Event, Pager};

use super::checksums::Checksums;
use super::{PageBuf, Slot};

#[test]
fn what_is_kept_per_page_is_less_than_14_bytes() {
    const PAGES: u64 = 1 << 18;
    for name in PolicyName::ALL {
        let options = SweepOptions {
            mru_pages: 0,
            ..SweepOptions::default()
        };
        let policy = name.policy(&[0..=PAGES - 1], &options);
        let mut pager = Pager::new(Config::new(PAGES), policy);
        let mut actions = pager.actions();
        run(&mut pager, &mut actions, Event::Target(0));
        assert_eq!(pager.progress().out_pages, PAGES);
        let checksums = Checksums::default();
        let slot = |n| Slot(u32::try_from(n).unwrap());
        (0..PAGES).for_each(|n| checksums.set(slot(n), &PageBuf::ZERO));
        let mut bytes = pager.table_bytes() + checksums.table_bytes();
        if name == PolicyName::Sweep {
            let mut refused = SparseMap::<()>::default();
            refused.insert_range(0..=PAGES - 1, ());
            bytes += refused.table_bytes();
        }
        let per_page = bytes as f64 / PAGES as f64;
        assert!(
            (11.5..14.0).contains(&per_page),
            "{name:?}: {per_page} bytes per page"
        );
    }
}

/// Passes an event to the pager and completes all resulting actions with success.
fn run(pager: &mut Pager, actions: &mut Actions, event: Event<'_>) {
    pager.handle(event, actions);
    loop {
        let todo: Vec<_> = actions.drain().collect();
        if todo.is_empty() {
            return;
        }
        for action in todo {
            match action {
                Action::Run(mut batch) => {
                    let pages = batch.pages_mut().iter_mut();
                    pages.for_each(|page| page.outcome = Ok(()));
                    pager.handle(Event::Done(batch), actions);
                }
                Action::Scan(mut scan) => {
                    scan.accessed[0] = 0;
                    scan.outcome = Ok(());
                    pager.handle(Event::Scanned(scan), actions);
                }
                _ => {}
            }
        }
    }
}
