// SPDX-License-Identifier: MIT OR Apache-2.0
//! Code that must not compile, and the compiler's errors. `TRYBUILD=overwrite` accepts new errors.

#[test]
fn what_must_not_compile_does_not() {
    trybuild::TestCases::new().compile_fail("tests/ui/*.rs");
}
