//! What the tests of all stores share.

use super::{Outcome, PageBuf, PageStore, Slot, StoreError};

/// A page whose contents say which one it is.
pub(super) fn page(n: u32) -> PageBuf {
    let mut page = PageBuf::ZERO;
    for (at, chunk) in page.0.chunks_mut(8).enumerate() {
        chunk.copy_from_slice(&(u64::from(n) << 32 | at as u64).to_le_bytes());
    }
    page
}

/// Writes to each slot the page of its number.
pub(super) fn write(store: &impl PageStore, slots: &[Slot]) -> Vec<Outcome> {
    let mut outcomes = vec![Err(StoreError::Full); slots.len()];
    store.write(
        slots,
        &mut |first, buffers| {
            for (buffer, slot) in buffers.iter_mut().zip(&slots[first..]) {
                *buffer = page(slot.0);
            }
        },
        &mut outcomes,
    );
    outcomes
}

pub(super) fn read(store: &impl PageStore, slots: &[Slot]) -> (Vec<PageBuf>, Vec<Outcome>) {
    let mut pages = vec![PageBuf::ZERO; slots.len()];
    let mut outcomes = vec![Err(StoreError::Full); slots.len()];
    store.read(slots, &mut pages, &mut outcomes);
    (pages, outcomes)
}

/// What every store must do.
pub(super) fn round_trips(store: &impl PageStore) {
    let mut slots: Vec<_> = (0..300).chain([1000, 999, 2000]).map(Slot).collect();
    assert!(write(store, &slots).iter().all(Outcome::is_ok));
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
    assert_eq!(write(store, &[Slot(7)]), [Ok(())]);
    assert_eq!(read(store, &[Slot(7)]).1, [Ok(())]);
    assert_eq!(store.flush(), Ok(()));
}
