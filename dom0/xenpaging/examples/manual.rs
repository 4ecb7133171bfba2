// SPDX-License-Identifier: MIT OR Apache-2.0
//! Writes the manual pages of `xenpaging` and the completions for shells into a directory. `ci/deb`
//! packs them.
//!
//! `xenpaging(8)` is written by hand in `xenpaging.8.in`, around the list of options that clap
//! generates. clap generates the whole pages of the subcommands.

use std::fs::{self, File};
use std::path::PathBuf;

use anyhow::Context as _;
use clap::CommandFactory as _;
use clap_complete::Shell;
use clap_mangen::Man;
use xenpaging::cli::Cli;

/// Section 8: commands of the system administrator.
const SECTION: &str = "8";

fn main() -> anyhow::Result<()> {
    let directory = std::env::args_os()
        .nth(1)
        .context("usage: manual DIRECTORY")?;
    let directory = PathBuf::from(directory);
    let mut command = Cli::command();
    for shell in [Shell::Bash, Shell::Zsh, Shell::Fish] {
        clap_complete::generate_to(shell, &mut command, "xenpaging", &directory)?;
    }
    command.build();
    let mut options = Vec::new();
    Man::new(command.clone())
        .section(SECTION)
        .render_options_section(&mut options)?;
    let page = include_str!("../xenpaging.8.in")
        .replace("@VERSION@", env!("CARGO_PKG_VERSION"))
        .replace("@OPTIONS@\n", std::str::from_utf8(&options)?);
    fs::write(directory.join("xenpaging.8"), page)?;
    for subcommand in command.get_subcommands() {
        if subcommand.get_name() == "help" {
            continue;
        }
        let name = format!("xenpaging-{}.{SECTION}", subcommand.get_name());
        let man = Man::new(subcommand.clone()).section(SECTION);
        man.render(&mut File::create(directory.join(name))?)?;
    }
    Ok(())
}
