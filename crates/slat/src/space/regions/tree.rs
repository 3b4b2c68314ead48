//! The tree: how nodes come and go.
//!
//! **Invariants.** All leaves are at the same depth. The key of a child is the first key in it, so the region before
//! an address is in the leaf to which that address leads. A node has at least [`Node::LEAST`] entries; only the last
//! one of its level may have fewer (a leaf one, an inner node two), and the root. A link in the tree is of a live
//! node that nothing else refers to: a leaf where its height is 1, an inner node above. **Frames come into the tree
//! as spare ones, in [`Tree::reserve`], and nowhere else,** so that nothing after it can fail; nodes that become
//! empty are spare again, and [`Tree::trim`] gives back more of them than the next change may need.

#![expect(unsafe_code, reason = "follows the links of the tree, gives frames back to the host")]

use super::Region;
use super::node::{Balanced, Inner, Leaf, Link, Node, Packed};
use crate::addr::{GuestPhysRange, HostPhysAddr};
use crate::hal::Hal;
use crate::table::OutOfMemory;
use core::ptr::NonNull;

/// A B+tree of regions with up to `L` of them in a leaf and up to `I` children in an inner node.
pub(crate) struct Tree<const L: usize, const I: usize> {
    root: Option<Link>,
    /// Levels of nodes; 1 is a single leaf.
    height: usize,
    /// Number of regions.
    len: usize,
    spare: Option<Link>,
    spares: usize,
    /// Frames taken: nodes and spare ones.
    frames: usize,
}

/// The leaf to which a key leads.
#[derive(Clone, Copy)]
pub(super) struct Place {
    pub(super) leaf: Link,
    /// The first key of the leaf behind it.
    pub(super) next: Option<u64>,
}

impl<const L: usize, const I: usize> Tree<L, I> {
    /// No region, no memory.
    pub(crate) const fn new() -> Self {
        Self { root: None, height: 0, len: 0, spare: None, spares: 0, frames: 0 }
    }

    /// Number of regions.
    pub(crate) fn len(&self) -> usize {
        self.len
    }

    /// Frames of 4 KiB that the regions take, spare ones included.
    pub(crate) fn frames(&self) -> usize {
        self.frames
    }

    /// Calls `visit` for each frame that the regions take, spare ones included.
    pub(crate) fn visit_frames(&self, visit: &mut dyn FnMut(HostPhysAddr)) {
        if let Some(root) = self.root {
            self.visit_nodes(root, self.height, visit);
        }
        let mut spare = self.spare;
        while let Some(link) = spare {
            // SAFETY: the list has spare frames only, and `&self` keeps everyone from taking them.
            let (frame, next) = unsafe { link.into_spare() };
            visit(frame);
            spare = next;
        }
    }

    fn visit_nodes(&self, link: Link, height: usize, visit: &mut dyn FnMut(HostPhysAddr)) {
        if height <= 1 {
            return visit(self.leaf(link).frame());
        }
        visit(self.inner(link).frame());
        for index in 0..self.inner(link).len() {
            self.visit_nodes(self.child(link, index), height - 1, visit);
        }
    }

    /// A node of this tree: `V` and `N` are those of its height.
    #[inline]
    fn node<V: Copy, const N: usize>(&self, link: Link) -> &Node<V, N> {
        // SAFETY: links of the tree are of live nodes (see the module), and `&self` keeps everyone from changing them.
        unsafe { link.node() }
    }

    fn node_mut<V: Copy, const N: usize>(&mut self, link: Link) -> &mut Node<V, N> {
        // SAFETY: links of the tree are of live nodes, and `&mut self` keeps everyone else from using them.
        unsafe { link.node_mut() }
    }

    fn pair_mut<V: Copy, const N: usize>(&mut self, a: Link, b: Link) -> (&mut Node<V, N>, &mut Node<V, N>) {
        assert!(a != b, "a node is no neighbour of itself");
        // SAFETY: as for `node_mut`, and the two are different nodes.
        let first = unsafe { a.node_mut() };
        // SAFETY: as above.
        let second = unsafe { b.node_mut() };
        (first, second)
    }

    #[inline]
    pub(super) fn leaf(&self, link: Link) -> &Leaf<L> {
        self.node(link)
    }

    pub(super) fn leaf_mut(&mut self, link: Link) -> &mut Leaf<L> {
        self.node_mut(link)
    }

    fn inner(&self, link: Link) -> &Inner<I> {
        self.node(link)
    }

    fn inner_mut(&mut self, link: Link) -> &mut Inner<I> {
        self.node_mut(link)
    }

    /// Child `index` of an inner node.
    fn child(&self, link: Link, index: usize) -> Link {
        self.inner(link).get(index).and_then(|(_, child)| child).expect("an inner node has children")
    }

    /// The leaf to which `key` leads.
    #[inline]
    pub(super) fn leaf_of(&self, key: u64) -> Option<Link> {
        let root = self.root?;
        Some(if self.height <= 1 { root } else { self.descend(key)?.leaf })
    }

    /// The leaf to which `key` leads: the one with the last region that begins at or below it, or else the first.
    pub(super) fn descend(&self, key: u64) -> Option<Place> {
        let mut place = Place { leaf: self.root?, next: None };
        for _ in 1..self.height {
            let inner = self.inner(place.leaf);
            let index = inner.count_to(key).saturating_sub(1);
            let next = inner.keys().get(index + 1).copied().or(place.next);
            place = Place { leaf: self.child(place.leaf, index), next };
        }
        Some(place)
    }

    /// Frames that `extra` more regions (one, or the two of a change's edges) may need at most: a node for each split.
    /// Whatever is split has room in both parts for the second one, so the root is split at most once.
    fn needed(&self, extra: usize) -> usize {
        match self.height {
            0 => 1,
            1 if self.len + extra <= L => 0,
            height => extra * (height - 1) + 2,
        }
    }

    /// Makes room for `extra` more regions, one or two, so that adding them cannot fail.
    pub(crate) fn reserve<H: Hal>(&mut self, hal: &H, extra: usize) -> Result<(), OutOfMemory> {
        let before = self.spares;
        while self.spares < self.needed(extra) {
            let Some(frame) = hal.alloc_frames(1, 1) else {
                self.give_back(hal, before);
                return Err(OutOfMemory);
            };
            let pointer = NonNull::new(hal.phys_to_virt(frame)).expect("a valid pointer");
            // SAFETY: the frame was just taken, so it is ours alone, and promise 2 of `Hal` is about its pointer.
            self.spare = Some(unsafe { Link::spare(pointer, frame, self.spare) });
            self.spares += 1;
            self.frames += 1;
        }
        Ok(())
    }

    /// Gives spare frames back until `keep` are left.
    fn give_back<H: Hal>(&mut self, hal: &H, keep: usize) {
        while self.spares > keep {
            let Some(link) = self.spare else { return };
            // SAFETY: the list has spare frames only.
            let (frame, next) = unsafe { link.into_spare() };
            self.spare = next;
            self.spares -= 1;
            self.frames -= 1;
            // SAFETY: it was taken from this host alone, in `reserve`, and the list no longer has it.
            unsafe { hal.dealloc_frames(frame, 1) };
        }
    }

    /// Gives back what even the next change of two edges will not need.
    pub(super) fn trim<H: Hal>(&mut self, hal: &H) {
        self.give_back(hal, self.needed(2));
    }

    /// Gives all memory back.
    pub(crate) fn clear<H: Hal>(&mut self, hal: &H) {
        if let Some(root) = self.root.take() {
            self.release_all(root, self.height);
        }
        self.give_back(hal, 0);
        *self = Self::new();
    }

    fn release_all(&mut self, link: Link, height: usize) {
        if height > 1 {
            for index in 0..self.inner(link).len() {
                self.release_all(self.child(link, index), height - 1);
            }
        }
        self.release(link, height);
    }

    /// Makes a spare frame an empty node.
    fn take<V: Copy, const N: usize>(&mut self) -> Link {
        let link = self.spare.expect("room for regions was reserved");
        // SAFETY: the list has spare frames only; zeroes are a `Packed` and an `Option<Link>`.
        self.spare = unsafe { link.into_node::<V, N>() };
        self.spares -= 1;
        link
    }

    /// Makes the frame of a node that is in the tree no more a spare one.
    fn release(&mut self, link: Link, height: usize) {
        let next = self.spare.replace(link);
        if height > 1 {
            // SAFETY: an inner node of this tree, to which nothing refers any more.
            unsafe { link.retire::<Option<Link>, I>(next) };
        } else {
            // SAFETY: a leaf of this tree, to which nothing refers any more.
            unsafe { link.retire::<Packed, L>(next) };
        }
        self.spares += 1;
    }

    /// Adds a region in a hole, and joins it with nothing; room was reserved.
    pub(super) fn add(&mut self, region: &Region) {
        let (key, value) = (region.range.start().as_u64(), Packed::new(region));
        let root = self.root.unwrap_or_else(|| {
            self.height = 1;
            self.take::<Packed, L>()
        });
        self.root = Some(root);
        self.len += 1;
        if let Some((next_key, next)) = self.add_below(root, self.height, true, key, value) {
            let above = self.take::<Option<Link>, I>();
            let first = self.head(root, self.height).1.unwrap_or(key);
            self.inner_mut(above).insert(0, first, Some(root));
            self.inner_mut(above).insert(1, next_key, Some(next));
            self.root = Some(above);
            self.height += 1;
        }
    }

    /// Adds a region below a node (`last`: the last one of its level). If that split the node, returns the new one
    /// behind it and its first key.
    fn add_below(
        &mut self,
        link: Link,
        height: usize,
        last: bool,
        key: u64,
        value: Packed,
    ) -> Option<(u64, Link)> {
        if height == 1 {
            let index = self.leaf(link).count_to(key);
            return self.add_entry::<Packed, L>(link, index, key, value, last.then_some(1));
        }
        let inner = self.inner(link);
        let (index, children) = (inner.count_to(key).saturating_sub(1), inner.len());
        let child = self.child(link, index);
        let split = self.add_below(child, height - 1, last && index + 1 == children, key, value);
        if index == 0 {
            self.inner_mut(link).lower_first(key);
        }
        let (next_key, next) = split?;
        // Two children: an inner node with one could neither merge its child nor share its entries.
        self.add_entry::<Option<Link>, I>(link, index + 1, next_key, Some(next), last.then_some(2))
    }

    fn add_entry<V: Copy, const N: usize>(
        &mut self,
        link: Link,
        index: usize,
        key: u64,
        value: V,
        edge: Option<usize>,
    ) -> Option<(u64, Link)> {
        if self.node::<V, N>(link).len() < N {
            self.node_mut::<V, N>(link).insert(index, key, value);
            return None;
        }
        let behind = self.take::<V, N>();
        let (node, next) = self.pair_mut::<V, N>(link, behind);
        node.insert_split(index, key, value, next, edge);
        Some((*next.keys().first()?, behind))
    }

    /// Number of entries in a node, and its first key.
    fn head(&self, link: Link, height: usize) -> (usize, Option<u64>) {
        let keys = if height > 1 { self.inner(link).keys() } else { self.leaf(link).keys() };
        (keys.len(), keys.first().copied())
    }

    /// Changes the regions that begin in `range`, removes those of which `change` makes nothing, and joins what then
    /// is one, with the neighbours too. Costs as much as the regions changed, and a descent.
    pub(super) fn rewrite(&mut self, range: GuestPhysRange, change: impl FnMut(Region) -> Option<Region>) {
        let start = range.start().as_u64();
        // The neighbour before may be the last one of another leaf.
        let before_start = start.saturating_sub(1);
        let Some(place) = self.descend(before_start) else { return };
        let from = if start == 0 { 0 } else { self.leaf(place.leaf).count_to(before_start) };
        self.rewrite_from(place, from, range, change);
    }

    /// As [`rewrite`](Self::rewrite); `from` in the leaf of `place` is behind the neighbour before the range.
    pub(super) fn rewrite_from(
        &mut self,
        mut place: Place,
        mut from: usize,
        range: GuestPhysRange,
        mut change: impl FnMut(Region) -> Option<Region>,
    ) {
        let end = range.end().as_u64();
        let mut before = None;
        let mut repair = false;
        loop {
            let leaf = self.leaf_mut(place.leaf);
            let first = leaf.keys().first().copied();
            let mut gone = leaf.rewrite(from, end, &mut change);
            if let (Some(before), Some(region)) = (before, leaf.region(0)) {
                let (before, leaf) = self.pair_mut::<Packed, L>(before, place.leaf);
                if before.extend_before(before.len(), &region) {
                    leaf.remove(0, 1);
                    gone += 1;
                }
            }
            self.len -= gone;
            let leaf = self.leaf(place.leaf);
            repair |= leaf.keys().first().copied() != first || gone > 0 && leaf.len() < Leaf::<L>::LEAST;
            if leaf.len() > 0 {
                before = Some(place.leaf);
            }
            // A region that begins where the range ends may be one with the last one in it.
            let Some(next) = place.next.filter(|next| *next <= end) else { break };
            let Some(behind) = self.descend(next) else { break };
            (place, from) = (behind, 0);
        }
        if repair && self.height > 1 {
            self.repair(range.start().as_u64().saturating_sub(1), end);
        }
    }

    /// Removes the region at `index` of a leaf, which is not its first and has the addresses `range`.
    pub(super) fn remove_one(&mut self, link: Link, index: usize, range: GuestPhysRange) {
        let leaf = self.leaf_mut(link);
        leaf.remove(index, index + 1);
        let repair = leaf.len() < Leaf::<L>::LEAST;
        self.len -= 1;
        if repair && self.height > 1 {
            self.repair(range.start().as_u64().saturating_sub(1), range.end().as_u64());
        }
    }

    /// Restores the invariants of the nodes on the way to keys from `low` to `high`, whose leaves were changed.
    fn repair(&mut self, low: u64, high: u64) {
        if let Some(root) = self.root {
            self.prune(root, self.height, low, high);
            self.drop_root();
        }
        let mut key = Some(low);
        while let Some(at) = key {
            self.settle(at);
            // One leaf further than the keys: what is left of the last one, or its neighbour, may begin behind them.
            key = if at <= high { self.descend(at).and_then(|place| place.next) } else { None };
        }
    }

    /// Removes empty nodes and corrects the first keys, on the way to keys from `low` to `high`.
    fn prune(&mut self, link: Link, height: usize, low: u64, high: u64) {
        let first = self.inner(link).count_to(low).saturating_sub(1);
        let end = self.inner(link).count_to(high).max(first + 1);
        let mut kept = first;
        for index in first..end {
            let child = self.child(link, index);
            if height > 2 {
                self.prune(child, height - 1, low, high);
            }
            match self.head(child, height - 1) {
                (_, Some(key)) => {
                    self.inner_mut(link).set(kept, key, Some(child));
                    kept += 1;
                }
                (_, None) => self.release(child, height - 1),
            }
        }
        self.inner_mut(link).remove(kept, end);
    }

    /// Makes the only child of the root the root, and a root without any child nothing.
    fn drop_root(&mut self) {
        while let Some(root) = self.root.filter(|root| self.height > 1 && self.inner(*root).len() < 2) {
            self.root = self.inner(root).get(0).and_then(|(_, child)| child);
            self.release(root, self.height);
            self.height = if self.root.is_some() { self.height - 1 } else { 0 };
        }
    }

    /// Merges the nodes on the way to `key` with neighbours, or takes entries from those, where there are too few.
    fn settle(&mut self, key: u64) {
        // A merge takes a child from the node above, which may then have too few in turn.
        while self.settle_once(key) {}
        self.drop_root();
    }

    /// One pass, from the root down, so that every node has a neighbour below the same one when it is its turn.
    /// Returns whether nodes were merged.
    fn settle_once(&mut self, key: u64) -> bool {
        let Some(mut link) = self.root else { return false };
        let mut merged = false;
        for height in (2..=self.height).rev() {
            let least = if height > 2 { Inner::<I>::LEAST } else { Leaf::<L>::LEAST };
            link = loop {
                let inner = self.inner(link);
                let (index, children) = (inner.count_to(key).saturating_sub(1), inner.len());
                let child = self.child(link, index);
                if children < 2 || self.head(child, height - 1).0 >= least {
                    break child;
                }
                merged |= self.balance(link, height, index.min(children - 2));
            };
        }
        merged
    }

    /// Balances the children `index` and `index + 1` of an inner node. Returns whether they were merged.
    fn balance(&mut self, link: Link, height: usize, index: usize) -> bool {
        let (child, next) = (self.child(link, index), self.child(link, index + 1));
        let balanced = if height > 2 {
            let (child, next) = self.pair_mut::<Option<Link>, I>(child, next);
            child.balance(next)
        } else {
            let (child, next) = self.pair_mut::<Packed, L>(child, next);
            child.balance(next)
        };
        match balanced {
            Balanced::Merged => {
                self.inner_mut(link).remove(index + 1, index + 2);
                self.release(next, height - 1);
                true
            }
            Balanced::Shared(key) => {
                self.inner_mut(link).set(index + 1, key, Some(next));
                false
            }
        }
    }

    /// Checks the invariants of the module.
    #[cfg(all(test, not(loom)))]
    pub(super) fn check(&self) {
        let nodes = self.root.map_or(0, |root| self.check_below(root, self.height, true));
        assert_eq!(self.root.is_some(), self.height > 0);
        assert_eq!(nodes + self.spares, self.frames, "frames are nodes or spare");
        assert!(self.spares <= self.needed(2), "{} spare frames", self.spares);
        assert_eq!(self.iter().count(), self.len);
        for (region, next) in self.iter().zip(self.iter().skip(1)) {
            assert!(region.range.end() <= next.range.start(), "{region:?} overlaps {next:?}");
            assert_eq!(region.joined(&next), None, "{region:?} and {next:?} are one");
        }
    }

    /// Checks a node and those below it; returns how many there are.
    #[cfg(all(test, not(loom)))]
    fn check_below(&self, link: Link, height: usize, last: bool) -> usize {
        let keys = if height > 1 { self.inner(link).keys() } else { self.leaf(link).keys() };
        assert!(keys.is_sorted_by(|a, b| a < b), "{keys:?}");
        let least = match (Some(link) == self.root, last, height > 1) {
            (true, _, false) => 0,
            (true, _, true) | (_, true, true) => 2,
            (_, true, false) => 1,
            (_, _, false) => Leaf::<L>::LEAST,
            (_, _, true) => Inner::<I>::LEAST,
        };
        assert!(keys.len() >= least, "a node of height {height} has {} entries of {least}", keys.len());
        if height == 1 {
            return 1;
        }
        let below = keys.iter().enumerate().map(|(index, key)| {
            let child = self.child(link, index);
            assert_eq!(self.head(child, height - 1).1, Some(*key), "the first key below");
            self.check_below(child, height - 1, last && index + 1 == keys.len())
        });
        1 + below.sum::<usize>()
    }
}

#[cfg(all(test, not(loom)))]
mod tests;
