// SPDX-License-Identifier: MIT OR Apache-2.0
//! What the program prints on standard error.

use pager_shell::console;

/// Name of the program, and what the embedded host is executed as to be it.
pub const NAME: &str = "xenpaging";

/// Prints an error and its causes in one line.
pub(crate) fn print_error(error: &anyhow::Error) {
    console::print_error(format_args!("{NAME}: {error:#}"));
}
