// SPDX-License-Identifier: MIT OR Apache-2.0
//! The core against a simulated hypervisor and store.

mod areas;
mod cases;
mod dedup;
mod defects;
mod explore;
mod full;
mod guest;
mod judge;
mod kill;
mod leftovers;
mod loss;
mod order;
mod races;
mod random;
mod sim;
