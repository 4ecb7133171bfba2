// SPDX-License-Identifier: MIT OR Apache-2.0
//! Where the guest's code meets its machine: a CPU does one thing at a time for a task, and what it
//! does may have to be done again, because a page that it touches is out and the vcpu was stopped.
//!
//! Kernel code is `async`: it can stop in the middle of an operation, wherever it touches memory or
//! waits, and goes on there. Nothing else suspends it. Whoever runs tasks lets each go on, carries out what
//! it orders, and does not ask one that waits until it is woken. An instruction of a process is done whole or,
//! if any page that it needs is out, the table pages among them, not at all: as hardware does it.

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

/// The vcpu was stopped, or has to try again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stalled;

/// What the guest runs on, as one vcpu sees it.
pub trait Machine {
    /// Accesses a page. `work` is done at once, or not at all; what it changes counts only with a
    /// write access.
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

    /// Where the CPU begins its walks for a process whose tables have this root.
    fn root(&self, of_process: Gfn) -> Gfn;

    /// The entry in which a walk for this page has ended, if the CPU remembers it.
    fn recall(&self, virt: Virt) -> Option<Pte>;

    /// The CPU may remember it.
    fn remember(&self, virt: Virt, entry: Pte);
}

/// What is done to a page.
#[derive(Clone, Copy, Debug)]
pub(super) enum Edit {
    /// Reads it all.
    Read,
    /// Writes it all.
    Write(Page),
    /// Puts another word in place of one.
    Swap(usize, u64),
    /// Clears the bits of a word that are not in this.
    And(usize, u64),
}

/// What a CPU is told to do.
#[derive(Clone, Copy, Debug)]
enum Order {
    /// The kernel, through its map of all memory. The answer is the page as it was before.
    Kernel(Gfn, Edit),
    /// A process loads a word, or stores one. The answer is the word as it was before.
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
    /// Whatever CPUs remember of the address space with this root is forgotten.
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
    /// Told of the word that a process's instruction found, at the moment that it is done.
    witness: Option<Witness>,
    answer: Option<Answer>,
    /// The root of the address space that the task runs in, if it is not the kernel's own.
    space: Option<Gfn>,
}

/// Told of a word.
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

    /// Entries of the tables with this root have changed: no CPU remembers what they were.
    pub(super) async fn flush(&self, root: Gfn) {
        self.order(Order::Flush(root)).await;
    }

    /// Does something to a page; yields what it contained before.
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

/// How far a task has gone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// It has ordered something, which is to be carried out.
    Orders,
    /// It runs in the address space with this root from now on; `None`: in the kernel's own. Whoever
    /// switches tasks sees to it before the task goes on.
    Enters(Option<Gfn>),
    /// All CPUs are to forget the address space with this root, before the task goes on.
    Flushes(Gfn),
    /// It lets others go first.
    Yields,
    /// It waits for something inside the guest, until it is woken.
    Waits,
    /// It is over.
    Over,
}

/// Whether a task has been woken since it went on last.
#[derive(Debug, Default)]
pub struct Wakeup(AtomicBool);

impl Wakeup {
    /// Whether it has.
    pub fn has_come(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}

impl Wake for Wakeup {
    fn wake(self: Arc<Self>) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Code of the guest, on its way.
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

    /// Lets the code go on until it wants something or waits. What it has ordered has been carried out.
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

    /// What the task orders from.
    pub fn cpu(&self) -> &Cpu {
        &self.cpu
    }

    /// Whether it is to look again for what it waits for.
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
