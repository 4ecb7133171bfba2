// SPDX-License-Identifier: MIT OR Apache-2.0
//! The pager without I/O: what to page out, what to page in, what to answer, and when (rows B1, B3 to
//! B8, B10).
//!
//! Pure: no I/O, no clock, no threads. A shell feeds [`Event`]s to [`Pager::handle`] and executes the
//! [`Action`]s that come out; the same core runs in dom0, on the embedded host and in simulations. When
//! to tick, how to reach the hypervisor, and where slots lie ([`crate::store`]) is left to others.
//!
//! # How pages move
//!
//! A page is *resident*, *out* (its contents lie in a slot of the store) or *in flight* (in a batch that
//! the shell has). Each batch belongs to a lane, whose steps are:
//!
//! | lane | batches in flight | steps |
//! |---|---|---|
//! | demand | as many as there are requests | load, prep |
//! | prefetch | 1 | load, prep |
//! | move | 1 | load, write elsewhere |
//! | page-out | 2 | nominate, save, evict; restore for those that were nominated and stay; probe for those that stay unreadable |
//!
//! A batch is a value that goes out in an action and comes back in an event, so each ends exactly once.
//! In a batch of demand, pages that are asked for come together with those that will be, if memory is
//! gone through in order (read-ahead, row C8). A page in flight has an *outcome* in store, which requests
//! that arrive meanwhile may change; the core looks at it when the step is done.
//!
//! What must hold, and is tested against a simulated hypervisor in random interleavings:
//!
//! - the bytes of a page are in exactly one trusted place: the guest until the evict was reported
//!   to have worked, the slot from then until the prep was. A copy that stays in the slot after that is
//!   trusted by nobody: before it counts again it is compared with the page (row C7);
//! - every request is answered exactly once, when its page is resident (or removed, or never left, or
//!   cannot be read);
//! - a slot is owned by the pages whose contents or copies lie there, written only while there is one, and free again only when
//!   there is none and no batch can touch it any more (row C6). A page of zeros takes none;
//! - after a stop nothing is out but what cannot be read, and nothing stays nominated.
//!
//! # What can meet what
//!
//! | request | page | what happens |
//! |---|---|---|
//! | any but drop | resident | answered at once, no I/O |
//! | `EVICT_FAIL`, no vcpu is paused | resident | answered, and restored: on Xen's C the answer alone does not make it resident |
//! | any but drop | out | loaded, prepped, answered; a second request waits for the same load |
//! | any but drop | being paged in, asked for or not | waits for that prep |
//! | `EVICT_FAIL` | being paged out, any step | answered at once: the contents are in place, and an evict already given out will fail; no further step but restore |
//! | not `EVICT_FAIL` | being paged out | the page may be evicted already, or the request overtook the one that says `EVICT_FAIL`. It waits for the end of the step. If the page was evicted, it is loaded; if not, it stays and the request is answered |
//! | drop | resident | answered |
//! | drop | out | slot free, policy told, answered |
//! | drop, after the evict | being paged out | answered; slot free when the step is done, never before: a late write would hit the slot's next owner |
//! | drop | out or in flight, and other pages were out when the pager came | the page is paged in: prep's `ENOENT` says that it was this one |
//! | drop, of a nominated page | being paged out | answered; the evict will fail |
//! | any | being moved to another slot | as while it is paged in: waits for the end of that step, then it is loaded |
//! | drop | being paged in | answered, as is everybody who waits for the page; slot free when the load is done; prep fails with `ENOENT` or is not tried |
//!
//! **Stale requests.** A request may wait for a ring slot while its page becomes resident by another way
//! and is paged out again. A request to page in does no harm then. An `EVICT_FAIL` may have been sent
//! during an earlier nomination. It is answered, and as the hypervisor may not take that for an answer
//! to the present one, the page is restored all the same. A late drop would take the new contents of a
//! page that became memory again under the same number. So a drop counts only for a page that was out
//! when the guest gave it back. A drop of a nominated page never counts, by the type in the request, nor
//! does one that says that the contents were in place. A page for which prep says `ENOENT` is no victim
//! again before its drop was heard.
//!
//! A pager that takes over a guest from one that was killed cannot go by that. It takes pages to be
//! resident that are out, and the late drop of one would take contents that it has evicted itself since.
//! So it looks whether the page is there.
//!
//! | failure | what happens |
//! |---|---|
//! | nominate, map or evict refused | slot given back, the page stays and is not chosen again for a while |
//! | store full | copies of resident pages are given up, many at a time; if there are none, as below |
//! | a dedup candidate differs from the page, or its slot cannot be shared | the page is written |
//! | store full, or a write fails | the page stays; page-out goes on within what the store is known to hold, and tries a little more at each tick; said once |
//! | load fails | never prepped; slot kept, reported; read again at each tick. After some attempts the request is answered without its page, which the hypervisor sees: the vcpu asks again, and the ring slot serves others. In the prefetch lane (stop, raised target) it is read once a round |
//! | load fails for a long time | the page is probed now and then: if it can be nominated, it is resident again, and its location is forgotten |
//! | prep: `ENOMEM` or anything but `ENOENT` | loaded and prepped again at the next tick, or when an evict may have freed memory; nobody sleeps, the request is kept |
//! | a page is out that nothing says where it lies (lost) | never prepped; reported once. Its requests wait like those of an unreadable page, and a drop ends that |
//! | a move fails | the page stays where it was, and is tried again at each tick; after some stalled rounds the area stays in use |
//! | restore fails | reported; after a request for the page, and after a stop, it is tried again at each tick, and the pager does not finish before |
//! | the shell does not get to a page | as if it had not been tried |
//!
//! The target may change at any moment. If it is raised while a batch is paged out, pages that are no
//! longer wanted out are restored instead of evicted. If it is lowered while a batch is paged in, the batch
//! is paged in all the same. A stop is a target of everything, and page-out ends at the next step.
//!
//! # The pager may die
//!
//! A pager that is killed leaves a p2m, a store, and an index that its shell keeps beside them: where the
//! pages lie that are out. The next pager adopts them ([`Adoption`]) before it hears of any event. For
//! this the core promises an order: a batch is to be evicted only after its pages were saved; a page that
//! moved is said to have ([`Action::Moved`]) before its old slot is free; a slot is free only when every
//! page that it was for is resident, gone, or elsewhere.
//!
//! # Memory
//!
//! Per page of the guest, all of them out: 3.5 bytes for its slot, three bits and a half (slot free, slot
//! used before, page out, pair with a location; a 64th of one for its cluster), a byte for the policy (2 bits with a sweep),
//! 8 bytes for the checksum in the store; 13.1 bytes with all nodes. Where pages share slots, 4 bytes more
//! for each slot of a group of 4096. In addition 8 bytes for each MRU page of a sweep, and buffers for the
//! batches. Handling a request, from ring to answer, allocates nothing.

mod area_health;
pub mod balance;
mod batch;
mod capacity;
mod config;
mod event;
mod flight;
mod lanes;
mod locations;
mod outage;
mod pager;
mod pending;
pub mod policy;
pub mod read_ahead;
mod scan;
mod slots;
pub mod sparse;
pub mod store;
#[cfg(test)]
mod tests;

pub use batch::{Batch, Lane, Page, PageError, Step};
pub use config::{Config, Progress, clamp_num_pages};
pub use event::{Action, Actions, DrainError, Event, Loss, LossCause, Need, Report, Summary};
pub use locations::Location;
pub use outage::Ticks;
pub use pager::{Adoption, Pager};
pub use read_ahead::ReadAheadOutcome;
pub use scan::Scan;
pub use slots::AreaFigures;
