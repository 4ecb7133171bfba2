// SPDX-License-Identifier: MIT OR Apache-2.0
//! The record of a run: a hash of all events, the last of them in words, all of them for a picture.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::fmt;

use super::picture::Look;

/// How many entries are kept.
const KEPT: usize = 60;

/// One event.
#[derive(Clone, Copy, Debug)]
pub struct Line {
    /// When, in nanoseconds.
    pub at_ns: u64,
    /// What.
    pub what: &'static str,
    /// Its object, and its values.
    pub numbers: [u64; 2],
}

/// All events of a run.
#[derive(Debug)]
pub struct Trace {
    hash: Cell<u64>,
    lines: RefCell<VecDeque<Line>>,
    looks: RefCell<Vec<Look>>,
    kept: usize,
}

impl Trace {
    /// Keeps the last lines.
    pub fn new() -> Self {
        Self::keeping(KEPT)
    }

    /// Keeps all lines.
    pub fn whole() -> Self {
        Self::keeping(usize::MAX)
    }

    fn keeping(kept: usize) -> Self {
        Self {
            hash: Cell::new(0xcbf2_9ce4_8422_2325),
            lines: RefCell::new(VecDeque::new()),
            looks: RefCell::default(),
            kept,
        }
    }

    /// Adds an event.
    pub fn note(&self, at_ns: u64, what: &'static str, numbers: [u64; 2]) {
        let mut hash = self.hash.get();
        let mut mix = |word: u64| {
            hash = (hash ^ word)
                .wrapping_mul(0x9e37_79b9_7f4a_7c15)
                .rotate_left(23);
        };
        mix(at_ns);
        what.bytes().for_each(|byte| mix(byte.into()));
        numbers.into_iter().for_each(mix);
        self.hash.set(hash);
        let mut lines = self.lines.borrow_mut();
        if lines.len() >= self.kept {
            lines.pop_front();
        }
        lines.push_back(Line {
            at_ns,
            what,
            numbers,
        });
    }

    /// The hash of all events: the same on every machine.
    pub fn hash(&self) -> u64 {
        self.hash.get()
    }

    /// Adds the present state, for a picture, if all is kept.
    pub(super) fn look(&self, look: impl FnOnce() -> Look) {
        if self.kept < usize::MAX {
            return;
        }
        let (look, looks) = (look(), &mut *self.looks.borrow_mut());
        let is_new = looks.last().is_none_or(|last| {
            let at_ns = last.at_ns;
            Look {
                at_ns,
                ..look.clone()
            } != *last
        });
        if is_new {
            looks.push(look);
        }
    }

    /// The states, one for each change.
    pub fn looks(&self) -> Vec<Look> {
        self.looks.borrow().clone()
    }

    /// What is kept.
    pub fn lines(&self) -> Vec<Line> {
        self.lines.borrow().iter().copied().collect()
    }
}

impl Default for Trace {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Display for Line {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b] = self.numbers;
        let us = self.at_ns as f64 / 1000.0;
        write!(f, "{us:>10.3} us  {} {a:#x} {b:#x}", self.what)
    }
}
