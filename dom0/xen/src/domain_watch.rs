// SPDX-License-Identifier: MIT OR Apache-2.0
//! Watches what changes around the domain: its target, its size, its end.

use std::time::Duration;

use p2m_paging::PAGE_SIZE;
use pager_shell::{MachineEvent, Watch};

use super::domctl::DomctlVersion;
use super::privcmd::Privcmd;
use super::xenstore::{Xenstore, XenstoreError};

/// The time between two queries to Xen for the domain's size and whether it still exists.
const LOOK: Duration = Duration::from_millis(100);

const TARGET: &str = "target";
const RELEASE: &str = "release";

/// Watches xenstore and queries Xen.
pub(super) struct DomainWatch {
    xen: Privcmd,
    domctl: DomctlVersion,
    domain: u16,
    store: Xenstore,
}

impl DomainWatch {
    pub(super) fn start(
        xen: Privcmd,
        domctl: DomctlVersion,
        domain: u16,
    ) -> Result<Self, XenstoreError> {
        let mut store = Xenstore::connect()?;
        store.watch("@releaseDomain", RELEASE)?;
        store.watch(&target_path(domain), TARGET)?;
        Ok(Self {
            xen,
            domctl,
            domain,
            store,
        })
    }

    /// The domain's size; `None` once it is dying or gone.
    fn size(&mut self) -> Option<u64> {
        match self.domctl.domain_info(&mut self.xen, self.domain) {
            Ok(Some(info)) if !info.is_dying => Some(info.tot_pages),
            Ok(_) => None,
            Err(errno) => {
                tracing::error!(%errno, "Xen does not report on the domain any more");
                None
            }
        }
    }

    /// The target, if xenstore has a valid one.
    fn target(&mut self) -> Result<Option<i64>, XenstoreError> {
        let path = target_path(self.domain);
        let Some(text) = self.store.read(&path)? else {
            return Ok(None);
        };
        let pages = parse_target(&text);
        if pages.is_none() {
            tracing::warn!("{path}: '{text}' is not a number of KiB");
        }
        Ok(pages)
    }
}

impl Watch for DomainWatch {
    fn run(mut self: Box<Self>, tell: &dyn Fn(MachineEvent)) {
        let (mut told_size, mut told_target) = (None, None);
        let mut store_works = true;
        loop {
            let fired = if store_works {
                self.store.fired(LOOK)
            } else {
                std::thread::sleep(LOOK);
                Ok(None)
            };
            let Some(size) = self.size() else {
                return tell(MachineEvent::DomainGone);
            };
            // The size is reported first: without it a target has no meaning.
            if told_size.replace(size) != Some(size) {
                tell(MachineEvent::Resident(size));
            }
            let target = match fired {
                Ok(Some(token)) if token == TARGET => self.target(),
                Ok(_) => Ok(None),
                Err(error) => Err(error),
            };
            match target {
                Ok(Some(target)) if told_target.replace(target) != Some(target) => {
                    tell(MachineEvent::Target(target));
                }
                Ok(_) => {}
                Err(error) => {
                    tracing::error!("{error}: the target stays what it was");
                    store_works = false;
                }
            }
        }
    }
}

/// The xenstore node of the target.
pub(super) fn target_path(domain: u16) -> String {
    format!("/local/domain/{domain}/memory/target-tot_pages")
}

/// Converts KiB to whole pages. A negative number means the maximum, as does any number above it
/// (row B1).
fn parse_target(text: &str) -> Option<i64> {
    let kib: i64 = text.trim().parse().ok()?;
    Some(kib.div_euclid(PAGE_SIZE as i64 / 1024))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn b1_targets_are_kib() {
        let cases = [
            ("65536", Some(16384)),
            ("7", Some(1)),
            ("-1", Some(-1)),
            (" 4\n", Some(1)),
            ("", None),
            ("64M", None),
            ("99999999999999999999", None),
        ];
        for (text, pages) in cases {
            assert_eq!(parse_target(text), pages, "{text}");
        }
    }
}
