// SPDX-License-Identifier: MIT OR Apache-2.0
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt, symlink};

use super::*;
use crate::Corruption;
use crate::testing::{
    compares_and_spares_zeros, page, read, round_trips, write, write_pages, writes,
};

/// What the device under a file does.
#[derive(Debug, Default)]
pub(crate) struct Device {
    /// An error of writing back that nobody has been told yet.
    pub(crate) error: Mutex<Option<Errno>>,
    /// How often it was waited for.
    pub(crate) syncs: std::sync::atomic::AtomicU64,
    /// How often Linux was told to forget a page that it had read.
    pub(crate) dropped: std::sync::atomic::AtomicU64,
    /// Linux has none of its pages in memory.
    pub(crate) cold: AtomicBool,
}

impl Device {
    pub(super) fn is_cold(&self) -> bool {
        self.cold.load(Ordering::Relaxed)
    }

    pub(super) fn note_dropped(&self) {
        self.dropped
            .fetch_add(1, std::sync::atomic::Ordering::Relaxed);
    }

    /// Reports an error once, as Linux does.
    pub(super) fn sync(&self) -> Result<(), Errno> {
        self.syncs
            .fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        self.error.lock().take().map_or(Ok(()), Err)
    }
}

impl Pagefile {
    /// The device loses these pages, and Linux has yet to say so.
    pub(crate) fn lose(&self, slots: &[Slot], errno: Errno) {
        for slot in slots {
            let at = self.offset_bytes(*slot);
            self.file.write_all_at(&[0xdb; PAGE_SIZE], at).unwrap();
        }
        *self.device.error.lock() = Some(errno);
    }
}

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

/// A guest can make two pages with the same checksum. It must read back its own page then.
#[test]
fn c7_pages_with_the_same_checksum_are_told_apart() {
    let (_dir, file) = pagefile(Keep::Unlinked);
    // A checksum is linear, so among any 33 changes some cancel each other out. Elimination finds
    // them.
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
    // A whole page of another slot: a misdirected write.
    file.file.write_all_at(&page(0).0, 2 * 4096).unwrap();
    let (_, outcomes) = read(&file, &slots);
    assert!(outcomes[0].is_ok() && outcomes[3].is_ok());
    for n in [1, 2] {
        assert!(matches!(outcomes[n], Err(StoreError::Corrupt { slot, .. }) if slot == slots[n]));
    }
}

/// Spoils slots of a file in all ways. Slots 1 to 6 have held a page each, and hold another.
fn spoil(file: &File) -> [(Slot, Corruption); 6] {
    let put = |bytes: &[u8], at: u64| file.write_all_at(bytes, at).unwrap();
    let (half, page_bytes) = (2048, PAGE_SIZE as u64);
    put(&page(1).0, page_bytes);
    put(&page(2).0[half..], 2 * page_bytes + half as u64);
    put(&page(3).0[..half], 3 * page_bytes);
    put(&page(105).0, 4 * page_bytes);
    put(&[0xff], 6 * page_bytes + 3 * 512 + 17);
    // A write that a file with a hole has never got.
    put(&PageBuf::ZERO.0, 7 * page_bytes);
    [
        (Slot(1), Corruption::Stale),
        (Slot(2), Corruption::Torn { sectors: 0xf0 }),
        (Slot(3), Corruption::Torn { sectors: 0x0f }),
        (Slot(4), Corruption::Misdirected { due: Slot(5) }),
        (Slot(6), Corruption::Rotten { sectors: 1 << 3 }),
        (Slot(7), Corruption::Stale),
    ]
}

fn written_twice() -> (tempfile::TempDir, Pagefile) {
    let (dir, file) = pagefile(Keep::Named);
    let slots: Vec<_> = (0..7).map(Slot).collect();
    write(&file, &slots);
    let pages: Vec<_> = (100..107).map(page).collect();
    write_pages(&file, &slots, &pages, false);
    write(&file, &[Slot(7)]);
    (dir, file)
}

fn assert_kinds(file: &Pagefile, kinds: &[(Slot, Corruption)]) {
    let slots: Vec<_> = kinds.iter().map(|(slot, _)| *slot).collect();
    for ((slot, expected), outcome) in kinds.iter().zip(read(file, &slots).1) {
        match outcome {
            Err(StoreError::Corrupt { kind, .. }) => assert_eq!(kind, *expected, "{slot:?}"),
            other => panic!("{slot:?}: {other:?}"),
        }
    }
    assert_eq!(read(file, &[Slot(0), Slot(5)]).1, [Ok(()); 2]);
    let counts = file.counts();
    let kinds = [
        counts.torn_reads,
        counts.stale_reads,
        counts.misdirected_reads,
        counts.rotten_reads,
    ];
    assert_eq!(kinds, [2, 2, 1, 1]);
}

#[test]
fn torn_stale_misdirected_and_rotten_pages_are_told_apart() {
    let (_dir, file) = written_twice();
    let kinds = spoil(&file.file);
    assert_kinds(&file, &kinds);
}

/// The next pager knows as much of a page as the one that wrote it.
#[test]
fn they_are_told_apart_by_the_next_pager() {
    let (dir, file) = written_twice();
    let slots: Vec<_> = (0..8).map(Slot).collect();
    let sums = checksums(&file, &slots);
    let kinds = spoil(&file.file);
    drop(file);
    let file = Pagefile::open_again(&dir.path().join("p")).unwrap();
    for (slot, sum) in slots.iter().zip(sums) {
        assert_eq!(file.adopt(*slot, sum), Ok(()));
    }
    assert_kinds(&file, &kinds);
}

/// A device mixes up the files of two guests.
#[test]
fn a_page_of_another_guest_does_not_pass() {
    let (_dir, file) = pagefile(Keep::Unlinked);
    let (_other_dir, other) = pagefile(Keep::Unlinked);
    let slots = [0, 1].map(Slot);
    write(&file, &slots);
    write_pages(&other, &slots, &[page(50), page(51)], false);
    let mut raw = [0; 2 * PAGE_SIZE];
    other.file.read_exact_at(&mut raw, 0).unwrap();
    file.file.write_all_at(&raw, 0).unwrap();
    let (_, outcomes) = read(&file, &slots);
    let wrong = |outcome: &Outcome| matches!(outcome, Err(StoreError::Corrupt { .. }));
    assert!(outcomes.iter().all(wrong), "{outcomes:?}");
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

/// Linux keeps wrong data that a device returned once. The next read must not be served from there.
#[test]
fn a_corrupt_page_is_read_from_the_device_next() {
    let (_dir, file) = pagefile(Keep::Unlinked);
    let slots = [3, 4].map(Slot);
    write(&file, &slots);
    file.lose(&slots[..1], Errno::IO);
    let (_, found) = read(&file, &slots);
    assert!(matches!(
        found[..],
        [Err(StoreError::Corrupt { .. }), Ok(())]
    ));
    let dropped = &file.device.dropped;
    assert_eq!(dropped.load(std::sync::atomic::Ordering::Relaxed), 1);
}

/// Writes pages, lets the device lose some, and flushes.
fn flush_with_loss(
    file: &Pagefile,
    slots: &[Slot],
    lost: &[Slot],
    errno: Errno,
) -> Vec<SaveOutcome> {
    let mut outcomes = write(file, slots);
    file.lose(lost, errno);
    file.flush(&writes(slots), &mut outcomes);
    outcomes
}

#[test]
fn a_flush_that_fails_fails_all_pages_written_and_forgets_them() {
    for (errno, is_full) in [
        (Errno::IO, false),
        (Errno::NOSPC, true),
        (Errno::INTR, false),
    ] {
        let (_dir, file) = pagefile(Keep::Unlinked);
        let slots = [0, 1, 5].map(Slot);
        let outcomes = flush_with_loss(&file, &slots, &slots[1..2], errno);
        for (slot, outcome) in slots.into_iter().zip(outcomes) {
            let errno = errno.raw_os_error();
            let error = if is_full {
                StoreError::Full
            } else {
                StoreError::Io { slot, errno }
            };
            assert_eq!(outcome, Err(error));
            assert_eq!(read(&file, &[slot]).1, [Err(StoreError::Empty { slot })]);
            // A copy that may be lost is not compared with: it may be in Linux's memory alone.
            let again = write_pages(&file, &[slot], &[page(slot.0)], true);
            assert_eq!(again, [Ok(Saved::Written)]);
        }
    }
}

/// A file system may use a write's error to report that earlier pages are lost. No flush says so then.
#[test]
fn a_write_that_is_refused_fails_the_pages_written_before_it() {
    let (_dir, file) = pagefile(Keep::Unlinked);
    let slots = [0, 1, 2, 3].map(Slot);
    let mut outcomes = write(&file, &slots);
    outcomes[2] = Err(StoreError::Full);
    file.flush(&writes(&slots), &mut outcomes);
    let (full, written) = (Err(StoreError::Full), Ok(Saved::Written));
    assert_eq!(outcomes, [full, full, full, written]);
    // A page that stopped short says nothing of others, and neither does one that was not written.
    let mut outcomes = write(&file, &slots);
    let short = Err(StoreError::Short {
        slot: slots[3],
        bytes: 0,
    });
    (outcomes[0], outcomes[3]) = (Ok(Saved::Unchanged), short);
    file.flush(&writes(&slots), &mut outcomes);
    assert_eq!(outcomes, [Ok(Saved::Unchanged), written, written, short]);
}

fn checksums(file: &Pagefile, slots: &[Slot]) -> Vec<u64> {
    let sums = slots.iter().map(|slot| file.checksum(*slot).unwrap());
    sums.collect()
}

/// A pager is killed; the next one opens its file, and is told what lies where.
#[test]
fn a_file_that_is_opened_again_holds_what_it_held() {
    let (dir, file) = pagefile(Keep::Named);
    let path = dir.path().join("p");
    let slots = [0, 1, 5].map(Slot);
    write(&file, &slots);
    let (sums, identity) = (checksums(&file, &slots), file.identity());
    let error = Pagefile::open_again(&path).unwrap_err();
    assert!(matches!(error, PagefileError::InUse { .. }), "{error}");
    drop(file);
    let file = Pagefile::open_again(&path).unwrap();
    assert!(identity.is_some() && file.identity() == identity);
    let empty = |slot| Err(StoreError::Empty { slot });
    assert_eq!(read(&file, &slots).1, slots.map(empty), "nobody vouches");
    for (slot, sum) in slots.iter().zip(&sums) {
        assert_eq!(file.adopt(*slot, *sum), Ok(()));
        // Several pages may share it.
        assert_eq!(file.adopt(*slot, *sum), Ok(()));
    }
    let (pages, outcomes) = read(&file, &slots);
    for (slot, (found, outcome)) in slots.iter().zip(pages.iter().zip(outcomes)) {
        assert!(outcome == Ok(()) && found.0 == page(slot.0).0, "{slot:?}");
    }
    assert_eq!(checksums(&file, &slots), sums);
    // What is written from now on is as always.
    let again = write_pages(&file, &[Slot(1)], &[page(9)], true);
    assert_eq!(again, [Ok(Saved::Written)]);
    assert_eq!(file.named(), Some(&*path));
    file.remove().unwrap();
    assert!(!path.exists());
}

#[test]
fn what_cannot_be_in_a_file_is_not_adopted_and_what_is_wrong_is_not_read() {
    let (dir, file) = pagefile(Keep::Named);
    write(&file, &[0, 1].map(Slot));
    let sums = checksums(&file, &[0, 1].map(Slot));
    drop(file);
    let file = Pagefile::open_again(&dir.path().join("p")).unwrap();
    let refused = |slot, checksum| Err(StoreError::NotAdopted { slot, checksum });
    for (slot, checksum) in [
        (Slot(0), 0),
        (Slot(0), 1 << 32),
        (Slot(0), u64::MAX << 32),
        (Slot(2), sums[0]),
        (Slot(u32::MAX), sums[0]),
    ] {
        assert_eq!(file.adopt(slot, checksum), refused(slot, checksum));
        assert_eq!(file.checksum(slot), None);
    }
    // The entries of two pages contradict each other: the first counts, if it is right.
    assert_eq!(file.adopt(Slot(0), sums[0]), Ok(()));
    assert_eq!(file.adopt(Slot(0), sums[1]), refused(Slot(0), sums[1]));
    assert_eq!(file.adopt(Slot(1), sums[0]), Ok(()));
    let (_, outcomes) = read(&file, &[0, 1].map(Slot));
    assert_eq!(outcomes[0], Ok(()));
    assert!(matches!(outcomes[1], Err(StoreError::Corrupt { .. })));
    // A file that is new has nothing to adopt.
    let (_dir, new) = pagefile(Keep::Unlinked);
    write(&new, &[Slot(0)]);
    assert!(new.adopt(Slot(0), sums[0]).is_err());
}

#[test]
fn a_file_that_others_could_have_written_is_not_opened_again() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("p");
    let open = |path: &Path| Pagefile::open_again(path).unwrap_err();
    assert!(matches!(
        open(&path),
        PagefileError::Open {
            errno: Errno::NOENT,
            ..
        }
    ));
    std::fs::write(&path, [1; 4096]).unwrap();
    for mode in [0o660, 0o604, 0o700 | 0o010] {
        std::fs::set_permissions(&path, PermissionsExt::from_mode(mode)).unwrap();
        let error = open(&path);
        assert!(matches!(error, PagefileError::Exposed { .. }), "{error}");
    }
    std::fs::set_permissions(&path, PermissionsExt::from_mode(0o600)).unwrap();
    let link = dir.path().join("link");
    symlink(&path, &link).unwrap();
    assert!(matches!(
        open(&link),
        PagefileError::Open {
            errno: Errno::LOOP,
            ..
        }
    ));
    assert!(Pagefile::open_again(&path).is_ok());
    assert_eq!(std::fs::read(&path).unwrap(), [1; 4096], "it is not cut");
    let fifo = dir.path().join("fifo");
    rustix::fs::mknodat(
        rustix::fs::CWD,
        &fifo,
        rustix::fs::FileType::Fifo,
        Mode::RUSR | Mode::WUSR,
        0,
    )
    .unwrap();
    assert!(matches!(open(&fifo), PagefileError::Exposed { .. }));
}

fn read_at_once(file: &Pagefile, slots: &[Slot]) -> (Vec<PageBuf>, Vec<Option<Outcome>>) {
    let mut pages = vec![PageBuf::ZERO; slots.len()];
    let mut outcomes = vec![Some(Ok(())); slots.len()];
    file.read_at_once(slots, &mut pages, &mut outcomes);
    (pages, outcomes)
}

/// With the page cache of the real file system, wherever the test runs.
#[test]
fn b8_what_is_cached_is_read_at_once_and_the_rest_is_left() {
    let (_dir, file) = pagefile(Keep::Unlinked);
    let slots: Vec<_> = [4, 5, 6, 7, 100, 9].map(Slot).into();
    write(&file, &slots);
    let before = file.counts();
    let (pages, outcomes) = read_at_once(&file, &slots);
    if file.always_waits.load(Ordering::Relaxed) {
        // A tmpfs, for example.
        assert_eq!(outcomes, vec![None; slots.len()]);
        println!("this file system cannot say whether a read waits");
        return;
    }
    assert_eq!(outcomes, vec![Some(Ok(())); slots.len()]);
    assert!(
        pages
            .iter()
            .zip(&slots)
            .all(|(found, slot)| found.0 == page(slot.0).0)
    );
    let counts = file.counts();
    assert_eq!(
        (
            counts.reads - before.reads,
            counts.pages_read - before.pages_read
        ),
        (3, 6)
    );
    // Of a stretch, what is there is read.
    let ends = [100, 101].map(Slot);
    assert_eq!(read_at_once(&file, &ends).1, [Some(Ok(())), None]);
    // What is not what it was, and what is not in memory any more, is left.
    file.free(Slot(100));
    file.file.write_all_at(&[0xff], 4096 * 9 + 17).unwrap();
    assert_eq!(read_at_once(&file, &slots).1[4..], [None, None]);
    rustix::fs::fdatasync(&file.file).unwrap();
    rustix::fs::fadvise(&file.file, 0, None, Advice::DontNeed).unwrap();
    assert_eq!(read_at_once(&file, &slots).1, vec![None; slots.len()]);
    assert!(!file.always_waits.load(Ordering::Relaxed));
    // Nothing is lost: a read that waits has them, or says why not.
    let (_, outcomes) = read(&file, &slots);
    assert_eq!(outcomes[..4], [Ok(()); 4]);
    assert!(matches!(
        outcomes[4..],
        [
            Err(StoreError::Empty { .. }),
            Err(StoreError::Corrupt { .. })
        ]
    ));
}

/// Linux answers each time that it would have to wait.
#[test]
fn b8_a_device_that_is_always_waited_for_is_read_all_the_same() {
    let (_dir, file) = pagefile(Keep::Unlinked);
    let slots: Vec<_> = (0..8).map(Slot).collect();
    write(&file, &slots);
    file.device.cold.store(true, Ordering::Relaxed);
    assert_eq!(read_at_once(&file, &slots).1, vec![None; 8]);
    assert_eq!(file.counts().reads, 0);
    assert_eq!(read(&file, &slots).1, vec![Ok(()); 8]);
}
