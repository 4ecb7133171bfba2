// SPDX-License-Identifier: MIT OR Apache-2.0
//! Output on standard error.

use pager_shell::console;

/// The name of the program. The embedded host is executed under this name to be the pager.
pub const NAME: &str = "xenpaging";

/// Prints an error and its causes in one line.
pub(crate) fn print_error(error: &anyhow::Error) {
    console::print_error(format_args!("{NAME}: {error:#}"));
}
