// SPDX-License-Identifier: MIT OR Apache-2.0
#![no_main]
//! Bytes are operations and hostile writes into the ring page.

use fuzz::fuzz::ring;

libfuzzer_sys::fuzz_target!(|data: &[u8]| ring(data));
