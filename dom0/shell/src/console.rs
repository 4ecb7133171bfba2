// SPDX-License-Identifier: MIT OR Apache-2.0
//! Lines that a person reads.

use std::fmt::Display;
use std::io::{self, Write as _};

/// Prints a line. An error of standard output is ignored, since nobody reads it then.
pub fn print_line(line: impl Display) {
    let _ = writeln!(io::stdout(), "{line}");
}

/// Prints a line on standard error and ignores errors: standard error may be closed, and a pager
/// that ended because of that would lose the guest's pages.
pub fn print_error(line: impl Display) {
    let _ = writeln!(io::stderr(), "{line}");
}
