//! The core against a simulated hypervisor and store.

mod cases;
mod defects;
mod guest;
mod judge;
mod races;
mod random;
mod sim;
