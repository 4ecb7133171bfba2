//! What was read under the lock is worth nothing without it.
use p2m_paging::p2m::{Found, lookup};
use p2m_paging::{Gfn, Platform};

fn outlive<P: Platform>(platform: &P) {
    let found = {
        let mut p2m = platform.lock_p2m();
        lookup(&mut p2m, Gfn::MAX)
    };
    if let Found::Ram(slot) = found {
        let _ = slot.nominate();
    }
}

fn main() {}
