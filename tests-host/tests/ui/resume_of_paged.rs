//! A page without a frame cannot go home.
use p2m_paging::P2m;
use p2m_paging::p2m::{Paged, Slot};

fn resume<M: P2m>(slot: Slot<'_, M, Paged>) {
    let _ = slot.resume();
}

fn main() {}
