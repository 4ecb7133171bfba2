//! A pause that nobody made cannot be undone.

use p2m_paging::VcpuId;
use p2m_paging::pause::{VcpuCell, VcpuPaused};

fn forge(cell: &VcpuCell) -> VcpuPaused<'_> {
    VcpuPaused { cell, vcpu: VcpuId(0) }
}

fn main() {
    let _ = forge(&VcpuCell::new());
}
