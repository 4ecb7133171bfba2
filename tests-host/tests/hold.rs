// SPDX-License-Identifier: MIT OR Apache-2.0
//! Pages that a vcpu needs until it has got on are let go: `xen-glue/shim/hold.c`, compiled for this
//! machine with as much of Xen as it uses.

use std::fs;
use std::path::Path;
use std::process::Command;

#[test]
fn what_a_vcpu_holds_is_let_go_at_detach_and_when_it_is_given_back() {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    let hold = here.join("../xen-glue/shim/hold.c");
    let scratch = Path::new(env!("CARGO_TARGET_TMPDIR")).join("hold");
    // All of Xen that there is stands in one header, so that those that it includes are empty.
    let source = fs::read_to_string(&hold).unwrap();
    for line in source.lines() {
        let Some(name) = line.strip_prefix("#include <") else {
            continue;
        };
        let header = scratch.join("include").join(name.trim_end_matches('>'));
        fs::create_dir_all(header.parent().unwrap()).unwrap();
        fs::write(header, "").unwrap();
    }
    let program = scratch.join("hold");
    let compiled = Command::new("cc")
        .args(["-std=gnu99", "-Wall", "-Wextra", "-Werror", "-include"])
        .arg(here.join("tests/hold.h"))
        .arg("-I")
        .arg(scratch.join("include"))
        .arg(format!("-DHOLD_C=\"{}\"", hold.display()))
        .arg("-o")
        .arg(&program)
        .arg(here.join("tests/hold.c"))
        .output()
        .expect("a C compiler is missing: apt-get install gcc libc6-dev");
    let errors = String::from_utf8_lossy(&compiled.stderr);
    assert!(compiled.status.success(), "{errors}");
    let ran = Command::new(&program).output().expect("the program runs");
    let (said, errors) = (
        String::from_utf8_lossy(&ran.stdout),
        String::from_utf8_lossy(&ran.stderr),
    );
    assert!(ran.status.success(), "{said}{errors}");
}
