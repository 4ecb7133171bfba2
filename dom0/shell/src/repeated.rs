// SPDX-License-Identifier: MIT OR Apache-2.0
//! Something that may fail any number of times. It is logged when it begins, and once more when it
//! ends, with its length.

use std::time::{Duration, Instant};

/// See the [module](self).
#[derive(Debug, Default)]
pub(super) struct Repeated(Option<Since>);

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
    pub(super) fn happened(&mut self, now: Instant) -> bool {
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
