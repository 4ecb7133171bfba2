// SPDX-License-Identifier: MIT OR Apache-2.0
//! A file of slots (row B2).
//!
//! The file is created with mode 0600. A link is never followed, and a file that exists is never
//! replaced: it may be somebody's data, or the only copy of a guest's pages. The file is unlinked
//! at once ([`Keep::Unlinked`]: nothing is left behind however the pager ends), or it stays until
//! it is removed ([`Keep::Named`]). A named file outlives a pager that is killed. The next one opens
//! it again, with what it holds ([`Pagefile::open_again`]). A lock on it (`flock`) says whether a pager
//! has it. The file grows when it is written. Slots are handed out by clusters,
//! the lowest first. So the file is as long as the clusters that were in use at the same time, with
//! holes for their unused slots.
//!
//! Neighbouring slots are written and read with one call. A page with the checksum of its copy is
//! compared with the whole copy and not written if they are equal (row C7). A checksum of each page
//! is kept in memory and compared when the page is read, so that a page that the device changed, lost
//! or mixed up is an error and does not reach the guest. It takes eight bytes a slot, of which 48 bits
//! are compared. A wrong page passes once in four billion times at most.

use std::fs::File;
use std::io::IoSliceMut;
use std::num::NonZeroU64;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use p2m_paging::PAGE_SIZE;
use parking_lot::Mutex;
use rustix::fs::{Advice, FlockOperation, Mode, OFlags};
use rustix::io::{Errno, ReadWriteFlags};
use zerocopy::IntoBytes;

pub use error::PagefileError;

use super::checksums::Checksums;
use super::index::{StoreIdentity, StoreKind};
use super::{
    Fill, IoCounters, IoCounts, Outcome, PageBuf, PageStore, SaveOutcome, Saved, Slot, StoreError,
    Write, has_name, is_private_file, is_zeros, stretches,
};

/// The most pages of one call. At 512 KiB a long write delays a read that a fault waits for only
/// briefly.
const RUN_PAGES: usize = 128;

/// Whether the file keeps its name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Keep {
    /// The name is removed at once. The file ends with the pager.
    Unlinked,
    /// The name stays until [`Pagefile::remove`].
    Named,
}

/// Slots in a file. See the [module](self).
#[derive(Debug)]
pub struct Pagefile {
    file: File,
    path: PathBuf,
    keep: Keep,
    /// The first slot, and the page of the file in which it lies.
    first: (Slot, u64),
    checksums: Checksums,
    /// The size of the file when it was opened again. What lies there may be adopted.
    left_bytes: u64,
    tally: IoCounters,
    /// The file system cannot say whether a read would wait.
    always_waits: AtomicBool,
    /// Only one thread writes at a time.
    staging: Mutex<Staging>,
    #[cfg(test)]
    pub(super) device: tests::Device,
}

#[derive(Debug)]
struct Staging {
    /// The pages to be written.
    pages: Vec<PageBuf>,
    /// Their copies, where they are compared.
    read_back: Vec<PageBuf>,
}

impl Pagefile {
    /// Creates the file.
    pub fn create(path: &Path, keep: Keep) -> Result<Self, PagefileError> {
        let path = path.to_owned();
        let flags =
            OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::RDWR | OFlags::CLOEXEC;
        let file = match rustix::fs::open(&path, flags, Mode::RUSR | Mode::WUSR) {
            Ok(fd) => File::from(fd),
            Err(Errno::EXIST | Errno::LOOP) => return Err(PagefileError::Exists { path }),
            Err(errno) => return Err(PagefileError::Create { path, errno }),
        };
        match keep {
            Keep::Unlinked => {
                if let Err(errno) = rustix::fs::unlink(&path) {
                    return Err(PagefileError::Unlink { path, errno });
                }
            }
            Keep::Named => lock(&file, &path)?,
        }
        Ok(Self::on(file, path, keep))
    }

    /// Opens the file of a pager that was killed, with what it holds. A link is not followed.
    pub fn open_again(path: &Path) -> Result<Self, PagefileError> {
        let flags = OFlags::NOFOLLOW | OFlags::RDWR | OFlags::CLOEXEC | OFlags::NONBLOCK;
        match rustix::fs::open(path, flags, Mode::empty()) {
            Ok(fd) => Self::in_file(File::from(fd), path, Keep::Named),
            Err(errno) => Err(PagefileError::Open {
                path: path.to_owned(),
                errno,
            }),
        }
    }

    /// A file that is open already, with what it holds: another process keeps it for the pagers of a
    /// guest. With [`Keep::Unlinked`] it has no name; `path` is for messages only.
    pub fn in_file(file: File, path: &Path, keep: Keep) -> Result<Self, PagefileError> {
        let open = |errno| PagefileError::Open {
            path: path.to_owned(),
            errno,
        };
        lock(&file, path)?;
        let stat = rustix::fs::fstat(&file).map_err(open)?;
        let user = rustix::process::geteuid().as_raw();
        if !is_private_file(&stat, user) {
            return Err(PagefileError::Exposed {
                path: path.to_owned(),
                user,
                owner: stat.st_uid,
                mode: stat.st_mode,
            });
        }
        Ok(Self {
            left_bytes: stat.st_size.cast_unsigned(),
            ..Self::on(file, path.to_owned(), keep)
        })
    }

    /// Removes the file's name, if it still has one. The file itself goes with its last user, which may
    /// be a read that hangs.
    pub fn remove(&self) -> Result<(), PagefileError> {
        if self.keep == Keep::Unlinked {
            return Ok(());
        }
        rustix::fs::unlink(&self.path).map_err(|errno| PagefileError::Unlink {
            path: self.path.clone(),
            errno,
        })
    }

    /// The file's name, if it is to be removed at the end.
    pub fn named(&self) -> Option<&Path> {
        (self.keep == Keep::Named).then_some(&self.path)
    }

    /// Whether it can be opened by its name.
    pub fn has_its_name(&self) -> bool {
        has_name(&self.file, &self.path)
    }

    /// The memory in use for checksums, in bytes.
    pub fn table_bytes(&self) -> usize {
        self.checksums.table_bytes()
    }

    /// Slots in a swap area, `first` and up, behind its header.
    pub(super) fn in_area(file: File, path: PathBuf, first: Slot) -> Self {
        Self {
            first: (first, 1),
            ..Self::on(file, path, Keep::Unlinked)
        }
    }

    /// The path that was given.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    fn offset_bytes(&self, slot: Slot) -> u64 {
        let (first, page) = self.first;
        (u64::from(slot.0 - first.0) + page) * PAGE_SIZE as u64
    }

    /// A store in a file that is open already.
    fn on(file: File, path: PathBuf, keep: Keep) -> Self {
        Self {
            file,
            path,
            keep,
            first: (Slot(0), 0),
            checksums: Checksums::default(),
            left_bytes: 0,
            tally: IoCounters::default(),
            always_waits: AtomicBool::new(false),
            staging: Mutex::new(Staging {
                pages: vec![PageBuf::ZERO; RUN_PAGES],
                read_back: vec![PageBuf::ZERO; RUN_PAGES],
            }),
            #[cfg(test)]
            device: tests::Device::default(),
        }
    }

    /// Waits for the device. An error is about writes since the last call, and is reported once: a
    /// second call would succeed, so nothing tries again, not even after `EINTR`.
    fn sync(&self) -> Result<(), Errno> {
        #[cfg(test)]
        self.device.sync()?;
        rustix::fs::fdatasync(&self.file)
    }

    /// Writes neighbouring pages. A page that fails does not fail the next one.
    fn write_run(&self, slots: &[Slot], pages: &[PageBuf], outcomes: &mut [SaveOutcome]) {
        self.tally.wrote(slots.len());
        let mut done = 0;
        while done < slots.len() {
            let at = self.offset_bytes(slots[done]);
            let (bytes, error) = transfer(pages[done..].len() * PAGE_SIZE, |moved| {
                let rest = &pages[done..].as_bytes()[moved..];
                rustix::io::pwrite(&self.file, rest, at + moved as u64)
            });
            done = settle(slots, done, bytes, error, Saved::Written, outcomes);
        }
        for ((&slot, page), outcome) in slots.iter().zip(pages).zip(outcomes) {
            match outcome {
                Ok(_) => self.checksums.set(slot, page),
                Err(_) => self.checksums.forget(slot),
            }
        }
    }

    /// Reads neighbouring pages.
    fn read_run(&self, slots: &[Slot], pages: &mut [PageBuf], outcomes: &mut [Outcome]) {
        let mut done = 0;
        while done < slots.len() {
            let at = self.offset_bytes(slots[done]);
            let (bytes, error) = transfer(pages[done..].len() * PAGE_SIZE, |moved| {
                let rest = &mut pages[done..].as_mut_bytes()[moved..];
                rustix::io::pread(&self.file, rest, at + moved as u64)
            });
            done = settle(slots, done, bytes, error, (), outcomes);
        }
        for ((&slot, page), outcome) in slots.iter().zip(pages).zip(outcomes) {
            // A slot without a page may still be readable.
            *outcome = self.checksums.known(slot).and(*outcome);
            if outcome.is_ok() {
                *outcome = self.checksums.check(slot, page);
            }
            if let Err(StoreError::Corrupt { kind, .. }) = outcome {
                self.tally.corrupt(*kind);
                self.read_from_device_next(slot);
            }
        }
    }

    /// Reads what Linux has in its page cache, from `at` on, and returns how many bytes that are. An
    /// error is left to a read that waits.
    fn read_cached(&self, pages: &mut [PageBuf], at: u64) -> usize {
        #[cfg(test)]
        if self.device.is_cold() {
            return 0;
        }
        let mut into = [IoSliceMut::new(pages.as_mut_bytes())];
        match rustix::io::preadv2(&self.file, &mut into, at, ReadWriteFlags::NOWAIT) {
            Ok(bytes) => bytes,
            Err(Errno::OPNOTSUPP | Errno::NOSYS) => {
                self.always_waits.store(true, Ordering::Relaxed);
                0
            }
            Err(_) => 0,
        }
    }

    /// Linux keeps what it has read. Drops it, so that the next read asks the device, which may have
    /// returned wrong data once only. An error changes nothing.
    fn read_from_device_next(&self, slot: Slot) {
        #[cfg(test)]
        self.device.note_dropped();
        let page = NonZeroU64::new(PAGE_SIZE as u64);
        let _ = rustix::fs::fadvise(&self.file, self.offset_bytes(slot), page, Advice::DontNeed);
    }

    /// Finds the pages that need not be written.
    fn spare(&self, slots: &[Slot], writes: &[Write], staging: &mut Staging, kinds: &mut [Kind]) {
        let Staging { pages, read_back } = staging;
        for (n, kind) in kinds.iter_mut().enumerate() {
            *kind = if is_zeros(&pages[n]) {
                Kind::Zeros
            } else if writes[n].has_copy() && self.checksums.seems(slots[n], &pages[n]) {
                Kind::Same
            } else {
                Kind::New
            };
        }
        // Different pages can have equal checksums, by chance or because the guest arranged it.
        let mut alike = [false; RUN_PAGES];
        for (alike, kind) in alike.iter_mut().zip(&*kinds) {
            *alike = *kind == Kind::Same;
        }
        for run in stretches(|n| slots[n], |n| alike[n], slots.len()) {
            let mut outcomes = [Ok(()); RUN_PAGES];
            let (back, outcomes) = (&mut read_back[run.clone()], &mut outcomes[run.clone()]);
            self.tally.compared(run.len());
            self.read_run(&slots[run.clone()], back, outcomes);
            for ((n, back), outcome) in run.zip(back).zip(outcomes) {
                if outcome.is_err() || back.0 != pages[n].0 {
                    kinds[n] = Kind::New;
                }
            }
        }
    }
}

/// What is known of a page before it is written.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Zeros,
    /// Equal to its copy, at first by the checksum only.
    Same,
    New,
}

impl PageStore for Pagefile {
    fn write(&self, writes: &[Write], fill: &mut Fill<'_>, outcomes: &mut [SaveOutcome]) {
        let mut staging = self.staging.lock();
        let mut first = 0;
        for (writes, outcomes) in writes.chunks(RUN_PAGES).zip(outcomes.chunks_mut(RUN_PAGES)) {
            let mut slots = [Slot(0); RUN_PAGES];
            let slots = &mut slots[..writes.len()];
            for (slot, write) in slots.iter_mut().zip(writes) {
                *slot = write.slot;
            }
            fill(first, &mut staging.pages[..writes.len()]);
            let mut kinds = [Kind::New; RUN_PAGES];
            let kinds = &mut kinds[..writes.len()];
            self.spare(slots, writes, &mut staging, kinds);
            for ((slot, kind), outcome) in slots.iter().zip(&*kinds).zip(&mut *outcomes) {
                match kind {
                    Kind::Zeros => {
                        self.checksums.forget(*slot);
                        *outcome = Ok(Saved::Zeros);
                    }
                    Kind::Same => *outcome = Ok(Saved::Unchanged),
                    Kind::New => {}
                }
            }
            for run in stretches(|n| slots[n], |n| kinds[n] == Kind::New, slots.len()) {
                let pages = &staging.pages[run.clone()];
                self.write_run(&slots[run.clone()], pages, &mut outcomes[run]);
            }
            first += writes.len();
        }
    }

    fn read(&self, slots: &[Slot], pages: &mut [PageBuf], outcomes: &mut [Outcome]) {
        for run in stretches(|n| slots[n], |_| true, slots.len()) {
            self.tally.read(run.len());
            let (pages, outcomes) = (&mut pages[run.clone()], &mut outcomes[run.clone()]);
            self.read_run(&slots[run], pages, outcomes);
        }
    }

    /// A page that is wrong is left to [`Self::read`], which may have to ask the device again.
    fn read_at_once(
        &self,
        slots: &[Slot],
        pages: &mut [PageBuf],
        outcomes: &mut [Option<Outcome>],
    ) {
        outcomes.fill(None);
        if self.always_waits.load(Ordering::Relaxed) {
            return;
        }
        for run in stretches(|n| slots[n], |_| true, slots.len()) {
            let (slots, pages) = (&slots[run.clone()], &mut pages[run.clone()]);
            let whole = self.read_cached(pages, self.offset_bytes(slots[0])) / PAGE_SIZE;
            if whole > 0 {
                self.tally.read(whole);
            }
            let cached = slots.iter().zip(pages).zip(&mut outcomes[run]).take(whole);
            for ((slot, page), outcome) in cached {
                *outcome = self.checksums.check(*slot, page).ok().map(Ok);
            }
        }
    }

    fn free(&self, slot: Slot) {
        self.checksums.forget(slot);
    }

    fn flush(&self, writes: &[Write], outcomes: &mut [SaveOutcome]) {
        if !outcomes.contains(&Ok(Saved::Written)) {
            return;
        }
        let mut error = self.sync().err().map(|errno| refusal(Slot(0), errno));
        for (write, outcome) in writes.iter().zip(outcomes).rev() {
            match (*outcome, error) {
                (Ok(Saved::Written), Some(error)) => {
                    *outcome = Err(at(write.slot, error));
                    self.checksums.forget(write.slot);
                }
                // Pages are written in order. Some file systems, NFS among them, let a write report that
                // earlier ones failed, and then no flush reports it.
                (Err(refused @ (StoreError::Full | StoreError::Io { .. })), _) => {
                    error = error.or(Some(refused));
                }
                _ => {}
            }
        }
    }

    fn counts(&self) -> IoCounts {
        self.tally.counts()
    }

    /// Of a pagefile. A swap area has none: what an earlier pager left in it has no meaning.
    fn identity(&self) -> Option<StoreIdentity> {
        let stat = rustix::fs::fstat(&self.file).ok()?;
        let is_pagefile = self.first == (Slot(0), 0);
        is_pagefile.then_some(StoreIdentity {
            kind: StoreKind::PAGEFILE,
            device: stat.st_dev,
            inode: stat.st_ino,
        })
    }

    fn checksum(&self, slot: Slot) -> Option<u64> {
        self.checksums.get(slot)
    }

    fn adopt(&self, slot: Slot, checksum: u64) -> Outcome {
        if self.offset_bytes(slot).saturating_add(PAGE_SIZE as u64) > self.left_bytes {
            return Err(StoreError::NotAdopted { slot, checksum });
        }
        self.checksums.adopt(slot, checksum)
    }
}

fn lock(file: &File, path: &Path) -> Result<(), PagefileError> {
    let path = || path.to_owned();
    match rustix::fs::flock(file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(()),
        Err(Errno::WOULDBLOCK) => Err(PagefileError::InUse { path: path() }),
        Err(errno) => Err(PagefileError::Open {
            path: path(),
            errno,
        }),
    }
}

/// Moves this many bytes, in as many calls as needed. Returns how many were moved, and the error
/// that stopped it.
fn transfer(
    bytes: usize,
    mut call: impl FnMut(usize) -> Result<usize, Errno>,
) -> (usize, Option<Errno>) {
    let mut moved = 0;
    while moved < bytes {
        match call(moved) {
            Ok(0) => return (moved, None),
            Ok(more) => moved += more,
            Err(Errno::INTR) => {}
            Err(errno) => return (moved, Some(errno)),
        }
    }
    (moved, None)
}

/// The same error for another page.
fn at(slot: Slot, error: StoreError) -> StoreError {
    match error {
        StoreError::Io { errno, .. } => StoreError::Io { slot, errno },
        other => other,
    }
}

fn refusal(slot: Slot, errno: Errno) -> StoreError {
    match errno {
        Errno::NOSPC | Errno::DQUOT | Errno::FBIG => StoreError::Full,
        errno => StoreError::Io {
            slot,
            errno: errno.raw_os_error(),
        },
    }
}

/// Sets the outcomes of a transfer that began with page `done`. Returns the page to continue with.
fn settle<T: Clone>(
    slots: &[Slot],
    done: usize,
    bytes: usize,
    error: Option<Errno>,
    moved: T,
    outcomes: &mut [Result<T, StoreError>],
) -> usize {
    let whole = done + bytes / PAGE_SIZE;
    outcomes[done..whole].fill(Ok(moved));
    let Some(&slot) = slots.get(whole) else {
        return whole;
    };
    outcomes[whole] = Err(match error {
        Some(errno) => refusal(slot, errno),
        None => StoreError::Short {
            slot,
            bytes: bytes % PAGE_SIZE,
        },
    });
    whole + 1
}

#[path = "pagefile_error.rs"]
mod error;
#[cfg(test)]
#[path = "pagefile_tests.rs"]
mod tests;
