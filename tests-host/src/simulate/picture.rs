// SPDX-License-Identifier: MIT OR Apache-2.0
//! A run as a picture over time: the state of each page, the task of each vcpu, when it was paused,
//! and how full the ring was.

use std::collections::BTreeSet;
use std::fmt::{self, Write};

use p2m_paging::p2m::table::State;
use p2m_paging::ring::abi::SLOTS;

/// The state at a moment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Look {
    /// The moment, in nanoseconds.
    pub at_ns: u64,
    /// The state of each page.
    pub pages: Vec<State>,
    /// What each vcpu did.
    pub vcpus: Vec<Lane>,
    /// Slots of the ring in use.
    pub held: u32,
}

/// What a vcpu did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lane {
    /// The number of the task that it ran, if the guest has tasks and one could run.
    pub task: Option<u32>,
    /// It was paused.
    pub is_stopped: bool,
}

const LEFT: u64 = 60;
const WIDTH: u64 = 1100;
const ROW: usize = 12;
/// A vcpu's rows: its task above, whether it is paused below.
const VCPU_ROW: usize = 19;
const TASK_HEIGHT: usize = 14;
/// From this width on there is room for a task's number.
const NUMBER_WIDTH: u64 = 18;
/// Height of the title and the scenario. The legend is below them.
const TITLE_HEIGHT: usize = 50;
const LEGEND_ROW: usize = 18;
const STATE_WIDTH: u64 = 210;
const TASK_WIDTH: u64 = 84;
const RING_HEIGHT: usize = 64;
/// The most intervals between ticks.
const MOST_TICKS: u64 = 10;
const STOPPED: &str = "#c0392b";
const RUNS: &str = "#d5e8f7";
const RING: &str = "#34495e";
/// The colours of tasks, in turn.
const TASKS: [&str; 12] = [
    "#8ecae6", "#ffd166", "#95d5b2", "#cdb4db", "#f4a582", "#b5c0d0", "#e5989b", "#d4e157",
    "#80cbc4", "#d7b58a", "#f48fb1", "#9fa8da",
];

fn colour(state: State) -> &'static str {
    match state {
        State::RamRw => "#e8f0e4",
        State::RamLogDirty => "#cfe3c2",
        State::PagingOut => "#f5d76e",
        State::Paged => "#6c7a89",
        State::PagingInStart => "#e67e22",
        State::PagingIn => "#9b59b6",
        State::Invalid => "#ffffff",
    }
}

/// A state in plain words.
fn meaning(state: State) -> &'static str {
    match state {
        State::RamRw => "resident",
        State::RamLogDirty => "logged",
        State::PagingOut => "nominated",
        State::Paged => "out",
        State::PagingInStart => "requested",
        State::PagingIn => "being filled",
        State::Invalid => "no page",
    }
}

/// Draws a run of this scenario. `looks` are in order, one for each change.
pub fn draw(scenario: &str, looks: &[Look]) -> Result<String, fmt::Error> {
    let (Some(first), Some(last)) = (looks.first(), looks.last()) else {
        return Ok(String::new());
    };
    let lanes = lanes(looks);
    let states = State::ALL.map(|state| {
        let name = format!("{} ({state:?})", meaning(state));
        (name, colour(state))
    });
    let lanes_top = TITLE_HEIGHT + rows(states.len(), STATE_WIDTH) * LEGEND_ROW;
    let pages_top = lanes_top + rows(lanes.len(), TASK_WIDTH) * LEGEND_ROW + 6;
    let vcpus_top = pages_top + first.pages.len() * ROW + 14;
    let ring_top = vcpus_top + first.vcpus.len() * VCPU_ROW + 28;
    let height = ring_top + RING_HEIGHT + 30;
    let mut out = String::new();
    writeln!(
        out,
        r#"<svg xmlns="http://www.w3.org/2000/svg" width="{}" height="{height}" font-family="sans-serif" font-size="12">"#,
        LEFT + WIDTH + 40
    )?;
    writeln!(
        out,
        r##"<rect width="100%" height="100%" fill="#fafafa"/>"##
    )?;
    writeln!(
        out,
        r#"<text x="{LEFT}" y="20" font-size="16">A simulated guest is paged: the states of its {} pages, what its {} vcpus did, and how full the ring was, over time</text>"#,
        first.pages.len(),
        first.vcpus.len()
    )?;
    writeln!(
        out,
        r##"<text x="{LEFT}" y="38" fill="#555">Scenario: {scenario}</text>"##
    )?;
    legend(&mut out, TITLE_HEIGHT, "pages", STATE_WIDTH, &states)?;
    legend(&mut out, lanes_top, "vcpus", TASK_WIDTH, &lanes)?;
    let span = (last.at_ns - first.at_ns).max(1);
    let x = |at_ns: u64| LEFT + (at_ns - first.at_ns) * WIDTH / span;
    for page in 0..first.pages.len() {
        let values = looks.iter().map(|look| (look.at_ns, look.pages[page]));
        let top = pages_top + page * ROW;
        label(&mut out, top, &format!("page {page}"))?;
        for (from, to, state) in runs(values, last.at_ns) {
            bar(&mut out, [x(from), x(to)], top, ROW - 1, colour(state))?;
        }
    }
    for vcpu in 0..first.vcpus.len() {
        let lane = |what: fn(&Lane) -> Option<u32>| {
            let values = looks
                .iter()
                .map(move |look| (look.at_ns, what(&look.vcpus[vcpu])));
            runs(values, last.at_ns)
        };
        let top = vcpus_top + vcpu * VCPU_ROW;
        label(&mut out, top, &format!("vcpu {vcpu}"))?;
        for (from, to, task) in lane(|lane| lane.task) {
            task_bar(&mut out, [x(from), x(to)], top, task)?;
        }
        for (from, to, stopped) in lane(|lane| lane.is_stopped.then_some(0)) {
            if stopped.is_some() {
                let (top, tall) = (top + TASK_HEIGHT, VCPU_ROW - TASK_HEIGHT - 1);
                bar(&mut out, [x(from), x(to)], top, tall, STOPPED)?;
            }
        }
    }
    writeln!(
        out,
        r#"<text x="{LEFT}" y="{}">Slots of the ring in use, of {SLOTS}</text>"#,
        ring_top - 6
    )?;
    let ring_base = ring_top + RING_HEIGHT;
    let tall = |slots: u32| slots as usize * RING_HEIGHT / SLOTS as usize;
    for slots in [0, SLOTS / 2, SLOTS] {
        let y = ring_base - tall(slots);
        line(&mut out, [LEFT, LEFT + WIDTH], [y, y])?;
        label(&mut out, y - ROW / 2, &slots.to_string())?;
    }
    let held = looks.iter().map(|look| (look.at_ns, look.held));
    for (from, to, held) in runs(held, last.at_ns) {
        let top = ring_base - tall(held);
        bar(&mut out, [x(from), x(to)], top, tall(held), RING)?;
    }
    for at_ns in ticks(first.at_ns, last.at_ns) {
        let (left, us) = (x(at_ns), at_ns as f64 / 1000.0);
        line(&mut out, [left, left], [pages_top, ring_base + 4])?;
        writeln!(
            out,
            r#"<text x="{left}" y="{}" text-anchor="middle">{us} µs</text>"#,
            ring_base + 16
        )?;
    }
    writeln!(out, "</svg>")?;
    Ok(out)
}

/// The legend of the vcpus: every task of the run, none, and a pause.
fn lanes(looks: &[Look]) -> Vec<(String, &'static str)> {
    let lanes = looks.iter().flat_map(|look| &look.vcpus);
    let tasks: BTreeSet<_> = lanes.filter_map(|lane| lane.task).collect();
    let tasks = tasks
        .into_iter()
        .map(|task| (format!("task {task}"), task_colour(task)));
    let others = [("no task", RUNS), ("paused", STOPPED)];
    let others = others.map(|(what, colour)| (what.to_owned(), colour));
    tasks.chain(others).collect()
}

fn task_colour(task: u32) -> &'static str {
    TASKS[task as usize % TASKS.len()]
}

/// Round moments, `MOST_TICKS` intervals at most.
fn ticks(from_ns: u64, to_ns: u64) -> impl Iterator<Item = u64> {
    let steps = (0..19).flat_map(|power| [1, 2, 5].map(|digit| digit * 10_u64.pow(power)));
    let enough = |step: &u64| (to_ns - from_ns) / step <= MOST_TICKS;
    let step = steps.into_iter().find(enough).unwrap_or(u64::MAX);
    (from_ns.div_ceil(step)..=to_ns / step).map(move |nth| nth * step)
}

/// The number of the legend's entries of this width in a row.
fn per_row(width: u64) -> usize {
    usize::try_from(WIDTH / width).unwrap_or(usize::MAX)
}

/// The number of rows for these entries.
fn rows(entries: usize, width: u64) -> usize {
    entries.div_ceil(per_row(width))
}

fn legend(
    out: &mut String,
    top: usize,
    of: &str,
    width: u64,
    entries: &[(String, &str)],
) -> fmt::Result {
    let base = top + 9;
    writeln!(
        out,
        r#"<text x="{}" y="{base}" text-anchor="end">{of}</text>"#,
        LEFT - 4
    )?;
    for (nth, (name, colour)) in entries.iter().enumerate() {
        let left = LEFT + (nth % per_row(width)) as u64 * width;
        let top = top + nth / per_row(width) * LEGEND_ROW;
        writeln!(
            out,
            r##"<rect x="{left}" y="{top}" width="10" height="10" fill="{colour}" stroke="#888"/>"##
        )?;
        let (left, base) = (left + 14, top + 9);
        writeln!(out, r#"<text x="{left}" y="{base}">{name}</text>"#)?;
    }
    Ok(())
}

fn line(out: &mut String, [x1, x2]: [u64; 2], [y1, y2]: [usize; 2]) -> fmt::Result {
    writeln!(
        out,
        r##"<line x1="{x1}" y1="{y1}" x2="{x2}" y2="{y2}" stroke="#000" stroke-opacity="0.2"/>"##
    )
}

fn label(out: &mut String, top: usize, text: &str) -> fmt::Result {
    let base = top + ROW - 3;
    writeln!(
        out,
        r#"<text x="{}" y="{base}" text-anchor="end" font-size="10">{text}</text>"#,
        LEFT - 4
    )
}

/// A period in which a vcpu runs a task, by its number; `None`: it has none.
fn task_bar(out: &mut String, at: [u64; 2], top: usize, task: Option<u32>) -> fmt::Result {
    let colour = task.map_or(RUNS, task_colour);
    bar(out, at, top, TASK_HEIGHT, colour)?;
    let [from, to] = at;
    match task {
        Some(task) if to - from >= NUMBER_WIDTH => writeln!(
            out,
            r#"<text x="{}" y="{}" font-size="11">{task}</text>"#,
            from + 3,
            top + TASK_HEIGHT - 2
        ),
        _ => Ok(()),
    }
}

fn bar(
    out: &mut String,
    [from, to]: [u64; 2],
    top: usize,
    tall: usize,
    colour: &str,
) -> fmt::Result {
    let wide = (to - from).max(1);
    writeln!(
        out,
        r#"<rect x="{from}" y="{top}" width="{wide}" height="{tall}" fill="{colour}"/>"#
    )
}

/// Periods with one value.
fn runs<T: PartialEq + Copy>(
    values: impl Iterator<Item = (u64, T)>,
    end: u64,
) -> Vec<(u64, u64, T)> {
    let mut runs: Vec<(u64, u64, T)> = Vec::new();
    for (at, value) in values {
        match runs.last_mut() {
            Some((_, _, before)) if *before == value => {}
            Some((_, to, _)) => {
                *to = at;
                runs.push((at, end, value));
            }
            None => runs.push((at, end, value)),
        }
    }
    runs
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn periods_join_what_does_not_change() {
        let values = [(0, 'a'), (3, 'a'), (5, 'b'), (9, 'a')];
        let expected = [(0, 5, 'a'), (5, 9, 'b'), (9, 12, 'a')];
        assert_eq!(runs(values.into_iter(), 12), expected);
    }

    #[test]
    fn ticks_are_round_and_few() {
        let at = |from, to| ticks(from, to).collect::<Vec<_>>();
        assert_eq!(
            at(3_000, 1_632_000),
            (1..=8).map(|n| n * 200_000).collect::<Vec<_>>()
        );
        assert_eq!(at(0, 3), [0, 1, 2, 3]);
        assert_eq!(at(7, 7), [7]);
    }

    #[test]
    fn a_picture_shows_every_page_vcpu_and_moment() {
        let look = |at_ns, state| Look {
            at_ns,
            pages: vec![state, State::RamRw],
            vcpus: vec![Lane {
                task: (at_ns < 10).then_some(3),
                is_stopped: at_ns > 0,
            }],
            held: 1,
        };
        let looks = [look(0, State::RamRw), look(10, State::Paged)];
        let svg = draw("a run", &looks).unwrap();
        let [paged, task] = [colour(State::Paged), TASKS[3]];
        let parts = ["page 1", "vcpu 0", paged, task, ">3<", STOPPED, "</svg>"];
        for part in parts.into_iter().chain([">task 3<", "a run", ">8<"]) {
            assert!(svg.contains(part), "{part}");
        }
    }
}
