// SPDX-License-Identifier: MIT OR Apache-2.0
//! The header of an index. All numbers are little endian.
//!
//! | byte | what |
//! |---|---|
//! | 0 | `XENINDEX` |
//! | 8 | version, 2 (4 bytes) |
//! | 12 | domain id (4 bytes) |
//! | 16 | UUID of the guest |
//! | 32 | number of gfns (8 bytes) |
//! | 40 | kind of the store (4 bytes) |
//! | 48 | device of the store (8 bytes) |
//! | 56 | inode of the store (8 bytes) |
//! | 64 | CRC-32C of the bytes before (4 bytes) |

use std::fmt;
use std::fs::File;
use std::os::unix::fs::FileExt as _;

use rustix::io::Errno;
use uuid::Uuid;
use zerocopy::little_endian::{U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use super::error::{IndexError, at};

const MAGIC: [u8; 8] = *b"XENINDEX";
/// The version of the format. A pager takes over an index of its own version only.
pub const VERSION: u32 = 2;

/// A guest. A domain id is used again for another guest, a UUID is not; but a UUID is for a guest's
/// whole life, and a guest that starts again has nothing out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GuestIdentity {
    /// The domain id.
    pub domain: u32,
    /// The UUID.
    pub uuid: Uuid,
}

impl fmt::Display for GuestIdentity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "domain {} ({})", self.domain, self.uuid)
    }
}

/// A store whose contents survive the pager.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StoreIdentity {
    /// What it is.
    pub kind: StoreKind,
    /// The device on which its file lies.
    pub device: u64,
    /// The inode of its file.
    pub inode: u64,
}

impl fmt::Display for StoreIdentity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = self.kind.0;
        write!(
            f,
            "store of kind {kind}, inode {} of device {:#x}",
            self.inode, self.device
        )
    }
}

/// A kind of store, as the header states it. Swap areas and memory are none: the contents of an area
/// mean nothing to the next pager, and memory ends with its process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StoreKind(pub u32);

impl StoreKind {
    /// A pagefile.
    pub const PAGEFILE: Self = Self(1);
}

/// Whose pages an index has, and in which store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Identity {
    /// The guest.
    pub guest: GuestIdentity,
    /// The store.
    pub store: StoreIdentity,
}

/// The header as it lies in the file.
#[derive(Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub(super) struct Header {
    magic: [u8; 8],
    version: U32,
    domain: U32,
    uuid: [u8; 16],
    gfns: U64,
    store_kind: U32,
    reserved: U32,
    store_device: U64,
    store_inode: U64,
    checksum: U32,
}

pub(super) const HEADER_BYTES: usize = size_of::<Header>();
const _: () = assert!(HEADER_BYTES == 68);

impl Header {
    pub(super) fn of(identity: Identity, gfns: u64) -> Self {
        let Identity { guest, store } = identity;
        let mut header = Self {
            magic: MAGIC,
            version: VERSION.into(),
            domain: guest.domain.into(),
            uuid: guest.uuid.into_bytes(),
            gfns: gfns.into(),
            store_kind: store.kind.0.into(),
            reserved: U32::ZERO,
            store_device: store.device.into(),
            store_inode: store.inode.into(),
            checksum: U32::ZERO,
        };
        header.checksum = header.sum().into();
        header
    }

    pub(super) fn read(file: &File) -> Result<Self, IndexError> {
        let mut raw = [0; HEADER_BYTES];
        file.read_exact_at(&mut raw, 0).map_err(io)?;
        Ok(zerocopy::transmute!(raw))
    }

    pub(super) fn write(&self, file: &File) -> Result<(), IndexError> {
        file.write_all_at(self.as_bytes(), 0).map_err(io)
    }

    /// What it states. The checksum is checked first: the fields of a damaged header have no meaning.
    pub(super) fn check(&self) -> Result<(Identity, u64), IndexError> {
        if self.magic != MAGIC {
            return Err(IndexError::NotAnIndex { found: self.magic });
        }
        let (found, expected) = (self.checksum.get(), self.sum());
        if found != expected {
            return Err(IndexError::Damaged { found, expected });
        }
        let version = self.version.get();
        if version != VERSION {
            return Err(IndexError::OtherVersion { found: version });
        }
        let guest = GuestIdentity {
            domain: self.domain.get(),
            uuid: Uuid::from_bytes(self.uuid),
        };
        let store = StoreIdentity {
            kind: StoreKind(self.store_kind.get()),
            device: self.store_device.get(),
            inode: self.store_inode.get(),
        };
        Ok((Identity { guest, store }, self.gfns.get()))
    }

    fn sum(&self) -> u32 {
        let bytes = self.as_bytes();
        crc32c::crc32c(&bytes[..HEADER_BYTES - size_of::<U32>()])
    }
}

fn io(error: std::io::Error) -> IndexError {
    at("header of the index")(Errno::from_io_error(&error).unwrap_or(Errno::IO))
}
