// SPDX-License-Identifier: MIT OR Apache-2.0
//! Lines for people.

use std::fmt::Display;
use std::io::{self, Write as _};

/// Prints a line. Who has stopped reading has read enough.
pub fn print_line(line: impl Display) {
    let _ = writeln!(io::stdout(), "{line}");
}

/// Prints a line on standard error. Nobody may be listening there, and a pager that died of that would take pages with it.
pub fn print_error(line: impl Display) {
    let _ = writeln!(io::stderr(), "{line}");
}
