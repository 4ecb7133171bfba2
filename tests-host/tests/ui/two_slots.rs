//! No second slot beside the first.
use p2m_paging::p2m::lookup;
use p2m_paging::{Gfn, P2m};

fn two<M: P2m>(p2m: &mut M) {
    let first = lookup(p2m, Gfn::MAX);
    let second = lookup(p2m, Gfn::MAX);
    drop((first, second));
}

fn main() {}
