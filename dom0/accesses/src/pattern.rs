// SPDX-License-Identifier: MIT OR Apache-2.0
//! The choice of the page that is visited next.

/// How visits are spread over the pages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pattern {
    /// All pages equally often.
    Uniform,
    /// Few pages often, most pages rarely: the nth page in proportion to n^-0.99.
    Zipf,
    /// One after the other, repeatedly: the worst case for a policy that keeps the pages used last.
    Scan,
}

impl Pattern {
    /// All patterns.
    pub const ALL: [Self; 3] = [Self::Uniform, Self::Zipf, Self::Scan];

    /// The name on a command line.
    pub fn name(self) -> &'static str {
        match self {
            Self::Uniform => "uniform",
            Self::Zipf => "zipf",
            Self::Scan => "scan",
        }
    }

    /// A description in one line.
    pub fn about(self) -> &'static str {
        match self {
            Self::Uniform => "Every page as often as any other",
            Self::Zipf => {
                "Few pages often, most pages rarely: the nth page in proportion to n^-0.99"
            }
            Self::Scan => {
                "One after the other, repeatedly: the worst case for a policy that keeps the pages used last"
            }
        }
    }

    /// The pattern with this name.
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|pattern| pattern.name() == name)
    }
}

/// The skew of [`Pattern::Zipf`], as in YCSB.
const THETA: f64 = 0.99;

/// Random numbers: SplitMix64. They are good enough to spread visits, and the same on every
/// machine.
#[derive(Clone, Debug)]
pub struct Random(u64);

impl Random {
    /// Each seed and stream gives a different sequence.
    pub fn new(seed: u64, stream: u64) -> Self {
        // The stream is mixed. Otherwise two streams whose numbers differ by a multiple of the step
        // would give the same sequence, shifted.
        let mut random = Self(seed ^ mixed(stream));
        random.word();
        random
    }

    /// A random word.
    pub fn word(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        mixed(self.0)
    }

    /// A random number below `bound`, which is not 0.
    pub fn below(&mut self, bound: u64) -> u64 {
        let wide = u128::from(self.word()) * u128::from(bound);
        u64::try_from(wide >> 64).unwrap_or(0)
    }

    /// A random number from 0 up to 1, without 1.
    fn unit(&mut self) -> f64 {
        // 53 bits fit a double exactly.
        (self.word() >> 11) as f64 / (1_u64 << 53) as f64
    }
}

/// A one-to-one function that maps 0 to 0.
fn mixed(mut z: u64) -> u64 {
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// The pattern for a guest of one size. The guest's vcpus share it.
#[derive(Clone, Debug)]
pub struct Spread {
    pattern: Pattern,
    pages: u64,
    zipf: Zipf,
    /// Scatters ranks over memory. It is coprime to `pages`, so the mapping is one to one.
    stride: u64,
}

/// Gray's method: after one sum over all pages, each number takes constant time.
#[derive(Clone, Copy, Debug)]
struct Zipf {
    zeta: f64,
    eta: f64,
    alpha: f64,
}

impl Zipf {
    fn new(pages: u64) -> Self {
        let zeta = |n: u64| (1..=n).map(|rank| (rank as f64).powf(-THETA)).sum::<f64>();
        let all = zeta(pages);
        let eta = (1.0 - (2.0 / pages as f64).powf(1.0 - THETA)) / (1.0 - zeta(2) / all);
        Self {
            zeta: all,
            eta,
            alpha: 1.0 / (1.0 - THETA),
        }
    }

    fn rank(&self, unit: f64, pages: u64) -> u64 {
        let scaled = unit * self.zeta;
        if scaled < 1.0 {
            return 0;
        }
        if scaled < 1.0 + 0.5_f64.powf(THETA) {
            return 1.min(pages - 1);
        }
        let rank = pages as f64 * (self.eta * unit - self.eta + 1.0).powf(self.alpha);
        whole(rank).min(pages - 1)
    }
}

impl Spread {
    /// A pattern over this many pages; at least one.
    pub fn new(pattern: Pattern, pages: u64) -> Self {
        let pages = pages.max(1);
        // Only zipf needs the sum over all pages.
        let zipf = Zipf::new(if pattern == Pattern::Zipf { pages } else { 2 });
        let near = whole(pages as f64 * 0.618_033_988_75);
        let stride = (near.max(1)..).find(|&s| gcd(s, pages) == 1).unwrap_or(1);
        Self {
            pattern,
            pages,
            zipf,
            stride,
        }
    }

    /// The page of the `nth` visit of a vcpu that started at page `start`.
    pub fn page(&self, random: &mut Random, start: u64, nth: u64) -> u64 {
        match self.pattern {
            Pattern::Uniform => random.below(self.pages),
            Pattern::Scan => start.wrapping_add(nth) % self.pages,
            Pattern::Zipf => {
                let rank = self.zipf.rank(random.unit(), self.pages);
                let scattered = u128::from(rank) * u128::from(self.stride);
                u64::try_from(scattered % u128::from(self.pages)).unwrap_or(0)
            }
        }
    }
}

/// The whole part of a number, or 0 for a negative one.
#[expect(
    clippy::cast_possible_truncation,
    reason = "the function exists to truncate"
)]
fn whole(number: f64) -> u64 {
    number as u64
}

fn gcd(a: u64, b: u64) -> u64 {
    if b == 0 { a } else { gcd(b, a % b) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn visits(pattern: Pattern, pages: u64, n: u64) -> Vec<u64> {
        let spread = Spread::new(pattern, pages);
        let mut random = Random::new(1, 0);
        let mut counts = vec![0; usize::try_from(pages).unwrap()];
        for nth in 0..n {
            counts[usize::try_from(spread.page(&mut random, 3, nth)).unwrap()] += 1;
        }
        counts
    }

    #[test]
    fn scan_and_uniform_visit_every_page_about_equally_often() {
        assert!(visits(Pattern::Scan, 100, 1000).iter().all(|&n| n == 10));
        let uniform = visits(Pattern::Uniform, 100, 100_000);
        assert!(
            uniform.iter().all(|n| (800..1200).contains(n)),
            "{uniform:?}"
        );
    }

    #[test]
    fn zipf_visits_few_pages_most_of_the_time() {
        let mut counts = visits(Pattern::Zipf, 10_000, 100_000);
        counts.sort_unstable_by_key(|&n| std::cmp::Reverse(n));
        let hot: u64 = counts[..1000].iter().sum();
        // (ln 1000 + 0.58) / (ln 10000 + 0.58) = 76 % for a skew of 1.
        assert!((70_000..85_000).contains(&hot), "{hot}");
        assert!(counts[0] > 8_000, "{}", counts[0]);
    }

    /// Vcpus that follow each other over the same pages would make any policy look good.
    #[test]
    fn no_stream_is_another_one_shifted() {
        let words = |stream| {
            let mut random = Random::new(1, stream);
            (0..1000).map(move |_| random.word())
        };
        let all: std::collections::BTreeSet<_> = (0..16).flat_map(words).collect();
        assert_eq!(all.len(), 16 * 1000);
    }

    #[test]
    fn guests_of_any_size_work() {
        for pages in [1, 2, 3, 97] {
            for pattern in [Pattern::Uniform, Pattern::Zipf, Pattern::Scan] {
                assert_eq!(visits(pattern, pages, 500).iter().sum::<u64>(), 500);
            }
        }
    }
}
