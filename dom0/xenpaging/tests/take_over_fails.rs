// SPDX-License-Identifier: MIT OR Apache-2.0
//! A pager that cannot take over ends with an exit code of its own, unless it is refused for a reason
//! that stays.

use std::fs::File;
use std::path::Path;
use std::process::Command;

use rustix::fs::FlockOperation;

/// Starts a pager whose host does not answer. Returns its exit code and what it has said.
fn start(index: &Path, options: &[&str]) -> (Option<i32>, String) {
    let nobody = format!("xenpaging-nobody-{}", std::process::id());
    let mut pager = Command::new(env!("CARGO_BIN_EXE_xenpaging"));
    pager.args(["--embedded-host", &nobody, "--pagefile"]);
    pager.arg(index.with_file_name("pages"));
    pager.arg("--index").arg(index).args(options);
    let ended = pager.output().unwrap();
    let said = String::from_utf8(ended.stderr).unwrap();
    assert_eq!(said.lines().count(), 1, "{said}");
    (ended.status.code(), said)
}

#[test]
fn a_take_over_that_may_succeed_later_is_one_for_the_next_pager() {
    let dir = tempfile::tempdir().unwrap();
    let index = dir.path().join("index");
    let (code, said) = start(&index, &[]);
    assert_eq!(code, Some(3), "nothing is out: {said}");
    std::fs::write(&index, "of a pager that was killed").unwrap();
    let (code, said) = start(&index, &[]);
    assert_eq!(code, Some(5), "{said}");
    assert!(
        said.starts_with("xenpaging: the take-over failed, and another pager is to try it again: "),
        "{said}"
    );
    assert!(index.exists());
    let other_pager = File::open(&index).unwrap();
    rustix::fs::flock(&other_pager, FlockOperation::LockExclusive).unwrap();
    let (code, said) = start(&index, &[]);
    assert_eq!(code, Some(3), "the guest has a pager: {said}");
}
