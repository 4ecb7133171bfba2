// SPDX-License-Identifier: MIT OR Apache-2.0
use p2m_paging::PAGE_SIZE;
use proptest::prelude::*;

use super::*;

const SECTOR: usize = 512;

/// A page without a pattern.
fn noise(seed: u64) -> PageBuf {
    let mut word = seed.wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let mut page = PageBuf::ZERO;
    for chunk in page.0.chunks_exact_mut(8) {
        word ^= word << 13;
        word ^= word >> 7;
        word ^= word << 17;
        chunk.copy_from_slice(&word.to_le_bytes());
    }
    page
}

/// A slot that has got these pages, one after the other.
fn slot_with(pages: &[&PageBuf]) -> Checksums {
    let sums = Checksums::default();
    pages.iter().for_each(|page| sums.set(Slot(7), page));
    sums
}

fn kind(sums: &Checksums, slot: Slot, page: &PageBuf) -> Option<Corruption> {
    match sums.check(slot, page) {
        Ok(()) => None,
        Err(StoreError::Corrupt { kind, .. }) => Some(kind),
        Err(other) => panic!("{other}"),
    }
}

/// The first sectors of one page, the others of another.
fn joined(first: &PageBuf, sectors: usize, then: &PageBuf) -> PageBuf {
    let mut page = *then;
    let bytes = ..sectors * SECTOR;
    page.0[bytes].copy_from_slice(&first.0[bytes]);
    page
}

fn flipped(page: &PageBuf, bit: usize) -> PageBuf {
    let mut page = *page;
    page.0[bit / 8] ^= 1 << (bit % 8);
    page
}

#[test]
fn sectors_of_zeros_have_no_tag_and_no_page_has_no_sum() {
    let sums = slot_with(&[&PageBuf::ZERO]);
    let record = sums.get(Slot(7)).unwrap();
    assert_eq!(record >> 32, 0, "{record:#x}");
    assert_eq!(Record(0xffff_ffff_0000_0000).sum(), None);
    assert_eq!(size_of::<Record>(), 8);
}

/// Two bits of a sector tell kinds apart most of the time, never whether a page is right.
#[test]
fn a_wrong_page_is_never_right_and_its_kind_mostly_is() {
    const ROUNDS: u64 = 500;
    let (mut stale, mut torn, mut rotten, mut due) = (0, 0, 0, 0);
    for n in 0..ROUNDS {
        let (old, new, other) = (noise(4 * n), noise(4 * n + 1), noise(4 * n + 2));
        let sums = slot_with(&[&old, &new]);
        sums.set(Slot(9), &other);
        let told = |page: &PageBuf| kind(&sums, Slot(7), page).expect("a wrong page passes");
        stale += u64::from(told(&old) == Corruption::Stale);
        due += u64::from(told(&other) == Corruption::Misdirected { due: Slot(9) });
        let sectors = 1 + usize::try_from(n % 7).unwrap();
        for (page, old) in [
            (joined(&new, sectors, &old), u8::MAX << sectors),
            (joined(&old, sectors, &new), !(u8::MAX << sectors)),
        ] {
            let is_old = |sectors: u8| sectors != 0 && sectors & !old == 0;
            let told = told(&page);
            torn += u64::from(matches!(told, Corruption::Torn { sectors } if is_old(sectors)));
        }
        let bit = usize::try_from(n * 37).unwrap() % (8 * PAGE_SIZE);
        let wrong = 1 << (bit / 8 / SECTOR);
        let is_it = |sectors: u8| sectors == wrong || sectors == 0;
        let told = told(&flipped(&new, bit));
        rotten += u64::from(matches!(told, Corruption::Rotten { sectors } if is_it(sectors)));
    }
    assert_eq!((stale, due), (ROUNDS, ROUNDS));
    println!("of {ROUNDS}: torn {torn}/2, rotten {rotten}");
    assert!(torn > 2 * ROUNDS * 8 / 10, "{torn}");
    assert!(rotten > ROUNDS * 8 / 10, "{rotten}");
}

#[test]
fn a_slot_that_was_never_written_has_held_zeros() {
    let new = noise(1);
    let sums = slot_with(&[&new]);
    let zeros = kind(&sums, Slot(7), &PageBuf::ZERO);
    assert_eq!(zeros, Some(Corruption::Stale));
    let half = kind(&sums, Slot(7), &joined(&new, 4, &PageBuf::ZERO));
    assert!(matches!(half, Some(Corruption::Torn { .. })), "{half:?}");
}

#[test]
fn what_a_slot_held_is_known_after_it_was_freed() {
    let (old, new) = (noise(1), noise(2));
    let sums = slot_with(&[&old]);
    sums.forget(Slot(7));
    sums.forget(Slot(7));
    assert_eq!(sums.get(Slot(7)), None);
    let empty = Err(StoreError::Empty { slot: Slot(7) });
    assert_eq!(sums.check(Slot(7), &old), empty);
    sums.set(Slot(7), &new);
    assert_eq!(kind(&sums, Slot(7), &new), None);
    assert_eq!(kind(&sums, Slot(7), &old), Some(Corruption::Stale));
}

#[test]
fn a_page_that_is_due_far_away_is_not_searched_for_long() {
    let (page, new) = (noise(1), noise(2));
    let sums = slot_with(&[&new]);
    let chunk = |chunk: usize| Slot(u32::try_from(chunk * CHUNK).unwrap());
    sums.set(chunk(SEARCHED_CHUNKS), &page);
    let far = kind(&sums, Slot(7), &page);
    assert!(matches!(far, Some(Corruption::Rotten { .. })), "{far:?}");
    let near = chunk(SEARCHED_CHUNKS - 1);
    sums.set(near, &page);
    let found = kind(&sums, Slot(7), &page);
    assert_eq!(found, Some(Corruption::Misdirected { due: near }));
    // And from the other side.
    sums.set(chunk(SEARCHED_CHUNKS / 2), &new);
    let found = kind(&sums, near, &new);
    let due = chunk(SEARCHED_CHUNKS / 2);
    assert_eq!(found, Some(Corruption::Misdirected { due }));
}

#[test]
fn a_message_says_what_is_wrong() {
    let slot = Slot(5);
    for (kind, expected) in [
        (
            Corruption::Torn { sectors: 0xe0 },
            "is torn, with old sectors 5, 6, 7",
        ),
        (Corruption::Stale, "is stale, with what was written before"),
        (
            Corruption::Misdirected { due: Slot(3) },
            "is misdirected, with the page of slot 3",
        ),
        (Corruption::Rotten { sectors: 8 }, "is rotten in sectors 3"),
        (Corruption::Rotten { sectors: 0 }, "is rotten"),
    ] {
        let (expected_sum, found) = (0x1234, 0xffff_0000);
        let error = StoreError::Corrupt {
            slot,
            expected: expected_sum,
            found,
            kind,
        };
        let sums = "its checksum is 0xffff0000, not 0x00001234";
        assert_eq!(error.to_string(), format!("slot 5 {expected}: {sums}"));
    }
}

/// What may become of a page.
fn change() -> impl Strategy<Value = Vec<(usize, u8)>> {
    let few = prop::collection::vec((0..PAGE_SIZE, 1..=u8::MAX), 1..9);
    let burst = (0..PAGE_SIZE - 8, prop::collection::vec(any::<u8>(), 1..9));
    let burst = burst.prop_map(|(at, bytes)| (at..).zip(bytes).collect());
    prop_oneof![few, burst]
}

proptest! {
    #[test]
    fn no_changed_page_passes(
        seeds: [u64; 3],
        sparse: bool,
        change in change(),
        (a, b, sectors) in (0..8_usize, 0..8_usize, 0..=8_usize),
    ) {
        let [mut page, old, other] = seeds.map(noise);
        if sparse {
            page.0[64..].fill(0);
        }
        let sums = slot_with(&[&old, &page]);
        let mut changed = page;
        for (at, xor) in change {
            changed.0[at] ^= xor;
        }
        let mut swapped = page;
        let sector = |n: usize| n * SECTOR..(n + 1) * SECTOR;
        swapped.0[sector(a)].copy_from_slice(&page.0[sector(b)]);
        swapped.0[sector(b)].copy_from_slice(&page.0[sector(a)]);
        let mut shifted = page;
        shifted.0.rotate_left(a * SECTOR + b);
        for wrong in [
            changed,
            swapped,
            shifted,
            joined(&old, sectors, &page),
            joined(&page, sectors, &other),
            PageBuf::ZERO,
        ] {
            let is_right = wrong.0 == page.0;
            prop_assert_eq!(sums.check(Slot(7), &wrong).is_ok(), is_right);
            prop_assert_eq!(sums.seems(Slot(7), &wrong), is_right);
        }
    }

    #[test]
    fn any_record_can_be_adopted_or_refused(record: u64, seed: u64) {
        let sums = Checksums::default();
        let adopted = sums.adopt(Slot(7), record);
        prop_assert_eq!(adopted.is_ok(), record % (1 << 32) != 0);
        prop_assert_eq!(sums.get(Slot(7)), adopted.ok().map(|()| record));
        prop_assert!(sums.check(Slot(7), &noise(seed)).is_err());
    }
}
