// SPDX-License-Identifier: MIT OR Apache-2.0
//! The cost of a page that goes to the store, with and without deduplication (row C6), beside the
//! floor: the same bytes written to a file in the same pieces, without any records of them.
//!
//! `cargo bench -p tests-host --bench stores`

use std::error::Error;
use std::fs::File;
use std::os::unix::fs::FileExt as _;
use std::sync::Arc;
use std::time::Instant;

use p2m_paging::PAGE_SIZE;
use pager_store::dedup::Dedup;
use pager_store::memory::MemoryStore;
use pager_store::pagefile::{Keep, Pagefile};
use pager_store::{CompareWith, PageBuf, PageStore, Saved, Slot, StoreError, Write};

/// 128 MiB.
const PAGES: u32 = 1 << 15;
const BATCH: u32 = 512;
/// Pages in one write of the pagefile.
const STRETCH: usize = 128;
const ROUNDS: usize = 5;

fn main() -> Result<(), Box<dyn Error>> {
    println!("ns for a page that goes to the store, the best of {ROUNDS} rounds of {PAGES} pages");
    let dir = tempfile::tempdir()?;
    let pagefile = |n: usize| -> Result<Arc<dyn PageStore>, Box<dyn Error>> {
        let path = dir.path().join(format!("pages{n}"));
        Ok(Arc::new(Pagefile::create(&path, Keep::Unlinked)?))
    };
    let mut rounds = Vec::new();
    for n in 0..ROUNDS {
        let memory = || -> Arc<dyn PageStore> { Arc::new(MemoryStore::new()) };
        rounds.push([
            floor(&dir.path().join(format!("floor{n}")))?,
            save(&*pagefile(2 * n)?, PAGES),
            save(&Dedup::new(pagefile(2 * n + 1)?), PAGES),
            save(&*memory(), PAGES),
            save(&Dedup::new(memory()), PAGES),
            save(&Dedup::new(memory()), PAGES / 2),
        ]);
    }
    let names = [
        "floor: a file, written",
        "pagefile",
        "pagefile, alike looked for, none is",
        "memory",
        "memory, alike looked for, none is",
        "memory, alike looked for, every other is",
    ];
    for (at, name) in names.iter().enumerate() {
        let best = rounds.iter().map(|round| round[at]).min();
        println!("{name:42} {:>6}", best.unwrap_or(0) / u64::from(PAGES));
    }
    Ok(())
}

/// The pages of a batch, of which only this many are different.
fn fill(pages: &mut [PageBuf], first: u32, different: u32) {
    for (page, n) in pages.iter_mut().zip(first..) {
        let word = (u64::from(n % different) + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        page.0
            .chunks_exact_mut(8)
            .for_each(|chunk| chunk.copy_from_slice(&word.to_le_bytes()));
    }
}

fn floor(path: &std::path::Path) -> Result<u64, Box<dyn Error>> {
    let file = File::create(path)?;
    let mut pages = vec![PageBuf::ZERO; BATCH as usize];
    let mut ns = 0;
    for first in (0..PAGES).step_by(BATCH as usize) {
        fill(&mut pages, first, PAGES);
        let bytes: Vec<u8> = pages.iter().flat_map(|page| page.0).collect();
        let start = Instant::now();
        for (stretch, nth) in bytes.chunks(STRETCH * PAGE_SIZE).zip(0..) {
            let at = u64::from(first) + nth * STRETCH as u64;
            file.write_all_at(stretch, at * PAGE_SIZE as u64)?;
        }
        ns += since(start);
    }
    Ok(ns)
}

/// As the pager does: pages that seem to be equal are compared.
fn save(store: &dyn PageStore, different: u32) -> u64 {
    let mut pages = vec![PageBuf::ZERO; BATCH as usize];
    let mut ns = 0;
    for first in (0..PAGES).step_by(BATCH as usize) {
        fill(&mut pages, first, different);
        let like = CompareWith::Any;
        let writes = (first..first + BATCH).map(|slot| (slot, like));
        let start = Instant::now();
        let saved = write(store, &writes.collect::<Vec<_>>(), &pages, first);
        let alike = (first..)
            .zip(saved)
            .filter_map(|(slot, saved)| match saved {
                Ok(Saved::DedupCandidate(other)) => Some((slot, CompareWith::Slot(other))),
                _ => None,
            });
        let alike: Vec<_> = alike.collect();
        if !alike.is_empty() {
            let saved = write(store, &alike, &pages, first);
            assert!(saved.iter().all(|saved| *saved == Ok(Saved::Unchanged)));
        }
        ns += since(start);
    }
    ns
}

fn write(
    store: &dyn PageStore,
    list: &[(u32, CompareWith)],
    pages: &[PageBuf],
    first: u32,
) -> Vec<Result<Saved, StoreError>> {
    let writes = list.iter().map(|(slot, like)| Write {
        slot: Slot(*slot),
        like: *like,
    });
    let writes: Vec<_> = writes.collect();
    let mut outcomes = vec![Err(StoreError::Full); writes.len()];
    let mut fill = |from: usize, into: &mut [PageBuf]| {
        for (into, (slot, _)) in into.iter_mut().zip(&list[from..]) {
            *into = pages[(slot - first) as usize];
        }
    };
    store.write(&writes, &mut fill, &mut outcomes);
    outcomes
}

fn since(start: Instant) -> u64 {
    u64::try_from(start.elapsed().as_nanos()).unwrap_or(u64::MAX)
}
