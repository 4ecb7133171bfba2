// SPDX-License-Identifier: GPL-2.0-only
//! The C functions that Rust calls: one for each macro, inline or structure that it cannot reach.
//!
//! `include/p2m_rs.h` is generated from this file and from `exports.rs`; the C compiler checks the
//! shims against it. Each shim says in its own comment which locks its caller holds.

use core::ffi::c_void;

/// `struct domain`.
#[repr(C)]
pub(crate) struct Domain([u8; 0]);

/// `struct page_info`.
#[repr(C)]
pub(crate) struct PageInfo([u8; 0]);

/// No frame: what `xen_shim_get_entry` stores for an entry without a valid one.
pub(crate) const NO_MFN: u64 = u64::MAX;

/// Bytes that are reserved for a `spinlock_t`; the shim asserts that one fits.
pub(crate) const LOCK_BYTES: usize = 32;

/// A p2m entry in Xen's form. Its access rights of `mem_access` are the same in all states.
#[repr(C)]
#[derive(Clone, Copy)]
pub(crate) struct Entry {
    pub(crate) mfn: u64,
    pub(crate) p2mt: u32,
    pub(crate) access: u32,
}

/// Who uses a frame.
#[repr(C)]
pub(crate) struct Users {
    pub(crate) references: u32,
    pub(crate) typed: u32,
    pub(crate) mmio: bool,
}

/// A frame with a reference of ours (null if there is none to be had), and who else uses it.
#[repr(C)]
pub(crate) struct PageRef {
    pub(crate) page: *mut PageInfo,
    pub(crate) references: u32,
    pub(crate) typed: u32,
}

unsafe extern "C" {
    // The ring lock.
    pub(crate) fn xen_shim_lock_init(lock: *mut c_void);
    pub(crate) fn xen_shim_lock(lock: *mut c_void);
    pub(crate) fn xen_shim_trylock(lock: *mut c_void) -> bool;
    pub(crate) fn xen_shim_unlock(lock: *mut c_void);

    // The p2m.
    pub(crate) fn xen_shim_p2m_lock(d: *mut Domain);
    pub(crate) fn xen_shim_p2m_unlock(d: *mut Domain);
    pub(crate) fn xen_shim_get_entry(d: *mut Domain, gfn: u64) -> Entry;
    pub(crate) fn xen_shim_set_entry(
        d: *mut Domain,
        gfn: u64,
        mfn: u64,
        p2mt: u32,
        access: u32,
    ) -> i32;
    pub(crate) fn xen_shim_flush(d: *mut Domain);
    pub(crate) fn xen_shim_read_clear_access_bits(
        d: *mut Domain,
        gfn: u64,
        uses: *mut u64,
        count: u32,
        both: bool,
    ) -> i32;
    pub(crate) fn xen_shim_set_m2p(mfn: u64, gfn: u64);
    pub(crate) fn xen_shim_clear_m2p(mfn: u64);
    pub(crate) fn xen_shim_log_dirty(d: *mut Domain) -> bool;
    pub(crate) fn xen_shim_count_out(d: *mut Domain);
    pub(crate) fn xen_shim_count_in(d: *mut Domain);

    // Frames.
    pub(crate) fn xen_shim_page_users(mfn: u64) -> Users;
    pub(crate) fn xen_shim_page_get(d: *mut Domain, mfn: u64) -> PageRef;
    pub(crate) fn xen_shim_page_put(page: *mut PageInfo);
    pub(crate) fn xen_shim_page_release(page: *mut PageInfo, scrub: bool);
    pub(crate) fn xen_shim_page_mfn(page: *mut PageInfo) -> u64;
    pub(crate) fn xen_shim_page_alloc(d: *mut Domain) -> *mut PageInfo;
    pub(crate) fn xen_shim_page_clear(page: *mut PageInfo);
    pub(crate) fn xen_shim_page_fill(page: *mut PageInfo, buffer: u64) -> bool;
    pub(crate) fn xen_shim_page_read(d: *mut Domain, gfn: u64, buffer: u64) -> i32;
    pub(crate) fn xen_shim_buffer_okay(buffer: u64) -> bool;

    // Vcpus.
    pub(crate) fn xen_shim_caller(d: *mut Domain, own: *mut bool) -> u32;
    pub(crate) fn xen_shim_pin_page(d: *mut Domain, vcpu: u32, gfn: u64);
    pub(crate) fn xen_shim_vcpu_pause(d: *mut Domain, vcpu: u32);
    pub(crate) fn xen_shim_vcpu_unpause(d: *mut Domain, vcpu: u32);

    // The domain and its ring page and event channel.
    pub(crate) fn xen_shim_domain_properties(d: *mut Domain) -> u32;
    pub(crate) fn xen_shim_has_ring_gfn(d: *mut Domain) -> bool;
    pub(crate) fn xen_shim_ring_map(
        d: *mut Domain,
        page: *mut *mut PageInfo,
        va: *mut *mut c_void,
    ) -> i32;
    pub(crate) fn xen_shim_ring_unmap(page: *mut PageInfo, va: *mut c_void);
    pub(crate) fn xen_shim_channel_open(d: *mut Domain) -> i32;
    pub(crate) fn xen_shim_channel_close(d: *mut Domain, port: u32);
    pub(crate) fn xen_shim_notify(d: *mut Domain, port: u32);
    pub(crate) fn xen_shim_defer_event(d: *mut Domain);

    // Console output, and the stop of the host.
    pub(crate) fn xen_shim_print(text: *const u8, len: u32);
    pub(crate) fn xen_shim_crash(d: *mut Domain);
    pub(crate) fn xen_shim_panic() -> !;
}
