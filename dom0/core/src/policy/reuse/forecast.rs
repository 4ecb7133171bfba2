// SPDX-License-Identifier: MIT OR Apache-2.0
//! Which pages are likely to be used soon, learned from what became of pages with the same history.
//!
//! For each history: how many pages with it were used, and how many page-ticks passed before. Their
//! quotient is the *rate* at which such a page is used. From the rates of a class, age by age, follows what may
//! be gained by keeping a page that is so old now: the uses that it will have seen after some time,
//! divided by the time it will have taken memory, at whichever time that is best. This is what Gittins' index
//! is for a bandit, and Beckmann's hit density for a cache. It grows with age in a loop, so that the
//! page used last goes first, and falls with age in almost anything else.
//!
//! Where little has been seen, what is known in general stands in for it: the rates of all classes at that age,
//! and where little has been seen of those, that a page is used the less the older it is. A policy that has learned
//! nothing evicts the oldest.

use super::history::{AGE_TICKS, AGES, CLASSES, HISTORIES, History, OLD};

/// So much of what is known is kept at a tick.
const KEPT: f64 = 0.97;

/// So many uses at an age have to be seen to count as much as that a page is used the less the older it is.
const PRIOR_USES: f64 = 10.0;

/// So many uses of a class at an age have to be seen to count as much as what is known of all classes.
const PRIOR_USES_OF_A_CLASS: f64 = 20.0;

/// See the [module](self).
#[derive(Debug)]
pub(super) struct Forecast {
    uses: [f64; HISTORIES],
    page_ticks: [f64; HISTORIES],
    /// The histories, the least worth keeping first.
    order: [History; HISTORIES],
}

impl Forecast {
    pub(super) fn new() -> Self {
        let mut forecast = Self {
            uses: [0.0; HISTORIES],
            page_ticks: [0.0; HISTORIES],
            order: [History::Old; HISTORIES],
        };
        forecast.rank();
        forecast
    }

    /// A page with this history was used.
    pub(super) fn used(&mut self, history: History) {
        self.uses[history.index()] += 1.0;
    }

    /// A tick passed over so many pages with each history.
    pub(super) fn tick(&mut self, pages: impl Fn(History) -> f64) {
        for history in History::all() {
            let at = history.index();
            self.uses[at] *= KEPT;
            self.page_ticks[at] = self.page_ticks[at] * KEPT + pages(history);
        }
        self.rank();
    }

    /// The histories, the least worth keeping first.
    pub(super) fn order(&self) -> &[History; HISTORIES] {
        &self.order
    }

    fn rank(&mut self) {
        let general = self.rates_by_age();
        let mut worth = [0.0; HISTORIES];
        worth[History::Old.index()] = worth_keeping(&general, OLD);
        for class in 0..CLASSES {
            let mut rates = general;
            for (age, rate) in rates.iter_mut().enumerate().take(OLD) {
                let at = History::new(class, age).index();
                let seen = (self.uses[at], self.page_ticks[at]);
                *rate = blend(seen, *rate, PRIOR_USES_OF_A_CLASS);
            }
            for age in 0..OLD {
                worth[History::new(class, age).index()] = worth_keeping(&rates, age);
            }
        }
        for (place, history) in self.order.iter_mut().zip(History::all()) {
            *place = history;
        }
        self.order.sort_unstable_by(|a, b| {
            let (a, b) = (a.index(), b.index());
            worth[a].total_cmp(&worth[b]).then(b.cmp(&a))
        });
    }

    fn rates_by_age(&self) -> [f64; AGES] {
        let sum = |of: &[f64; HISTORIES], age| {
            let alike = History::all().filter(|history| history.age() == age);
            alike.map(|history| of[history.index()]).sum::<f64>()
        };
        let uses: f64 = self.uses.iter().sum();
        let page_ticks: f64 = self.page_ticks.iter().sum();
        // Of anything at all, were there nothing else to go by.
        let rate = (uses + 0.01) / (page_ticks + 1.0);
        std::array::from_fn(|age| {
            let seen = (sum(&self.uses, age), sum(&self.page_ticks, age));
            blend(seen, rate / AGE_TICKS[age], PRIOR_USES)
        })
    }
}

/// Uses and page-ticks seen, and the rate that was expected, which counts as so many uses.
fn blend((uses, page_ticks): (f64, f64), expected: f64, prior_uses: f64) -> f64 {
    (uses + prior_uses) / (page_ticks + prior_uses / expected.max(1e-9))
}

/// Uses gained per tick by keeping a page of this age as long as is best.
fn worth_keeping(rates: &[f64; AGES], age: usize) -> f64 {
    let (mut best, mut unused, mut used, mut ticks) = (0.0, 1.0, 0.0, 0.0);
    for (rate, age_ticks) in rates.iter().zip(&AGE_TICKS).skip(age) {
        // Used within this age, if it was not before.
        let chance = unused * (1.0 - (-rate * age_ticks).exp());
        used += chance;
        ticks += chance / rate;
        unused -= chance;
        best = f64::max(best, used / ticks);
    }
    best
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place(forecast: &Forecast, history: History) -> usize {
        let found = forecast.order().iter().position(|other| *other == history);
        found.unwrap()
    }

    #[test]
    fn who_knows_nothing_evicts_the_oldest() {
        let forecast = Forecast::new();
        let order = forecast.order();
        assert!(order.is_sorted_by(|a, b| a.age() >= b.age()), "{order:?}");
    }

    #[test]
    fn pages_of_a_loop_are_kept_the_longer_the_older_they_are() {
        let mut forecast = Forecast::new();
        for _ in 0..50 {
            (0..100).for_each(|_| forecast.used(History::new(3, 5)));
            forecast.tick(|history| match history {
                History::Recent {
                    class: 3,
                    age: 0..5,
                } => 100.0,
                History::Recent { class: 3, age: 5 } => 50.0,
                _ => 0.0,
            });
        }
        let [young, middle, due] = [1, 3, 5].map(|age| place(&forecast, History::new(3, age)));
        assert!(young < middle && middle < due);
    }

    #[test]
    fn pages_never_used_again_go_before_those_that_are() {
        let mut forecast = Forecast::new();
        for _ in 0..50 {
            (0..50).for_each(|_| forecast.used(History::new(3, 6)));
            forecast.tick(|history| if history.age() < OLD { 100.0 } else { 0.0 });
        }
        let [once, again] = [History::new(12, 1), History::new(3, 6)];
        assert!(place(&forecast, once) < place(&forecast, again));
        assert!(place(&forecast, History::Old) < place(&forecast, again));
        // And what is learned is forgotten.
        for _ in 0..2000 {
            (0..50).for_each(|_| forecast.used(History::new(12, 6)));
            forecast.tick(|history| if history.age() < OLD { 100.0 } else { 0.0 });
        }
        assert!(place(&forecast, History::new(12, 6)) > place(&forecast, again));
    }
}
