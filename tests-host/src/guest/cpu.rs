// SPDX-License-Identifier: MIT OR Apache-2.0
//! The interface between the guest's code and its machine. A CPU does one thing at a time for a
//! task. It may have to do it again, if a page that it accesses is out and the vcpu was paused.
//!
//! Kernel code is `async`: it can stop in the middle of an operation, wherever it accesses memory
//! or waits, and goes on there. Nothing else suspends it. The host of tasks lets each go on,
//! carries out what it orders, and does not poll a task that waits until it is woken. An
//! instruction of a process is done whole, or not at all if any page that it needs is out, page
//! tables included: as hardware does it.

use std::cell::RefCell;
use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, Wake};

use p2m_paging::Gfn;
use p2m_paging::p2m::Access;

use super::tables::{self, PageFault, Pte, Virt};
use crate::machine::Page;

/// The vcpu was paused, or has to try again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stalled;

/// The guest's platform, as one vcpu sees it.
pub trait Machine {
    /// Accesses a page. `work` is done at once, or not at all. Its changes count only with a write
    /// access.
    fn access(
        &self,
        gfn: Gfn,
        access: Access,
        work: &mut dyn FnMut(&mut Page),
    ) -> Result<(), Stalled>;

    /// Gives a page back to the hypervisor.
    fn give_back(&self, gfn: Gfn) -> Result<(), Stalled>;

    /// Takes a page that was given back. `false`: there is no memory.
    fn take(&self, gfn: Gfn) -> Result<bool, Stalled>;

    /// The root at which the CPU begins its walks for a process whose tables have this root.
    fn root(&self, of_process: Gfn) -> Gfn;

    /// The entry in which a walk for this page has ended, if the CPU remembers it.
    fn recall(&self, virt: Virt) -> Option<Pte>;

    /// The CPU may remember it.
    fn remember(&self, virt: Virt, entry: Pte);
}

/// An access to a page.
#[derive(Clone, Copy, Debug)]
pub(super) enum Edit {
    /// Reads all of it.
    Read,
    /// Writes all of it.
    Write(Page),
    /// Replaces one word by another.
    Swap(usize, u64),
    /// Clears the bits of a word that are not in this mask.
    And(usize, u64),
}

/// An order to a CPU.
#[derive(Clone, Copy, Debug)]
enum Order {
    /// By the kernel, through its map of all memory. The answer is the page's old contents.
    Kernel(Gfn, Edit),
    /// A process loads a word, or stores one. The answer is the old word.
    Process {
        root: Gfn,
        virt: Virt,
        word: usize,
        store: Option<u64>,
    },
    GiveBack(Gfn),
    Take(Gfn),
    /// The task's address space from now on.
    Enter(Option<Gfn>),
    /// CPUs forget everything of the address space with this root.
    Flush(Gfn),
}

#[derive(Clone, Copy, Debug)]
enum Answer {
    Page(Page),
    Word(Result<u64, PageFault>),
    Done(bool),
}

#[derive(Default)]
struct Port {
    order: Option<Order>,
    /// Called with the word that a process's instruction found, at the moment when it is done.
    witness: Option<Witness>,
    answer: Option<Answer>,
    /// The root of the address space that the task runs in, if it is not the kernel's own.
    space: Option<Gfn>,
}

/// Called with a word.
pub(super) type Witness = Rc<dyn Fn(u64)>;

/// A task's CPU, whichever vcpu that is.
#[derive(Clone, Default)]
pub struct Cpu(Rc<RefCell<Port>>);

impl Cpu {
    async fn order(&self, order: Order) -> Answer {
        self.0.borrow_mut().order = Some(order);
        let answer = || self.0.borrow_mut().answer.take();
        poll_fn(|_| answer().map_or(Poll::Pending, Poll::Ready)).await
    }

    /// Whether there is an order that has not been carried out.
    pub fn has_order(&self) -> bool {
        self.0.borrow().order.is_some()
    }

    /// Carries the order out, or leaves it to be carried out again.
    pub fn carry_out(&self, machine: &dyn Machine) -> Result<(), Stalled> {
        let order = self.0.borrow().order.expect("something is ordered");
        let answer = carry_out(order, machine)?;
        let witness = self.0.borrow_mut().witness.take();
        if let (Answer::Word(Ok(word)), Some(witness)) = (answer, witness) {
            witness(word);
        }
        self.answer(answer);
        Ok(())
    }

    fn answer(&self, answer: Answer) {
        let port = &mut *self.0.borrow_mut();
        (port.order, port.answer) = (None, Some(answer));
    }

    /// The task runs in this address space from now on.
    pub(super) async fn enter_space(&self, root: Gfn) {
        if self.0.borrow().space != Some(root) {
            self.order(Order::Enter(Some(root))).await;
        }
    }

    /// The task runs in the kernel's own address space from now on.
    pub(super) async fn leave_space(&self) {
        if self.0.borrow().space.is_some() {
            self.order(Order::Enter(None)).await;
        }
    }

    /// Entries of the tables with this root have changed: all CPUs forget the old ones.
    pub(super) async fn flush(&self, root: Gfn) {
        self.order(Order::Flush(root)).await;
    }

    /// Accesses a page; yields its old contents.
    pub(super) async fn edit(&self, gfn: Gfn, edit: Edit) -> Page {
        match self.order(Order::Kernel(gfn, edit)).await {
            Answer::Page(page) => page,
            other => unreachable!("{other:?} for a page"),
        }
    }

    /// A process loads, or stores, a word.
    pub(super) async fn process(
        &self,
        root: Gfn,
        virt: Virt,
        word: usize,
        store: Option<u64>,
        witness: Witness,
    ) -> Result<u64, PageFault> {
        self.0.borrow_mut().witness = Some(witness);
        let order = Order::Process {
            root,
            virt,
            word,
            store,
        };
        match self.order(order).await {
            Answer::Word(word) => word,
            other => unreachable!("{other:?} for a word"),
        }
    }

    pub(super) async fn give_back(&self, gfn: Gfn) {
        self.order(Order::GiveBack(gfn)).await;
    }

    pub(super) async fn take(&self, gfn: Gfn) -> bool {
        matches!(self.order(Order::Take(gfn)).await, Answer::Done(true))
    }
}

/// The state of a task.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// It has ordered something, which is to be carried out.
    Orders,
    /// It runs in the address space with this root from now on; `None`: in the kernel's own. The
    /// caller that switches tasks sets it before the task goes on.
    Enters(Option<Gfn>),
    /// All CPUs must forget the address space with this root before the task goes on.
    Flushes(Gfn),
    /// It lets others go first.
    Yields,
    /// It waits for something inside the guest, until it is woken.
    Waits,
    /// It has ended.
    Over,
}

/// Whether a task has been woken since it last went on.
#[derive(Debug, Default)]
pub struct Wakeup(AtomicBool);

impl Wakeup {
    /// Whether it has been woken.
    pub fn has_come(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}

impl Wake for Wakeup {
    fn wake(self: Arc<Self>) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Code of the guest, suspended.
pub struct Task {
    cpu: Cpu,
    code: Pin<Box<dyn Future<Output = ()>>>,
    wakeup: Arc<Wakeup>,
}

impl Task {
    /// A task that has not begun.
    pub fn new<F: Future<Output = ()> + 'static>(code: impl FnOnce(Cpu) -> F) -> Self {
        let cpu = Cpu::default();
        let code = Box::pin(code(cpu.clone()));
        let wakeup = Arc::default();
        Self { cpu, code, wakeup }
    }

    /// Lets the code go on until it orders something or waits. Its last order has been carried out.
    pub fn go_on(&mut self) -> Step {
        self.wakeup.0.store(false, Ordering::Relaxed);
        let waker = Arc::clone(&self.wakeup).into();
        let polled = self.code.as_mut().poll(&mut Context::from_waker(&waker));
        let order = self.cpu.0.borrow().order;
        match (polled, order) {
            (Poll::Ready(()), _) => Step::Over,
            (Poll::Pending, Some(Order::Enter(root))) => {
                self.cpu.0.borrow_mut().space = root;
                self.cpu.answer(Answer::Done(true));
                Step::Enters(root)
            }
            (Poll::Pending, Some(Order::Flush(root))) => {
                self.cpu.answer(Answer::Done(true));
                Step::Flushes(root)
            }
            (Poll::Pending, Some(_)) => Step::Orders,
            (Poll::Pending, None) if self.wakeup.has_come() => Step::Yields,
            (Poll::Pending, None) => Step::Waits,
        }
    }

    /// The CPU to which the task gives its orders.
    pub fn cpu(&self) -> &Cpu {
        &self.cpu
    }

    /// Whether it is to check again what it waits for.
    pub fn wakeup(&self) -> &Arc<Wakeup> {
        &self.wakeup
    }
}

impl std::fmt::Debug for Cpu {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let order = self.0.borrow().order;
        f.debug_struct("Cpu").field("order", &order).finish()
    }
}

impl std::fmt::Debug for Task {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Task")
            .field("cpu", &self.cpu)
            .finish_non_exhaustive()
    }
}

fn carry_out(order: Order, machine: &dyn Machine) -> Result<Answer, Stalled> {
    Ok(match order {
        Order::Kernel(gfn, edit) => {
            let access = match edit {
                Edit::Read => Access::READ,
                Edit::Write(_) | Edit::Swap(..) | Edit::And(..) => Access::READ | Access::WRITE,
            };
            let mut before = Page::ZERO;
            machine.access(gfn, access, &mut |page| {
                before = *page;
                match edit {
                    Edit::Read => {}
                    Edit::Write(contents) => *page = contents,
                    Edit::Swap(word, value) => page.0[word] = value,
                    Edit::And(word, mask) => page.0[word] &= mask,
                }
            })?;
            Answer::Page(before)
        }
        Order::Process {
            root,
            virt,
            word,
            store,
        } => {
            let root = machine.root(root);
            Answer::Word(tables::execute(machine, root, virt, word, store)?)
        }
        Order::GiveBack(gfn) => {
            machine.give_back(gfn)?;
            Answer::Done(true)
        }
        Order::Take(gfn) => Answer::Done(machine.take(gfn)?),
        Order::Enter(_) | Order::Flush(_) => unreachable!("it is answered where it is ordered"),
    })
}
