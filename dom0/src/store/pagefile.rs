//! A file of slots (row B2).
//!
//! Created with mode 0600, never followed through a link, and never put in the place of a file that
//! exists: whatever lies there may be somebody's data, or the only copy of a guest's pages. It is
//! unlinked at once ([`Keep::Unlinked`]: nothing is left behind however the pager ends) or stays
//! until it is removed ([`Keep::Named`]). It grows by being written; slots are handed out lowest first,
//! so it is as large as the most pages that were ever out together.
//!
//! Neighbouring slots are written and read with one call. A page whose checksum is that of its copy is
//! compared with the copy, all of it, and not written if it is the same (row C7). Each page's CRC-32C is kept in memory and
//! compared when it is read, so that a page that the device changed, lost or mixed up is an error and
//! not the guest's. 24 of its 32 bits are kept: with 4 bytes for the slot and a few bits in the core a
//! page then costs less than 8 bytes; a wrong page passes once in 16 million.

use std::fs::File;
use std::path::{Path, PathBuf};

use p2m_paging::PAGE_SIZE;
use parking_lot::Mutex;
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use zerocopy::IntoBytes;

use super::checksums::Checksums;
use super::{
    Counts, Fill, Outcome, PageBuf, PageStore, SaveOutcome, Saved, Slot, StoreError, Tally, Write,
    is_zeros, stretches,
};

/// Pages in one call, at most: 512 KiB at a time keep a read that a fault waits for from standing
/// behind a long write.
const RUN_PAGES: usize = 128;

/// What becomes of the file's name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Keep {
    /// Removed at once: the file goes when the pager does.
    Unlinked,
    /// Stays until [`Pagefile::remove`].
    Named,
}

/// Why there is no pagefile.
#[derive(Debug, thiserror::Error)]
pub enum PagefileError {
    /// Something of that name exists: a file, a link, anything.
    #[error("{} exists already; remove it, if no other pager uses it", path.display())]
    Exists {
        /// As asked for.
        path: PathBuf,
    },
    /// It could not be created.
    #[error("{} cannot be created: {errno}", path.display())]
    Create {
        /// As asked for.
        path: PathBuf,
        /// Why.
        errno: Errno,
    },
    /// It could not be unlinked.
    #[error("{} cannot be unlinked: {errno}", path.display())]
    Unlink {
        /// As asked for.
        path: PathBuf,
        /// Why.
        errno: Errno,
    },
}

/// Slots in a file. See the [module](self).
#[derive(Debug)]
pub struct Pagefile {
    file: File,
    path: PathBuf,
    keep: Keep,
    checksums: Checksums,
    tally: Tally,
    /// One writer at a time.
    staging: Mutex<Staging>,
}

#[derive(Debug)]
struct Staging {
    /// Pages to be written.
    pages: Vec<PageBuf>,
    /// Their copies, as far as they are compared.
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
        if keep == Keep::Unlinked
            && let Err(errno) = rustix::fs::unlink(&path)
        {
            return Err(PagefileError::Unlink { path, errno });
        }
        Ok(Self::on(file, path, keep))
    }

    /// Removes the file's name, if it has one.
    pub fn remove(self) -> Result<(), PagefileError> {
        if self.keep == Keep::Unlinked {
            return Ok(());
        }
        rustix::fs::unlink(&self.path).map_err(|errno| PagefileError::Unlink {
            path: self.path,
            errno,
        })
    }

    /// Memory in use for checksums, in bytes.
    pub fn table_bytes(&self) -> usize {
        self.checksums.table_bytes()
    }

    /// A store in a file that is there already.
    fn on(file: File, path: PathBuf, keep: Keep) -> Self {
        Self {
            file,
            path,
            keep,
            checksums: Checksums::default(),
            tally: Tally::default(),
            staging: Mutex::new(Staging {
                pages: vec![PageBuf::ZERO; RUN_PAGES],
                read_back: vec![PageBuf::ZERO; RUN_PAGES],
            }),
        }
    }

    /// Writes pages that lie next to each other. A page that fails does not fail the next one.
    fn write_run(&self, slots: &[Slot], pages: &[PageBuf], outcomes: &mut [SaveOutcome]) {
        self.tally.wrote(slots.len());
        let mut done = 0;
        while done < slots.len() {
            let at = slots[done].offset_bytes();
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

    /// Reads pages that lie next to each other.
    fn read_run(&self, slots: &[Slot], pages: &mut [PageBuf], outcomes: &mut [Outcome]) {
        let mut done = 0;
        while done < slots.len() {
            let at = slots[done].offset_bytes();
            let (bytes, error) = transfer(pages[done..].len() * PAGE_SIZE, |moved| {
                let rest = &mut pages[done..].as_mut_bytes()[moved..];
                rustix::io::pread(&self.file, rest, at + moved as u64)
            });
            done = settle(slots, done, bytes, error, (), outcomes);
        }
        for ((&slot, page), outcome) in slots.iter().zip(pages).zip(outcomes) {
            // A slot that holds nothing may still read as something.
            *outcome = self.checksums.known(slot).and(*outcome);
            if outcome.is_ok() {
                *outcome = self.checksums.check(slot, page);
            }
        }
    }

    /// Notes which pages need not be written.
    fn spare(&self, slots: &[Slot], writes: &[Write], staging: &mut Staging, kinds: &mut [Kind]) {
        let Staging { pages, read_back } = staging;
        for (n, kind) in kinds.iter_mut().enumerate() {
            *kind = if is_zeros(&pages[n]) {
                Kind::Zeros
            } else if writes[n].has_copy && self.checksums.check(slots[n], &pages[n]).is_ok() {
                Kind::Alike
            } else {
                Kind::New
            };
        }
        // A checksum is alike for different pages now and then, and whenever the guest wants it to be.
        let mut alike = [false; RUN_PAGES];
        for (alike, kind) in alike.iter_mut().zip(&*kinds) {
            *alike = *kind == Kind::Alike;
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
    /// As its copy is, going by the checksum at first.
    Alike,
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
                    Kind::Alike => *outcome = Ok(Saved::Unchanged),
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

    fn free(&self, slot: Slot) {
        self.checksums.forget(slot);
    }

    fn flush(&self) -> Outcome {
        rustix::fs::fdatasync(&self.file).map_err(|errno| refusal(Slot(0), errno))
    }

    fn counts(&self) -> Counts {
        self.tally.counts()
    }
}

/// Moves so many bytes, in as many calls as it takes; how many were moved, and why no more.
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

fn refusal(slot: Slot, errno: Errno) -> StoreError {
    match errno {
        Errno::NOSPC | Errno::DQUOT | Errno::FBIG => StoreError::Full,
        errno => StoreError::Io {
            slot,
            errno: errno.raw_os_error(),
        },
    }
}

/// Notes what a transfer that began with page `done` came to; the page to go on with.
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

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{FileExt, MetadataExt, symlink};

    use super::*;
    use crate::store::testing::{
        compares_and_spares_zeros, page, read, round_trips, write, write_pages,
    };

    fn pagefile(keep: Keep) -> (tempfile::TempDir, Pagefile) {
        let dir = tempfile::tempdir().unwrap();
        let file = Pagefile::create(&dir.path().join("p"), keep).unwrap();
        (dir, file)
    }

    #[test]
    fn b2_pages_come_back_as_they_were_written() {
        let (_dir, file) = pagefile(Keep::Unlinked);
        round_trips(&file);
    }

    #[test]
    fn c7_what_is_there_already_and_zeros_are_not_written() {
        let (_dir, file) = pagefile(Keep::Unlinked);
        compares_and_spares_zeros(&file);
    }

    /// A guest can make two pages with the same checksum, and then expects its own back.
    #[test]
    fn c7_pages_with_the_same_checksum_are_told_apart() {
        let (_dir, file) = pagefile(Keep::Unlinked);
        // A checksum is linear, so of any 33 changes some cancel each other out: which, says elimination.
        let change = |page: &mut PageBuf, which: u64| {
            (0..33)
                .filter(|n| which >> n & 1 == 1)
                .for_each(|n| page.0[n] ^= 1);
        };
        let mut basis: Vec<(u32, u64)> = Vec::new();
        let mut nothing = 0;
        for n in 0..33 {
            let (mut changed, mut which) = (page(1), 1 << n);
            change(&mut changed, which);
            let mut sum = crc32c::crc32c(&changed.0) ^ crc32c::crc32c(&page(1).0);
            for (other, others) in &basis {
                if sum ^ other < sum {
                    (sum, which) = (sum ^ other, which ^ others);
                }
            }
            if sum == 0 {
                nothing = which;
            }
            basis.push((sum, which));
            basis.sort_unstable_by_key(|(sum, _)| std::cmp::Reverse(*sum));
        }
        let mut other = page(1);
        change(&mut other, nothing);
        assert!(other.0 != page(1).0 && crc32c::crc32c(&other.0) == crc32c::crc32c(&page(1).0));
        let slot = [Slot(1)];
        write(&file, &slot);
        assert_eq!(
            write_pages(&file, &slot, &[other], true),
            [Ok(Saved::Written)]
        );
        assert!(read(&file, &slot).0[0].0 == other.0);
        assert_eq!(
            write_pages(&file, &slot, &[other], true),
            [Ok(Saved::Unchanged)]
        );
        assert_eq!(file.counts().pages_compared, 2);
    }

    #[test]
    fn c7_a_copy_that_the_device_spoiled_is_written_again() {
        let (_dir, file) = pagefile(Keep::Named);
        write(&file, &[Slot(1)]);
        file.file.write_all_at(&[0xff], 4096 + 17).unwrap();
        let again = write_pages(&file, &[Slot(1)], &[page(1)], true);
        assert_eq!(again, [Ok(Saved::Written)]);
        assert_eq!(read(&file, &[Slot(1)]).1, [Ok(())]);
    }

    #[test]
    fn b2_it_is_private_and_unlinked_or_kept_as_asked() {
        let (dir, file) = pagefile(Keep::Named);
        let path = dir.path().join("p");
        assert_eq!(path.metadata().unwrap().mode() & 0o7777, 0o600);
        file.remove().unwrap();
        assert!(!path.exists());
        let (dir, file) = pagefile(Keep::Unlinked);
        assert_eq!(dir.path().read_dir().unwrap().count(), 0);
        file.remove().unwrap();
    }

    #[test]
    fn b2_whatever_exists_already_is_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        let (file, link, dangling) = (
            dir.path().join("file"),
            dir.path().join("link"),
            dir.path().join("dangling"),
        );
        std::fs::write(&file, "precious").unwrap();
        symlink(&file, &link).unwrap();
        symlink(dir.path().join("nothing"), &dangling).unwrap();
        for path in [&file, &link, &dangling] {
            let error = Pagefile::create(path, Keep::Unlinked).unwrap_err();
            assert!(matches!(error, PagefileError::Exists { .. }), "{error}");
            assert!(error.to_string().contains("exists already"));
        }
        assert_eq!(std::fs::read(&file).unwrap(), b"precious");
        assert!(!dir.path().join("nothing").exists());
        let error = Pagefile::create(&dir.path().join("no/such"), Keep::Named).unwrap_err();
        assert!(
            matches!(
                error,
                PagefileError::Create {
                    errno: Errno::NOENT,
                    ..
                }
            ),
            "{error}"
        );
    }

    #[test]
    fn a_page_that_the_device_changed_is_an_error_and_its_neighbours_are_not() {
        let (_dir, file) = pagefile(Keep::Named);
        let slots = [0, 1, 2, 3].map(Slot);
        assert!(write(&file, &slots).iter().all(SaveOutcome::is_ok));
        file.file.write_all_at(&[0xff], 4096 + 17).unwrap();
        // A page of another slot, whole: a misdirected write.
        file.file.write_all_at(&page(0).0, 2 * 4096).unwrap();
        let (_, outcomes) = read(&file, &slots);
        assert!(outcomes[0].is_ok() && outcomes[3].is_ok());
        for n in [1, 2] {
            assert!(
                matches!(outcomes[n], Err(StoreError::Corrupt { slot, .. }) if slot == slots[n])
            );
        }
    }

    #[test]
    fn a_file_cut_short_is_an_error_for_what_is_missing() {
        let (_dir, file) = pagefile(Keep::Named);
        let slots = [0, 1, 2].map(Slot);
        write(&file, &slots);
        file.file.set_len(4096 + 100).unwrap();
        let (_, outcomes) = read(&file, &slots);
        assert_eq!(outcomes[0], Ok(()));
        assert_eq!(
            outcomes[1],
            Err(StoreError::Short {
                slot: Slot(1),
                bytes: 100
            })
        );
        assert_eq!(
            outcomes[2],
            Err(StoreError::Short {
                slot: Slot(2),
                bytes: 0
            })
        );
    }

    #[test]
    fn a_full_device_and_a_refusing_one_are_told_apart() {
        let open = |path| File::options().read(true).write(true).open(path).unwrap();
        let full = Pagefile::on(open("/dev/full"), PathBuf::new(), Keep::Unlinked);
        assert_eq!(
            write(&full, &[0, 1, 5].map(Slot)),
            [Err(StoreError::Full); 3]
        );
        let read_only = File::open("/dev/null").unwrap();
        let refusing = Pagefile::on(read_only, PathBuf::new(), Keep::Unlinked);
        let slot = Slot(3);
        let errno = Errno::BADF.raw_os_error();
        assert_eq!(
            write(&refusing, &[slot]),
            [Err(StoreError::Io { slot, errno })]
        );
    }
}
