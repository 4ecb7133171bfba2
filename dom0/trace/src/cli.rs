// SPDX-License-Identifier: MIT OR Apache-2.0
//! The command line of `xenpaging-trace`.

use std::ffi::OsString;
use std::fmt::Display;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context as _, bail};
use clap::builder::{PossibleValue, PossibleValuesParser, TypedValueParser};
use clap::{Parser, Subcommand, ValueEnum as _};
use pager_accesses::Trace;
use pager_accesses::format::TraceWriter;
use pager_core::policy::PolicyName;

use super::chart::Curve;
use super::compare::{Column, Reader, Subject, geometric_mean};
use super::generate::Synthetic;
use super::{chart, lackey};

/// Make traces of page accesses, and replay them against the policies.
#[derive(Clone, Debug, PartialEq, Eq, Parser)]
#[command(name = "xenpaging-trace", version, infer_long_args = true)]
pub struct Cli {
    /// The command.
    #[command(subcommand)]
    pub command: Command,
}

/// The commands.
#[derive(Clone, Debug, PartialEq, Eq, Subcommand)]
pub enum Command {
    /// Reduces the output of `valgrind --tool=lackey --trace-mem=yes` on standard input to a trace.
    Lackey {
        /// File for the trace.
        file: PathBuf,
        /// Most accesses of the trace; the rest of the input is not read.
        #[arg(long, value_name = "N", default_value_t = u64::MAX, hide_default_value = true)]
        at_most: u64,
    },
    /// Generates a synthetic trace.
    Make {
        /// Kind of the trace.
        kind: Synthetic,
        /// File for the trace.
        file: PathBuf,
        /// Seed of all random choices.
        #[arg(long, default_value_t = 1)]
        seed: u64,
    },
    /// Counts the misses of policies on traces, compared with the optimum and exact LRU.
    Replay(Replay),
    /// Counts the misses that remain with each way of reading ahead, and the pages that it brings
    /// in for nothing.
    Ahead(ReadAheadArgs),
}

/// Options of `replay`.
#[derive(Clone, Debug, PartialEq, Eq, clap::Args)]
pub struct Replay {
    /// Policy by its name, or `all` (repeatable).
    #[arg(long, value_name = "NAME", default_value = "all", value_parser = policies)]
    policy: Vec<Policies>,
    /// Percentage of a trace's pages that fits into memory (repeatable).
    #[arg(long, value_name = "PERCENT", default_values_t = [75, 50, 25],
          value_parser = clap::value_parser!(u64).range(1..=100))]
    memory: Vec<u64>,
    /// Draw a curve for each trace into this folder, with a point at every 12.5 per cent.
    #[arg(long, value_name = "FOLDER")]
    svg: Option<PathBuf>,
    #[command(flatten)]
    traces: Traces,
}

/// Options of `ahead`.
#[derive(Clone, Debug, PartialEq, Eq, clap::Args)]
pub struct ReadAheadArgs {
    /// Policy that chooses which pages go out.
    #[arg(long, value_name = "NAME", default_value = "reuse", value_parser = policy())]
    policy: PolicyName,
    /// Percentage of a trace's pages that fits into memory (repeatable).
    #[arg(long, value_name = "PERCENT", default_values_t = [50],
          value_parser = clap::value_parser!(u64).range(1..=100))]
    memory: Vec<u64>,
    #[command(flatten)]
    traces: Traces,
}

/// The traces.
#[derive(Clone, Debug, PartialEq, Eq, clap::Args)]
struct Traces {
    /// Read only this many accesses of each trace.
    #[arg(long, value_name = "N", default_value_t = usize::MAX, hide_default_value = true)]
    at_most: usize,
    /// Traces: files, names of synthetic traces (see `make`), or `synthetic` for all of those.
    #[arg(required = true)]
    traces: Vec<PathBuf>,
}

/// The policies that one `--policy` names.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Policies(Vec<PolicyName>);

fn policies(name: &str) -> Result<Policies, String> {
    if name == "all" {
        return Ok(Policies(PolicyName::ALL.to_vec()));
    }
    named(name).map(|policy| Policies(vec![policy]))
}

fn named(name: &str) -> Result<PolicyName, String> {
    PolicyName::named(name).ok_or_else(|| format!("invalid variant: {name}"))
}

/// A policy, by its name.
fn policy() -> impl TypedValueParser<Value = PolicyName> {
    let possible = |policy: PolicyName| PossibleValue::new(policy.name()).help(policy.about());
    PossibleValuesParser::new(PolicyName::ALL.map(possible)).try_map(|name| named(&name))
}

/// Runs the program with these arguments, its name first. Bad input is one line on standard error
/// that names it, and exit code 2. Exit code 1 means that the command failed.
pub fn main(args: impl IntoIterator<Item = OsString>) -> ExitCode {
    match Cli::try_parse_from(args) {
        Ok(cli) => run(&cli.command),
        Err(error) if error.use_stderr() => {
            eprintln!("xenpaging-trace: {}", one_line(&error));
            ExitCode::from(2)
        }
        Err(help) => {
            // Standard output may be closed. Help that nobody reads is not a failure.
            let _ = help.print();
            ExitCode::SUCCESS
        }
    }
}

/// The message of a clap error without the usage that follows it.
fn one_line(error: &clap::Error) -> String {
    let text = error.render().to_string();
    let message = text.split("\n\n").next().unwrap_or_default();
    let words: Vec<_> = message.split_whitespace().collect();
    words.join(" ").trim_start_matches("error: ").to_owned()
}

/// Prints a line. An error of standard output is ignored, since nobody reads it then.
fn say(line: impl Display) {
    let _ = writeln!(io::stdout(), "{line}");
}

fn run(command: &Command) -> ExitCode {
    let done = match command {
        Command::Lackey { file, at_most } => reduce(file, *at_most),
        Command::Make { kind, file, seed } => make(*kind, file, *seed),
        Command::Replay(replay) => replay.run(),
        Command::Ahead(ahead) => ahead.run(),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("xenpaging-trace: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn reduce(file: &Path, at_most: u64) -> anyhow::Result<()> {
    let named = || file.display().to_string();
    let mut writer = TraceWriter::create(file).with_context(named)?;
    lackey::reduce(std::io::stdin().lock(), &mut writer, at_most)?;
    let (pages, accesses) = writer.finish().with_context(named)?;
    if accesses == 0 {
        bail!("standard input has no output of lackey");
    }
    eprintln!("{}: {accesses} accesses to {pages} pages", named());
    Ok(())
}

fn make(kind: Synthetic, file: &Path, seed: u64) -> anyhow::Result<()> {
    let named = || file.display().to_string();
    let mut writer = TraceWriter::create(file).with_context(named)?;
    for page in kind.trace(seed).accesses {
        writer.access(page).with_context(named)?;
    }
    writer.finish().with_context(named)?;
    Ok(())
}

impl Replay {
    fn run(&self) -> anyhow::Result<()> {
        let mut policies = Vec::new();
        for policy in self.policy.iter().flat_map(|policies| &policies.0) {
            if !policies.contains(policy) {
                policies.push(*policy);
            }
        }
        let columns = Column::of(&policies);
        let mut ratios = vec![Vec::new(); columns.len() * self.memory.len()];
        let names: String = columns
            .iter()
            .skip(1)
            .map(|column| format!(" {} |", column.name()))
            .collect();
        say(format_args!(
            "| trace | pages | accesses | memory | optimum, misses |{names}"
        ));
        say(format_args!(
            "|---|---|---|---|---|{}",
            "---|".repeat(columns.len() - 1)
        ));
        for name in &self.traces.traces {
            for subject in self.traces.subjects(name)? {
                for (nth, &percent) in self.memory.iter().enumerate() {
                    let row = self.row(&subject, percent, &columns);
                    for (column, ratio) in row.into_iter().enumerate() {
                        ratios[nth * columns.len() + column].push(ratio);
                    }
                }
                self.curve(&subject, &columns)?;
            }
        }
        for (nth, percent) in self.memory.iter().enumerate() {
            let means = (1..columns.len()).map(|column| {
                let ratios = ratios[nth * columns.len() + column].iter().copied();
                geometric_mean(ratios).unwrap_or(f64::NAN)
            });
            say(format_args!(
                "| geometric mean | | | {percent} % | |{}",
                cells(means)
            ));
        }
        Ok(())
    }

    /// Prints a row. Returns its values as multiples of the optimum.
    fn row(&self, subject: &Subject, percent: u64, columns: &[Column]) -> Vec<f64> {
        let misses: Vec<_> = columns
            .iter()
            .map(|column| subject.misses(*column, percent) as f64)
            .collect();
        let optimum = misses.first().copied().unwrap_or(f64::NAN);
        let (name, pages, accesses) = (&subject.name, subject.touched, subject.accesses());
        let ratios: Vec<_> = misses.iter().map(|misses| misses / optimum).collect();
        let others = cells(ratios.iter().skip(1).copied());
        say(format_args!(
            "| {name} | {pages} | {accesses} | {percent} % | {optimum} |{others}"
        ));
        ratios
    }

    fn curve(&self, subject: &Subject, columns: &[Column]) -> anyhow::Result<()> {
        let Some(folder) = &self.svg else {
            return Ok(());
        };
        let accesses = subject.accesses() as f64;
        let point = |column, eighths: u64| {
            let percent = eighths * 100 / 8;
            let misses = subject.misses(column, percent) as f64;
            (percent as f64, misses / accesses * 100.0)
        };
        let curves: Vec<_> = columns
            .iter()
            .filter(|column| !matches!(column, Column::Static | Column::Paced(_)))
            .map(|&column| Curve {
                name: column.name(),
                sees: column.sees(),
                points: (1..8).map(|n| point(column, n)).collect(),
            })
            .collect();
        let file = folder.join(format!("{}.svg", subject.name));
        let title = format!(
            "{}: misses among {} accesses to {} pages",
            subject.name,
            grouped(subject.accesses()),
            grouped(subject.touched)
        );
        chart::draw(&file, &title, &subject.about, &curves)
            .with_context(|| file.display().to_string())
    }
}

/// A number with a comma between groups of three digits.
fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (nth, digit) in digits.chars().enumerate() {
        if nth > 0 && (digits.len() - nth).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// The last cells of a row.
fn cells(ratios: impl Iterator<Item = f64>) -> String {
    ratios.map(|ratio| format!(" {ratio:.3} |")).collect()
}

impl ReadAheadArgs {
    fn run(&self) -> anyhow::Result<()> {
        say(format_args!(
            "| trace | memory | misses without | {} |",
            Self::cells(|reader| { format!("{0}: misses | {0}: for nothing", reader.name()) })
        ));
        say(format_args!(
            "|---|---|---|{}",
            "---|---|".repeat(Reader::ALL.len() - 1)
        ));
        for name in &self.traces.traces {
            for subject in self.traces.subjects(name)? {
                for &percent in &self.memory {
                    let without = subject
                        .read_ahead(Reader::Nothing, self.policy, percent)
                        .misses;
                    say(format_args!(
                        "| {} | {percent} % | {without} | {} |",
                        subject.name,
                        Self::cells(|reader| {
                            let counts = subject.read_ahead(reader, self.policy, percent);
                            let ratio = |n: u64| n as f64 / without as f64;
                            let unused = counts.brought - counts.used;
                            format!("{:.3} | {:.3}", ratio(counts.misses), ratio(unused))
                        })
                    ));
                }
            }
        }
        Ok(())
    }

    fn cells(cell: impl Fn(Reader) -> String) -> String {
        let readers = Reader::ALL.into_iter().skip(1);
        readers.map(cell).collect::<Vec<_>>().join(" | ")
    }
}

impl Traces {
    /// The traces that one name stands for.
    fn subjects(&self, name: &Path) -> anyhow::Result<Vec<Subject>> {
        let subject = |name: String, about: String, mut trace: Trace| {
            trace.accesses.truncate(self.at_most);
            if trace.accesses.is_empty() {
                bail!("{name}: the trace has no accesses");
            }
            Ok(Subject::new(name, about, trace))
        };
        let made_up = |kind: Synthetic| {
            let value = kind.to_possible_value();
            let (name, about) = value.map_or_else(Default::default, |value| {
                let help = value.get_help().map(ToString::to_string);
                (value.get_name().to_owned(), help.unwrap_or_default())
            });
            subject(name, about, kind.trace(1))
        };
        let text = name.display().to_string();
        if text == "synthetic" {
            return Synthetic::ALL.into_iter().map(made_up).collect();
        }
        if let Ok(kind) = Synthetic::from_str(&text, false) {
            return Ok(vec![made_up(kind)?]);
        }
        let trace = Trace::read(name).context(text)?;
        let stem = name.file_stem().unwrap_or(name.as_os_str());
        let about = "Recorded from a program or a guest".to_owned();
        Ok(vec![subject(stem.display().to_string(), about, trace)?])
    }
}

#[cfg(test)]
mod tests {
    use super::grouped;

    #[test]
    fn a_number_has_a_comma_between_groups_of_three_digits() {
        let numbers = [0, 12, 999, 1_000, 589_740, 5_000_000];
        let texts = ["0", "12", "999", "1,000", "589,740", "5,000,000"];
        assert_eq!(numbers.map(grouped), texts);
    }
}
