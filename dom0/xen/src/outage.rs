// SPDX-License-Identifier: MIT OR Apache-2.0
//! Something that fails for a while. It is logged once when it begins and once when it ends.

use std::time::{Duration, Instant};

#[derive(Debug, Default)]
pub(super) struct Outage(Option<Instant>);

impl Outage {
    /// Notes a failure. Returns whether the outage begins with it.
    pub(super) fn begins(&mut self) -> bool {
        let begins = self.0.is_none();
        self.0.get_or_insert_with(Instant::now);
        begins
    }

    /// Notes a success. Returns the length of the outage that ends with it.
    pub(super) fn ends(&mut self) -> Option<Duration> {
        self.0.take().map(|since| since.elapsed())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_outage_begins_and_ends_once() {
        let mut outage = Outage::default();
        assert_eq!(outage.ends(), None);
        assert!(outage.begins() && !outage.begins());
        assert!(outage.ends().is_some());
        assert_eq!(outage.ends(), None);
        assert!(outage.begins(), "the next one");
    }
}
