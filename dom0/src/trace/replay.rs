//! A trace against a policy: the pager's side of it, and a memory that holds so many pages.

use p2m_paging::Gfn;

use super::format::Trace;
use crate::core::policy::{PART_PAGES, Policy, ScanPart};

/// What a policy is told beside page-ins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sight {
    /// The accessed bits of all pages, read and cleared every so many accesses.
    Scans {
        /// How many.
        every: u64,
    },
    /// The same, every so many misses: what shells do, which cannot count accesses.
    Paced {
        /// How many.
        misses: u64,
    },
    /// Nothing.
    Blind,
}

/// Replays a trace where so many pages fit, and counts the accesses to pages that are not in. All are
/// out at first. `policy` is one for a guest with the trace's pages, from gfn 0 on.
pub fn misses(trace: &Trace, policy: &mut dyn Policy, capacity: u64, sight: Sight) -> u64 {
    let mut resident = vec![false; trace.pages as usize];
    let mut accessed = vec![[0_u64; PART_PAGES / 64]; resident.len().div_ceil(PART_PAGES)];
    while let Some(gfn) = policy.choose() {
        policy.paged_out(gfn);
    }
    let (mut held, mut misses, mut scanned) = (0, 0, 0);
    for (&page, nth) in trace.accesses.iter().zip(1_u64..) {
        let gfn = Gfn::new_truncate(page.into());
        if !resident[page as usize] {
            misses += 1;
            if held == capacity
                && let Some(victim) = policy.choose()
            {
                policy.paged_out(victim);
                let victim = usize::try_from(victim.get()).unwrap_or(usize::MAX);
                resident[victim] = false;
                let (part, place) = (victim / PART_PAGES, victim % PART_PAGES);
                accessed[part][place / 64] &= !(1 << (place % 64));
                held -= 1;
            }
            policy.paged_in(gfn, true);
            resident[page as usize] = true;
            held += 1;
        }
        let (part, place) = (page as usize / PART_PAGES, page as usize % PART_PAGES);
        accessed[part][place / 64] |= 1 << (place % 64);
        let is_due = match sight {
            Sight::Scans { every } => nth % every == 0,
            Sight::Paced { misses: every } => {
                let due = misses >= scanned + every;
                scanned = if due { misses } else { scanned };
                due
            }
            Sight::Blind => false,
        };
        if is_due {
            for (accessed, first) in accessed.iter_mut().zip((0..).step_by(PART_PAGES)) {
                policy.referenced(&ScanPart { first, accessed });
                accessed.fill(0);
            }
            policy.scanned();
        }
    }
    assert!(held <= capacity, "the policy had no victim");
    misses
}
