// SPDX-License-Identifier: MIT OR Apache-2.0
//! Traces of page accesses, and their file format.
//!
//! | bytes | what |
//! |---|---|
//! | 0..8 | `PAGETRC1` |
//! | 8..16 | number of accesses; this and all numbers that follow are little-endian |
//! | 16..20 | number of pages; every page number is below it |
//! | 20..24 | CRC-32C of the body |
//! | 24.. | body: for each access, the difference between its page and the one before (zero at
//! first), zigzag-coded, as LEB128 |
//!
//! An access takes a byte or two in this format. The checksum is written last, so a file that was
//! cut off or never finished cannot be read.

use std::fs::File;
use std::io::{self, BufReader, BufWriter, Read, Seek, SeekFrom, Write};
use std::path::Path;

const MAGIC: [u8; 8] = *b"PAGETRC1";
const HEADER_BYTES: usize = 24;
/// The most bytes of a zigzag-coded difference of two `u32`.
const MAX_VARINT_BYTES: u32 = 5;

/// Page accesses in order. Pages are numbered from 0 on, almost without gaps.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Trace {
    /// The number of pages. Every access is below it.
    pub pages: u32,
    /// The page of each access.
    pub accesses: Vec<u32>,
}

/// Why a trace cannot be read.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TraceError {
    /// The file cannot be read.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// The file does not begin like a trace.
    #[error("this is not a trace")]
    NoTrace,
    /// The file was never finished, or has changed since.
    #[error("damaged: the checksum of its body is {found:#010x}, not {expected:#010x}")]
    Sum {
        /// The checksum in the header.
        expected: u32,
        /// The checksum of the body.
        found: u32,
    },
    /// The body is shorter than the header says, or an access is not a page.
    #[error("damaged: access {at} of {accesses} is missing or is not a page")]
    Access {
        /// The number of the access, from 0 on.
        at: u64,
        /// The number of accesses in the header.
        accesses: u64,
    },
    /// The body is longer than the header says.
    #[error("damaged: there is data after the last of {accesses} accesses")]
    Rest {
        /// The number of accesses in the header.
        accesses: u64,
    },
}

impl Trace {
    /// Reads a file.
    pub fn read(path: &Path) -> Result<Self, TraceError> {
        let mut bytes = Vec::new();
        BufReader::new(File::open(path)?).read_to_end(&mut bytes)?;
        Self::decode(&bytes)
    }

    fn decode(bytes: &[u8]) -> Result<Self, TraceError> {
        let (header, body) = bytes
            .split_first_chunk::<HEADER_BYTES>()
            .ok_or(TraceError::NoTrace)?;
        let [
            m0,
            m1,
            m2,
            m3,
            m4,
            m5,
            m6,
            m7,
            a0,
            a1,
            a2,
            a3,
            a4,
            a5,
            a6,
            a7,
            p0,
            p1,
            p2,
            p3,
            s0,
            s1,
            s2,
            s3,
        ] = *header;
        if [m0, m1, m2, m3, m4, m5, m6, m7] != MAGIC {
            return Err(TraceError::NoTrace);
        }
        let count = u64::from_le_bytes([a0, a1, a2, a3, a4, a5, a6, a7]);
        let pages = u32::from_le_bytes([p0, p1, p2, p3]);
        let expected = u32::from_le_bytes([s0, s1, s2, s3]);
        let found = crc32c::crc32c(body);
        if expected != found {
            return Err(TraceError::Sum { expected, found });
        }
        // A body of this many bytes holds at most as many accesses, so a wrong header cannot cause
        // a large allocation.
        let mut accesses = Vec::with_capacity(body.len().min(usize::try_from(count).unwrap_or(0)));
        let mut rest = body;
        let mut last = 0;
        for at in 0..count {
            let page = delta(&mut rest)
                .and_then(|delta| u32::try_from(i64::from(last) + delta).ok())
                .filter(|page| *page < pages);
            last = page.ok_or(TraceError::Access {
                at,
                accesses: count,
            })?;
            accesses.push(last);
        }
        if !rest.is_empty() {
            return Err(TraceError::Rest { accesses: count });
        }
        Ok(Self { pages, accesses })
    }
}

/// Removes one difference from the front.
fn delta(rest: &mut &[u8]) -> Option<i64> {
    let mut code = 0;
    for nth in 0..MAX_VARINT_BYTES {
        let (byte, after) = rest.split_first()?;
        *rest = after;
        code |= u64::from(byte & 0x7f) << (7 * nth);
        if byte & 0x80 == 0 {
            let half = i64::try_from(code >> 1).ok()?;
            return Some(if code & 1 == 0 { half } else { -half - 1 });
        }
    }
    None
}

/// Writes a trace while it is being made. The trace is never in memory.
#[derive(Debug)]
pub struct TraceWriter {
    file: BufWriter<File>,
    last: u32,
    pages: u32,
    accesses: u64,
    sum: u32,
}

impl TraceWriter {
    /// Begins a file. An existing file is replaced.
    pub fn create(path: &Path) -> io::Result<Self> {
        let mut file = BufWriter::new(File::create(path)?);
        file.write_all(&[0; HEADER_BYTES])?;
        Ok(Self {
            file,
            last: 0,
            pages: 0,
            accesses: 0,
            sum: 0,
        })
    }

    /// Appends an access.
    pub fn access(&mut self, page: u32) -> io::Result<()> {
        let delta = i64::from(page) - i64::from(self.last);
        let mut code = (delta << 1 ^ delta >> 63).cast_unsigned();
        let mut bytes = [0; MAX_VARINT_BYTES as usize];
        let mut len = 0;
        while let Some(byte) = bytes.get_mut(len) {
            len += 1;
            *byte = code.to_le_bytes()[0] & 0x7f;
            code >>= 7;
            if code == 0 {
                break;
            }
            *byte |= 0x80;
        }
        let bytes = &bytes[..len];
        self.sum = crc32c::crc32c_append(self.sum, bytes);
        self.last = page;
        self.pages = self.pages.max(page.saturating_add(1));
        self.accesses += 1;
        self.file.write_all(bytes)
    }

    /// Completes the file. Returns the numbers of its pages and accesses.
    pub fn finish(mut self) -> io::Result<(u32, u64)> {
        self.file.seek(SeekFrom::Start(0))?;
        self.file.write_all(&MAGIC)?;
        self.file.write_all(&self.accesses.to_le_bytes())?;
        self.file.write_all(&self.pages.to_le_bytes())?;
        self.file.write_all(&self.sum.to_le_bytes())?;
        self.file.flush()?;
        Ok((self.pages, self.accesses))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn written(accesses: &[u32]) -> Vec<u8> {
        let file = tempfile::NamedTempFile::new().unwrap();
        let mut writer = TraceWriter::create(file.path()).unwrap();
        for &page in accesses {
            writer.access(page).unwrap();
        }
        writer.finish().unwrap();
        std::fs::read(file.path()).unwrap()
    }

    proptest! {
        #[test]
        fn what_was_written_reads_back(accesses in prop::collection::vec(prop_oneof![0..300_u32, 0..u32::MAX], 0..200)) {
            let trace = Trace::decode(&written(&accesses)).unwrap();
            prop_assert_eq!(trace.accesses, accesses);
        }

        #[test]
        fn a_damaged_file_is_an_error(accesses in prop::collection::vec(0..300_u32, 1..50), at in any::<prop::sample::Index>(), bit in 0..8_u32) {
            let whole = written(&accesses);
            let mut damaged = whole.clone();
            let at = at.index(whole.len());
            damaged[at] ^= 1_u8 << bit;
            // A larger number of pages is the only damage that neither the checksum nor an access
            // reveals.
            let harmless = (16..20).contains(&at) && damaged[at] > whole[at];
            prop_assert!(harmless || Trace::decode(&damaged).is_err());
            prop_assert!(Trace::decode(&whole[..at]).is_err());
        }
    }

    #[test]
    fn a_header_that_lies_about_its_length_allocates_nothing() {
        let mut lie = written(&[1, 2, 3]);
        lie[8..16].fill(0xff);
        assert!(matches!(
            Trace::decode(&lie),
            Err(TraceError::Access { at: 3, .. })
        ));
    }
}
