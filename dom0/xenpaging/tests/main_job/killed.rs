// SPDX-License-Identifier: MIT OR Apache-2.0
//! Pagers that are killed at random instants. `KILLS` in the environment says how many, `SEED` which
//! instants.

use std::fs::{self, OpenOptions};
use std::io::{BufRead as _, BufReader, Lines, Write as _};
use std::path::PathBuf;
use std::process::{Child, ChildStderr};
use std::thread;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

use super::{Finished, pager_of, start, wait_until_paged};

/// The longest time from one kill to the next. A pager is up after a few milliseconds, so it may be
/// killed while it starts, while it takes over, and while it serves.
const LONGEST_US: u64 = 150_000;

fn from_environment(name: &str, otherwise: u64) -> u64 {
    let text = std::env::var(name).ok();
    text.map_or(otherwise, |text| text.parse().expect(name))
}

/// Kills pagers while the guest works. Every page comes back as it
/// went, and no vcpu waits for ever.
#[test]
fn pages_survive_pagers_that_are_killed_at_any_instant() {
    let kills = from_environment("KILLS", 30);
    let seed = from_environment("SEED", fastrand::u64(..));
    eprintln!("SEED={seed} KILLS={kills}");
    let mut random = fastrand::Rng::with_seed(seed);
    let dir = tempfile::tempdir().unwrap();
    let (file, seed) = (dir.path().join("pages"), seed.to_string());
    let args = ["--seconds", "6000", "--seed", &seed];
    let mut host = start(&[&args[..], &["--store", file.to_str().unwrap()]].concat());
    wait_until_paged(&mut host);
    for _ in 0..kills {
        thread::sleep(Duration::from_micros(random.u64(..LONGEST_US)));
        assert_eq!(host.try_wait().unwrap(), None, "the host ended");
        let pager = pager_of(&host);
        kill_process(pager, Signal::KILL).unwrap();
        while pager_of(&host) == pager {
            thread::yield_now();
        }
    }
    kill_process(Pid::from_child(&host), Signal::INT).unwrap();
    let finished = Finished::from(host.wait_with_output().unwrap());
    finished.nothing_was_lost();
    let died = finished.figure("pagers that died");
    eprintln!("{}", finished.out);
    // One that is killed before it attaches does not count.
    assert!(died > 0 && died <= kills, "{died} died");
    assert!(!file.exists(), "the pagefile is left");
}

/// A host whose pager was killed, and whose pagefile has another name: nobody can take over.
struct NoPagefile {
    file: PathBuf,
    elsewhere: PathBuf,
    host: Child,
    said: Lines<BufReader<ChildStderr>>,
    _dir: TempDir,
}

impl NoPagefile {
    fn new(more: &[&str]) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let (file, elsewhere) = (dir.path().join("pages"), dir.path().join("elsewhere"));
        let args = ["--seconds", "6000", "--store", file.to_str().unwrap()];
        let mut host = start(&[&args[..], more].concat());
        wait_until_paged(&mut host);
        fs::rename(&file, &elsewhere).unwrap();
        kill_process(pager_of(&host), Signal::KILL).unwrap();
        Self {
            said: BufReader::new(host.stderr.take().unwrap()).lines(),
            file,
            elsewhere,
            host,
            _dir: dir,
        }
    }

    fn wait_for(&mut self, what: &str) -> String {
        let mut said = self.said.by_ref().map_while(Result::ok);
        said.find(|line| line.contains(what)).expect(what)
    }

    fn put_back(&self) {
        fs::rename(&self.elsewhere, &self.file).unwrap();
    }

    /// The end of the host, and what it said until then.
    fn end(self) -> (Finished, Vec<String>) {
        let said = self.said;
        let rest = thread::spawn(move || said.map_while(Result::ok).collect());
        let finished = Finished::from(self.host.wait_with_output().unwrap());
        (finished, rest.join().unwrap())
    }
}

/// The next pagers find no pagefile, until it is there again.
#[test]
fn a_take_over_that_fails_is_tried_again_until_it_succeeds() {
    let mut host = NoPagefile::new(&["--verbose"]);
    for _ in 0..2 {
        let line = host.wait_for("the take-over failed");
        assert!(line.contains("pages cannot be opened"), "{line}");
    }
    host.put_back();
    host.wait_for("taken over from a pager that was killed");
    kill_process(Pid::from_child(&host.host), Signal::INT).unwrap();
    let (finished, _) = host.end();
    finished.nothing_was_lost();
    assert_eq!(finished.figure("pagers that died"), 1);
}

/// The pages are overwritten while there is no pager.
#[test]
fn a_guest_that_needs_a_page_that_is_gone_is_paused_and_never_gets_another() {
    let mut host = NoPagefile::new(&[]);
    host.wait_for("the take-over failed");
    let bytes = fs::metadata(&host.elsewhere).unwrap().len();
    let spoilt = vec![0x5a; usize::try_from(bytes).unwrap()];
    OpenOptions::new()
        .write(true)
        .open(&host.elsewhere)
        .unwrap()
        .write_all(&spoilt)
        .unwrap();
    host.put_back();
    let line = host.wait_for(" is lost, and ");
    let names = ["somebody needs it: slot ", "its checksum is 0x"];
    assert!(names.iter().all(|name| line.contains(name)), "{line}");
    assert!(line.contains("The guest is paused"), "{line}");
    let (finished, rest) = host.end();
    assert_eq!(finished.code, Some(1), "{}", finished.out);
    assert!(
        finished.out.contains("paused the guest"),
        "{}",
        finished.out
    );
    let said = |what: &str| rest.iter().filter(|line| line.contains(what)).count();
    assert_eq!((said("is paused"), said("bad page: ")), (0, 0), "{rest:?}");
}

/// With `--no-restart` the end of a killed pager is the end of the run.
#[test]
fn without_a_restart_a_killed_pager_ends_the_run() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("pages");
    let args = ["--seconds", "600", "--no-restart", "--store"];
    let mut host = start(&[&args[..], &[file.to_str().unwrap()]].concat());
    wait_until_paged(&mut host);
    kill_process(pager_of(&host), Signal::KILL).unwrap();
    let finished = Finished::from(host.wait_with_output().unwrap());
    assert_eq!(finished.code, Some(1), "{}", finished.out);
    assert!(finished.out.contains("the pager died"), "{}", finished.out);
}
