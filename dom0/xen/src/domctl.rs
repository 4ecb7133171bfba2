// SPDX-License-Identifier: MIT OR Apache-2.0
//! Control operations. The version of their interface differs between versions of Xen. It is found
//! by trying each known version.

use p2m_paging::ring::Epoch;
use p2m_paging::ring::abi::{ENABLE_TAKE_OVER, MemPagingOp};
use pager_shell::AttachMode;
use rustix::io::Errno;
use zerocopy::{FromBytes, IntoBytes};

use super::abi::{
    DOMCTL, DOMINF_DYING, DOMINF_HVM_GUEST, DOMINF_PAUSED, DomainInfoHead, Domctl, GET_DOMAIN_INFO,
    KNOWN_INTERFACES, PAUSE_DOMAIN, REMOTE_SHUTDOWN, RemoteShutdown, SCHED_OP, SHUTDOWN_CRASH,
    VM_EVENT_DISABLE, VM_EVENT_ENABLE, VM_EVENT_OP, VM_EVENT_PAGING, VmEventOp, XEN_VERSION,
};
use super::error::{XenError, call};
use super::privcmd::Privcmd;

/// The version of the running Xen's interface.
#[derive(Clone, Copy, Debug)]
pub(super) struct DomctlVersion(u32);

/// Shuts a domain down as one that has crashed. The toolstack does what its configuration says
/// (`on_crash`).
pub(super) fn crash(xen: &mut Privcmd, domain: u16) -> Result<(), Errno> {
    let mut shutdown = RemoteShutdown {
        domain,
        pad: 0,
        reason: SHUTDOWN_CRASH,
    };
    match xen.call(SCHED_OP, Some(REMOTE_SHUTDOWN), &mut shutdown) {
        // It is gone.
        Ok(_) | Err(Errno::SRCH) => Ok(()),
        Err(errno) => Err(errno),
    }
}

/// What Xen reports of a domain.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct DomainInfo {
    pub(super) is_dying: bool,
    pub(super) is_hvm: bool,
    /// The toolstack has paused it, or a pager.
    pub(super) is_paused: bool,
    pub(super) tot_pages: u64,
    pub(super) max_pages: u64,
    pub(super) paged_pages: u64,
    pub(super) uuid: [u8; 16],
}

impl DomctlVersion {
    /// Asks about dom0 with one version after the other. A wrong version returns EACCES.
    pub(super) fn probe(xen: &mut Privcmd) -> Result<Self, XenError> {
        for version in KNOWN_INTERFACES {
            let mut domctl = Domctl::new(GET_DOMAIN_INFO, version, 0);
            match xen.call(DOMCTL, None, &mut domctl) {
                Ok(_) => return Ok(Self(version)),
                Err(Errno::ACCESS) => {}
                Err(Errno::PERM) => return Err(XenError::NotPrivileged),
                Err(errno) => return Err(call("domain information")(errno)),
            }
        }
        let version = xen.call_numbers(XEN_VERSION, [0; 5]);
        let version = version.map_err(call("Xen's version"))?;
        Err(XenError::UnknownInterface {
            major: version >> 16,
            minor: version & 0xffff,
        })
    }

    /// Asks about a domain. `None`: there is no such domain.
    pub(super) fn domain_info(
        self,
        xen: &mut Privcmd,
        domain: u16,
    ) -> Result<Option<DomainInfo>, Errno> {
        let mut domctl = Domctl::new(GET_DOMAIN_INFO, self.0, domain);
        match xen.call(DOMCTL, None, &mut domctl) {
            Ok(_) => {}
            Err(Errno::SRCH) => return Ok(None),
            Err(errno) => return Err(errno),
        }
        let head = DomainInfoHead::read_from_prefix(domctl.u.as_bytes());
        let (head, _) = head.map_err(|_| Errno::IO)?;
        Ok((head.domain == domain).then_some(DomainInfo {
            is_dying: head.flags & DOMINF_DYING != 0,
            is_hvm: head.flags & DOMINF_HVM_GUEST != 0,
            is_paused: head.flags & DOMINF_PAUSED != 0,
            tot_pages: head.tot_pages,
            max_pages: head.max_pages,
            paged_pages: head.paged_pages,
            uuid: head.handle,
        }))
    }

    /// Pauses a domain. Xen counts pauses. One that is paused stays as it is, so that one unpause is
    /// enough.
    pub(super) fn pause(self, xen: &mut Privcmd, domain: u16) -> Result<(), Errno> {
        let info = self.domain_info(xen, domain)?;
        if info.is_none_or(|info| info.is_paused || info.is_dying) {
            return Ok(());
        }
        let mut domctl = Domctl::new(PAUSE_DOMAIN, self.0, domain);
        xen.call(DOMCTL, None, &mut domctl).map(drop)
    }

    /// Enables paging, or takes over the paging of a pager that is gone. Returns the port at Xen's end
    /// of the event channel, and the pager's epoch if this Xen knows epochs.
    pub(super) fn attach(
        self,
        xen: &mut Privcmd,
        domain: u16,
        mode: AttachMode,
    ) -> Result<(u32, Option<Epoch>), Errno> {
        let take_over = VM_EVENT_ENABLE | ENABLE_TAKE_OVER;
        let answer = match mode {
            AttachMode::TakeOver => match self.vm_event(xen, domain, take_over, Epoch::NONE) {
                // The pager was killed before it enabled paging, or the toolstack disabled it since.
                Err(Errno::NOENT) => self.vm_event(xen, domain, VM_EVENT_ENABLE, Epoch::NONE)?,
                answer => answer?,
            },
            AttachMode::Enable => self.vm_event(xen, domain, VM_EVENT_ENABLE, Epoch::NONE)?,
        };
        let epoch = Some(Epoch::from_raw(answer.epoch)).filter(|epoch| *epoch != Epoch::NONE);
        if mode == AttachMode::TakeOver && epoch.is_none() {
            // Of a domain that is dying, Xen says nothing.
            return Err(Errno::SRCH);
        }
        Ok((answer.port, epoch))
    }

    /// Disables the paging that was enabled with this epoch. ENOTCONN: the domain has another pager
    /// now. Without an epoch (Xen's C), disables whatever paging there is.
    pub(super) fn disable_paging(
        self,
        xen: &mut Privcmd,
        domain: u16,
        epoch: Option<Epoch>,
    ) -> Result<(), Errno> {
        let (op, epoch) = match epoch {
            Some(epoch) => (
                VM_EVENT_DISABLE | u32::from(MemPagingOp::STATES_EPOCH),
                epoch,
            ),
            None => (VM_EVENT_DISABLE, Epoch::NONE),
        };
        self.vm_event(xen, domain, op, epoch).map(drop)
    }

    fn vm_event(
        self,
        xen: &mut Privcmd,
        domain: u16,
        op: u32,
        epoch: Epoch,
    ) -> Result<VmEventOp, Errno> {
        let mut domctl = Domctl::new(VM_EVENT_OP, self.0, domain);
        let argument = VmEventOp {
            op,
            mode: VM_EVENT_PAGING,
            port: 0,
            epoch: epoch.as_raw(),
        };
        let _ = argument.write_to_prefix(domctl.u.as_mut_bytes());
        xen.call(DOMCTL, None, &mut domctl)?;
        let (answer, _) =
            VmEventOp::read_from_prefix(domctl.u.as_bytes()).map_err(|_| Errno::IO)?;
        Ok(answer)
    }
}
