// SPDX-License-Identifier: MIT OR Apache-2.0
//! The index: what lies where, in memory that survives the pager.
//!
//! A shared mapping of a sparse file in memory: a memfd that another process holds, or a file in a
//! tmpfs. A pager that is killed leaves it as it is. The next pager opens it, asks the hypervisor
//! which pages are out, and finds their contents ([decision
//! 21](../../../docs/decisions/0021-an-index-survives-the-pager.md)).
//!
//! | byte | what |
//! |---|---|
//! | 0 | header: whose pages these are, and in which store |
//! | 4096 + 16 · gfn | a word with location, valid bit and generation |
//! | 4104 + 16 · gfn | a word with the checksum that the store has for the location |
//!
//! The p2m is the truth. An entry counts only for a page that is out. The entry of any other page is
//! what its last page-out left, and is never used.
//!
//! # Why a page that is out always has a right entry
//!
//! On the way out the order is: contents durable in the store, entry set, page evicted. On the way in:
//! page prepped, entry cleared. One flight of a page ends before the next begins, so an entry has one
//! writer at a time. Then at whatever store the process is killed:
//!
//! | where an entry, or the slot in it, is written | why no page that is out reads a wrong entry |
//! |---|---|
//! | [`set`](Index::set), three stores | the page is nominated, not out. The first store makes the entry invalid, the last makes it valid |
//! | [`move_to`](Index::move_to), of a page that is out | one store. Before it the old location counts, after it the new one. Both hold the contents: the new one is durable before, the old one is freed after |
//! | [`clear`](Index::clear) | the page is resident |
//! | a page is saved to its own slot again (a copy that is compared or rewritten) | the page is nominated, and its entry is set again before it is evicted |
//! | a slot with several owners | is not written. An owner whose contents differ gets another slot |
//! | a slot is freed and written for another page | it is freed when its last owner gives it up: it came in, it was given back, or it moved. The entry of a page that came in or was given back does not count, and that of a page that moved names the new slot already |
//! | a page of zeros | has no slot |
//! | an evict that is refused, or whose outcome is lost | the entry stays. If the page is out after all, it is right. If not, it does not count |
//! | a page that is given back while it comes in | if the prep works, the page is resident. If it says that there is no page, none is out. If it fails, the entry stays |
//! | the slot of a copy that is given up | its page is resident |
//! | nominated pages that another pager left | are resident once they are restored |
//!
//! # Memory
//!
//! A page of the file has the entries of 256 neighbouring gfns. It is allocated when the first of them
//! goes out. So the index of a terabyte with nothing out takes one page. A full tmpfs is found by
//! [`set`](Index::set), as an error: memory that is not allocated is never touched.

mod entry;
mod error;
mod header;
mod mapping;
#[cfg(test)]
mod tests;

use std::fs::File;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};

use p2m_paging::{Gfn, PAGE_SIZE};
use pager_core::Location;
use rustix::fs::{FallocateFlags, FlockOperation, SealFlags, SeekFrom};
use rustix::io::{Errno, retry_on_intr};

pub use entry::Entry;
pub use error::IndexError;
pub use header::{GuestIdentity, Identity, StoreIdentity, StoreKind, VERSION};

use super::has_name;
use entry::Word;
use error::at;
use header::Header;
use mapping::Mapping;

/// The most gfns of an index: 16 TiB of guest memory.
pub const MAX_GFNS: u64 = 1 << 32;

const PAGE: u64 = PAGE_SIZE as u64;
/// Words of one entry.
const ENTRY_WORDS: u64 = 2;
const PAGE_WORDS: u64 = PAGE / size_of::<u64>() as u64;
/// Entries in a page of the file.
const PAGE_ENTRIES: u64 = PAGE_WORDS / ENTRY_WORDS;

/// See the [module](self).
#[derive(Debug)]
pub struct Index {
    /// Its lock says that a pager lives. Processes that inherit the descriptor share the lock: who
    /// hands it on sees to it that one of them lives at a time.
    file: File,
    mapping: Mapping,
    identity: Identity,
    gfns: u64,
    is_new: bool,
    /// Bit n: page n of the entries is allocated. No other page is touched.
    allocated: Vec<AtomicU64>,
    #[cfg(test)]
    test_double: tests::Double,
}

impl Index {
    /// Makes an empty index for this many gfns, from gfn 0 on, in an empty file.
    pub fn create(file: File, identity: Identity, gfns: u64) -> Result<Self, IndexError> {
        let expected = size_bytes(gfns)?;
        lock(&file)?;
        let bytes = checked_size(&file)?;
        if bytes != 0 {
            return Err(IndexError::NotEmpty { bytes });
        }
        rustix::fs::ftruncate(&file, expected).map_err(at("size of the index"))?;
        // What loses its memory while it is mapped kills the process. A file in a tmpfs has no seals.
        let _ = rustix::fs::fcntl_add_seals(&file, SealFlags::SHRINK | SealFlags::GROW);
        Header::of(identity, gfns).write(&file)?;
        Self::map(file, identity, gfns, true)
    }

    /// Opens the index that another pager has left. Nothing in the file is believed before it has been
    /// checked.
    pub fn open(file: File, expected: Identity) -> Result<Self, IndexError> {
        lock(&file)?;
        let bytes = checked_size(&file)?;
        if bytes < PAGE {
            return Err(IndexError::TooShort { bytes });
        }
        let header = Header::read(&file)?;
        let (found, gfns) = header.check()?;
        if found.guest != expected.guest {
            return Err(IndexError::OtherGuest {
                found: found.guest,
                expected: expected.guest,
                store: found.store,
            });
        }
        if found.store != expected.store {
            return Err(IndexError::OtherStore {
                found: found.store,
                expected: expected.store,
            });
        }
        let expected = size_bytes(gfns)?;
        if bytes != expected {
            return Err(IndexError::OtherSize { bytes, expected });
        }
        let index = Self::map(file, found, gfns, false)?;
        index.find_allocated(bytes)?;
        Ok(index)
    }

    fn map(file: File, identity: Identity, gfns: u64, is_new: bool) -> Result<Self, IndexError> {
        let pages = gfns.div_ceil(PAGE_ENTRIES);
        let bytes = usize::try_from(pages * PAGE).map_err(|_| IndexError::Gfns { gfns })?;
        let words = usize::try_from(pages.div_ceil(64)).unwrap_or(usize::MAX);
        Ok(Self {
            mapping: Mapping::new(&file, PAGE, bytes).map_err(at("mapping of the index"))?,
            file,
            identity,
            gfns,
            is_new,
            allocated: (0..words).map(|_| AtomicU64::new(0)).collect(),
            #[cfg(test)]
            test_double: tests::Double::default(),
        })
    }

    /// Whose pages these are, and in which store.
    pub fn identity(&self) -> Identity {
        self.identity
    }

    /// Whether this process has made it. Otherwise another pager has left it.
    pub fn is_new(&self) -> bool {
        self.is_new
    }

    /// Whether this is the file that has this name now.
    pub fn has_name(&self, path: &Path) -> bool {
        has_name(&self.file, path)
    }

    /// How many gfns it has.
    pub fn gfns(&self) -> u64 {
        self.gfns
    }

    /// The entry of a page, if it has one. It counts only for a page that is out.
    pub fn get(&self, gfn: Gfn) -> Option<Entry> {
        let at = self.place(gfn).ok()?;
        self.is_allocated(at).then(|| self.entry(at)).flatten()
    }

    /// All entries, in the order of their gfns.
    pub fn entries(&self) -> impl Iterator<Item = (Gfn, Entry)> + '_ {
        let pages = (0..).zip(&self.allocated).flat_map(|(word, bits)| {
            let bits = bits.load(Ordering::Relaxed);
            let set = (0..64).filter(move |bit| bits >> bit & 1 == 1);
            set.map(move |bit| 64 * word + bit)
        });
        let gfns = pages.flat_map(|page| page * PAGE_ENTRIES..(page + 1) * PAGE_ENTRIES);
        let gfns = gfns.take_while(|gfn| *gfn < self.gfns);
        gfns.filter_map(|gfn| Some((Gfn::try_new(gfn)?, self.entry(gfn * ENTRY_WORDS)?)))
    }

    /// A nominated page is about to be evicted, and its contents are durable there. After an error the
    /// page must not be evicted.
    pub fn set(&self, gfn: Gfn, location: Location, checksum: u64) -> Result<(), IndexError> {
        let at = self.place(gfn)?;
        self.allocate(at)?;
        let before = Word(self.load(at));
        self.store(at, before.cleared().0);
        self.store(at + 1, checksum);
        self.store(at, before.next(location).0);
        Ok(())
    }

    /// A page that is out lies elsewhere now; its contents are durable there. Its old slot is freed
    /// afterwards.
    pub fn move_to(&self, gfn: Gfn, location: Location) -> Result<(), IndexError> {
        let at = self.place(gfn)?;
        if self.get(gfn).is_none() {
            return Err(IndexError::NoEntry { gfn });
        }
        self.store(at, Word(self.load(at)).moved(location).0);
        Ok(())
    }

    /// A page is resident again. Allocates nothing, and makes no system call.
    pub fn clear(&self, gfn: Gfn) {
        let Ok(at) = self.place(gfn) else { return };
        if self.is_allocated(at) {
            self.store(at, Word(self.load(at)).cleared().0);
        }
    }

    fn entry(&self, at: u64) -> Option<Entry> {
        let word = Word(self.load(at));
        Some(Entry {
            location: word.location()?,
            generation: word.generation(),
            checksum: self.load(at + 1),
        })
    }

    /// The first word of an entry.
    fn place(&self, gfn: Gfn) -> Result<u64, IndexError> {
        let gfns = self.gfns;
        if gfn.get() < gfns {
            Ok(gfn.get() * ENTRY_WORDS)
        } else {
            Err(IndexError::Beyond { gfn, gfns })
        }
    }

    fn is_allocated(&self, at: u64) -> bool {
        let (word, bit) = self.allocated_bit(at / PAGE_WORDS);
        word.is_some_and(|word| word.load(Ordering::Relaxed) & bit != 0)
    }

    fn allocated_bit(&self, page: u64) -> (Option<&AtomicU64>, u64) {
        let word = usize::try_from(page / 64).ok();
        let word = word.and_then(|word| self.allocated.get(word));
        (word, 1 << (page % 64))
    }

    fn note_allocated(&self, page: u64) {
        if let (Some(word), bit) = self.allocated_bit(page) {
            word.fetch_or(bit, Ordering::Relaxed);
        }
    }

    /// Allocates the page of an entry. The first touch of a page for which a tmpfs has no room would
    /// kill the process.
    fn allocate(&self, at: u64) -> Result<(), IndexError> {
        if self.is_allocated(at) {
            return Ok(());
        }
        let page = at / PAGE_WORDS;
        #[cfg(test)]
        self.test_double.allocates()?;
        let (flags, from) = (FallocateFlags::KEEP_SIZE, (1 + page) * PAGE);
        retry_on_intr(|| rustix::fs::fallocate(&self.file, flags, from, PAGE))
            .map_err(error::at("memory for the index"))?;
        self.note_allocated(page);
        Ok(())
    }

    /// Finds the pages that another pager has allocated, without touching the others.
    fn find_allocated(&self, bytes: u64) -> Result<(), IndexError> {
        let seek = |to| match rustix::fs::seek(&self.file, to) {
            Ok(found) => Ok(found.min(bytes)),
            // No more data.
            Err(Errno::NXIO) => Ok(bytes),
            Err(errno) => Err(at("pages of the index")(errno)),
        };
        let mut from = PAGE;
        while from < bytes {
            let data = seek(SeekFrom::Data(from))?;
            let hole = if data < bytes {
                seek(SeekFrom::Hole(data))?
            } else {
                bytes
            };
            if hole <= from {
                break;
            }
            for page in data / PAGE..hole.div_ceil(PAGE) {
                self.note_allocated(page.saturating_sub(1));
            }
            from = hole;
        }
        Ok(())
    }

    fn load(&self, at: u64) -> u64 {
        let word = usize::try_from(at).ok();
        let word = word.and_then(|at| self.mapping.words().get(at));
        word.map_or(0, |word| word.load(Ordering::Acquire))
    }

    /// The stores of an entry become visible to other processes in this order, whenever this one is
    /// killed.
    fn store(&self, at: u64, value: u64) {
        #[cfg(test)]
        if self.test_double.is_cut() {
            return;
        }
        let word = usize::try_from(at).ok();
        if let Some(word) = word.and_then(|at| self.mapping.words().get(at)) {
            word.store(value, Ordering::Release);
        }
    }
}

/// The size of the file of an index.
fn size_bytes(gfns: u64) -> Result<u64, IndexError> {
    if !(1..=MAX_GFNS).contains(&gfns) {
        return Err(IndexError::Gfns { gfns });
    }
    Ok(PAGE + gfns.div_ceil(PAGE_ENTRIES) * PAGE)
}

fn lock(file: &File) -> Result<(), IndexError> {
    match rustix::fs::flock(file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(()),
        Err(Errno::WOULDBLOCK) => Err(IndexError::Locked),
        Err(errno) => Err(at("lock of the index")(errno)),
    }
}

/// The size of a file that no other user can change.
fn checked_size(file: &File) -> Result<u64, IndexError> {
    let stat = rustix::fs::fstat(file).map_err(at("index"))?;
    let user = rustix::process::geteuid().as_raw();
    if super::is_private_file(&stat, user) {
        Ok(stat.st_size.cast_unsigned())
    } else {
        Err(IndexError::Exposed {
            user,
            owner: stat.st_uid,
            mode: stat.st_mode,
        })
    }
}
