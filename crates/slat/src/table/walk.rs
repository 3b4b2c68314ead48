//! Ways down the table: to what is to be changed, to what is only read, and the shortest one to a page.

use super::{Slot, Soft, Table, View};
use crate::addr::{GuestPhysAddr, GuestPhysRange, HostPhysAddr};
use crate::flags::{MappingFlags, level_bytes};
use crate::format::{Format, Kind};
use crate::hal::Hal;

impl<H: Hal, F: Format> Table<H, F> {
    /// As [`walk`](Self::walk), down to where changes go on. The last value says whether the hardware can get there.
    pub(super) fn walk_for_change(&self, gpa: GuestPhysAddr) -> (Slot, u64, bool) {
        let mut slot = self.slot(self.geometry.root_level(), self.root, gpa);
        let mut linked = true;
        loop {
            let entry = slot.load();
            let next = if slot.level > 0 { self.below(slot.level, entry) } else { None };
            let Some(next) = next else { return (slot, entry, linked) };
            linked &= self.format.kind(slot.level, entry) == Kind::Table;
            slot = self.slot(slot.level - 1, next, gpa);
        }
    }

    /// As [`walk_for_change`](Self::walk_for_change), through tables of a version as well: what is found there is not to be
    /// written to. The last value says whether there were any.
    pub(super) fn walk_to_read(&self, gpa: GuestPhysAddr) -> (Slot, u64, bool) {
        let mut slot = self.slot(self.geometry.root_level(), self.root, gpa);
        let mut shared = false;
        loop {
            let entry = slot.load();
            let next = match self.view(slot.level, slot.index, entry) {
                View::Table(next) | View::Soft(Soft::NewTable(next)) => next,
                View::SharedTable(next) => {
                    shared = true;
                    next
                }
                _ => return (slot, entry, shared),
            };
            slot = self.slot(slot.level - 1, next, gpa);
        }
    }

    /// Walks down to the entry that translates `gpa`, an address that the format can translate: a leaf, a table of a
    /// version, a software entry or nothing.
    pub(crate) fn walk(&self, gpa: GuestPhysAddr) -> (Slot, u64) {
        let mut slot = self.slot(self.geometry.root_level(), self.root, gpa);
        let mut entry = slot.load();
        while slot.level > 0 {
            let Some(next) = self.format.next_table(entry) else { break };
            let level = slot.level - 1;
            slot = Slot { entries: self.lower_entries(next), index: self.geometry.index(level, gpa), level };
            entry = slot.load();
        }
        (slot, entry)
    }

    /// The 4 KiB entry of `gpa`, if all tables on the way are there: the way of nearly all accesses, without a
    /// decision that it can do without. `None` also for an address that the format cannot translate.
    #[inline(always)]
    pub(crate) fn page_slot(&self, gpa: GuestPhysAddr) -> Option<Slot> {
        // With the level known, the loop becomes straight code.
        match self.geometry.root_level() {
            3 => self.page_slot_below(3, gpa),
            2 => self.page_slot_below(2, gpa),
            _ => None,
        }
    }

    #[inline(always)]
    fn page_slot_below(&self, root_level: u8, gpa: GuestPhysAddr) -> Option<Slot> {
        // A copy, so that the compiler knows that nothing changes it while tables are read.
        let format = self.format;
        let index = (gpa.as_u64() >> (12 + 9 * u32::from(root_level))) as usize;
        if index >= self.root_entries {
            return None;
        }
        let mut slot = Slot { entries: self.root_table(), index, level: root_level };
        for level in (0..root_level).rev() {
            let entries = self.lower_entries(format.next_table(slot.load())?);
            slot =
                Slot { entries, index: (gpa.as_u64() >> (12 + 9 * u32::from(level))) as usize % 512, level };
        }
        Some(slot)
    }

    /// The first 4 KiB entry of `range`, if the entries of all of it stand in one table that is there.
    #[inline]
    pub(super) fn page_run(&self, range: GuestPhysRange) -> Option<(Slot, usize)> {
        let slot = self.page_slot(range.start())?;
        let count = range.size() / crate::PAGE_SIZE;
        (slot.index as u64 + count <= 512).then_some((slot, count as usize))
    }

    /// Where `gpa` is mapped to, if the guest has access to it; `None` for every address outside of the space.
    #[inline]
    pub(crate) fn translate(&self, gpa: GuestPhysAddr) -> Option<HostPhysAddr> {
        let Some(slot) = self.page_slot(gpa) else { return self.translate_large(gpa) };
        let entry = slot.load();
        if self.format.kind(0, entry) != Kind::Leaf {
            return self.translate_large(gpa);
        }
        let page = self.format.address(self.format.single(slot.index, entry)).as_u64();
        Some(HostPhysAddr::new(page | gpa.as_u64() & (crate::PAGE_SIZE - 1)))
    }

    #[inline(never)]
    fn translate_large(&self, gpa: GuestPhysAddr) -> Option<HostPhysAddr> {
        if !self.geometry.translates(gpa) {
            return None;
        }
        // A table that waits for an invalidation is passed too: the page is the guest's, and its next fault links it.
        let (slot, entry, shared) = self.walk_to_read(gpa);
        let offset = gpa.as_u64() & (level_bytes(slot.level) - 1);
        // So is one that is idle.
        let (View::Leaf(leaf) | View::Soft(Soft::Idle(leaf))) = self.view(slot.level, slot.index, entry)
        else {
            return None;
        };
        // What can only be written to is nothing while it is shared.
        let accessible = !shared || (leaf.flags - MappingFlags::WRITE).is_accessible();
        accessible.then(|| HostPhysAddr::new(leaf.hpa.as_u64() | offset))
    }
}
