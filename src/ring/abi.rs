// SPDX-License-Identifier: MIT OR Apache-2.0
//! The layout of the ring page, byte for byte as in Xen's `public/vm_event.h` and `public/io/ring.h`.
//!
//! A [`RawEntry`] is unchecked. [`Request`] and [`Response`] are the checked forms.

use core::mem::{align_of, offset_of, size_of};

use bitflags::bitflags;
use static_assertions::const_assert_eq;

use crate::frame::{Gfn, PAGE_SIZE, VcpuId};
use crate::p2m::P2mType;

/// `VM_EVENT_INTERFACE_VERSION` of Xen 4.17 to 4.22.
pub const VERSION: u32 = 7;
/// `VM_EVENT_REASON_MEM_PAGING`.
pub const REASON_MEM_PAGING: u32 = 3;
/// Slots of the ring: the entries that fit behind the header, rounded down to a power of two
/// (`__RING_SIZE`).
pub const SLOTS: u32 = {
    let fit = (PAGE_SIZE - size_of::<RingHeader>()) / size_of::<RawEntry>();
    // At least one entry fits, and far fewer than 2^32.
    1 << fit.ilog2()
};

/// `VM_EVENT_FLAG_*`: flags of the entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EntryFlags(u32);

bitflags! {
    impl EntryFlags: u32 {
        /// The vcpu that caused the request is paused.
        const VCPU_PAUSED = 1 << 0;
        /// The request comes from another domain; its `vcpu_id` counts that domain's vcpus.
        const FOREIGN = 1 << 1;
        // Other reasons than paging use further bits.
        const _ = !0;
    }
}

/// `MEM_PAGING_*`: flags of the page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PagingFlags(u32);

bitflags! {
    impl PagingFlags: u32 {
        /// The guest dropped the page: the pager forgets its copy.
        const DROP_PAGE = 1 << 0;
        /// The page is nominated and has its contents: the evict will fail.
        const EVICT_FAIL = 1 << 1;
        const _ = !0;
    }
}

/// `struct vm_event_paging`.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RawPaging {
    /// The page.
    pub gfn: u64,
    /// The type it had before this request.
    pub p2mt: u32,
    /// [`PagingFlags`].
    pub flags: u32,
}

/// `vm_event_request_t` and `vm_event_response_t`, which are one struct, seen as paging uses it.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct RawEntry {
    /// [`VERSION`].
    pub version: u32,
    /// [`EntryFlags`].
    pub flags: u32,
    /// [`REASON_MEM_PAGING`].
    pub reason: u32,
    /// The vcpu that caused it.
    pub vcpu_id: u32,
    /// View of the p2m; not used by paging.
    pub altp2m_idx: u16,
    _pad: [u16; 3],
    /// `u.mem_paging`.
    pub paging: RawPaging,
    _u_rest: [u64; 2],
    _data: [u64; 43],
}

/// The head of a shared ring (`DEFINE_RING_TYPES`, `struct vm_event_sring`).
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct RingHeader {
    /// Requests written so far, modulo 2^32.
    pub req_prod: u32,
    /// The consumer wants an event once `req_prod` reaches this.
    pub req_event: u32,
    /// Responses written so far.
    pub rsp_prod: u32,
    /// As `req_event`, for responses.
    pub rsp_event: u32,
    _pad: [u32; 12],
}

/// `struct xen_mem_paging_op`, the argument of `XENMEM_paging_op` (`public/memory.h`).
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MemPagingOp {
    /// One of the `OP_` numbers.
    pub op: u8,
    _pad0: u8,
    /// The paged domain.
    pub domain: u16,
    /// The caller's [`Epoch`](super::Epoch), with [`STATES_EPOCH`](Self::STATES_EPOCH). Padding in Xen's C.
    pub epoch: u32,
    /// For prep: where the page's contents are, in the caller's memory; 0 for none.
    pub buffer: u64,
    /// The page.
    pub gfn: u64,
}

impl MemPagingOp {
    /// `XENMEM_paging_op_nominate`.
    pub const OP_NOMINATE: u8 = 0;
    /// `XENMEM_paging_op_evict`.
    pub const OP_EVICT: u8 = 1;
    /// `XENMEM_paging_op_prep`.
    pub const OP_PREP: u8 = 2;
    /// Reads and clears accessed bits. `gfn` is the first gfn, a multiple of 64. `buffer` is the address of
    /// the words to fill, one for every 64 gfns up to the next multiple of
    /// [`ACCESS_BITS_GFNS`](Self::ACCESS_BITS_GFNS). Both fields may have changed when the call returns. Xen's C
    /// returns `ENOSYS`. `EOPNOTSUPP`: this domain's p2m has no such bits.
    pub const OP_ACCESS_BITS: u8 = 32;
    /// The largest number of gfns of one [`OP_ACCESS_BITS`](Self::OP_ACCESS_BITS): 64 MiB of the guest, 256 words.
    pub const ACCESS_BITS_GFNS: u64 = 16_384;
    /// Lists which pages are out, and which are nominated ([`PagingStates`](crate::paging::PagingStates)).
    /// `gfn` is the first gfn, a multiple of 64. `buffer` is the address of the pairs of words to fill, one
    /// pair for every 64 gfns up to the next multiple of [`PAGING_STATES_GFNS`](Self::PAGING_STATES_GFNS).
    /// The first word of a pair is the set of pages that are out, the second that of the nominated ones. Both
    /// fields may have changed when the call returns. Xen's C returns `ENOSYS`. `ENOTCONN`: the caller is not
    /// the pager that is attached.
    pub const OP_PAGING_STATES: u8 = 33;
    /// The largest number of gfns of one [`OP_PAGING_STATES`](Self::OP_PAGING_STATES): 64 MiB of the guest,
    /// 256 pairs of words.
    pub const PAGING_STATES_GFNS: u64 = 16_384;
    /// Copies a nominated page to `buffer`, in place of mapping it. `EBUSY` for any other page. With
    /// [`MANY`](Self::MANY) only.
    pub const OP_READ: u8 = 8;
    /// Makes nominated pages resident: they will not be evicted. `ENOENT` for a page that is not nominated.
    /// With [`MANY`](Self::MANY) only.
    pub const OP_RESTORE: u8 = 9;
    /// Added to another operation, for many pages in one call: `buffer` is the address of their
    /// [`PagingItem`]s, `gfn` is their number. Both fields may have changed when the call returns. Xen's C
    /// returns `ENOSYS`; a call for no pages finds out which hypervisor is there.
    pub const MANY: u8 = 16;

    /// Added to an operation whose `epoch` is set: a pager that has been replaced is refused with
    /// `ENOTCONN`. Only if the hypervisor told the pager an epoch. Once a pager has stated its epoch,
    /// operations that state none are refused too.
    pub const STATES_EPOCH: u8 = 64;

    /// An operation on one page.
    pub const fn new(op: u8, domain: u16, gfn: Gfn, buffer: u64) -> Self {
        Self {
            op,
            _pad0: 0,
            domain,
            epoch: 0,
            buffer,
            gfn: gfn.get(),
        }
    }
}

/// Added to `XEN_VM_EVENT_ENABLE` in the control operation's `op`: the caller attaches in the place of a pager
/// that is gone ([`Paging::take_over`](crate::Paging::take_over)). `ENOENT`: paging is not enabled. Xen's C
/// returns `ENOSYS`.
pub const ENABLE_TAKE_OVER: u32 = 128;
/// Added to `XEN_VM_EVENT_DISABLE` in the control operation's `op`: the pager is gone, and another one will
/// take over ([`Paging::detach`](crate::Paging::detach)). Needs [`MemPagingOp::STATES_EPOCH`] and the epoch of
/// that pager. Xen's C returns `ENOSYS`.
pub const DISABLE_DETACH: u32 = 256;

/// One page of a [`MemPagingOp::MANY`] call.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PagingItem {
    /// The page.
    pub gfn: u64,
    /// In: for prep, as [`MemPagingOp::buffer`]. Out: 0 or a negative errno.
    pub word: u64,
}

const_assert_eq!(size_of::<PagingItem>(), 16);
const_assert_eq!(size_of::<RawEntry>(), 400);
const_assert_eq!(align_of::<RawEntry>(), 8);
const_assert_eq!(offset_of!(RawEntry, version), 0);
const_assert_eq!(offset_of!(RawEntry, flags), 4);
const_assert_eq!(offset_of!(RawEntry, reason), 8);
const_assert_eq!(offset_of!(RawEntry, vcpu_id), 12);
const_assert_eq!(offset_of!(RawEntry, altp2m_idx), 16);
const_assert_eq!(offset_of!(RawEntry, paging), 24);
const_assert_eq!(offset_of!(RawEntry, _data), 56);
const_assert_eq!(size_of::<RawPaging>(), 16);
const_assert_eq!(offset_of!(RawPaging, p2mt), 8);
const_assert_eq!(offset_of!(RawPaging, flags), 12);
const_assert_eq!(size_of::<RingHeader>(), 64);
const_assert_eq!(offset_of!(RingHeader, rsp_event), 12);
const_assert_eq!(SLOTS, 8);
const_assert_eq!(size_of::<MemPagingOp>(), 24);
const_assert_eq!(offset_of!(MemPagingOp, domain), 2);
const_assert_eq!(offset_of!(MemPagingOp, epoch), 4);
const_assert_eq!(offset_of!(MemPagingOp, buffer), 8);
const_assert_eq!(offset_of!(MemPagingOp, gfn), 16);

/// A request of the hypervisor to the pager.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Request {
    /// The page.
    pub gfn: Gfn,
    /// The vcpu that caused it. If the request is foreign, it is one of the calling domain.
    pub vcpu: VcpuId,
    /// Whether that vcpu is paused, and whether it is foreign.
    pub flags: EntryFlags,
    /// The type the gfn had.
    pub p2mt: P2mType,
    /// What kind of request this is; none set: bring the page in.
    pub paging: PagingFlags,
}

/// A response of the pager.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Response {
    /// The page.
    pub gfn: Gfn,
    /// As in the request.
    pub vcpu: VcpuId,
    /// As in the request.
    pub flags: EntryFlags,
    /// As in the request.
    pub paging: PagingFlags,
}

impl Response {
    /// The response to a request, with all fields that the other half reads.
    pub const fn to(request: &Request) -> Self {
        Self {
            gfn: request.gfn,
            vcpu: request.vcpu,
            flags: request.flags,
            paging: request.paging,
        }
    }
}

/// Why an entry from the other side is invalid.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EntryError {
    /// Written for another version of the interface.
    Version(u32),
    /// Not about paging.
    Reason(u32),
    /// No such frame number.
    Gfn(u64),
    /// No such type.
    Type(u32),
}

impl core::fmt::Display for EntryError {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        match self {
            Self::Version(v) => write!(f, "interface version {v}, not {VERSION}"),
            Self::Reason(r) => write!(f, "reason {r}, not {REASON_MEM_PAGING}"),
            Self::Gfn(raw) => write!(f, "frame number {raw:#x} out of range"),
            Self::Type(t) => write!(f, "p2m type {t} does not exist"),
        }
    }
}

impl core::error::Error for EntryError {}

impl RawEntry {
    /// Words of 8 bytes up to where other reasons than paging have their data.
    pub(super) const USED_WORDS: usize = offset_of!(Self, _data) / size_of::<u64>();

    /// All zeros.
    pub const ZERO: Self = Self {
        version: 0,
        flags: 0,
        reason: 0,
        vcpu_id: 0,
        altp2m_idx: 0,
        _pad: [0; 3],
        paging: RawPaging {
            gfn: 0,
            p2mt: 0,
            flags: 0,
        },
        _u_rest: [0; 2],
        _data: [0; 43],
    };

    fn checked(&self) -> Result<Gfn, EntryError> {
        if self.version != VERSION {
            return Err(EntryError::Version(self.version));
        }
        if self.reason != REASON_MEM_PAGING {
            return Err(EntryError::Reason(self.reason));
        }
        Gfn::try_new(self.paging.gfn).ok_or(EntryError::Gfn(self.paging.gfn))
    }
}

/// A request is what its response repeats, and the type that the gfn had.
impl From<&Request> for RawEntry {
    fn from(r: &Request) -> Self {
        let mut raw = Self::from(&Response::to(r));
        raw.paging.p2mt = r.p2mt.raw().into();
        raw
    }
}

impl TryFrom<&RawEntry> for Request {
    type Error = EntryError;

    fn try_from(raw: &RawEntry) -> Result<Self, EntryError> {
        let Response {
            gfn,
            vcpu,
            flags,
            paging,
        } = Response::try_from(raw)?;
        let p2mt = raw.paging.p2mt;
        let p2mt = P2mType::try_from_raw(p2mt).ok_or(EntryError::Type(p2mt))?;
        Ok(Self {
            gfn,
            vcpu,
            flags,
            p2mt,
            paging,
        })
    }
}

impl From<&Response> for RawEntry {
    fn from(r: &Response) -> Self {
        Self {
            version: VERSION,
            flags: r.flags.bits(),
            reason: REASON_MEM_PAGING,
            vcpu_id: r.vcpu.0,
            paging: RawPaging {
                gfn: r.gfn.get(),
                p2mt: 0,
                flags: r.paging.bits(),
            },
            ..Self::ZERO
        }
    }
}

impl TryFrom<&RawEntry> for Response {
    type Error = EntryError;

    fn try_from(raw: &RawEntry) -> Result<Self, EntryError> {
        Ok(Self {
            gfn: raw.checked()?,
            vcpu: VcpuId(raw.vcpu_id),
            flags: EntryFlags::from_bits_retain(raw.flags),
            paging: PagingFlags::from_bits_retain(raw.paging.flags),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request() -> Request {
        Request {
            gfn: Gfn::new_truncate(0x12_3456),
            vcpu: VcpuId(3),
            flags: EntryFlags::VCPU_PAUSED,
            p2mt: P2mType::RamPaged,
            paging: PagingFlags::empty(),
        }
    }

    #[test]
    fn entries_round_trip() {
        let request = request();
        assert_eq!(Request::try_from(&RawEntry::from(&request)), Ok(request));
        let response = Response::to(&request);
        assert_eq!(Response::try_from(&RawEntry::from(&response)), Ok(response));
    }

    #[test]
    fn a_field_out_of_range_is_an_error_that_names_it() {
        let good = RawEntry::from(&request());
        let bad = RawEntry { version: 6, ..good };
        assert_eq!(Response::try_from(&bad), Err(EntryError::Version(6)));
        let bad = RawEntry { reason: 1, ..good };
        assert_eq!(Response::try_from(&bad), Err(EntryError::Reason(1)));
        let mut bad = good;
        bad.paging.gfn = u64::MAX;
        assert_eq!(Response::try_from(&bad), Err(EntryError::Gfn(u64::MAX)));
        let mut bad = good;
        bad.paging.p2mt = 99;
        assert_eq!(Request::try_from(&bad), Err(EntryError::Type(99)));
    }
}
