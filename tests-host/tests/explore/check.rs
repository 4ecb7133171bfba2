// SPDX-License-Identifier: MIT OR Apache-2.0
//! The properties of every state, and of every step.

use p2m_paging::VcpuId;
use p2m_paging::p2m::P2mType;

use crate::key::Line;
use crate::machine::{Core, Place, VCPUS, contents};
use crate::outside::{Known, Outside};
use crate::steps::{Act, Step};
use crate::world::Stage;

/// The breach in this state, if any.
pub(crate) fn state(stage: &Stage, line: Line) -> Result<(), &'static str> {
    let world = &*stage.world;
    if let Some(breach) = world.machine().breach.get() {
        return Err(breach);
    }
    let core = world.machine().core.borrow();
    let outside = world.outside.borrow();
    frames(&core)?;
    for page in 0..world.config.gfns {
        page_is_somewhere(&core, &outside, page, world.config.dies > 0)?;
    }
    let outstanding = line.req_prod.wrapping_sub(line.rsp_cons);
    let held = world.paging.slots_in_use();
    hold(
        outstanding <= 8 && held <= 8,
        "more in use than the ring has slots",
    )?;
    for v in 0..VCPUS {
        hold(
            core.stopped[v] <= 1,
            "the platform is told to stop a vcpu twice",
        )?;
    }
    // These hold only while nobody is in the middle of a change.
    if stage.fibers.iter().any(crate::fiber::Fiber::is_busy) {
        return Ok(());
    }
    hold(held == outstanding, "a slot of the ring is lost")?;
    for v in 0..VCPUS {
        let id = VcpuId(v as u32);
        let pauses = world.paging.vcpus().pauses(id);
        let waits = world.paging.vcpus().waits_for(id).is_some();
        hold(
            (core.stopped[v] > 0) == (pauses > 0),
            "pauses and stops differ",
        )?;
        hold(pauses <= 1, "a vcpu is paused twice")?;
        let in_line = line.first.is_some();
        hold(pauses == 1 || !waits, "a vcpu waits and is not paused")?;
        hold(
            pauses == 0 || waits || in_line,
            "a vcpu is paused for nothing",
        )?;
        hold(
            !waits || world.paging.is_enabled(),
            "a vcpu waits, and there is no pager",
        )?;
    }
    // Nothing more will be told to a pager that took over.
    let told = outstanding == 0 && line.first.is_none() && outside.todo.iter().all(Option::is_none);
    for page in 0..world.config.gfns {
        let believed = told && outside.died > 0 && matches!(outside.known[page], Known::Out(_));
        let is_out = matches!(
            core.entries[page].0,
            P2mType::RamPaged | P2mType::RamPagingInStart | P2mType::RamPagingIn
        );
        hold(
            !believed || is_out,
            "a pager keeps a page that is not out, and nobody tells it",
        )?;
    }
    Ok(())
}

/// The breach in this step, if any.
pub(crate) fn step(step: Step, before: Line, after: Line) -> Result<(), &'static str> {
    let vcpu = u32::from(step.actor);
    let pushed = before.has_ring && after.req_prod != before.req_prod;
    let passed = before.first.is_some_and(|first| first != vcpu) && before.first == after.first;
    let guest = (step.actor as usize) < VCPUS;
    let pushes_in = before.first.is_some_and(|first| first != vcpu) && after.first == Some(vcpu);
    let passes = pushed && passed || !pushed && pushes_in;
    hold(
        !(guest && passes),
        "a vcpu passes the one that is first in line",
    )
}

/// Whether all operations have ended: every vcpu runs and has made its access, and no page is in
/// flight, unless a pager was replaced: its page is requested again when somebody needs it.
pub(crate) fn settled(stage: &Stage) -> bool {
    let core = stage.world.machine().core.borrow();
    let outside = stage.world.outside.borrow();
    let on_its_way = |t| matches!(t, P2mType::RamPagingInStart | P2mType::RamPagingIn);
    let gfns = stage.world.config.gfns;
    core.stopped.iter().all(|s| *s == 0)
        && outside.pending.iter().all(Option::is_none)
        && stage.fibers.iter().all(|f| !f.is_busy())
        && (outside.replaced > 0
            || outside.died > 0
            || !core.entries[..gfns].iter().any(|e| on_its_way(e.0)))
}

/// The vcpu whose steps alone must come to an end, if this is one of them.
pub(crate) fn alone(step: Step) -> Option<u8> {
    let goes_on = matches!(step.act, Act::GoOn | Act::Retry);
    ((step.actor as usize) < VCPUS && goes_on).then_some(step.actor)
}

fn frames(core: &Core) -> Result<(), &'static str> {
    for (n, frame) in core.frames.iter().enumerate() {
        match frame.place {
            Place::Free => {}
            Place::Mapped(gfn) => {
                let entry = core.entries[usize::from(gfn)];
                let agree = entry.1.map(usize::from) == Some(n) && frame.references > 0;
                hold(agree, "a page and its frame disagree")?;
            }
            Place::Lingering => hold(frame.references > 0, "a frame that nobody uses lingers")?,
            Place::Fresh | Place::Taken => return Err("a frame is lost"),
        }
    }
    let out = core.entries.iter().filter(|(p2mt, frame)| {
        matches!(p2mt, P2mType::RamPaged | P2mType::RamPagingInStart) && frame.is_none()
    });
    hold(
        out.count() == core.paged_pages as usize,
        "paged_pages is not the number of pages out",
    )
}

/// A page has the contents written last, in its frame or with the pager. `indexed`: the pager may be
/// killed now, so what counts is the index.
fn page_is_somewhere(
    core: &Core,
    outside: &Outside,
    page: usize,
    indexed: bool,
) -> Result<(), &'static str> {
    let right = contents(page, outside.truth[page]);
    let (p2mt, frame) = core.entries[page];
    let in_frame = frame.map(|f| core.frames[usize::from(f)].contents) == Some(right);
    // The pager does not know of an eviction that is done yet: its record is still `Copied`.
    let with_pager = if indexed {
        outside.index[page] == Some(right)
    } else {
        matches!(outside.known[page], Known::Out(c) | Known::Copied(c) if c == right)
    };
    match p2mt {
        P2mType::RamRw | P2mType::RamPagingOut => hold(in_frame, "a page has other contents"),
        P2mType::RamPaged => hold(with_pager, "a page is lost"),
        P2mType::RamPagingInStart => hold(in_frame || with_pager, "a page is lost"),
        P2mType::RamPagingIn => hold(in_frame || with_pager, "a page is lost"),
        _ => Ok(()),
    }
}

fn hold(holds: bool, otherwise: &'static str) -> Result<(), &'static str> {
    if holds { Ok(()) } else { Err(otherwise) }
}
