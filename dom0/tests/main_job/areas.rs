//! Pages in swap areas (row C5).

use std::path::Path;
use std::process::Command;

use super::{Finished, run, run_until_paged};

fn xenpaging(args: &[&str]) -> Finished {
    let mut command = Command::new(env!("CARGO_BIN_EXE_xenpaging"));
    command.args(args).output().unwrap().into()
}

/// A new area; its path.
fn area(dir: &Path, name: &str, size: &str) -> String {
    let path = dir.join(name).to_str().unwrap().to_owned();
    let made = xenpaging(&["mkswap", &path, "--size", size]);
    assert_eq!((made.code, &*made.err), (Some(0), ""));
    assert!(made.out.starts_with(&format!("{path}: ")), "{}", made.out);
    path
}

/// Of two areas, the better one is too small for all.
#[test]
fn c5_pages_lie_in_two_swap_areas() {
    let dir = tempfile::tempdir().unwrap();
    let (small, large) = (area(dir.path(), "s", "1M"), area(dir.path(), "l", "16M"));
    let first = format!("{small}:1");
    run_until_paged(&["--swap", &first, "--swap", &large]).nothing_was_lost();
    // Something was written behind both headers, and both are areas still, nobody's.
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
