// SPDX-License-Identifier: MIT OR Apache-2.0
//! Tests, benches and fuzz targets that use several rooms.

pub mod floors;
pub mod fuzz;
pub mod guest;
pub mod hostile;
pub mod lockstep;
pub mod machine;
pub mod pathologies;
pub mod plain;
pub mod scheduler;
pub mod simulate;
pub mod tasks;
