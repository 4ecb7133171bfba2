// SPDX-License-Identifier: MIT OR Apache-2.0
//! The back end in dom0 that serves the guest's disk. It maps the pages that the guest's kernel
//! names, as any foreign caller does, and copies. It serves several orders at a time.

use p2m_paging::fault::{MapDecision, Mapper, decide_map};
use p2m_paging::{Mfn, VcpuId};

use super::event_queue::SimEvent;
use super::world::World;
use crate::guest::{Guest, Io, Way};
use crate::machine::Place;

const LANES: usize = 3;
/// The number of the back end's first vcpu, which is not one of the guest's.
const DOM0_VCPU: u32 = 200;

/// The back end.
#[derive(Debug, Default)]
pub(super) struct BackEnd {
    lanes: [Lane; LANES],
}

/// Serves one order at a time.
#[derive(Clone, Copy, Debug, Default)]
enum Lane {
    #[default]
    Idle,
    /// It must map the page, and requests it if it is out; whether it did.
    Asks(Io, bool),
    /// It has mapped the page and waits for the disk.
    Holds(Io, Mfn),
}

impl World<'_> {
    /// Frames that it has mapped.
    pub(super) fn block_holds(&self) -> usize {
        let back_end = self.block.borrow();
        let holds = |lane: &&Lane| matches!(lane, Lane::Holds(..));
        back_end.lanes.iter().filter(holds).count()
    }

    pub(super) fn are_lanes_idle(&self) -> bool {
        let back_end = self.block.borrow();
        let mut lanes = back_end.lanes.iter();
        lanes.all(|lane| matches!(lane, Lane::Idle))
    }

    /// The guest has told the back end of its orders.
    pub(super) fn start_lanes(&self, guest: &Guest) {
        for lane in 0..LANES {
            let is_idle = matches!(self.block.borrow().lanes[lane], Lane::Idle);
            if is_idle && let Some(io) = guest.kernel.next_io() {
                self.set_lane(lane, Lane::Asks(io, false), 8_000);
            }
        }
    }

    fn set_lane(&self, lane: usize, to: Lane, in_ns: u64) {
        self.block.borrow_mut().lanes[lane] = to;
        let what = SimEvent::Block(u8::try_from(lane).expect("few lanes"));
        self.soon(in_ns, what);
    }

    pub(super) fn lane_runs(&self, lane: usize) {
        let state = self.block.borrow().lanes[lane];
        match (state, self.running()) {
            (Lane::Asks(io, has_asked), Some(_)) => self.map_for(lane, io, has_asked),
            (Lane::Holds(io, mfn), guest) => {
                if let Some(guest) = guest {
                    self.transfer(&guest, io, mfn);
                }
                self.machine().with(|core| core.frames.put_reference(mfn));
                self.note("block unmap", [io.gfn.get(), mfn.get()]);
                self.block.borrow_mut().lanes[lane] = Lane::Idle;
                if let Some(guest) = self.running() {
                    guest.kernel.finish(io);
                    self.start_lanes(&guest);
                    self.interrupt_kernel();
                }
            }
            (Lane::Idle | Lane::Asks(..), _) => {
                self.block.borrow_mut().lanes[lane] = Lane::Idle;
            }
        }
    }

    fn map_for(&self, lane: usize, io: Io, has_asked: bool) {
        let page = self.page(io.gfn).expect("a page of the guest");
        let entry = self.machine().with(|core| core.tables.get(io.gfn));
        let as_ = match io.way {
            Way::Read => Mapper::Writer,
            Way::Write => Mapper::Reader,
        };
        let decision = if entry.p2mt.is_pageable() {
            MapDecision::Map
        } else {
            decide_map(entry.p2mt, entry.mfn.is_some(), as_)
        };
        match (decision, entry.mfn) {
            (MapDecision::Map, Some(mfn)) => {
                self.machine().with(|core| core.frames.get_reference(mfn));
                self.note("block map", [io.gfn.get(), mfn.get()]);
                self.meter.count(|counts| match io.way {
                    Way::Read => counts.stale_reads += u64::from(has_asked),
                    Way::Write => counts.written_twice += u64::from(has_asked),
                });
                self.set_lane(lane, Lane::Holds(io, mfn), 60_000);
            }
            (MapDecision::Populate, _) if !self.is_lost(page) => {
                let vcpu = DOM0_VCPU + u32::try_from(lane).expect("few lanes");
                let _ = self.foreign_populate(page, VcpuId(vcpu));
                self.set_lane(lane, Lane::Asks(io, true), 30_000);
            }
            // A device without its page does not go on, either.
            (MapDecision::Populate, _) => {
                self.block.borrow_mut().lanes[lane] = Lane::Idle;
                self.halt();
            }
            (MapDecision::Map | MapDecision::NotPaging, _) => {
                panic!("the disk is to use {}, which is {:?}", io.gfn, entry.p2mt)
            }
        }
    }

    fn transfer(&self, guest: &Guest, io: Io, mfn: Mfn) {
        let page = self.page(io.gfn).expect("a page of the guest");
        let place = self.machine().with(|core| core.frames.get(mfn).place);
        assert_eq!(place, Place::Mapped(io.gfn), "a page left that is mapped");
        let mut contents = self.read_frame(page, mfn, "the disk's back end");
        guest.kernel.copy_for(io, &mut contents);
        self.note(
            if io.way == Way::Read {
                "block read"
            } else {
                "block write"
            },
            [io.gfn.get(), io.block.0.into()],
        );
        if io.way == Way::Read {
            self.meter.guest_read(io.block.0);
            self.write_frame(page, mfn, contents);
            self.guest.borrow_mut().pages[page].is_logged = true;
        }
    }
}
