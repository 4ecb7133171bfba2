//! The command line of `xenpaging`: what Xen's tool takes, and a little more.
//!
//! Bad input is one line on standard error that names it. How the program ends says what became of
//! the guest:
//!
//! | code | [`Exit`] | meaning |
//! |---|---|---|
//! | 0 | `Done` | every page is home and paging is disabled, the guest is gone, or help was asked for |
//! | 1 | `Failed` | stopped by an error after it had started; every page is home |
//! | 2 | `Usage` | the arguments make no sense; nothing was done |
//! | 3 | `NotStarted` | the domain, the pagefile or Xen refused; nothing was paged out |
//! | 4 | `PagesOut` | pages are out that could not be brought home: paging stays enabled, the pagefile must be kept |

use std::ffi::OsString;
use std::fmt::Display;
use std::io::{self, Write as _};
use std::net::{Ipv4Addr, SocketAddr};
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{ArgAction, ArgGroup, Args, Parser, Subcommand};
use p2m_paging::{Gfn, PAGE_SIZE};
use tracing::level_filters::LevelFilter;

use crate::core::Config;
use crate::core::policy::{DEFAULT_MRU_PAGES, PolicyName, SweepOptions};
use crate::host::job::parse_size;
use crate::shell::control;
use crate::store::areas::AreaChoice;
use crate::trace;

/// The first domain number that is no domain's (`DOMID_FIRST_RESERVED`).
const DOMID_FIRST_RESERVED: i64 = 0x7ff0;

/// How the program ends. See the [module](self).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Exit {
    /// Everything is home.
    Done = 0,
    /// An error, everything is home.
    Failed = 1,
    /// Bad arguments.
    Usage = 2,
    /// Could not start.
    NotStarted = 3,
    /// Pages are out that do not read back.
    PagesOut = 4,
}

const EXIT_CODES: &str = "\
Exit codes:
  0  every page is home and paging is disabled, or the guest is gone
  1  stopped by an error after it had started; every page is home
  2  the arguments make no sense; nothing was done
  3  the domain, the pagefile or Xen refused; nothing was paged out
  4  pages are out that could not be brought home: keep the pagefile";

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit as u8)
    }
}

/// Keeps a guest below its memory target: pages its memory out to a file and back.
#[derive(Clone, Debug, PartialEq, Eq, Parser)]
#[command(
    name = "xenpaging",
    version,
    infer_long_args = true,
    after_help = EXIT_CODES,
    subcommand_negates_reqs = true,
    args_conflicts_with_subcommands = true
)]
pub struct Cli {
    /// What to do instead of paging.
    #[command(subcommand)]
    pub command: Option<Command>,

    /// Number of the domain to be paged.
    #[arg(short, long, value_name = "DOMID", required_unless_present = "embedded_host",
          value_parser = clap::value_parser!(u16).range(1..DOMID_FIRST_RESERVED))]
    pub domain: Option<u16>,

    /// File to keep pages in. Must not exist: it is created, for the pager alone.
    #[arg(
        short = 'f',
        long,
        value_name = "FILE",
        required_unless_present_any = ["embedded_host", "swap"]
    )]
    pub pagefile: Option<PathBuf>,

    /// Swap area to keep pages in, instead of a pagefile: made by `xenpaging mkswap`, and for this pager alone.
    /// Areas are filled by priority, highest first, those of the same in turn [default: 0] (repeatable).
    #[arg(long, value_name = "FILE[:PRIORITY]", value_parser = swap_area,
          conflicts_with_all = ["pagefile", "keep_pagefile"])]
    pub swap: Vec<AreaChoice>,

    /// How much of the guest's memory to handle, from its start on, in KiB [default: all].
    #[arg(short = 'm', long = "max_memkb", value_name = "KIB",
          value_parser = clap::value_parser!(u64).range(4..))]
    pub max_memkb: Option<u64>,

    /// Which pages go out [default: reuse if the hypervisor says which pages are used, else sweep].
    #[arg(long, value_name = "NAME")]
    pub policy: Option<PolicyName>,

    /// How many of the pages that came back last are not paged out again, with `--policy sweep`. Any
    /// number, 0 for none.
    #[arg(short = 'r', long = "mru_size", value_name = "PAGES",
          default_value_t = DEFAULT_MRU_PAGES)]
    pub mru_size: usize,

    /// Bring in only pages that are asked for, also where memory is gone through in order.
    #[arg(long)]
    pub no_read_ahead: bool,

    /// Look whether a page that goes out is like one that is in the store, and do not write it again.
    #[arg(long)]
    pub share_alike: bool,

    /// Log more; twice for each batch, three times for everything.
    #[arg(short, long, action = ArgAction::Count)]
    pub verbose: u8,

    /// Frame numbers that are never paged out, like 0-0xff or 4096 (repeatable).
    #[arg(long, value_name = "A-B", value_parser = gfns)]
    pub gfns: Vec<RangeInclusive<u64>>,

    /// Frame numbers that are the only ones to be paged out (repeatable).
    #[arg(long, value_name = "A-B", value_parser = gfns)]
    pub only_gfns: Vec<RangeInclusive<u64>>,

    /// Keep the pagefile's name until the end; otherwise the file has none from the start.
    #[arg(long)]
    pub keep_pagefile: bool,

    /// Take down in this file which pages accessed bits show to be used, scan after scan, for
    /// `xenpaging trace replay`.
    #[arg(long, value_name = "FILE")]
    pub record: Option<PathBuf>,

    /// Serve figures for Prometheus there, at /metrics; a port alone is one of 127.0.0.1.
    #[arg(long, value_name = "ADDRESS", value_parser = metrics_address)]
    pub metrics: Option<SocketAddr>,

    /// Where an embedded host listens, in place of Xen.
    #[arg(long, hide = true, value_name = "ADDRESS", conflicts_with = "domain")]
    pub embedded_host: Option<String>,
}

/// What else the program does.
#[derive(Clone, Debug, PartialEq, Eq, Subcommand)]
pub enum Command {
    /// Make traces of page accesses, and replay them against the policies.
    #[command(subcommand)]
    Trace(trace::cli::Command),

    /// Make a file or a block device a swap area. What was in it is lost.
    Mkswap {
        /// The file or device.
        file: PathBuf,
        /// Make the file this long, and make it at all if it is not there: a number with K, M or G, or of MiB.
        #[arg(long, value_parser = parse_size)]
        size: Option<u64>,
    },

    /// Show what swap areas say of themselves, and whether a pager has them; or those that a pager has.
    Swaps {
        /// Whose.
        #[command(flatten)]
        pager: PagerOf,
        /// Files or devices.
        #[arg(required_unless_present_any = ["domain", "embedded_host"])]
        files: Vec<PathBuf>,
    },

    /// Give one more swap area to a pager that runs with some.
    #[command(group(ArgGroup::new("whose").args(["domain", "embedded_host"]).required(true)))]
    Swapon {
        /// Whose.
        #[command(flatten)]
        pager: PagerOf,
        /// The file or device, made by `xenpaging mkswap`.
        #[arg(value_name = "FILE[:PRIORITY]", value_parser = swap_area)]
        area: AreaChoice,
    },

    /// Take a swap area from a running pager: its pages are moved to the others meanwhile. Waits until that is done.
    #[command(group(ArgGroup::new("whose").args(["domain", "embedded_host"]).required(true)))]
    Swapoff {
        /// Whose.
        #[command(flatten)]
        pager: PagerOf,
        /// The file or device.
        file: PathBuf,
    },

    /// Show what the pagers on this host are doing, a line for each domain.
    Status {
        /// Only of this domain.
        #[arg(short, long, value_name = "DOMID")]
        domain: Option<u16>,
    },
}

/// Which pager is meant.
#[derive(Clone, Debug, Default, PartialEq, Eq, Args)]
pub struct PagerOf {
    /// The pager of this domain.
    #[arg(short, long, value_name = "DOMID")]
    pub domain: Option<u16>,
    /// The one of this embedded host.
    #[arg(long, hide = true, value_name = "ADDRESS", conflicts_with = "domain")]
    pub embedded_host: Option<String>,
}

impl PagerOf {
    /// Where it listens to operators.
    pub fn control_name(&self) -> Option<String> {
        let domain = self.domain.map(control::domain_name);
        domain.or_else(|| self.embedded_host.as_deref().map(control::embedded_name))
    }
}

impl Cli {
    /// The pager that this is to be.
    pub fn pager_of(&self) -> PagerOf {
        PagerOf {
            domain: self.domain,
            embedded_host: self.embedded_host.clone(),
        }
    }

    /// Reads the arguments, the program's name first. Where there is nothing more to do (help, bad
    /// arguments) everything has been said, and the program ends like this.
    pub fn read(args: impl IntoIterator<Item = OsString>) -> Result<Self, Exit> {
        Self::try_parse_from(args).map_err(|error| {
            if error.use_stderr() {
                eprintln!("xenpaging: {}", one_line(&error));
                return Exit::Usage;
            }
            // Standard output may be closed; help that nobody reads is no failure.
            let _ = error.print();
            Exit::Done
        })
    }

    /// What is logged.
    pub fn log_level(&self) -> LevelFilter {
        match self.verbose {
            0 => LevelFilter::WARN,
            1 => LevelFilter::INFO,
            2 => LevelFilter::DEBUG,
            _ => LevelFilter::TRACE,
        }
    }

    /// The core's settings, for a guest with memory at these frame numbers.
    pub fn config(&self, max_pages: u64, memory: &[RangeInclusive<u64>]) -> Config {
        let page_kib = PAGE_SIZE as u64 / 1024;
        let handled = self.max_memkb.map_or(u64::MAX, |kib| kib / page_kib);
        let usual = Config::new(max_pages);
        Config {
            memory: first_pages(memory, handled),
            read_ahead: if self.no_read_ahead {
                0
            } else {
                usual.read_ahead
            },
            ..usual
        }
    }

    /// What the sweep leaves alone.
    pub fn sweep(&self) -> SweepOptions {
        SweepOptions {
            mru_pages: self.mru_size,
            never: self.gfns.clone(),
            only: self.only_gfns.clone(),
        }
    }
}

/// Prints a line. Who has stopped reading has read enough.
pub fn say(line: impl Display) {
    let _ = writeln!(io::stdout(), "{line}");
}

/// Clap's message without what follows it.
pub fn one_line(error: &clap::Error) -> String {
    let text = error.render().to_string();
    let message = text.split("\n\n").next().unwrap_or_default();
    let words: Vec<_> = message.split_whitespace().collect();
    words.join(" ").trim_start_matches("error: ").to_owned()
}

/// A file, or a file and a priority.
pub fn swap_area(text: &str) -> Result<AreaChoice, String> {
    let (path, priority) = match text.rsplit_once(':') {
        Some((path, priority)) => match priority.parse() {
            Ok(priority) => (path, priority),
            Err(_) => return Err(format!("'{priority}' is no priority: a whole number")),
        },
        None => (text, 0),
    };
    let path = PathBuf::from(path);
    Ok(AreaChoice { path, priority })
}

/// An address and a port, or a port.
fn metrics_address(text: &str) -> Result<SocketAddr, String> {
    let port = text.parse().map(|port| (Ipv4Addr::LOCALHOST, port).into());
    port.or_else(|_| text.parse())
        .map_err(|_| format!("'{text}' is no address like 127.0.0.1:9100"))
}

/// A range like `0-0xff`, or one number.
pub fn gfns(text: &str) -> Result<RangeInclusive<u64>, String> {
    let (first, last) = text.split_once('-').unwrap_or((text, text));
    let (first, last) = (gfn(first)?, gfn(last)?);
    if first > last {
        return Err(format!("{first} is above {last}"));
    }
    Ok(first..=last)
}

fn gfn(text: &str) -> Result<u64, String> {
    let number = match text.strip_prefix("0x") {
        Some(digits) => u64::from_str_radix(digits, 16),
        None => text.parse(),
    };
    number
        .ok()
        .and_then(Gfn::try_new)
        .map(Gfn::get)
        .ok_or_else(|| format!("'{text}' is no frame number (0 to {:#x})", Gfn::MAX.get()))
}

/// So many pages of a guest's memory, lowest first.
fn first_pages(memory: &[RangeInclusive<u64>], mut pages: u64) -> Vec<RangeInclusive<u64>> {
    let mut handled = Vec::new();
    for range in memory {
        if pages == 0 || range.is_empty() {
            continue;
        }
        let last = range.start().saturating_add(pages - 1).min(*range.end());
        pages -= (last - range.start()).saturating_add(1).min(pages);
        handled.push(*range.start()..=last);
    }
    handled
}

#[cfg(test)]
#[path = "cli_tests.rs"]
mod tests;
