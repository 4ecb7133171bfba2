// SPDX-License-Identifier: MIT OR Apache-2.0
//! The ring's layout, a pager's hypercalls and their numbers, compared with Xen's own headers,
//! which a C compiler reads.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::mem::{offset_of, size_of};
use std::path::Path;
use std::process::Command;

use p2m_paging::Errno;
use p2m_paging::ring::abi::{
    EntryFlags, MemPagingOp, PagingFlags, REASON_MEM_PAGING, RawEntry, RawPaging, RingHeader,
    SLOTS, VERSION,
};
use pager_xen::abi::{
    self, DomainInfoHead, Domctl, EvtchnBind, HvmParam, OneReservation, PhysInfoHead, PrivcmdDmOp,
    PrivcmdDmOpBuf, PrivcmdMmapBatch, RemoteShutdown, SetMemType, Sysctl, VmEventOp,
};
use pager_xen::xenstore::{Header, PAYLOAD_MAX, message};

/// Name and number of everything that the headers define.
fn ours() -> BTreeMap<String, u64> {
    let layout = [
        ("entry_size", size_of::<RawEntry>()),
        ("response_size", size_of::<RawEntry>()),
        ("entry_version", offset_of!(RawEntry, version)),
        ("entry_flags", offset_of!(RawEntry, flags)),
        ("entry_reason", offset_of!(RawEntry, reason)),
        ("entry_vcpu_id", offset_of!(RawEntry, vcpu_id)),
        ("entry_altp2m_idx", offset_of!(RawEntry, altp2m_idx)),
        ("entry_paging", offset_of!(RawEntry, paging)),
        ("paging_size", size_of::<RawPaging>()),
        ("paging_gfn", offset_of!(RawPaging, gfn)),
        ("paging_p2mt", offset_of!(RawPaging, p2mt)),
        ("paging_flags", offset_of!(RawPaging, flags)),
        ("ring_header", size_of::<RingHeader>()),
        ("ring_req_prod", offset_of!(RingHeader, req_prod)),
        ("ring_req_event", offset_of!(RingHeader, req_event)),
        ("ring_rsp_prod", offset_of!(RingHeader, rsp_prod)),
        ("ring_rsp_event", offset_of!(RingHeader, rsp_event)),
        ("op_size", size_of::<MemPagingOp>()),
        ("op_op", offset_of!(MemPagingOp, op)),
        ("op_domain", offset_of!(MemPagingOp, domain)),
        ("op_buffer", offset_of!(MemPagingOp, buffer)),
        ("op_gfn", offset_of!(MemPagingOp, gfn)),
    ];
    let numbers = [
        ("version", VERSION),
        ("reason_mem_paging", REASON_MEM_PAGING),
        ("flag_vcpu_paused", EntryFlags::VCPU_PAUSED.bits()),
        ("flag_foreign", EntryFlags::FOREIGN.bits()),
        ("drop_page", PagingFlags::DROP_PAGE.bits()),
        ("evict_fail", PagingFlags::EVICT_FAIL.bits()),
        ("ring_slots", SLOTS),
        ("op_nominate", MemPagingOp::OP_NOMINATE.into()),
        ("op_evict", MemPagingOp::OP_EVICT.into()),
        ("op_prep", MemPagingOp::OP_PREP.into()),
    ];
    let errnos = [
        Errno::ENOENT,
        Errno::ESRCH,
        Errno::EIO,
        Errno::EAGAIN,
        Errno::ENOMEM,
        Errno::EACCES,
        Errno::EFAULT,
        Errno::EBUSY,
        Errno::EXDEV,
        Errno::ENODEV,
        Errno::EINVAL,
        Errno::EMLINK,
        Errno::ENOSYS,
        Errno::EOPNOTSUPP,
    ];
    let layout = layout.into_iter().chain(pagers_layout());
    let numbers = numbers.into_iter().chain(PAGERS_NUMBERS);
    let layout = layout.map(|(name, n)| (name.to_owned(), n as u64));
    let numbers = numbers.map(|(name, n)| (name.to_owned(), u64::from(n)));
    let errnos = errnos.map(|errno| (errno.to_string(), errno as u64));
    layout.chain(numbers).chain(errnos).collect()
}

/// What `xenpaging` passes to Xen beside the ring, and to Linux's devices.
fn pagers_layout() -> Vec<(&'static str, usize)> {
    vec![
        ("domctl_size", size_of::<Domctl>()),
        (
            "domctl_interface_version",
            offset_of!(Domctl, interface_version),
        ),
        ("domctl_domain", offset_of!(Domctl, domain)),
        ("domctl_u", offset_of!(Domctl, u)),
        ("info_flags", offset_of!(DomainInfoHead, flags)),
        ("info_tot_pages", offset_of!(DomainInfoHead, tot_pages)),
        ("info_max_pages", offset_of!(DomainInfoHead, max_pages)),
        ("info_paged_pages", offset_of!(DomainInfoHead, paged_pages)),
        ("sysctl_size", size_of::<Sysctl>()),
        (
            "sysctl_interface_version",
            offset_of!(Sysctl, interface_version),
        ),
        ("sysctl_u", offset_of!(Sysctl, u)),
        ("phys_total_pages", offset_of!(PhysInfoHead, total_pages)),
        ("phys_free_pages", offset_of!(PhysInfoHead, free_pages)),
        (
            "phys_outstanding_pages",
            offset_of!(PhysInfoHead, outstanding_pages),
        ),
        // The epoch is behind it.
        ("vm_event_size", offset_of!(VmEventOp, epoch)),
        ("vm_event_mode", offset_of!(VmEventOp, mode)),
        ("vm_event_port", offset_of!(VmEventOp, port)),
        ("shutdown_size", size_of::<RemoteShutdown>()),
        ("shutdown_reason", offset_of!(RemoteShutdown, reason)),
        ("param_size", size_of::<HvmParam>()),
        ("param_index", offset_of!(HvmParam, index)),
        ("param_value", offset_of!(HvmParam, value)),
        ("reservation_size", offset_of!(OneReservation, gfn)),
        (
            "reservation_nr_extents",
            offset_of!(OneReservation, nr_extents),
        ),
        (
            "reservation_extent_order",
            offset_of!(OneReservation, extent_order),
        ),
        (
            "reservation_mem_flags",
            offset_of!(OneReservation, mem_flags),
        ),
        ("reservation_domid", offset_of!(OneReservation, domid)),
        ("dm_op_size", size_of::<SetMemType>()),
        ("set_mem_type_nr", offset_of!(SetMemType, nr)),
        ("set_mem_type_mem_type", offset_of!(SetMemType, mem_type)),
        ("set_mem_type_first_pfn", offset_of!(SetMemType, first_pfn)),
        ("xs_header", size_of::<Header>()),
        ("xs_len", offset_of!(Header, len)),
        ("xs_payload_max", PAYLOAD_MAX),
        ("mmapbatch_dom", offset_of!(PrivcmdMmapBatch, dom)),
        ("mmapbatch_addr", offset_of!(PrivcmdMmapBatch, addr)),
        ("mmapbatch_arr", offset_of!(PrivcmdMmapBatch, arr)),
        ("mmapbatch_err", offset_of!(PrivcmdMmapBatch, err)),
        ("privcmd_dm_op_ubufs", offset_of!(PrivcmdDmOp, ubufs)),
        ("privcmd_dm_op_buf_size", offset_of!(PrivcmdDmOpBuf, size)),
        ("evtchn_remote_port", offset_of!(EvtchnBind, remote_port)),
    ]
}

const PAGERS_NUMBERS: [(&str, u32); 37] = [
    ("memory_op", number(abi::MEMORY_OP)),
    ("xen_version", number(abi::XEN_VERSION)),
    ("sched_op", number(abi::SCHED_OP)),
    ("remote_shutdown", number(abi::REMOTE_SHUTDOWN)),
    ("shutdown_crash", abi::SHUTDOWN_CRASH),
    ("hvm_op", number(abi::HVM_OP)),
    ("domctl", number(abi::DOMCTL)),
    ("sysctl", number(abi::SYSCTL)),
    ("physinfo", abi::PHYSINFO),
    ("decrease_reservation", number(abi::DECREASE_RESERVATION)),
    ("populate_physmap", number(abi::POPULATE_PHYSMAP)),
    ("maximum_gpfn", number(abi::MAXIMUM_GPFN)),
    ("paging_op", number(abi::PAGING_OP)),
    ("hvmop_get_param", number(abi::HVMOP_GET_PARAM)),
    ("param_paging_ring_pfn", abi::PARAM_PAGING_RING_PFN),
    ("pause_domain", abi::PAUSE_DOMAIN),
    ("get_domain_info", abi::GET_DOMAIN_INFO),
    ("vm_event_op", abi::VM_EVENT_OP),
    ("vm_event_enable", abi::VM_EVENT_ENABLE),
    ("vm_event_disable", abi::VM_EVENT_DISABLE),
    ("vm_event_paging", abi::VM_EVENT_PAGING),
    ("dominf_dying", abi::DOMINF_DYING),
    ("dominf_hvm_guest", abi::DOMINF_HVM_GUEST),
    ("dominf_paused", abi::DOMINF_PAUSED),
    ("dmop_set_mem_type", abi::DMOP_SET_MEM_TYPE),
    ("hvmmem_ram_rw", abi::HVMMEM_RAM_RW as u32),
    ("xs_read", message::READ),
    ("xs_watch", message::WATCH),
    ("xs_write", message::WRITE),
    ("xs_rm", message::RM),
    ("xs_watch_event", message::WATCH_EVENT),
    ("xs_error", message::ERROR),
    ("privcmd_hypercall", abi::PRIVCMD_HYPERCALL),
    ("privcmd_mmapbatch_v2", abi::PRIVCMD_MMAPBATCH_V2),
    ("privcmd_dm_op", abi::PRIVCMD_DM_OP),
    ("evtchn_bind_interdomain", abi::EVTCHN_BIND_INTERDOMAIN),
    ("evtchn_notify", abi::EVTCHN_NOTIFY),
];

#[expect(clippy::cast_possible_truncation)] // Asserted.
const fn number(number: u64) -> u32 {
    assert!(number <= u32::MAX as u64);
    number as u32
}

/// The output of a C program that includes Xen's headers: those of the machine, or those of another
/// Xen in the directory that `XEN_HEADERS` names.
fn xens() -> BTreeMap<String, u64> {
    let headers = std::env::var_os("XEN_HEADERS").unwrap_or_else(|| "/usr/include".into());
    assert!(
        Path::new(&headers).join("xen/vm_event.h").exists(),
        "Xen's headers are missing: apt-get install libxen-dev"
    );
    let program = Path::new(env!("CARGO_TARGET_TMPDIR")).join("xen-abi");
    let source = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/abi.c");
    let compiled = Command::new("cc")
        .arg("-I")
        .arg(&headers)
        .args(["-Wall", "-Werror", "-o"])
        .arg(&program)
        .arg(source)
        .output()
        .expect("a C compiler is missing: apt-get install gcc libc6-dev");
    assert!(
        compiled.status.success(),
        "{}",
        String::from_utf8_lossy(&compiled.stderr)
    );
    let printed = Command::new(&program).output().expect("the program runs");
    let printed = String::from_utf8(printed.stdout).expect("names and numbers");
    printed
        .lines()
        .map(|line| {
            let (name, number) = line.split_once(' ').expect("a name and a number");
            (name.to_owned(), number.parse().expect("a number"))
        })
        .collect()
}

#[test]
fn every_number_is_xens() {
    let (ours, xens) = (ours(), xens());
    let mut differences = String::new();
    for name in ours.keys().chain(xens.keys()) {
        if ours.get(name) != xens.get(name) {
            let (here, there) = (ours.get(name), xens.get(name));
            writeln!(differences, "{name}: {here:?} here, {there:?} in Xen").unwrap();
        }
    }
    assert!(differences.is_empty(), "\n{differences}");
    assert_eq!(ours.len(), 124);
}
