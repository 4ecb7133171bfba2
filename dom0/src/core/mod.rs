//! The pager without its hands: what to page out, what to bring back, what to answer, and when.
//!
//! Pure: no I/O, no clock, no threads. A shell feeds [`Event`]s to [`Pager::handle`] and executes the
//! [`Action`]s that come out.

mod event;
mod pager;

pub use event::{Action, Actions, Batch, Event, Lane, Page, PageError, Report, Step, Summary};
pub use pager::{Config, Pager, Progress};
