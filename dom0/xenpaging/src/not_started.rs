// SPDX-License-Identifier: MIT OR Apache-2.0
//! Why a pager did not start, and whether the next one may succeed. If a pager that was killed has left
//! its index, pages of the guest may be out, and vcpus wait for them. Then a failure that may pass has
//! an exit code of its own, and the service manager starts another pager.

use std::error::Error as StdError;
use std::fs::File;
use std::io;
use std::path::Path;

use pager_shell::{MachineError, NoPagingStates, ShellError};
use pager_store::index::IndexError;
use pager_store::pagefile::PagefileError;
use pager_xen::XenError;
use rustix::fs::FlockOperation;

use crate::exit::Exit;
use crate::guest_files::lock_soon;

/// A pager that did not start.
#[derive(Debug)]
pub(crate) struct NotStarted {
    pub(crate) error: anyhow::Error,
    pub(crate) exit: Exit,
}

impl NotStarted {
    /// `takes_over`: whether a pager that was killed has left its index, and this one was to take over.
    pub(crate) fn new(error: anyhow::Error, takes_over: impl FnOnce() -> bool) -> Self {
        if !error.chain().any(is_final) && takes_over() {
            let error = error.context("the take-over failed, and another pager is to try it again");
            return Self {
                error,
                exit: Exit::NextTakesOver,
            };
        }
        Self {
            error,
            exit: Exit::NotStarted,
        }
    }
}

/// The arguments cannot be right, however often the pager is started.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(crate) struct WrongStart(pub(crate) String);

/// Whether each further start will be refused for the same reason.
fn is_final(cause: &(dyn StdError + 'static)) -> bool {
    let machine = |error: &MachineError| {
        error.is::<NoPagingStates>() || error.get::<XenError>().is_some_and(XenError::is_final)
    };
    if let Some(error) = cause.downcast_ref::<ShellError>() {
        return match error {
            ShellError::OtherStore { .. } => true,
            ShellError::Machine(error) => machine(error),
            _ => false,
        };
    }
    if let Some(error) = cause.downcast_ref::<IndexError>() {
        return !matches!(error, IndexError::System { .. });
    }
    if let Some(error) = cause.downcast_ref::<PagefileError>() {
        return matches!(
            error,
            PagefileError::Exposed { .. } | PagefileError::Exists { .. }
        );
    }
    cause.is::<WrongStart>()
        || cause.downcast_ref::<MachineError>().is_some_and(machine)
        || cause
            .downcast_ref::<XenError>()
            .is_some_and(XenError::is_final)
}

/// Whether a pager that does not live any more has left this index.
pub(crate) fn is_left(index: &Path) -> bool {
    match File::open(index) {
        Ok(file) => {
            let is_used = file.metadata().is_ok_and(|data| data.len() > 0);
            is_used && lock_soon(&file, FlockOperation::NonBlockingLockShared).is_ok()
        }
        // It may be there and not be accessible now, for want of memory or descriptors.
        Err(error) => error.kind() != io::ErrorKind::NotFound,
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use rustix::io::Errno;

    use super::*;

    fn exit_of(error: impl Into<anyhow::Error>) -> Exit {
        NotStarted::new(error.into(), || true).exit
    }

    #[test]
    fn a_take_over_is_tried_again_unless_its_refusal_is_final() {
        let open = |errno| PagefileError::Open {
            path: "pages".into(),
            errno,
        };
        let system = ShellError::System {
            step: "thread",
            error: io::ErrorKind::OutOfMemory.into(),
        };
        let what = "reading";
        let errno = Errno::NOMEM;
        let call = "mapping the ring";
        let shell = |error: XenError| ShellError::Machine(MachineError::from(error));
        for passing in [
            anyhow::Error::from(open(Errno::NOENT)).context("pagefile"),
            IndexError::System { what, errno }.into(),
            system.into(),
            XenError::Call { call, errno }.into(),
            shell(XenError::Refused { domain: 1, errno }).into(),
            anyhow::anyhow!("something else"),
        ] {
            let said = format!("{passing:#}");
            let not_started = NotStarted::new(passing, || true);
            assert_eq!(not_started.exit, Exit::NextTakesOver, "{said}");
            let line = format!("{:#}", not_started.error);
            assert!(line.contains("take-over failed") && line.ends_with(&said));
        }
        let errno = Errno::XDEV;
        for last in [
            anyhow::Error::from(IndexError::Locked).context("index"),
            IndexError::OtherVersion { found: 7 }.into(),
            XenError::NoDomain(1).into(),
            MachineError::from(XenError::NoTakeOver(1)).into(),
            shell(XenError::Refused { domain: 1, errno }).into(),
            ShellError::Machine(MachineError::new(NoPagingStates)).into(),
            WrongStart("--no-index".into()).into(),
        ] {
            let said = format!("{last:#}");
            assert_eq!(exit_of(last), Exit::NotStarted, "{said}");
        }
        let none_left = NotStarted::new(open(Errno::NOENT).into(), || false);
        assert_eq!(none_left.exit, Exit::NotStarted);
    }

    #[test]
    fn an_index_is_left_if_it_says_something_and_nobody_has_it() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("index");
        assert!(!is_left(&path), "there is none");
        let mut file = File::create(&path).unwrap();
        assert!(!is_left(&path), "it is empty");
        file.write_all(b"an index").unwrap();
        assert!(is_left(&path));
        rustix::fs::flock(&file, FlockOperation::LockExclusive).unwrap();
        assert!(!is_left(&path), "a pager that lives has it");
    }

    #[test]
    fn the_unit_starts_a_pager_again_whose_take_over_failed() {
        let unit = include_str!("../debian/xenpaging@.service");
        let code = format!("RestartForceExitStatus={}", Exit::NextTakesOver as u8);
        assert!(unit.lines().any(|line| line == code), "no {code}");
        assert!(unit.lines().any(|line| line == "StartLimitIntervalSec=0"));
        assert!(unit.lines().any(|line| line.starts_with("RestartSec=")));
    }
}
