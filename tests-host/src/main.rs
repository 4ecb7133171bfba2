// SPDX-License-Identifier: MIT OR Apache-2.0
//! `simulate`: runs the simulation with many seeds, or one scenario again.

use std::ops::Range;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use clap::{Args, Parser, Subcommand};
use p2m_paging::p2m::table::Outcome;
use tests_host::pathologies;
use tests_host::simulate::{
    Failed, KillTally, Knob, Scenario, Tally, Trace, draw, kill_everywhere, run, run_many, shrink,
};

/// Runs that the shrinking of a scenario may take.
const SHRINK_RUNS: u32 = 500;

#[derive(Parser)]
#[command(about = "Tests that cross rooms, to be run by hand")]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Runs hypervisor, guest, pager and disk from seeds, with injected faults, and checks
    /// everything
    Simulate(Box<Simulate>),
    /// Produces what goes wrong when a guest that pages by itself is paged, and prints a table
    Pathologies,
}

#[derive(Args)]
struct Simulate {
    /// One seed
    #[arg(long, conflicts_with_all = ["seeds", "replay"])]
    seed: Option<u64>,
    /// Seeds A to B, B included
    #[arg(long, value_name = "A-B", value_parser = seeds)]
    seeds: Option<Range<u64>>,
    /// Stop after so many minutes
    #[arg(long)]
    minutes: Option<u64>,
    /// Threads; one for each CPU if not given
    #[arg(long)]
    threads: Option<usize>,
    /// Run a small scenario of each seed once for each action of its pager, which is killed after it.
    /// Another pager takes over
    #[arg(long, conflicts_with = "replay")]
    kill_everywhere: bool,
    /// Run this scenario again, as a failure prints it, and print everything that happens
    #[arg(long, value_name = "SCENARIO", conflicts_with = "seeds")]
    replay: Option<Scenario>,
    /// Instead of printing, draw the run into this SVG file
    #[arg(long, value_name = "FILE", requires = "replay")]
    picture: Option<PathBuf>,
}

fn seeds(text: &str) -> Result<Range<u64>, String> {
    let number = |text: &str| {
        let number = text.parse::<u64>();
        number.map_err(|_| format!("{text:?} is no number"))
    };
    let (first, last) = text.split_once('-').ok_or("not of the form A-B")?;
    let range = number(first)?..number(last)?.saturating_add(1);
    if range.is_empty() {
        Err("B is below A".into())
    } else {
        Ok(range)
    }
}

fn main() -> ExitCode {
    match Arguments::parse().command {
        Command::Pathologies => pathologies(),
        Command::Simulate(what) => match what.replay {
            Some(scenario) => replay(&scenario, what.picture.as_deref()),
            None => many(&what),
        },
    }
}

fn pathologies() -> ExitCode {
    println!("{}", pathologies::HEAD);
    for row in pathologies::measure() {
        println!("{row}");
    }
    ExitCode::SUCCESS
}

fn replay(scenario: &Scenario, picture: Option<&Path>) -> ExitCode {
    let trace = Trace::whole();
    let ran = run(scenario, &trace);
    match picture {
        Some(file) => {
            let svg = draw(&scenario.to_string(), &trace.looks()).expect("a string takes all");
            if let Err(error) = std::fs::write(file, svg) {
                eprintln!("{}: {error}", file.display());
                return ExitCode::FAILURE;
            }
        }
        None => trace.lines().iter().for_each(|line| println!("{line}")),
    }
    println!("trace hash {:#018x}", trace.hash());
    match ran {
        Ok(_) => ExitCode::SUCCESS,
        Err(failed) => {
            println!("step {}: {}", failed.step, failed.what);
            ExitCode::FAILURE
        }
    }
}

fn many(what: &Simulate) -> ExitCode {
    let all = match (what.seed, &what.seeds) {
        (Some(seed), _) => seed..seed + 1,
        (None, Some(seeds)) => seeds.clone(),
        (None, None) => 0..u64::MAX,
    };
    if what.seed.is_none() && what.seeds.is_none() && what.minutes.is_none() {
        eprintln!("which seeds? --seed, --seeds A-B or --minutes");
        return ExitCode::from(2);
    }
    let cpus = std::thread::available_parallelism().map_or(1, usize::from);
    let start = Instant::now();
    let minutes = what
        .minutes
        .map(|minutes| start + Duration::from_secs(60 * minutes));
    let threads = what.threads.unwrap_or(cpus);
    if what.kill_everywhere {
        return report_kills(&kill_everywhere(all, minutes, threads), start.elapsed());
    }
    let tally = run_many(all, minutes, threads);
    say(&tally, start.elapsed());
    match &tally.failed {
        Some((scenario, failed)) => {
            explain(scenario, failed);
            ExitCode::FAILURE
        }
        None => ExitCode::SUCCESS,
    }
}

fn report_kills(tally: &KillTally, took: Duration) -> ExitCode {
    println!(
        "{} seeds held in {:.1} s: {} kill points, {} take-overs, {} pages adopted, {} restored, {} lost",
        tally.seeds,
        took.as_secs_f64(),
        tally.kill_points,
        tally.deaths.take_overs,
        tally.deaths.adopted,
        tally.deaths.restored,
        tally.deaths.lost,
    );
    match &tally.failed {
        Some((scenario, failed)) => {
            println!("kill point {}:", scenario.get(Knob::Death));
            explain(scenario, failed);
            ExitCode::FAILURE
        }
        None => ExitCode::SUCCESS,
    }
}

fn say(tally: &Tally, took: Duration) {
    let sum = &tally.sum;
    let (missed, legal) = sum
        .coverage
        .missed(|outcome| matches!(outcome, Outcome::To(_)));
    println!(
        "{} seeds held in {:.1} s: {} events, {} accesses, {} faults, {} evicted, {} task switches; longest wait {} us; \
         {} take-overs, {} pages adopted, {} restored, {} lost; {} of {legal} legal moves seen; hash {:#018x}",
        tally.passed,
        took.as_secs_f64(),
        sum.happened,
        sum.accesses,
        sum.faults,
        sum.evicted,
        sum.switches,
        sum.longest_wait_ns / 1000,
        sum.deaths.take_overs,
        sum.deaths.adopted,
        sum.deaths.restored,
        sum.deaths.lost,
        legal - missed.len(),
        sum.hash,
    );
    if tally.passed > 1 && !missed.is_empty() {
        println!("not seen: {missed:?}");
    }
}

fn explain(scenario: &Scenario, failed: &Failed) {
    println!(
        "seed {} FAILED at step {}: {}",
        scenario.seed, failed.step, failed.what
    );
    println!("its scenario: {scenario}");
    let shrunk = shrink(scenario, SHRINK_RUNS);
    let trace = Trace::new();
    if let Err(failed) = run(&shrunk, &trace) {
        println!("the last that happened in the simplest that still fails:");
        for line in trace.lines() {
            println!("{line}");
        }
        println!("step {}: {}", failed.step, failed.what);
    }
    println!("again: cargo run -p tests-host --release -- simulate --replay {shrunk}");
}
