// SPDX-License-Identifier: MIT OR Apache-2.0
//! What to do, and whether it can be done here.

use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::time::Duration;

use p2m_paging::PAGE_SIZE;
use pager_accesses::Pattern;
use pager_core::policy::PolicyName;
use pager_store::areas::AreaChoice;
use pager_uffd::host::workload::fill::USUAL_PLACES;

/// More threads than a guest of any use has vcpus.
const MAX_VCPUS: u32 = 1024;

/// What to do.
#[derive(Clone, Debug)]
pub struct JobOptions {
    /// The guest's memory, in bytes.
    pub size_bytes: u64,
    /// How much of it is to be resident, in bytes.
    pub target_bytes: u64,
    /// How many vcpus.
    pub vcpus: u32,
    /// How long they work.
    pub duration: Duration,
    /// Seed of all random choices.
    pub seed: u64,
    /// Which pages they visit.
    pub pattern: Pattern,
    /// Visits that change their page, in a hundred.
    pub writes_percent: u32,
    /// Pages that the guest gives back while they are out.
    pub balloon: u64,
    /// Where pages go.
    pub store: StoreChoice,
    /// How the pager chooses; `None`: as it likes.
    pub policy: Option<PolicyName>,
    /// Whether pages may come in beside those that are asked for.
    pub read_ahead: bool,
    /// Whether the pager looks for pages that are alike.
    pub dedup: bool,
    /// Frame numbers that are never paged out.
    pub never: Vec<RangeInclusive<u64>>,
    /// The machine's memory in bytes, and how much of it is to be free, as the pager takes it.
    pub host_memory: Option<(u64, String)>,
    /// The pager is stopped so long after the start, before the work is done.
    pub stop_pager_at: Option<Duration>,
    /// What the guest's memory is filled with; `None`: programs and libraries.
    pub load: Option<PathBuf>,
    /// Whether faults are handled on one CPU.
    pub pin: bool,
    /// Where every visit is taken down, as a trace.
    pub record: Option<PathBuf>,
    /// Where the pager takes down what it sees used.
    pub record_seen: Option<PathBuf>,
    /// How much the pager is to say.
    pub verbosity: u8,
}

/// Where pages go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StoreChoice {
    /// The pager's memory.
    Memory,
    /// A file.
    File(PathBuf),
    /// Swap areas.
    Areas(Vec<AreaChoice>),
}

/// Sizes in pages, checked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sizes {
    /// The guest's; at least one.
    pub pages: u64,
    /// What is to be resident; not more.
    pub target: u64,
}

/// Why a size will not do.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SizeError {
    /// A guest without memory.
    #[error("--size: a guest needs at least one page of memory")]
    NoMemory,
    /// More than there is.
    #[error("--size: a guest of {asked_mib} MiB does not fit: {available_mib} MiB are available")]
    TooLarge {
        /// What was asked for.
        asked_mib: u64,
        /// What there is.
        available_mib: u64,
    },
    /// A target above the size.
    #[error("--target: {target_mib} MiB are more than the guest's {size_mib} MiB")]
    TargetAboveSize {
        /// What was asked for.
        target_mib: u64,
        /// The guest's size.
        size_mib: u64,
    },
    /// No vcpus, or too many.
    #[error("--vcpus: {0} is not between 1 and {MAX_VCPUS}")]
    Vcpus(u32),
    /// Not a size.
    #[error("{0:?} is no size: give a number with K, M or G (M if none is given)")]
    Unreadable(String),
}

impl JobOptions {
    /// Whether it can be done on this machine.
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

    /// What memory is filled from.
    pub(super) fn places(&self) -> Vec<PathBuf> {
        match &self.load {
            Some(path) => vec![path.clone()],
            None => USUAL_PLACES.map(PathBuf::from).to_vec(),
        }
    }
}

/// Reads a size: a whole number with K, M or G behind it; a plain number counts mebibytes.
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

/// Memory that can be had without swapping, as far as the kernel says.
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
