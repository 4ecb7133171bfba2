// SPDX-License-Identifier: MIT OR Apache-2.0
//! Accesses to a guest's pages: made up after a [pattern], and kept as a [trace](mod@format).

pub mod format;
pub mod pattern;
mod recorder;

pub use format::Trace;
pub use pattern::Pattern;
pub use recorder::Recorder;
