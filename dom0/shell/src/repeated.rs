// SPDX-License-Identifier: MIT OR Apache-2.0
//! Something that may fail any number of times. It is logged when it begins, and once more when it
//! ends, with its length.

use std::time::{Duration, Instant};

/// Something that may fail any number of times. [`Self::happened`] says when to log that it begins.
#[derive(Debug, Default)]
pub struct Repeated(Option<Since>);

#[derive(Debug)]
struct Since {
    first: Instant,
    last: Instant,
    times: u64,
}

/// What has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Over {
    /// From the first time to the last.
    pub(super) lasted: Duration,
    pub(super) times: u64,
}

impl Repeated {
    /// It happened. Returns whether this is news.
    pub fn happened(&mut self, now: Instant) -> bool {
        match &mut self.0 {
            Some(since) => {
                since.last = now;
                since.times += 1;
                false
            }
            None => {
                let (first, last, times) = (now, now, 1);
                self.0 = Some(Since { first, last, times });
                true
            }
        }
    }

    /// It is over, because it has worked. Returns how long ago it began, if it had.
    pub fn ended(&mut self, now: Instant) -> Option<Duration> {
        let since = self.0.take()?;
        Some(now.saturating_duration_since(since.first))
    }

    /// It is over if it has not happened for this long.
    pub(super) fn over(&mut self, now: Instant, quiet: Duration) -> Option<Over> {
        let is_quiet = |since: &mut Since| now.saturating_duration_since(since.last) >= quiet;
        let Since { first, last, times } = self.0.take_if(is_quiet)?;
        let lasted = last.saturating_duration_since(first);
        Some(Over { lasted, times })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_outage_begins_and_ends_once() {
        let start = Instant::now();
        let ms = Duration::from_millis;
        let mut repeated = Repeated::default();
        assert_eq!(repeated.ended(start), None);
        assert!(repeated.happened(start) && !repeated.happened(start + ms(1)));
        assert_eq!(repeated.ended(start + ms(5)), Some(ms(5)));
        assert_eq!(repeated.ended(start + ms(5)), None);
        assert!(repeated.happened(start + ms(6)), "the next one");
    }

    #[test]
    fn a_thousand_times_are_two_lines() {
        let start = Instant::now();
        let ms = Duration::from_millis;
        let mut repeated = Repeated::default();
        assert_eq!(repeated.over(start, ms(10)), None);
        let news = (0..1000).filter(|n| repeated.happened(start + ms(*n)));
        assert_eq!(news.count(), 1);
        assert_eq!(repeated.over(start + ms(1000), ms(10)), None);
        let over = Over {
            lasted: ms(999),
            times: 1000,
        };
        assert_eq!(repeated.over(start + ms(1009), ms(10)), Some(over));
        assert_eq!(repeated.over(start + ms(1009), ms(10)), None);
        assert!(repeated.happened(start + ms(1010)));
    }
}
