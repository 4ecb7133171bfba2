//! The ring's layout and the numbers on it, against Xen's own headers, read by a C compiler.

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

/// Name and number of everything that the headers fix.
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
    let layout = layout.map(|(name, n)| (name.to_owned(), n as u64));
    let numbers = numbers.map(|(name, n)| (name.to_owned(), n.into()));
    let errnos = errnos.map(|errno| (errno.to_string(), errno as u64));
    layout.into_iter().chain(numbers).chain(errnos).collect()
}

/// What a C program that includes Xen's headers prints.
fn xens() -> BTreeMap<String, u64> {
    assert!(
        Path::new("/usr/include/xen/vm_event.h").exists(),
        "Xen's headers are missing: apt-get install libxen-dev"
    );
    let program = Path::new(env!("CARGO_TARGET_TMPDIR")).join("xen-abi");
    let source = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/abi.c");
    let compiled = Command::new("cc")
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
    assert_eq!(ours.len(), 46);
}
