// SPDX-License-Identifier: MIT OR Apache-2.0
//! Replays the fuzzers' corpus: each file is a life that reached something new.

use std::path::Path;

fn replay(target: &str, run: impl Fn(&[u8])) {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("corpus")
        .join(target);
    let mut lives = 0;
    for file in std::fs::read_dir(&directory).expect("the corpus is there") {
        let path = file.expect("a file").path();
        println!("{}", path.display());
        run(&std::fs::read(&path).expect("readable"));
        lives += 1;
    }
    assert!(lives > 50, "{lives} lives only");
}

#[test]
fn fuzz_ops() {
    replay("fuzz_ops", tests_host::fuzz::ops);
}

#[test]
fn fuzz_ring() {
    replay("fuzz_ring", tests_host::fuzz::ring);
}
