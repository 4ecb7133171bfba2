// SPDX-License-Identifier: GPL-2.0-only
//! The functions that Xen's C calls. `include/p2m_rs.h` is generated from the signatures and
//! comments here.
//!
//! Every function but the first two takes the state of one domain. Xen keeps the state from the
//! first time that paging is enabled until the domain is freed. No function sleeps.

use core::fmt::Write;
use core::ptr::NonNull;

use p2m_paging::fault::{ExitQualification, Mapper, NestedFault, NpfErrorCode, decide_map};
use p2m_paging::p2m::{AccessBits, ClearBits, P2mType};
use p2m_paging::paging::{
    ACCESS_BITS_CHUNK, Attachment, CHUNK, Caller, EvictError, Job, NominateError, PopulateError,
    Populated, PrepError, RestoreError,
};
use p2m_paging::ring::Epoch;
use p2m_paging::ring::abi::{MemPagingOp, PagingItem};
use p2m_paging::{Errno, Gfn, paging::DropError};

use crate::console::Console;
use crate::platform::Buffer;
use crate::shim::{self, Domain};
use crate::state::State;

/// Bytes of the state of a domain with this many vcpus.
#[unsafe(no_mangle)]
pub extern "C" fn p2m_rs_state_size(max_vcpus: u32) -> usize {
    State::size(max_vcpus)
}

/// Initialises the state of a domain in memory of that size. Called once, before anybody else sees
/// the state.
///
/// # Safety
///
/// As `State::init`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn p2m_rs_state_init(memory: *mut u8, d: *mut Domain, max_vcpus: u32) {
    if let Some(memory) = NonNull::new(memory) {
        // SAFETY: the caller's promise.
        unsafe { State::init(memory, d, max_vcpus) }
    }
}

/// Attaches a pager. Yields the port of its event channel, or a negative errno. Domctl lock held,
/// so that nothing else runs at the same time.
#[unsafe(no_mangle)]
pub extern "C" fn p2m_rs_enable(state: &State) -> i32 {
    port_or_errno(state.enable())
}

fn port_or_errno(attached: Result<u32, i32>) -> i32 {
    match attached {
        Ok(port) => i32::try_from(port).unwrap_or(Errno::EIO.as_return()),
        Err(rc) => rc,
    }
}

/// Attaches a pager in the place of one that is gone: vcpus that wait go on waiting, and their
/// pages are requested from the new pager. Yields the port of its event channel, or a negative errno:
/// -ENOENT if paging is not enabled. Domctl lock held.
#[unsafe(no_mangle)]
pub extern "C" fn p2m_rs_take_over(state: &State) -> i32 {
    port_or_errno(state.take_over())
}

/// The pager is gone, and another one will take over: until then, whoever needs a page waits. Domctl
/// lock held.
#[unsafe(no_mangle)]
pub extern "C" fn p2m_rs_detach(state: &State) {
    state.detach();
}

/// Whether a pager is attached, or will take over. Any locks.
#[unsafe(no_mangle)]
pub extern "C" fn p2m_rs_is_enabled(state: &State) -> bool {
    state.paging.is_enabled()
}

/// Detaches the pager: 0, or -EBUSY while vcpus are in the wait queue. Domctl lock held, the domain
/// paused.
#[unsafe(no_mangle)]
pub extern "C" fn p2m_rs_disable(state: &State) -> i32 {
    state.disable().map_or_else(Errno::as_return, |()| 0)
}

/// The domain is dying: detaches the pager, whoever waits. The vcpus still exist; the domain is
/// paused and gets no new state.
#[unsafe(no_mangle)]
pub extern "C" fn p2m_rs_shut_down(state: &State) {
    state.shut_down();
}

/// The epoch of the pager that is attached; 0 while none is. Domctl lock held, so that it stays.
#[unsafe(no_mangle)]
pub extern "C" fn p2m_rs_epoch(state: &State) -> u32 {
    state.paging.epoch().as_raw()
}

/// The epoch of an operation that states this one, or none (0): yields 0 if the caller is not
/// attached. Any locks; the operation itself asks again.
#[unsafe(no_mangle)]
pub extern "C" fn p2m_rs_caller_epoch(state: &State, stated: u32) -> u32 {
    state.caller_epoch(stated).as_raw()
}

/// One `XENMEM_paging_op`: 0 or a negative errno, -ENODEV without a pager. `epoch` is of
/// p2m_rs_caller_epoch. No locks held.
#[unsafe(no_mangle)]
pub extern "C" fn p2m_rs_memop(state: &State, op: u8, epoch: u32, gfn: u64, buffer: u64) -> i32 {
    let gfn = gfn_of(gfn);
    let by = Epoch::from_raw(epoch);
    let paging = &state.paging;
    if !paging.is_enabled() {
        return Errno::ENODEV.as_return();
    }
    let done = match op {
        MemPagingOp::OP_NOMINATE => {
            let mut job = [Job::new(gfn)];
            paging.nominate(by, &mut job);
            let [job] = job;
            errno_of(job.outcome.map(|r| r.map_err(|e| e.errno())))
        }
        MemPagingOp::OP_EVICT => {
            let mut job = [Job::new(gfn)];
            paging.evict(by, &mut job);
            let [job] = job;
            errno_of(job.outcome.map(|r| r.map_err(|e| e.errno())))
        }
        MemPagingOp::OP_PREP => {
            // SAFETY: only compares the address.
            if !unsafe { shim::xen_shim_buffer_okay(buffer) } {
                return PrepError::InvalidBuffer.errno().as_return();
            }
            let mut job = [Job::filled(gfn, Buffer(buffer))];
            paging.prep(by, &mut job);
            let [job] = job;
            errno_of(job.outcome.map(|r| r.map_err(|e| e.errno())))
        }
        _ => Err(Errno::ENOSYS),
    };
    done.map_or_else(Errno::as_return, |()| 0)
}

/// One chunk of a `XENMEM_paging_op` for many pages. `op` is the operation for one page. `items`
/// are `count` pairs of words in Xen's own memory: the page, and its buffer, which is replaced by 0
/// or a negative errno. `epoch` is of p2m_rs_caller_epoch. Yields 0, or a negative errno if nothing was
/// done. No locks held.
///
/// # Safety
///
/// `items` must be `2 * count` words that nobody else uses.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn p2m_rs_memop_many(
    state: &State,
    op: u8,
    epoch: u32,
    items: *mut u64,
    count: u32,
) -> i32 {
    if items.is_null() || count as usize > CHUNK {
        return Errno::EINVAL.as_return();
    }
    // SAFETY: the caller's promise; an item is two words.
    let items = unsafe { core::slice::from_raw_parts_mut(items.cast(), count as usize) };
    let by = Epoch::from_raw(epoch);
    match op {
        MemPagingOp::OP_NOMINATE => {
            many(
                items,
                |_| (),
                |jobs| state.paging.nominate(by, jobs),
                |e: NominateError| e.errno(),
            );
        }
        MemPagingOp::OP_EVICT => {
            many(
                items,
                |_| (),
                |jobs| state.paging.evict(by, jobs),
                |e: EvictError| e.errno(),
            );
        }
        // SAFETY: only compares the addresses.
        MemPagingOp::OP_PREP
            if items
                .iter()
                .all(|i| unsafe { shim::xen_shim_buffer_okay(i.word) }) =>
        {
            many(
                items,
                |word| Some(Buffer(word)),
                |jobs| state.paging.prep(by, jobs),
                |e: PrepError| e.errno(),
            );
        }
        MemPagingOp::OP_PREP => return PrepError::InvalidBuffer.errno().as_return(),
        MemPagingOp::OP_RESTORE => {
            many(
                items,
                |_| (),
                |jobs| state.paging.restore(by, jobs),
                |e: RestoreError| e.errno(),
            );
        }
        MemPagingOp::OP_READ => read_many(state, items),
        _ => return Errno::ENOSYS.as_return(),
    }
    0
}

/// Reads and clears accessed bits: one of `count` words in Xen's own memory for every 64 gfns, from
/// `gfn` on. Yields 0, or a negative errno: -EOPNOTSUPP where the p2m has none. No locks held.
///
/// # Safety
///
/// `words` must be `count` words that nobody else uses.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn p2m_rs_access_bits(
    state: &State,
    gfn: u64,
    words: *mut u64,
    count: u32,
) -> i32 {
    let mut uses = [AccessBits::default(); ACCESS_BITS_CHUNK];
    let (Some(first), Some(uses)) = (Gfn::try_new(gfn), uses.get_mut(..count as usize)) else {
        return Errno::EINVAL.as_return();
    };
    if words.is_null() {
        return Errno::EINVAL.as_return();
    }
    // SAFETY: the caller's promise.
    let words = unsafe { core::slice::from_raw_parts_mut(words, uses.len()) };
    let taken = state
        .paging
        .read_clear_access_bits(first, uses, ClearBits::Accessed);
    for (word, uses) in words.iter_mut().zip(&*uses) {
        [*word] = uses.accessed.into_inner();
    }
    taken.map_or_else(|e| e.errno().as_return(), |()| 0)
}

/// Lists the states of pages: two of `2 * count` words in Xen's own memory for every 64 gfns, from
/// `gfn` on. The first says which pages are out, the second which are nominated. `epoch` is of
/// p2m_rs_caller_epoch. Yields 0, or a negative errno. No locks held.
///
/// # Safety
///
/// `words` must be `2 * count` words that nobody else uses.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn p2m_rs_paging_states(
    state: &State,
    epoch: u32,
    gfn: u64,
    words: *mut u64,
    count: u32,
) -> i32 {
    let Some(first) = Gfn::try_new(gfn).filter(|_| !words.is_null()) else {
        return Errno::EINVAL.as_return();
    };
    // SAFETY: the caller's promise; an element is two words, and every word is a valid set.
    let states = unsafe { core::slice::from_raw_parts_mut(words.cast(), count as usize) };
    let by = Epoch::from_raw(epoch);
    let listed = state.paging.paging_states(by, first, states);
    listed
        .map_err(|e| e.errno())
        .map_or_else(Errno::as_return, |()| 0)
}

/// Each instance has its array in a stack frame of its own. `buffer` makes a job's buffer of an
/// item's word.
#[inline(never)]
fn many<E: Copy, B: Copy>(
    items: &mut [PagingItem],
    buffer: impl Fn(u64) -> B,
    work: impl FnOnce(&mut [Job<E, B>]),
    errno: impl Fn(E) -> Errno,
) {
    let unused = Job {
        gfn: Gfn::MAX,
        buffer: buffer(0),
        outcome: None,
    };
    let mut jobs = [unused; CHUNK];
    let jobs = jobs.get_mut(..items.len()).unwrap_or_default();
    for (job, item) in jobs.iter_mut().zip(items.iter()) {
        job.gfn = gfn_of(item.gfn);
        job.buffer = buffer(item.word);
    }
    work(jobs);
    for (item, job) in items.iter_mut().zip(jobs.iter()) {
        let outcome = job.outcome.map(|outcome| outcome.map_err(&errno));
        let value = errno_of(outcome).map_or_else(Errno::as_return, |()| 0);
        item.word = i64::from(value).cast_unsigned();
    }
}

fn read_many(state: &State, items: &mut [PagingItem]) {
    let domain = state.paging.platform().domain();
    for item in items {
        let gfn = gfn_of(item.gfn).get();
        // SAFETY: a live domain; Xen checks the address.
        let value = unsafe { shim::xen_shim_page_read(domain, gfn, item.word) };
        item.word = i64::from(value).cast_unsigned();
    }
}

/// An address that is no gfn is treated as the last gfn, which no guest has.
fn gfn_of(raw: u64) -> Gfn {
    Gfn::try_new(raw).unwrap_or(Gfn::MAX)
}

fn errno_of(done: Option<Result<(), Errno>>) -> Result<(), Errno> {
    done.unwrap_or(Err(Errno::EIO))
}

/// The running vcpu (of this domain or another) needs a page with all rights. Yields 0 if it shall
/// try again, -EOPNOTSUPP if no pager can bring the page. A vcpu of the domain itself is paused
/// until the page is resident. The p2m lock may be held, but need not be.
#[unsafe(no_mangle)]
pub extern "C" fn p2m_rs_populate(state: &State, gfn: u64) -> i32 {
    let gfn = Gfn::new_truncate(gfn);
    let paging = &state.paging;
    retry(state, gfn, paging.populate(gfn, paging.platform().caller()))
}

/// The running vcpu hit an entry of a paging type. `cause`: the exit qualification of an EPT
/// violation (`ept`), or the error code of a nested page fault. Otherwise as p2m_rs_populate,
/// except that a read of a nominated page makes no request. No locks held.
#[unsafe(no_mangle)]
pub extern "C" fn p2m_rs_fault(state: &State, gfn: u64, cause: u64, ept: bool) -> i32 {
    let paging = &state.paging;
    let Caller::Guest(vcpu) = paging.platform().caller() else {
        return 0;
    };
    let gfn = Gfn::new_truncate(gfn);
    let fault = if ept {
        NestedFault::Ept(ExitQualification::from_bits_retain(cause))
    } else {
        NestedFault::Npt(NpfErrorCode::from_bits_retain(cause))
    };
    retry(state, gfn, paging.nested_fault(vcpu, gfn, fault))
}

/// Decides on a foreign map of a gfn of this p2m type, which has a frame or none. Yields 0 if the
/// type is not a paging type, 1 if the page is to be mapped, 2 if the caller shall call
/// p2m_rs_populate and then try again. A pager maps as a reader. Any locks.
#[unsafe(no_mangle)]
pub extern "C" fn p2m_rs_map(p2mt: u32, has_frame: bool, write: bool) -> u32 {
    let mapper = if write {
        Mapper::Writer
    } else {
        Mapper::Reader
    };
    P2mType::try_from_raw(p2mt).map_or(0, |t| decide_map(t, has_frame, mapper).as_raw())
}

/// The permission bits of an entry of this p2m type, in EPT or in AMD's nested page table; all ones
/// if the type is not a paging type. Any locks.
#[unsafe(no_mangle)]
pub extern "C" fn p2m_rs_permissions(p2mt: u32, ept: bool) -> u64 {
    P2mType::try_from_raw(p2mt)
        .and_then(|t| {
            if ept {
                t.ept_permissions().map(|p| p.bits())
            } else {
                t.npt_flags().map(|p| p.bits())
            }
        })
        .unwrap_or(u64::MAX)
}

/// Every failure but a missing pager passes by itself: the caller tries again. An inconsistent
/// entry ends the domain.
fn retry(state: &State, gfn: Gfn, outcome: Result<Populated, PopulateError>) -> i32 {
    match outcome {
        Err(e @ PopulateError::NoRing) => e.errno().as_return(),
        Err(e @ PopulateError::InconsistentEntry(_)) => {
            let _ = writeln!(Console, "memory paging: {gfn}: {e}");
            // SAFETY: a live domain.
            unsafe { shim::xen_shim_crash(state.paging.platform().domain()) };
            0
        }
        _ => 0,
    }
}

/// The running vcpu gives back a page of a paging type. Yields 0; 1 if the page has no paging type
/// any more, so that the caller looks again; -EAGAIN if the pager cannot be told now; another
/// negative errno if the entry cannot be changed. The p2m lock may be held, but need not be.
#[unsafe(no_mangle)]
pub extern "C" fn p2m_rs_drop(state: &State, gfn: u64) -> i32 {
    match state.drop_page(Gfn::new_truncate(gfn)) {
        Ok(()) => 0,
        Err(DropError::NotPaging(_)) => 1,
        Err(e) => e.errno().as_return(),
    }
}

/// The pager has sent an event. No locks held.
#[unsafe(no_mangle)]
pub extern "C" fn p2m_rs_on_event(state: &State) {
    state.on_event();
}

/// Prints counters of what has happened so far, and which vcpus wait. Any locks.
#[unsafe(no_mangle)]
pub extern "C" fn p2m_rs_print(state: &State) {
    let pager = match state.paging.attachment() {
        Attachment::None => "none",
        Attachment::Detached => "detached",
        Attachment::Attached => "attached",
    };
    let counters = state.paging.counters();
    let _ = writeln!(Console, "    paging: pager {pager}, {counters}");
    let leaked = state.paging.vcpus().leaked_pauses();
    if leaked > 0 {
        let _ = writeln!(Console, "    paging: {leaked} vcpu pauses are leaked");
    }
    for (vcpu, gfn) in state.paging.vcpus().waiting() {
        let _ = writeln!(Console, "    paging: {vcpu:?} waits for {gfn}");
    }
}
