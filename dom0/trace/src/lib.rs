//! Traces of page accesses: made, reduced, kept, and replayed against every policy.

pub mod ahead;
pub mod bounds;
pub mod chart;
pub mod cli;
pub mod compare;
#[path = "../../accesses/src/format.rs"]
pub mod format;
pub mod generate;
pub mod lackey;
#[path = "../../accesses/src/recorder.rs"]
pub mod recorder;
pub mod replay;
