// SPDX-License-Identifier: MIT OR Apache-2.0
//! The result of the job.

use std::process::ExitStatus;
use std::time::Duration;
use std::{fmt, io};

use hdrhistogram::Histogram;
use p2m_paging::PAGE_SIZE;
use p2m_paging::paging::{Count, Counters};
use pager_uffd::host::workload::expected_contents::VerifyResult;

use super::options::Sizes;

/// How the job ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fate {
    /// The pager was told to stop, and it stopped.
    Stopped,
    /// The pager stopped with everything back, and reported a failure.
    PagerFailed {
        /// Its exit status.
        status: Option<ExitStatus>,
    },
    /// The pager ended without being told to, with everything back.
    PagerLeft,
    /// The pager died, and the pages that were out are lost.
    PagerDied {
        /// The number of pages that were out.
        lost_pages: u64,
        /// Its exit status.
        status: Option<ExitStatus>,
    },
    /// The guest cannot continue.
    Crashed(String),
}

impl fmt::Display for Fate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let status = |status: &Option<ExitStatus>| {
            status.map_or_else(|| "unknown status".to_owned(), |s| s.to_string())
        };
        match self {
            Self::Stopped => f.write_str("the pager was stopped and brought everything back"),
            Self::PagerFailed { status: s } => {
                write!(
                    f,
                    "the pager brought everything back, and failed ({})",
                    status(s)
                )
            }
            Self::PagerLeft => f.write_str("the pager left by itself, with everything back"),
            Self::PagerDied {
                lost_pages,
                status: s,
            } => write!(
                f,
                "the pager died ({}), and {lost_pages} pages of the guest are lost",
                status(s)
            ),
            Self::Crashed(reason) => f.write_str(reason),
        }
    }
}

/// What was measured during the job.
#[derive(Clone, Debug, Default)]
pub(super) struct Phases {
    pub(super) resident_before: u64,
    pub(super) resident_paged: u64,
    pub(super) resident_after: u64,
    /// The time from setting the target until it was reached, and the pages evicted until then.
    pub(super) target_reached: Option<Duration>,
    pub(super) evicted_first: u64,
    /// The number of pages that were out when the pager was stopped, and the time until they were
    /// back.
    pub(super) brought_back: Option<(u64, Duration)>,
    pub(super) worked: Duration,
    /// For each pager that died: the time from when the host noticed it until the next one had brought
    /// in a page, or nobody waited for one.
    pub(super) restarts: Vec<Duration>,
}

/// The counters in the table.
#[derive(Clone, Copy, Debug)]
pub(super) struct Counts {
    evicted: u64,
    refused: u64,
    populated: u64,
    brought_in: u64,
    dropped: u64,
    restored_on_access: u64,
    paused: u64,
    queued: u64,
}

impl Counts {
    pub(super) fn of(counters: &Counters) -> Self {
        Self {
            evicted: counters.get(Count::Evicted),
            refused: counters.get(Count::NominateRefused) + counters.get(Count::EvictRefused),
            populated: counters.get(Count::Populated),
            brought_in: counters.get(Count::Prepped),
            dropped: counters.get(Count::Dropped),
            restored_on_access: counters.get(Count::RestoredOnAccess),
            paused: counters.get(Count::Paused),
            queued: counters.get(Count::Queued),
        }
    }
}

/// The final table.
#[derive(Debug)]
pub struct Report {
    pub(super) fate: Fate,
    pub(super) verified: VerifyResult,
    pub(super) sizes: Sizes,
    pub(super) phases: Phases,
    pub(super) counters: Counts,
    /// `None` if no vcpu returned its measurements.
    pub(super) fault_ns: Option<Histogram<u64>>,
    /// The numbers of pages and visits in the requested trace, or why it is not complete.
    pub recorded: Option<io::Result<(u32, u64)>>,
    pub(super) visits: u64,
    pub(super) writes: u64,
    pub(super) bad_visits: u64,
    pub(super) stray_accesses: u64,
    pub(super) left_out: u64,
}

impl Report {
    /// How the job ended.
    pub fn fate(&self) -> &Fate {
        &self.fate
    }

    /// Whether every page is in place with its contents, and the pager ended as it should.
    pub fn nothing_lost(&self) -> bool {
        self.fate == Fate::Stopped
            && self.verified.bad == 0
            && self.bad_visits == 0
            && self.left_out == 0
            && self.verified.good + self.verified.given_back == self.sizes.pages
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (c, p) = (&self.counters, &self.phases);
        let mut row = |name: &str, value: String| writeln!(f, "{name:<28}{value:>14}");
        row("guest pages", self.sizes.pages.to_string())?;
        row("target pages", self.sizes.target.to_string())?;
        row("visits", self.visits.to_string())?;
        row("  of these writes", self.writes.to_string())?;
        if let Some(Ok((_, visits))) = &self.recorded {
            row("  recorded", visits.to_string())?;
        }
        row("evicted", c.evicted.to_string())?;
        row("refused", c.refused.to_string())?;
        row("populated", c.populated.to_string())?;
        row("brought in", c.brought_in.to_string())?;
        row("dropped", c.dropped.to_string())?;
        row("restored on access", c.restored_on_access.to_string())?;
        row("vcpu pauses", c.paused.to_string())?;
        row("  queued for the ring", c.queued.to_string())?;
        match self.fault_ns.as_ref().filter(|h| !h.is_empty()) {
            None => row("fault latency", "-".to_owned())?,
            Some(faults) => {
                for (name, quantile) in
                    [("p50", 0.5), ("p99", 0.99), ("p99.9", 0.999), ("max", 1.0)]
                {
                    let us = faults.value_at_quantile(quantile) as f64 / 1000.0;
                    row(&format!("fault latency {name}"), format!("{us:.1} us"))?;
                }
            }
        }
        match p.target_reached {
            Some(took) => row("out until target", rate(Some((p.evicted_first, took))))?,
            None => row("out, target missed", rate(Some((c.evicted, p.worked))))?,
        }
        row("in after SIGTERM", rate(p.brought_back))?;
        let mut restarts = p.restarts.clone();
        restarts.sort_unstable();
        if !restarts.is_empty() {
            row("pagers that died", restarts.len().to_string())?;
            let rank = |percent: usize| (restarts.len() * percent).div_ceil(100) - 1;
            let ms = |percent| restarts[rank(percent)].as_secs_f64() * 1000.0;
            row("  served again p50", format!("{:.1} ms", ms(50)))?;
            row("  served again p99", format!("{:.1} ms", ms(99)))?;
            row("  served again max", format!("{:.1} ms", ms(100)))?;
        }
        row("resident before", mib(p.resident_before))?;
        row("resident while paged", mib(p.resident_paged))?;
        row("resident after", mib(p.resident_after))?;
        row("pages verified", self.verified.good.to_string())?;
        row("pages given back", self.verified.given_back.to_string())?;
        row("stray accesses", self.stray_accesses.to_string())?;
        row("pages still out", self.left_out.to_string())?;
        row(
            "bad pages",
            (self.verified.bad + self.bad_visits).to_string(),
        )?;
        write!(f, "{}", self.fate)
    }
}

fn rate(pages: Option<(u64, Duration)>) -> String {
    match pages {
        Some((pages, took)) if !took.is_zero() => {
            format!("{:.0} pages/s", pages as f64 / took.as_secs_f64())
        }
        _ => "-".to_owned(),
    }
}

fn mib(pages: u64) -> String {
    format!(
        "{:.1} MiB",
        (pages * PAGE_SIZE as u64) as f64 / f64::from(1 << 20)
    )
}
