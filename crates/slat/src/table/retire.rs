//! Taking a range out of the table, and giving back what was taken out.
//!
//! Two passes with one invalidation between them. [`retire`](Table::retire) makes the range absent for the hardware
//! but keeps in each entry what stood there; a table that the range covers whole, or that becomes empty, is retired
//! by a single store in its parent. [`reap`](Table::reap), after the invalidation, gives frames and tables back.

#![expect(unsafe_code, reason = "gives the frames of leaves and tables back to the host")]

use super::memory::Entries;
use super::{Leaf, Slot, Soft, Table, View, pieces};
use crate::addr::{GuestPhysAddr, GuestPhysRange, HostPhysAddr};
use crate::flags::{LeafSize, level_bytes};
use crate::format::{CacheEvent, Format, Kind};
use crate::frame::frames_of_level;
use crate::hal::Hal;
use crate::tlb::Pending;

/// Whose the frames of a range are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ownership {
    /// None is the space's, and nobody wants them back: leaf tables need not be looked at.
    Foreign,
    /// Some are the space's.
    Owned,
    /// Some are to go back to where they came from, which the table does not know: all leaves stay in it until the
    /// invalidation.
    Lent,
}

impl<H: Hal, F: Format> Table<H, F> {
    /// Takes everything in `range` out, whose leaves are of `ownership`; large leaves at its edges have been split. The
    /// invalidation is owed.
    pub(crate) fn retire(&self, pending: &mut Pending, range: GuestPhysRange, ownership: Ownership) {
        if !self.retire_pages(pending, range, ownership) {
            self.retire_in(pending, self.geometry.root_level(), self.root, range, ownership);
        }
    }

    /// As [`retire`](Self::retire) if `range` lies in one leaf table and others go on living there; says whether.
    fn retire_pages(&self, pending: &mut Pending, range: GuestPhysRange, ownership: Ownership) -> bool {
        let Some((slot, count)) = self.page_run(range) else { return false };
        let (entries, indices) = (slot.entries, slot.index..slot.index + count);
        if self.is_empty(0, entries, (indices.end..entries.len()).chain(0..indices.start)) {
            return false;
        }
        let (mut present, mut waits) = (false, false);
        for index in indices {
            let slot = Slot { entries, index, level: 0 };
            let (leaf, seen) = match self.view(0, index, slot.load()) {
                View::Leaf(leaf) => (leaf, true),
                View::Soft(Soft::NoAccess(leaf) | Soft::Idle(leaf) | Soft::Broken(leaf)) => (leaf, false),
                _ => continue,
            };
            present |= seen;
            let wait = leaf.owned || ownership == Ownership::Lent;
            waits |= wait;
            slot.store(&self.hal, if wait { Soft::RetiredLeaf(leaf).encode() } else { 0 });
        }
        if present {
            pending.add(range, LeafSize::Size4K);
        }
        if waits {
            pending.add_unfinished(range);
        }
        true
    }

    /// Whether none of the entries of a table of `level` that `indices` name is alive.
    fn is_empty(&self, level: u8, entries: Entries, mut indices: impl Iterator<Item = usize>) -> bool {
        indices.all(|index| {
            let entry = entries.load(index);
            entry == 0 || Soft::is_retired(entry) && self.format.kind(level, entry) == Kind::Absent
        })
    }

    /// Returns whether the table is empty now.
    fn retire_in(
        &self,
        pending: &mut Pending,
        level: u8,
        table: HostPhysAddr,
        range: GuestPhysRange,
        ownership: Ownership,
    ) -> bool {
        let entries = self.entries(level, table);
        let mut changed = false;
        for (index, piece) in pieces(self.geometry, level, range) {
            let slot = Slot { entries, index, level };
            let entry = slot.load();
            changed |= entry != 0;
            match self.view(level, slot.index, entry) {
                View::Absent | View::Soft(Soft::RetiredLeaf(_) | Soft::RetiredTable { .. }) => {}
                View::Table(next) | View::Soft(Soft::NewTable(next)) => {
                    let whole = piece.size() == level_bytes(level);
                    if whole {
                        // Its leaves stay as they are, so the range has to be invalidated page by page.
                        pending.add(piece, LeafSize::Size4K);
                    }
                    if whole || self.retire_in(pending, level - 1, next, piece, ownership) {
                        // An emptied table may hold entries of earlier operations that still wait.
                        let owned = ownership != Ownership::Foreign || !whole;
                        slot.store(
                            &self.hal,
                            Soft::RetiredTable { hpa: next, owned, shared: false }.encode(),
                        );
                        pending.add_unfinished(piece);
                        // The walk to the table is dropped by way of one of its pages; it may be the first to be named.
                        let page = GuestPhysRange::new(piece.start(), crate::PAGE_SIZE);
                        if let (false, Ok(page)) = (whole, page) {
                            pending.add(page, LeafSize::Size4K);
                        }
                        if !self.format.invalidation_by_address_reaches_tables() {
                            pending.add_whole();
                        }
                    }
                }
                View::SharedTable(hpa) | View::Soft(Soft::SharedTable(hpa)) => {
                    // The range covers all of it that is in the space: one that others go on living in was copied.
                    if F::TABLES_HAVE_PERMISSIONS {
                        pending.add(piece, LeafSize::Size4K);
                    }
                    // It waits there for the sake of what backends lent.
                    let retired = Soft::RetiredTable { hpa, owned: false, shared: true };
                    slot.store(&self.hal, retired.encode());
                    pending.add_unfinished(piece);
                }
                View::Leaf(leaf) => {
                    self.retire_leaf(pending, slot, leaf, piece, ownership);
                    pending.add(piece, Self::leaf_size(level));
                }
                // Nothing to invalidate: the hardware saw nothing there.
                View::Soft(Soft::NoAccess(leaf) | Soft::Idle(leaf) | Soft::Broken(leaf)) => {
                    self.retire_leaf(pending, slot, leaf, piece, ownership);
                }
            }
        }
        if !changed || level == self.geometry.root_level() {
            // No linked table is empty to begin with, and the root stays in any case.
            return false;
        }
        // The entry behind the range is the likeliest to be alive, so the search begins there.
        let behind = self.geometry.index(level, range.end());
        self.is_empty(level, entries, (behind..entries.len()).chain(0..behind))
    }

    fn retire_leaf(
        &self,
        pending: &mut Pending,
        slot: Slot,
        leaf: Leaf,
        piece: GuestPhysRange,
        ownership: Ownership,
    ) {
        debug_assert_eq!(piece.size(), level_bytes(slot.level), "a leaf at the edge was not split");
        if leaf.owned || ownership == Ownership::Lent {
            slot.store(&self.hal, Soft::RetiredLeaf(leaf).encode());
            pending.add_unfinished(piece);
        } else {
            slot.store(&self.hal, 0);
        }
    }

    /// Gives back everything that was retired in `range`, and links the tables that wait there; the invalidation is
    /// done.
    pub(super) fn reap(&self, range: GuestPhysRange) {
        self.reap_in(self.geometry.root_level(), self.root, range);
    }

    fn reap_in(&self, level: u8, table: HostPhysAddr, range: GuestPhysRange) {
        let format = self.format;
        let entries = self.entries(level, table);
        let (base, bytes) = (range.start().align_down(level_bytes(level)), level_bytes(level));
        let first = self.geometry.index(level, base);
        let count = (range.end().as_u64() - base.as_u64()).div_ceil(bytes);
        for offset in 0..count {
            let slot = Slot { entries, index: first + offset as usize, level };
            let entry = slot.load();
            // Nearly all are one of these, in a range that was joined from several.
            if entry == 0 || format.kind(level, entry) == Kind::Leaf {
                continue;
            }
            let start = GuestPhysAddr::new(base.as_u64() + offset * bytes);
            match self.view(level, slot.index, entry) {
                View::Table(below) => self.reap_below(level - 1, below, start, range),
                View::Soft(Soft::NewTable(below)) => {
                    self.reap_below(level - 1, below, start, range);
                    slot.store(&self.hal, format.table(below));
                }
                View::Soft(Soft::RetiredLeaf(leaf)) => {
                    slot.store(&self.hal, 0);
                    self.give_back(level, leaf);
                }
                View::Soft(Soft::RetiredTable { hpa, owned, shared }) => {
                    slot.store(&self.hal, 0);
                    if !shared {
                        self.free_table(level - 1, hpa, owned);
                    }
                }
                View::Absent
                | View::Leaf(_)
                | View::SharedTable(_)
                | View::Soft(Soft::NoAccess(_) | Soft::Idle(_) | Soft::Broken(_) | Soft::SharedTable(_)) => {}
            }
        }
    }

    /// As [`reap_in`](Self::reap_in) for the part of `range` that the table of `level` at `start` translates.
    fn reap_below(&self, level: u8, table: HostPhysAddr, start: GuestPhysAddr, range: GuestPhysRange) {
        let part = GuestPhysRange::new(start, level_bytes(level + 1)).ok();
        if let Some(part) = part.and_then(|part| part.intersection(range)) {
            self.reap_in(level, table, part);
        }
    }

    /// Gives back the frames of a leaf that no CPU can reach any more, if they belong to the space.
    #[inline]
    pub(super) fn give_back(&self, level: u8, leaf: Leaf) {
        if leaf.owned {
            self.maintain(level, leaf.hpa, &[CacheEvent::FromGuest(leaf.flags.memory_type())]);
            // SAFETY: an owned leaf holds frames that the space took from this host; its entry is gone from the
            // table and the invalidation that preceded leaves no CPU with a translation to them.
            unsafe { self.hal.dealloc_frames(leaf.hpa, frames_of_level(level)) };
        }
    }

    /// Gives back a table of `level` that no CPU can walk any more, with all below it.
    pub(super) fn free_table(&self, level: u8, table: HostPhysAddr, owned: bool) {
        if level > 0 || owned {
            self.free_below(level, table, owned);
        }
        // SAFETY: the table was a single frame from this host; it is unlinked, and after the invalidation no CPU
        // walks it.
        unsafe { self.hal.dealloc_frames(table, 1) };
    }

    /// Gives back a table whose leaves another entry has taken over, and that no CPU can walk any more.
    pub(super) fn free_emptied_table(&self, table: HostPhysAddr) {
        // SAFETY: as in `free_table`; nothing below it is given up.
        unsafe { self.hal.dealloc_frames(table, 1) };
    }

    fn free_below(&self, level: u8, table: HostPhysAddr, owned: bool) {
        if level == 0 {
            return self.free_pages(table);
        }
        let format = self.format;
        let entries = self.entries(level, table);
        for index in 0..entries.len() {
            // Nearly all are nothing, or one of our tables.
            match entries.load(index) {
                0 => {}
                entry => match format.next_table(entry) {
                    Some(next) => self.free_table(level - 1, next, owned),
                    None => self.free_entry(level, index, entry, owned),
                },
            }
        }
    }

    /// Gives back what an entry of a table of `level` points to, if it is the space's. What a version owns stays.
    pub(super) fn free_entry(&self, level: u8, index: usize, entry: u64, owned: bool) {
        match self.view(level, index, entry) {
            View::Absent
            | View::SharedTable(_)
            | View::Soft(Soft::SharedTable(_) | Soft::RetiredTable { shared: true, .. }) => {}
            View::Table(next) | View::Soft(Soft::NewTable(next)) => self.free_table(level - 1, next, owned),
            View::Soft(Soft::RetiredTable { hpa, owned, .. }) => self.free_table(level - 1, hpa, owned),
            View::Leaf(leaf)
            | View::Soft(
                Soft::NoAccess(leaf) | Soft::Idle(leaf) | Soft::Broken(leaf) | Soft::RetiredLeaf(leaf),
            ) => {
                self.give_back(level, leaf);
            }
        }
    }

    /// As [`free_below`](Self::free_below) for level 0, where nearly all entries are alike.
    fn free_pages(&self, table: HostPhysAddr) {
        let format = self.format;
        let entries = self.lower_entries(table);
        // The attributes of owned leaves that need no cache maintenance; no entry has all bits set.
        let mut plain = u64::MAX;
        for index in 0..512 {
            let entry = entries.load(index);
            if entry & !F::ADDRESS == plain {
                // SAFETY: as in `give_back`.
                unsafe { self.hal.dealloc_frames(format.address(format.single(index, entry)), 1) };
                continue;
            }
            match self.view(0, index, entry) {
                View::Leaf(leaf)
                | View::Soft(
                    Soft::NoAccess(leaf) | Soft::Idle(leaf) | Soft::Broken(leaf) | Soft::RetiredLeaf(leaf),
                ) => {
                    self.give_back(0, leaf);
                    let event = CacheEvent::FromGuest(leaf.flags.memory_type());
                    let present = format.kind(0, entry) == Kind::Leaf;
                    if present && leaf.owned && format.cache_actions(event).is_empty() {
                        plain = entry & !F::ADDRESS;
                    }
                }
                View::Absent
                | View::Table(_)
                | View::SharedTable(_)
                | View::Soft(Soft::RetiredTable { .. } | Soft::NewTable(_) | Soft::SharedTable(_)) => {}
            }
        }
    }

    /// Gives back the root with all below it: the end of the table.
    pub(super) fn free_root(&self) {
        self.free_below(self.geometry.root_level(), self.root, true);
        // SAFETY: the root's frames came from this host in one run; the table is being dropped, and the space was
        // invalidated as a whole.
        unsafe { self.hal.dealloc_frames(self.root, usize::from(self.geometry.root_tables)) };
    }
}
