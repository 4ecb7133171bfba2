// SPDX-License-Identifier: MIT OR Apache-2.0
//! Why Xen is not to be had, or refuses.

use pager_shell::MachineError;
use rustix::io::Errno;

use super::abi::KNOWN_INTERFACES;
use super::xenstore::XenstoreError;

/// What went wrong with Xen as a whole.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum XenError {
    /// No device to reach a hypervisor through.
    #[error(
        "there is no Xen here: neither /dev/xen/privcmd nor /proc/xen/privcmd exists (is this dom0, \
         and xen-privcmd loaded?)"
    )]
    NoXen,
    /// A device could not be opened or mapped.
    #[error("{what}: {errno}")]
    Device {
        /// Which one.
        what: &'static str,
        /// Linux's error.
        errno: Errno,
    },
    /// A control domain's calls are not for us.
    #[error("Xen refuses to be controlled from here (EPERM): this is not dom0")]
    NotPrivileged,
    /// The control interface is none that is known.
    #[error(
        "Xen {major}.{minor} speaks none of the control interfaces known here ({}): this xenpaging is \
         too old for it, or too new",
        interfaces()
    )]
    UnknownInterface {
        /// Of the running Xen.
        major: u32,
        /// Of the running Xen.
        minor: u32,
    },
    /// No such domain.
    #[error("there is no domain {0}")]
    NoDomain(u16),
    /// Nobody publishes metrics for it.
    #[error("domain {0} has no pager")]
    NoPager(u16),
    /// It has no translated memory.
    #[error("domain {0} is no HVM or PVH guest: it cannot be paged")]
    NotHvm(u16),
    /// Its ring has no place.
    #[error("domain {0} has no frame set aside for the paging ring")]
    NoRingGfn(u16),
    /// Paging cannot be enabled.
    #[error("domain {domain} cannot be paged: {}", reason(*errno))]
    Refused {
        /// The domain.
        domain: u16,
        /// Xen's reason.
        errno: Errno,
    },
    /// Another call failed.
    #[error("{call}: {errno}")]
    Call {
        /// What was asked of Xen.
        call: &'static str,
        /// Its error.
        errno: Errno,
    },
    /// Xenstore.
    #[error(transparent)]
    Store(#[from] XenstoreError),
}

impl From<XenError> for MachineError {
    fn from(error: XenError) -> Self {
        Self::new(error)
    }
}

fn interfaces() -> String {
    KNOWN_INTERFACES
        .map(|number| format!("{number:#x}"))
        .join(", ")
}

/// What the errors of enabling mean (`vm_event_domctl` in Xen).
fn reason(errno: Errno) -> String {
    match errno {
        Errno::BUSY => "it has a pager already".into(),
        Errno::NODEV => "it runs without hardware assisted paging".into(),
        Errno::MLINK => "an IOMMU gives devices access to its memory".into(),
        Errno::XDEV => "it uses populate-on-demand".into(),
        Errno::OPNOTSUPP => "Xen does not support it for this domain".into(),
        Errno::NOSYS => "this Xen was built without memory paging".into(),
        errno => errno.to_string(),
    }
}

/// For `map_err`.
pub(super) fn call(call: &'static str) -> impl Fn(Errno) -> XenError {
    move |errno| XenError::Call { call, errno }
}

/// As [`call`], of a device.
pub(super) fn device(what: &'static str) -> impl Fn(Errno) -> XenError {
    move |errno| XenError::Device { what, errno }
}
