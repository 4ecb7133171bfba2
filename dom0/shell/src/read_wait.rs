// SPDX-License-Identifier: MIT OR Apache-2.0
//! What is said of reads that hang: once that there are some, once that every reader has one, and once
//! that there are none any more.

use pager_core::Ticks;

use super::readers::READERS;

/// A read that takes so long hangs: two seconds.
const HANGS_TICKS: u64 = 20;

/// See the [module](self).
#[derive(Debug, Default)]
pub(super) struct ReadWait {
    /// Ticks since some read hangs.
    hangs: Option<u64>,
    said_all: bool,
}

impl ReadWait {
    /// Some time passed. `ages`: how long each read has taken, in ticks. Returns the line to log, if one
    /// is due.
    pub(super) fn tick(&mut self, ages: impl Iterator<Item = u64>) -> Option<String> {
        let hang = ages.filter(|age| *age >= HANGS_TICKS).count();
        if hang == 0 {
            self.said_all = false;
            let lasted = self.hangs.take()?;
            return Some(format!(
                "no read of the page store hangs any more, after {}",
                Ticks(lasted + HANGS_TICKS)
            ));
        }
        let is_new = self.hangs.is_none();
        let ticks = *self.hangs.get_or_insert(0);
        self.hangs = Some(ticks + 1);
        let lasts = Ticks(ticks + HANGS_TICKS);
        if hang >= READERS && !std::mem::replace(&mut self.said_all, true) {
            return Some(format!(
                "all {READERS} readers have waited for the page store, some for {lasts}: pages that have \
                 to be read from its device do not come in"
            ));
        }
        is_new.then(|| {
            format!(
                "the page store has not answered a read for {lasts}: whoever needs these pages waits, and \
                 others are served"
            )
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What is said while so many reads hang for so many ticks, and then none.
    fn said(reads: usize, ticks: u64) -> Vec<String> {
        let mut wait = ReadWait::default();
        let lines = (0..=ticks).map(|age| wait.tick(std::iter::repeat_n(age, reads)));
        let mut lines: Vec<_> = lines.flatten().collect();
        lines.extend((0..100).filter_map(|_| wait.tick([].into_iter())));
        lines
    }

    #[test]
    fn a_read_that_hangs_is_said_once_and_so_is_its_end() {
        assert!(said(3, HANGS_TICKS - 1).is_empty());
        let lines = said(1, 500);
        assert_eq!(lines.len(), 2, "{lines:?}");
        assert!(
            lines[0].contains("has not answered a read for 2.0 s"),
            "{lines:?}"
        );
        assert_eq!(
            lines[1],
            "no read of the page store hangs any more, after 50.1 s"
        );
    }

    #[test]
    fn it_is_said_once_that_every_reader_waits() {
        let lines = said(READERS, 500);
        assert_eq!(lines.len(), 2, "{lines:?}");
        assert!(
            lines[0].starts_with("all 4 readers have waited"),
            "{lines:?}"
        );
        // One after the other.
        let mut wait = ReadWait::default();
        let hang = (0..500).map(|n| wait.tick(std::iter::repeat_n(HANGS_TICKS, n / 10)));
        let lines: Vec<_> = hang.flatten().collect();
        assert_eq!(lines.len(), 2, "{lines:?}");
        assert!(lines[1].contains("some for 5.0 s"), "{lines:?}");
    }
}
