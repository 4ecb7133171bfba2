//! Who undoes a pause has made it.
use p2m_paging::VcpuId;
use p2m_paging::pause::VcpuPaused;

fn main() {
    let _forged = VcpuPaused(VcpuId(0));
}
