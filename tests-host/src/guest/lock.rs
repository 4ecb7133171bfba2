//! The kernel's lock: whoever is in the kernel has it, but for the time that it sleeps. First come,
//! first served.

use std::cell::Cell;
use std::rc::Rc;

use super::cpu::until;

/// The lock.
#[derive(Clone, Debug, Default)]
pub(super) struct Lock(Rc<Tickets>);

#[derive(Debug, Default)]
struct Tickets {
    next: Cell<u64>,
    served: Cell<u64>,
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
        let ticket = self.0.next.get();
        self.0.next.set(ticket + 1);
        until(|| (self.0.served.get() == ticket).then_some(())).await;
    }

    fn release(&self) {
        self.0.served.set(self.0.served.get() + 1);
    }
}

impl Held {
    /// Sleeps until there is something, with the lock given up: all may be different afterwards.
    pub(super) async fn sleep_until<T>(&mut self, look: impl FnMut() -> Option<T>) -> T {
        self.lock.release();
        let found = until(look).await;
        self.lock.wait().await;
        found
    }

    /// Lets others have the kernel for a turn.
    pub(super) async fn relax(&mut self) {
        let mut again = false;
        self.sleep_until(|| std::mem::replace(&mut again, true).then_some(()))
            .await;
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.lock.release();
    }
}
