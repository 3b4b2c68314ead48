//! Ageing: which leaves the guest has used since they were last asked.
//!
//! Where the hardware sets an accessed flag, it is read and cleared. Elsewhere a leaf that is asked becomes idle: a software
//! entry that keeps everything, so that the next access faults and puts it back. Either way a leaf that has not been used
//! costs nothing the next time. A leaf that is covered in part counts as used and stays as it is, because the rest of it has
//! ages elsewhere.

use super::group::around;
use super::memory::Entries;
use super::{Leaf, Slot, Soft, Table, View};
use crate::addr::{GuestPhysRange, PAGE_SIZE};
use crate::flags::{LeafSize, MappingFlags, level_bytes};
use crate::format::Format;
use crate::hal::Hal;
use crate::tlb::Pending;
use core::ops::Range;

impl<H: Hal, F: Format> Table<H, F> {
    /// Whether leaves are made idle to learn who uses them.
    pub(crate) fn idles(&self) -> bool {
        self.format.accessed_bit() == 0
    }

    /// Calls `visit` for the part of `range` that each leaf maps, in ascending order, and whether the guest used it since the
    /// last time; begins anew. The invalidation is owed: until then a CPU that knows a page uses it without a word.
    pub(crate) fn scan(
        &self,
        pending: &mut Pending,
        range: GuestPhysRange,
        visit: &mut impl FnMut(GuestPhysRange, bool),
    ) {
        self.visit_runs(range, &mut |level, entries, indices, run| {
            if level == 0 {
                self.scan_pages(pending, entries, indices, run, visit);
            } else {
                let slot = Slot { entries, index: indices.start, level };
                if let Some(used) = self.scan_leaf(slot, run.size() == level_bytes(level)) {
                    visit(run, used);
                    if used {
                        pending.add(run, Self::leaf_size(level));
                    }
                }
            }
        });
        self.hal.publish();
    }

    /// As [`scan`](Self::scan) for `indices` of a table of 4 KiB leaves that map `run`.
    fn scan_pages(
        &self,
        pending: &mut Pending,
        entries: Entries,
        indices: Range<usize>,
        run: GuestPhysRange,
        visit: &mut impl FnMut(GuestPhysRange, bool),
    ) {
        let pages = |part: &Range<usize>| {
            let start = run.start().checked_add((part.start - indices.start) as u64 * PAGE_SIZE)?;
            GuestPhysRange::new(start, part.len() as u64 * PAGE_SIZE).ok()
        };
        let mut all: Option<Range<usize>> = None;
        let mut next = indices.start;
        while next < indices.end {
            let (index, entry) = (next, entries.load(next));
            // The marks of a group are those of any of its leaves.
            let group = if self.is_grouped(entry) { around(index) } else { index..index + 1 };
            let part = index..group.end.min(indices.end);
            let whole = group.start >= indices.start && group.end <= indices.end;
            next = part.end;
            let mut used = None;
            for index in group {
                if let Some(this) = self.scan_leaf(Slot { entries, index, level: 0 }, whole) {
                    used = Some(this || used == Some(true));
                }
            }
            if let (Some(used), Some(pages)) = (used, pages(&part)) {
                visit(pages, used);
                if used {
                    all = Some(all.map_or(part.start, |all| all.start)..part.end);
                }
            }
        }
        if let Some(changed) = all.and_then(|all| pages(&all)) {
            pending.add(changed, LeafSize::Size4K);
        }
    }

    /// Whether the leaf at `slot` was used since the last time; begins anew if `whole` says so. `None` if there is no leaf.
    #[inline]
    fn scan_leaf(&self, slot: Slot, whole: bool) -> Option<bool> {
        let entry = slot.load();
        if entry == 0 {
            return None;
        }
        let accessed = self.format.accessed_bit();
        match self.view(slot.level, slot.index, entry) {
            View::Leaf(leaf) if accessed != 0 => {
                if whole && leaf.accessed {
                    slot.entries.clear_bits(&self.hal, slot.index, accessed);
                }
                Some(leaf.accessed)
            }
            View::Leaf(leaf) => {
                // What only lets itself be written to has no permission left while its frame is shared.
                if whole && (leaf.flags - MappingFlags::WRITE).is_accessible() {
                    slot.store(&self.hal, Soft::Idle(leaf).encode());
                }
                Some(true)
            }
            View::Soft(soft) => {
                let (leaf, soft) = soft.kept_leaf()?;
                if whole && leaf.accessed {
                    slot.store(&self.hal, soft(Leaf { accessed: false, ..leaf }).encode());
                }
                Some(leaf.accessed)
            }
            _ => None,
        }
    }
}
