// SPDX-License-Identifier: MIT OR Apache-2.0
//! The main job as a user runs it: two processes, real memory, real faults. No test depends on
//! timing.

mod areas;
mod killed;
mod pressure;
mod record;
mod refused;
mod trouble;
mod upgrade;

use std::process::{Child, Command, Output, Stdio};

/// Runs the embedded host with a small guest that is filled from a few files.
fn host(args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_embedded-host"));
    command.args(["--size", "16M", "--seconds", "1"]);
    command.args(["--load", concat!(env!("CARGO_MANIFEST_DIR"), "/..")]);
    command.args(args);
    command
}

fn run(args: &[&str]) -> Finished {
    Finished::from(host(args).output().expect("the host can be run"))
}

fn start(args: &[&str]) -> Child {
    let mut command = host(args);
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    command.spawn().expect("the host can be run")
}

/// Runs until a quarter of the guest is out, however long that takes, and then ends the work.
fn run_until_paged(args: &[&str]) -> Finished {
    let mut all = vec!["--seconds", "600"];
    all.extend(args);
    let mut host = start(&all);
    wait_until_paged(&mut host);
    let pid = rustix::process::Pid::from_child(&host);
    rustix::process::kill_process(pid, rustix::process::Signal::INT).unwrap();
    host.wait_with_output()
        .expect("a child can be waited for")
        .into()
}

/// The output of a run that has ended.
#[derive(Debug)]
struct Finished {
    code: Option<i32>,
    out: String,
    err: String,
}

impl From<Output> for Finished {
    fn from(output: Output) -> Self {
        let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
        Self {
            code: output.status.code(),
            out: text(output.stdout),
            err: text(output.stderr),
        }
    }
}

impl Finished {
    /// The value in a row of the table.
    fn figure(&self, row: &str) -> u64 {
        let line = self.out.lines().find_map(|line| {
            let value = line.trim_start().strip_prefix(row)?;
            value.starts_with("  ").then(|| value.trim())
        });
        let figure = line.and_then(|value| value.split_whitespace().next());
        figure
            .and_then(|figure| figure.parse().ok())
            .unwrap_or_else(|| panic!("no {row:?} in\n{}{}", self.out, self.err))
    }

    fn nothing_was_lost(&self) {
        let said = format!("{}{}", self.out, self.err);
        assert_eq!(self.code, Some(0), "{said}");
        assert_eq!(self.figure("bad pages"), 0, "{said}");
        assert_eq!(self.figure("pages still out"), 0, "{said}");
        let given_back = self.figure("pages given back");
        assert_eq!(self.figure("pages verified") + given_back, 4096, "{said}");
        assert!(said.contains("nothing was lost"), "{said}");
    }

    /// Checks that the run was refused with one line that states the reason.
    fn refused(&self, code: i32, why: &str) {
        let said = format!("{}{}", self.out, self.err);
        assert_eq!(self.code, Some(code), "{said}");
        assert!(self.err.contains(why), "{why:?} is not in: {said}");
        assert_eq!(said.lines().count(), 1, "{said}");
    }
}

/// The process id of the pager that a host has started.
fn pager_of(host: &Child) -> rustix::process::Pid {
    let children = format!("/proc/{0}/task/{0}/children", host.id());
    loop {
        let list = std::fs::read_to_string(&children).expect("the host is running");
        if let Some(pid) = list.split_whitespace().next() {
            let pid = pid.parse().ok().and_then(rustix::process::Pid::from_raw);
            return pid.expect("a process number");
        }
        std::thread::yield_now();
    }
}

/// Waits until a quarter of the guest is out.
fn wait_until_paged(host: &mut Child) {
    wait_for_memory(host, |bytes| bytes > 12 << 20);
    wait_for_memory(host, |bytes| bytes < 12 << 20);
}

/// Waits until this holds for the guest's memory use in bytes.
fn wait_for_memory(host: &mut Child, holds: impl Fn(u64) -> bool) {
    while !guest_memory_bytes(host).is_some_and(&holds) {
        let ended = host.try_wait().expect("a child can be waited for");
        assert_eq!(ended, None, "the host ended before anything was out");
        std::thread::yield_now();
    }
}

/// The number of bytes of memory that the guest uses.
fn guest_memory_bytes(host: &Child) -> Option<u64> {
    use std::os::unix::fs::MetadataExt as _;
    let fds = std::fs::read_dir(format!("/proc/{}/fd", host.id())).ok()?;
    let is_memory = |path: &std::path::PathBuf| {
        let target = std::fs::read_link(path).unwrap_or_default();
        target.to_string_lossy().starts_with("/memfd:guest-memory")
    };
    let memory = fds.flatten().map(|fd| fd.path()).find(is_memory)?;
    Some(std::fs::metadata(memory).ok()?.blocks() * 512)
}

#[test]
fn pages_go_out_and_every_one_comes_back() {
    for policy in ["sweep", "lru2", "reuse"] {
        let finished = run_until_paged(&["--policy", policy]);
        finished.nothing_was_lost();
        assert!(finished.figure("evicted") >= 1024, "{}", finished.out);
        assert!(finished.figure("brought in") >= 1024, "{}", finished.out);
    }
}

#[test]
fn more_vcpus_than_the_ring_has_slots() {
    for workload in ["uniform", "zipf", "scan"] {
        let finished = run(&["--vcpus", "16", "--workload", workload, "--target", "2M"]);
        finished.nothing_was_lost();
    }
}

#[test]
fn a_guest_with_nothing_resident_still_runs() {
    for policy in ["sweep", "lru2", "reuse"] {
        let finished = run_until_paged(&["--target", "0", "--policy", policy]);
        finished.nothing_was_lost();
        assert!(finished.figure("vcpu pauses") > 0, "{}", finished.out);
    }
}

#[test]
fn a_guest_of_one_page_and_a_target_of_all_are_correct_runs() {
    let finished = run(&["--size", "4K", "--vcpus", "2"]);
    assert_eq!(finished.code, Some(0), "{}{}", finished.out, finished.err);
    let finished = run(&["--target", "16M"]);
    finished.nothing_was_lost();
    assert_eq!(finished.figure("evicted"), 0);
}

#[test]
fn the_pager_stops_in_the_middle_and_the_guest_goes_on() {
    let finished = run(&["--seconds", "2", "--stop-pager-at", "1"]);
    finished.nothing_was_lost();
    assert!(finished.figure("evicted") > 0, "{}", finished.out);
}

#[test]
fn b10_pages_given_back_while_out_are_forgotten() {
    let finished = run(&["--balloon", "200", "--workload", "uniform"]);
    finished.nothing_was_lost();
    assert_eq!(
        finished.figure("dropped"),
        finished.figure("pages given back")
    );
    assert!(finished.figure("dropped") > 0, "{}", finished.out);
}

/// Half of the guest must stay resident, in two ranges, so a target of zero is not reached.
#[test]
fn pages_that_are_never_victims_stay() {
    let never = ["--gfns", "0-1023", "--gfns", "0x800-0xbff"];
    let args = ["--seconds", "600", "--target", "0"];
    let mut host = start(&[&args[..], &never].concat());
    wait_until_paged(&mut host);
    for _ in 0..1000 {
        let resident = guest_memory_bytes(&host).expect("the host works");
        assert!(resident >= 8 << 20, "{resident} bytes");
    }
    let pid = rustix::process::Pid::from_child(&host);
    rustix::process::kill_process(pid, rustix::process::Signal::INT).unwrap();
    while host.try_wait().unwrap().is_none() {
        // `None`: the host has just ended.
        let resident = guest_memory_bytes(&host).unwrap_or(u64::MAX);
        assert!(resident >= 8 << 20, "{resident} bytes");
        std::thread::yield_now();
    }
    Finished::from(host.wait_with_output().unwrap()).nothing_was_lost();
}

#[test]
fn pages_go_to_a_file_and_the_file_goes_with_the_pager() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("pages");
    run(&["--store", file.to_str().unwrap()]).nothing_was_lost();
    assert!(!file.exists());
}

#[test]
fn without_pinning_it_is_the_same() {
    run(&["--no-pin", "--seed", "7"]).nothing_was_lost();
}
