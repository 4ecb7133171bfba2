// SPDX-License-Identifier: MIT OR Apache-2.0
//! A pager was killed after it had nominated pages. The next pager pages them out.

use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use p2m_paging::{Gfn, PAGE_SIZE};
use pager_uffd::host::guest_memory::GuestMemory;
use pager_uffd::host::{Machine, MachineOptions, PagerExit};
use pager_uffd::link::{Op, SharedArea};
use pager_uffd::pager_side::Hypercalls;
use rustix::process::{Pid, Signal, kill_process};

const PAGES: u64 = 1024;
const LIMIT: Duration = Duration::from_secs(120);

fn wait_for(what: &str, mut look: impl FnMut() -> bool) {
    let began = Instant::now();
    while !look() {
        assert!(began.elapsed() < LIMIT, "{what}: nothing happens");
        thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn pages_that_a_killed_pager_had_nominated_go_out() {
    let memory = GuestMemory::create(PAGES).unwrap();
    for page in 0..PAGES {
        let contents = [u8::try_from(page % 251).unwrap(); PAGE_SIZE];
        memory.store(Gfn::new_truncate(page), &contents).unwrap();
    }
    let name = format!("xenpaging-leftovers-{}", std::process::id());
    let options = MachineOptions {
        vcpus: 1,
        cpu: None,
        name: name.clone(),
    };
    let machine = Machine::start(memory, &options).unwrap();

    let mut killed = Hypercalls::connect(&name).unwrap();
    let (_, buffers) = SharedArea::create("buffers", 1).unwrap().into_pages();
    killed.attach(&buffers, 1).unwrap();
    killed.call(Op::Enable).unwrap();
    let all = (0..PAGES).map(Gfn::new_truncate);
    let mut nominated = 0;
    let count = |done: Result<(), _>| nominated += u64::from(done.is_ok());
    killed.batch(Op::Nominate, all, count).unwrap();
    assert_eq!(nominated, PAGES);
    drop(killed);
    let died = Some(PagerExit::Died { out_pages: 0 });
    wait_for("the first pager's end", || machine.pager_exit() == died);

    let target = PAGES / 2;
    machine.set_target(target.cast_signed());
    let mut pager = Command::new(env!("CARGO_BIN_EXE_xenpaging"))
        .args(["--embedded-host", &name, "--mru_size", "16"])
        .spawn()
        .unwrap();
    wait_for("page-out", || machine.counts().resident() <= target);
    kill_process(Pid::from_child(&pager), Signal::TERM).unwrap();
    assert!(pager.wait().unwrap().success());
    assert_eq!(machine.counts().paged, 0);
    for page in 0..PAGES {
        let mut contents = [0; PAGE_SIZE];
        machine
            .memory()
            .load(Gfn::new_truncate(page), &mut contents)
            .unwrap();
        assert_eq!(
            contents,
            [u8::try_from(page % 251).unwrap(); PAGE_SIZE],
            "page {page}"
        );
    }
}
