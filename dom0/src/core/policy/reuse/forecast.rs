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

use super::history::{AGE_TICKS, AGES, CLASSES, HISTORIES, History};

/// So much of what is known is kept at a tick.
const KEPT: f64 = 0.97;

/// So many uses have to be seen to count as much as what is known in general.
const PRIOR_USES: f64 = 10.0;

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
            order: [History { class: 0, age: 0 }; HISTORIES],
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
        for class in 0..CLASSES {
            let rates = std::array::from_fn(|age| {
                let at = History { class, age }.index();
                blend(self.uses[at], self.page_ticks[at], general[age])
            });
            for age in 0..AGES {
                worth[History { class, age }.index()] = worth_keeping(&rates, age);
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
        let sum = |of: &[f64; HISTORIES], age| of.iter().skip(age).step_by(AGES).sum::<f64>();
        let uses: f64 = self.uses.iter().sum();
        let page_ticks: f64 = self.page_ticks.iter().sum();
        // Of anything at all, were there nothing else to go by.
        let rate = (uses + 0.01) / (page_ticks + 1.0);
        std::array::from_fn(|age| {
            let (uses, page_ticks) = (sum(&self.uses, age), sum(&self.page_ticks, age));
            blend(uses, page_ticks, rate / AGE_TICKS[age])
        })
    }
}

/// A rate seen, and one that was expected.
fn blend(uses: f64, page_ticks: f64, expected: f64) -> f64 {
    (uses + PRIOR_USES) / (page_ticks + PRIOR_USES / expected.max(1e-9))
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

    fn place(forecast: &Forecast, class: usize, age: usize) -> usize {
        let history = History { class, age };
        let found = forecast.order().iter().position(|other| *other == history);
        found.unwrap()
    }

    #[test]
    fn who_knows_nothing_evicts_the_oldest() {
        let forecast = Forecast::new();
        let ages: Vec<_> = forecast.order().iter().map(|history| history.age).collect();
        assert!(ages.is_sorted_by(|a, b| a >= b), "{ages:?}");
    }

    #[test]
    fn pages_of_a_loop_are_kept_the_longer_the_older_they_are() {
        let mut forecast = Forecast::new();
        for _ in 0..50 {
            (0..100).for_each(|_| forecast.used(History { class: 3, age: 5 }));
            forecast.tick(|history| match history {
                History {
                    class: 3,
                    age: 0..5,
                } => 100.0,
                History { class: 3, age: 5 } => 50.0,
                _ => 0.0,
            });
        }
        assert!(place(&forecast, 3, 1) < place(&forecast, 3, 3));
        assert!(place(&forecast, 3, 3) < place(&forecast, 3, 5));
    }

    #[test]
    fn pages_never_used_again_go_before_those_that_are() {
        let mut forecast = Forecast::new();
        for _ in 0..50 {
            (0..50).for_each(|_| forecast.used(History { class: 3, age: 6 }));
            forecast.tick(|history| if history.age < 8 { 100.0 } else { 0.0 });
        }
        assert!(place(&forecast, 12, 1) < place(&forecast, 3, 6));
        // And what is learned is forgotten.
        for _ in 0..2000 {
            (0..50).for_each(|_| forecast.used(History { class: 12, age: 6 }));
            forecast.tick(|history| if history.age < 8 { 100.0 } else { 0.0 });
        }
        assert!(place(&forecast, 12, 6) > place(&forecast, 3, 6));
    }
}
