// SPDX-License-Identifier: MIT OR Apache-2.0
//! The program `xenpaging`: the pager.

fn main() -> std::process::ExitCode {
    xenpaging::pager_main::main(std::env::args_os())
}
