// SPDX-License-Identifier: MIT OR Apache-2.0
//! The state of each gfn.

use std::collections::HashMap;

use p2m_paging::{Gfn, P2mType};

use crate::link::SharedArea;

#[derive(Debug)]
pub(super) struct Table {
    pub(super) entries: Vec<HostEntry>,
    /// The number of foreign users, for frames that have any.
    pub(super) users: HashMap<u64, u32>,
    pub(super) paged: u64,
    pub(super) given_back: u64,
    pub(super) buffers: Option<SharedArea>,
    /// Nominated and not protected yet. Each flush empties it; its memory is kept.
    pub(super) unprotected: Vec<Gfn>,
    /// Frames to discard together. Its memory is kept.
    pub(super) discarding: Vec<Gfn>,
}

/// A type, and whether there is a frame. One byte for each gfn.
#[derive(Clone, Copy, Debug)]
pub(super) struct HostEntry(u8);

impl HostEntry {
    const FRAME: u8 = 1 << 7;

    pub(super) const fn new(p2mt: P2mType, frame: bool) -> Self {
        Self(p2mt.raw() | if frame { Self::FRAME } else { 0 })
    }

    pub(super) fn p2mt(self) -> P2mType {
        P2mType::try_from_raw((self.0 & !Self::FRAME).into()).unwrap_or(P2mType::Invalid)
    }

    pub(super) const fn has_frame(self) -> bool {
        self.0 & Self::FRAME != 0
    }
}

impl Table {
    /// The table of a guest with this many pages, all of them resident.
    pub(super) fn new(pages: usize) -> Self {
        Self {
            entries: vec![HostEntry::new(P2mType::RamRw, true); pages],
            users: HashMap::new(),
            paged: 0,
            given_back: 0,
            buffers: None,
            unprotected: Vec::new(),
            discarding: Vec::new(),
        }
    }

    pub(super) fn index(&self, gfn: Gfn) -> Option<usize> {
        let index = usize::try_from(gfn.get()).ok()?;
        (index < self.entries.len()).then_some(index)
    }

    pub(super) fn entry(&self, gfn: Gfn) -> HostEntry {
        self.index(gfn)
            .map_or(HostEntry::new(P2mType::Invalid, false), |i| self.entries[i])
    }

    pub(super) fn references(&self, gfn: u64) -> u32 {
        1 + self.users.get(&gfn).copied().unwrap_or(0)
    }
}
