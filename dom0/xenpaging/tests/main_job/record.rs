// SPDX-License-Identifier: MIT OR Apache-2.0
//! Traces of a run.

use pager_accesses::Trace;

use super::{run, run_until_paged};

#[test]
fn every_visit_is_recorded_and_the_pager_sees_the_hottest_page_used() {
    let folder = tempfile::tempdir().unwrap();
    let [visits, seen] = ["visits", "seen"].map(|name| folder.path().join(name));
    let [visits_arg, seen_arg] = [&visits, &seen].map(|path| path.to_str().unwrap());
    let done = run(&["--record", visits_arg, "--record-seen", seen_arg]);
    assert_eq!(done.code, Some(0), "{done:?}");
    let [visits, seen] = [visits, seen].map(|path| Trace::read(&path).unwrap());
    assert_eq!(visits.accesses.len() as u64, done.figure("visits"));
    assert_eq!(visits.accesses.len() as u64, done.figure("recorded"));
    let mut visits_of = [0; 4096];
    for page in visits.accesses {
        visits_of[page as usize] += 1;
    }
    let hottest = (0..4096_u32).max_by_key(|page| visits_of[*page as usize]);
    assert!(seen.accesses.contains(&hottest.unwrap()));
    assert!(seen.pages <= 4096);
}

#[test]
fn a_trace_that_cannot_be_written_is_a_failure_and_costs_the_guest_nothing() {
    let missing = run(&["--record", "/nowhere/trace"]);
    assert_eq!(missing.code, Some(1));
    assert!(
        missing.err.starts_with("embedded-host: --record: "),
        "{missing:?}"
    );
    for (option, code) in [("--record", 1), ("--record-seen", 1)] {
        let full = run_until_paged(&[option, "/dev/full"]);
        assert_eq!(full.code, Some(code), "{option}: {full:?}");
        assert!(full.err.contains("--record: No space left"), "{full:?}");
        assert_eq!(full.figure("bad pages"), 0);
    }
}

#[test]
fn who_reads_no_accessed_bits_records_nothing() {
    let done = run(&["--policy", "sweep", "--record-seen", "/dev/null"]);
    assert_ne!(done.code, Some(0));
    assert!(
        done.err.contains("--record: the policy `sweep`"),
        "{done:?}"
    );
}
