//! There is one slot for a page, and one undoing for a pause.
use p2m_paging::p2m::{Paged, Slot};
use p2m_paging::pause::VcpuPaused;

fn slots<'g, M>(slot: &Slot<'g, M, Paged>) -> Slot<'g, M, Paged> {
    slot.clone()
}

fn pauses<'d>(paused: &VcpuPaused<'d>) -> VcpuPaused<'d> {
    paused.clone()
}

fn main() {}
