// SPDX-License-Identifier: MIT OR Apache-2.0
//! The balancer's thread. It passes facts about the host and its guests to the
//! [balance](pager_core::balance), and the resulting limits to the guests' pagers, which follow
//! them like any other target.

use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use pager_core::balance::{Balance, Guest, Pressure};

use super::inbox::Inbox;
use super::machine::{FreeMemory, MachineError};
use super::metrics::Metrics;
use super::repeated::Repeated;
use super::reporter::MetricsCell;

/// The time between two looks: long enough for a batch to go out.
const LOOK: Duration = Duration::from_millis(250);

/// What other threads use to watch and steer a serving pager.
#[derive(Clone, Debug)]
pub struct PagerHandle {
    pub(super) inbox: Arc<Inbox>,
    pub(super) metrics_cell: Arc<MetricsCell>,
}

impl PagerHandle {
    /// The metrics as of the last tick.
    pub fn metrics(&self) -> Metrics {
        self.metrics_cell.metrics()
    }

    /// Whether the guest is not paged any more.
    pub fn is_finished(&self) -> bool {
        self.metrics_cell.is_over()
    }
}

/// The source of the host's free memory.
#[derive(Debug)]
pub enum HostMemory {
    /// The host reports it.
    Queried(Box<dyn FreeMemory>),
    /// The host has this many pages; those that its guests do not hold are free.
    Fixed(u64),
}

impl HostMemory {
    /// The number of all pages of the host.
    pub fn total_pages(&self) -> u64 {
        match self {
            Self::Queried(host) => host.total_pages(),
            Self::Fixed(pages) => *pages,
        }
    }

    fn free_pages(&mut self, guests: &[Guest]) -> Result<u64, MachineError> {
        match self {
            Self::Queried(host) => host.free_pages(),
            Self::Fixed(pages) => {
                let held: u64 = guests.iter().map(|guest| guest.resident).sum();
                Ok(pages.saturating_sub(held))
            }
        }
    }
}

/// One of the guests that are balanced.
#[derive(Debug)]
pub struct BalancedGuest {
    /// The domain's id.
    pub id: u32,
    /// Its share, relative to the other guests.
    pub share: u32,
    /// Pages that cannot be taken from it.
    pub floor: u64,
    /// The handle of its pager.
    pub handle: PagerHandle,
}

impl BalancedGuest {
    /// `None` before the first tick.
    fn facts(&self) -> Option<Guest> {
        let metrics = self.handle.metrics();
        let (_, target) = self.handle.inbox.bounds();
        let progress = metrics.progress;
        (metrics.ticks > 0).then_some(Guest {
            id: self.id,
            size: progress.size_pages,
            resident: progress.resident_pages(),
            target,
            share: self.share,
            used: progress.used_pages,
            floor: self.floor,
        })
    }
}

/// Balances until none of these guests is paged any more.
pub fn run(mut memory: HostMemory, mut balance: Balance, mut guests: Vec<BalancedGuest>) {
    let mut pressure = Pressure::None;
    let mut fails = Repeated::default();
    loop {
        thread::sleep(LOOK);
        guests.retain(|guest| !guest.handle.is_finished());
        if guests.is_empty() {
            return;
        }
        let known = guests
            .iter()
            .filter_map(|guest| Some((guest, guest.facts()?)));
        let (known, facts): (Vec<_>, Vec<_>) = known.unzip();
        let free = match memory.free_pages(&facts) {
            Ok(free) => free,
            Err(error) => {
                if fails.happened(Instant::now()) {
                    tracing::error!("{error}: the guests' limits stay as they are");
                }
                continue;
            }
        };
        if let Some(over) = fails.over(Instant::now(), Duration::ZERO) {
            tracing::warn!(
                "the host's free memory is known again, after {:.1?}",
                over.lasted
            );
        }
        let allocation = balance.update(free, &facts);
        for (guest, allowed) in known.into_iter().zip(allocation.resident) {
            guest.handle.inbox.allow(allowed);
        }
        if let Some(event) = allocation.event {
            tracing::warn!("{event}");
        }
        if std::mem::replace(&mut pressure, allocation.pressure) != allocation.pressure {
            match allocation.pressure {
                Pressure::None => tracing::info!("{free} pages of the host are free: enough"),
                Pressure::Background => {
                    tracing::info!("{free} pages of the host are free: guests give up pages")
                }
                Pressure::Direct => tracing::warn!(
                    "{free} pages of the host are free, below MIN: guests give up all that is missing"
                ),
            }
        }
    }
}

#[cfg(test)]
impl PagerHandle {
    /// A handle without a pager.
    pub(super) fn detached() -> Self {
        let event = super::event_channel::EventChannel::new().unwrap();
        Self {
            inbox: Arc::new(Inbox::new(event, 0)),
            metrics_cell: Arc::default(),
        }
    }

    pub(super) fn post(&self, metrics: &Metrics) {
        self.metrics_cell.post(metrics);
    }
}
