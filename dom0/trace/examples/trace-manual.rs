// SPDX-License-Identifier: MIT OR Apache-2.0
//! Writes the manual page of `xenpaging-trace` and the completions for shells into a directory.
//! `ci/deb` packs them.

use std::path::PathBuf;

use anyhow::Context as _;
use clap::CommandFactory as _;
use clap_complete::Shell;
use pager_trace::cli::Cli;

fn main() -> anyhow::Result<()> {
    let directory = std::env::args_os()
        .nth(1)
        .context("usage: trace-manual DIRECTORY")?;
    let directory = PathBuf::from(directory);
    let mut command = Cli::command();
    clap_mangen::generate_to(command.clone(), &directory)?;
    for shell in [Shell::Bash, Shell::Zsh, Shell::Fish] {
        clap_complete::generate_to(shell, &mut command, "xenpaging-trace", &directory)?;
    }
    Ok(())
}
