//! A pause is undone once.
use p2m_paging::pause::VcpuPaused;
use p2m_paging::{Paging, Platform};

fn twice<P: Platform>(paging: &Paging<'_, P>, paused: VcpuPaused) {
    paging.unpause(paused);
    paging.unpause(paused);
}

fn main() {}
