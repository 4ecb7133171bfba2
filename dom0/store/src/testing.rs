// SPDX-License-Identifier: MIT OR Apache-2.0
//! Tests that all stores share.

use super::{
    CompareWith, Outcome, PageBuf, PageStore, SaveOutcome, Saved, Slot, StoreError, Write,
};

/// A page whose contents tell its number.
pub(super) fn page(n: u32) -> PageBuf {
    let mut page = PageBuf::ZERO;
    for (at, chunk) in page.0.chunks_mut(8).enumerate() {
        chunk.copy_from_slice(&(u64::from(n) << 32 | at as u64).to_le_bytes());
    }
    page
}

/// Writes to each slot the page of the slot's number.
pub(super) fn write(store: &impl PageStore, slots: &[Slot]) -> Vec<SaveOutcome> {
    let pages: Vec<_> = slots.iter().map(|slot| page(slot.0)).collect();
    write_pages(store, slots, &pages, false)
}

/// Writes to these slots.
pub(super) fn writes(slots: &[Slot]) -> Vec<Write> {
    let like = CompareWith::Any;
    slots
        .iter()
        .map(|slot| Write { slot: *slot, like })
        .collect()
}

/// Writes one page to each slot.
pub(super) fn write_pages(
    store: &impl PageStore,
    slots: &[Slot],
    pages: &[PageBuf],
    has_copy: bool,
) -> Vec<SaveOutcome> {
    let mut outcomes = vec![Err(StoreError::Full); slots.len()];
    let like = if has_copy {
        CompareWith::Own
    } else {
        CompareWith::Any
    };
    let write = |slot: &Slot| Write { slot: *slot, like };
    let writes: Vec<_> = slots.iter().map(write).collect();
    let mut fill = |first: usize, buffers: &mut [PageBuf]| {
        buffers.copy_from_slice(&pages[first..first + buffers.len()]);
    };
    store.write(&writes, &mut fill, &mut outcomes);
    outcomes
}

pub(super) fn read(store: &impl PageStore, slots: &[Slot]) -> (Vec<PageBuf>, Vec<Outcome>) {
    let mut pages = vec![PageBuf::ZERO; slots.len()];
    let mut outcomes = vec![Err(StoreError::Full); slots.len()];
    store.read(slots, &mut pages, &mut outcomes);
    (pages, outcomes)
}

/// What every store must do: return what was written.
pub(super) fn round_trips(store: &impl PageStore) {
    let mut slots: Vec<_> = (0..300).chain([1000, 999, 2000]).map(Slot).collect();
    assert!(write(store, &slots).iter().all(SaveOutcome::is_ok));
    slots.reverse();
    let (pages, outcomes) = read(store, &slots);
    for ((slot, read), outcome) in slots.iter().zip(&pages).zip(outcomes) {
        assert_eq!(outcome, Ok(()), "{slot:?}");
        assert!(read.0 == page(slot.0).0, "{slot:?}");
    }
    store.free(Slot(7));
    store.free(Slot(7));
    store.free(Slot(u32::MAX));
    let empty = |slot| Err(StoreError::Empty { slot });
    let (_, outcomes) = read(store, &[6, 7, 8, 500_000].map(Slot));
    assert_eq!(
        outcomes,
        [Ok(()), empty(Slot(7)), Ok(()), empty(Slot(500_000))]
    );
    assert_eq!(write(store, &[Slot(7)]), [Ok(Saved::Written)]);
    assert_eq!(read(store, &[Slot(7)]).1, [Ok(())]);
    let (slot, like) = (Slot(7), CompareWith::Own);
    let mut outcomes = [Ok(Saved::Written)];
    store.flush(&[Write { slot, like }], &mut outcomes);
    assert_eq!(outcomes, [Ok(Saved::Written)]);
}

/// What every store must do with pages that it already holds, and with zeros (row C7).
pub(super) fn compares_and_spares_zeros(store: &impl PageStore) {
    let slots: Vec<_> = (0..200).map(Slot).collect();
    write(store, &slots);
    // Every third page is different now, every fifth is zeros.
    let now = |n: u32| match n {
        n if n.is_multiple_of(5) => PageBuf::ZERO,
        n if n.is_multiple_of(3) => page(n + 1000),
        n => page(n),
    };
    let pages: Vec<_> = (0..200).map(now).collect();
    let before = store.counts();
    for (saved, n) in write_pages(store, &slots, &pages, true)
        .into_iter()
        .zip(0..)
    {
        let expected = match n {
            n if now(n).0 == PageBuf::ZERO.0 => Saved::Zeros,
            n if now(n).0 == page(n).0 => Saved::Unchanged,
            _ => Saved::Written,
        };
        assert_eq!(saved, Ok(expected), "page {n}");
    }
    let counts = store.counts();
    assert_eq!(counts.pages_written - before.pages_written, 53);
    assert_eq!(counts.reads, before.reads);
    for ((read, outcome), n) in {
        let (pages, outcomes) = read(store, &slots);
        pages.into_iter().zip(outcomes).zip(0..)
    } {
        if now(n).0 == PageBuf::ZERO.0 {
            assert_eq!(outcome, Err(StoreError::Empty { slot: Slot(n) }));
        } else {
            assert_eq!((outcome, read.0 == now(n).0), (Ok(()), true), "page {n}");
        }
    }
    // A copy that does not exist must not be used.
    store.free(Slot(1));
    assert_eq!(
        write_pages(store, &[Slot(1)], &[page(1)], true),
        [Ok(Saved::Written)]
    );
}
