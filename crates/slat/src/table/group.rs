//! Groups: sixteen neighbouring leaves of 4 KiB that the hardware may remember as one of 64 KiB (RISC-V: Svnapot).
//!
//! **Invariant:** the leaves of a group are alike but for their marks, and a group is never there in part: a CPU may use
//! what it read in any of them for the pages of all. They are written together. Before one of them is changed by itself,
//! all become ordinary leaves: in place, as every page stays where it is, and the invalidation that the change owes drops
//! what was remembered of all sixteen. A change of whole groups goes through them as through ordinary leaves, if marks
//! need not be carried along: until the invalidation a CPU finds in each of the pages the old or the new.
//!
//! Marks are the group's: the hardware may leave one in any of the sixteen (Svnapot, on "aliases").

use super::memory::Entries;
use super::{Leaf, Slot, Table};
use crate::PAGE_SIZE;
use crate::addr::{GuestPhysAddr, GuestPhysRange};
use crate::flags::LeafSize;
use crate::format::Format;
use crate::hal::Hal;
use crate::tlb::Pending;
use core::ops::Range;

/// Leaves of a group.
const LEAVES: usize = 16;
const BYTES: u64 = LEAVES as u64 * PAGE_SIZE;

/// The indices of the group around `index`.
pub(super) fn around(index: usize) -> Range<usize> {
    let first = index & !(LEAVES - 1);
    first..first + LEAVES
}

impl<H: Hal, F: Format> Table<H, F> {
    /// Whether there may be any.
    #[inline]
    pub(crate) fn has_groups(&self) -> bool {
        self.format.group_bit() != 0
    }

    #[inline]
    pub(super) fn is_grouped(&self, entry: u64) -> bool {
        entry & self.format.group_bit() != 0
    }

    /// `new`, which is present and maps what `old` does, as one of a group if `old` is one.
    #[inline]
    pub(super) fn grouped_like(&self, old: u64, new: u64) -> u64 {
        let grouped = if self.is_grouped(old) { self.format.grouped(new) } else { None };
        grouped.unwrap_or(new)
    }

    /// `leaf`, which `entry` at `slot` means, with the marks of all of its group.
    pub(super) fn with_marks_of_group(&self, slot: Slot, entry: u64, leaf: Leaf) -> Leaf {
        if !self.is_grouped(entry) {
            return leaf;
        }
        let marks = around(slot.index).fold(0, |marks, index| marks | slot.entries.load(index));
        Leaf {
            accessed: marks & self.format.accessed_bit() != 0,
            dirty: marks & self.format.dirty_bit() != 0,
            ..leaf
        }
    }

    /// Writes 4 KiB leaves that continue each other, the first of which is `leaf`, into `indices`, as groups where all
    /// of one fits.
    pub(super) fn fill_pages(&self, entries: Entries, linked: bool, indices: Range<usize>, leaf: Leaf) {
        // Software entries hold the address unshifted.
        let accessible = leaf.flags.is_accessible();
        let step = PAGE_SIZE >> if accessible { F::ADDRESS_SHIFT } else { 0 };
        let first = self.encode(0, leaf);
        let at = |index: usize| first + (index - indices.start) as u64 * step;
        let fill = |indices: Range<usize>, first, step| {
            if linked {
                entries.fill(&self.hal, indices, first, step);
            } else {
                entries.fill_unlinked(&self.hal, indices, first, step);
            }
        };
        let aligned = (leaf.hpa.as_u64() / PAGE_SIZE) as usize % LEAVES == indices.start % LEAVES;
        let groups = indices.start.next_multiple_of(LEAVES)..indices.end & !(LEAVES - 1);
        if !(aligned && accessible) || groups.is_empty() || self.format.grouped(first).is_none() {
            return fill(indices, first, step);
        }
        fill(indices.start..groups.start, first, step);
        for group in groups.clone().step_by(LEAVES) {
            let Some(grouped) = self.format.grouped(at(group)) else { unreachable!("as the first") };
            fill(around(group), grouped, 0);
        }
        fill(groups.end..indices.end, at(groups.end), step);
    }

    /// Makes ordinary leaves of a group that `gpa` cuts in two. The invalidation is owed.
    #[inline]
    pub(super) fn ungroup_around(&self, pending: &mut Pending, gpa: GuestPhysAddr) {
        if self.format.group_bit() == 0 || gpa.is_aligned(BYTES) {
            return;
        }
        let (slot, entry, _) = self.walk_for_change(gpa);
        if slot.level == 0 && self.is_grouped(entry) {
            self.ungroup(pending, slot, gpa);
        }
    }

    /// As [`ungroup_around`](Self::ungroup_around) for both ends of `range`.
    #[inline]
    pub(crate) fn ungroup_edges(&self, pending: &mut Pending, range: GuestPhysRange) {
        self.ungroup_around(pending, range.start());
        self.ungroup_around(pending, range.end());
    }

    /// Makes ordinary leaves of all groups in `range`, none of which an end of it cuts in two. The invalidation is owed.
    pub(crate) fn ungroup_all(&self, pending: &mut Pending, range: GuestPhysRange) {
        if self.format.group_bit() == 0 {
            return;
        }
        self.visit(range, &mut |slot, entry, piece| {
            // The others of its group come later, and are ordinary by then.
            if slot.level == 0 && self.is_grouped(entry) {
                self.ungroup(pending, slot, piece.start());
            }
        });
    }

    /// The group around `slot`, the entry of `gpa`.
    #[cold]
    fn ungroup(&self, pending: &mut Pending, slot: Slot, gpa: GuestPhysAddr) {
        let Slot { entries, index, .. } = slot;
        let mut marks = 0;
        for index in around(index) {
            let single = self.format.single(index, entries.load(index));
            marks |= entries.swap(&self.hal, index, single) & self.marks();
        }
        if marks != 0 {
            for index in around(index) {
                entries.set_bits(&self.hal, index, marks);
            }
        }
        if let Ok(range) = GuestPhysRange::new(gpa.align_down(BYTES), BYTES) {
            pending.add(range, LeafSize::Size4K);
        }
    }
}
