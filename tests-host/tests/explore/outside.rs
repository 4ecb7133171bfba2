// SPDX-License-Identifier: MIT OR Apache-2.0
//! What is outside of the crate and of the machine: the pager, the other domain, the accesses of
//! vcpus.

use p2m_paging::ring::Request;

use crate::machine::{MOST_GFNS, VCPUS};

/// Requests that the pager has taken and not answered.
pub(crate) const TAKEN: usize = 8;

/// The pager's record of a page.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Known {
    Nothing,
    /// Nominated, and copied since.
    Copied(u8),
    /// Evicted: this is the only copy.
    Out(u8),
}

/// What the pager has to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Todo {
    pub(crate) gfn: u64,
    pub(crate) vcpu: u32,
    pub(crate) flags: u32,
    pub(crate) p2mt: u8,
    pub(crate) paging: u32,
}

impl From<Request> for Todo {
    fn from(r: Request) -> Self {
        Self {
            gfn: r.gfn.get(),
            vcpu: r.vcpu.0,
            flags: r.flags.bits(),
            p2mt: r.p2mt.raw(),
            paging: r.paging.bits(),
        }
    }
}

/// A mapping of the other domain.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Mapping {
    pub(crate) gfn: u8,
    pub(crate) frame: u8,
    pub(crate) writer: bool,
}

#[derive(Clone, Debug, Hash)]
pub(crate) struct Outside {
    /// Whether each page has been written an odd number of times.
    pub(crate) truth: [bool; MOST_GFNS],
    /// The access that a vcpu has begun and not made: the page, and whether it writes.
    pub(crate) pending: [Option<(u8, bool)>; VCPUS],
    /// Its last fault failed because there is no pager.
    pub(crate) stalled: [bool; VCPUS],
    pub(crate) attached: bool,
    pub(crate) replaced: u8,
    /// How many pagers were killed.
    pub(crate) died: u8,
    /// No pager is expected any more.
    pub(crate) given_up: bool,
    /// The pager has listed the states.
    pub(crate) listed: bool,
    /// What survives the death of a pager: the contents of pages that are out. Written before the evict,
    /// cleared after the prep. An entry of a resident page is ignored.
    pub(crate) index: [Option<u8>; MOST_GFNS],
    pub(crate) known: [Known; MOST_GFNS],
    pub(crate) todo: [Option<Todo>; TAKEN],
    /// What the replaced pager knew, and its epoch.
    pub(crate) late: Option<(u32, [Known; MOST_GFNS])>,
    pub(crate) mapping: Option<Mapping>,
    /// The pager's index is wrong.
    pub(crate) poked: bool,
}

impl Outside {
    pub(crate) fn new() -> Self {
        Self {
            truth: [false; MOST_GFNS],
            pending: [None; VCPUS],
            stalled: [false; VCPUS],
            attached: true,
            replaced: 0,
            died: 0,
            given_up: false,
            listed: true,
            index: [None; MOST_GFNS],
            known: [Known::Nothing; MOST_GFNS],
            todo: [None; TAKEN],
            late: None,
            mapping: None,
            poked: false,
        }
    }
}
