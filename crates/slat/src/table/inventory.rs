//! All that a table consists of, as it stands in memory and whatever the regions say: for the audit.

use super::{Leaf, Soft, Table, View};
use crate::addr::{GuestPhysAddr, HostPhysAddr};
use crate::flags::level_bytes;
use crate::format::Format;
use crate::hal::Hal;

/// A part of a table.
pub(crate) enum Part {
    /// Frames that hold a table or are kept ready for one: the first, and how many.
    Frames(HostPhysAddr, usize),
    /// A leaf that the guest has access to, or has once a table takes its place: its first address, its level.
    Leaf(GuestPhysAddr, u8, Leaf),
}

impl<H: Hal, F: Format> Table<H, F> {
    /// Calls `visit` for all parts; leaves come in ascending order. One pass over the table, beside faults. Tables that
    /// are retired are still the table's, but no walk gets to their leaves.
    pub(crate) fn inventory(&self, visit: &mut dyn FnMut(Part)) {
        visit(Part::Frames(self.root, usize::from(self.geometry.root_tables)));
        self.inventory_below(self.geometry.root_level(), self.root, 0, true, visit);
        self.spares.visit(&mut |frame| visit(Part::Frames(frame, 1)));
    }

    fn inventory_below(
        &self,
        level: u8,
        table: HostPhysAddr,
        base: u64,
        reachable: bool,
        visit: &mut dyn FnMut(Part),
    ) {
        let entries = self.entries(level, table);
        for index in 0..entries.len() {
            let start = base + index as u64 * level_bytes(level);
            let (next, reachable) = match self.view(level, index, entries.load(index)) {
                View::Table(next) | View::Soft(Soft::NewTable(next)) => (next, reachable),
                View::Soft(Soft::RetiredTable { hpa, .. }) => (hpa, false),
                View::Leaf(leaf) if reachable => {
                    visit(Part::Leaf(GuestPhysAddr::new(start), level, leaf));
                    continue;
                }
                _ => continue,
            };
            visit(Part::Frames(next, 1));
            self.inventory_below(level - 1, next, start, reachable, visit);
        }
    }
}
