// SPDX-License-Identifier: MIT OR Apache-2.0
//! The program `xenpaging-trace`.

fn main() -> std::process::ExitCode {
    pager_trace::cli::main(std::env::args_os())
}
