// SPDX-License-Identifier: MIT OR Apache-2.0
//! Prints the least cost of paging on this machine, and is the second process of that measurement.

use std::process::ExitCode;

use tests_host::floors::{self, FloorError, Layout, Placement};

const FAULTS: u64 = 20_000;
const GUEST_PAGES: u64 = 16_384;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let done = match floors::serve(&arguments) {
        Ok(true) => Ok(()),
        Ok(false) if arguments.is_empty() => print(),
        Ok(false) => {
            eprintln!("floors: no arguments are taken");
            return ExitCode::from(2);
        }
        Err(error) => Err(error),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(FloorError::Open(error)) => {
            eprintln!("floors: {error}");
            ExitCode::from(2)
        }
        Err(error) => {
            eprintln!("floors: {error}");
            ExitCode::FAILURE
        }
    }
}

fn print() -> Result<(), FloorError> {
    let program = std::env::current_exe().map_err(FloorError::SecondProcess)?;
    println!("fault latency, us       p50     p99   faults/s");
    for placement in Placement::ALL {
        let bare = floors::bare_handler(placement, FAULTS);
        let relayed = floors::relay(&program, placement, FAULTS);
        for (what, latency) in [("bare", bare), ("relay", relayed)] {
            match latency {
                Ok(latency) => println!(
                    "{what:5} {:13} {:7.2} {:7.1} {:10.0}",
                    format!("{placement:?}"),
                    us(latency.p50_ns),
                    us(latency.p99_ns),
                    latency.faults_per_second
                ),
                Err(error @ FloorError::OneCpuOnly) => println!("{what:5} {placement:?}: {error}"),
                Err(error) => return Err(error),
            }
        }
    }
    println!("\nns/page             batch protect    copy discard     out out p99      in");
    for running_vcpu in [false, true] {
        for (name, layout) in [
            ("contiguous", Layout::CONTIGUOUS),
            ("6 of 8", Layout { run: 6, gap: 2 }),
        ] {
            for batch in [1, 32, 64, 256, 512] {
                let costs = floors::page_out(GUEST_PAGES, batch, layout, running_vcpu)?;
                println!(
                    "{name:10} {:7} {batch:6} {:7.0} {:7.0} {:7.0} {:7.0} {:7.0} {:7.0}",
                    if running_vcpu { "running" } else { "" },
                    costs.protect_ns,
                    costs.copy_ns,
                    costs.discard_ns,
                    costs.out_ns,
                    costs.out_p99_ns,
                    costs.in_ns
                );
            }
        }
    }
    Ok(())
}

#[expect(clippy::cast_precision_loss, reason = "shown with four digits")]
fn us(ns: u64) -> f64 {
    ns as f64 / 1e3
}
