//! Splitting a large leaf into a table of leaves of the next smaller size.
//!
//! The new table is complete before it is linked, so all translations stay what they were. Where the format asks for it
//! the large leaf is broken first, and the table takes its place after the invalidation that the change owes anyway.

use super::{Leaf, Slot, Soft, Table, View};
use crate::addr::{GuestPhysAddr, GuestPhysRange, HostPhysAddr};
use crate::flags::{MappingFlags, level_bytes};
use crate::format::Format;
use crate::frame::FrameStack;
use crate::hal::Hal;
use crate::tlb::Pending;

impl<H: Hal, F: Format> Table<H, F> {
    /// The number of tables that [`split_at`](Self::split_at) both ends of `range` can need.
    pub(crate) fn plan_split(&self, range: GuestPhysRange) -> usize {
        if self.page_run(range).is_some() {
            return 0;
        }
        let cuts = [range.start(), range.end()].map(|gpa| {
            let (slot, entry, _) = self.walk_for_change(gpa);
            let cut = self.splittable(slot, entry).is_some();
            let levels = (1..=slot.level).filter(|level| !gpa.is_aligned(level_bytes(*level)));
            (if cut { levels.count() } else { 0 }, slot)
        });
        let [(first, a), (last, b)] = cuts;
        // Both ends in one large leaf: they may share the tables, at the least the uppermost one.
        let same = a.entries.hpa() == b.entries.hpa() && a.index == b.index;
        if same && first > 0 && last > 0 { first + last - 1 } else { first + last }
    }

    fn splittable(&self, slot: Slot, entry: u64) -> Option<Leaf> {
        match self.view(slot.level, slot.index, entry) {
            View::Leaf(leaf) | View::Soft(Soft::NoAccess(leaf) | Soft::Idle(leaf)) if slot.level > 0 => {
                Some(leaf)
            }
            _ => None,
        }
    }

    /// Splits the leaf around `gpa` until a leaf begins exactly there, and no group around it.
    pub(crate) fn split_at(&self, pending: &mut Pending, gpa: GuestPhysAddr, tables: &mut FrameStack<'_, H>) {
        loop {
            let (slot, entry, linked) = self.walk_for_change(gpa);
            if gpa.is_aligned(level_bytes(slot.level)) {
                return self.ungroup_around(pending, gpa);
            }
            let Some(leaf) = self.splittable(slot, entry) else { return };
            let Some(frame) = tables.pop() else { unreachable!("plan_split counted the tables") };
            self.split(pending, slot, entry, leaf, gpa, frame.into_raw(), linked);
        }
    }

    #[expect(clippy::too_many_arguments, reason = "what is split, where, and into what")]
    fn split(
        &self,
        pending: &mut Pending,
        slot: Slot,
        entry: u64,
        leaf: Leaf,
        gpa: GuestPhysAddr,
        table: HostPhysAddr,
        seen: bool,
    ) {
        let bytes = level_bytes(slot.level);
        self.fill_split(slot.level - 1, table, leaf, true);
        let linked = self.format.table(table);
        let absent = !seen || matches!(self.view(slot.level, slot.index, entry), View::Soft(_));
        let Ok(piece) = GuestPhysRange::new(gpa.align_down(bytes), bytes) else {
            unreachable!("inside the width")
        };
        if absent {
            slot.store(&self.hal, linked);
            self.hal.publish();
        } else if self.format.needs_break(slot.level, entry, linked) {
            // Nobody sees the table before the invalidation is done, so what else is to be changed in it is changed
            // at once, and one invalidation does for both.
            let last = slot.swap(&self.hal, Soft::NewTable(table).encode());
            if last != entry {
                let View::Leaf(marked) = self.view(slot.level, slot.index, last) else {
                    unreachable!("marks change no kind")
                };
                self.fill_split(slot.level - 1, table, marked, true);
            }
            pending.add(piece, Self::leaf_size(slot.level));
            pending.add_unfinished(piece);
        } else {
            // The hardware may mark the large leaf until the last moment.
            let mut known = entry;
            while !slot.compare_exchange(&self.hal, known, linked) {
                known = slot.load();
                let View::Leaf(marked) = self.view(slot.level, slot.index, known) else {
                    unreachable!("marks change no kind")
                };
                self.fill_split(slot.level - 1, table, marked, true);
            }
            pending.add(piece, Self::leaf_size(slot.level));
            self.hal.publish();
        }
    }

    /// Fills a table of `level` that is not linked yet with what `leaf`, one level above, maps. All of the small leaves
    /// have the marks of the large one: it is not known which of them the guest meant.
    /// `grouped` allows groups of them: not while a fault is answered that changes one of them next.
    pub(super) fn fill_split(&self, level: u8, table: HostPhysAddr, leaf: Leaf, grouped: bool) {
        let entries = self.entries(level, table);
        // The host gets by the short way only to owned leaves that are ordinary ones; and what is to be copied or logged when
        // it is written to, each page by itself, lacks the permission.
        let changes = leaf.owned || leaf.clean || !leaf.flags.contains(MappingFlags::WRITE);
        if level == 0 && grouped && !changes {
            return self.fill_pages(entries, false, 0..entries.len(), leaf);
        }
        let shift = if leaf.flags.is_accessible() { F::ADDRESS_SHIFT } else { 0 };
        let step = level_bytes(level) >> shift;
        entries.fill_unlinked(&self.hal, 0..entries.len(), self.encode(level, leaf), step);
    }
}
