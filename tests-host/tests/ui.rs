// SPDX-License-Identifier: MIT OR Apache-2.0
//! What must not compile, and what the compiler says about it. `TRYBUILD=overwrite` takes its words.

#[test]
fn what_must_not_compile_does_not() {
    trybuild::TestCases::new().compile_fail("tests/ui/*.rs");
}
