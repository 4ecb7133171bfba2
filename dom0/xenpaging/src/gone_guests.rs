// SPDX-License-Identifier: MIT OR Apache-2.0
//! Guests that are gone when a pager is started in the place of one that was killed. The command line
//! still names them. They are left out, and what the pager that was killed has left of them is removed.

use std::fs::File;
use std::path::Path;

use anyhow::Context as _;
use pager_store::PageStore as _;
use pager_store::index::{GuestIdentity, Identity, Index, IndexError};
use pager_store::pagefile::{Pagefile, PagefileError};
use pager_xen::XenError;
use rustix::io::Errno;
use uuid::Uuid;

/// Whether this says that the domain does not exist.
pub(crate) fn is_gone(error: &anyhow::Error) -> bool {
    matches!(error.downcast_ref(), Some(XenError::NoDomain(_)))
}

/// Removes the index of a domain that does not exist, and its pagefile. A file that is not the pagefile
/// of this index stays.
pub(crate) fn remove_left(domain: u16, index: &Path, pagefile: &Path) -> anyhow::Result<()> {
    let mut options = File::options();
    let file = match options.read(true).write(true).open(index) {
        Ok(file) => file,
        // Its pager has seen its end, and has removed both.
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error).with_context(|| index.display().to_string()),
    };
    match Pagefile::open_again(pagefile) {
        Ok(kept) => {
            let store = kept
                .identity()
                .context("the pagefile cannot be identified")?;
            let guest = GuestIdentity {
                domain: domain.into(),
                uuid: Uuid::nil(),
            };
            // The guest's UUID is not known any more. The index says it, and the store.
            match Index::open(file, Identity { guest, store }) {
                Ok(_) => kept.remove()?,
                Err(IndexError::OtherGuest {
                    found, store: of, ..
                }) if of == store && found.domain == guest.domain => {
                    kept.remove()?;
                }
                Err(error) => return Err(error).with_context(|| index.display().to_string()),
            }
        }
        Err(PagefileError::Open { errno, .. }) if errno == Errno::NOENT => {}
        Err(error) => return Err(error.into()),
    }
    std::fs::remove_file(index).with_context(|| index.display().to_string())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::OpenOptionsExt as _;

    use pager_store::pagefile::Keep;

    use super::*;

    /// An index and a pagefile that a pager of this domain has left.
    fn leave(dir: &Path, domain: u16) {
        let pagefile = Pagefile::create(&dir.join("pages"), Keep::Named).unwrap();
        let guest = GuestIdentity {
            domain: domain.into(),
            uuid: Uuid::from_u128(7),
        };
        let store = pagefile.identity().unwrap();
        let mut options = File::options();
        let options = options.read(true).write(true).create_new(true).mode(0o600);
        let file = options.open(dir.join("index")).unwrap();
        Index::create(file, Identity { guest, store }, 64).unwrap();
    }

    #[test]
    fn the_files_of_a_guest_that_is_gone_are_removed_and_no_others() {
        let dir = tempfile::tempdir().unwrap();
        let (index, pages) = (dir.path().join("index"), dir.path().join("pages"));
        remove_left(3, &index, &pages).unwrap();
        leave(dir.path(), 3);
        remove_left(3, &index, &pages).unwrap();
        assert!(!index.exists() && !pages.exists());

        leave(dir.path(), 4);
        let error = remove_left(3, &index, &pages).unwrap_err();
        assert!(
            index.exists() && pages.exists(),
            "of another domain: {error}"
        );

        let other = dir.path().join("other");
        drop(Pagefile::create(&other, Keep::Named).unwrap());
        let error = remove_left(4, &index, &other).unwrap_err();
        assert!(index.exists() && other.exists(), "another file: {error}");

        std::fs::remove_file(&pages).unwrap();
        remove_left(4, &index, &pages).unwrap();
        assert!(!index.exists());
    }
}
