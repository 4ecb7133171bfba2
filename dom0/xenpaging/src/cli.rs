// SPDX-License-Identifier: MIT OR Apache-2.0
//! The command line of `xenpaging`: the options of Xen's tool, and some more.
//!
//! Bad input produces one line on standard error that names it. The exit code reports what happened
//! to the guest. With several guests, the worst code counts:
//!
//! | code | [`Exit`] | meaning |
//! |---|---|---|
//! | 0 | `Done` | every page is resident and paging is disabled, the guest is gone, or help was shown |
//! | 1 | `Failed` | an error stopped the pager after it had started; every page is resident |
//! | 2 | `Usage` | bad arguments; nothing was done |
//! | 3 | `NotStarted` | the domain, the pagefile or Xen refused; nothing was paged out |
//! | 4 | `PagesOut` | pages are out: the operator insisted, the pager panicked and has no index, another pager attached, or paging was disabled by somebody else; or the operator insisted while pages were nominated |
//! | 5 | `NextTakesOver` | pages are out and this pager is gone: it panicked, could not take over, or is upgraded. Another pager with the same arguments takes over |

use std::ffi::OsString;
use std::net::{Ipv4Addr, SocketAddr};
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};

use clap::builder::{PossibleValue, PossibleValuesParser, TypedValueParser};
use clap::error::ErrorKind;
use clap::{ArgAction, ArgGroup, Args, CommandFactory as _, Parser, Subcommand};
use p2m_paging::{Gfn, PAGE_SIZE};
use pager_core::Config;
use pager_core::balance::Watermarks;
use pager_core::policy::{DEFAULT_MRU_PAGES, PolicyName, SweepOptions};
use pager_shell::OnLoss;
use pager_shell::console::print_error;
use pager_store::areas::AreaChoice;
use tracing::level_filters::LevelFilter;

use crate::exit::Exit;
use crate::job::parse_size;

/// The share of a guest for which no share is given.
const USUAL_SHARE: u32 = 100;

/// The first number that no domain can have (`DOMID_FIRST_RESERVED`).
const DOMID_FIRST_RESERVED: i64 = 0x7ff0;

const EXIT_CODES: &str = "\
Exit codes:
  0  every page is resident and paging is disabled, or the guest is gone
  1  an error stopped the pager after it had started; every page is resident
  2  bad arguments; nothing was done
  3  the domain, the pagefile or Xen refused; nothing was paged out
  4  pages are out: the operator insisted, the pager panicked and has no index, another pager
     attached, or paging was disabled by somebody else; or the operator insisted while pages were
     nominated
  5  pages are out and this pager is gone: it panicked, it could not take over, or it is upgraded.
     Start it again with the same arguments: it takes over
With several guests, the worst one counts: 5, then 4, then 1, then 3.";

/// Keeps guests at their memory targets, and their host from running short of memory: pages guests'
/// memory out to files and back.
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
    /// A command other than paging.
    #[command(subcommand)]
    pub command: Option<Command>,

    /// Number of the domain to page.
    #[arg(short, long, value_name = "DOMID", required_unless_present_any = ["embedded_host", "guest"],
          value_parser = clap::value_parser!(u16).range(1..DOMID_FIRST_RESERVED))]
    pub domain: Option<u16>,

    /// File to keep pages in. It must not exist: the pager creates it, for itself alone.
    #[arg(
        short = 'f',
        long,
        value_name = "FILE",
        required_unless_present_any = ["embedded_host", "guest", "swap"]
    )]
    pub pagefile: Option<PathBuf>,

    /// One of several domains to page in this process, its pagefile, and its share of memory when
    /// the host is short of it [default: 100] (repeatable). If one domain ends or fails, the others
    /// go on.
    #[arg(long, value_name = "DOMID:FILE[:SHARE]", value_parser = guest,
          conflicts_with_all = ["domain", "pagefile", "swap", "record"])]
    pub guest: Vec<GuestChoice>,

    /// Also page out while the host is short of free memory. Require 0 < MIN < LOW < HIGH, in MiB,
    /// or with K, M or G. Below LOW the guests give pages little by little; below MIN they give all
    /// that is missing at once; at HIGH that ends. What is free above HIGH goes back to them.
    #[arg(long, value_name = "MIN,LOW,HIGH", value_parser = marks)]
    pub watermarks: Option<Watermarks>,

    /// Tax on idle pages. The guest with the fewest shares for each page gives memory first; with
    /// 75, an idle page counts as four used ones, with 0 as one.
    #[arg(long, value_name = "PERCENT", requires = "watermarks", default_value_t = 75,
          value_parser = clap::value_parser!(u8).range(..100))]
    pub tax: u8,

    /// Swap area to keep pages in, in place of a pagefile (repeatable). `xenpaging mkswap` makes
    /// one; it serves one pager. Areas with the highest priority are filled first, those with the
    /// same one in turn [default: 0].
    #[arg(long, value_name = "FILE[:PRIORITY]", value_parser = swap_area,
          conflicts_with_all = ["pagefile", "keep_pagefile"])]
    pub swap: Vec<AreaChoice>,

    /// How much of the guest's memory may be paged, from its start on, in KiB [default: all].
    #[arg(short = 'm', long = "max_memkb", value_name = "KIB",
          value_parser = clap::value_parser!(u64).range(4..))]
    pub max_memkb: Option<u64>,

    /// Which pages go out [default: reuse if the hypervisor reports accessed bits, otherwise
    /// sweep].
    #[arg(long, value_name = "NAME", value_parser = policy())]
    pub policy: Option<PolicyName>,

    /// With `--policy sweep`: how many of the pages that came in last are spared. 0 for none.
    #[arg(short = 'r', long = "mru_size", value_name = "PAGES",
          default_value_t = DEFAULT_MRU_PAGES)]
    pub mru_size: usize,

    /// No read-ahead: bring in requested pages only.
    #[arg(long)]
    pub no_read_ahead: bool,

    /// Deduplicate: do not write a page that equals one in the store.
    #[arg(long, alias = "share-alike")]
    pub dedup: bool,

    /// Log more. Twice: each batch. Three times: everything.
    #[arg(short, long, action = ArgAction::Count)]
    pub verbose: u8,

    /// Gfns that are never paged out, like 0-0xff or 4096 (repeatable).
    #[arg(long, value_name = "A-B", value_parser = gfns)]
    pub gfns: Vec<RangeInclusive<u64>>,

    /// Page out these gfns only (repeatable).
    #[arg(long, value_name = "A-B", value_parser = gfns)]
    pub only_gfns: Vec<RangeInclusive<u64>>,

    /// Keep the pagefile's name until the end. Without this option it has none from the start.
    #[arg(long)]
    pub keep_pagefile: bool,

    /// File that says where each page lies, in memory that survives the pager [default:
    /// /run/xenpaging/DOMID.index]. A pager that finds the index and the pagefile of one that was
    /// killed takes over.
    #[arg(long, value_name = "FILE", conflicts_with_all = ["guest", "swap"])]
    pub index: Option<PathBuf>,

    /// No index: the pagefile has no name, and the pages that are out are lost if the pager is killed.
    #[arg(long, conflicts_with = "index")]
    pub no_index: bool,

    /// What becomes of a guest that needs a page that is gone for good: its domain is paused, once, and
    /// its operator decides, or it crashes.
    #[arg(long, value_name = "WHAT", value_parser = on_loss(), default_value = "pause")]
    pub on_loss: OnLoss,

    /// Record in this file which pages each scan sees used, for `xenpaging-trace replay`.
    #[arg(long, value_name = "FILE")]
    pub record: Option<PathBuf>,

    /// Serve metrics for Prometheus at this address, under /metrics. A port alone means 127.0.0.1.
    #[arg(long, value_name = "ADDRESS", value_parser = metrics_address)]
    pub metrics: Option<SocketAddr>,

    /// Name under which an embedded host listens, in place of Xen.
    #[arg(long, hide = true, value_name = "ADDRESS", conflicts_with_all = ["domain", "guest"])]
    pub embedded_host: Option<String>,

    /// How much memory the embedded host has for its guest.
    #[arg(long, hide = true, value_name = "SIZE", requires = "embedded_host", value_parser = parse_size)]
    pub host_memory: Option<u64>,
}

/// One of several guests on the command line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GuestChoice {
    /// The domain.
    pub domain: u16,
    /// The file for its pages.
    pub pagefile: PathBuf,
    /// Its share, relative to the other guests.
    pub share: u32,
}

/// The program's other commands.
#[derive(Clone, Debug, PartialEq, Eq, Subcommand)]
pub enum Command {
    /// Make a file or a block device a swap area. Its contents are lost.
    Mkswap {
        /// The file or device.
        file: PathBuf,
        /// Size of the file, in MiB, or with K, M or G. The file is created if it does not exist.
        #[arg(long, value_parser = parse_size)]
        size: Option<u64>,
    },

    /// Show the headers of swap areas and whether a pager uses them, or the areas of one pager.
    Swaps {
        /// The pager.
        #[command(flatten)]
        pager: PagerOf,
        /// Files or devices.
        #[arg(required_unless_present_any = ["domain", "embedded_host"])]
        files: Vec<PathBuf>,
    },

    /// Give a running pager one more swap area. It must have been started with one.
    #[command(group(ArgGroup::new("whose").args(["domain", "embedded_host"]).required(true)))]
    Swapon {
        /// The pager.
        #[command(flatten)]
        pager: PagerOf,
        /// The file or device, made by `xenpaging mkswap`.
        #[arg(value_name = "FILE[:PRIORITY]", value_parser = swap_area)]
        area: AreaChoice,
    },

    /// Take a swap area from a running pager. Moves its pages to the other areas, and waits until
    /// that is done.
    #[command(group(ArgGroup::new("whose").args(["domain", "embedded_host"]).required(true)))]
    Swapoff {
        /// The pager.
        #[command(flatten)]
        pager: PagerOf,
        /// The file or device.
        file: PathBuf,
    },

    /// End a running pager so that a new version takes over. Pages stay out, and whoever needs one
    /// waits for the next pager. systemd starts it; without systemd, start it with the same arguments.
    #[command(group(ArgGroup::new("whose").args(["domain", "embedded_host"]).required(true)))]
    Upgrade {
        /// The pager.
        #[command(flatten)]
        pager: PagerOf,
    },

    /// Show the metrics of the pagers on this host, one line for each domain.
    Status {
        /// Only this domain.
        #[arg(short, long, value_name = "DOMID")]
        domain: Option<u16>,
    },
}

/// The pager that a command is for.
#[derive(Clone, Debug, Default, PartialEq, Eq, Args)]
pub struct PagerOf {
    /// The pager of this domain.
    #[arg(short, long, value_name = "DOMID")]
    pub domain: Option<u16>,
    /// The pager of this embedded host.
    #[arg(long, hide = true, value_name = "ADDRESS", conflicts_with = "domain")]
    pub embedded_host: Option<String>,
}

impl PagerOf {
    /// The name under which it listens for operators.
    pub fn control_name(&self) -> Option<String> {
        let domain = self.domain.map(domain_name);
        domain.or_else(|| self.embedded_host.as_deref().map(embedded_name))
    }
}

impl Cli {
    /// Reads the arguments, the program's name first. After help or bad arguments everything has
    /// been printed, and the program ends with the returned code.
    pub fn read(args: impl IntoIterator<Item = OsString>) -> Result<Self, Exit> {
        let cli = Self::try_parse_from(args).and_then(Self::checked);
        cli.map_err(|error| {
            if error.use_stderr() {
                print_error(format_args!("xenpaging: {}", one_line(&error)));
                return Exit::Usage;
            }
            // Standard output may be closed. Help that nobody reads is not a failure.
            let _ = error.print();
            Exit::Done
        })
    }

    /// Checks what clap does not check.
    fn checked(self) -> Result<Self, clap::Error> {
        let wrong = |what: String| Err(Self::command().error(ErrorKind::ValueValidation, what));
        for (n, guest) in self.guest.iter().enumerate() {
            let before = &self.guest[..n];
            if before.iter().any(|other| other.domain == guest.domain) {
                return wrong(format!("--guest: domain {} is named twice", guest.domain));
            }
            if before.iter().any(|other| other.pagefile == guest.pagefile) {
                let file = guest.pagefile.display();
                return wrong(format!("--guest: {file} is named twice"));
            }
        }
        if self.embedded_host.is_some() && self.watermarks.is_some() != self.host_memory.is_some() {
            return wrong(
                "--watermarks and --host-memory belong together on an embedded host".into(),
            );
        }
        Ok(self)
    }

    /// The guests of the command line with their pagefiles and shares. Without `--guest` there is
    /// one; `None` is the guest of the embedded host.
    pub fn guests(&self) -> Vec<(Option<u16>, Option<&Path>, u32)> {
        if self.guest.is_empty() {
            return vec![(self.domain, self.pagefile.as_deref(), USUAL_SHARE)];
        }
        let guests = self.guest.iter();
        guests
            .map(|guest| (Some(guest.domain), Some(&*guest.pagefile), guest.share))
            .collect()
    }

    /// The lowest level that is logged.
    pub fn log_level(&self) -> LevelFilter {
        match self.verbose {
            0 => LevelFilter::WARN,
            1 => LevelFilter::INFO,
            2 => LevelFilter::DEBUG,
            _ => LevelFilter::TRACE,
        }
    }

    /// The core's settings for a guest with memory at these gfns.
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
            watch_uses: self.watermarks.is_some(),
            ..usual
        }
    }

    /// The settings of the policy `sweep`.
    pub fn sweep(&self) -> SweepOptions {
        SweepOptions {
            mru_pages: self.mru_size,
            never: self.gfns.clone(),
            only: self.only_gfns.clone(),
        }
    }
}

/// The name under which the pager of a domain listens.
pub fn domain_name(domain: u16) -> String {
    format!("xenpaging-{domain}")
}

/// The name under which the pager of an embedded host listens.
pub fn embedded_name(host: &str) -> String {
    format!("{host}-pager")
}

/// The message of a clap error without the usage that follows it.
pub fn one_line(error: &clap::Error) -> String {
    let text = error.render().to_string();
    let message = text.split("\n\n").next().unwrap_or_default();
    let words: Vec<_> = message.split_whitespace().collect();
    words.join(" ").trim_start_matches("error: ").to_owned()
}

/// A policy, by its name.
pub fn policy() -> impl TypedValueParser<Value = PolicyName> {
    let possible = |policy: PolicyName| PossibleValue::new(policy.name()).help(policy.about());
    PossibleValuesParser::new(PolicyName::ALL.map(possible))
        .try_map(|name| PolicyName::named(&name).ok_or_else(|| format!("'{name}' is not a policy")))
}

/// What becomes of a guest that needs a lost page.
fn on_loss() -> impl TypedValueParser<Value = OnLoss> {
    PossibleValuesParser::new(["pause", "crash"]).map(|name| match &*name {
        "crash" => OnLoss::Crash,
        _ => OnLoss::Pause,
    })
}

/// Parses a file, or a file and a priority.
pub fn swap_area(text: &str) -> Result<AreaChoice, String> {
    let (path, priority) = match text.rsplit_once(':') {
        Some((path, priority)) => match priority.parse() {
            Ok(priority) => (path, priority),
            Err(_) => {
                return Err(format!(
                    "'{priority}' is not a priority: expected a whole number"
                ));
            }
        },
        None => (text, 0),
    };
    let path = PathBuf::from(path);
    Ok(AreaChoice { path, priority })
}

/// Parses a domain, a file, and an optional share.
fn guest(text: &str) -> Result<GuestChoice, String> {
    let (domain, rest) = text
        .split_once(':')
        .ok_or("expected a domain's number, ':' and a file")?;
    let domain = domain
        .parse()
        .ok()
        .filter(|id| (1..DOMID_FIRST_RESERVED).contains(&i64::from(*id)));
    let domain = domain.ok_or("the text before the first ':' is not the number of a domain")?;
    let (file, share) = match rest.rsplit_once(':') {
        Some((file, share)) => match share.parse() {
            Ok(share) if share > 0 => (file, share),
            _ => {
                return Err(format!(
                    "'{share}' is not a share: expected a whole number above 0"
                ));
            }
        },
        None => (rest, USUAL_SHARE),
    };
    if file.is_empty() {
        return Err("there is no file".into());
    }
    let pagefile = PathBuf::from(file);
    Ok(GuestChoice {
        domain,
        pagefile,
        share,
    })
}

/// Parses three sizes, each larger than the one before.
pub fn marks(text: &str) -> Result<Watermarks, String> {
    let sizes: Result<Vec<_>, _> = text.split(',').map(parse_size).collect();
    let pages = |bytes: u64| bytes / PAGE_SIZE as u64;
    match sizes.map_err(|error| error.to_string())?[..] {
        [min, low, high] => Watermarks::new(pages(min), pages(low), pages(high))
            .ok_or_else(|| "require 0 < MIN < LOW < HIGH".into()),
        _ => Err("expected three sizes: MIN,LOW,HIGH".into()),
    }
}

/// Parses an address and a port, or a port.
fn metrics_address(text: &str) -> Result<SocketAddr, String> {
    let port = text.parse().map(|port| (Ipv4Addr::LOCALHOST, port).into());
    port.or_else(|_| text.parse())
        .map_err(|_| format!("'{text}' is not an address like 127.0.0.1:9100"))
}

/// Parses a range like `0-0xff`, or one number.
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
        .ok_or_else(|| {
            format!(
                "'{text}' is not a frame number (0 to {:#x})",
                Gfn::MAX.get()
            )
        })
}

/// The first pages of a guest's memory, lowest first, up to this number.
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
