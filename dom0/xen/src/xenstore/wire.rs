// SPDX-License-Identifier: MIT OR Apache-2.0
//! Messages of the wire protocol (`public/io/xs_wire.h`).

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use super::XenstoreError;

/// `XENSTORE_PAYLOAD_MAX`.
pub const PAYLOAD_MAX: usize = 4096;

/// `XS_READ` and so on (`enum xsd_sockmsg_type`).
pub mod message {
    #![allow(missing_docs)] // The names are Xen's.
    pub const DIRECTORY: u32 = 1;
    pub const READ: u32 = 2;
    pub const WATCH: u32 = 4;
    pub const WRITE: u32 = 11;
    pub const RM: u32 = 13;
    pub const WATCH_EVENT: u32 = 15;
    pub const ERROR: u32 = 16;
}

/// `struct xsd_sockmsg`.
#[repr(C)]
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct Header {
    /// One of [`message`].
    pub kind: u32,
    /// The reply carries the same number.
    pub req_id: u32,
    /// The transaction; 0 for none.
    pub tx_id: u32,
    /// The number of bytes that follow.
    pub len: u32,
}

/// The bytes that have arrived. A message that is not complete yet stays here.
#[derive(Debug, Default)]
pub(super) struct Incoming(Vec<u8>);

impl Incoming {
    pub(super) fn push(&mut self, bytes: &[u8]) {
        self.0.extend_from_slice(bytes);
    }

    /// Takes the next message, if it is complete.
    pub(super) fn next(&mut self) -> Result<Option<(Header, Vec<u8>)>, XenstoreError> {
        let Ok((header, rest)) = Header::read_from_prefix(&self.0) else {
            return Ok(None);
        };
        let length = usize::try_from(header.len).unwrap_or(usize::MAX);
        if length > PAYLOAD_MAX {
            return Err(XenstoreError::Broken);
        }
        let Some(body) = rest.get(..length).map(<[u8]>::to_vec) else {
            return Ok(None);
        };
        self.0.drain(..size_of::<Header>() + length);
        Ok(Some((header, body)))
    }
}

/// The text before the first zero.
pub(super) fn text(bytes: &[u8]) -> String {
    let end = bytes.iter().position(|&byte| byte == 0);
    String::from_utf8_lossy(&bytes[..end.unwrap_or(bytes.len())]).into_owned()
}
