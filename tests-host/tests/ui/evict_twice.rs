//! A page that is out cannot be evicted.
use p2m_paging::P2m;
use p2m_paging::p2m::{PagingOut, Slot};

fn twice<M: P2m>(slot: Slot<'_, M, PagingOut>) {
    if let Ok((paged, _owed)) = slot.evict() {
        let _ = paged.evict();
    }
}

fn main() {}
