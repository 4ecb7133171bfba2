// SPDX-License-Identifier: MIT OR Apache-2.0
//! A swap area: a file or a block device that `xenpaging mkswap` has prepared (row C5).
//!
//! The first page is a header, so no slot lies at page 0. All numbers are little endian.
//!
//! | byte | what |
//! |---|---|
//! | 0 | `XENPAGES` |
//! | 8 | version, 1 (4 bytes) |
//! | 12 | pages for slots behind the header (4 bytes) |
//! | 16 | UUID |
//! | 32 | CRC-32C of the bytes before (4 bytes) |
//!
//! A pager that uses an area holds a lock on it (`flock`). The kernel releases the lock when the
//! pager ends, so an area has one pager at most. The contents that an earlier pager left in an area
//! have no meaning.

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

/// The header as it lies on the disk.
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

/// The header's contents, checked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// The number of pages that the area holds.
    pub slots: u32,
    /// The identifier of the area.
    pub uuid: Uuid,
}

/// Why a file is not a swap area, or cannot be used as one.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SwapAreaError {
    /// A system call failed.
    #[error("{}: {what}: {errno}", path.display())]
    System {
        /// The file.
        path: PathBuf,
        /// The step that failed.
        what: &'static str,
        /// The error of this step.
        errno: Errno,
    },
    /// Another pager uses the area.
    #[error("{} is in use", path.display())]
    InUse {
        /// The file.
        path: PathBuf,
    },
    /// The file is too short for a header and a page.
    #[error("{} has {bytes} bytes, too few for a header and a page", path.display())]
    TooSmall {
        /// The file.
        path: PathBuf,
        /// Its size.
        bytes: u64,
    },
    /// The header is not valid.
    #[error("{}: {wrong}", path.display())]
    Header {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        wrong: HeaderError,
    },
    /// The pager has no slot numbers left for it.
    #[error("{} cannot be added: no slot numbers are left beside the other areas", path.display())]
    TooMany {
        /// The file.
        path: PathBuf,
    },
}

/// What is wrong with a header: the field, the expected value and the value found.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum HeaderError {
    /// The magic is wrong.
    #[error("not a swap area (`xenpaging mkswap` makes one): its magic is \"{}\", not \"{}\"",
            found.escape_ascii(), MAGIC.escape_ascii())]
    Magic {
        /// The magic in the header.
        found: [u8; 8],
    },
    /// The checksum is wrong.
    #[error("damaged swap area: its checksum is {found:#010x}, not {expected:#010x}")]
    Checksum {
        /// The checksum in the header.
        found: u32,
        /// The checksum of the header's contents.
        expected: u32,
    },
    /// The version is unknown.
    #[error("swap area of another version of xenpaging: its version is {found}, not {VERSION}")]
    Version {
        /// The version in the header.
        found: u32,
    },
    /// The header states more pages than the file has, or none.
    #[error("swap area cut short: its size is {found} pages, not {expected}")]
    Size {
        /// The number of pages in the header.
        found: u32,
        /// The number of pages that the file has room for.
        expected: u64,
    },
}

/// Makes a file or a device a swap area. With a size in bytes, the file is created if it does not
/// exist, gets that length, and its room on the disk is reserved. The old contents are lost.
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

/// Opens an area for one pager alone. The lock lasts as long as the file is open.
pub fn claim(path: &Path) -> Result<(File, Header), SwapAreaError> {
    let file = open(path, OFlags::RDWR)?;
    let header = take(path, &file)?;
    Ok((file, header))
}

/// Locks an open file, unless this descriptor has the lock already, and checks its header.
pub fn take(path: &Path, file: &File) -> Result<Header, SwapAreaError> {
    lock(path, file)?;
    read_header(path, file)
}

/// Reads an area's header, and whether a pager uses the area.
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

/// The checksum is checked first: the version in a damaged header has no meaning.
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

/// Opens a file or a device. A device is not opened while it holds a mounted file system or another
/// pager uses it.
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

/// Reserves room on the disk. On a file system that cannot do so the file keeps its holes.
fn allocate(file: &File, bytes: u64) -> Result<(), Errno> {
    rustix::fs::ftruncate(file, bytes)?;
    match rustix::fs::fallocate(file, FallocateFlags::empty(), 0, bytes) {
        Err(Errno::OPNOTSUPP) => Ok(()),
        done => done,
    }
}

/// The size of a file or a device in bytes.
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
        // An area that is made again gets a new UUID and keeps its size.
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
