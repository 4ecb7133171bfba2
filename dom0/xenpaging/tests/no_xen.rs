// SPDX-License-Identifier: MIT OR Apache-2.0
//! Without Xen the pager prints one line, ends with exit code 3, and leaves no file behind.

use std::path::Path;
use std::process::Command;

#[test]
fn without_xen_nothing_is_begun_and_one_line_says_why() {
    if Path::new("/dev/xen/privcmd").exists() || Path::new("/proc/xen/privcmd").exists() {
        return; // This host has Xen: ci/xen.d/tests/55-pager-refusals.sh has this case too.
    }
    let directory = tempfile::tempdir().unwrap();
    let pagefile = directory.path().join("pagefile");
    for arguments in [
        &["-d", "3", "-f"][..],
        &["-d", "3", "--keep-pagefile", "-f"],
    ] {
        let mut pager = Command::new(env!("CARGO_BIN_EXE_xenpaging"));
        let ended = pager.args(arguments).arg(&pagefile).output().unwrap();
        let said = String::from_utf8(ended.stderr).unwrap();
        assert_eq!(ended.status.code(), Some(3), "{said}");
        assert!(
            said.starts_with("xenpaging: there is no Xen here"),
            "{said}"
        );
        assert_eq!(said.lines().count(), 1, "{said}");
        assert!(!pagefile.exists());
    }
}
