// SPDX-License-Identifier: MIT OR Apache-2.0
//! Watches what changes around the domain: its target, its size, its end, and its pager.

use std::sync::Arc;
use std::time::{Duration, Instant};

use p2m_paging::PAGE_SIZE;
use pager_shell::{MachineEvent, Repeated, Watch};
use rustix::io::Errno;

use super::attachment::{Attachment, Lost};
use super::domctl::DomainInfo;
use super::xenstore::{Link, News, Xenstore};

/// The time between two queries to Xen for the domain's size and whether it still exists.
const LOOK: Duration = Duration::from_millis(100);

/// Queries Xen, and passes on what the xenstore thread finds. It never waits for xenstore.
pub(super) struct DomainWatch {
    /// Asks Xen about the domain; `None`: there is no such domain.
    pub(super) info: Box<dyn FnMut() -> Result<Option<DomainInfo>, Errno> + Send>,
    pub(super) attachment: Attachment,
    pub(super) link: Arc<Link>,
    /// For the xenstore thread, which starts together with this one.
    pub(super) store: Option<Xenstore>,
}

/// What Xen says of the domain.
#[derive(Debug, PartialEq, Eq)]
enum Look {
    Pages(u64),
    Gone,
    /// Xen does not answer now. This says nothing of the domain.
    Unknown(Errno),
}

/// Only a domain that does not exist or is dying is gone. Any other error is Xen's or this dom0's.
fn look(info: Result<Option<DomainInfo>, Errno>) -> Look {
    match info {
        Ok(Some(info)) if !info.is_dying => Look::Pages(info.tot_pages),
        Ok(_) => Look::Gone,
        Err(errno) => Look::Unknown(errno),
    }
}

impl Watch for DomainWatch {
    fn run(mut self: Box<Self>, tell: &dyn Fn(MachineEvent)) {
        if let Some(store) = self.store.take() {
            self.link.start(store);
        }
        let (mut told_size, mut target, mut read) = (None, None, None);
        let mut outage = Repeated::default();
        loop {
            match self.link.wait(LOOK) {
                News::None => {}
                News::Target(text) => {
                    if read.as_ref() != Some(&text) {
                        match parse_target(&text) {
                            Some(pages) => target = Some(pages),
                            None => tracing::warn!("the target '{text}' is not a number of KiB"),
                        }
                        read = Some(text);
                    }
                }
                News::Over => return,
            }
            let lost = self.attachment.lost();
            if lost == Some(Lost::Replaced) {
                return tell(MachineEvent::Replaced);
            }
            match look((self.info)()) {
                Look::Gone => return tell(MachineEvent::DomainGone),
                // Xen also ends the paging of a domain that it destroys. That domain is dying before.
                Look::Pages(_) if lost.is_some() => return tell(MachineEvent::Disabled),
                Look::Pages(size) => {
                    if let Some(length) = outage.ended(Instant::now()) {
                        let seconds = length.as_secs_f64();
                        tracing::info!("Xen reports on the domain again, after {seconds:.1} s");
                    }
                    if told_size.replace(size) != Some(size) {
                        tell(MachineEvent::Resident(size));
                    }
                }
                Look::Unknown(errno) => {
                    if outage.happened(Instant::now()) {
                        tracing::error!(%errno, "Xen does not report on the domain: it is asked again");
                    }
                }
            }
            // The size is reported first: without it a target has no meaning.
            if told_size.is_some()
                && let Some(pages) = target.take()
            {
                tell(MachineEvent::Target(pages));
            }
        }
    }
}

/// Converts KiB to whole pages. A negative number means the maximum, as does any number above it
/// (row B1).
fn parse_target(text: &str) -> Option<i64> {
    let kib: i64 = text.trim().parse().ok()?;
    Some(kib.div_euclid(PAGE_SIZE as i64 / 1024))
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use super::*;

    fn info(tot_pages: u64) -> DomainInfo {
        DomainInfo {
            is_dying: false,
            is_hvm: true,
            is_paused: false,
            tot_pages,
            max_pages: 1000,
            paged_pages: 0,
            uuid: [0; 16],
        }
    }

    /// What is told while Xen gives these answers.
    fn told(
        attachment: Attachment,
        answers: impl IntoIterator<Item = Result<Option<DomainInfo>, Errno>>,
    ) -> Vec<MachineEvent> {
        let answers: Vec<_> = answers.into_iter().collect();
        let mut answers = answers.into_iter();
        let watch = DomainWatch {
            info: Box::new(move || answers.next().expect("it ends before")),
            attachment,
            link: Link::new(3).unwrap(),
            store: None,
        };
        let told = Mutex::new(Vec::new());
        Box::new(watch).run(&|event| told.lock().unwrap().push(event));
        told.into_inner().unwrap()
    }

    #[test]
    fn only_a_domain_that_is_not_there_or_dies_is_gone() {
        let dying = DomainInfo {
            is_dying: true,
            ..info(10)
        };
        let resident = MachineEvent::Resident;
        for end in [None, Some(dying)] {
            let answers = [
                Ok(Some(info(10))),
                Err(Errno::ACCESS),
                Err(Errno::NOMEM),
                Err(Errno::PERM),
                Ok(Some(info(20))),
                Ok(end),
            ];
            assert_eq!(
                told(Attachment::default(), answers),
                [resident(10), resident(20), MachineEvent::DomainGone]
            );
        }
    }

    #[test]
    fn a_pager_that_was_replaced_ends_and_the_domain_is_not_gone() {
        let attachment = Attachment::default();
        attachment.lose(Lost::Replaced);
        assert_eq!(told(attachment, []), [MachineEvent::Replaced]);
    }

    #[test]
    fn a_live_domain_whose_paging_was_disabled_is_not_gone() {
        let dying = DomainInfo {
            is_dying: true,
            ..info(10)
        };
        for (last, event) in [
            (Some(info(10)), MachineEvent::Disabled),
            (Some(dying), MachineEvent::DomainGone),
            (None, MachineEvent::DomainGone),
        ] {
            let attachment = Attachment::default();
            attachment.lose(Lost::Disabled);
            let answers = [Err(Errno::NOMEM), Ok(last)];
            assert_eq!(told(attachment, answers), [event]);
        }
    }

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
