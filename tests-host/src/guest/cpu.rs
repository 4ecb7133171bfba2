//! Where the guest's code meets its machine: a CPU does one thing at a time for a task, and what it
//! does may have to be done again, because a page that it touches is out and the vcpu was stopped.
//!
//! Kernel code is `async`: it can stop in the middle of an operation, wherever it touches memory or
//! waits, and goes on there. Nothing else suspends it. An instruction of a process is done whole or,
//! if any page that it needs is out, the table pages among them, not at all: as hardware does it.

use std::cell::RefCell;
use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

use p2m_paging::Gfn;
use p2m_paging::p2m::Access;

use super::tables::{self, PageFault, Virt};
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
}

#[derive(Clone, Copy, Debug)]
enum Answer {
    Page(Page),
    Word(Result<u64, PageFault>),
    Done(bool),
}

#[derive(Debug, Default)]
struct Port {
    order: Option<Order>,
    answer: Option<Answer>,
}

/// A task's CPU, whichever vcpu that is.
#[derive(Clone, Debug, Default)]
pub struct Cpu(Rc<RefCell<Port>>);

impl Cpu {
    async fn order(&self, order: Order) -> Answer {
        self.0.borrow_mut().order = Some(order);
        until(|| self.0.borrow_mut().answer.take()).await
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
    ) -> Result<u64, PageFault> {
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

/// Waits until there is something. It is looked for whenever the task has its turn.
pub(super) async fn until<T>(mut look: impl FnMut() -> Option<T>) -> T {
    poll_fn(|_| look().map_or(Poll::Pending, Poll::Ready)).await
}

/// Others have their turn.
pub(super) async fn relax() {
    let mut again = false;
    until(|| std::mem::replace(&mut again, true).then_some(())).await;
}

/// What became of a task's turn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Turn {
    /// It went on.
    Went,
    /// Its vcpu stands, and with it the task.
    Stalled,
    /// It waits for something inside the guest.
    Waits,
    /// It is over.
    Over,
}

/// Code of the guest, on its way.
pub struct Task {
    cpu: Cpu,
    code: Pin<Box<dyn Future<Output = ()>>>,
}

impl Task {
    /// A task that has not begun.
    pub fn new<F: Future<Output = ()> + 'static>(code: impl FnOnce(Cpu) -> F) -> Self {
        let cpu = Cpu::default();
        let code = Box::pin(code(cpu.clone()));
        Self { cpu, code }
    }

    /// Does what the task ordered last, and lets it go on to its next order.
    pub fn turn(&mut self, machine: &dyn Machine) -> Turn {
        let order = self.cpu.0.borrow_mut().order.take();
        if let Some(order) = order {
            match carry_out(order, machine) {
                Ok(answer) => self.cpu.0.borrow_mut().answer = Some(answer),
                Err(Stalled) => {
                    self.cpu.0.borrow_mut().order = Some(order);
                    return Turn::Stalled;
                }
            }
        }
        let mut context = Context::from_waker(Waker::noop());
        match self.code.as_mut().poll(&mut context) {
            Poll::Ready(()) => Turn::Over,
            Poll::Pending if self.cpu.0.borrow().order.is_some() => Turn::Went,
            Poll::Pending => Turn::Waits,
        }
    }
}

impl std::fmt::Debug for Task {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Task")
            .field("order", &self.cpu.0.borrow().order)
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
        } => Answer::Word(tables::execute(machine, root, virt, word, store)?),
        Order::GiveBack(gfn) => {
            machine.give_back(gfn)?;
            Answer::Done(true)
        }
        Order::Take(gfn) => Answer::Done(machine.take(gfn)?),
    })
}
