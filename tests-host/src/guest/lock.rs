// SPDX-License-Identifier: MIT OR Apache-2.0
//! The kernel's lock: a task in the kernel holds it, except while it sleeps. First come, first
//! served.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::future::poll_fn;
use std::rc::Rc;
use std::task::{Poll, Waker};

use super::wait::{Waiters, relax};

/// The lock.
#[derive(Clone, Debug, Default)]
pub(super) struct Lock(Rc<Tickets>);

#[derive(Debug, Default)]
struct Tickets {
    next: Cell<u64>,
    served: Cell<u64>,
    /// Tasks that wait, by ticket.
    waiting: RefCell<BTreeMap<u64, Waker>>,
}

/// Held, until it is dropped.
#[derive(Debug)]
pub(super) struct Held {
    lock: Lock,
}

impl Lock {
    pub(super) async fn take(&self) -> Held {
        self.wait().await;
        Held { lock: self.clone() }
    }

    async fn wait(&self) {
        let tickets = &self.0;
        let ticket = tickets.next.get();
        tickets.next.set(ticket + 1);
        poll_fn(|context| {
            if tickets.served.get() == ticket {
                return Poll::Ready(());
            }
            let mut waiting = tickets.waiting.borrow_mut();
            waiting.insert(ticket, context.waker().clone());
            Poll::Pending
        })
        .await;
    }

    fn release(&self) {
        let next = self.0.served.get() + 1;
        self.0.served.set(next);
        let waiting = self.0.waiting.borrow_mut().remove(&next);
        waiting.into_iter().for_each(Waker::wake);
    }
}

impl Held {
    /// Sleeps until there is something, with the lock released: everything may be different
    /// afterwards.
    pub(super) async fn sleep_until<T>(
        &mut self,
        waiters: &Waiters,
        look: impl FnMut() -> Option<T>,
    ) -> T {
        self.lock.release();
        let found = waiters.until(look).await;
        self.lock.wait().await;
        found
    }

    /// Releases the kernel to others for a turn.
    pub(super) async fn relax(&mut self) {
        self.lock.release();
        relax().await;
        self.lock.wait().await;
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.lock.release();
    }
}
