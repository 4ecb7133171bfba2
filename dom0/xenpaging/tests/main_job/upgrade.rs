// SPDX-License-Identifier: MIT OR Apache-2.0
//! A running pager is replaced by the next one, while the guest works.

use std::process::{Child, Command};
use std::thread;

use rustix::process::{Pid, Signal, kill_process};

use super::{Finished, pager_of, start, wait_until_paged};

const UPGRADES: usize = 10;

fn upgrade(host: &Child) -> Finished {
    let name = format!("xenpaging-host-{}", host.id());
    let mut command = Command::new(env!("CARGO_BIN_EXE_xenpaging"));
    let command = command.args(["upgrade", "--embedded-host", &name]);
    command.output().unwrap().into()
}

#[test]
fn a_pager_is_upgraded_again_and_again_while_the_guest_works() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("pages");
    let args = ["--seconds", "6000", "--store", file.to_str().unwrap()];
    let mut host = start(&args);
    wait_until_paged(&mut host);
    for _ in 0..UPGRADES {
        let pager = pager_of(&host);
        // The next pager listens once it has attached.
        let told = loop {
            assert_eq!(host.try_wait().unwrap(), None, "the host ended");
            let told = upgrade(&host);
            if !told.err.contains("no pager") {
                break told;
            }
            thread::yield_now();
        };
        assert_eq!((told.code, &*told.err), (Some(0), ""));
        assert_eq!(told.out, "the pager ends, and the next one takes over\n");
        while pager_of(&host) == pager {
            thread::yield_now();
        }
    }
    kill_process(Pid::from_child(&host), Signal::INT).unwrap();
    let finished = Finished::from(host.wait_with_output().unwrap());
    finished.nothing_was_lost();
    let upgraded = finished.figure("pagers that died");
    // One that is upgraded before it has brought in a page does not count.
    assert!(upgraded > 0 && upgraded <= UPGRADES as u64, "{upgraded}");
    assert!(!file.exists(), "the pagefile is left");
}

/// Pages in memory end with their pager.
#[test]
fn a_pager_without_an_index_stays() {
    let mut host = start(&["--seconds", "600"]);
    wait_until_paged(&mut host);
    let pager = pager_of(&host);
    upgrade(&host).refused(
        3,
        "no other pager can take over: this one has no index that says where pages lie",
    );
    assert_eq!(pager_of(&host), pager);
    kill_process(Pid::from_child(&host), Signal::INT).unwrap();
    Finished::from(host.wait_with_output().unwrap()).nothing_was_lost();
}
