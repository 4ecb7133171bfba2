// SPDX-License-Identifier: MIT OR Apache-2.0
//! Instructions for each operation, counted by callgrind: the same on every machine and every run.
//!
//! The program runs itself under `valgrind`, once for each operation, and prints a table. The count
//! includes the plain machine's own work.

mod common;

use std::path::Path;
use std::process::Command;

use common::Bench;

const CYCLES: u64 = 200;
const OPERATIONS: [&str; 5] = ["nominate", "evict", "populate", "prep", "resume"];

fn cycles(batch: u64, vcpus: u32) {
    let mut bench = Bench::new(batch, vcpus);
    for _ in 0..CYCLES {
        bench.nominate();
        bench.evict();
        bench.populate();
        bench.prep();
        bench.answer();
        bench.resume();
    }
}

/// Instructions in one operation, of which there were [`CYCLES`].
fn count(program: &Path, operation: &str, batch: u64, vcpus: u32) -> Result<u64, String> {
    let output = Command::new("valgrind")
        .args(["--tool=callgrind", "--callgrind-out-file=/dev/null"])
        .arg(format!("--toggle-collect=*Bench::{operation}*"))
        .arg(program)
        .args(["--cycles", &batch.to_string(), &vcpus.to_string()])
        .output()
        .map_err(|e| format!("valgrind: {e}"))?;
    let said = String::from_utf8_lossy(&output.stderr);
    let collected = said
        .lines()
        .find_map(|line| line.split("Collected :").nth(1));
    let collected = collected.and_then(|n| n.trim().parse::<u64>().ok());
    collected
        .map(|n| n / CYCLES)
        .ok_or_else(|| said.into_owned())
}

fn main() -> Result<(), String> {
    let arguments: Vec<String> = std::env::args().collect();
    if let Some(at) = arguments.iter().position(|a| a == "--cycles") {
        let number = |n: usize| arguments[at + n].parse::<u32>().expect("a number");
        cycles(number(1).into(), number(2));
        return Ok(());
    }
    let program = std::env::current_exe().map_err(|e| e.to_string())?;
    println!("instructions     batch 1, 1 vcpu   batch 64, 1 vcpu (per page)   batch 1, 128 vcpus");
    for operation in OPERATIONS {
        let one = count(&program, operation, 1, 1)?;
        let many = match operation {
            "populate" | "resume" => "-".to_owned(),
            _ => {
                let all = count(&program, operation, 64, 1)?;
                format!("{all} ({})", all / 64)
            }
        };
        let busy = count(&program, operation, 1, 128)?;
        println!("{operation:<16} {one:>15}   {many:>27}   {busy:>18}");
    }
    Ok(())
}
