// SPDX-License-Identifier: MIT OR Apache-2.0
//! Pages that are pinned for a vcpu are unpinned again: `xen-glue/shim/pin.c`, compiled for this
//! machine with the part of Xen that it uses.

use std::fs;
use std::path::Path;
use std::process::Command;

#[test]
fn what_a_vcpu_pins_is_unpinned_at_detach_and_when_it_is_given_back() {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    let pin = here.join("../xen-glue/shim/pin.c");
    let scratch = Path::new(env!("CARGO_TARGET_TMPDIR")).join("pin");
    // One header has this whole part of Xen. The headers that pin.c includes are empty.
    let source = fs::read_to_string(&pin).unwrap();
    for line in source.lines() {
        let Some(name) = line.strip_prefix("#include <") else {
            continue;
        };
        let header = scratch.join("include").join(name.trim_end_matches('>'));
        fs::create_dir_all(header.parent().unwrap()).unwrap();
        fs::write(header, "").unwrap();
    }
    let program = scratch.join("pin");
    let compiled = Command::new("cc")
        .args(["-std=gnu99", "-Wall", "-Wextra", "-Werror", "-include"])
        .arg(here.join("tests/pin.h"))
        .arg("-I")
        .arg(scratch.join("include"))
        .arg(format!("-DPIN_C=\"{}\"", pin.display()))
        .arg("-o")
        .arg(&program)
        .arg(here.join("tests/pin.c"))
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
