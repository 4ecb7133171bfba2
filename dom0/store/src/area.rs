// SPDX-License-Identifier: MIT OR Apache-2.0
//! A swap area: a file or a block device that was made one by `xenpaging mkswap` (row C5).
//!
//! Its first page is a header, so no slot lies at page 0. All numbers are little endian.
//!
//! | byte | what |
//! |---|---|
//! | 0 | `XENPAGES` |
//! | 8 | version, 1 (4 bytes) |
//! | 12 | pages for slots behind the header (4 bytes) |
//! | 16 | UUID |
//! | 32 | CRC-32C of the bytes before (4 bytes) |
//!
//! Whoever uses an area holds a lock on it (`flock`), which ends with its holder: so an area has one pager, and
//! is nobody's once that is gone. What an area held for a pager that is gone means nothing.

use std::fs::File;
use std::io::{Seek as _, SeekFrom};
use std::os::unix::fs::{FileExt as _, FileTypeExt as _};
use std::path::{Path, PathBuf};

use p2m_paging::PAGE_SIZE;
use rustix::fs::{FallocateFlags, FlockOperation, Mode, OFlags};
use rustix::io::Errno;
use uuid::Uuid;
use zerocopy::little_endian::U32;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

const MAGIC: [u8; 8] = *b"XENPAGES";
const VERSION: u32 = 1;
const PAGE: u64 = PAGE_SIZE as u64;

/// The start of an area.
#[derive(Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct RawHeader {
    magic: [u8; 8],
    version: U32,
    slots: U32,
    uuid: [u8; 16],
    checksum: U32,
}

const HEADER_BYTES: usize = size_of::<RawHeader>();
const _: () = assert!(HEADER_BYTES == 36);

/// What an area says of itself, checked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// How many pages it holds.
    pub slots: u32,
    /// Its name among all areas.
    pub uuid: Uuid,
}

/// Why something is no area, or not to be had.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SwapAreaError {
    /// The system refused.
    #[error("{}: {what}: {errno}", path.display())]
    System {
        /// Which file.
        path: PathBuf,
        /// What was tried.
        what: &'static str,
        /// Why not.
        errno: Errno,
    },
    /// Somebody has it.
    #[error("{} is in use", path.display())]
    InUse {
        /// Which file.
        path: PathBuf,
    },
    /// Too short for a header and a page.
    #[error("{} has {bytes} bytes, too few for a header and a page", path.display())]
    TooSmall {
        /// Which file.
        path: PathBuf,
        /// Its size.
        bytes: u64,
    },
    /// The header is not one to be trusted.
    #[error("{}: {wrong}", path.display())]
    Header {
        /// Which file.
        path: PathBuf,
        /// What is wrong with it.
        wrong: HeaderError,
    },
    /// A pager has no numbers for more slots.
    #[error("{} has no place beside the areas that there are", path.display())]
    TooMany {
        /// Which file.
        path: PathBuf,
    },
}

/// What is wrong with a header: the field, what is expected there, and what was found.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum HeaderError {
    /// It does not begin as one.
    #[error("no swap area (made by `xenpaging mkswap`): its magic is \"{}\", not \"{}\"",
            found.escape_ascii(), MAGIC.escape_ascii())]
    Magic {
        /// As it says.
        found: [u8; 8],
    },
    /// It has been changed.
    #[error("damaged swap area: its checksum is {found:#010x}, not {expected:#010x}")]
    Checksum {
        /// As it says.
        found: u32,
        /// Of what it says.
        expected: u32,
    },
    /// Of another time.
    #[error("swap area of another xenpaging: its version is {found}, not {VERSION}")]
    Version {
        /// As it says.
        found: u32,
    },
    /// It promises more than there is, or nothing.
    #[error("swap area cut short: its size is {found} pages, not {expected}")]
    Size {
        /// As it says.
        found: u32,
        /// What there is room for.
        expected: u64,
    },
}

/// Makes a file or a device a swap area. With a size in bytes, a file is made that long, with room on its disk, and made at all
/// if it is not there. What was in it is lost.
pub fn make(path: &Path, bytes: Option<u64>) -> Result<Header, SwapAreaError> {
    let create = match bytes {
        Some(_) => OFlags::CREATE,
        None => OFlags::empty(),
    };
    let file = open(path, OFlags::RDWR | create)?;
    lock(path, &file)?;
    if let Some(bytes) = bytes {
        allocate(&file, bytes).map_err(at(path, "size"))?;
    }
    let bytes = size(path, &file)?;
    let slots = u32::try_from((bytes / PAGE).saturating_sub(1)).unwrap_or(u32::MAX);
    if slots == 0 {
        let path = path.to_owned();
        return Err(SwapAreaError::TooSmall { path, bytes });
    }
    let uuid = Uuid::new_v4();
    let header = Header { slots, uuid };
    let mut page = [0; PAGE_SIZE];
    page[..HEADER_BYTES].copy_from_slice(RawHeader::of(header).as_bytes());
    file.write_all_at(&page, 0).map_err(io(path, "header"))?;
    rustix::fs::fsync(&file).map_err(at(path, "header"))?;
    Ok(header)
}

/// Opens an area, for one pager alone: the lock stays with the file.
pub fn claim(path: &Path) -> Result<(File, Header), SwapAreaError> {
    let file = open(path, OFlags::RDWR)?;
    let header = take(path, &file)?;
    Ok((file, header))
}

/// Locks a file that is open, unless this one has the lock already, and checks its header.
pub fn take(path: &Path, file: &File) -> Result<Header, SwapAreaError> {
    lock(path, file)?;
    read_header(path, file)
}

/// What an area says of itself, and whether somebody uses it.
pub fn look(path: &Path) -> Result<(Header, bool), SwapAreaError> {
    let file = File::open(path).map_err(io(path, "open"))?;
    let header = read_header(path, &file)?;
    match lock(path, &file) {
        Ok(()) => Ok((header, false)),
        Err(SwapAreaError::InUse { .. }) => Ok((header, true)),
        Err(error) => Err(error),
    }
}

fn read_header(path: &Path, file: &File) -> Result<Header, SwapAreaError> {
    let bytes = size(path, file)?;
    if bytes < 2 * PAGE {
        let path = path.to_owned();
        return Err(SwapAreaError::TooSmall { path, bytes });
    }
    let mut raw = [0; HEADER_BYTES];
    file.read_exact_at(&mut raw, 0)
        .map_err(io(path, "header"))?;
    check(zerocopy::transmute!(raw), bytes / PAGE - 1).map_err(|wrong| SwapAreaError::Header {
        path: path.to_owned(),
        wrong,
    })
}

/// The checksum comes before what it guards: a damaged version means nothing.
fn check(raw: RawHeader, room: u64) -> Result<Header, HeaderError> {
    if raw.magic != MAGIC {
        return Err(HeaderError::Magic { found: raw.magic });
    }
    let (found, expected) = (raw.checksum.get(), raw.sum());
    if expected != found {
        return Err(HeaderError::Checksum { found, expected });
    }
    let (version, slots) = (raw.version.get(), raw.slots.get());
    if version != VERSION {
        return Err(HeaderError::Version { found: version });
    }
    if slots == 0 || u64::from(slots) > room {
        return Err(HeaderError::Size {
            found: slots,
            expected: room,
        });
    }
    let uuid = Uuid::from_bytes(raw.uuid);
    Ok(Header { slots, uuid })
}

impl RawHeader {
    fn of(header: Header) -> Self {
        let mut raw = Self {
            magic: MAGIC,
            version: VERSION.into(),
            slots: header.slots.into(),
            uuid: header.uuid.into_bytes(),
            checksum: U32::ZERO,
        };
        raw.checksum = raw.sum().into();
        raw
    }

    fn sum(&self) -> u32 {
        let bytes = self.as_bytes();
        crc32c::crc32c(&bytes[..bytes.len() - size_of::<U32>()])
    }
}

/// A device is not opened while a file system, or another pager, has it.
fn open(path: &Path, flags: OFlags) -> Result<File, SwapAreaError> {
    let is_device = std::fs::metadata(path).is_ok_and(|data| data.file_type().is_block_device());
    let flags = if is_device {
        (flags - OFlags::CREATE) | OFlags::EXCL
    } else {
        flags
    };
    match rustix::fs::open(path, flags | OFlags::CLOEXEC, Mode::RUSR | Mode::WUSR) {
        Ok(file) => Ok(File::from(file)),
        Err(Errno::BUSY) => Err(SwapAreaError::InUse {
            path: path.to_owned(),
        }),
        Err(errno) => Err(at(path, "open")(errno)),
    }
}

fn lock(path: &Path, file: &File) -> Result<(), SwapAreaError> {
    match rustix::fs::flock(file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(()),
        Err(Errno::WOULDBLOCK) => Err(SwapAreaError::InUse {
            path: path.to_owned(),
        }),
        Err(errno) => Err(at(path, "lock")(errno)),
    }
}

/// A file system that cannot set room aside leaves the file with holes.
fn allocate(file: &File, bytes: u64) -> Result<(), Errno> {
    rustix::fs::ftruncate(file, bytes)?;
    match rustix::fs::fallocate(file, FallocateFlags::empty(), 0, bytes) {
        Err(Errno::OPNOTSUPP) => Ok(()),
        done => done,
    }
}

/// Of a file or a device.
fn size(path: &Path, mut file: &File) -> Result<u64, SwapAreaError> {
    file.seek(SeekFrom::End(0)).map_err(io(path, "size"))
}

fn at(path: &Path, what: &'static str) -> impl Fn(Errno) -> SwapAreaError {
    let path = path.to_owned();
    move |errno| SwapAreaError::System {
        path: path.clone(),
        what,
        errno,
    }
}

fn io(path: &Path, what: &'static str) -> impl Fn(std::io::Error) -> SwapAreaError {
    let at = at(path, what);
    move |error| at(Errno::from_io_error(&error).unwrap_or(Errno::IO))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn area(pages: u64) -> (tempfile::TempDir, PathBuf, Header) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("area");
        let header = make(&path, Some(pages * PAGE)).unwrap();
        (dir, path, header)
    }

    fn wrong(path: &Path) -> HeaderError {
        let error = claim(path).unwrap_err();
        let line = error.to_string();
        assert!(
            line.starts_with(path.to_str().unwrap()) && !line.contains('\n'),
            "{line}"
        );
        match error {
            SwapAreaError::Header { wrong, .. } => wrong,
            other => panic!("{other}"),
        }
    }

    #[test]
    fn c5_an_area_says_what_it_is() {
        let (_dir, path, header) = area(100);
        assert_eq!(header.slots, 99, "the header has a page of its own");
        assert_eq!(claim(&path).unwrap().1, header);
        let (_dir, _, other) = area(100);
        assert_ne!(other.uuid, header.uuid);
        // Made again it is another, as large as it was.
        let again = make(&path, None).unwrap();
        assert_eq!(again.slots, 99);
        assert_ne!(again.uuid, header.uuid);
    }

    #[test]
    fn c5_every_bit_of_a_header_is_guarded() {
        let (_dir, path, header) = area(3);
        let file = File::options().read(true).write(true).open(&path).unwrap();
        let mut page = [0; PAGE_SIZE];
        file.read_exact_at(&mut page, 0).unwrap();
        for bit in 0..8 * HEADER_BYTES {
            page[bit / 8] ^= 1 << (bit % 8);
            file.write_all_at(&page, 0).unwrap();
            let told = matches!(
                (bit / 8, wrong(&path)),
                (0..8, HeaderError::Magic { .. }) | (8.., HeaderError::Checksum { .. })
            );
            assert!(told, "bit {bit}");
            page[bit / 8] ^= 1 << (bit % 8);
        }
        file.write_all_at(&page, 0).unwrap();
        assert_eq!(claim(&path).unwrap().1, header);
    }

    #[test]
    fn c5_what_cannot_be_used_is_said_with_what_was_expected_and_found() {
        let (_dir, path, header) = area(3);
        let file = File::options().write(true).open(&path).unwrap();
        file.set_len(2 * PAGE).unwrap();
        let short = HeaderError::Size {
            found: 2,
            expected: 1,
        };
        assert_eq!(wrong(&path), short);
        assert!(short.to_string().contains("size is 2 pages, not 1"));
        file.set_len(PAGE).unwrap();
        assert!(matches!(claim(&path), Err(SwapAreaError::TooSmall { .. })));
        assert!(matches!(
            make(&path, None),
            Err(SwapAreaError::TooSmall { .. })
        ));
        let mut newer = RawHeader::of(header);
        newer.version = 2.into();
        newer.checksum = newer.sum().into();
        file.set_len(3 * PAGE).unwrap();
        file.write_all_at(newer.as_bytes(), 0).unwrap();
        assert_eq!(wrong(&path), HeaderError::Version { found: 2 });
        file.write_all_at(b"#!/bin/s", 0).unwrap();
        let line = wrong(&path).to_string();
        assert!(line.contains("magic is \"#!/bin/s\", not \"XENPAGES\""));
        let missing = path.with_file_name("missing");
        for refused in [make(&missing, None).map(drop), claim(&missing).map(drop)] {
            assert!(matches!(refused, Err(SwapAreaError::System { .. })));
        }
    }

    #[test]
    fn c5_an_area_has_one_pager_at_a_time() {
        let (_dir, path, header) = area(3);
        let held = claim(&path).unwrap();
        for refused in [claim(&path).map(drop), make(&path, None).map(drop)] {
            assert!(matches!(refused, Err(SwapAreaError::InUse { .. })));
        }
        assert_eq!(take(&path, &held.0).unwrap(), header, "it has it already");
        assert_eq!(look(&path).unwrap(), (header, true));
        drop(held);
        assert_eq!(look(&path).unwrap(), (header, false));
        assert!(claim(&path).is_ok());
    }

    #[test]
    fn c5_an_area_has_its_room_on_the_disk_from_the_start() {
        use std::os::unix::fs::MetadataExt as _;
        let (_dir, path, _) = area(100);
        assert!(path.metadata().unwrap().blocks() * 512 >= 100 * PAGE);
    }
}
