// SPDX-License-Identifier: MIT OR Apache-2.0
//! The machine, the model and the targets of `tests-host`, built without the rest of it.

#[path = "../../src/fuzz.rs"]
pub mod fuzz;
#[path = "../../src/hostile.rs"]
pub mod hostile;
#[path = "../../src/plain/mod.rs"]
pub mod plain;
#[path = "../../src/lockstep/mod.rs"]
pub mod lockstep;
