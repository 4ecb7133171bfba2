// SPDX-License-Identifier: MIT OR Apache-2.0
//! A page for the ring, and hostile writes to it.

#![allow(unsafe_code)]

use std::ptr::NonNull;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU32, Ordering};

use p2m_paging::PAGE_SIZE;
use p2m_paging::ring::SharedPage;

const WORDS: usize = PAGE_SIZE / 4;

#[repr(align(4096))]
struct Words([AtomicU32; WORDS]);

/// Pages are never unmapped, only reused: millions of short-lived rings need few of them.
static IDLE: Mutex<Vec<&'static Words>> = Mutex::new(Vec::new());

/// A page in memory, 4096-aligned.
#[derive(Debug)]
pub struct RingPage(&'static Words);

impl std::fmt::Debug for Words {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "page at {:p}", self.0.as_ptr())
    }
}

impl RingPage {
    /// A page with garbage in it.
    pub fn new() -> Self {
        let idle = IDLE.lock().unwrap().pop();
        let page = idle.unwrap_or_else(|| {
            Box::leak(Box::new(Words(
                [const { AtomicU32::new(0xa5a5_a5a5) }; WORDS],
            )))
        });
        Self(page)
    }

    /// A mapping of it, for one half of the ring.
    pub fn map(&self) -> SharedPage {
        let base = NonNull::from(&self.0.0).cast();
        // SAFETY: 4096-aligned, PAGE_SIZE long, never unmapped, and accessed atomically only:
        // through `SharedPage`, and through the atomics of `peek` and `poke`.
        unsafe { SharedPage::new(base) }
    }

    /// The 32-bit word at `word * 4`.
    pub fn peek(&self, word: usize) -> u32 {
        self.0.0[word % WORDS].load(Ordering::Relaxed)
    }

    /// Writes a value that the other side would not write.
    pub fn poke(&self, word: usize, value: u32) {
        self.0.0[word % WORDS].store(value, Ordering::SeqCst);
    }
}

impl Default for RingPage {
    fn default() -> Self {
        Self::new()
    }
}

impl Drop for RingPage {
    fn drop(&mut self) {
        if let Ok(mut idle) = IDLE.lock() {
            idle.push(self.0);
        }
    }
}
