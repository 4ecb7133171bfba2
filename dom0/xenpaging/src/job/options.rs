// SPDX-License-Identifier: MIT OR Apache-2.0
//! The options of the job, and whether it is possible on this machine.

use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::time::Duration;

use p2m_paging::PAGE_SIZE;
use pager_accesses::Pattern;
use pager_core::policy::PolicyName;
use pager_store::areas::AreaChoice;
use pager_uffd::host::workload::fill::USUAL_PLACES;

/// More than a useful guest has vcpus.
const MAX_VCPUS: u32 = 1024;

/// The options of the job.
#[derive(Clone, Debug)]
pub struct JobOptions {
    /// The guest's memory, in bytes.
    pub size_bytes: u64,
    /// How much of it is to be resident, in bytes.
    pub target_bytes: u64,
    /// The number of vcpus.
    pub vcpus: u32,
    /// How long the vcpus work.
    pub duration: Duration,
    /// The seed of all random choices.
    pub seed: u64,
    /// Which pages are visited.
    pub pattern: Pattern,
    /// The percentage of visits that change their page.
    pub writes_percent: u32,
    /// The number of pages that the guest gives back while they are out.
    pub balloon: u64,
    /// Where pages are stored.
    pub store: StoreChoice,
    /// The policy; `None`: the pager's default.
    pub policy: Option<PolicyName>,
    /// Whether the pager reads ahead.
    pub read_ahead: bool,
    /// Whether the pager deduplicates.
    pub dedup: bool,
    /// Gfns that are never paged out.
    pub never: Vec<RangeInclusive<u64>>,
    /// The machine's memory in bytes, and the watermarks as the pager's command line takes them.
    pub host_memory: Option<(u64, String)>,
    /// The time after the start at which the pager is stopped, before the work is done.
    pub stop_pager_at: Option<Duration>,
    /// The times after the start at which the pager is killed.
    pub kill_pager_at: Vec<Duration>,
    /// Whether a pager that died is started again. A pager that stores pages in its own memory is not.
    pub restart: bool,
    /// What the guest's memory is filled from; `None`: programs and libraries.
    pub load: Option<PathBuf>,
    /// Whether faults are handled on one CPU.
    pub pin: bool,
    /// The file in which every visit is recorded as a trace.
    pub record: Option<PathBuf>,
    /// The file in which the pager records which pages it sees used.
    pub record_seen: Option<PathBuf>,
    /// How much the pager logs.
    pub verbosity: u8,
}

/// Where pages are stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StoreChoice {
    /// In the pager's memory.
    Memory,
    /// In a file.
    File(PathBuf),
    /// In swap areas.
    Areas(Vec<AreaChoice>),
}

/// Sizes in pages, checked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sizes {
    /// The guest's size; at least one.
    pub pages: u64,
    /// How many pages are to be resident; not more than the size.
    pub target: u64,
}

/// Why an option is not valid.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SizeError {
    /// The guest would have no memory.
    #[error("--size: a guest needs at least one page of memory")]
    NoMemory,
    /// The size is above the available memory.
    #[error("--size: a guest of {asked_mib} MiB does not fit: {available_mib} MiB are available")]
    TooLarge {
        /// The requested size.
        asked_mib: u64,
        /// The available memory.
        available_mib: u64,
    },
    /// The target is above the size.
    #[error("--target: {target_mib} MiB are more than the guest's {size_mib} MiB")]
    TargetAboveSize {
        /// The requested target.
        target_mib: u64,
        /// The guest's size.
        size_mib: u64,
    },
    /// There are no vcpus, or too many.
    #[error("--vcpus: {0} is not between 1 and {MAX_VCPUS}")]
    Vcpus(u32),
    /// The text is not a size.
    #[error("{0:?} is not a size: give a number with K, M or G (M if none is given)")]
    Unreadable(String),
}

impl JobOptions {
    /// Whether the pages that are out survive the pager.
    pub(super) fn pages_survive(&self) -> bool {
        self.restart && matches!(self.store, StoreChoice::File(_))
    }

    /// Checks whether the job is possible on this machine.
    pub fn check(&self) -> Result<Sizes, SizeError> {
        let (size, target) = (self.size_bytes, self.target_bytes);
        let pages = size / PAGE_SIZE as u64;
        if pages == 0 {
            return Err(SizeError::NoMemory);
        }
        if target > size {
            return Err(SizeError::TargetAboveSize {
                target_mib: target >> 20,
                size_mib: size >> 20,
            });
        }
        if !(1..=MAX_VCPUS).contains(&self.vcpus) {
            return Err(SizeError::Vcpus(self.vcpus));
        }
        if let Some(available) = available_bytes()
            && size > available
        {
            return Err(SizeError::TooLarge {
                asked_mib: size >> 20,
                available_mib: available >> 20,
            });
        }
        Ok(Sizes {
            pages,
            target: target / PAGE_SIZE as u64,
        })
    }

    /// The files and directories that memory is filled from.
    pub(super) fn places(&self) -> Vec<PathBuf> {
        match &self.load {
            Some(path) => vec![path.clone()],
            None => USUAL_PLACES.map(PathBuf::from).to_vec(),
        }
    }
}

/// Reads a size: a whole number with K, M or G. A number alone counts MiB.
pub fn parse_size(text: &str) -> Result<u64, SizeError> {
    let unreadable = || SizeError::Unreadable(text.to_owned());
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let shift = match text[digits.len()..].to_ascii_uppercase().as_str() {
        "K" | "KB" | "KIB" => 10,
        "" | "M" | "MB" | "MIB" => 20,
        "G" | "GB" | "GIB" => 30,
        _ => return Err(unreadable()),
    };
    let number: u64 = digits.parse().map_err(|_| unreadable())?;
    number.checked_mul(1 << shift).ok_or_else(unreadable)
}

/// The memory that is available without swapping, if the kernel reports it.
fn available_bytes() -> Option<u64> {
    let text = std::fs::read_to_string("/proc/meminfo").ok()?;
    let line = text.lines().find_map(|l| l.strip_prefix("MemAvailable:"))?;
    let kib: u64 = line.split_whitespace().next()?.parse().ok()?;
    kib.checked_mul(1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options() -> JobOptions {
        JobOptions {
            size_bytes: 16 << 20,
            target_bytes: 8 << 20,
            vcpus: 4,
            duration: Duration::from_secs(1),
            seed: 1,
            pattern: Pattern::Zipf,
            writes_percent: 50,
            balloon: 0,
            store: StoreChoice::Memory,
            policy: None,
            read_ahead: true,
            dedup: false,
            never: Vec::new(),
            host_memory: None,
            stop_pager_at: None,
            kill_pager_at: Vec::new(),
            restart: true,
            load: None,
            pin: true,
            record: None,
            record_seen: None,
            verbosity: 0,
        }
    }

    #[test]
    fn sizes_are_read_in_the_usual_units() {
        for (text, bytes) in [
            ("256", 256 << 20),
            ("256M", 256 << 20),
            ("1g", 1 << 30),
            ("4KiB", 4096),
            ("0", 0),
        ] {
            assert_eq!(parse_size(text), Ok(bytes), "{text}");
        }
        for text in ["", "M", "-1", "1.5G", "1T", "99999999999999G", "ä", "1ä"] {
            assert!(parse_size(text).is_err(), "{text}");
        }
    }

    #[test]
    fn what_cannot_be_done_is_said_in_a_line_that_names_the_option() {
        let fine = options();
        let sizes = Sizes {
            pages: 4096,
            target: 2048,
        };
        assert_eq!(fine.check(), Ok(sizes));
        let wrong = [
            (
                JobOptions {
                    size_bytes: 4095,
                    ..options()
                },
                "--size",
            ),
            (
                JobOptions {
                    size_bytes: 1 << 60,
                    ..options()
                },
                "--size",
            ),
            (
                JobOptions {
                    target_bytes: 17 << 20,
                    ..options()
                },
                "--target",
            ),
            (
                JobOptions {
                    vcpus: 0,
                    ..options()
                },
                "--vcpus",
            ),
            (
                JobOptions {
                    vcpus: u32::MAX,
                    ..options()
                },
                "--vcpus",
            ),
        ];
        for (options, named) in wrong {
            let line = options.check().unwrap_err().to_string();
            assert!(line.starts_with(named) && !line.contains('\n'), "{line}");
        }
        let nothing_resident = JobOptions {
            target_bytes: 0,
            ..options()
        };
        assert_eq!(nothing_resident.check().unwrap().target, 0);
    }
}
