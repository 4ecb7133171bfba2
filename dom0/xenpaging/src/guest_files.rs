// SPDX-License-Identifier: MIT OR Apache-2.0
//! The files of one guest: its pagefile, and the index that says where each page lies. If the pager is
//! killed, both stay, and the next pager takes over.

use std::fs::{DirBuilder, File, OpenOptions};
use std::io;
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use pager_shell::control::LeftFiles;
use pager_store::index::{GuestIdentity, Identity, Index, IndexError};
use pager_store::pagefile::{Keep, Pagefile};
use pager_store::{PageStore, has_name};
use rustix::fs::FlockOperation;
use rustix::io::Errno;

use crate::not_started::WrongStart;

/// How long a lock that another process has is waited for, and how often it is tried.
const LOCK_TIME: Duration = Duration::from_secs(3);
const LOCK_PAUSE: Duration = Duration::from_millis(20);

/// The folder of the indices, in memory that a reboot clears.
const FOLDER: &str = "/run/xenpaging";

/// Where the index of a domain is, unless the command line says otherwise.
pub(crate) fn index_of(domain: u16) -> PathBuf {
    Path::new(FOLDER).join(format!("{domain}.index"))
}

/// The pagefile of a guest, with its index if it has one.
pub(crate) struct GuestFiles {
    pagefile: Arc<Pagefile>,
    index: Option<(Arc<Index>, PathBuf)>,
}

impl GuestFiles {
    /// Makes a pagefile that no other pager can take over.
    pub(crate) fn without_index(pagefile: &Path, keep: Keep) -> anyhow::Result<Self> {
        let pagefile = Pagefile::create(pagefile, keep).context("pagefile")?;
        Ok(Self {
            pagefile: Arc::new(pagefile),
            index: None,
        })
    }

    /// Makes both files for this many gfns, or opens those that a pager of this guest has left.
    pub(crate) fn open(
        index: &Path,
        pagefile: &Path,
        guest: GuestIdentity,
        gfns: u64,
    ) -> anyhow::Result<Self> {
        let file = lock_index(index).with_context(|| index.display().to_string())?;
        let file = file.ok_or_else(|| WrongStart(format!("{guest} has a pager already")))?;
        if file.metadata().is_ok_and(|data| data.len() > 0) {
            return Self::open_left(file, index, pagefile, guest, gfns);
        }
        Self::create(file, index, pagefile, guest, gfns).inspect_err(|_| {
            // It was empty when this process locked it, and says nothing.
            let _ = std::fs::remove_file(index);
        })
    }

    fn create(
        file: File,
        index: &Path,
        pagefile: &Path,
        guest: GuestIdentity,
        gfns: u64,
    ) -> anyhow::Result<Self> {
        let pagefile = Pagefile::create(pagefile, Keep::Named).context("pagefile")?;
        let created = identity(&pagefile, guest).and_then(|identity| {
            Index::create(file, identity, gfns).with_context(|| index.display().to_string())
        });
        match created {
            Ok(created) => Ok(Self::with_index(pagefile, created, index)),
            Err(error) => {
                let _ = pagefile.remove();
                Err(error)
            }
        }
    }

    fn open_left(
        file: File,
        index: &Path,
        pagefile: &Path,
        guest: GuestIdentity,
        gfns: u64,
    ) -> anyhow::Result<Self> {
        let kept = match Pagefile::open_again(pagefile) {
            Ok(pagefile) => pagefile,
            Err(error) => {
                let left = format!("a pager that was killed has left {}", index.display());
                return Err(error).context(left);
            }
        };
        match Index::open(file, identity(&kept, guest)?) {
            Ok(opened) => Ok(Self::with_index(kept, opened, index)),
            // The domain id was used again, so the other guest is gone. The pagefile is its pagefile.
            Err(IndexError::OtherGuest { found, store, .. }) if kept.identity() == Some(store) => {
                tracing::warn!("{found} is gone, and its pager was killed: its files are removed");
                kept.remove()?;
                std::fs::remove_file(index)?;
                let file = lock_index(index)?.context("another pager starts")?;
                Self::create(file, index, pagefile, guest, gfns)
            }
            Err(error) => Err(error).with_context(|| index.display().to_string()),
        }
    }

    fn with_index(pagefile: Pagefile, index: Index, path: &Path) -> Self {
        Self {
            pagefile: Arc::new(pagefile),
            index: Some((Arc::new(index), path.to_owned())),
        }
    }

    /// The store.
    pub(crate) fn store(&self) -> Arc<dyn PageStore> {
        Arc::clone(&self.pagefile) as _
    }

    /// The index, if there is one.
    pub(crate) fn index(&self) -> Option<Arc<Index>> {
        self.index.as_ref().map(|(index, _)| Arc::clone(index))
    }

    /// Whether a pager that was killed has left them.
    pub(crate) fn are_left(&self) -> bool {
        self.index
            .as_ref()
            .is_some_and(|(index, _)| !index.is_new())
    }

    /// The pagefile, if it has a name.
    pub(crate) fn named(&self) -> Option<&Path> {
        self.pagefile.named()
    }

    /// The files whose names are removed at the end.
    pub(crate) fn names(&self) -> impl Iterator<Item = &Path> {
        let index = self.index.as_ref().map(|(_, path)| &**path);
        self.named().into_iter().chain(index)
    }

    /// What the next pager looks for, if there is an index.
    pub(crate) fn left_files(&self) -> Option<Arc<dyn LeftFiles>> {
        let (index, path) = self.index.as_ref()?;
        Some(Arc::new(Names {
            pagefile: Arc::clone(&self.pagefile),
            index: Arc::clone(index),
            index_path: path.clone(),
        }))
    }

    /// Removes the names. Nobody needs the contents any more.
    pub(crate) fn remove(self) {
        if let Some((_, index)) = self.index
            && let Err(error) = std::fs::remove_file(&index)
            // The index of an embedded host has no name.
            && !index.starts_with("/proc")
        {
            tracing::warn!("{} cannot be removed: {error}", index.display());
        }
        if let Err(error) = self.pagefile.remove() {
            tracing::warn!("{error}");
        }
    }

    /// As [`Self::remove`], unless a pager that was killed has left them: its pages may be out.
    pub(crate) fn remove_unless_left(self) {
        if !self.are_left() {
            self.remove();
        }
    }
}

/// The names of both files.
#[derive(Debug)]
struct Names {
    pagefile: Arc<Pagefile>,
    index: Arc<Index>,
    index_path: PathBuf,
}

impl LeftFiles for Names {
    fn are_found(&self) -> bool {
        self.pagefile.has_its_name() && self.index.has_name(&self.index_path)
    }
}

fn identity(pagefile: &Pagefile, guest: GuestIdentity) -> anyhow::Result<Identity> {
    let store = pagefile.identity();
    let store = store.context("the pagefile cannot be identified")?;
    Ok(Identity { guest, store })
}

/// Opens the index and locks it. `None`: another process has it locked.
fn lock_index(path: &Path) -> io::Result<Option<File>> {
    loop {
        let file = open_index(path)?;
        match lock_soon(&file, FlockOperation::NonBlockingLockExclusive) {
            // Whoever had it locked may have removed it meanwhile.
            Ok(()) if has_name(&file, path) => return Ok(Some(file)),
            Ok(()) => {}
            Err(Errno::WOULDBLOCK) => return Ok(None),
            Err(errno) => return Err(errno.into()),
        }
    }
}

/// Locks a file. A process that was killed may hold its lock for a moment longer, so this waits a while.
pub(crate) fn lock_soon(file: &File, how: FlockOperation) -> Result<(), Errno> {
    let since = Instant::now();
    loop {
        match rustix::fs::flock(file, how) {
            Err(_) if since.elapsed() <= LOCK_TIME => thread::sleep(LOCK_PAUSE),
            locked => return locked,
        }
    }
}

/// Opens the file, and creates it for its owner alone if it is not there.
fn open_index(path: &Path) -> io::Result<File> {
    if path.parent() == Some(Path::new(FOLDER)) {
        let made = DirBuilder::new().mode(0o700).create(FOLDER);
        made.or_else(|error| match error.kind() {
            io::ErrorKind::AlreadyExists => Ok(()),
            _ => Err(error),
        })?;
    }
    let mut options = OpenOptions::new();
    options.read(true).write(true).create(true).truncate(false);
    options.mode(0o600).open(path)
}
