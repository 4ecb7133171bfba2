// SPDX-License-Identifier: MIT OR Apache-2.0
//! Waiting for something without a lost wake-up (row D7).

use std::cell::RefCell;
use std::collections::VecDeque;

use super::Kernel;
use crate::scheduler::{State, TaskId, Waker};

/// A signal came before the event.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("interrupted by a signal")]
pub struct Interrupted;

/// Tasks that wait for one thing, first come first.
#[derive(Debug, Default)]
pub struct WaitQueue(RefCell<VecDeque<TaskId>>);

impl WaitQueue {
    /// The running task waits until `is_there` says so. `state` says whether a signal ends the
    /// wait. Each time the task first declares that it is about to sleep, and then checks. A
    /// wake-up in between only keeps it from sleeping.
    pub fn wait_until<X: 'static>(
        &self,
        kernel: &Kernel<X>,
        state: State,
        mut is_there: impl FnMut() -> bool,
    ) -> Result<(), Interrupted> {
        let task = kernel.current().expect("a task waits");
        self.0.borrow_mut().push_back(task);
        let waited = loop {
            kernel.set_state(state);
            if is_there() {
                break Ok(());
            }
            kernel.block();
            if state == State::Interruptible && kernel.take_signal() {
                break Err(Interrupted);
            }
        };
        kernel.set_state(State::Running);
        self.0.borrow_mut().retain(|waiting| *waiting != task);
        waited
    }

    /// Wakes all tasks that wait, so that they check again.
    pub fn wake_all<X: 'static>(&self, kernel: &Kernel<X>) {
        for task in self.0.borrow().iter() {
            kernel.wake(*task, Waker::Task);
        }
    }
}
