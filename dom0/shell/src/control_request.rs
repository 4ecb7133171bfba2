// SPDX-License-Identifier: MIT OR Apache-2.0
//! Requests on the control socket, and the clients that wait for answers.

use std::fs::File;

use pager_store::area::Header;
use pager_store::areas::AreaChoice;
use uuid::Uuid;
use zerocopy::IntoBytes as _;

use super::socket::{Connection, PACKET_WORDS};

/// The most bytes of text in a packet.
pub(super) const MAX_TEXT: usize = 8 * (PACKET_WORDS - 4);

/// A valid request of an operator.
#[derive(Debug)]
pub(super) enum Request {
    /// About the swap areas.
    Areas(AreaRequest),
    /// End, so that another pager takes over. The next one knows this version of the index.
    HandOver {
        /// The version.
        index_version: u64,
    },
}

/// A request about the swap areas.
#[derive(Debug)]
pub(super) enum AreaRequest {
    /// Use another area.
    On {
        file: File,
        header: Header,
        choice: AreaChoice,
    },
    /// Drain the area.
    Off(Uuid),
    /// List the areas.
    List,
}

/// A client that waits for an answer.
#[derive(Debug)]
pub(super) struct ControlClient(pub(super) Connection);

impl ControlClient {
    /// Answers. Errors are ignored: a client that is gone needs no answer.
    pub(super) fn answer(&self, outcome: Result<String, String>) {
        let (code, text) = match outcome {
            Ok(text) => (0, text),
            Err(text) => (1, text),
        };
        let _ = self.0.try_send(&packet(&[code], &text));
    }
}

/// Builds a packet: some numbers, then a text.
pub fn packet(numbers: &[u64], text: &str) -> Vec<u64> {
    let text = &text.as_bytes()[..text.len().min(MAX_TEXT)];
    let mut words = numbers.to_vec();
    words.push(text.len() as u64);
    let start = words.len();
    words.resize(start + text.len().div_ceil(8), 0);
    words[start..].as_mut_bytes()[..text.len()].copy_from_slice(text);
    words
}
