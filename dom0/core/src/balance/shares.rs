// SPDX-License-Identifier: MIT OR Apache-2.0
//! Shares and the tax on idle memory, as ESX has them (Waldspurger, "Memory Resource Management in VMware ESX Server", OSDI 2002,
//! section 5): a guest with `S` shares that holds `P` pages, a fraction `f` of which it uses, has
//! `S / (P * (f + k * (1 - f)))` shares for a page, with `k = 1 / (1 - tax)`. Who has the fewest loses memory first.

use super::Guest;

/// What part of an idle page's worth is taken: it costs as much as `1 / (1 - tax)` pages in use.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Tax {
    idle_cost: f64,
}

impl Tax {
    /// In hundredths: from 0, where idle and used pages are the same, to 99.
    pub fn percent(percent: u8) -> Option<Self> {
        let rest = 100_u8.checked_sub(percent).filter(|rest| *rest > 0)?;
        Some(Self {
            idle_cost: 100.0 / f64::from(rest),
        })
    }

    /// The shares that a guest has for a page, if so many of its pages are in memory: the idle ones go first.
    pub(super) fn shares_per_page(self, guest: &Guest, pages: u64) -> f64 {
        let used = guest
            .used
            .unwrap_or(u64::MAX)
            .min(guest.resident)
            .min(pages);
        let cost = count(used) + self.idle_cost * count(pages - used);
        f64::from(guest.share) / cost.max(1.0)
    }
}

impl Default for Tax {
    /// 75 %, as in ESX.
    fn default() -> Self {
        Self { idle_cost: 4.0 }
    }
}

#[allow(
    clippy::cast_precision_loss,
    reason = "a comparison of sizes needs no more than 53 bits"
)]
fn count(pages: u64) -> f64 {
    pages as f64
}

/// For people.
#[allow(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "positive, and what is too large is cut to the largest"
)]
pub(super) fn per_million(shares: f64) -> u64 {
    (shares * 1e6).round() as u64
}
