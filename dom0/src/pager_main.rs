//! The program `xenpaging`, under whichever name it is executed.

use std::ffi::OsString;
use std::io::IsTerminal as _;
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::Context as _;
use tracing::level_filters::LevelFilter;

use crate::cli::{Cli, Command, Exit};
use crate::core::Pager;
use crate::core::policy::PolicyName;
use crate::embedded::EmbeddedMachine;
use crate::harden::protect_memory;
use crate::shell::{Machine, Options, Shell, ShellError};
use crate::status;
use crate::store::PageStore;
use crate::store::alike::Alike;
use crate::store::areas::Areas;
use crate::store::memory::MemoryStore;
use crate::store::pagefile::{Keep, Pagefile};
use crate::swaps;
use crate::trace;
use crate::trace::recorder::Recorder;
use crate::xen::{Domain, calls_made};

/// Name of the program, and what the embedded host is executed as to be it.
pub const NAME: &str = "xenpaging";

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
        Some(Command::Trace(command)) => return trace::cli::run(command).into(),
        None => {}
    }
    let started =
        recorder(&cli).and_then(|recorder| Ok((start(&cli, recorder.clone())?, recorder)));
    match started {
        Ok(((shell, pagefile), recorder)) => {
            let exit = serve(shell, pagefile);
            recorder.map_or(exit, |recorder| complete(&recorder, exit))
        }
        Err(error) => {
            complain(&error);
            Exit::NotStarted
        }
    }
    .into()
}

/// Lines on standard error, from this level on.
pub fn log_to_stderr(level: LevelFilter) {
    tracing_subscriber::fmt()
        .with_max_level(level)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal())
        .with_target(false)
        .init();
}

fn complain(error: &anyhow::Error) {
    eprintln!("{NAME}: {error:#}");
}

/// Where the guest's pages are to be taken down as they are used.
fn recorder(cli: &Cli) -> anyhow::Result<Option<Arc<Recorder>>> {
    if cli.record.is_some() && cli.policy == Some(PolicyName::Sweep) {
        anyhow::bail!("--record: the policy `sweep` does not read accessed bits");
    }
    let recorder = cli.record.as_deref().map(Recorder::create).transpose();
    Ok(recorder.context("--record")?.map(Arc::new))
}

/// The trace is whole, or that is a failure.
fn complete(recorder: &Recorder, exit: Exit) -> Exit {
    match recorder.finish() {
        Ok((pages, accesses)) => {
            tracing::info!(pages, accesses, "recorded");
            exit
        }
        Err(error) => {
            complain(&anyhow::Error::from(error).context("--record"));
            if exit == Exit::Done {
                Exit::Failed
            } else {
                exit
            }
        }
    }
}

fn start(
    cli: &Cli,
    record: Option<Arc<Recorder>>,
) -> anyhow::Result<(Shell, Option<Arc<Pagefile>>)> {
    let machine = find_guest(cli)?;
    if cli.embedded_host.is_none() {
        protect_memory();
    }
    let guest = machine.guest();
    let mut config = cli.config(guest.max_pages, &guest.memory);
    let areas = match &cli.swap[..] {
        [] => None,
        choices => Some(Areas::claim(choices).context("swap area")?),
    };
    if let Some(areas) = &areas {
        config.areas = areas.ranges();
    }
    let make = |name: PolicyName| name.policy(&config.memory, &cli.sweep());
    let policy = make(cli.policy.unwrap_or(PolicyName::Reuse));
    let blind = cli.policy.is_none().then_some(|| make(PolicyName::Sweep));
    let pager = Pager::new(config.clone(), policy);
    let keep = if cli.keep_pagefile {
        Keep::Named
    } else {
        Keep::Unlinked
    };
    let pagefile = match &cli.pagefile {
        Some(path) => Some(Arc::new(Pagefile::create(path, keep).context("pagefile")?)),
        None => None,
    };
    let areas = areas.map(Arc::new);
    let store: Arc<dyn PageStore> = match (&areas, &pagefile) {
        (Some(areas), _) => Arc::clone(areas) as _,
        (None, Some(pagefile)) => Arc::clone(pagefile) as _,
        (None, None) => Arc::new(MemoryStore::new()),
    };
    let store = if cli.share_alike {
        Arc::new(Alike::new(store))
    } else {
        store
    };
    let domain = cli.domain.map(|id| format!("{{domain=\"{id}\"}}"));
    let options = Options {
        metrics: cli.metrics,
        labels: domain.unwrap_or_default(),
        record,
        // The embedded host has a line of its own.
        live: cli.embedded_host.is_none(),
        harden: cli.embedded_host.is_none(),
        named_pagefile: cli.pagefile.clone().filter(|_| cli.keep_pagefile),
        areas,
        control: cli.pager_of().control_name(),
    };
    match Shell::start(&options, pager, blind, store, machine) {
        Ok(shell) => Ok((shell, pagefile)),
        Err(error) => {
            remove(pagefile);
            Err(error.into())
        }
    }
}

fn show_status(domain: Option<u16>) -> Exit {
    match status::print(domain) {
        Ok(()) => Exit::Done,
        Err(error) => {
            complain(&error.into());
            Exit::NotStarted
        }
    }
}

/// The domain that was named, or the guest of the embedded host that was.
fn find_guest(cli: &Cli) -> anyhow::Result<Box<dyn Machine>> {
    match (&cli.embedded_host, cli.domain) {
        (Some(host), _) => Ok(Box::new(EmbeddedMachine::connect(host)?)),
        (None, Some(domain)) => Ok(Box::new(Domain::find(domain)?)),
        (None, None) => anyhow::bail!("no domain is named"),
    }
}

fn serve(shell: Shell, pagefile: Option<Arc<Pagefile>>) -> Exit {
    match shell.serve() {
        Ok(ended) if ended.summary.unreadable_pages > 0 => {
            let pages = ended.summary.unreadable_pages;
            tracing::error!("{pages} pages do not read back: paging stays enabled");
            Exit::PagesOut
        }
        Ok(ended) => {
            remove(pagefile);
            let (p, s) = (ended.progress, ended.store);
            let (hypercalls, maps) = calls_made();
            tracing::info!(
                evicted = p.evicted,
                written = p.written,
                unchanged = p.unchanged,
                alike = p.alike,
                zeros = p.zeros,
                paged_in = p.paged_in,
                read_ahead = p.read_ahead,
                hits = p.judged.hits,
                wasted = p.judged.wasted,
                store_reads = s.reads,
                pages_read = s.pages_read,
                store_writes = s.writes,
                hypercalls,
                maps,
                "done"
            );
            Exit::Done
        }
        Err(error @ (ShellError::Events(_) | ShellError::Worker)) => {
            complain(&error.into());
            Exit::PagesOut
        }
        Err(error) => {
            complain(&error.into());
            remove(pagefile);
            Exit::Failed
        }
    }
}

/// Nothing is in it any more that anybody needs.
fn remove(pagefile: Option<Arc<Pagefile>>) {
    let Some(pagefile) = pagefile.and_then(Arc::into_inner) else {
        return;
    };
    if let Err(error) = pagefile.remove() {
        tracing::warn!("{error}");
    }
}
