// SPDX-License-Identifier: MIT OR Apache-2.0
//! Waiting for something inside the guest without a lost wake-up: a task that waits registers
//! itself, and is woken to check again.

use std::cell::RefCell;
use std::future::poll_fn;
use std::task::{Poll, Waker};

/// Tasks that wait for something to change.
#[derive(Debug, Default)]
pub(super) struct Waiters(RefCell<Vec<Waker>>);

impl Waiters {
    /// Waits until there is something. It is checked at once, and whenever the tasks that wait are
    /// woken.
    pub(super) async fn until<T>(&self, mut look: impl FnMut() -> Option<T>) -> T {
        poll_fn(|context| {
            let found = look();
            if found.is_none() {
                self.note(context.waker());
            }
            found.map_or(Poll::Pending, Poll::Ready)
        })
        .await
    }

    fn note(&self, waker: &Waker) {
        let mut waiting = self.0.borrow_mut();
        if !waiting.iter().any(|other| other.will_wake(waker)) {
            waiting.push(waker.clone());
        }
    }

    /// Something has changed.
    pub(super) fn wake_all(&self) {
        self.0.take().into_iter().for_each(Waker::wake);
    }
}

/// Lets others run for a turn.
pub(super) async fn relax() {
    let mut again = false;
    poll_fn(|context| {
        if std::mem::replace(&mut again, true) {
            return Poll::Ready(());
        }
        context.waker().wake_by_ref();
        Poll::Pending
    })
    .await;
}
