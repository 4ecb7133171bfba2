// SPDX-License-Identifier: MIT OR Apache-2.0
//! Numbers and layouts of the interfaces between a pager, Xen, and the Linux devices in between
//! (`public/xen.h`, `domctl.h`, `memory.h`, `hvm/`; Linux's `privcmd.h`, `evtchn.h`). The ring and
//! `XENMEM_paging_op` are in [`p2m_paging::ring::abi`].
//!
//! `tests-host/tests/abi.rs` compares all of it with Xen's own headers.

use std::mem::{offset_of, size_of};

use rustix::ioctl::{Direction, Opcode, opcode};
use static_assertions::const_assert_eq;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// `__HYPERVISOR_memory_op`.
pub const MEMORY_OP: u64 = 12;
/// `__HYPERVISOR_xen_version`.
pub const XEN_VERSION: u64 = 17;
/// `__HYPERVISOR_sched_op`.
pub const SCHED_OP: u64 = 29;
/// `__HYPERVISOR_hvm_op`.
pub const HVM_OP: u64 = 34;
/// `__HYPERVISOR_sysctl`.
pub const SYSCTL: u64 = 35;
/// `__HYPERVISOR_domctl`.
pub const DOMCTL: u64 = 36;
/// Versions of the control interface in which the parts used here have the same layout: Xen 4.17,
/// 4.18, 4.19 and 4.20, 4.21 and 4.22.
pub const KNOWN_INTERFACES: [u32; 4] = [0x15, 0x16, 0x17, 0x18];

/// `XENMEM_decrease_reservation`.
pub const DECREASE_RESERVATION: u64 = 1;
/// `XENMEM_populate_physmap`.
pub const POPULATE_PHYSMAP: u64 = 6;
/// `XENMEM_maximum_gpfn`.
pub const MAXIMUM_GPFN: u64 = 14;
/// `XENMEM_paging_op`.
pub const PAGING_OP: u64 = 20;

/// `SCHEDOP_remote_shutdown`.
pub const REMOTE_SHUTDOWN: u64 = 4;
/// `SHUTDOWN_crash`.
pub const SHUTDOWN_CRASH: u32 = 3;

/// `HVMOP_get_param`.
pub const HVMOP_GET_PARAM: u64 = 1;
/// `HVM_PARAM_PAGING_RING_PFN`.
pub const PARAM_PAGING_RING_PFN: u32 = 27;

/// `XEN_SYSCTL_physinfo`.
pub const PHYSINFO: u32 = 3;

/// `XEN_DOMCTL_pausedomain`.
pub const PAUSE_DOMAIN: u32 = 3;
/// `XEN_DOMCTL_getdomaininfo`.
pub const GET_DOMAIN_INFO: u32 = 5;
/// `XEN_DOMCTL_vm_event_op`.
pub const VM_EVENT_OP: u32 = 56;
/// `XEN_VM_EVENT_ENABLE`.
pub const VM_EVENT_ENABLE: u32 = 0;
/// `XEN_VM_EVENT_DISABLE`.
pub const VM_EVENT_DISABLE: u32 = 1;
/// `XEN_DOMCTL_VM_EVENT_OP_PAGING`.
pub const VM_EVENT_PAGING: u32 = 1;
/// `XEN_DOMINF_dying`.
pub const DOMINF_DYING: u32 = 1 << 0;
/// `XEN_DOMINF_hvm_guest`.
pub const DOMINF_HVM_GUEST: u32 = 1 << 1;
/// `XEN_DOMINF_paused`.
pub const DOMINF_PAUSED: u32 = 1 << 3;

/// `XEN_DMOP_set_mem_type`.
pub const DMOP_SET_MEM_TYPE: u32 = 12;
/// `HVMMEM_ram_rw`.
pub const HVMMEM_RAM_RW: u16 = 0;

/// `struct xen_domctl`.
#[repr(C)]
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct Domctl {
    /// One of the `XEN_DOMCTL_` numbers.
    pub cmd: u32,
    /// The version of the whole interface. It differs between versions of Xen.
    pub interface_version: u32,
    /// The domain.
    pub domain: u16,
    _pad: [u16; 3],
    /// `u`: its meaning depends on `cmd`.
    pub u: [u64; 16],
}

impl Domctl {
    /// A call whose union is all zeros.
    pub const fn new(cmd: u32, interface_version: u32, domain: u16) -> Self {
        Self {
            cmd,
            interface_version,
            domain,
            _pad: [0; 3],
            u: [0; 16],
        }
    }
}

/// The start of `struct xen_domctl_getdomaininfo`, the same from Xen 4.17 to 4.20 at least.
#[repr(C)]
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct DomainInfoHead {
    /// The domain that was found: the requested one, or the next above it in old interfaces.
    pub domain: u16,
    _pad: u16,
    /// `DOMINF_`.
    pub flags: u32,
    /// The number of pages that it has.
    pub tot_pages: u64,
    /// The number of pages that it may have.
    pub max_pages: u64,
    _outstanding_pages: u64,
    _shr_pages: u64,
    /// The number of pages that are out.
    pub paged_pages: u64,
    _shared_info_frame: u64,
    _cpu_time: u64,
    _vcpus_and_ssidref: [u32; 3],
    /// The UUID that the toolstack gave the domain.
    pub handle: [u8; 16],
    _pad_end: u32,
}

/// `struct xen_sysctl`.
#[repr(C)]
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct Sysctl {
    /// One of the `XEN_SYSCTL_` numbers.
    pub cmd: u32,
    /// The version of the whole interface. It differs between versions of Xen.
    pub interface_version: u32,
    /// `u`: its meaning depends on `cmd`.
    pub u: [u64; 16],
}

/// The start of `struct xen_sysctl_physinfo`.
#[repr(C)]
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct PhysInfoHead {
    _cpus_and_nodes: [u32; 10],
    /// The number of pages that the host has.
    pub total_pages: u64,
    /// The number of these pages that are free, claimed or not.
    pub free_pages: u64,
    _scrub_pages: u64,
    /// The number of pages that domains have claimed and not received yet.
    pub outstanding_pages: u64,
}

/// `struct xen_domctl_vm_event_op`.
#[repr(C)]
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct VmEventOp {
    /// `VM_EVENT_`.
    pub op: u32,
    /// [`VM_EVENT_PAGING`].
    pub mode: u32,
    /// `u.enable.port`, an output.
    pub port: u32,
    /// Behind it, where Xen's C writes nothing: out, the pager's epoch; in, the epoch that disables
    /// ([`MemPagingOp::STATES_EPOCH`](p2m_paging::ring::abi::MemPagingOp::STATES_EPOCH)).
    pub epoch: u32,
}

/// `struct sched_remote_shutdown`.
#[repr(C)]
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct RemoteShutdown {
    /// The domain.
    pub domain: u16,
    pub(super) pad: u16,
    /// `SHUTDOWN_`.
    pub reason: u32,
}

/// `struct xen_hvm_param`.
#[repr(C)]
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct HvmParam {
    /// The domain.
    pub domid: u16,
    pub(super) pad: u16,
    /// The number of the parameter.
    pub index: u32,
    /// Its value.
    pub value: u64,
}

/// `struct xen_memory_reservation`, followed by the frame number that it points to.
#[repr(C)]
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct OneReservation {
    /// The address of the frame numbers.
    pub extent_start: u64,
    /// The number of frame numbers.
    pub nr_extents: u64,
    /// Each is 2^this pages.
    pub extent_order: u32,
    /// `XENMEMF_`.
    pub mem_flags: u32,
    /// The domain.
    pub domid: u16,
    pub(super) pad: [u16; 3],
    /// Not part of Xen's structure: the frame number to which `extent_start` points.
    pub gfn: u64,
}

/// `struct xen_dm_op` with its `set_mem_type`.
#[repr(C)]
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct SetMemType {
    /// [`DMOP_SET_MEM_TYPE`].
    pub op: u32,
    pub(super) pad: u32,
    /// The number of pages.
    pub nr: u32,
    /// `HVMMEM_`.
    pub mem_type: u16,
    pub(super) pad2: u16,
    /// The first page.
    pub first_pfn: u64,
    /// The rest of the union.
    pub(super) rest: u64,
}

/// `privcmd_hypercall_t`.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct PrivcmdHypercall {
    /// The number of the hypercall.
    pub op: u64,
    /// Its arguments.
    pub arg: [u64; 5],
}

/// `privcmd_mmapbatch_v2_t`.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct PrivcmdMmapBatch {
    /// The number of frames.
    pub num: u32,
    /// The domain that owns them.
    pub dom: u16,
    pub(super) pad: u16,
    /// The address at which they are mapped.
    pub addr: u64,
    /// The frame numbers.
    pub arr: *const u64,
    /// The result for each frame: 0 or a negative errno.
    pub err: *mut i32,
}

/// `privcmd_dm_op_t`.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct PrivcmdDmOp {
    /// The domain.
    pub dom: u16,
    /// The number of buffers.
    pub num: u16,
    pub(super) pad: u32,
    /// The array of buffers.
    pub ubufs: *const PrivcmdDmOpBuf,
}

/// `privcmd_dm_op_buf_t`.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct PrivcmdDmOpBuf {
    /// The address of the buffer.
    pub uptr: *mut u8,
    /// Its size in bytes.
    pub size: usize,
}

/// `struct ioctl_evtchn_bind_interdomain`.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct EvtchnBind {
    /// The domain that owns the port at the other end.
    pub remote_domain: u32,
    /// The port at the other end.
    pub remote_port: u32,
}

/// `IOCTL_PRIVCMD_HYPERCALL`.
pub const PRIVCMD_HYPERCALL: Opcode = number::<PrivcmdHypercall>(b'P', 0);
/// `IOCTL_PRIVCMD_MMAPBATCH_V2`.
pub const PRIVCMD_MMAPBATCH_V2: Opcode = number::<PrivcmdMmapBatch>(b'P', 4);
/// `IOCTL_PRIVCMD_DM_OP`.
pub const PRIVCMD_DM_OP: Opcode = number::<PrivcmdDmOp>(b'P', 5);
/// `IOCTL_EVTCHN_BIND_INTERDOMAIN`.
pub const EVTCHN_BIND_INTERDOMAIN: Opcode = number::<EvtchnBind>(b'E', 1);
/// `IOCTL_EVTCHN_NOTIFY`.
pub const EVTCHN_NOTIFY: Opcode = number::<u32>(b'E', 4);

/// All of them: no other is made once a pager serves.
pub const IOCTLS: [Opcode; 5] = [
    PRIVCMD_HYPERCALL,
    PRIVCMD_MMAPBATCH_V2,
    PRIVCMD_DM_OP,
    EVTCHN_BIND_INTERDOMAIN,
    EVTCHN_NOTIFY,
];

/// `_IOC(_IOC_NONE, group, number, sizeof(T))`.
const fn number<T>(group: u8, number: u8) -> Opcode {
    opcode::from_components(Direction::None, group, number, size_of::<T>())
}

const_assert_eq!(size_of::<Domctl>(), 144);
const_assert_eq!(offset_of!(Domctl, u), 16);
const_assert_eq!(offset_of!(DomainInfoHead, paged_pages), 40);
const_assert_eq!(size_of::<Sysctl>(), 136);
const_assert_eq!(offset_of!(Sysctl, u), 8);
const_assert_eq!(offset_of!(PhysInfoHead, free_pages), 48);
const_assert_eq!(size_of::<VmEventOp>(), 16);
const_assert_eq!(size_of::<RemoteShutdown>(), 8);
const_assert_eq!(size_of::<HvmParam>(), 16);
const_assert_eq!(offset_of!(OneReservation, domid), 24);
const_assert_eq!(offset_of!(OneReservation, gfn), 32);
const_assert_eq!(offset_of!(SetMemType, first_pfn), 16);
const_assert_eq!(size_of::<SetMemType>(), 32);
const_assert_eq!(size_of::<PrivcmdHypercall>(), 48);
const_assert_eq!(size_of::<PrivcmdMmapBatch>(), 32);
const_assert_eq!(size_of::<PrivcmdDmOp>(), 16);
const_assert_eq!(size_of::<PrivcmdDmOpBuf>(), 16);
const_assert_eq!(size_of::<EvtchnBind>(), 8);
