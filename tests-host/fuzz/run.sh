#!/bin/sh
# SPDX-License-Identifier: MIT OR Apache-2.0
# Runs a fuzz target: run.sh fuzz_ops|fuzz_ring [libFuzzer options, such as -runs=1000000]
# New inputs go to a directory of their own. `-merge=1` with the corpus first reduces them.
set -eu
cd "$(dirname "$0")"
target=$1
shift
coverage="-Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=4 \
-Cllvm-args=-sanitizer-coverage-inline-8bit-counters -Cllvm-args=-sanitizer-coverage-pc-table \
-Cllvm-args=-sanitizer-coverage-trace-compares"
host=$(rustc +nightly -vV | sed -n 's/^host: //p')
RUSTFLAGS="--cfg fuzzing $coverage" cargo +nightly build --release --target "$host" --bin "$target"
found=${FUZZ_FOUND:-found/$target}
mkdir -p "$found" "../corpus/$target"
exec "${CARGO_TARGET_DIR:-target}/$host/release/$target" "$found" "../corpus/$target" "$@"
