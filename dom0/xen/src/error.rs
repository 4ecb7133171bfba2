// SPDX-License-Identifier: MIT OR Apache-2.0
//! Why Xen cannot be reached, or refuses.

use pager_shell::MachineError;
use rustix::io::Errno;

use super::abi::KNOWN_INTERFACES;
use super::xenstore::XenstoreError;

/// Why Xen as a whole cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum XenError {
    /// There is no device through which to reach a hypervisor.
    #[error(
        "there is no Xen here: neither /dev/xen/privcmd nor /proc/xen/privcmd exists (is this dom0, \
         and xen-privcmd loaded?)"
    )]
    NoXen,
    /// There is no memory for the arguments of hypercalls that Linux never moves.
    #[error(
        "there is no /dev/xen/hypercall: is xen-privcmd loaded? (The pager needs Linux 4.18 or later)"
    )]
    NoCallMemory,
    /// A device could not be opened or mapped.
    #[error("{what}: {errno}")]
    Device {
        /// The device.
        what: &'static str,
        /// Linux's error.
        errno: Errno,
    },
    /// Xen refuses the calls of a control domain.
    #[error("Xen refuses to be controlled from here (EPERM): this is not dom0")]
    NotPrivileged,
    /// The version of the control interface is unknown.
    #[error(
        "Xen {major}.{minor} speaks none of the control interfaces known here ({}): this xenpaging is \
         too old for it, or too new",
        interfaces()
    )]
    UnknownInterface {
        /// The major version of the running Xen.
        major: u32,
        /// The minor version of the running Xen.
        minor: u32,
    },
    /// The domain does not exist.
    #[error("there is no domain {0}")]
    NoDomain(u16),
    /// No pager publishes metrics for the domain.
    #[error("domain {0} has no pager")]
    NoPager(u16),
    /// The domain has no translated memory.
    #[error("domain {0} is not an HVM or PVH guest: it cannot be paged")]
    NotHvm(u16),
    /// The domain has no frame for the ring.
    #[error("domain {0} has no frame set aside for the paging ring")]
    NoRingGfn(u16),
    /// Xen refuses to enable paging.
    #[error("domain {domain} cannot be paged: {}", reason(*errno))]
    Refused {
        /// The domain.
        domain: u16,
        /// Xen's reason.
        errno: Errno,
    },
    /// Xen's own code knows no way for a pager to follow another one.
    #[error(
        "domain {0} has pages out, and this Xen lets no pager take over from one that was killed: the \
         crate's hypervisor half is needed for that"
    )]
    NoTakeOver(u16),
    /// Another pager has attached to the domain.
    #[error("another pager has attached to the domain: this one changes nothing any more")]
    Replaced,
    /// Another call failed.
    #[error("{call}: {errno}")]
    Call {
        /// The call.
        call: &'static str,
        /// Its error.
        errno: Errno,
    },
    /// Xenstore failed.
    #[error(transparent)]
    Store(#[from] XenstoreError),
}

impl XenError {
    /// Whether the same call will have the same result as long as the host and the domain are what they
    /// are. Otherwise it is worth another attempt: there may have been no memory.
    pub fn is_final(&self) -> bool {
        match self {
            Self::Device { .. } | Self::Call { .. } | Self::Store(_) => false,
            Self::Refused { errno, .. } => matches!(
                *errno,
                Errno::BUSY
                    | Errno::NODEV
                    | Errno::MLINK
                    | Errno::XDEV
                    | Errno::OPNOTSUPP
                    | Errno::NOSYS
            ),
            Self::NoXen
            | Self::NoCallMemory
            | Self::NotPrivileged
            | Self::UnknownInterface { .. }
            | Self::NoDomain(_)
            | Self::NoPager(_)
            | Self::NotHvm(_)
            | Self::NoRingGfn(_)
            | Self::NoTakeOver(_)
            | Self::Replaced => true,
        }
    }
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

/// The meaning of the errors of enabling (`vm_event_domctl` in Xen).
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

/// Makes an error of a call, for `map_err`.
pub(super) fn call(call: &'static str) -> impl Fn(Errno) -> XenError {
    move |errno| XenError::Call { call, errno }
}

/// Makes an error of a device, for `map_err`.
pub(super) fn device(what: &'static str) -> impl Fn(Errno) -> XenError {
    move |errno| XenError::Device { what, errno }
}
