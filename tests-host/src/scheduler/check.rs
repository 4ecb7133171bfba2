// SPDX-License-Identifier: MIT OR Apache-2.0
//! The properties that must hold between any two calls.

use super::{CpuId, LONGEST_SLICE, STARVATION, Scheduler, State, Task, TaskId};

impl Scheduler {
    /// Panics at the first breach. A task that can run is on exactly one array of one CPU. One that
    /// cannot run is on none, unless it is about to sleep. Bits, lists and counts agree. No normal
    /// task waits for ever.
    pub fn check(&self) {
        let mut seen = vec![0; self.tasks.len()];
        for cpu in self.cpus() {
            self.check_queue(cpu, &mut seen);
        }
        for (task, seen) in (0..).map(TaskId).zip(seen) {
            self.check_task(task, seen);
        }
    }

    fn check_queue(&self, cpu: CpuId, seen: &mut [u32]) {
        let queue = self.queue(cpu);
        for (number, array) in queue.arrays.iter().enumerate() {
            array.check(&self.links);
            for (priority, task) in array.iter(&self.links) {
                seen[task.index()] += 1;
                let Task {
                    cpu: at,
                    array,
                    priority: has,
                    ..
                } = *self.task(task);
                assert_eq!(
                    (at, array, has),
                    (cpu, Some(number), priority),
                    "{task:?} on {cpu:?}"
                );
            }
        }
        if let Some(current) = queue.current {
            assert_eq!(self.task(current).cpu, cpu, "{current:?} runs on {cpu:?}");
        } else {
            let rests = self.running(cpu) == 0 || queue.needs_resched;
            assert!(rests, "{cpu:?} idles with work to do");
        }
    }

    fn check_task(&self, task: TaskId, seen: u32) {
        let entry = self.task(task);
        assert_eq!(
            seen,
            u32::from(entry.array.is_some()),
            "{task:?} is on {seen} lists"
        );
        if entry.state == State::Running {
            assert_eq!(seen, 1, "{task:?} can run and is nowhere");
        }
        if !entry.policy.is_real_time() {
            let own = entry.policy.own_priority();
            assert!(
                entry.priority.abs_diff(own) <= 5,
                "{task:?} of {own} at {}",
                entry.priority
            );
        }
        if seen == 1 {
            let (waits, most) = self.waits(task);
            assert!(
                waits <= most,
                "{task:?} has waited for {waits} ticks, {most} at most"
            );
        }
    }

    /// How many of its CPU's ticks a queued task has waited, without those of real-time tasks, and
    /// how many it may wait: twice the time for which interactive tasks may keep the expired
    /// waiting, and the slices of all.
    pub fn waits(&self, task: TaskId) -> (u64, u64) {
        let entry = self.task(task);
        let queue = self.queue(entry.cpu);
        let most = 2 * u64::from(STARVATION + LONGEST_SLICE) * queue.most_running as u64;
        (queue.normal_ticks - entry.waits_since, most)
    }
}
