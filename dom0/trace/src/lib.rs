// SPDX-License-Identifier: MIT OR Apache-2.0
//! Traces of page accesses: generated, reduced, stored, and replayed against every policy.

pub mod ahead;
pub mod bounds;
pub mod chart;
pub mod cli;
pub mod compare;
pub mod generate;
pub mod lackey;
pub mod replay;
