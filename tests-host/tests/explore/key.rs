// SPDX-License-Identifier: MIT OR Apache-2.0
//! The key of a state: everything on which the future depends.
//!
//! The crate's own state is taken from its [`Debug`] output, without counters. The ring's indices
//! only grow, and only their distances matter: they are taken relative to the responses consumed.

use std::fmt::Write as _;
use std::hash::{Hash, Hasher};

use crate::ops::TOO_MANY;
use crate::steps::Act;
use crate::world::Stage;

/// Words of an entry that paging uses, and where entries begin in the page, in words of 32 bits.
const ENTRY_WORDS: usize = 10;
const ENTRY_SIZE: usize = 100;
const HEADER: usize = 16;
const SLOTS: u32 = 8;

/// The part of the crate's own state that is used beside the key.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Line {
    /// The vcpu that is first in the wait queue.
    pub(crate) first: Option<u32>,
    pub(crate) req_prod: u32,
    pub(crate) rsp_cons: u32,
    pub(crate) has_ring: bool,
}

/// A hash of 128 bits.
#[derive(Clone, Copy)]
pub(crate) struct Lanes(u64, u64);

impl Hasher for Lanes {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        for chunk in bytes.chunks(8) {
            let mut word = [0; 8];
            word[..chunk.len()].copy_from_slice(chunk);
            self.write_u64(u64::from_le_bytes(word) ^ (chunk.len() as u64) << 56);
        }
    }

    fn write_u64(&mut self, word: u64) {
        let product =
            u128::from(self.0 ^ word).wrapping_mul(0x9e37_79b9_7f4a_7c15_f39c_c060_5ced_c835);
        self.0 = (product ^ (product >> 64)) as u64;
        self.0 = self.0.rotate_left(23).wrapping_add(0x2545_f491_4f6c_dd1d);
        self.1 = (self.1.rotate_left(29) ^ word).wrapping_mul(0xd6e8_feb8_6659_fd93);
        self.1 ^= self.1 >> 32;
    }
}

/// The buffer for the output, used again and again.
#[derive(Default)]
pub(crate) struct Keys {
    text: String,
}

impl Keys {
    /// The key of the state, and the state of the crate's wait queue in it.
    pub(crate) fn of(&mut self, stage: &Stage) -> (u128, Line) {
        let line = self.line(stage);
        let mut hasher = Lanes(1, 2);
        let [from, to] = ["cells: ", "counters: "].map(|mark| self.at(mark));
        let mut rest = &self.text[from..to];
        if line.has_ring {
            // Without the two indices.
            for name in ["req_prod: ", "rsp_cons: "] {
                let at = rest.find(name).expect("a front has indices") + name.len();
                hasher.write(&rest.as_bytes()[..at]);
                let digits = rest[at..].bytes().take_while(u8::is_ascii_digit).count();
                rest = &rest[at + digits..];
            }
        }
        hasher.write(rest.as_bytes());
        ring(stage, line, &mut hasher);
        let world = &*stage.world;
        world.machine().core.borrow().hash(&mut hasher);
        world.outside.borrow().hash(&mut hasher);
        stage.carried.hash(&mut hasher);
        for (fiber, doing) in stage.fibers.iter().zip(&stage.doing) {
            hasher.write_u64(doing.map_or(0, code));
            fiber.digest(&mut hasher);
        }
        let key = u128::from(hasher.0) << 64 | u128::from(hasher.1);
        (key, line)
    }

    /// The wait queue in the crate's output.
    pub(crate) fn line(&mut self, stage: &Stage) -> Line {
        self.text.clear();
        write!(self.text, "{:?}", stage.world.paging).expect("a string takes it");
        let has_ring = self.text.contains("ring: Attached(Front");
        let number = |name: &str| {
            let at = self.text.find(name)? + name.len();
            let digits = self.text[at..]
                .bytes()
                .take_while(u8::is_ascii_digit)
                .count();
            self.text[at..at + digits].parse().ok()
        };
        let first = number("queue: VcpuList { first: Some(v");
        let none = self.text.contains("queue: VcpuList { first: None");
        assert!(
            first.is_some() || none,
            "the crate prints its line in another way"
        );
        Line {
            first,
            req_prod: number("req_prod: ").unwrap_or(0),
            rsp_cons: number("rsp_cons: ").unwrap_or(0),
            has_ring,
        }
    }

    fn at(&self, mark: &str) -> usize {
        let at = self.text.find(mark);
        at.expect("the crate prints all of its fields")
    }
}

/// The ring page, from the first entry in use to the last.
fn ring(stage: &Stage, line: Line, hasher: &mut Lanes) {
    if !line.has_ring {
        return;
    }
    let page = stage.world.page;
    let [req_prod, req_event, rsp_prod, rsp_event] = [0, 1, 2, 3].map(|word| page.peek(word));
    hasher.write_u64(u64::from(req_prod.wrapping_sub(line.rsp_cons)));
    hasher.write_u64(u64::from(rsp_prod.wrapping_sub(line.rsp_cons)));
    // Of an event index that was passed only this fact matters.
    for (event, prod) in [(req_event, req_prod), (rsp_event, rsp_prod)] {
        let ahead = event.wrapping_sub(prod);
        hasher.write_u64(if ahead <= 2 * SLOTS { ahead.into() } else { 0 });
    }
    let poked = stage.world.outside.borrow().poked;
    let answered = rsp_prod.wrapping_sub(if poked { TOO_MANY } else { 0 });
    // A pager that is about to begin has taken nothing.
    let back = stage.world.back.borrow();
    let unanswered = back.as_ref().map_or(0, |back| back.pending_requests());
    let taken = answered.wrapping_add(unanswered);
    hasher.write_u64(unanswered.into());
    // Responses to be consumed and requests to be taken. Nobody will read the other entries.
    for (from, to) in [(line.rsp_cons, answered), (taken, req_prod)] {
        for position in 0..to.wrapping_sub(from).min(SLOTS) {
            let slot = (from.wrapping_add(position) % SLOTS) as usize;
            let entry = HEADER + slot * ENTRY_SIZE;
            for word in entry..entry + ENTRY_WORDS {
                hasher.write_u64(page.peek(word).into());
            }
        }
    }
}

fn code(act: Act) -> u64 {
    let (kind, page, flag) = match act {
        Act::GoOn => (1, 0, false),
        Act::Access(page, write) => (2, page, write),
        Act::Retry => (3, 0, false),
        Act::GiveAway(page) => (4, page, false),
        Act::GetBack(page) => (5, page, false),
        Act::Nominate(page) => (6, page, false),
        Act::Evict(page) => (7, page, false),
        Act::Prefetch(page) => (8, page, false),
        Act::Take => (9, 0, false),
        Act::Serve(nth) => (10, nth, false),
        Act::Map(page, writer) => (11, page, writer),
        Act::Write => (12, 0, false),
        Act::Unmap => (13, 0, false),
        Act::Detach => (14, 0, false),
        Act::Attach => (15, 0, false),
        Act::Event => (16, 0, false),
        Act::Poke => (17, 0, false),
        Act::Mend => (18, 0, false),
        Act::LateEvict(page) => (19, page, false),
        Act::LatePrep(page) => (20, page, false),
        Act::Die => (21, 0, false),
        Act::NoticeDeath => (22, 0, false),
        Act::TakeOver => (23, 0, false),
        Act::List => (24, 0, false),
    };
    kind << 16 | u64::from(page) << 8 | u64::from(flag)
}
