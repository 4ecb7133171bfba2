// SPDX-License-Identifier: MIT OR Apache-2.0
//! Signals, a full disk, and a pager that dies.

use std::io::{BufRead as _, BufReader, Read as _};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Signal, kill_process};

use super::{Finished, host, pager_of, start, wait_for_memory, wait_until_paged};

/// Row B3: each of these signals has this effect.
#[test]
fn b3_a_signal_to_the_pager_brings_everything_back() {
    for signal in [
        Signal::TERM,
        Signal::INT,
        Signal::QUIT,
        Signal::HUP,
        Signal::ALARM,
        Signal::POWER,
        Signal::XCPU,
    ] {
        let mut host = start(&["--seconds", "600"]);
        wait_until_paged(&mut host);
        kill_process(pager_of(&host), signal).unwrap();
        let finished = Finished::from(host.wait_with_output().unwrap());
        // The host had not sent the signal, so the run is not a success; but nothing is lost.
        assert_eq!(finished.code, Some(1), "{signal:?}: {}", finished.err);
        assert!(finished.out.contains("left by itself"), "{}", finished.out);
        assert_eq!(finished.figure("pages still out"), 0, "{signal:?}");
        assert_eq!(finished.figure("bad pages"), 0, "{signal:?}");
        assert_eq!(finished.figure("pages verified"), 4096, "{signal:?}");
    }
}

/// Row B3: these signals would end a program that does not handle them.
#[test]
fn b3_other_signals_to_the_pager_are_ignored() {
    let mut host = start(&["--seconds", "600"]);
    wait_until_paged(&mut host);
    let pager = pager_of(&host);
    for signal in [
        Signal::USR1,
        Signal::USR2,
        Signal::IO,
        Signal::PROF,
        Signal::VTALARM,
        Signal::STKFLT,
        Signal::XFSZ,
        Signal::PIPE,
        Signal::TSTP,
        Signal::TTIN,
        Signal::TTOU,
    ] {
        // A pager that has ended cannot be signalled, or the host notices its end.
        kill_process(pager, signal).unwrap();
    }
    let stat = format!("/proc/{}/stat", pager.as_raw_nonzero());
    let stat = std::fs::read_to_string(stat).unwrap();
    assert!(!stat.contains(") T "), "the pager is stopped: {stat}");
    let host_itself = rustix::process::Pid::from_child(&host);
    kill_process(host_itself, Signal::INT).unwrap();
    Finished::from(host.wait_with_output().unwrap()).nothing_was_lost();
}

#[test]
fn a_signal_to_the_host_ends_the_run_early_and_as_it_should() {
    for signal in [Signal::HUP, Signal::TERM] {
        let mut host = start(&["--seconds", "600"]);
        wait_until_paged(&mut host);
        let pid = rustix::process::Pid::from_child(&host);
        kill_process(pid, signal).unwrap();
        Finished::from(host.wait_with_output().unwrap()).nothing_was_lost();
    }
}

/// The reader of the pager's output has stopped reading.
#[test]
fn a_pager_that_nobody_listens_to_brings_everything_back() {
    let mut host = start(&["--seconds", "600", "-vv"]);
    drop(host.stderr.take());
    wait_until_paged(&mut host);
    kill_process(pager_of(&host), Signal::TERM).unwrap();
    let finished = Finished::from(host.wait_with_output().unwrap());
    assert!(finished.out.contains("left by itself"), "{}", finished.out);
    assert_eq!(finished.figure("pages still out"), 0);
}

#[test]
fn a_killed_pager_is_a_clear_end() {
    let mut host = start(&["--seconds", "600"]);
    wait_until_paged(&mut host);
    kill_process(pager_of(&host), Signal::KILL).unwrap();
    let finished = Finished::from(host.wait_with_output().unwrap());
    assert_eq!(finished.code, Some(1), "{}", finished.out);
    assert!(finished.figure("pages still out") > 0, "{}", finished.out);
    assert!(finished.out.contains("the pager died"), "{}", finished.out);
}

/// A guest of 16 MiB, of which 8 MiB are to go out, and a disk of 2 MiB.
#[test]
fn a_full_disk_stops_page_out_and_loses_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().to_str().unwrap();
    let file = format!("{path}/pages");
    let run = host(&["--store", &file, "--seconds", "600"]);
    let mut inner = vec![run.get_program()];
    inner.extend(run.get_args());
    let mut command = Command::new("unshare");
    if rustix::process::getuid().is_root() {
        command.arg("--mount");
    } else {
        command.args(["--mount", "--user", "--map-root-user"]);
    }
    let mount = r#"mount -t tmpfs -o size=2M none "$0" || exit 77; exec "$@""#;
    command.args(["sh", "-c", mount, path]).args(inner);
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut host = command.spawn().unwrap();
    // Waits until the disk is full, however long that takes.
    let mut said = BufReader::new(host.stderr.take().unwrap());
    let mut err = String::new();
    while !err.contains("store is full") && said.read_line(&mut err).unwrap() > 0 {}
    if err.contains("store is full") {
        // The guest may have written all of the first saved pages meanwhile, so that they stayed.
        wait_for_memory(&mut host, |bytes| bytes < 16 << 20);
    }
    // The host may have ended by itself.
    let _ = kill_process(rustix::process::Pid::from_child(&host), Signal::INT);
    said.read_to_string(&mut err).unwrap();
    let finished = Finished {
        err,
        ..host.wait_with_output().unwrap().into()
    };
    let mounted = finished.code != Some(77) && !finished.err.contains("unshare failed");
    assert!(
        mounted,
        "no small disk can be mounted: root, or user namespaces, are needed"
    );
    finished.nothing_was_lost();
    assert!(finished.err.contains("store is full"), "{}", finished.err);
    assert!(finished.figure("evicted") > 0, "{}", finished.out);
}

/// Ctrl-S, a dead ssh or a full pipe: standard error takes nothing, from the start to the end.
#[test]
fn a_standard_error_that_takes_nothing_delays_no_page() {
    let (reader, writer) = std::io::pipe().unwrap();
    rustix::io::ioctl_fionbio(&writer, true).unwrap();
    while rustix::io::write(&writer, &[b'x'; 4096]).is_ok() {}
    rustix::io::ioctl_fionbio(&writer, false).unwrap();
    let mut command = host(&["-vv"]);
    let mut host = command
        .stdout(Stdio::piped())
        .stderr(writer)
        .spawn()
        .unwrap();
    let begun = Instant::now();
    while host.try_wait().unwrap().is_none() {
        if begun.elapsed() > Duration::from_secs(120) {
            kill_process(pager_of(&host), Signal::KILL).unwrap();
            host.kill().unwrap();
            panic!("a line waits for standard error");
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    Finished::from(host.wait_with_output().unwrap()).nothing_was_lost();
    drop(reader);
}
