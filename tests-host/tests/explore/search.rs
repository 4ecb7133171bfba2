// SPDX-License-Identifier: MIT OR Apache-2.0
//! The search: breadth first, so that each finding has a shortest way.
//!
//! The crate's structures cannot be copied. A state is therefore stored as the way to it: the steps
//! from the beginning are taken again. This needs no support by the crate and is fast enough. A
//! checker for models (stateright) needs states that are values, which running code is not. So the
//! search is our own.

use std::collections::HashMap;
use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::{Duration, Instant};

use crate::check;
use crate::config::{Config, Defect};
use crate::fiber::PANICKED;
use crate::key::{Keys, Line};
use crate::steps::{ACTORS, Act, Step};
use crate::world::Stage;

/// A state: the step that led to it, and from where.
struct Node {
    parent: u32,
    step: Step,
    settled: bool,
    line: Line,
}

struct Edge {
    from: u32,
    to: u32,
    finishes: bool,
    alone: Option<u8>,
}

/// What was explored.
#[derive(Debug)]
pub(crate) struct Explored {
    pub(crate) states: usize,
    pub(crate) steps: usize,
    pub(crate) deepest: usize,
    pub(crate) time: Duration,
}

/// A breach, and the way to it.
pub(crate) struct Violation {
    pub(crate) what: String,
    way: Vec<Step>,
    states: usize,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (steps, states) = (self.way.len(), self.states);
        writeln!(
            f,
            "VIOLATION: {} (step {steps}, {states} states)",
            self.what
        )?;
        for step in &self.way {
            let who: [_; ACTORS] = [
                "vcpu 0", "vcpu 1", "pager", "foreign", "tools", "later", "replaced",
            ];
            writeln!(f, "  {}: {:?}", who[usize::from(step.actor)], step.act)?;
        }
        Ok(())
    }
}

impl fmt::Debug for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl fmt::Display for Explored {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (states, steps, deepest) = (self.states, self.steps, self.deepest);
        let seconds = self.time.as_secs_f64();
        write!(
            f,
            "{states} states, {steps} steps, depth {deepest}, {seconds:.1} s"
        )
    }
}

struct Search {
    stage: Stage,
    keys: Keys,
    nodes: Vec<Node>,
    edges: Vec<Edge>,
    known: HashMap<u128, u32>,
}

/// Explores everything within the bound.
pub(crate) fn explore(mut config: Config) -> Result<Explored, Violation> {
    let start = Instant::now();
    config.defect = match std::env::var("MODEL_DEFECT").as_deref() {
        Ok("flush-lost") => Some(Defect::FlushLost),
        Ok("event-lost") => Some(Defect::EventLost),
        Ok("index-late") => Some(Defect::IndexLate),
        Ok("index-early") => Some(Defect::IndexEarly),
        Ok("drop-believed") => Some(Defect::DropBelieved),
        _ => config.defect,
    };
    let mut search = Search {
        stage: Stage::new(config),
        keys: Keys::default(),
        nodes: Vec::new(),
        edges: Vec::new(),
        known: HashMap::new(),
    };
    search.run()?;
    search.all_settle()?;
    search.nobody_spins()?;
    let last = search.nodes.len() - 1;
    let explored = Explored {
        states: search.nodes.len(),
        steps: search.edges.len(),
        deepest: search.way(last).len(),
        time: start.elapsed(),
    };
    println!("{}: {explored}", config.name);
    Ok(explored)
}

impl Search {
    fn run(&mut self) -> Result<(), Violation> {
        let begin = Step {
            actor: 0,
            act: Act::GoOn,
        };
        self.stage.reset();
        self.arrive(0, begin);
        let mut steps = Vec::new();
        let mut from = 0;
        while from < self.nodes.len() {
            self.go_to(from);
            self.stage.steps(&mut steps);
            for (n, step) in steps.iter().enumerate() {
                if n > 0 {
                    self.go_to(from);
                }
                let stage = &mut self.stage;
                let taken = catch_unwind(AssertUnwindSafe(|| stage.step(*step)));
                if taken.is_err() || PANICKED.take() {
                    return Err(self.violation("a panic", from, Some(*step)));
                }
                let before = self.nodes[from].line;
                let (to, line) = self.arrive(from, *step);
                let checked =
                    check::state(&self.stage, line).and_then(|()| check::step(*step, before, line));
                if let Err(what) = checked {
                    return Err(self.violation(what, from, Some(*step)));
                }
                self.edges.push(Edge {
                    from: from as u32,
                    to: to as u32,
                    finishes: step.finishes(),
                    alone: check::alone(*step),
                });
            }
            from += 1;
        }
        Ok(())
    }

    /// The number of the state that the stage is in, and the wait queue on this way: a ring's
    /// indices are not part of the state.
    fn arrive(&mut self, parent: usize, step: Step) -> (usize, Line) {
        let (key, line) = self.keys.of(&self.stage);
        let next = self.nodes.len();
        let number = *self.known.entry(key).or_insert(next as u32);
        if number as usize == next {
            self.nodes.push(Node {
                parent: parent as u32,
                step,
                settled: check::settled(&self.stage),
                line,
            });
        }
        (number as usize, line)
    }

    fn go_to(&mut self, node: usize) {
        let way = self.way(node);
        self.stage.reset();
        for step in way {
            self.stage.step(step);
        }
    }

    fn way(&self, mut node: usize) -> Vec<Step> {
        let mut way = Vec::new();
        while node != 0 {
            way.push(self.nodes[node].step);
            node = self.nodes[node].parent as usize;
        }
        way.reverse();
        way
    }

    fn violation(&self, what: &str, from: usize, step: Option<Step>) -> Violation {
        let mut way = self.way(from);
        way.extend(step);
        Violation {
            what: what.to_owned(),
            way,
            states: self.nodes.len(),
        }
    }

    /// From every state there is a way, of steps that only finish what was begun, to a state in
    /// which all is settled.
    fn all_settle(&self) -> Result<(), Violation> {
        let mut first = vec![0_u32; self.nodes.len() + 1];
        let finishing = || self.edges.iter().filter(|e| e.finishes);
        finishing().for_each(|e| first[e.to as usize + 1] += 1);
        for n in 1..first.len() {
            first[n] += first[n - 1];
        }
        let mut next = first.clone();
        let mut into = vec![0_u32; finishing().count()];
        for edge in finishing() {
            into[next[edge.to as usize] as usize] = edge.from;
            next[edge.to as usize] += 1;
        }
        let mut settles: Vec<bool> = self.nodes.iter().map(|n| n.settled).collect();
        let mut left: Vec<usize> = (0..settles.len()).filter(|n| settles[*n]).collect();
        while let Some(node) = left.pop() {
            for from in &into[first[node] as usize..first[node + 1] as usize] {
                if !std::mem::replace(&mut settles[*from as usize], true) {
                    left.push(*from as usize);
                }
            }
        }
        match settles.iter().position(|settles| !settles) {
            Some(stuck) => Err(self.violation(
                "a vcpu or a page waits for ever, with an honest pager",
                stuck,
                None,
            )),
            None => Ok(()),
        }
    }

    /// No vcpu continues for ever by itself without progress.
    fn nobody_spins(&self) -> Result<(), Violation> {
        for vcpu in 0..2 {
            let mut next = vec![u32::MAX; self.nodes.len()];
            let own = self.edges.iter().filter(|e| e.alone == Some(vcpu));
            own.for_each(|e| next[e.from as usize] = e.to);
            // 0: not seen, 1: on the way that is followed now, 2: comes to an end.
            let mut seen = vec![0_u8; next.len()];
            for start in 0..next.len() {
                let mut node = start;
                let mut way = Vec::new();
                while seen[node] == 0 {
                    seen[node] = 1;
                    way.push(node);
                    match next[node] {
                        u32::MAX => break,
                        to => node = to as usize,
                    }
                }
                if seen[node] == 1 && next[node] != u32::MAX {
                    return Err(self.violation(
                        "a vcpu spins: its fault changes nothing",
                        node,
                        None,
                    ));
                }
                way.into_iter().for_each(|node| seen[node] = 2);
            }
        }
        Ok(())
    }
}
