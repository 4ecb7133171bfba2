// SPDX-License-Identifier: MIT OR Apache-2.0
//! The balancer's thread: facts about the host and its guests into the [balance](pager_core::balance), and what each guest may have
//! in memory out of it, to be followed as any other target.

use std::sync::Arc;
use std::thread;
use std::time::Duration;

use pager_core::balance::{Balance, Guest, Pressure};

use super::inbox::Inbox;
use super::machine::{FreeMemory, MachineError};
use super::metrics::Metrics;
use super::reporter::MetricsCell;

/// Time between two looks: long enough for a batch to go out.
const LOOK: Duration = Duration::from_millis(250);

/// What others may know of a pager that serves, and tell it.
#[derive(Clone, Debug)]
pub struct PagerHandle {
    pub(super) inbox: Arc<Inbox>,
    pub(super) metrics_cell: Arc<MetricsCell>,
}

impl PagerHandle {
    /// As of the last tick.
    pub fn metrics(&self) -> Metrics {
        self.metrics_cell.metrics()
    }

    /// Whether its guest is paged no more.
    pub fn is_finished(&self) -> bool {
        self.metrics_cell.is_over()
    }
}

/// Where the host's free memory is to be learned.
#[derive(Debug)]
pub enum HostMemory {
    /// From the host.
    Queried(Box<dyn FreeMemory>),
    /// The host has so many pages, and what its guests do not hold is free.
    Fixed(u64),
}

impl HostMemory {
    /// All of it.
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

/// A guest among others.
#[derive(Debug)]
pub struct BalancedGuest {
    /// The domain.
    pub id: u32,
    /// Its share beside the others.
    pub share: u32,
    /// Pages that it cannot give.
    pub floor: u64,
    /// Its pager.
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

/// Balances until the last of these guests is paged no more.
pub fn run(mut memory: HostMemory, mut balance: Balance, mut guests: Vec<BalancedGuest>) {
    let mut pressure = Pressure::None;
    let mut fails = false;
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
                if !std::mem::replace(&mut fails, true) {
                    tracing::error!("{error}: what guests may have stays as it is");
                }
                continue;
            }
        };
        fails = false;
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
                    tracing::info!("{free} pages of the host are free: guests give some up")
                }
                Pressure::Direct => tracing::warn!(
                    "{free} pages of the host are free, below min: guests give up what is missing"
                ),
            }
        }
    }
}

#[cfg(test)]
impl PagerHandle {
    /// Of no pager.
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
