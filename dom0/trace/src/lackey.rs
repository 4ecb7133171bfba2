// SPDX-License-Identifier: MIT OR Apache-2.0
//! Reduces the memory accesses of a program to those of its pages.
//!
//! The input is the output of `valgrind --tool=lackey --trace-mem=yes`: a line for each
//! instruction, load and store, like ` S 1ffefffe48,8`. That is gigabytes; the trace is a few
//! megabytes:
//!
//! - Pages are numbered in the order of their first access, like frames that a kernel hands out.
//! - An access to a page that was noted within the last [`WINDOW`] notes is not noted again. A TLB
//!   hides such accesses too. So recency is wrong by at most that many places. A page in constant
//!   use is noted repeatedly, so memories much larger than the window see the same faults.

use std::collections::HashMap;
use std::io::{self, BufRead};

use p2m_paging::PAGE_SIZE;
use pager_accesses::format::TraceWriter;

/// See the [module](self).
pub const WINDOW: u32 = 32;

/// The pages looked up last, indexed by the low bits of their number.
const RECENT: usize = 1024;

/// Reduces lackey's lines to a trace of at most this many accesses.
pub fn reduce(mut lines: impl BufRead, trace: &mut TraceWriter, at_most: u64) -> io::Result<()> {
    let mut reducer = Reducer::default();
    let mut line = Vec::with_capacity(64);
    while reducer.noted < at_most {
        line.clear();
        if lines.read_until(b'\n', &mut line)? == 0 {
            break;
        }
        if let Some((address, size)) = access(&line) {
            let first = address / PAGE_SIZE as u64;
            let last = address.saturating_add(size.max(1) - 1) / PAGE_SIZE as u64;
            // No instruction touches more than two pages, so a wrong size cannot cause a long loop.
            for page in first..=last.min(first + 1) {
                if let Some(page) = reducer.note(page) {
                    trace.access(page)?;
                }
            }
        }
    }
    Ok(())
}

/// The address and size of an access; `None` for lines of the program itself.
fn access(line: &[u8]) -> Option<(u64, u64)> {
    let rest = match line {
        [b'I', b' ', b' ', rest @ ..] => rest,
        [b' ', b'L' | b'S' | b'M', b' ', rest @ ..] => rest,
        _ => return None,
    };
    let comma = rest.iter().position(|byte| *byte == b',')?;
    let (address, size) = rest.split_at(comma);
    let size = size.get(1..)?.trim_ascii_end();
    Some((number(address, 16)?, number(size, 10)?))
}

fn number(digits: &[u8], radix: u32) -> Option<u64> {
    if digits.is_empty() || digits.len() > 16 {
        return None;
    }
    digits.iter().try_fold(0_u64, |number, &digit| {
        let digit = char::from(digit).to_digit(radix)?;
        Some(number.wrapping_mul(u64::from(radix)) + u64::from(digit))
    })
}

#[derive(Debug)]
struct Reducer {
    numbers: HashMap<u64, u32>,
    recent: Vec<(u64, u32)>,
    /// For each page: the number of notes when it was noted last, including that note.
    noted_at: Vec<u64>,
    noted: u64,
}

impl Default for Reducer {
    fn default() -> Self {
        Self {
            numbers: HashMap::new(),
            recent: vec![(u64::MAX, 0); RECENT],
            noted_at: Vec::new(),
            noted: 0,
        }
    }
}

impl Reducer {
    /// The page's number, if the access is to be noted.
    fn note(&mut self, page: u64) -> Option<u32> {
        let number = self.number(page)?;
        let noted_at = self.noted_at.get_mut(number as usize)?;
        if *noted_at > 0 && self.noted - *noted_at < u64::from(WINDOW) {
            return None;
        }
        self.noted += 1;
        *noted_at = self.noted;
        Some(number)
    }

    fn number(&mut self, page: u64) -> Option<u32> {
        let index = usize::try_from(page % RECENT as u64).ok()?;
        let recent = self.recent.get_mut(index)?;
        if recent.0 != page {
            let next = u32::try_from(self.numbers.len()).ok()?;
            let number = *self.numbers.entry(page).or_insert(next);
            if number == next {
                self.noted_at.push(0);
            }
            *recent = (page, number);
        }
        Some(recent.1)
    }
}

#[cfg(test)]
mod tests {
    use pager_accesses::Trace;

    use super::*;

    fn reduced(lines: &str) -> Vec<u32> {
        let file = tempfile::NamedTempFile::new().unwrap();
        let mut writer = TraceWriter::create(file.path()).unwrap();
        reduce(lines.as_bytes(), &mut writer, u64::MAX).unwrap();
        writer.finish().unwrap();
        Trace::read(file.path()).unwrap().accesses
    }

    #[test]
    fn pages_are_numbered_by_first_touch_and_one_access_may_touch_two() {
        let lines = "==1== Lackey\nI  04001090,3\n S 1ffefffffc,8\n L 0,1\nfoo\n M 04001fff,1\n";
        assert_eq!(reduced(lines), [0, 1, 2, 3]);
        assert_eq!(reduced(" L 00,8\n S zz,8\n L 10\n L ,8\nI 1000,1\n"), [0]);
    }

    #[test]
    fn a_page_is_noted_again_only_when_others_were_in_between() {
        let line = |page: u64| format!(" L {:x},8\n", page << 12);
        let others: String = (1..u64::from(WINDOW)).map(line).collect();
        assert_eq!(reduced(&format!("{0}{0}{0}", line(0))), [0]);
        let all: Vec<_> = (0..WINDOW).collect();
        assert_eq!(reduced(&format!("{}{others}{}", line(0), line(0))), all);
        let one_more = format!("{}{others}{}{}", line(0), line(WINDOW.into()), line(0));
        assert_eq!(reduced(&one_more), [&all[..], &[WINDOW, 0]].concat());
    }
}
