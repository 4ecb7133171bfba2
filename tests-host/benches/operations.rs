// SPDX-License-Identifier: MIT OR Apache-2.0
//! Nanoseconds for each operation, for one page and for a batch of 64, with 1 and with 128 vcpus.
//!
//! Each figure is for the whole batch. `populate` and `resume` are always for one page: a vcpu
//! faults on one page at a time.

mod common;

use std::time::{Duration, Instant};

use common::Bench;
use criterion::{Criterion, criterion_group, criterion_main};

/// One operation on a domain.
type Operation = (&'static str, fn(&mut Bench));

/// A page's life, in order.
const OPERATIONS: [Operation; 5] = [
    ("nominate", Bench::nominate),
    ("evict", Bench::evict),
    ("populate", Bench::populate),
    ("prep", Bench::prep),
    ("resume", Bench::resume),
];
const RESUME: usize = 4;

/// Times one step of the cycle. The other steps restore the state.
fn measure(c: &mut Criterion, name: &str, batch: u64, vcpus: u32, timed: usize) {
    let mut bench = Bench::new(batch, vcpus);
    c.bench_function(&format!("{name}/batch {batch}/{vcpus} vcpus"), |b| {
        b.iter_custom(|cycles| {
            let mut total = Duration::ZERO;
            for _ in 0..cycles {
                for (step, operation) in OPERATIONS.iter().enumerate() {
                    if step == RESUME {
                        bench.answer();
                    }
                    let start = Instant::now();
                    operation.1(&mut bench);
                    if step == timed {
                        total += start.elapsed();
                    }
                }
            }
            total
        });
    });
}

fn operations(c: &mut Criterion) {
    for (timed, (name, _)) in OPERATIONS.into_iter().enumerate() {
        for vcpus in [1, 128] {
            for batch in [1, 64] {
                let about_one_page = matches!(name, "populate" | "resume");
                if batch == 1 || !about_one_page {
                    measure(c, name, batch, vcpus, timed);
                }
            }
        }
    }
}

criterion_group! {
    name = benches;
    config = Criterion::default()
        .warm_up_time(Duration::from_millis(200))
        .measurement_time(Duration::from_millis(800));
    targets = operations
}
criterion_main!(benches);
