// SPDX-License-Identifier: MIT OR Apache-2.0
//! Xen as the machine whose guest is paged. It runs in dom0 (rows B1, B7 to B9).
//!
//! | file | what |
//! |---|---|
//! | `privcmd`, `memory` | hypercalls and foreign frames, through Linux's devices |
//! | `domctl` | control operations; the version of their interface is found by trying |
//! | `host` | the host's free memory |
//! | `evtchn` | the event channel |
//! | [`xenstore`] | a client of xenstore, and the thread that alone waits for it |
//! | `attach` | attaches a pager to a domain |
//! | `paging_ops` | paging operations |
//! | `calls` | what the pager's threads do with them |
//! | `attachment` | whether this pager is still the domain's pager |
//! | `domain_watch` | target, size and end of the domain |
//! | `device_model` | the device model, which keeps frames mapped |
//! | [`abi`] | layouts and numbers |
//!
//! Xen's own libraries are not used. `libxenctrl` differs between versions of Xen, so a binary
//! linked with it runs on one version only.

pub mod abi;
mod attach;
mod attachment;
mod calls;
mod device_model;
mod domain_watch;
mod domctl;
mod error;
mod evtchn;
mod host;
mod memory;
mod paging_ops;
mod privcmd;
pub mod xenstore;

pub use abi::IOCTLS;
pub use attach::Domain;
pub use error::XenError;
pub use host::Host;
pub use privcmd::calls_made;

/// A limit for waits in tests, far above what they need.
#[cfg(test)]
const TEST_LIMIT: std::time::Duration = std::time::Duration::from_secs(60);
