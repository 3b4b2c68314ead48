//! Joining 512 leaves that continue each other into one: the way back from a split.
//!
//! Where the format asks for it, the table is broken first and its pages are invalidated; it is given back when no
//! CPU can walk it any more. Contents stay where they are.

use super::{Leaf, Slot, Soft, Table, View, pieces};
use crate::addr::{GuestPhysRange, HostPhysAddr};
use crate::flags::{LeafSize, level_bytes};
use crate::format::Format;
use crate::hal::Hal;
use crate::tlb::Pending;

impl<H: Hal, F: Format> Table<H, F> {
    /// Joins leaves in `range` wherever that makes a larger one that lies in it; returns how many larger ones. `owned` leaves
    /// those alone that share their frames.
    pub(crate) fn collapse(&self, pending: &mut Pending, range: GuestPhysRange, owned: bool) -> u64 {
        let mut joined = 0;
        for level in 1..=self.format.largest_leaf().level() {
            joined += self.collapse_in(pending, self.geometry.root_level(), self.root, range, (level, owned));
        }
        joined
    }

    fn collapse_in(
        &self,
        pending: &mut Pending,
        level: u8,
        table: HostPhysAddr,
        range: GuestPhysRange,
        (target, owned): (u8, bool),
    ) -> u64 {
        let entries = self.entries(level, table);
        let mut joined = 0;
        for (index, piece) in pieces(self.geometry, level, range) {
            let slot = Slot { entries, index, level };
            let entry = slot.load();
            let View::Table(next) = self.view(level, index, entry) else { continue };
            if level > target {
                joined += self.collapse_in(pending, level - 1, next, piece, (target, owned));
            } else if piece.size() == level_bytes(level) {
                if let Some(leaf) = self.uniform(level - 1, next).filter(|leaf| leaf.owned || !owned) {
                    self.join(pending, slot, entry, next, leaf, piece);
                    joined += 1;
                }
            }
        }
        joined
    }

    /// The one leaf that the leaves of a whole table of `level` amount to, if they do.
    fn uniform(&self, level: u8, table: HostPhysAddr) -> Option<Leaf> {
        let entries = self.entries(level, table);
        let leaf = |index: usize| match self.view(level, index, entries.load(index)) {
            View::Leaf(leaf) => Some(leaf),
            _ => None,
        };
        let first = leaf(0)?;
        let step = level_bytes(level);
        // One that was written to makes all of it so.
        let mut clean = first.clean;
        let continues = |index: usize| {
            let hpa = first.hpa.checked_add(index as u64 * step);
            let same = |leaf: Leaf| (leaf.flags, leaf.owned) == (first.flags, first.owned);
            leaf(index).is_some_and(|leaf| {
                clean &= leaf.clean;
                Some(leaf.hpa) == hpa && same(leaf)
            })
        };
        let uniform = first.hpa.is_aligned(step * 512) && (1..entries.len()).all(continues);
        uniform.then_some(Leaf { clean, ..first })
    }

    /// The marks that any leaf of a table of `level` has.
    fn marks_of(&self, level: u8, table: HostPhysAddr) -> u64 {
        let entries = self.entries(level, table);
        (0..entries.len()).fold(0, |marks, index| marks | entries.load(index) & self.marks())
    }

    fn join(
        &self,
        pending: &mut Pending,
        slot: Slot,
        entry: u64,
        table: HostPhysAddr,
        leaf: Leaf,
        piece: GuestPhysRange,
    ) {
        // Marked by the guest or not: that is known when the small leaves are out of use.
        let joined = self.encode(slot.level, Leaf { accessed: false, dirty: false, ..leaf });
        let breaks = self.format.needs_break(slot.level, entry, joined);
        slot.store(&self.hal, if breaks { Soft::Broken(leaf).encode() } else { joined });
        // Every small leaf may be cached, and the walk to them.
        pending.add(piece, LeafSize::Size4K);
        if !self.format.invalidation_by_address_reaches_tables() {
            pending.add_whole();
        }
        self.settle(pending);
        let marks = self.marks_of(slot.level - 1, table);
        if breaks {
            self.make(pending, slot, joined | marks);
        } else if marks != 0 {
            slot.entries.set_bits(&self.hal, slot.index, marks);
        }
        self.free_emptied_table(table);
        self.hal.publish();
    }
}
