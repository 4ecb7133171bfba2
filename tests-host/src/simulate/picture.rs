// SPDX-License-Identifier: MIT OR Apache-2.0
//! A run as a picture over time: the state of each page, the task of each vcpu, when it was paused,
//! and how full the ring was.

use std::fmt::{self, Write};

use p2m_paging::p2m::table::State;

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
const ROW: usize = 9;
/// A vcpu's rows: its task above, whether it is paused below.
const VCPU_ROW: usize = 16;
const TASK_HEIGHT: usize = 11;
/// From this width on there is room for a task's number.
const NUMBER_WIDTH: u64 = 14;
const TOP: usize = 46;
const RING_HEIGHT: usize = 64;
const STOPPED: &str = "#c0392b";
const RUNS: &str = "#d5e8f7";
/// The colours of tasks, in turn.
const TASKS: [&str; 6] = [
    "#8ecae6", "#ffd166", "#95d5b2", "#cdb4db", "#f4a582", "#b5c0d0",
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

/// Draws a run. `looks` are in order, one for each change.
pub fn draw(title: &str, looks: &[Look]) -> Result<String, fmt::Error> {
    let (Some(first), Some(last)) = (looks.first(), looks.last()) else {
        return Ok(String::new());
    };
    let vcpus_top = TOP + first.pages.len() * ROW + 14;
    let ring_top = vcpus_top + first.vcpus.len() * VCPU_ROW + 14;
    let height = ring_top + RING_HEIGHT + 30;
    let mut out = String::new();
    writeln!(
        out,
        r#"<svg xmlns="http://www.w3.org/2000/svg" width="{}" height="{height}" font-family="sans-serif" font-size="10">"#,
        LEFT + WIDTH + 40
    )?;
    writeln!(
        out,
        r##"<rect width="100%" height="100%" fill="#fafafa"/>"##
    )?;
    writeln!(out, r#"<text x="{LEFT}" y="14">{title}</text>"#)?;
    legend(&mut out)?;
    let span = (last.at_ns - first.at_ns).max(1);
    let x = |at_ns: u64| LEFT + (at_ns - first.at_ns) * WIDTH / span;
    for page in 0..first.pages.len() {
        let values = looks.iter().map(|look| (look.at_ns, look.pages[page]));
        let top = TOP + page * ROW;
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
    label(&mut out, ring_top, "ring slots")?;
    let held = looks.iter().map(|look| (look.at_ns, look.held));
    for (from, to, held) in runs(held, last.at_ns) {
        let tall = held as usize * RING_HEIGHT / 8;
        let (left, wide) = (x(from), (x(to) - x(from)).max(1));
        let top = ring_top + RING_HEIGHT - tall;
        writeln!(
            out,
            r##"<rect x="{left}" y="{top}" width="{wide}" height="{tall}" fill="#34495e"/>"##
        )?;
    }
    let base = ring_top + RING_HEIGHT + 16;
    for part in 0..=5 {
        let at = first.at_ns + span * part / 5;
        let (left, us) = (x(at), at / 1000);
        writeln!(
            out,
            r#"<text x="{left}" y="{base}" text-anchor="middle">{us} us</text>"#
        )?;
    }
    writeln!(out, "</svg>")?;
    Ok(out)
}

fn legend(out: &mut String) -> fmt::Result {
    let states = State::ALL.map(|state| (format!("{state:?}"), colour(state)));
    let lanes = [
        ("task 1", TASKS[1]),
        ("no task", RUNS),
        ("stopped", STOPPED),
    ];
    let lanes = lanes.map(|(what, colour)| (format!("vcpu: {what}"), colour));
    let all = states.into_iter().chain(lanes);
    for (n, (name, colour)) in all.enumerate() {
        let left = LEFT + n as u64 * 104;
        writeln!(
            out,
            r##"<rect x="{left}" y="22" width="10" height="10" fill="{colour}" stroke="#888"/>"##
        )?;
        writeln!(out, r#"<text x="{}" y="31">{}</text>"#, left + 14, name)?;
    }
    Ok(())
}

fn label(out: &mut String, top: usize, text: &str) -> fmt::Result {
    let base = top + ROW - 1;
    writeln!(
        out,
        r#"<text x="{}" y="{base}" text-anchor="end" font-size="8">{text}</text>"#,
        LEFT - 4
    )
}

/// A period in which a vcpu runs a task, by its number; `None`: it has none.
fn task_bar(out: &mut String, at: [u64; 2], top: usize, task: Option<u32>) -> fmt::Result {
    let colour = task.map_or(RUNS, |task| TASKS[task as usize % TASKS.len()]);
    bar(out, at, top, TASK_HEIGHT, colour)?;
    let [from, to] = at;
    match task {
        Some(task) if to - from >= NUMBER_WIDTH => writeln!(
            out,
            r#"<text x="{}" y="{}" font-size="9">{task}</text>"#,
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
    fn stretches_join_what_does_not_change() {
        let values = [(0, 'a'), (3, 'a'), (5, 'b'), (9, 'a')];
        let expected = [(0, 5, 'a'), (5, 9, 'b'), (9, 12, 'a')];
        assert_eq!(runs(values.into_iter(), 12), expected);
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
        for part in ["page 1", "vcpu 0", paged, task, ">3<", STOPPED, "</svg>"] {
            assert!(svg.contains(part), "{part}");
        }
    }
}
