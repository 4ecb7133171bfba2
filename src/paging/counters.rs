//! What has happened to a domain, in figures.

use core::fmt;
use core::sync::atomic::{AtomicU64, Ordering};

macro_rules! counts {
    ($($(#[$doc:meta])* $name:ident = $label:literal,)*) => {
        /// What is counted.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        #[repr(usize)]
        pub enum Count { $($(#[$doc])* $name,)* }

        impl Count {
            /// Everything that is counted.
            pub const ALL: &'static [Self] = &[$(Self::$name,)*];

            /// The name that people see.
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
    /// Nominated pages that somebody needed: they went home at once.
    Recalled = "recalled",
    /// Nominations that the pager took back.
    Restored = "restored",
    /// Pages sent on their way in.
    Populated = "populated",
    /// Pages filled from the pager's buffer.
    Prepped = "prepped",
    /// Preps refused.
    PrepRefused = "prep-refused",
    /// Pages sent home by a response.
    Resumed = "resumed",
    /// Pages that the guest gave back while they were out or on their way.
    Dropped = "dropped",
    /// Vcpus paused for a page.
    Paused = "vcpus-paused",
    /// Vcpus woken because their page came home.
    Woken = "vcpus-woken",
    /// Vcpus that had to stand in line for a ring slot.
    Queued = "vcpus-queued",
    /// Foreign callers turned away because the ring was full.
    RingFull = "ring-full",
    /// Requests pushed.
    Requests = "requests",
    /// Responses taken.
    Responses = "responses",
    /// Responses that meant nothing.
    Ignored = "responses-ignored",
    /// Times the pager's index was impossible.
    Overruns = "ring-overruns",
    /// Events sent.
    Notified = "notified",
}

/// One figure for each [`Count`]; each is exact, together they are no snapshot.
#[derive(Debug)]
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
