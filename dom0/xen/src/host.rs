// SPDX-License-Identifier: MIT OR Apache-2.0
//! What Xen reports of the host as a whole.

use pager_shell::{FreeMemory, MachineError};
use rustix::io::Errno;
use zerocopy::{FromBytes, IntoBytes};

use super::abi::{KNOWN_INTERFACES, PHYSINFO, PhysInfoHead, SYSCTL, Sysctl};
use super::error::{XenError, call};
use super::privcmd::Privcmd;

/// A connection that stays open and reports the host's free memory. Its control interface (sysctl)
/// has its own version, which is found by trying.
#[derive(Debug)]
pub struct Host {
    xen: Privcmd,
    version: u32,
    total_pages: u64,
}

impl Host {
    /// Opens it and asks once.
    pub fn open() -> Result<Self, XenError> {
        let mut xen = Privcmd::open()?;
        for version in KNOWN_INTERFACES {
            match info(&mut xen, version) {
                Ok(PhysInfoHead { total_pages, .. }) => {
                    return Ok(Self {
                        xen,
                        version,
                        total_pages,
                    });
                }
                Err(Errno::ACCESS) => {}
                Err(Errno::PERM) => return Err(XenError::NotPrivileged),
                Err(errno) => return Err(call("free memory of the host")(errno)),
            }
        }
        Err(call("free memory of the host")(Errno::ACCESS))
    }
}

impl FreeMemory for Host {
    fn total_pages(&self) -> u64 {
        self.total_pages
    }

    /// The number of pages that are free and not claimed. `xl create` claims the memory of a domain
    /// before the domain gets any.
    fn free_pages(&mut self) -> Result<u64, MachineError> {
        let info = info(&mut self.xen, self.version).map_err(call("free memory of the host"))?;
        Ok(info.free_pages.saturating_sub(info.outstanding_pages))
    }
}

fn info(xen: &mut Privcmd, interface_version: u32) -> Result<PhysInfoHead, Errno> {
    let mut sysctl = Sysctl {
        cmd: PHYSINFO,
        interface_version,
        u: [0; 16],
    };
    xen.call(SYSCTL, None, &mut sysctl)?;
    let head = PhysInfoHead::read_from_prefix(sysctl.u.as_bytes());
    head.map(|(head, _)| head).map_err(|_| Errno::IO)
}
