//! The kernel: which task runs on which CPU, and what tasks can ask of it.

use std::any::Any;
use std::cell::{Cell, Ref, RefCell};
use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::ops::{Deref, Range};
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::rc::{Rc, Weak};

use super::context::{self, Departure, Execution};
use super::cpu::{Cpu, Fault, FpuRegisters};
use super::mm::{Mm, flush_tlb, switch_mm};
use super::task::Task;
use super::wait::Interrupted;
use crate::scheduler::{Call, CpuId, Policy, Scheduler, State, Switch, TaskId, Waker};

/// Why a CPU has left its guest.
#[derive(Debug, PartialEq, Eq)]
pub enum Exit<X> {
    /// A task has done something that the host has to see to. It goes on when its CPU runs again.
    Trap(TaskId, X),
    /// No task can run.
    Halt,
}

/// A kernel. `X` is what tasks trap with.
pub struct Kernel<X> {
    me: Weak<Self>,
    scheduler: RefCell<Scheduler>,
    processors: Vec<Processor>,
    tasks: RefCell<Vec<Option<Rc<Task>>>>,
    timers: RefCell<BinaryHeap<Reverse<(u64, TaskId)>>>,
    now_ns: Cell<u64>,
    trap: Cell<Option<X>>,
    panic: Cell<Option<Box<dyn Any + Send>>>,
    /// The kernel's own address space.
    init_mm: Rc<Mm>,
}

/// One of its CPUs.
struct Processor {
    cpu: Rc<RefCell<Cpu>>,
    idle: Rc<Task>,
    current: RefCell<Rc<Task>>,
    /// An address space that a kernel task has borrowed until the switch under way.
    prev_mm: RefCell<Option<Rc<Mm>>>,
}

/// Owns a kernel: when it is dropped, every task that has not ended is unwound.
pub struct Booted<X: 'static>(Rc<Kernel<X>>);

/// What a task that is killed unwinds with.
struct Killed;

impl<X: 'static> Kernel<X> {
    /// A kernel on so many CPUs, up to 64, all idle, with a tick of so many nanoseconds. Panics without
    /// memory for their stacks.
    pub fn boot(cpus: usize, tick_ns: u64) -> Booted<X> {
        assert!(cpus <= 64);
        Booted(Rc::new_cyclic(|me: &Weak<Self>| {
            let init_mm = Mm::new(0, 0);
            let number = |n| u32::try_from(n).expect("few CPUs");
            let processor = |n| Processor::new(number(n), me.clone(), &init_mm);
            Self {
                me: me.clone(),
                scheduler: RefCell::new(Scheduler::new(cpus, tick_ns)),
                processors: (0..cpus).map(processor).collect(),
                tasks: RefCell::default(),
                timers: RefCell::default(),
                now_ns: Cell::new(0),
                trap: Cell::new(None),
                panic: Cell::new(None),
                init_mm,
            }
        }))
    }

    /// A new task on a CPU: one of the kernel's own without an address space. It ends with `main`. Panics
    /// without memory for its stack.
    pub fn spawn(
        &self,
        policy: Policy,
        mm: Option<Rc<Mm>>,
        cpu: CpuId,
        main: impl FnOnce(&Self) + 'static,
    ) -> TaskId {
        let id = self.scheduler.borrow_mut().add(policy, cpu, self.now_ns());
        let me = self.me.clone();
        let life = move |last| {
            let kernel = me.upgrade().expect("it runs its tasks");
            kernel.finish_switch(last);
            let lived = catch_unwind(AssertUnwindSafe(|| {
                kernel.goes_on();
                main(&kernel);
            }));
            kernel.end(lived)
        };
        let on = self.processor(cpu).cpu.clone();
        let task = Task::new(Some(id), mm, on, Box::new(life)).expect("memory for a stack");
        self.tasks.borrow_mut().push(Some(task));
        id
    }

    /// Runs a CPU until it exits. A panic of a task is thrown on here.
    pub fn run(&self, cpu: CpuId) -> Exit<X> {
        let task = self.processor(cpu).current.borrow().clone();
        context::enter(task);
        if let Some(panic) = self.panic.take() {
            resume_unwind(panic);
        }
        let current = self.scheduler.borrow().current(cpu);
        match (current, self.trap.take()) {
            (Some(task), Some(what)) => Exit::Trap(task, what),
            (_, None) => Exit::Halt,
            (None, Some(_)) => unreachable!("an idle task traps"),
        }
    }

    /// Says what time it is, and wakes those whose time it was.
    pub fn advance(&self, now_ns: u64) {
        self.now_ns.set(self.now_ns().max(now_ns));
        while let Some(at_ns) = self.next_timer()
            && at_ns <= now_ns
        {
            if let Some(Reverse((_, task))) = self.timers.borrow_mut().pop() {
                self.wake(task, Waker::Interrupt);
            }
        }
    }

    /// When the next sleeper is to be woken.
    pub fn next_timer(&self) -> Option<u64> {
        self.timers
            .borrow()
            .peek()
            .map(|Reverse((at_ns, _))| *at_ns)
    }

    /// A CPU's timer ticks.
    pub fn tick(&self, cpu: CpuId) {
        self.scheduler.borrow_mut().tick(cpu, self.now_ns());
    }

    /// What a task waits for is there. Names the CPU that is to run now, if one is: it may be halted.
    pub fn wake(&self, task: TaskId, by: Waker) -> Option<CpuId> {
        self.scheduler.borrow_mut().wake(task, by, self.now_ns())
    }

    /// Sends a task a signal.
    pub fn signal(&self, task: TaskId) -> Option<CpuId> {
        self.scheduler.borrow_mut().signal(task, self.now_ns())
    }

    /// Whether a CPU has anything to run.
    pub fn has_work(&self, cpu: CpuId) -> bool {
        let scheduler = self.scheduler.borrow();
        scheduler.needs_resched(cpu) || scheduler.current(cpu).is_some()
    }

    /// What it schedules by.
    pub fn scheduler(&self) -> Ref<'_, Scheduler> {
        self.scheduler.borrow()
    }

    /// A CPU.
    pub fn cpu(&self, cpu: CpuId) -> Ref<'_, Cpu> {
        self.processor(cpu).cpu.borrow()
    }

    /// Nanoseconds since the start.
    pub fn now_ns(&self) -> u64 {
        self.now_ns.get()
    }

    /// Entries of an address space have changed: CPUs forget what they remember.
    pub fn flush(&self, mm: &Mm) {
        let cpus = self.processors.iter().map(|processor| &*processor.cpu);
        flush_tlb(mm, self.init_mm.pgd(), cpus);
    }

    fn processor(&self, cpu: CpuId) -> &Processor {
        &self.processors[cpu.0 as usize]
    }

    fn here(&self, task: &Task) -> (CpuId, &Processor) {
        let number = task.cpu().borrow().number;
        (CpuId(number), self.processor(CpuId(number)))
    }
}

/// For the tasks themselves: what they do is done by the one that runs.
impl<X: 'static> Kernel<X> {
    /// Leaves the guest, for the host to see to something; returns once it has, and nobody more urgent is to
    /// run. A task that unwinds only returns.
    pub fn trap(&self, what: X) {
        if std::thread::panicking() {
            return;
        }
        self.trap.set(Some(what));
        context::leave();
        self.goes_on();
    }

    /// Which task runs: found from the stack pointer. `None`: an idle task, or the host.
    pub fn current(&self) -> Option<TaskId> {
        context::current().and_then(|task| task.id)
    }

    /// Lets others go first.
    pub fn yield_now(&self) {
        let (cpu, _) = self.here(&running());
        self.scheduler.borrow_mut().yield_now(cpu);
        self.schedule(Call::Direct);
    }

    /// Sleeps for so long, or until a signal.
    pub fn sleep_ns(&self, ns: u64) -> Result<(), Interrupted> {
        let (task, until) = (self.current().expect("a task sleeps"), self.now_ns() + ns);
        while self.now_ns() < until {
            self.timers.borrow_mut().push(Reverse((until, task)));
            self.set_state(State::Interruptible);
            self.schedule(Call::Direct);
            if self.scheduler.borrow_mut().take_signal(task) {
                return Err(Interrupted);
            }
        }
        Ok(())
    }

    /// The running task is about to do this: it takes effect in [`Self::block`].
    pub fn set_state(&self, state: State) {
        let task = self.current().expect("an idle task is always about to run");
        self.scheduler.borrow_mut().set_state(task, state);
    }

    /// Gives the CPU up directly: sleeps, if that is what the task is about and nobody has woken it
    /// since.
    pub fn block(&self) {
        self.schedule(Call::Direct);
    }

    /// Takes the running task's signal; whether it had one.
    pub fn take_signal(&self) -> bool {
        let task = self.current();
        task.is_some_and(|task| self.scheduler.borrow_mut().take_signal(task))
    }

    /// Uses the FPU.
    pub fn fpu<R>(&self, use_it: impl FnOnce(&mut FpuRegisters) -> R) -> R {
        let task = running();
        let (cpu, mut thread) = (task.cpu(), task.thread.borrow_mut());
        use_it(thread.fpu(&mut cpu.borrow_mut()))
    }

    /// Uses a port. An error is what a signal would say to a program.
    pub fn port(&self, port: u16) -> Result<(), Fault> {
        let task = running();
        task.thread
            .borrow()
            .port(&mut task.cpu().borrow_mut(), port)
    }

    /// Asks for leave to use ports, or gives it back.
    pub fn permit_ports(&self, ports: Range<u16>, may: bool) {
        let task = running();
        let (cpu, mut thread) = (task.cpu(), task.thread.borrow_mut());
        thread.permit_ports(&mut cpu.borrow_mut(), ports, may);
    }

    /// Asks for leave to use all ports, or gives it back.
    pub fn permit_all_ports(&self, may: bool) {
        let task = running();
        task.thread.borrow_mut().iopl = if may { 3 } else { 0 };
        task.cpu().borrow_mut().iopl = if may { 3 } else { 0 };
    }

    /// Goes over to another address space; `None`: to the kernel's own. CPUs that only borrow the one
    /// before leave it, so that its table can be freed.
    pub fn set_mm(&self, mm: Option<Rc<Mm>>) {
        let task = running();
        let (_, processor) = self.here(&task);
        let next = mm.clone().unwrap_or_else(|| self.init_mm.clone());
        let prev = task.active_mm.replace(Some(next.clone()));
        let prev = prev.expect("it runs in some");
        {
            let mut cpu = processor.cpu.borrow_mut();
            switch_mm(&prev, &next, &mut cpu);
            cpu.lazy_tlb = mm.is_none();
        }
        task.mm.replace(mm);
        self.flush(&prev);
    }

    /// Sets a thread-local segment, 0 to 2, and points GS at it.
    pub fn set_tls(&self, entry: usize, base: u64) {
        let task = running();
        task.thread.borrow_mut().tls[entry] = base;
        let cpu = task.cpu();
        let mut cpu = cpu.borrow_mut();
        cpu.tls[entry] = base;
        cpu.gs = u16::try_from((6 + entry) << 3 | 3).expect("one of three");
    }

    /// Uses its thread-local storage.
    pub fn tls(&self) -> Result<u64, Fault> {
        running().cpu().borrow().gs_instruction()
    }

    /// Sets up to four breakpoints.
    pub fn set_breakpoints(&self, addresses: &[u64]) {
        let task = running();
        let (cpu, mut thread) = (task.cpu(), task.thread.borrow_mut());
        thread.set_breakpoints(&mut cpu.borrow_mut(), addresses);
    }

    /// Reaches an address: whether a breakpoint of its own lies there.
    pub fn reach(&self, address: u64) -> bool {
        let task = running();
        task.thread
            .borrow()
            .reach(&mut task.cpu().borrow_mut(), address)
    }

    /// Says whether it may read the time-stamp counter.
    pub fn permit_tsc(&self, may: bool) {
        let task = running();
        task.thread.borrow_mut().no_tsc = !may;
        task.cpu().borrow_mut().no_tsc = !may;
    }

    /// Reads the time-stamp counter.
    pub fn tsc(&self) -> Result<u64, Fault> {
        running().cpu().borrow().tsc_instruction()?;
        Ok(self.now_ns())
    }

    /// Switches to whoever is to run (row D7).
    fn schedule(&self, call: Call) {
        if std::thread::panicking() {
            return;
        }
        if let Some(next) = self.choose(call) {
            let last = context::switch(next);
            self.finish_switch(last);
        }
        self.goes_on();
    }

    /// Chooses who is to run, if it is somebody else, and switches to its address space (row D2).
    fn choose(&self, call: Call) -> Option<Rc<Task>> {
        let prev = running();
        let (number, processor) = self.here(&prev);
        let now_ns = self.now_ns();
        let Switch { next, .. } = self.scheduler.borrow_mut().schedule(number, now_ns, call);
        let next = match next {
            Some(next) => self.tasks.borrow()[next.0 as usize]
                .clone()
                .expect("it can run"),
            None => processor.idle.clone(),
        };
        if Rc::ptr_eq(&prev, &next) {
            return None;
        }
        next.move_to(&processor.cpu);
        let old = prev.active_mm.borrow().clone().expect("it runs in some");
        match &*next.mm.borrow() {
            Some(new) => switch_mm(&old, new, &mut processor.cpu.borrow_mut()),
            None => {
                next.active_mm.replace(Some(old.clone()));
                processor.cpu.borrow_mut().lazy_tlb = true;
            }
        }
        if prev.mm.borrow().is_none() {
            prev.active_mm.take();
            processor.prev_mm.replace(Some(old));
        }
        processor.current.replace(next.clone());
        Some(next)
    }

    /// After a switch, on the stack of who runs now: what the one before, `last`, could not do for itself.
    fn finish_switch(&self, last: Option<Rc<Task>>) {
        let (_, processor) = self.here(&running());
        processor.prev_mm.take();
        if let Some(last) = last
            && last.execution.get() == Execution::Ended
            && let Some(id) = last.id
        {
            self.tasks.borrow_mut()[id.0 as usize] = None;
        }
    }

    /// A task goes on: ends if it was killed, makes way if it must, and finds its CPU as it left it.
    fn goes_on(&self) {
        loop {
            let task = running();
            if task.is_killed.get() {
                drop(task);
                resume_unwind(Box::new(Killed));
            }
            let (number, processor) = self.here(&task);
            let needs_resched = self.scheduler.borrow().needs_resched(number);
            if !needs_resched {
                assert!(
                    Rc::ptr_eq(&task, &processor.current.borrow()),
                    "another's turn"
                );
                let cpu = processor.cpu.borrow();
                task.thread.borrow().check(&cpu);
                if let Some(mm) = &*task.mm.borrow() {
                    assert_eq!(cpu.cr3(), mm.pgd(), "another's address space");
                    assert!(mm.cpus() & 1 << cpu.number != 0, "flushes pass it by");
                }
                return;
            }
            drop(task);
            if let Some(next) = self.choose(Call::Delayed) {
                let last = context::switch(next);
                self.finish_switch(last);
            }
        }
    }

    /// The running task has ended: who is next.
    fn end(&self, lived: Result<(), Box<dyn Any + Send>>) -> Departure {
        if let Err(panic) = lived {
            if !panic.is::<Killed>() {
                self.panic.set(Some(panic));
            }
            return Departure::Host;
        }
        let task = running();
        task.thread
            .borrow_mut()
            .drop_ports(&mut task.cpu().borrow_mut());
        // From here on it borrows what was its own, as a kernel task does.
        task.mm.take();
        task.cpu().borrow_mut().lazy_tlb = true;
        self.set_state(State::Dead);
        drop(task);
        Departure::Next(self.choose(Call::Direct).expect("another one"))
    }

    fn idle(&self, last: Option<Rc<Task>>) -> Departure {
        self.finish_switch(last);
        let lived = catch_unwind(AssertUnwindSafe(|| {
            loop {
                self.goes_on();
                context::leave();
            }
        }));
        self.end(lived)
    }
}

fn running() -> Rc<Task> {
    context::current().expect("asked for by a task")
}

impl Processor {
    fn new<X: 'static>(number: u32, kernel: Weak<Kernel<X>>, init_mm: &Rc<Mm>) -> Self {
        let cpu = Rc::new(RefCell::new(Cpu::new(number)));
        let life = move |last| kernel.upgrade().expect("it runs").idle(last);
        let idle = Task::new(None, None, cpu.clone(), Box::new(life)).expect("memory for a stack");
        idle.active_mm.replace(Some(init_mm.clone()));
        cpu.borrow_mut().tss.sp0 = idle.thread.borrow().sp0;
        Self {
            cpu,
            current: RefCell::new(idle.clone()),
            idle,
            prev_mm: RefCell::default(),
        }
    }
}

impl<X> Deref for Booted<X> {
    type Target = Kernel<X>;
    fn deref(&self) -> &Kernel<X> {
        &self.0
    }
}

impl<X> Drop for Booted<X> {
    fn drop(&mut self) {
        let tasks = self.0.tasks.borrow().clone().into_iter().flatten();
        let idle = self
            .0
            .processors
            .iter()
            .map(|processor| processor.idle.clone());
        for task in tasks.chain(idle).collect::<Vec<_>>() {
            if task.execution.get() == Execution::Suspended {
                task.is_killed.set(true);
                context::enter(task);
            }
        }
        for processor in &self.0.processors {
            let active = processor.current.borrow().active_mm.borrow().clone();
            if let Some(active) = active {
                switch_mm(&active, &self.0.init_mm, &mut processor.cpu.borrow_mut());
            }
        }
        self.0.init_mm.forget_cpus();
    }
}
