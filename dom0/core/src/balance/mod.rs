// SPDX-License-Identifier: MIT OR Apache-2.0
//! How much memory each of several guests may have while their host is short of it (rows C3, C4).
//!
//! Pure: no I/O, no clock. [`Balance::update`] makes targets of facts, a few times a second; the shell sees to the facts
//! and hands each target to that guest's pager, which knows how to follow one up and down.
//!
//! | free memory of the host | what happens |
//! |---|---|
//! | falls below *low* | reclaim begins, at priority 12: at each look a 2^12th of what there is to be had, 32 pages at least. The priority falls by one at each look that finds free memory below low still |
//! | falls below *min* | direct reclaim, at priority 0: all that is missing is asked for at once |
//! | between | what was begun goes on until *high* is reached; what was not begun does not begin |
//! | above *high* | what is above comes back, an eighth of it at each look |
//!
//! Pages on their way out count as free and those on their way in as taken, so that nothing is asked for twice, and what stays as
//! it is leads to a state that stays.
//!
//! Who loses memory, and who gets it back first, is decided by shares and a tax on idle memory (`tax`). Short of memory or not,
//! the one with the fewest shares for what it holds gives to the one with the most, while they are far apart and pages of the
//! latter are out for want of memory.
//!
//! An eighth of what a guest could give is its *reserve* and stays with it. When reserves are all that is left, below min, one
//! guest is chosen to pay: its reserve goes, down to its floor. A guest that has been asked for long and has given nothing
//! is passed over (row C10) until there is memory again.

#[cfg(test)]
mod model_tests;
mod shares;
#[cfg(test)]
mod tests;

use std::fmt;

pub use shares::Tax;

/// Pages that are worth asking for (row C3).
pub const BATCH: u64 = 32;
/// Where the priority starts.
const FIRST_PRIORITY: u32 = 12;
/// At one look memory is handed out in so many parts at most, each to whose turn it is then.
const PARTS: u64 = 256;
/// What a guest keeps of what it could give: one part in so many.
const RESERVE: u64 = 8;
/// What comes back at one look of what there is too much: one part in so many.
const RELAX: u64 = 8;
/// A guest that has given nothing at so many looks in a row is passed over.
const STALLED_UPDATES: u32 = 12;
/// Guests are far apart if one has so many times the shares for its memory that another has.
const FAR_APART: f64 = 1.25;
/// What goes from one to the other then: one part in so many of what the smaller has.
const SHIFT: u64 = 32;

/// Free memory of the host, in pages: `0 < min < low < high`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Watermarks {
    min: u64,
    low: u64,
    high: u64,
}

impl Watermarks {
    /// `None` if they are not in order.
    pub fn new(min: u64, low: u64, high: u64) -> Option<Self> {
        (0 < min && min < low && low < high).then_some(Self { min, low, high })
    }

    /// The highest.
    pub fn high(self) -> u64 {
        self.high
    }
}

/// What is known of a guest. Numbers are of pages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Guest {
    /// Which one it is: stays the same from look to look, and is no other's.
    pub id: u32,
    /// What it has, in memory and out.
    pub size: u64,
    /// What it has in memory.
    pub resident: u64,
    /// What it is to have in memory at most, whatever the host has.
    pub target: Option<u64>,
    /// What it is worth beside the others.
    pub share: u32,
    /// How much of what it has in memory it has used lately; unknown counts as all of it.
    pub used: Option<u64>,
    /// What it cannot give.
    pub floor: u64,
}

impl Guest {
    /// What it would have in memory if the host had enough.
    fn demand_pages(&self) -> u64 {
        self.target
            .map_or(self.size, |target| target.min(self.size))
    }
}

/// How short of memory the host is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Pressure {
    /// It is not.
    #[default]
    None,
    /// Pages go out little by little.
    Background,
    /// Pages go out as fast as they can.
    Direct,
}

/// What is to be done.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Allocation {
    /// How short of memory the host is.
    pub pressure: Pressure,
    /// What each guest may have in memory, in the order of the facts; `None`: what its own target says.
    pub resident: Vec<Option<u64>>,
    /// For the log.
    pub event: Option<BalanceEvent>,
}

/// What an operator wants to know.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BalanceEvent {
    /// One guest gives up its reserve.
    #[error("{0}")]
    VictimChosen(Victim),
    /// There is none to be had. Said once until there is memory again.
    #[error(
        "{free} pages of the host are free, below the mark of {min}, and no guest has anything left to give"
    )]
    NoVictim {
        /// Free memory.
        free: u64,
        /// The mark that it is below.
        min: u64,
    },
}

/// Why one guest pays. Numbers are of pages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Victim {
    /// Which one.
    pub id: u32,
    /// What is asked of it.
    pub gives: u64,
    /// Free memory of the host.
    pub free: u64,
    /// The mark that it is below.
    pub min: u64,
    /// Its shares for a million pages that it holds, the idle ones taxed.
    pub shares_per_million: u64,
    /// The same of the one that would have been next, and which that is.
    pub next: Option<(u32, u64)>,
}

impl fmt::Display for Victim {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            id,
            gives,
            free,
            min,
            shares_per_million,
            next,
        } = self;
        write!(
            f,
            "domain {id} pays with all it can give, {gives} pages: {free} pages of the host are free, below the mark of {min}, \
             nothing was reclaimed at priority 0, and it has {shares_per_million} shares for a million taxed pages"
        )?;
        match next {
            Some((other, shares)) => write!(f, ", domain {other} has {shares}"),
            None => write!(f, ", and nobody else could"),
        }
    }
}

/// What is kept of a guest from look to look.
#[derive(Clone, Copy, Debug)]
struct GuestRecord {
    id: u32,
    /// What it may have in memory because the host is short of it.
    allowed: Option<u64>,
    /// What it had at the last look.
    resident: u64,
    /// Looks in a row at which it was asked for pages and had not given any.
    stalled: u32,
    /// Its reserve goes.
    is_victim: bool,
}

/// See the [module](self).
#[derive(Debug)]
pub struct Balance {
    marks: Watermarks,
    tax: Tax,
    /// In the order of the facts of the last look.
    records: Vec<GuestRecord>,
    reclaiming: bool,
    priority: u32,
    nobody_said: bool,
}

impl Balance {
    /// Nobody is asked for anything yet.
    pub fn new(marks: Watermarks, tax: Tax) -> Self {
        Self {
            marks,
            tax,
            records: Vec::new(),
            reclaiming: false,
            priority: FIRST_PRIORITY,
            nobody_said: false,
        }
    }

    /// What is to be done where so many pages of the host are free. Guests may come and go from look to look.
    pub fn update(&mut self, free: u64, guests: &[Guest]) -> Allocation {
        self.update_records(guests);
        let pressure = self.pressure(free);
        let expected = self.expected(free, guests);
        let missing = self.marks.high.saturating_sub(expected);
        let mut event = None;
        match pressure {
            Pressure::Direct => {
                if missing > 0 && self.take(guests, missing) == 0 && self.leaving(guests) == 0 {
                    event = self.choose_victim(free, guests);
                }
            }
            Pressure::Background => {
                let takeable: u64 = (0..guests.len()).map(|n| self.takeable(guests, n)).sum();
                let step = BATCH.max(takeable >> self.priority);
                self.take(guests, missing.min(step));
            }
            Pressure::None => {
                let excess = expected.saturating_sub(self.marks.high);
                self.give(guests, excess.min(BATCH.max(excess / RELAX)));
                self.rebalance(guests);
            }
        }
        Allocation {
            pressure,
            resident: self.records.iter().map(|record| record.allowed).collect(),
            event,
        }
    }

    /// Makes a record for each guest, in their order, with what has come of the last update.
    fn update_records(&mut self, guests: &[Guest]) {
        let records = guests.iter().map(|guest| {
            let before = self.records.iter().find(|record| record.id == guest.id);
            let Some(&record) = before else {
                return GuestRecord {
                    id: guest.id,
                    allowed: None,
                    resident: guest.resident,
                    stalled: 0,
                    is_victim: false,
                };
            };
            let asked = goal(guest, &record) < guest.resident;
            let gave = guest.resident < record.resident;
            GuestRecord {
                resident: guest.resident,
                stalled: if asked && !gave {
                    record.stalled + 1
                } else {
                    0
                },
                ..record
            }
        });
        self.records = records.collect();
    }

    fn pressure(&mut self, free: u64) -> Pressure {
        let Watermarks { min, low, high } = self.marks;
        if free >= high {
            self.reclaiming = false;
        } else if free < low {
            // The first look below low is at the first priority.
            self.priority = match self.reclaiming {
                true => self.priority.saturating_sub(1).max(1),
                false => FIRST_PRIORITY,
            };
            self.reclaiming = true;
        }
        if !self.reclaiming {
            self.nobody_said = false;
            for record in &mut self.records {
                (record.stalled, record.is_victim) = (0, false);
            }
            return Pressure::None;
        }
        if free < min {
            Pressure::Direct
        } else {
            Pressure::Background
        }
    }

    /// What will be free once all are where they are to be.
    fn expected(&self, free: u64, guests: &[Guest]) -> u64 {
        let coming = guests.iter().zip(&self.records);
        let coming =
            coming.map(|(guest, record)| goal(guest, record).saturating_sub(guest.resident));
        (free + self.leaving(guests)).saturating_sub(coming.sum())
    }

    /// Pages that are on their way out, of guests that have not been asked in vain for long.
    fn leaving(&self, guests: &[Guest]) -> u64 {
        let willing = guests
            .iter()
            .zip(&self.records)
            .filter(|(_, record)| record.is_willing());
        willing
            .map(|(guest, record)| guest.resident.saturating_sub(goal(guest, record)))
            .sum()
    }

    fn takeable(&self, guests: &[Guest], n: usize) -> u64 {
        let (guest, record) = (&guests[n], &self.records[n]);
        if record.is_willing() {
            held(guest, record).saturating_sub(reserved_pages(guest, record.is_victim))
        } else {
            0
        }
    }

    fn shares(&self, guests: &[Guest], n: usize) -> f64 {
        let (guest, record) = (&guests[n], &self.records[n]);
        self.tax.shares_per_page(guest, held(guest, record))
    }

    /// Takes so many pages, or what there is, each part from who has the fewest shares for what it still holds. How many.
    fn take(&mut self, guests: &[Guest], pages: u64) -> u64 {
        let part = pages.div_ceil(PARTS);
        let mut left = pages;
        while left > 0 {
            let givers = (0..guests.len()).filter(|&n| self.takeable(guests, n) > 0);
            let by_shares =
                |&a: &usize, &b: &usize| self.shares(guests, a).total_cmp(&self.shares(guests, b));
            let Some(n) = givers.min_by(by_shares) else {
                break;
            };
            let taken = part.min(left).min(self.takeable(guests, n));
            self.records[n].allowed = Some(held(&guests[n], &self.records[n]) - taken);
            left -= taken;
        }
        pages - left
    }

    /// Gives so many pages back to those who are short of them, each part to who has the most shares for what it holds.
    fn give(&mut self, guests: &[Guest], pages: u64) {
        for (guest, record) in guests.iter().zip(&mut self.records) {
            // Who is allowed what it wishes is not held any more.
            record.allowed = record
                .allowed
                .filter(|&allowed| allowed < guest.demand_pages());
        }
        let part = pages.div_ceil(PARTS);
        let mut left = pages;
        while left > 0 {
            let takers = (0..guests.len()).filter(|&n| self.is_short(guests, n));
            let by_shares = |&a: &usize, &b: &usize| {
                self.shares_to_be(guests, a)
                    .total_cmp(&self.shares_to_be(guests, b))
            };
            let Some(n) = takers.max_by(by_shares) else {
                return;
            };
            let (demand_pages, goal) =
                (guests[n].demand_pages(), goal(&guests[n], &self.records[n]));
            let given = part.min(left).min(demand_pages - goal);
            self.records[n].allowed = Some(goal + given).filter(|&allowed| allowed < demand_pages);
            left -= given;
        }
    }

    /// Whether it would have more in memory if the host had.
    fn is_short(&self, guests: &[Guest], n: usize) -> bool {
        self.records[n]
            .allowed
            .is_some_and(|allowed| allowed < guests[n].demand_pages())
    }

    /// As [`Self::shares`], once it is where it is to be.
    fn shares_to_be(&self, guests: &[Guest], n: usize) -> f64 {
        self.tax
            .shares_per_page(&guests[n], goal(&guests[n], &self.records[n]))
    }

    /// While nothing else moves: a little from who has the fewest shares for its memory to who has the most and is short.
    fn rebalance(&mut self, guests: &[Guest]) {
        let settled = |(guest, record): (&Guest, &GuestRecord)| {
            goal(guest, record).abs_diff(guest.resident) <= BATCH || record.allowed.is_none()
        };
        if !guests.iter().zip(&self.records).all(settled) {
            return;
        }
        let all = 0..guests.len();
        let by_shares =
            |&a: &usize, &b: &usize| self.shares(guests, a).total_cmp(&self.shares(guests, b));
        let givers = all.clone().filter(|&n| self.takeable(guests, n) > 0);
        let (Some(giver), Some(taker)) = (
            givers.min_by(by_shares),
            all.filter(|&n| self.is_short(guests, n)).max_by(by_shares),
        ) else {
            return;
        };
        if self.shares(guests, giver) * FAR_APART >= self.shares(guests, taker) {
            return;
        }
        let held_by = |n: usize| held(&guests[n], &self.records[n]);
        let (has, allowed) = (held_by(giver), goal(&guests[taker], &self.records[taker]));
        let pages = BATCH.max(has.min(held_by(taker)) / SHIFT);
        let pages = pages
            .min(self.takeable(guests, giver))
            .min(guests[taker].demand_pages() - allowed);
        self.records[giver].allowed = Some(has - pages);
        self.records[taker].allowed = Some(allowed + pages);
    }

    /// Chooses who pays: of those that still can, who has the fewest shares for what it holds.
    fn choose_victim(&mut self, free: u64, guests: &[Guest]) -> Option<BalanceEvent> {
        let min = self.marks.min;
        let can_pay = |&n: &usize| {
            let (guest, record) = (&guests[n], &self.records[n]);
            record.is_willing() && held(guest, record) > reserved_pages(guest, true)
        };
        let mut payers: Vec<_> = (0..guests.len()).filter(can_pay).collect();
        payers.sort_by(|&a, &b| self.shares(guests, a).total_cmp(&self.shares(guests, b)));
        let Some(&n) = payers.first() else {
            let said = std::mem::replace(&mut self.nobody_said, true);
            return (!said).then_some(BalanceEvent::NoVictim { free, min });
        };
        let next = payers.get(1);
        let next = next.map(|&n| (guests[n].id, shares::per_million(self.shares(guests, n))));
        let shares_per_million = shares::per_million(self.shares(guests, n));
        let (guest, record) = (&guests[n], &mut self.records[n]);
        let keeps = reserved_pages(guest, true);
        let gives = held(guest, record) - keeps;
        (record.is_victim, record.allowed) = (true, Some(keeps));
        let id = guest.id;
        Some(BalanceEvent::VictimChosen(Victim {
            id,
            gives,
            free,
            min,
            shares_per_million,
            next,
        }))
    }
}

impl GuestRecord {
    fn is_willing(&self) -> bool {
        self.stalled < STALLED_UPDATES
    }
}

/// What a guest is to have in memory.
fn goal(guest: &Guest, record: &GuestRecord) -> u64 {
    record.allowed.unwrap_or(u64::MAX).min(guest.demand_pages())
}

/// What it has in memory that is not on its way out.
fn held(guest: &Guest, record: &GuestRecord) -> u64 {
    goal(guest, record).min(guest.resident)
}

/// What it keeps; once it pays, no more than its floor.
fn reserved_pages(guest: &Guest, is_victim: bool) -> u64 {
    let floor = guest.floor.min(guest.size);
    if is_victim {
        floor
    } else {
        floor + (guest.size - floor) / RESERVE
    }
}
