// SPDX-License-Identifier: MIT OR Apache-2.0
//! The embedded host beside its floors: the time of a fault, and the rate of page-out.
//!
//! Each round measures the floors and the embedded host one after the other, with the same
//! placement and batch size, because the speed of machines drifts. The ratio of each round counts,
//! and the median round is shown. The pager is a second process, with pages in its memory (a warm
//! store).
//!
//! For faults, everything goes out and each page is then read once, in random order. All pages come
//! back as most recently used, so that nothing goes out meanwhile. For page-out, everything goes
//! out and comes back by itself until the store's memory has been used before, and then goes out
//! once more. comes back by itself until the store's memory has been used before, and then goes out
//! once more.

use std::ffi::OsStr;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitCode};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use p2m_paging::{Gfn, PAGE_SIZE, VcpuId};
use pager_shell::pin_to;
use pager_uffd::host::guest_memory::GuestMemory;
use pager_uffd::host::machine::{Machine, MachineOptions, usual_fault_cpu};
use tests_host::floors::{self, Layout, Placement};
use xenpaging::pager_main;

const PAGES: u64 = 16_384;
const ROUNDS: usize = 7;
/// The batch size of the pager; see `Config::new`.
const BATCH: u64 = 512;
const PATIENCE: Duration = Duration::from_secs(60);

type AnyError = Box<dyn std::error::Error>;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().collect();
    let name = arguments.first().map(Path::new).and_then(Path::file_name);
    if name == Some(OsStr::new(pager_main::NAME)) {
        return pager_main::main(std::env::args_os());
    }
    let done = match floors::serve(arguments.get(1..).unwrap_or_default()) {
        Ok(true) => Ok(()),
        Ok(false) => compare(),
        Err(error) => Err(error.into()),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("embedded: {error}");
            ExitCode::FAILURE
        }
    }
}

/// The results of one round.
struct Round {
    bare_us: f64,
    relay_us: f64,
    fault_us: f64,
    fault_p99_us: f64,
    floor_out_ns: f64,
    out_ns: f64,
}

fn compare() -> Result<(), AnyError> {
    let program = std::env::current_exe()?;
    println!("round  bare  relay  fault    p99  fault/relay   out floor    out  floor/out");
    println!("         us     us     us     us                  ns/page ns/page");
    let mut rounds = Vec::new();
    for nth in 1..=ROUNDS {
        let bare = floors::bare_handler(Placement::OneCpu, PAGES)?;
        let relay = floors::relay(&program, Placement::OneCpu, PAGES)?;
        let floor_out = floors::page_out(PAGES, BATCH, Layout::CONTIGUOUS, false)?;
        let out = page_out(&program)?;
        let mut faults = faults(&program, nth as u64)?;
        faults.sort_unstable();
        let us = |ns: u64| ns as f64 / 1000.0;
        let round = Round {
            bare_us: us(bare.p50_ns),
            relay_us: us(relay.p50_ns),
            fault_us: us(faults[faults.len() / 2]),
            fault_p99_us: us(faults[faults.len() * 99 / 100]),
            floor_out_ns: floor_out.out_ns,
            out_ns: out.as_nanos() as f64 / PAGES as f64,
        };
        print_round(&nth.to_string(), &round);
        rounds.push(round);
    }
    let median = |figure: fn(&Round) -> f64| {
        let mut figures: Vec<f64> = rounds.iter().map(figure).collect();
        figures.sort_by(f64::total_cmp);
        figures[figures.len() / 2]
    };
    println!(
        "median of {ROUNDS} rounds: fault p50 is {:.2} x the relay floor; page-out runs at {:.0} % of its floor",
        median(|r| r.fault_us / r.relay_us),
        median(|r| 100.0 * r.floor_out_ns / r.out_ns)
    );
    Ok(())
}

fn print_round(name: &str, r: &Round) {
    println!(
        "{name:>5} {:5.1} {:6.1} {:6.1} {:6.1} {:12.2} {:11.0} {:7.0} {:9.0} %",
        r.bare_us,
        r.relay_us,
        r.fault_us,
        r.fault_p99_us,
        r.fault_us / r.relay_us,
        r.floor_out_ns,
        r.out_ns,
        100.0 * r.floor_out_ns / r.out_ns
    );
}

/// The second process, ended when dropped.
struct Pager(Child);

impl Drop for Pager {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// The time until everything is out, into slots that have been used before.
fn page_out(program: &PathBuf) -> Result<Duration, AnyError> {
    let (machine, _pager) = start(program, 0)?;
    let out = || {
        let start = Instant::now();
        machine.set_target(0);
        wait(|| PAGES - machine.counts().paged).map(|()| start.elapsed())
    };
    out()?;
    machine.set_target(PAGES.cast_signed());
    wait(|| machine.counts().paged)?;
    Ok(out()?)
}

/// The time of each fault, in nanoseconds.
fn faults(program: &PathBuf, seed: u64) -> Result<Vec<u64>, AnyError> {
    let (machine, _pager) = start(program, PAGES)?;
    machine.set_target(0);
    wait(|| PAGES - machine.counts().paged)?;
    let vcpu = std::thread::spawn(move || walk(machine, seed));
    Ok(vcpu.join().map_err(|_| "the vcpu has failed")??)
}

/// A machine with a full guest, and its pager.
fn start(program: &PathBuf, mru_pages: u64) -> Result<(&'static Machine, Pager), AnyError> {
    static NTH: AtomicU64 = AtomicU64::new(0);
    let memory = GuestMemory::create(PAGES)?;
    for gfn in 0..PAGES {
        let page = [u8::try_from(gfn % 251)? + 1; PAGE_SIZE];
        memory
            .store(Gfn::new_truncate(gfn), &page)
            .ok_or("page out of range")?;
    }
    let nth = NTH.fetch_add(1, Ordering::Relaxed);
    let name = format!("embedded-bench-{}-{nth}", std::process::id());
    let options = MachineOptions {
        vcpus: 1,
        cpu: usual_fault_cpu(),
        name: name.clone(),
    };
    let machine = Machine::start(memory, &options)?;
    let pager = Command::new(program)
        .arg0(pager_main::NAME)
        .args(["--embedded-host", &name])
        .args(["--policy", "sweep", "--mru_size", &mru_pages.to_string()])
        .spawn()?;
    let pager = Pager(pager);
    wait(|| u64::from(!machine.paging().is_enabled()))?;
    Ok((machine, pager))
}

/// Touches every page once.
fn walk(machine: &'static Machine, seed: u64) -> Result<Vec<u64>, String> {
    machine.become_vcpu(VcpuId(0));
    usual_fault_cpu().into_iter().for_each(pin_to);
    let mut faults = Vec::with_capacity(usize::try_from(PAGES).unwrap_or(0));
    // An odd factor visits each index of a power of two once, far from its neighbours.
    let step = 2 * (seed * 2_654_435_761 % PAGES) + 1;
    for nth in 0..PAGES {
        let gfn = nth * step % PAGES;
        let page = machine
            .memory()
            .page(Gfn::new_truncate(gfn))
            .ok_or("page out of range")?;
        let start = Instant::now();
        let word = page[0].load(Ordering::Relaxed);
        faults.push(u64::try_from(start.elapsed().as_nanos()).unwrap_or(u64::MAX));
        if word != u64::from_ne_bytes([u8::try_from(gfn % 251).unwrap_or(0) + 1; 8]) {
            return Err(format!("gfn {gfn:#x} came back wrong: {word:#x}"));
        }
    }
    Ok(faults)
}

/// Waits until no pages are left. Polls rarely while there are many, so that polling is not
/// measured.
fn wait(mut left: impl FnMut() -> u64) -> Result<(), &'static str> {
    let start = Instant::now();
    loop {
        let pages = left();
        if pages == 0 {
            return Ok(());
        }
        if start.elapsed() > PATIENCE {
            return Err("the pager does nothing");
        }
        // A page needs at least this time.
        std::thread::sleep(Duration::from_nanos(500 * pages).max(Duration::from_micros(100)));
    }
}
