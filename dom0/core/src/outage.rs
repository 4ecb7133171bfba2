// SPDX-License-Identifier: MIT OR Apache-2.0
//! Something that goes wrong again and again. It is reported when it begins, and once more when it
//! ends, with its length.

use std::fmt;

/// A length of time, in ticks: about ten a second.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Ticks(pub u64);

impl fmt::Display for Ticks {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{} s", self.0 / 10, self.0 % 10)
    }
}

/// What has not happened for so long is over: a second.
const QUIET_TICKS: u64 = 10;

/// See the [module](self).
#[derive(Debug, Default)]
pub(super) struct Outage {
    lasts: Option<Lasts>,
}

#[derive(Debug, Default)]
struct Lasts {
    ticks: u64,
    /// Ticks since it last happened.
    quiet: u64,
}

impl Outage {
    /// It happens. Returns whether this is news.
    pub(super) fn happens(&mut self) -> bool {
        let is_news = self.lasts.is_none();
        self.lasts.get_or_insert_default().quiet = 0;
        is_news
    }

    /// Some time passed.
    pub(super) fn tick(&mut self) {
        if let Some(lasts) = &mut self.lasts {
            lasts.ticks += 1;
            lasts.quiet += 1;
        }
    }

    /// It is over. Returns how long it lasted, if it had begun.
    pub(super) fn end(&mut self) -> Option<Ticks> {
        self.lasts.take().map(|lasts| Ticks(lasts.ticks))
    }

    /// It is over if it has not happened for a second, which does not count.
    pub(super) fn end_if_quiet(&mut self) -> Option<Ticks> {
        let lasts = self.lasts.take_if(|lasts| lasts.quiet >= QUIET_TICKS)?;
        Some(Ticks(lasts.ticks - lasts.quiet))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_its_begin_and_its_end_are_news() {
        let mut outage = Outage::default();
        assert_eq!(outage.end(), None);
        assert!(outage.happens() && !outage.happens());
        (0..15).for_each(|_| outage.tick());
        assert!(!outage.happens());
        assert_eq!(outage.end(), Some(Ticks(15)));
        assert_eq!(Ticks(15).to_string(), "1.5 s");
        assert!(outage.happens());
    }

    #[test]
    fn it_ends_when_it_has_not_happened_for_a_while() {
        let mut outage = Outage::default();
        outage.happens();
        (0..4).for_each(|_| outage.tick());
        outage.happens();
        (0..9).for_each(|_| outage.tick());
        assert_eq!(outage.end_if_quiet(), None);
        outage.tick();
        assert_eq!(outage.end_if_quiet(), Some(Ticks(4)));
        assert_eq!(outage.end_if_quiet(), None);
    }
}
