// SPDX-License-Identifier: MIT OR Apache-2.0
//! A machine whose guest is paged without Xen: the main job, and a place to try the pager.
//!
//! Executed as `xenpaging`, this program is the pager. The host starts its second process in this
//! way.

use std::ffi::OsStr;
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use clap::Parser;
use clap::builder::{PossibleValue, PossibleValuesParser, TypedValueParser};
use pager_accesses::Pattern;
use pager_core::policy::PolicyName;
use pager_shell::console::{self, print_error, print_line, start_output_thread};
use pager_store::areas::AreaChoice;
use tracing::level_filters::LevelFilter;
use xenpaging::cli::{gfns, marks, one_line, policy, swap_area};
use xenpaging::exit::Exit;
use xenpaging::job::{self, JobOptions, PagerCommand, StoreChoice, parse_size};
use xenpaging::pager_main;

/// Runs a guest whose memory a second process pages, verifies every page, and reports the result.
///
/// Ends with 0 if nothing was lost, with 2 if userfaultfd is refused or an option is not valid,
/// else with 1.
#[derive(Debug, Parser)]
#[command(name = "embedded-host", version, args_override_self = true)]
struct Cli {
    /// Memory of the guest, in MiB, or with K, M or G.
    #[arg(long, default_value = "256M", value_parser = parse_size)]
    size: u64,
    /// How much of the guest's memory is to be resident. [default: half of the size]
    #[arg(long, value_parser = parse_size)]
    target: Option<u64>,
    /// Number of vcpus.
    #[arg(long, default_value_t = 4)]
    vcpus: u32,
    /// How long the vcpus work.
    #[arg(long, default_value_t = 20)]
    seconds: u32,
    /// Seed of all random choices.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Which pages are visited.
    #[arg(long, default_value = "zipf", value_parser = pattern())]
    workload: Pattern,
    /// Percentage of visits that change their page.
    #[arg(long, default_value_t = 50, value_name = "PERCENT",
          value_parser = clap::value_parser!(u32).range(0..=100))]
    writes: u32,
    /// Number of pages that the guest gives back while they are out.
    #[arg(long, default_value_t = 0, value_name = "PAGES")]
    balloon: u64,
    /// Where to store pages: `memory`, or a file, which must not exist.
    #[arg(long, default_value = "memory", value_name = "memory|FILE")]
    store: PathBuf,
    /// Swap area to store pages in instead, made by `xenpaging mkswap` (repeatable).
    #[arg(long, value_name = "FILE[:PRIORITY]", conflicts_with = "store", value_parser = swap_area)]
    swap: Vec<AreaChoice>,
    /// Which pages go out. [default: reuse]
    #[arg(long, value_name = "NAME", value_parser = policy())]
    policy: Option<PolicyName>,
    /// No read-ahead: the pager brings in requested pages only.
    #[arg(long)]
    no_read_ahead: bool,
    /// Deduplicate: the pager does not write a page that equals one in the store.
    #[arg(long, alias = "share-alike")]
    dedup: bool,
    /// Gfns that are never paged out, like 0-0xff or 4096 (repeatable).
    #[arg(long, value_name = "A-B", value_parser = gfns)]
    gfns: Vec<RangeInclusive<u64>>,
    /// Stop the pager this long after the start, and continue without it.
    #[arg(long, value_name = "SECONDS")]
    stop_pager_at: Option<u32>,
    /// Kill the pager this long after the start, as kill -9 does (repeatable).
    #[arg(long, value_name = "SECONDS", value_parser = kill_time)]
    kill_pager_at: Vec<Duration>,
    /// End if the pager dies. Otherwise another one takes over, unless pages are stored in memory.
    #[arg(long)]
    no_restart: bool,
    /// Fill the guest's memory from this file or directory. [default: /usr/lib and /usr/bin]
    #[arg(long, value_name = "PATH")]
    load: Option<PathBuf>,
    /// The machine has this much memory for its guest. The pager keeps some of it free, as
    /// --watermarks says.
    #[arg(long, value_name = "SIZE", value_parser = parse_size, requires = "watermarks")]
    host_memory: Option<u64>,
    /// With --host-memory: page-out begins when less than LOW of it is free and ends at HIGH; below
    /// MIN all that is missing goes out at once.
    #[arg(long, value_name = "MIN,LOW,HIGH", value_parser = checked_marks, requires = "host_memory")]
    watermarks: Option<String>,
    /// Let the scheduler choose the CPU on which faults are handled.
    #[arg(long)]
    no_pin: bool,
    /// Record every visit in this file, for `xenpaging-trace replay`.
    #[arg(long, value_name = "FILE")]
    record: Option<PathBuf>,
    /// The pager records in this file which pages it sees used.
    #[arg(long, value_name = "FILE")]
    record_seen: Option<PathBuf>,
    /// Log more, in the pager too. Repeat for more.
    #[arg(short, long, action = clap::ArgAction::Count)]
    verbose: u8,
}

/// Checks the watermarks. The pager uses them, but wrong ones must be refused before memory is
/// filled.
fn checked_marks(text: &str) -> Result<String, String> {
    marks(text).map(|_| text.to_owned())
}

/// A time in seconds, like 2 or 0.25.
fn kill_time(text: &str) -> Result<Duration, String> {
    let seconds = text.parse().ok();
    let time = seconds.and_then(|seconds| Duration::try_from_secs_f64(seconds).ok());
    time.ok_or_else(|| "give a number of seconds".to_owned())
}

/// A pattern, by its name.
fn pattern() -> impl TypedValueParser<Value = Pattern> {
    let possible = |pattern: Pattern| PossibleValue::new(pattern.name()).help(pattern.about());
    PossibleValuesParser::new(Pattern::ALL.map(possible))
        .try_map(|name| Pattern::named(&name).ok_or_else(|| format!("'{name}' is not a workload")))
}

fn main() -> ExitCode {
    let name = std::env::args_os().next();
    let name = name.as_deref().map(Path::new).and_then(Path::file_name);
    if name == Some(OsStr::new(pager_main::NAME)) {
        return pager_main::main(std::env::args_os());
    }
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) if error.use_stderr() => {
            print_error(format_args!("embedded-host: {}", one_line(&error)));
            return ExitCode::from(Exit::Usage);
        }
        Err(help) => {
            // Standard output may be closed. Help that nobody reads is not a failure.
            let _ = help.print();
            return ExitCode::SUCCESS;
        }
    };
    pager_main::log_to_stderr(match cli.verbose {
        0 => LevelFilter::WARN,
        1 => LevelFilter::INFO,
        _ => LevelFilter::DEBUG,
    });
    start_output_thread();
    let code = match run(cli) {
        Ok(code) => code,
        Err(Failed { message, code }) => {
            if let Some(message) = message {
                print_error(format_args!("embedded-host: {message}"));
            }
            ExitCode::from(code)
        }
    };
    console::finish();
    code
}

struct Failed {
    /// `None` if the message has been printed.
    message: Option<String>,
    code: u8,
}

fn run(cli: Cli) -> Result<ExitCode, Failed> {
    let program = std::env::current_exe().map_err(|error| Failed {
        message: Some(format!("this program cannot be found: {error}")),
        code: 1,
    })?;
    let seconds = |s: u32| Duration::from_secs(s.into());
    let options = JobOptions {
        size_bytes: cli.size,
        target_bytes: cli.target.unwrap_or(cli.size / 2),
        vcpus: cli.vcpus,
        duration: seconds(cli.seconds),
        seed: cli.seed,
        pattern: cli.workload,
        writes_percent: cli.writes,
        balloon: cli.balloon,
        store: if !cli.swap.is_empty() {
            StoreChoice::Areas(cli.swap)
        } else if cli.store == Path::new("memory") {
            StoreChoice::Memory
        } else {
            StoreChoice::File(cli.store)
        },
        policy: cli.policy,
        read_ahead: !cli.no_read_ahead,
        dedup: cli.dedup,
        never: cli.gfns,
        host_memory: cli.host_memory.zip(cli.watermarks),
        stop_pager_at: cli.stop_pager_at.map(seconds),
        kill_pager_at: cli.kill_pager_at,
        restart: !cli.no_restart,
        load: cli.load,
        pin: !cli.no_pin,
        record: cli.record,
        record_seen: cli.record_seen,
        verbosity: cli.verbose,
    };
    let pager = PagerCommand {
        program,
        name: pager_main::NAME,
    };
    let report = job::run(&options, &pager).map_err(|error| Failed {
        message: (!error.is_said()).then(|| error.to_string()),
        code: error.exit_code(),
    })?;
    print_line(&report);
    let unrecorded = report
        .recorded
        .as_ref()
        .and_then(|done| done.as_ref().err());
    if report.nothing_lost() {
        print_line("nothing was lost");
        match unrecorded {
            None => Ok(ExitCode::SUCCESS),
            Some(error) => Err(Failed {
                message: Some(format!("--record: {error}")),
                code: 1,
            }),
        }
    } else {
        print_line("MEMORY OF THE GUEST WAS LOST, or the pager failed");
        Ok(ExitCode::FAILURE)
    }
}
