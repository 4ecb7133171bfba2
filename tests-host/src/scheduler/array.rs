// SPDX-License-Identifier: MIT OR Apache-2.0
//! Tasks by priority: a list for each, and a bit for each list that is not empty. Everything takes
//! the same time however many tasks there are.

use super::TaskId;
use super::priority::PRIORITIES;

const WORDS: usize = PRIORITIES.div_ceil(64);

/// A task's neighbours in its list.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Link {
    before: Option<TaskId>,
    after: Option<TaskId>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq)]
struct List {
    first: Option<TaskId>,
    last: Option<TaskId>,
}

/// One of a CPU's two arrays.
#[derive(Clone, Debug)]
pub(super) struct PriorityArray {
    bitmap: [u64; WORDS],
    lists: [List; PRIORITIES],
    count: usize,
}

impl PriorityArray {
    pub(super) const fn new() -> Self {
        let empty = List {
            first: None,
            last: None,
        };
        Self {
            bitmap: [0; WORDS],
            lists: [empty; PRIORITIES],
            count: 0,
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.count == 0
    }

    pub(super) fn len(&self) -> usize {
        self.count
    }

    /// The first task of the most urgent priority.
    pub(super) fn first(&self) -> Option<TaskId> {
        let (n, word) = self
            .bitmap
            .iter()
            .enumerate()
            .find(|(_, word)| **word != 0)?;
        self.lists[n * 64 + word.trailing_zeros() as usize].first
    }

    /// Puts a task behind those of its priority.
    pub(super) fn push(&mut self, links: &mut [Link], task: TaskId, priority: u8) {
        let list = &mut self.lists[usize::from(priority)];
        links[task.index()] = Link {
            before: list.last,
            after: None,
        };
        match list.last.replace(task) {
            Some(last) => links[last.index()].after = Some(task),
            None => list.first = Some(task),
        }
        self.bitmap[usize::from(priority) / 64] |= 1 << (priority % 64);
        self.count += 1;
    }

    /// Takes a task out.
    pub(super) fn remove(&mut self, links: &mut [Link], task: TaskId, priority: u8) {
        let list = &mut self.lists[usize::from(priority)];
        let Link { before, after } = std::mem::take(&mut links[task.index()]);
        match before {
            Some(before) => links[before.index()].after = after,
            None => list.first = after,
        }
        match after {
            Some(after) => links[after.index()].before = before,
            None => list.last = before,
        }
        if list.first.is_none() {
            self.bitmap[usize::from(priority) / 64] &= !(1 << (priority % 64));
        }
        self.count -= 1;
    }

    /// All tasks, most urgent first.
    pub(super) fn iter<'a>(&'a self, links: &'a [Link]) -> impl Iterator<Item = (u8, TaskId)> + 'a {
        (0u8..).zip(&self.lists).flat_map(|(priority, list)| {
            let next = |task: &TaskId| links[task.index()].after;
            std::iter::successors(list.first, next).map(move |task| (priority, task))
        })
    }

    /// Panics unless bits, lists and count agree.
    pub(super) fn check(&self, links: &[Link]) {
        for (priority, list) in self.lists.iter().enumerate() {
            let bit = self.bitmap[priority / 64] & 1 << (priority % 64) != 0;
            assert_eq!(bit, list.first.is_some(), "bit {priority}");
            assert_eq!(list.first.is_some(), list.last.is_some(), "list {priority}");
        }
        assert_eq!(self.iter(links).count(), self.count, "tasks in the array");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn d5_the_first_of_the_most_urgent_priority_is_found() {
        let mut links = [Link::default(); 6];
        let mut array = PriorityArray::new();
        let task = TaskId;
        for (n, priority) in [139, 64, 63, 64, 0, 128].into_iter().enumerate() {
            array.push(&mut links, task(u32::try_from(n).unwrap()), priority);
            array.check(&links);
        }
        let order: Vec<_> = array.iter(&links).collect();
        assert_eq!(
            order,
            [
                (0, task(4)),
                (63, task(2)),
                (64, task(1)),
                (64, task(3)),
                (128, task(5)),
                (139, task(0))
            ]
        );
        for (priority, next) in order {
            assert_eq!(array.first(), Some(next));
            array.remove(&mut links, next, priority);
            array.check(&links);
        }
        assert_eq!((array.first(), array.is_empty()), (None, true));
    }
}
