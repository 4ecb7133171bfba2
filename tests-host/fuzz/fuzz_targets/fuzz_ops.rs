// SPDX-License-Identifier: MIT OR Apache-2.0
#![no_main]
//! Bytes are operations with injected failures and a cheating pager, compared with the model.

use fuzz::fuzz::ops;

libfuzzer_sys::fuzz_target!(|data: &[u8]| ops(data));
