// SPDX-License-Identifier: MIT OR Apache-2.0
//! What the fuzzers run: a byte string describes the life of a paged domain. Any breach panics.
//!
//! `fuzz/` drives these with coverage; the tests replay `corpus/`.

use crate::lockstep::{Lockstep, Op, cells};

/// The most operations in one life: enough to fill the ring twice and to go through every state.
const MOST_OPS: usize = 200;

/// Operations, failures of the platform and a pager that cheats, compared with the model.
///
/// The first byte decides how many vcpus, pages and spare frames there are.
pub fn ops(data: &[u8]) {
    let Some((shape, data)) = data.split_first() else {
        return;
    };
    let (vcpus, gfns, spare) = match shape % 4 {
        0 => (2, 1, 1),
        1 => (3, 3, 2),
        2 => (12, 12, 1),
        _ => (20, 24, 30),
    };
    let cells = cells(vcpus);
    let mut bytes = data.iter().copied();
    let ops = std::iter::from_fn(|| Op::decode(&mut bytes)).take(MOST_OPS);
    Lockstep::new(&cells, gfns, spare).run(ops);
}

/// As [`ops`], and in between anything is written anywhere into the ring page. There is no model of
/// that. The properties that keep the hypervisor intact must hold.
///
/// An operation byte of 0xc0 and above is a write instead: which word, and its value.
pub fn ring(data: &[u8]) {
    let cells = cells(9);
    let mut hostile = crate::hostile::Hostile::new(&cells, 10);
    let mut bytes = data.iter().copied();
    for _ in 0..MOST_OPS {
        let Some(what) = bytes.next() else { break };
        if what >= 0xc0 {
            let word = [bytes.next().unwrap_or(0), bytes.next().unwrap_or(0)];
            let value = [(); 4].map(|()| bytes.next().unwrap_or(0));
            let word = match what % 4 {
                // The indices, and the heads of the entries, are written more often than padding.
                0 => usize::from(word[0] % 4),
                1 | 2 => 16 + usize::from(word[0] % 8) * 100 + usize::from(word[1] % 10),
                _ => usize::from(u16::from_le_bytes(word)),
            };
            hostile.poke(word, u32::from_le_bytes(value));
        } else {
            let mut op = std::iter::once(what).chain(&mut bytes);
            hostile.apply(Op::decode(&mut op).expect("one byte at least"));
        }
    }
    hostile.settle();
}
