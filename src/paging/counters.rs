// SPDX-License-Identifier: MIT OR Apache-2.0
//! What has happened to a domain, in numbers.

use core::fmt;
use core::sync::atomic::{AtomicU64, Ordering};

macro_rules! counts {
    ($($(#[$doc:meta])* $name:ident = $label:literal,)*) => {
        /// One of the things that are counted.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        #[repr(usize)]
        pub enum Count { $($(#[$doc])* $name,)* }

        impl Count {
            /// All of them.
            pub const ALL: &'static [Self] = &[$(Self::$name,)*];

            /// The name in the console's output.
            pub const fn label(self) -> &'static str {
                match self { $(Self::$name => $label,)* }
            }
        }
    };
}

counts! {
    /// Pages nominated.
    Nominated = "nominated",
    /// Nominations refused.
    NominateRefused = "nominate-refused",
    /// Pages evicted.
    Evicted = "evicted",
    /// Evictions refused.
    EvictRefused = "evict-refused",
    /// Nominated pages that became resident because somebody accessed them.
    RestoredOnAccess = "restored-on-access",
    /// Nominated pages that the pager restored.
    Restored = "restored",
    /// Page-ins started.
    Populated = "populated",
    /// Pages that got a frame by a prep.
    Prepped = "prepped",
    /// Preps refused.
    PrepRefused = "prep-refused",
    /// Pages that became resident by a response.
    Resumed = "resumed",
    /// Pages of a paging type that were removed.
    Dropped = "dropped",
    /// Vcpus paused for a page.
    Paused = "vcpus-paused",
    /// Vcpus woken because the page that they waited for is resident or gone.
    Woken = "vcpus-woken",
    /// Vcpus that entered the wait queue for a ring slot.
    Queued = "vcpus-queued",
    /// Foreign callers refused because the ring was full, or because no pager was attached for a while.
    RingFull = "ring-full",
    /// Requests pushed.
    Requests = "requests",
    /// Responses taken.
    Responses = "responses",
    /// Responses that had no effect because they were invalid or outdated.
    Ignored = "responses-ignored",
    /// Times that the pager's index was impossible.
    Overruns = "ring-overruns",
    /// Events sent.
    Notified = "notified",
}

/// One number for each [`Count`]. Each is exact; read together they are not a snapshot of one moment.
///
/// `Display` and `Debug` print every number with the name of its [`Count`].
pub struct Counters([AtomicU64; Count::ALL.len()]);

impl Default for Counters {
    fn default() -> Self {
        Self([const { AtomicU64::new(0) }; Count::ALL.len()])
    }
}

impl Counters {
    /// How often this has happened.
    pub fn get(&self, count: Count) -> u64 {
        self.0[count as usize].load(Ordering::Relaxed)
    }

    pub(crate) fn add(&self, count: Count, by: u64) {
        self.0[count as usize].fetch_add(by, Ordering::Relaxed);
    }
}

impl fmt::Debug for Counters {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let named = Count::ALL.iter().map(|count| (count, self.get(*count)));
        f.debug_map().entries(named).finish()
    }
}

impl fmt::Display for Counters {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut gap = "";
        for count in Count::ALL {
            write!(f, "{gap}{} {}", count.label(), self.get(*count))?;
            gap = ", ";
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::format;

    use super::*;

    #[test]
    fn every_number_is_printed_with_its_name() {
        let counters = Counters::default();
        counters.add(Count::Evicted, 3);
        let (debug, display) = (format!("{counters:?}"), format!("{counters}"));
        assert!(debug.contains("Evicted: 3"), "{debug}");
        assert!(display.contains("evicted 3, evict-refused 0"), "{display}");
        for count in Count::ALL {
            assert!(debug.contains(&format!("{count:?}: ")), "{debug}");
            assert!(display.contains(count.label()), "{display}");
        }
    }
}
