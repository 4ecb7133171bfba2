// SPDX-License-Identifier: MIT OR Apache-2.0
//! The switch without a kernel around it, for measurement.

use std::cell::RefCell;
use std::rc::Rc;

use super::context::{Departure, enter, leave, switch};
use super::cpu::Cpu;
use super::task::Task;

/// Two tasks that hand a CPU to each other and back this many times.
pub fn hand_over(rounds: u32) {
    let cpu = Rc::new(RefCell::new(Cpu::new(0)));
    let pair: Rc<RefCell<Vec<Rc<Task>>>> = Rc::default();
    for own in 0..2 {
        let tasks = pair.clone();
        let life = move |_| {
            let other = || tasks.borrow()[1 - own].clone();
            (0..rounds).for_each(|_| drop(switch(other())));
            if own == 0 {
                Departure::Next(other())
            } else {
                Departure::Host
            }
        };
        let task = Task::new(None, None, cpu.clone(), Box::new(life)).expect("memory for a stack");
        pair.borrow_mut().push(task);
    }
    let first = pair.borrow()[0].clone();
    enter(first);
    pair.borrow_mut().clear();
}

/// The host enters a task and returns this many times: stacks and registers only.
pub fn come_and_go(rounds: u32) {
    let cpu = Rc::new(RefCell::new(Cpu::new(0)));
    let life = move |_| {
        (0..rounds).for_each(|_| leave());
        Departure::Host
    };
    let task = Task::new(None, None, cpu, Box::new(life)).expect("memory for a stack");
    (0..=rounds).for_each(|_| enter(task.clone()));
}
