// SPDX-License-Identifier: MIT OR Apache-2.0
//! Pages in swap areas (row C5).

use std::path::Path;
use std::process::Command;

use super::{Finished, run, run_until_paged, start, wait_until_paged};

fn xenpaging(args: &[&str]) -> Finished {
    let mut command = Command::new(env!("CARGO_BIN_EXE_xenpaging"));
    command.args(args).output().unwrap().into()
}

/// Makes a new area and returns its path.
fn area(dir: &Path, name: &str, size: &str) -> String {
    let path = dir.join(name).to_str().unwrap().to_owned();
    let made = xenpaging(&["mkswap", &path, "--size", size]);
    assert_eq!((made.code, &*made.err), (Some(0), ""));
    assert!(made.out.starts_with(&format!("{path}: ")), "{}", made.out);
    path
}

/// There are two areas, and the preferred one is too small for all pages.
#[test]
fn c5_pages_lie_in_two_swap_areas() {
    let dir = tempfile::tempdir().unwrap();
    let (small, large) = (area(dir.path(), "s", "1M"), area(dir.path(), "l", "16M"));
    let first = format!("{small}:1");
    run_until_paged(&["--swap", &first, "--swap", &large]).nothing_was_lost();
    // Pages were written behind both headers. Both files are still areas, and no pager uses them.
    for path in [&small, &large] {
        let bytes = std::fs::read(path).unwrap();
        assert!(bytes[4096..].iter().any(|byte| *byte != 0), "{path}");
    }
    let shown = xenpaging(&["swaps", &small, &large]);
    let free = |line: &str| line.contains("MiB), UUID ") && line.ends_with(", free");
    assert_eq!(shown.out.lines().filter(|line| free(line)).count(), 2);
}

#[test]
fn c5_what_is_no_area_and_what_somebody_has_is_refused_in_a_line() {
    let dir = tempfile::tempdir().unwrap();
    let path = area(dir.path(), "area", "1M");
    let held = std::fs::File::open(&path).unwrap();
    held.lock().unwrap();
    run(&["--swap", &path]).refused(1, "is in use");
    xenpaging(&["mkswap", &path]).refused(3, "is in use");
    let shown = xenpaging(&["swaps", &path]);
    assert!(shown.out.ends_with(", in use\n"), "{}", shown.out);
    drop(held);
    let mut bytes = std::fs::read(&path).unwrap();
    bytes[9] ^= 1;
    std::fs::write(&path, &bytes).unwrap();
    for refused in [run(&["--swap", &path]), run(&["--swap", &path, "-v"])] {
        refused.refused(1, "damaged swap area: its checksum is 0x");
    }
    xenpaging(&["swaps", &path]).refused(3, "damaged swap area");
    std::fs::write(&path, [0; 8192]).unwrap();
    run(&["--swap", &path]).refused(1, "its magic is \"\\x00");
    run(&["--swap", &path, "--store", "memory"]).refused(2, "--store");
}

/// During the whole run the guest's vcpus check every page that they visit.
#[test]
fn c5_areas_are_drained_and_added_while_the_guest_faults() {
    let dir = tempfile::tempdir().unwrap();
    let [a, b] = ["a", "b"].map(|name| area(dir.path(), name, "16M"));
    let args = ["--seconds", "600", "--workload", "uniform"];
    let mut host = start(&[&args[..], &["--swap", &a, "--swap", &b]].concat());
    wait_until_paged(&mut host);
    let name = format!("xenpaging-host-{}", host.id());
    let tell = |command: &str, rest: &[&str]| {
        xenpaging(&[&[command, "--embedded-host", &name], rest].concat())
    };
    let says = |finished: Finished, what: &str| {
        let all = format!("{}{}", finished.out, finished.err);
        assert!(finished.code == Some(0) && all.contains(what), "{all}");
        finished.out
    };
    for path in [&a, &b, &a, &b] {
        says(tell("swapoff", &[path]), "drained");
        says(xenpaging(&["swaps", path]), ", free");
        says(tell("swapon", &[path]), "in use, 4095 pages");
        says(xenpaging(&["swaps", path]), ", in use");
        let areas = says(tell("swaps", &[]), "of 4095 pages in use");
        assert_eq!(areas.lines().count(), 2, "{areas}");
    }
    says(tell("swapoff", &[&a]), "drained");
    tell("swapoff", &[&a]).refused(3, "has no area with UUID");
    tell("swapoff", &[&b]).refused(3, "pages have no room elsewhere");
    tell("swapon", &[&b]).refused(3, "is in use");
    let areas = says(tell("swaps", &[]), "priority 0, ");
    assert_eq!(areas.lines().count(), 1, "{areas}");
    let pid = rustix::process::Pid::from_child(&host);
    rustix::process::kill_process(pid, rustix::process::Signal::INT).unwrap();
    let finished = Finished::from(host.wait_with_output().unwrap());
    // The log names the area that stays in use, and the reason.
    assert!(
        finished.err.contains("b stays in use: "),
        "{}",
        finished.err
    );
    finished.nothing_was_lost();
}

#[test]
fn c5_areas_are_only_for_a_pager_that_has_some() {
    let dir = tempfile::tempdir().unwrap();
    let path = area(dir.path(), "area", "1M");
    xenpaging(&["swapon", "-d", "32000", &path]).refused(3, "nobody listens as");
    let mut host = start(&["--seconds", "600"]);
    wait_until_paged(&mut host);
    let name = format!("xenpaging-host-{}", host.id());
    let swapon = xenpaging(&["swapon", "--embedded-host", &name, &path]);
    swapon.refused(3, "was not started with swap areas");
    host.kill().unwrap();
    host.wait().unwrap();
}

/// The guest has few different pages, and the store has room for half of those that go out.
#[test]
fn c6_pages_that_are_alike_take_one_slot() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("alike");
    let page = |n: u32| n.to_le_bytes().repeat(1024);
    std::fs::write(&file, (1..17).flat_map(page).collect::<Vec<u8>>()).unwrap();
    let small = area(dir.path(), "small", "4M");
    let load = ["--load", file.to_str().unwrap(), "--writes", "0"];
    let mut args = vec!["-v", "--dedup", "--swap", &small];
    args.extend(load);
    let done = run_until_paged(&args);
    done.nothing_was_lost();
    let figure = |name: &str| -> u64 {
        let value = done.err.split_once(&format!(" {name}=")).map(|at| at.1);
        let digits = value.and_then(|value| value.split_whitespace().next());
        digits.and_then(|digits| digits.parse().ok()).expect(name)
    };
    // Only the first two batches write: a page that is still being written is not shared yet.
    assert!(figure("written") <= 1024 + 16, "{}", done.err);
    assert!(figure("deduplicated") > 0, "{}", done.err);
    // The large area has room for everything that the guest writes.
    let large = area(dir.path(), "large", "16M");
    let more = ["--swap", &large, "--dedup", "--load", load[1]];
    run_until_paged(&more).nothing_was_lost();
}
