//! A flush that is owed cannot be overlooked.
#![deny(unused_must_use)]
use p2m_paging::p2m::FlushOwed;

fn owes() -> FlushOwed<()> {
    unimplemented!()
}

fn main() {
    owes();
}
