// SPDX-License-Identifier: MIT OR Apache-2.0
//! Tests of a machine with a pager that the test controls.

mod hypercalls;
mod traps;

use std::os::fd::OwnedFd;
use std::time::Duration;

use p2m_paging::{Errno, Gfn, PAGE_SIZE};
use pager_store::PageBuf;
use pager_uffd::host::guest_memory::GuestMemory;
use pager_uffd::host::{Machine, MachineOptions};
use pager_uffd::link::{Op, SharedArea};
use pager_uffd::pager_side::{Handles, Hypercalls};

const PAGES: u64 = 64;
const BUFFERS: usize = 4;
const VCPUS: u32 = 2;

fn gfn(raw: u64) -> Gfn {
    Gfn::try_new(raw).expect("a frame number")
}

fn machine(test: &str) -> (&'static Machine, String) {
    let memory = GuestMemory::create(PAGES).unwrap();
    for page in 0..PAGES {
        let byte = u8::try_from(page).unwrap();
        memory.store(gfn(page), &[byte; PAGE_SIZE]).unwrap();
    }
    let name = format!("xenpaging-{test}-{}", std::process::id());
    let options = MachineOptions {
        vcpus: VCPUS,
        cpu: None,
        name: name.clone(),
    };
    (Machine::start(memory, &options).unwrap(), name)
}

struct Pager {
    calls: Hypercalls,
    attached: Handles,
    buffers: &'static mut [PageBuf],
}

fn pager(name: &str) -> Pager {
    let mut calls = Hypercalls::connect(name).unwrap();
    assert_eq!(calls.info().unwrap().max_pages, PAGES);
    let (buffers, file) = buffers();
    let attached = calls.attach(&file, BUFFERS).unwrap();
    calls.call(Op::Enable).unwrap();
    Pager {
        calls,
        attached,
        buffers,
    }
}

fn buffers() -> (&'static mut [PageBuf], OwnedFd) {
    SharedArea::create("buffers", BUFFERS).unwrap().into_pages()
}

impl Pager {
    fn batch(&mut self, op: Op, gfns: &[u64]) -> Vec<Result<(), Errno>> {
        let mut results = Vec::new();
        let gfns: Vec<_> = gfns.iter().map(|&raw| gfn(raw)).collect();
        self.calls.batch(op, gfns, |r| results.push(r)).unwrap();
        results
    }

    fn prep(&mut self, preps: &[(u64, u64)]) -> Vec<Result<(), Errno>> {
        let mut results = Vec::new();
        let preps: Vec<_> = preps.iter().map(|&(raw, at)| (gfn(raw), at)).collect();
        self.calls.prep(preps, |r| results.push(r)).unwrap();
        results
    }
}

fn wait_for<T>(mut look: impl FnMut() -> Option<T>) -> T {
    loop {
        if let Some(found) = look() {
            return found;
        }
        std::thread::sleep(Duration::from_millis(1));
    }
}
