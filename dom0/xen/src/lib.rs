// SPDX-License-Identifier: MIT OR Apache-2.0
//! Xen as the machine whose guest is paged, from dom0 (rows B1, B7 to B9).
//!
//! | file | what |
//! |---|---|
//! | `privcmd`, `memory` | hypercalls and foreign frames, through Linux's devices |
//! | `domctl` | control operations, their interface's version probed |
//! | `host` | its free memory |
//! | `evtchn` | the event channel |
//! | [`xenstore`] | its wire protocol |
//! | `attach` | becoming a domain's pager |
//! | `calls` | paging operations |
//! | `watch` | target, size and end of the domain |
//! | [`abi`] | layouts and numbers |
//!
//! Xen's own libraries are not used: `libxenctrl` is another one for each Xen, so a binary linked
//! with it runs on one version only.

pub mod abi;
mod attach;
mod calls;
mod domain_watch;
mod domctl;
mod error;
mod evtchn;
mod host;
mod memory;
mod privcmd;
pub mod xenstore;

pub use attach::Domain;
pub use error::XenError;
pub use host::Host;
pub use privcmd::calls_made;
