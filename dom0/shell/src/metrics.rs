// SPDX-License-Identifier: MIT OR Apache-2.0
//! What a running pager reports: metrics for the terminal, xenstore, Prometheus and systemd.

use std::fmt::{self, Write as _};
use std::time::Instant;

use hdrhistogram::Histogram;
use p2m_paging::Gfn;
use pager_core::Progress;
use pager_store::IoCounts;

use super::demand::REQUESTS;

/// The longest time that is recorded exactly: an hour.
const LONGEST_US: u64 = 3_600_000_000;

/// A snapshot of the metrics. The main thread makes one at each tick.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Metrics {
    /// Ticks so far. If the number does not grow, the main thread hangs.
    pub ticks: u64,
    /// Pages of the guest that are resident.
    pub resident_pages: u64,
    /// The most pages that the guest may have resident while the host is short of memory.
    pub balance_limit_pages: Option<u64>,
    /// The median time from request to response so far, in microseconds.
    pub fault_p50_us: u64,
    /// The 99th percentile of the same time.
    pub fault_p99_us: u64,
    /// The metrics of the core.
    pub progress: Progress,
    /// The metrics of the store.
    pub store: IoCounts,
}

/// The kind of a metric.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// It only grows.
    Counter,
    /// It grows and shrinks.
    Gauge,
}

impl Metrics {
    /// Name, kind and value of each metric.
    pub fn list(&self) -> [(&'static str, Kind, u64); 30] {
        use Kind::{Counter, Gauge};
        let (p, s) = (&self.progress, &self.store);
        [
            ("resident_pages", Gauge, self.resident_pages),
            // Without a limit, the value is the guest's size.
            (
                "balance_limit_pages",
                Gauge,
                self.balance_limit_pages.unwrap_or(p.size_pages),
            ),
            (
                "working_set_pages",
                Gauge,
                p.used_pages.unwrap_or(self.resident_pages),
            ),
            ("paged_out_pages", Gauge, p.out_pages),
            ("target_paged_out_pages", Gauge, p.wanted_out_pages),
            ("unreadable_pages", Gauge, p.unreadable_pages),
            ("lost_pages", Gauge, p.lost_pages + p.corrupt_pages),
            ("pending_requests", Gauge, p.waiting_requests),
            ("swap_cache_pages", Gauge, p.copies),
            ("evicted_pages", Counter, p.evicted),
            ("written_pages", Counter, p.written),
            ("clean_pages", Counter, p.unchanged),
            ("deduplicated_pages", Counter, p.deduplicated),
            ("zero_pages", Counter, p.zeros),
            ("migrated_pages", Counter, p.moved),
            ("paged_in_pages", Counter, p.paged_in),
            ("prefetched_pages", Counter, p.prefetched),
            ("read_ahead_pages", Counter, p.read_ahead),
            ("read_ahead_hits", Counter, p.read_ahead_outcome.hits),
            ("read_ahead_misses", Counter, p.read_ahead_outcome.wasted),
            ("dropped_pages", Counter, p.dropped),
            ("refused_pages", Counter, p.refused),
            ("store_reads", Counter, s.reads),
            ("store_writes", Counter, s.writes),
            ("torn_reads", Counter, s.torn_reads),
            ("stale_reads", Counter, s.stale_reads),
            ("misdirected_reads", Counter, s.misdirected_reads),
            ("rotten_reads", Counter, s.rotten_reads),
            ("fault_p50_us", Gauge, self.fault_p50_us),
            ("fault_p99_us", Gauge, self.fault_p99_us),
        ]
    }

    /// All metrics in one line, as `xenpaging status` reads it.
    pub fn line(&self) -> String {
        let mut line = String::new();
        for (name, _, value) in self.list() {
            let space = if line.is_empty() { "" } else { " " };
            let _ = write!(line, "{space}{name}={value}");
        }
        line
    }

    /// A line for a person, with rates since the snapshot `before`, one second ago.
    pub fn since(&self, before: &Self) -> impl fmt::Display {
        let (now, then) = (self.progress, before.progress);
        let (metrics, out, home) = (
            *self,
            now.evicted.saturating_sub(then.evicted),
            now.paged_in.saturating_sub(then.paged_in),
        );
        fmt::from_fn(move |f| {
            let p = metrics.progress;
            write!(
                f,
                "resident {} pages, out {} of {} wanted | {out} out/s, {home} in/s | fault p50 {} us, p99 {} us",
                metrics.resident_pages,
                p.out_pages,
                p.wanted_out_pages,
                metrics.fault_p50_us,
                metrics.fault_p99_us,
            )
        })
    }
}

/// All metrics in Prometheus' text format 0.0.4. Each guest has its own labels, such as
/// `{domain="1"}`.
pub(super) fn prometheus(guests: &[(&str, Metrics)]) -> String {
    let mut text = String::new();
    for (nth, (name, kind, _)) in Metrics::default().list().into_iter().enumerate() {
        let (kind, total) = match kind {
            Kind::Counter => ("counter", "_total"),
            Kind::Gauge => ("gauge", ""),
        };
        let name = format!("xenpaging_{name}{total}");
        let _ = writeln!(text, "# TYPE {name} {kind}");
        for (labels, metrics) in guests {
            let _ = writeln!(text, "{name}{labels} {}", metrics.list()[nth].2);
        }
    }
    text
}

/// The times from request to response. Records without allocating.
#[derive(Debug)]
pub(super) struct Faults {
    asked: Vec<(Gfn, Instant)>,
    took_us: Histogram<u32>,
}

impl Faults {
    pub(super) fn new() -> Option<Self> {
        Some(Self {
            asked: Vec::with_capacity(2 * REQUESTS),
            took_us: Histogram::new_with_bounds(1, LONGEST_US, 2).ok()?,
        })
    }

    pub(super) fn asked(&mut self, gfn: Gfn) {
        if self.asked.len() < self.asked.capacity() {
            self.asked.push((gfn, Instant::now()));
        }
    }

    pub(super) fn answered(&mut self, gfn: Gfn) {
        if let Some(nth) = self.asked.iter().position(|asked| asked.0 == gfn) {
            let took = self.asked.swap_remove(nth).1.elapsed().as_micros();
            let took = u64::try_from(took).unwrap_or(LONGEST_US);
            self.took_us.saturating_record(took.max(1));
        }
    }

    pub(super) fn quantile_us(&self, quantile: f64) -> u64 {
        self.took_us.value_at_quantile(quantile)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn metrics() -> Metrics {
        Metrics {
            resident_pages: 18_432,
            progress: Progress {
                out_pages: 6144,
                evicted: 7000,
                ..Progress::default()
            },
            ..Metrics::default()
        }
    }

    #[test]
    fn every_output_has_every_metric() {
        let guests = [
            ("{domain=\"3\"}", metrics()),
            ("{domain=\"4\"}", Metrics::default()),
        ];
        let (line, text) = (metrics().line(), prometheus(&guests));
        for (name, _, value) in metrics().list() {
            assert!(line.contains(&format!("{name}={value}")), "{line}");
            assert!(text.contains(&format!("xenpaging_{name}")), "{text}");
        }
        assert!(text.contains(
            "# TYPE xenpaging_evicted_pages_total counter\nxenpaging_evicted_pages_total{domain=\"3\"} 7000\n\
             xenpaging_evicted_pages_total{domain=\"4\"} 0\n"
        ));
    }

    #[test]
    fn rates_are_of_the_time_between() {
        let mut later = metrics();
        later.progress.evicted += 10;
        later.progress.paged_in += 3;
        let said = later.since(&metrics()).to_string();
        assert!(said.contains("10 out/s, 3 in/s"), "{said}");
    }

    #[test]
    fn a_fault_is_measured_once_and_an_answer_to_none_is_not() {
        let mut faults = Faults::new().unwrap();
        faults.asked(Gfn::new_truncate(1));
        faults.answered(Gfn::new_truncate(2));
        faults.answered(Gfn::new_truncate(1));
        faults.answered(Gfn::new_truncate(1));
        assert_eq!(faults.took_us.len(), 1);
        assert!(faults.quantile_us(0.5) >= 1);
    }
}
