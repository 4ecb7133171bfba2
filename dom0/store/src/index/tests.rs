// SPDX-License-Identifier: MIT OR Apache-2.0
use std::collections::BTreeMap;
use std::os::fd::AsRawFd as _;
use std::os::unix::fs::{FileExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::sync::atomic::{AtomicBool, AtomicI64};

use proptest::prelude::*;
use rustix::fs::MemfdFlags;
use uuid::Uuid;

use super::header::HEADER_BYTES;
use super::*;
use crate::{SLOTS_END, Slot};

/// What a test makes of an index: the process is killed after some stores, or there is no memory.
#[derive(Debug)]
pub(super) struct Double {
    stores_left: AtomicI64,
    is_full: AtomicBool,
}

impl Default for Double {
    fn default() -> Self {
        Self {
            stores_left: AtomicI64::new(i64::MAX),
            is_full: AtomicBool::new(false),
        }
    }
}

impl Double {
    /// Whether the process has been killed before the next store.
    pub(super) fn is_cut(&self) -> bool {
        self.stores_left.fetch_sub(1, Ordering::Relaxed) <= 0
    }

    pub(super) fn allocates(&self) -> Result<(), IndexError> {
        if self.is_full.load(Ordering::Relaxed) {
            return Err(at("memory for the index")(Errno::NOSPC));
        }
        Ok(())
    }

    fn is_dead(&self) -> bool {
        self.stores_left.load(Ordering::Relaxed) < 0
    }
}

fn identity() -> Identity {
    Identity {
        guest: GuestIdentity {
            domain: 7,
            uuid: Uuid::from_u128(0x1234),
        },
        store: StoreIdentity {
            kind: StoreKind::PAGEFILE,
            device: 8,
            inode: 9,
        },
    }
}

fn memory() -> File {
    File::from(rustix::fs::memfd_create("index", MemfdFlags::CLOEXEC).unwrap())
}

/// The same file, opened anew, as another process would.
fn again(file: &File) -> File {
    let path = format!("/proc/self/fd/{}", file.as_raw_fd());
    File::options().read(true).write(true).open(path).unwrap()
}

fn index(gfns: u64) -> (File, Index) {
    let file = memory();
    let index = Index::create(again(&file), identity(), gfns).unwrap();
    (file, index)
}

fn gfn(n: u64) -> Gfn {
    Gfn::new_truncate(n)
}

fn slot(n: u32) -> Location {
    Location::Slot(Slot(n))
}

fn refused(file: &File) -> IndexError {
    Index::open(again(file), identity()).unwrap_err()
}

#[test]
fn entries_survive_their_process_and_generations_grow() {
    let (file, index) = index(1000);
    index.set(gfn(0), slot(0), 0xabc).unwrap();
    index.set(gfn(999), Location::Zeros, 0).unwrap();
    for n in 0..3 {
        index
            .set(gfn(5), slot(SLOTS_END - 1 - n), n.into())
            .unwrap();
    }
    index.clear(gfn(999));
    index.move_to(gfn(0), slot(77)).unwrap();
    drop(index);
    let index = Index::open(again(&file), identity()).unwrap();
    let entry = |location, generation, checksum| Entry {
        location,
        generation,
        checksum,
    };
    let all = [
        (gfn(0), entry(slot(77), 1, 0xabc)),
        (gfn(5), entry(slot(SLOTS_END - 3), 3, 2)),
    ];
    assert_eq!(index.entries().collect::<Vec<_>>(), all);
    assert_eq!((index.gfns(), index.identity()), (1000, identity()));
    assert_eq!(index.get(gfn(5)), Some(all[1].1));
    index.set(gfn(999), slot(1), 0).unwrap();
    let generation = index.get(gfn(999)).unwrap().generation;
    assert_eq!(
        generation, 2,
        "a generation is not forgotten with its entry"
    );
}

#[test]
fn what_has_no_entry_is_not_moved_and_what_is_beyond_is_refused() {
    let (_file, index) = index(300);
    for n in [299, 0] {
        let error = index.move_to(gfn(n), slot(1)).unwrap_err();
        assert!(matches!(error, IndexError::NoEntry { .. }), "{error}");
        assert_eq!(index.get(gfn(n)), None);
    }
    for n in [300, 511, 1 << 39] {
        let error = index.set(gfn(n), slot(1), 1).unwrap_err();
        assert!(
            matches!(error, IndexError::Beyond { gfns: 300, .. }),
            "{error}"
        );
        index.clear(gfn(n));
        assert_eq!(index.get(gfn(n)), None);
    }
    assert_eq!(index.entries().count(), 0);
    for gfns in [0, MAX_GFNS + 1, u64::MAX] {
        let error = Index::create(memory(), identity(), gfns).unwrap_err();
        assert!(matches!(error, IndexError::Gfns { .. }), "{error}");
    }
}

fn allocated_pages(file: &File) -> u64 {
    file.metadata().unwrap().blocks() / 8
}

/// A terabyte of guest memory: 4 GiB of index.
#[test]
fn what_has_not_been_out_takes_no_memory() {
    let gfns = 1 << 28;
    let (file, index) = index(gfns);
    assert_eq!(file.metadata().unwrap().len(), (4 << 30) + PAGE);
    assert_eq!(allocated_pages(&file), 1, "the header");
    for n in [0, 1, 255, 256, gfns - 1] {
        index.set(gfn(n), slot(3), 4).unwrap();
    }
    assert_eq!(allocated_pages(&file), 4);
    let look = |index: &Index| {
        for n in (0..gfns).step_by(10_000) {
            index.clear(gfn(n + 3));
            assert_eq!(index.get(gfn(n + 3)), None);
        }
        let gfns: Vec<_> = index.entries().map(|(gfn, _)| gfn.get()).collect();
        assert_eq!(gfns, [0, 1, 255, 256, (1 << 28) - 1]);
    };
    look(&index);
    drop(index);
    look(&Index::open(again(&file), identity()).unwrap());
    assert_eq!(allocated_pages(&file), 4, "who looks allocates nothing");
}

#[test]
fn without_memory_a_page_is_not_noted_and_others_are() {
    let (file, index) = index(1000);
    index.set(gfn(1), slot(1), 1).unwrap();
    index.test_double.is_full.store(true, Ordering::Relaxed);
    let error = index.set(gfn(500), slot(2), 2).unwrap_err();
    assert!(
        matches!(
            error,
            IndexError::System {
                errno: Errno::NOSPC,
                ..
            }
        ),
        "{error}"
    );
    assert_eq!((index.get(gfn(500)), allocated_pages(&file)), (None, 2));
    index.set(gfn(2), slot(2), 2).unwrap();
    index.move_to(gfn(1), slot(9)).unwrap();
    index.test_double.is_full.store(false, Ordering::Relaxed);
    index.set(gfn(500), slot(2), 2).unwrap();
    assert_eq!(index.entries().count(), 3);
}

#[test]
fn a_pager_that_lives_has_the_index_alone() {
    let (file, index) = index(10);
    assert!(matches!(refused(&file), IndexError::Locked));
    let made = Index::create(again(&file), identity(), 10).unwrap_err();
    assert!(matches!(made, IndexError::Locked));
    drop(index);
    let taken_over = Index::open(again(&file), identity()).unwrap();
    assert!(matches!(refused(&file), IndexError::Locked));
    drop(taken_over);
    // Somebody else holds the descriptor, and hands it to one pager after the other.
    let handed_on = Index::open(file.try_clone().unwrap(), identity()).unwrap();
    drop(handed_on);
    assert!(Index::open(file.try_clone().unwrap(), identity()).is_ok());
}

#[test]
fn every_bit_of_a_header_is_guarded() {
    let (file, index) = index(1000);
    drop(index);
    let mut raw = [0; HEADER_BYTES];
    file.read_exact_at(&mut raw, 0).unwrap();
    for bit in 0..8 * HEADER_BYTES {
        raw[bit / 8] ^= 1 << (bit % 8);
        file.write_all_at(&raw, 0).unwrap();
        let told = matches!(
            (bit / 8, refused(&file)),
            (0..8, IndexError::NotAnIndex { .. }) | (8.., IndexError::Damaged { .. })
        );
        assert!(told, "bit {bit}");
        raw[bit / 8] ^= 1 << (bit % 8);
    }
    file.write_all_at(&raw, 0).unwrap();
    assert!(Index::open(again(&file), identity()).is_ok());
}

#[test]
fn an_index_of_something_else_is_refused_with_what_was_expected_and_found() {
    let (file, index) = index(1000);
    drop(index);
    let other = |change: &dyn Fn(&mut Identity)| {
        let mut expected = identity();
        change(&mut expected);
        Index::open(again(&file), expected).unwrap_err()
    };
    let guests = [
        other(&|expected| expected.guest.domain = 8),
        other(&|expected| expected.guest.uuid = Uuid::nil()),
    ];
    for error in guests {
        let IndexError::OtherGuest { found, .. } = error else {
            panic!("{error}");
        };
        assert_eq!(found, identity().guest);
    }
    let stores = [
        other(&|expected| expected.store.kind = StoreKind(2)),
        other(&|expected| expected.store.device = 1),
        other(&|expected| expected.store.inode = 1),
    ];
    for error in stores {
        assert!(matches!(error, IndexError::OtherStore { .. }), "{error}");
    }
    let expected = 5 * PAGE;
    for bytes in [4 * PAGE, 5 * PAGE - 1, 6 * PAGE] {
        // A sealed file keeps its size.
        let cut = memory();
        cut.set_len(bytes).unwrap();
        Header::of(identity(), 1000).write(&cut).unwrap();
        let error = refused(&cut);
        assert!(
            matches!(error, IndexError::OtherSize { bytes: found, expected: size }
                if (found, size) == (bytes, expected)),
            "{error}"
        );
    }
    for bytes in [0, 1, 67, PAGE - 1] {
        let cut = memory();
        cut.set_len(bytes).unwrap();
        assert!(matches!(refused(&cut), IndexError::TooShort { bytes: found } if found == bytes));
    }
    for gfns in [0, u64::MAX] {
        let cut = memory();
        cut.set_len(PAGE).unwrap();
        Header::of(identity(), gfns).write(&cut).unwrap();
        assert!(matches!(refused(&cut), IndexError::Gfns { .. }));
    }
    let full = Index::create(again(&file), identity(), 1000).unwrap_err();
    assert!(matches!(full, IndexError::NotEmpty { bytes } if bytes == expected));
    // The pager was killed before it wrote the header.
    let unfinished = memory();
    unfinished.set_len(expected).unwrap();
    let error = refused(&unfinished);
    assert!(
        matches!(error, IndexError::NotAnIndex { found: [0, ..] }),
        "{error}"
    );
}

#[test]
fn a_file_that_others_can_open_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let open = |name: &str, mode| {
        let mut options = File::options();
        options.read(true).write(true).create_new(true).mode(mode);
        options.open(dir.path().join(name)).unwrap()
    };
    assert!(Index::create(open("private", 0o600), identity(), 10).is_ok());
    for (name, mode) in [("group", 0o640), ("world", 0o604)] {
        let error = Index::create(open(name, mode), identity(), 10).unwrap_err();
        assert!(matches!(error, IndexError::Exposed { .. }), "{error}");
    }
    let directory = File::open(dir.path()).unwrap();
    let error = Index::open(directory, identity()).unwrap_err();
    assert!(matches!(error, IndexError::Exposed { .. }), "{error}");
}

const GFNS: u64 = 600;

/// What happens to a page, in the order that the shell keeps.
#[derive(Clone, Copy, Debug)]
enum Op {
    Out(u64, u32),
    OutAsZeros(u64),
    /// The evict is refused.
    Refused(u64, u32),
    Moved(u64, u32),
    In(u64),
}

fn op() -> impl Strategy<Value = Op> {
    let gfn = prop_oneof![0..4_u64, 254..258_u64, GFNS - 2..GFNS];
    (0..5_u8, gfn, 0..SLOTS_END).prop_map(|(op, gfn, slot)| match op {
        0 => Op::Out(gfn, slot),
        1 => Op::OutAsZeros(gfn),
        2 => Op::Refused(gfn, slot),
        3 => Op::Moved(gfn, slot),
        _ => Op::In(gfn),
    })
}

/// Where a page lies, and its checksum.
type Noted = (u64, (Location, u64));

/// Does this until the process is killed. Returns where each page is that is out then, and all that was
/// to be noted. A page is evicted, and a slot freed, only by a process that still lives.
fn run(index: &Index, ops: &[Op]) -> (BTreeMap<u64, (Location, u64)>, Vec<Noted>) {
    let (mut out, mut noted) = (BTreeMap::new(), Vec::new());
    for (op, checksum) in ops.iter().zip(1..) {
        match *op {
            Op::Out(n, _) | Op::OutAsZeros(n) | Op::Refused(n, _) if out.contains_key(&n) => {}
            Op::Out(n, to) => {
                noted.push((n, (slot(to), checksum)));
                index.set(gfn(n), slot(to), checksum).unwrap();
                if !index.test_double.is_dead() {
                    out.insert(n, (slot(to), checksum));
                }
            }
            Op::OutAsZeros(n) => {
                noted.push((n, (Location::Zeros, 0)));
                index.set(gfn(n), Location::Zeros, 0).unwrap();
                if !index.test_double.is_dead() {
                    out.insert(n, (Location::Zeros, 0));
                }
            }
            Op::Refused(n, to) => {
                noted.push((n, (slot(to), checksum)));
                index.set(gfn(n), slot(to), checksum).unwrap();
            }
            Op::Moved(n, to) => {
                let Some((location, checksum)) = out.get_mut(&n) else {
                    continue;
                };
                noted.push((n, (slot(to), *checksum)));
                index.move_to(gfn(n), slot(to)).unwrap();
                if !index.test_double.is_dead() {
                    *location = slot(to);
                }
            }
            // The page is resident before the entry is cleared.
            Op::In(n) => {
                if out.remove(&n).is_some() {
                    index.clear(gfn(n));
                }
            }
        }
        if index.test_double.is_dead() {
            break;
        }
    }
    (out, noted)
}

proptest! {
    /// Whatever store is the last: a page that is out has its right entry, and no entry is half written.
    #[test]
    fn wherever_a_process_is_killed_what_is_out_has_its_entry(
        ops in prop::collection::vec(op(), 1..40),
    ) {
        for stores in 0.. {
            let (file, index) = index(GFNS);
            index.test_double.stores_left.store(stores, Ordering::Relaxed);
            let (out, noted) = run(&index, &ops);
            let was_killed = index.test_double.is_dead();
            drop(index);
            let index = Index::open(again(&file), identity()).unwrap();
            for (n, expected) in &out {
                let entry = index.get(gfn(*n)).map(|entry| (entry.location, entry.checksum));
                prop_assert_eq!(entry, Some(*expected), "gfn {} after {} stores", n, stores);
            }
            for (gfn, entry) in index.entries() {
                let found = (gfn.get(), (entry.location, entry.checksum));
                prop_assert!(noted.contains(&found), "half of {:?}", found);
            }
            if !was_killed {
                break;
            }
        }
    }

    /// Whatever a file holds behind a sound header: entries that name no slot do not exist.
    #[test]
    fn no_contents_do_harm(
        words in prop::collection::vec(any::<u64>(), 0..200),
        at in 0..3 * PAGE_WORDS,
        touched in 0..GFNS + 10,
    ) {
        let (file, index) = index(GFNS);
        drop(index);
        for (word, at) in words.iter().zip(at..3 * PAGE_WORDS) {
            file.write_all_at(&word.to_ne_bytes(), PAGE + 8 * at).unwrap();
        }
        let index = Index::open(again(&file), identity()).unwrap();
        for (gfn, entry) in index.entries() {
            prop_assert!(gfn.get() < GFNS);
            prop_assert!(entry.location.slot().is_none_or(|slot| slot.0 < SLOTS_END));
            prop_assert_eq!(index.get(gfn), Some(entry));
        }
        let (touched, location) = (gfn(touched), slot(5));
        let had_entry = index.get(touched).is_some();
        prop_assert_eq!(index.move_to(touched, location).is_ok(), had_entry);
        index.clear(touched);
        prop_assert_eq!(index.get(touched), None);
        let is_set = index.set(touched, location, 6).is_ok();
        let entry = index.get(touched).map(|entry| (entry.location, entry.checksum));
        prop_assert_eq!(entry, is_set.then_some((location, 6)));
    }

    /// Whatever a file holds at all.
    #[test]
    fn no_header_does_harm(
        bytes in prop::collection::vec(any::<u8>(), 0..3 * PAGE_SIZE),
        patched in any::<bool>(),
        gfns: u64,
    ) {
        let file = memory();
        file.write_all_at(&bytes, 0).unwrap();
        if patched {
            Header::of(identity(), gfns).write(&file).unwrap();
        }
        prop_assert!(Index::open(again(&file), identity()).is_err());
    }
}
