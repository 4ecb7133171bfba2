// SPDX-License-Identifier: MIT OR Apache-2.0
//! The pager must not wait for memory while it brings memory: from a request to its answer, and for
//! the page-out that follows it in steady state, the core allocates nothing.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

use p2m_paging::p2m::P2mType;
use p2m_paging::ring::{EntryFlags, PagingFlags, Request};
use p2m_paging::{Gfn, VcpuId};
use pager_core::policy::{PolicyName, SweepOptions};
use pager_core::{Action, Batch, Config, Event, Pager};

struct Counting;

thread_local! {
    static ALLOCATIONS: Cell<u64> = const { Cell::new(0) };
}

// SAFETY: everything is passed on to the system's allocator; the count is a plain thread-local that
// needs no memory of its own.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.set(ALLOCATIONS.get() + 1);
        // SAFETY: the caller's promises are passed on.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        // SAFETY: as above; the block came from `System`.
        unsafe { System.dealloc(block, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

const PAGES: u64 = 20_000;

/// Feeds an event, and does at once and with success whatever comes out.
fn feed(pager: &mut Pager, actions: &mut pager_core::Actions, event: Event<'_>) -> u32 {
    let mut waiting: [Option<Batch>; 16] = Default::default();
    let mut answers = 0;
    pager.handle(event, actions);
    loop {
        for action in actions.drain() {
            match action {
                Action::Run(batch) => {
                    let index = batch.index();
                    waiting[index] = Some(batch);
                }
                Action::Respond(_) => answers += 1,
                _ => {}
            }
        }
        let Some(mut batch) = waiting.iter_mut().find_map(Option::take) else {
            return answers;
        };
        batch
            .pages_mut()
            .iter_mut()
            .for_each(|page| page.outcome = Ok(()));
        pager.handle(Event::Done(batch), actions);
    }
}

#[test]
fn from_a_request_to_its_answer_nothing_is_allocated() {
    PolicyName::ALL
        .into_iter()
        .for_each(faults_allocate_nothing);
}

fn faults_allocate_nothing(name: PolicyName) {
    let config = Config {
        out_threshold: 1,
        ..Config::new(PAGES)
    };
    let options = SweepOptions {
        mru_pages: 500,
        ..SweepOptions::default()
    };
    let policy = name.policy(&config.memory, &options);
    let mut pager = Pager::new(config, policy);
    let mut actions = pager.actions();
    feed(&mut pager, &mut actions, Event::Target(2_000));
    assert_eq!(pager.progress().out_pages, PAGES - 2_000);

    let mut random = 1_u64;
    let mut faults = 0;
    let before = ALLOCATIONS.get();
    while faults < 50_000 {
        random = random
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1);
        let gfn = Gfn::new_truncate((random >> 33) % PAGES);
        if pager.location_of(gfn).is_none() {
            continue;
        }
        let request = Request {
            gfn,
            vcpu: VcpuId(0),
            flags: EntryFlags::VCPU_PAUSED,
            p2mt: P2mType::RamPaged,
            paging: PagingFlags::empty(),
        };
        assert_eq!(
            feed(&mut pager, &mut actions, Event::Requests(&[request])),
            1
        );
        faults += 1;
    }
    assert_eq!(
        ALLOCATIONS.get() - before,
        0,
        "{name:?}: allocations in {faults} faults"
    );
    assert_eq!(
        pager.progress().out_pages,
        PAGES - 2_000,
        "each fault was followed by a page-out"
    );
}
