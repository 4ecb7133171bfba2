// SPDX-License-Identifier: MIT OR Apache-2.0
//! The program `xenpaging`, whatever name it is executed under.

use std::ffi::OsString;
use std::io::IsTerminal as _;
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::Context as _;
use pager_accesses::Recorder;
use pager_core::policy::PolicyName;
use tracing::level_filters::LevelFilter;

use crate::cli::{Cli, Command};
use pager_shell::console::{self as output, LogWriter};

use crate::ask;
use crate::console::print_error;
use crate::exit::Exit;
use crate::not_started::NotStarted;
use crate::pagers::{Pagers, takes_over};
use crate::status;
use crate::swaps;

pub use crate::console::NAME;

/// Runs the pager with these arguments, the program's name first.
pub fn main(args: impl IntoIterator<Item = OsString>) -> ExitCode {
    let cli = match Cli::read(args) {
        Ok(cli) => cli,
        Err(exit) => return exit.into(),
    };
    log_to_stderr(cli.log_level());
    match &cli.command {
        Some(Command::Status { domain }) => return show_status(*domain).into(),
        Some(Command::Mkswap { file, size }) => return swaps::make(file, *size).into(),
        Some(Command::Swaps { pager, files }) => return swaps::show(pager, files).into(),
        Some(Command::Swapon { pager, area }) => return swaps::on(pager, area).into(),
        Some(Command::Swapoff { pager, file }) => return swaps::off(pager, file).into(),
        Some(Command::Upgrade { pager }) => return ask::upgrade(pager).into(),
        None => {}
    }
    output::hold_output();
    let recorder = match recorder(&cli) {
        // A trace is worth less than the pages that a guest waits for.
        Err(error) if takes_over(&cli) => {
            tracing::warn!("nothing is recorded: {error:#}");
            Ok(None)
        }
        recorder => recorder,
    };
    let started = match recorder {
        Ok(recorder) => Pagers::attach(&cli, recorder.as_ref()).map(|pagers| (pagers, recorder)),
        Err(error) => Err(NotStarted::new(error, || false)),
    };
    let exit = match started {
        Ok((pagers, recorder)) => {
            let exit = pagers.serve();
            recorder.map_or(exit, |recorder| complete(&recorder, exit))
        }
        Err(NotStarted { error, exit }) => {
            print_error(&error);
            exit
        }
    };
    output::finish();
    exit.into()
}

/// Logs to standard error, from this level on.
pub fn log_to_stderr(level: LevelFilter) {
    tracing_subscriber::fmt()
        .with_max_level(level)
        .with_writer(LogWriter::default)
        .with_ansi(std::io::stderr().is_terminal())
        .with_target(false)
        // Standard error may be closed. An internal error would be printed there too, and that
        // would panic.
        .log_internal_errors(false)
        .init();
}

/// Creates the file that records which of the guest's pages are used, if one is requested.
fn recorder(cli: &Cli) -> anyhow::Result<Option<Arc<Recorder>>> {
    if cli.record.is_some() && cli.policy == Some(PolicyName::Sweep) {
        anyhow::bail!("--record: the policy `sweep` does not read accessed bits");
    }
    let recorder = cli.record.as_deref().map(Recorder::create).transpose();
    Ok(recorder.context("--record")?.map(Arc::new))
}

/// Completes the trace. An incomplete trace is a failure.
fn complete(recorder: &Recorder, exit: Exit) -> Exit {
    match recorder.finish() {
        Ok((pages, accesses)) => {
            tracing::info!(pages, accesses, "recorded");
            exit
        }
        Err(error) => {
            print_error(&anyhow::Error::from(error).context("--record"));
            if exit == Exit::Done {
                Exit::Failed
            } else {
                exit
            }
        }
    }
}

fn show_status(domain: Option<u16>) -> Exit {
    match status::print(domain) {
        Ok(()) => Exit::Done,
        Err(error) => {
            print_error(&error.into());
            Exit::NotStarted
        }
    }
}
