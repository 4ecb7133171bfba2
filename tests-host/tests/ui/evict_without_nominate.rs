//! Only a nominated page can be evicted.
use p2m_paging::P2m;
use p2m_paging::p2m::{Ram, Slot};

fn evict<M: P2m>(slot: Slot<'_, M, Ram>) {
    let _ = slot.evict();
}

fn main() {}
