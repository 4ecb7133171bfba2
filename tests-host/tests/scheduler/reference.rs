// SPDX-License-Identifier: MIT OR Apache-2.0
//! A second scheduler, as simple as possible: a sorted list for each round of each CPU, searched
//! from the front, with times in ticks.

use tests_host::scheduler::{Call, CpuId, Policy, State, TaskId, Waker};

pub(crate) const TICK_NS: u64 = 1_000_000;
const MOST_SLEEP_NS: u64 = 1000 * TICK_NS;

#[derive(Clone, Copy, Debug, PartialEq)]
enum Sleep {
    Ordinary,
    Disk,
    WokenByTask,
    WokenByInterrupt,
}

#[derive(Clone, Debug)]
pub(crate) struct Task {
    /// `None`: real time.
    nice: Option<i64>,
    own: i64,
    is_fifo: bool,
    pub(crate) priority: i64,
    pub(crate) state: State,
    has_signal: bool,
    cpu: usize,
    slice: i64,
    sleep_ns: u64,
    sleep: Sleep,
    since_ns: u64,
}

#[derive(Clone, Debug, Default)]
pub(crate) struct Cpu {
    pub(crate) current: Option<usize>,
    /// This round's tasks and the expired, sorted by priority, then by who came first.
    pub(crate) lists: [Vec<usize>; 2],
    pub(crate) needs_resched: bool,
    ticks: u64,
    expired_since: Option<u64>,
    best_expired: Option<i64>,
}

#[derive(Clone, Debug)]
pub(crate) struct Reference {
    pub(crate) now_ns: u64,
    pub(crate) tasks: Vec<Task>,
    pub(crate) cpus: Vec<Cpu>,
}

impl Task {
    fn new(rule: (Option<i64>, i64, bool), cpu: usize, now_ns: u64) -> Self {
        let (nice, own, is_fifo) = rule;
        let mut task = Self {
            nice,
            own,
            is_fifo,
            priority: 0,
            state: State::Running,
            has_signal: false,
            cpu,
            slice: 0,
            sleep_ns: MOST_SLEEP_NS / 2,
            sleep: Sleep::Ordinary,
            since_ns: now_ns,
        };
        task.slice = task.whole_slice();
        task.reckon();
        task
    }

    fn bonus(&self) -> i64 {
        (self.sleep_ns / (MOST_SLEEP_NS / 10)).cast_signed()
    }

    fn reckon(&mut self) {
        self.priority = match self.nice {
            Some(_) => (self.own + 5 - self.bonus()).clamp(100, 139),
            None => self.own,
        };
    }

    fn whole_slice(&self) -> i64 {
        match self.nice {
            Some(nice) if nice < 0 => (20 - nice) * 20,
            Some(nice) => ((20 - nice) * 5).max(5),
            None => 100,
        }
    }

    fn above(&self) -> i64 {
        self.nice.map_or(0, |nice| (nice + 20) / 4 - 3)
    }

    fn is_interactive(&self) -> bool {
        self.own - self.priority >= self.above()
    }

    fn gains(&mut self, ns: u64) {
        if self.nice.is_none() {
            return;
        }
        let enough = ((6 + self.above()) * 100 - 1).cast_unsigned() * TICK_NS;
        if ns > enough && self.sleep_ns < enough {
            (self.sleep_ns, self.sleep) = (enough, Sleep::Disk);
        } else if self.sleep == Sleep::Disk {
            if self.sleep_ns < enough {
                self.sleep_ns = (self.sleep_ns + ns).min(enough);
            }
        } else {
            self.sleep_ns += ns;
        }
        self.sleep_ns = self.sleep_ns.min(MOST_SLEEP_NS);
        self.reckon();
    }
}

/// Nice value, priority without sleep, and whether it is FIFO, from the policy's own text.
fn rule(policy: Policy) -> (Option<i64>, i64, bool) {
    let text = format!("{policy:?}");
    let digits = text.trim_matches(|c: char| !c.is_ascii_digit() && c != '-');
    let number: i64 = digits.parse().expect("a number in the policy's text");
    match policy {
        Policy::Normal(_) => (Some(number), 120 + number, false),
        Policy::RoundRobin(_) => (None, 99 - number, false),
        Policy::Fifo(_) => (None, 99 - number, true),
    }
}

impl Reference {
    pub(crate) fn new(cpus: usize) -> Self {
        Self {
            now_ns: 0,
            tasks: Vec::new(),
            cpus: vec![Cpu::default(); cpus],
        }
    }

    pub(crate) fn add(&mut self, policy: Policy, cpu: CpuId) {
        let task = self.tasks.len();
        self.tasks
            .push(Task::new(rule(policy), cpu.0 as usize, self.now_ns));
        self.insert(task, 0);
        self.make_way(task);
    }

    pub(crate) fn set_state(&mut self, task: TaskId, state: State) {
        self.tasks[task.0 as usize].state = state;
    }

    pub(crate) fn suspend(&mut self, task: TaskId) {
        let task = task.0 as usize;
        self.tasks[task].state = State::Uninterruptible;
        let cpu = &mut self.cpus[self.tasks[task].cpu];
        if cpu.current == Some(task) {
            cpu.needs_resched = true;
        } else if self.take_out(task) {
            self.tasks[task].since_ns = self.now_ns;
        }
    }

    pub(crate) fn wake(&mut self, task: TaskId, by: Waker) {
        let number = task.0 as usize;
        let was = self.tasks[number].state;
        if was == State::Running || was == State::Dead {
            return;
        }
        self.tasks[number].state = State::Running;
        if self.list_of(number).is_some() {
            return;
        }
        let is_idle = |cpu: &Cpu| cpu.current.is_none() && cpu.lists.iter().all(Vec::is_empty);
        let last = self.tasks[number].cpu;
        if !is_idle(&self.cpus[last]) {
            self.tasks[number].cpu = self.cpus.iter().position(is_idle).unwrap_or(last);
        }
        let task = &mut self.tasks[number];
        if was == State::Uninterruptible {
            task.sleep = Sleep::Disk;
        }
        task.gains(self.now_ns - task.since_ns);
        if task.sleep == Sleep::Ordinary {
            task.sleep = match by {
                Waker::Task => Sleep::WokenByTask,
                Waker::Interrupt => Sleep::WokenByInterrupt,
            };
        }
        task.since_ns = self.now_ns;
        self.insert(number, 0);
        self.make_way(number);
    }

    pub(crate) fn signal(&mut self, task: TaskId) {
        self.tasks[task.0 as usize].has_signal = true;
        if self.tasks[task.0 as usize].state == State::Interruptible {
            self.wake(task, Waker::Task);
        }
    }

    pub(crate) fn take_signal(&mut self, task: TaskId) -> bool {
        std::mem::take(&mut self.tasks[task.0 as usize].has_signal)
    }

    pub(crate) fn set_policy(&mut self, task: TaskId, policy: Policy) {
        let number = task.0 as usize;
        let was_in = self.take_out(number);
        let task = &mut self.tasks[number];
        let before = task.priority;
        (task.nice, task.own, task.is_fifo) = rule(policy);
        task.slice = task.whole_slice();
        task.reckon();
        let (lowered, cpu) = (task.priority > before, task.cpu);
        if was_in {
            self.insert(number, 0);
            if self.cpus[cpu].current == Some(number) {
                self.cpus[cpu].needs_resched |= lowered;
            } else {
                self.make_way(number);
            }
        }
    }

    pub(crate) fn yield_now(&mut self, cpu: CpuId) {
        if let Some(task) = self.cpus[cpu.0 as usize].current
            && self.take_out(task)
        {
            self.insert(task, usize::from(self.tasks[task].nice.is_some()));
        }
    }

    pub(crate) fn tick(&mut self, cpu: CpuId) {
        let cpu = cpu.0 as usize;
        self.cpus[cpu].ticks += 1;
        if let Some(task) = self.cpus[cpu].current {
            self.charge(cpu, task);
        }
        let is_idle = self.cpus[cpu].current.is_none() && self.running(cpu) == 0;
        if is_idle || (self.cpus[cpu].ticks + cpu as u64).is_multiple_of(100) {
            self.pull(cpu, is_idle);
        }
    }

    pub(crate) fn schedule(&mut self, cpu: CpuId, call: Call) -> (Option<usize>, Option<usize>) {
        let cpu = cpu.0 as usize;
        let prev = self.cpus[cpu].current;
        if let Some(prev) = prev {
            let task = &mut self.tasks[prev];
            let ran = (self.now_ns - task.since_ns).min(MOST_SLEEP_NS);
            let costs = ran / task.bonus().max(1).cast_unsigned();
            task.sleep_ns = task.sleep_ns.saturating_sub(costs);
            if call == Call::Direct {
                if task.state == State::Interruptible && task.has_signal {
                    task.state = State::Running;
                }
                if task.state != State::Running {
                    self.take_out(prev);
                }
            }
        }
        if self.running(cpu) == 0 {
            self.pull(cpu, true);
        }
        if self.cpus[cpu].lists[0].is_empty() {
            let expired = std::mem::take(&mut self.cpus[cpu].lists[1]);
            self.cpus[cpu].lists[0] = expired;
            (self.cpus[cpu].expired_since, self.cpus[cpu].best_expired) = (None, None);
        }
        let next = self.cpus[cpu].lists[0].first().copied();
        if let Some(next) = next {
            let task = &mut self.tasks[next];
            let (waited, before) = (self.now_ns - task.since_ns, task.priority);
            match task.sleep {
                Sleep::WokenByTask => task.gains(waited * 3 / 10),
                Sleep::WokenByInterrupt => task.gains(waited),
                Sleep::Ordinary | Sleep::Disk => {}
            }
            task.sleep = Sleep::Ordinary;
            if task.priority != before {
                self.cpus[cpu].lists[0].remove(0);
                self.insert(next, 0);
            }
        }
        for task in [prev, next].into_iter().flatten() {
            self.tasks[task].since_ns = self.now_ns;
        }
        (self.cpus[cpu].current, self.cpus[cpu].needs_resched) = (next, false);
        (prev, next)
    }

    fn running(&self, cpu: usize) -> usize {
        self.cpus[cpu].lists.iter().map(Vec::len).sum()
    }

    fn list_of(&self, task: usize) -> Option<usize> {
        let lists = &self.cpus[self.tasks[task].cpu].lists;
        lists.iter().position(|list| list.contains(&task))
    }

    fn insert(&mut self, task: usize, list: usize) {
        let priority = self.tasks[task].priority;
        let list = &mut self.cpus[self.tasks[task].cpu].lists[list];
        let at = list
            .iter()
            .take_while(|other| self.tasks[**other].priority <= priority)
            .count();
        list.insert(at, task);
    }

    fn take_out(&mut self, task: usize) -> bool {
        let lists = &mut self.cpus[self.tasks[task].cpu].lists;
        let before: usize = lists.iter().map(Vec::len).sum();
        lists
            .iter_mut()
            .for_each(|list| list.retain(|other| *other != task));
        lists.iter().map(Vec::len).sum::<usize>() < before
    }

    fn make_way(&mut self, task: usize) {
        let Task { cpu, priority, .. } = self.tasks[task];
        let running = self.cpus[cpu]
            .current
            .map(|running| self.tasks[running].priority);
        self.cpus[cpu].needs_resched |= running.is_none_or(|running| priority < running);
    }

    fn again(&mut self, cpu: usize, task: usize, list: usize) {
        self.take_out(task);
        self.insert(task, list);
        self.cpus[cpu].needs_resched = true;
    }

    fn charge(&mut self, cpu: usize, number: usize) {
        if self.list_of(number) != Some(0) {
            self.cpus[cpu].needs_resched = true;
            return;
        }
        let cpus = self.cpus.len() as i64;
        let running = self.running(cpu) as u64;
        let task = &mut self.tasks[number];
        if task.is_fifo {
            return;
        }
        task.slice -= 1;
        if task.slice == 0 {
            task.slice = task.whole_slice();
            if task.nice.is_none() {
                return self.again(cpu, number, 0);
            }
            // It is taken out first: its list is sorted by the old value.
            self.take_out(number);
            let task = &mut self.tasks[number];
            task.reckon();
            let (own, is_interactive) = (task.own, task.is_interactive());
            let at = &mut self.cpus[cpu];
            let starving = at.best_expired.is_some_and(|best| own > best)
                || at
                    .expired_since
                    .is_some_and(|since| at.ticks - since > 1000 * running);
            at.expired_since.get_or_insert(at.ticks);
            let goes = !is_interactive || starving;
            if goes {
                at.best_expired = Some(at.best_expired.map_or(own, |best| best.min(own)));
            }
            return self.again(cpu, number, usize::from(goes));
        }
        let every = (5i64 << ((10 - task.bonus()).max(1) - 1)) * cpus;
        let used = task.whole_slice() - task.slice;
        if task.nice.is_some() && task.is_interactive() && used % every == 0 && task.slice >= every
        {
            self.again(cpu, number, 0);
        }
    }

    fn pull(&mut self, cpu: usize, is_idle: bool) {
        let others = (0..self.cpus.len()).filter(|other| *other != cpu);
        let Some(from) = others.rev().max_by_key(|other| self.running(*other)) else {
            return;
        };
        let count = self.running(from).saturating_sub(self.running(cpu)) / 2;
        if count == 0 || !is_idle && count * 4 < self.running(from) {
            return;
        }
        let can_go = |task: &usize| {
            let rested = self.now_ns - self.tasks[*task].since_ns >= 5 * TICK_NS;
            self.cpus[from].current != Some(*task) && (is_idle || rested)
        };
        let [active, expired] = self.cpus[from].lists.clone();
        let all = expired.into_iter().chain(active).take(32);
        for task in all.filter(can_go).take(count).collect::<Vec<_>>() {
            self.take_out(task);
            self.tasks[task].cpu = cpu;
            self.insert(task, 0);
            self.make_way(task);
        }
    }
}
