//! A flush that is owed cannot be overlooked.
#![deny(unused_must_use)]
use p2m_paging::p2m::FlushOwed;
use p2m_paging::platform::Leak;

struct Frame;
impl Leak for Frame {}

fn owes() -> FlushOwed<Frame> {
    unimplemented!()
}

fn main() {
    owes();
}
