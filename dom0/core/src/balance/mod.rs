// SPDX-License-Identifier: MIT OR Apache-2.0
//! How much memory each of several guests may have while their host is short of it (rows C3, C4).
//!
//! Pure: no I/O, no clock. [`Balance::look`] makes targets of facts, a few times a second; the shell sees to the facts
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
mod tax;
#[cfg(test)]
mod tests;

use std::fmt;

pub use tax::Tax;

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
const VAIN_LOOKS: u32 = 12;
/// Guests are far apart if one has so many times the shares for its memory that another has.
const FAR_APART: f64 = 1.25;
/// What goes from one to the other then: one part in so many of what the smaller has.
const SHIFT: u64 = 32;

/// Free memory of the host, in pages: `0 < min < low < high`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Marks {
    min: u64,
    low: u64,
    high: u64,
}

impl Marks {
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
    fn wish(&self) -> u64 {
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
pub struct Verdict {
    /// How short of memory the host is.
    pub pressure: Pressure,
    /// What each guest may have in memory, in the order of the facts; `None`: what its own target says.
    pub resident: Vec<Option<u64>>,
    /// For the log.
    pub notice: Option<Notice>,
}

/// What an operator wants to know.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Notice {
    /// One guest gives up its reserve.
    #[error("{0}")]
    Pays(Payment),
    /// There is none to be had. Said once until there is memory again.
    #[error(
        "{free} pages of the host are free, below the mark of {min}, and no guest has anything left to give"
    )]
    NobodyPays {
        /// Free memory.
        free: u64,
        /// The mark that it is below.
        min: u64,
    },
}

/// Why one guest pays. Numbers are of pages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Payment {
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

impl fmt::Display for Payment {
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
struct Seat {
    id: u32,
    /// What it may have in memory because the host is short of it.
    allowed: Option<u64>,
    /// What it had at the last look.
    resident: u64,
    /// Looks in a row at which it was asked for pages and had not given any.
    vain: u32,
    /// Its reserve goes.
    pays: bool,
}

/// See the [module](self).
#[derive(Debug)]
pub struct Balance {
    marks: Marks,
    tax: Tax,
    /// In the order of the facts of the last look.
    seats: Vec<Seat>,
    reclaiming: bool,
    priority: u32,
    nobody_said: bool,
}

impl Balance {
    /// Nobody is asked for anything yet.
    pub fn new(marks: Marks, tax: Tax) -> Self {
        Self {
            marks,
            tax,
            seats: Vec::new(),
            reclaiming: false,
            priority: FIRST_PRIORITY,
            nobody_said: false,
        }
    }

    /// What is to be done where so many pages of the host are free. Guests may come and go from look to look.
    pub fn look(&mut self, free: u64, guests: &[Guest]) -> Verdict {
        self.seat(guests);
        let pressure = self.pressure(free);
        let expected = self.expected(free, guests);
        let missing = self.marks.high.saturating_sub(expected);
        let mut notice = None;
        match pressure {
            Pressure::Direct => {
                if missing > 0 && self.take(guests, missing) == 0 && self.leaving(guests) == 0 {
                    notice = self.pay(free, guests);
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
                self.shift(guests);
            }
        }
        Verdict {
            pressure,
            resident: self.seats.iter().map(|seat| seat.allowed).collect(),
            notice,
        }
    }

    /// A seat for each guest, in their order, with what has come of the last look.
    fn seat(&mut self, guests: &[Guest]) {
        let seats = guests.iter().map(|guest| {
            let before = self.seats.iter().find(|seat| seat.id == guest.id);
            let Some(&seat) = before else {
                return Seat {
                    id: guest.id,
                    allowed: None,
                    resident: guest.resident,
                    vain: 0,
                    pays: false,
                };
            };
            let asked = goal(guest, &seat) < guest.resident;
            let gave = guest.resident < seat.resident;
            Seat {
                resident: guest.resident,
                vain: if asked && !gave { seat.vain + 1 } else { 0 },
                ..seat
            }
        });
        self.seats = seats.collect();
    }

    fn pressure(&mut self, free: u64) -> Pressure {
        let Marks { min, low, high } = self.marks;
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
            for seat in &mut self.seats {
                (seat.vain, seat.pays) = (0, false);
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
        let coming = guests.iter().zip(&self.seats);
        let coming = coming.map(|(guest, seat)| goal(guest, seat).saturating_sub(guest.resident));
        (free + self.leaving(guests)).saturating_sub(coming.sum())
    }

    /// Pages that are on their way out, of guests that have not been asked in vain for long.
    fn leaving(&self, guests: &[Guest]) -> u64 {
        let willing = guests
            .iter()
            .zip(&self.seats)
            .filter(|(_, seat)| seat.is_willing());
        willing
            .map(|(guest, seat)| guest.resident.saturating_sub(goal(guest, seat)))
            .sum()
    }

    fn takeable(&self, guests: &[Guest], n: usize) -> u64 {
        let (guest, seat) = (&guests[n], &self.seats[n]);
        if seat.is_willing() {
            held(guest, seat).saturating_sub(keeps(guest, seat.pays))
        } else {
            0
        }
    }

    fn shares(&self, guests: &[Guest], n: usize) -> f64 {
        let (guest, seat) = (&guests[n], &self.seats[n]);
        self.tax.shares_per_page(guest, held(guest, seat))
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
            self.seats[n].allowed = Some(held(&guests[n], &self.seats[n]) - taken);
            left -= taken;
        }
        pages - left
    }

    /// Gives so many pages back to those who are short of them, each part to who has the most shares for what it holds.
    fn give(&mut self, guests: &[Guest], pages: u64) {
        for (guest, seat) in guests.iter().zip(&mut self.seats) {
            // Who is allowed what it wishes is not held any more.
            seat.allowed = seat.allowed.filter(|&allowed| allowed < guest.wish());
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
            let (wish, goal) = (guests[n].wish(), goal(&guests[n], &self.seats[n]));
            let given = part.min(left).min(wish - goal);
            self.seats[n].allowed = Some(goal + given).filter(|&allowed| allowed < wish);
            left -= given;
        }
    }

    /// Whether it would have more in memory if the host had.
    fn is_short(&self, guests: &[Guest], n: usize) -> bool {
        self.seats[n]
            .allowed
            .is_some_and(|allowed| allowed < guests[n].wish())
    }

    /// As [`Self::shares`], once it is where it is to be.
    fn shares_to_be(&self, guests: &[Guest], n: usize) -> f64 {
        self.tax
            .shares_per_page(&guests[n], goal(&guests[n], &self.seats[n]))
    }

    /// While nothing else moves: a little from who has the fewest shares for its memory to who has the most and is short.
    fn shift(&mut self, guests: &[Guest]) {
        let settled = |(guest, seat): (&Guest, &Seat)| {
            goal(guest, seat).abs_diff(guest.resident) <= BATCH || seat.allowed.is_none()
        };
        if !guests.iter().zip(&self.seats).all(settled) {
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
        let held_by = |n: usize| held(&guests[n], &self.seats[n]);
        let (has, allowed) = (held_by(giver), goal(&guests[taker], &self.seats[taker]));
        let pages = BATCH.max(has.min(held_by(taker)) / SHIFT);
        let pages = pages
            .min(self.takeable(guests, giver))
            .min(guests[taker].wish() - allowed);
        self.seats[giver].allowed = Some(has - pages);
        self.seats[taker].allowed = Some(allowed + pages);
    }

    /// Chooses who pays: of those that still can, who has the fewest shares for what it holds.
    fn pay(&mut self, free: u64, guests: &[Guest]) -> Option<Notice> {
        let min = self.marks.min;
        let can_pay = |&n: &usize| {
            let (guest, seat) = (&guests[n], &self.seats[n]);
            seat.is_willing() && held(guest, seat) > keeps(guest, true)
        };
        let mut payers: Vec<_> = (0..guests.len()).filter(can_pay).collect();
        payers.sort_by(|&a, &b| self.shares(guests, a).total_cmp(&self.shares(guests, b)));
        let Some(&n) = payers.first() else {
            let said = std::mem::replace(&mut self.nobody_said, true);
            return (!said).then_some(Notice::NobodyPays { free, min });
        };
        let next = payers.get(1);
        let next = next.map(|&n| (guests[n].id, tax::per_million(self.shares(guests, n))));
        let shares_per_million = tax::per_million(self.shares(guests, n));
        let (guest, seat) = (&guests[n], &mut self.seats[n]);
        let keeps = keeps(guest, true);
        let gives = held(guest, seat) - keeps;
        (seat.pays, seat.allowed) = (true, Some(keeps));
        let id = guest.id;
        Some(Notice::Pays(Payment {
            id,
            gives,
            free,
            min,
            shares_per_million,
            next,
        }))
    }
}

impl Seat {
    fn is_willing(&self) -> bool {
        self.vain < VAIN_LOOKS
    }
}

/// What a guest is to have in memory.
fn goal(guest: &Guest, seat: &Seat) -> u64 {
    seat.allowed.unwrap_or(u64::MAX).min(guest.wish())
}

/// What it has in memory that is not on its way out.
fn held(guest: &Guest, seat: &Seat) -> u64 {
    goal(guest, seat).min(guest.resident)
}

/// What it keeps; once it pays, no more than its floor.
fn keeps(guest: &Guest, pays: bool) -> u64 {
    let floor = guest.floor.min(guest.size);
    if pays {
        floor
    } else {
        floor + (guest.size - floor) / RESERVE
    }
}
