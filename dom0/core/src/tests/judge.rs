// SPDX-License-Identifier: MIT OR Apache-2.0
//! A policy that checks what the core tells it, around one that decides.

use std::collections::HashMap;
use std::sync::Mutex;

use p2m_paging::Gfn;

use crate::policy::{Policy, Sweep, SweepOptions};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Where {
    Chosen,
    Out,
}

/// Panics when a gfn's fate is told twice, or never chosen, or it comes in without having gone out.
#[derive(Debug)]
pub(super) struct Judge {
    inner: Sweep,
    state: Mutex<HashMap<Gfn, Where>>,
}

impl Judge {
    pub(super) fn new(pages: u64, mru_pages: usize) -> Self {
        let options = SweepOptions {
            mru_pages,
            ..SweepOptions::default()
        };
        Self {
            inner: Sweep::new(&[0..=pages - 1], &options),
            state: Mutex::default(),
        }
    }

    fn step(&self, gfn: Gfn, from: &[Option<Where>], to: Option<Where>) {
        let mut state = self.state.lock().unwrap();
        let before = state.get(&gfn).copied();
        assert!(
            from.contains(&before),
            "{gfn} is {before:?}, told to become {to:?}"
        );
        match to {
            Some(to) => state.insert(gfn, to),
            None => state.remove(&gfn),
        };
    }
}

impl Policy for Judge {
    fn choose(&mut self) -> Option<Gfn> {
        let gfn = self.inner.choose()?;
        self.step(gfn, &[None], Some(Where::Chosen));
        Some(gfn)
    }

    fn adopted(&mut self, gfn: Gfn) {
        self.step(gfn, &[None], Some(Where::Out));
        self.inner.adopted(gfn);
    }

    fn paged_out(&mut self, gfn: Gfn) {
        self.step(gfn, &[Some(Where::Chosen)], Some(Where::Out));
        self.inner.paged_out(gfn);
    }

    fn paged_in(&mut self, gfn: Gfn, asked: bool) {
        self.step(gfn, &[Some(Where::Out)], None);
        self.inner.paged_in(gfn, asked);
    }

    fn refused(&mut self, gfn: Gfn) {
        self.step(gfn, &[Some(Where::Chosen)], None);
        self.inner.refused(gfn);
    }

    fn abandoned(&mut self, gfn: Gfn) {
        self.step(gfn, &[Some(Where::Chosen)], None);
        self.inner.abandoned(gfn);
    }

    fn dropped(&mut self, gfn: Gfn) {
        self.step(gfn, &[Some(Where::Chosen), Some(Where::Out)], None);
        self.inner.dropped(gfn);
    }

    fn tick(&mut self) {
        self.inner.tick();
    }

    fn table_bytes(&self) -> usize {
        self.inner.table_bytes()
    }
}
