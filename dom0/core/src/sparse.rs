// SPDX-License-Identifier: MIT OR Apache-2.0
//! A map from numbers to small values, and its special case, a set: frame numbers and slots.
//!
//! A radix tree. A leaf covers 4096 neighbours: a bit for each says whether it is there, beside it its
//! value. A node above has 64 children and one word that says which of them hold anything, so the
//! next number present is found by looking at one word per level, however far away it is. The tree
//! is as high as the largest number needs (three levels of nodes for the 2^28 pages of a terabyte) and
//! has no leaf where nothing was ever put, so holes cost nothing.
//!
//! Memory per number in a filled leaf: the value, one bit, and less than 0.01 bytes for the rest.
//! Leaves that become empty are kept: putting a number back allocates nothing.

use std::ops::RangeInclusive;

use bitvec::array::BitArray;
use bitvec::order::Lsb0;

const LEAF_BITS: u32 = 12;
const LEAF: usize = 1 << LEAF_BITS;
const NODE_BITS: u32 = 6;
const NODE: usize = 1 << NODE_BITS;

/// A set of numbers. See the [module](self).
pub type SparseSet = SparseMap<()>;

/// A map from numbers to values. See the [module](self).
#[derive(Debug)]
pub struct SparseMap<V> {
    root: Option<Tree<V>>,
    /// Levels of nodes above the leaves.
    height: u32,
    len: u64,
}

#[derive(Debug)]
enum Tree<V> {
    Leaf(Box<Leaf<V>>),
    Node(Box<Node<V>>),
}

#[derive(Debug)]
struct Leaf<V> {
    present: BitArray<[u64; LEAF / 64], Lsb0>,
    count: usize,
    values: [V; LEAF],
}

#[derive(Debug)]
struct Node<V> {
    /// Bit n: child n holds something.
    occupied: u64,
    children: [Option<Tree<V>>; NODE],
}

impl<V> Default for SparseMap<V> {
    fn default() -> Self {
        Self {
            root: None,
            height: 0,
            len: 0,
        }
    }
}

impl<V: Copy + Default> SparseMap<V> {
    /// How many numbers are there.
    pub fn len(&self) -> u64 {
        self.len
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Whether this one is.
    pub fn contains(&self, id: u64) -> bool {
        self.get(id).is_some()
    }

    /// Whether it and its neighbours are, all 64 from a multiple of 64 on.
    pub fn has_all_of_64(&self, id: u64) -> bool {
        let word = leaf_index(id) / 64;
        self.leaf(id)
            .is_some_and(|leaf| leaf.present.data[word] == u64::MAX)
    }

    /// Its value.
    pub fn get(&self, id: u64) -> Option<V> {
        let leaf = self.leaf(id)?;
        let at = leaf_index(id);
        leaf.present[at].then(|| leaf.values[at])
    }

    /// Puts it in; the value it had before, if it was there.
    pub fn insert(&mut self, id: u64, value: V) -> Option<V> {
        let leaf = self.leaf_mut(id);
        let at = leaf_index(id);
        let old = leaf.present.replace(at, true).then_some(leaf.values[at]);
        leaf.values[at] = value;
        if old.is_none() {
            leaf.count += 1;
            self.len += 1;
        }
        old
    }

    /// Puts all of them in, whole leaves at a time.
    pub fn insert_range(&mut self, ids: RangeInclusive<u64>, value: V) {
        let (mut from, last) = ids.into_inner();
        while from <= last {
            let end = last.min(from | (LEAF as u64 - 1));
            let leaf = self.leaf_mut(from);
            let at = leaf_index(from)..=leaf_index(end);
            leaf.present[at.clone()].fill(true);
            leaf.values[at].fill(value);
            let before = std::mem::replace(&mut leaf.count, leaf.present.count_ones());
            let added = leaf.count - before;
            self.len += added as u64;
            let Some(next) = end.checked_add(1) else {
                return;
            };
            from = next;
        }
    }

    /// Takes it out.
    pub fn remove(&mut self, id: u64) -> Option<V> {
        if !self.covers(id) {
            return None;
        }
        let removed = self.root.as_mut()?.remove(id, self.height)?;
        self.len -= 1;
        Some(removed)
    }

    /// The lowest number from `from` on, with its value.
    pub fn next(&self, from: u64) -> Option<(u64, V)> {
        if !self.covers(from) {
            return None;
        }
        self.root.as_ref()?.next(from, self.height)
    }

    /// All of them, in order.
    pub fn iter(&self) -> impl Iterator<Item = (u64, V)> + '_ {
        self.iter_from(0)
    }

    /// Those from `from` on, in order.
    pub fn iter_from(&self, from: u64) -> impl Iterator<Item = (u64, V)> + '_ {
        let mut from = Some(from);
        std::iter::from_fn(move || {
            let (id, value) = self.next(from?)?;
            from = id.checked_add(1);
            Some((id, value))
        })
    }

    /// Makes sure that putting this number in later allocates nothing.
    pub fn reserve(&mut self, id: u64)
    where
        V: Default,
    {
        if !self.contains(id) {
            self.insert(id, V::default());
            self.remove(id);
        }
    }

    /// Memory in use, in bytes.
    pub fn table_bytes(&self) -> usize {
        self.root.as_ref().map_or(0, Tree::table_bytes)
    }

    fn leaf(&self, id: u64) -> Option<&Leaf<V>> {
        if !self.covers(id) {
            return None;
        }
        let mut tree = self.root.as_ref()?;
        let mut height = self.height;
        loop {
            match tree {
                Tree::Leaf(leaf) => return Some(leaf),
                Tree::Node(node) => {
                    tree = node.children[child_index(id, height)].as_ref()?;
                    height -= 1;
                }
            }
        }
    }

    fn covers(&self, id: u64) -> bool {
        id.checked_shr(LEAF_BITS + NODE_BITS * self.height)
            .unwrap_or(0)
            == 0
    }

    /// The leaf for a number that is about to be put in: made if need be, and marked as occupied in
    /// all nodes above.
    fn leaf_mut(&mut self, id: u64) -> &mut Leaf<V> {
        while !self.covers(id) {
            if let Some(old) = self.root.take() {
                let mut node = Node::new();
                node.occupied = u64::from(!old.is_empty());
                node.children[0] = Some(old);
                self.root = Some(Tree::Node(node));
            }
            self.height += 1;
        }
        let mut height = self.height;
        let mut tree = self.root.get_or_insert_with(|| Tree::new(height));
        loop {
            match tree {
                Tree::Leaf(leaf) => return leaf,
                Tree::Node(node) => {
                    let at = child_index(id, height);
                    height -= 1;
                    node.occupied |= 1 << at;
                    tree = node.children[at].get_or_insert_with(|| Tree::new(height));
                }
            }
        }
    }
}

impl<V: Copy + Default> Tree<V> {
    fn new(height: u32) -> Self {
        if height > 0 {
            return Self::Node(Node::new());
        }
        Self::Leaf(Box::new(Leaf {
            present: BitArray::ZERO,
            count: 0,
            values: [V::default(); LEAF],
        }))
    }

    fn is_empty(&self) -> bool {
        match self {
            Self::Leaf(leaf) => leaf.count == 0,
            Self::Node(node) => node.occupied == 0,
        }
    }

    fn remove(&mut self, id: u64, height: u32) -> Option<V> {
        match self {
            Self::Leaf(leaf) => {
                let at = leaf_index(id);
                if !leaf.present.replace(at, false) {
                    return None;
                }
                leaf.count -= 1;
                Some(leaf.values[at])
            }
            Self::Node(node) => {
                let at = child_index(id, height);
                let child = node.children[at].as_mut()?;
                let removed = child.remove(id, height - 1)?;
                if child.is_empty() {
                    node.occupied &= !(1 << at);
                }
                Some(removed)
            }
        }
    }

    fn next(&self, from: u64, height: u32) -> Option<(u64, V)> {
        match self {
            Self::Leaf(leaf) => {
                let at = leaf_index(from);
                let at = at + leaf.present[at..].first_one()?;
                Some((from & !(LEAF as u64 - 1) | at as u64, leaf.values[at]))
            }
            Self::Node(node) => {
                let at = child_index(from, height);
                if node.occupied & (1 << at) != 0
                    && let Some(child) = &node.children[at]
                    && let Some(found) = child.next(from, height - 1)
                {
                    return Some(found);
                }
                let later = node.occupied & (!1 << at);
                if later == 0 {
                    return None;
                }
                let at = later.trailing_zeros();
                let shift = LEAF_BITS + NODE_BITS * (height - 1);
                let above = from.checked_shr(shift + NODE_BITS).unwrap_or(0);
                let from = (above << NODE_BITS | u64::from(at)) << shift;
                node.children[at as usize].as_ref()?.next(from, height - 1)
            }
        }
    }

    fn table_bytes(&self) -> usize {
        match self {
            Self::Leaf(_) => size_of::<Leaf<V>>(),
            Self::Node(node) => {
                let below: usize = node.children.iter().flatten().map(Self::table_bytes).sum();
                size_of::<Node<V>>() + below
            }
        }
    }
}

impl<V> Node<V> {
    fn new() -> Box<Self> {
        Box::new(Self {
            occupied: 0,
            children: [const { None }; NODE],
        })
    }
}

#[expect(clippy::cast_possible_truncation, reason = "masked to twelve bits")]
fn leaf_index(id: u64) -> usize {
    (id & (LEAF as u64 - 1)) as usize
}

#[expect(clippy::cast_possible_truncation, reason = "masked to six bits")]
fn child_index(id: u64, height: u32) -> usize {
    (id.checked_shr(LEAF_BITS + NODE_BITS * (height - 1))
        .unwrap_or(0)
        & (NODE as u64 - 1)) as usize
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_first_and_the_last_number_are_like_any_other() {
        let mut set = SparseSet::default();
        for id in [0, 4095, 4096, (1 << 40) - 1, u64::MAX] {
            assert!(!set.contains(id));
            assert_eq!(set.insert(id, ()), None);
            assert_eq!(set.insert(id, ()), Some(()));
            assert_eq!(set.next(id), Some((id, ())));
        }
        assert_eq!(set.len(), 5);
        assert_eq!(set.next(4097), Some(((1 << 40) - 1, ())));
        assert_eq!(set.iter().map(|(id, ())| id).last(), Some(u64::MAX));
        assert_eq!(set.remove(u64::MAX), Some(()));
        assert_eq!(set.next(1 << 40), None);
    }

    #[test]
    fn a_far_away_number_costs_a_path_not_a_table() {
        let mut map = SparseMap::<u32>::default();
        map.insert(0, 1);
        map.insert((1 << 40) - 1, 2);
        assert!(map.table_bytes() < 64 << 10, "{} bytes", map.table_bytes());
    }

    #[test]
    fn an_emptied_leaf_is_kept_and_skipped() {
        let mut set = SparseSet::default();
        set.insert_range(0..=99_999, ());
        assert_eq!(set.len(), 100_000);
        let before = set.table_bytes();
        for id in 10..99_990 {
            set.remove(id);
        }
        assert_eq!(set.next(10), Some((99_990, ())));
        assert_eq!(set.table_bytes(), before);
    }

    fn ids() -> impl Strategy<Value = u64> {
        prop_oneof![
            0..64_u64,
            4000..4200_u64,
            262_000..262_300_u64,
            (1 << 40) - 50..1_u64 << 40
        ]
    }

    proptest! {
        #[test]
        fn it_behaves_like_a_btree(ops in prop::collection::vec((0..5_u8, ids(), any::<u32>()), 0..200)) {
            let mut ours = SparseMap::<u32>::default();
            let mut model = BTreeMap::new();
            for (op, id, value) in ops {
                match op {
                    0 => prop_assert_eq!(ours.insert(id, value), model.insert(id, value)),
                    1 => prop_assert_eq!(ours.remove(id), model.remove(&id)),
                    2 => ours.reserve(id),
                    3 => {
                        let last = id + u64::from(value % 300);
                        ours.insert_range(id..=last, value);
                        model.extend((id..=last).map(|id| (id, value)));
                    }
                    _ => {
                        let next = model.range(id..).next().map(|(&id, &value)| (id, value));
                        prop_assert_eq!(ours.next(id), next);
                        prop_assert_eq!(ours.get(id), model.get(&id).copied());
                    }
                }
                prop_assert_eq!(ours.len(), model.len() as u64);
            }
            prop_assert!(ours.iter().eq(model.into_iter()));
        }
    }
}
