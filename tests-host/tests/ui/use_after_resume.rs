//! A transition takes its state away.
use p2m_paging::P2m;
use p2m_paging::p2m::{PagingIn, Slot};

fn resume<M: P2m>(slot: Slot<'_, M, PagingIn>) {
    let _ = slot.resume();
    let _ = slot.discard();
}

fn main() {}
