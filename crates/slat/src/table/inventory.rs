//! All that a table consists of, as it stands in memory and whatever the regions say: for the audit.

use super::{Leaf, Soft, Table, View};
use crate::addr::{GuestPhysAddr, HostPhysAddr};
use crate::flags::{MappingFlags, level_bytes};
use crate::format::Format;
use crate::hal::Hal;

/// A part of a table.
pub(crate) enum Part {
    /// Frames that hold a table or are kept ready for one: the first, and how many.
    Frames(HostPhysAddr, usize),
    /// A leaf that the guest has access to, or has once a table takes its place: its first address, its level.
    Leaf(GuestPhysAddr, u8, Leaf),
}

/// By way of what a table is reached.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Way {
    /// Tables of the space's own.
    Own,
    /// A table of a version, whose frames are told by the version itself.
    Shared,
    /// A table that is retired.
    Retired,
}

impl<H: Hal, F: Format> Table<H, F> {
    /// Calls `visit` for all parts; leaves come in ascending order. One pass over the table, beside faults. Tables that
    /// are retired are still the table's, but no walk gets to their leaves.
    pub(crate) fn inventory(&self, visit: &mut dyn FnMut(Part)) {
        visit(Part::Frames(self.root, usize::from(self.geometry.root_tables)));
        self.inventory_below(self.geometry.root_level(), self.root, 0, Way::Own, visit);
        self.visit_versions(&mut |frame| visit(Part::Frames(frame, 1)));
        self.spares.visit(&mut |frame| visit(Part::Frames(frame, 1)));
    }

    fn inventory_below(
        &self,
        level: u8,
        table: HostPhysAddr,
        base: u64,
        way: Way,
        visit: &mut dyn FnMut(Part),
    ) {
        let entries = self.entries(level, table);
        for index in 0..entries.len() {
            let start = base + index as u64 * level_bytes(level);
            let (next, way) = match (self.view(level, index, entries.load(index)), way) {
                (View::Table(next) | View::Soft(Soft::NewTable(next)), way) => (next, way),
                (View::SharedTable(next), Way::Own | Way::Shared) => (next, Way::Shared),
                (View::Soft(Soft::RetiredTable { hpa, shared: false, .. }), Way::Own | Way::Retired) => {
                    (hpa, Way::Retired)
                }
                (View::Leaf(leaf) | View::Soft(Soft::Idle(leaf)), Way::Own) => {
                    visit(Part::Leaf(GuestPhysAddr::new(start), level, leaf));
                    continue;
                }
                (View::Leaf(leaf) | View::Soft(Soft::Idle(leaf)), Way::Shared) => {
                    let leaf = Leaf { flags: leaf.flags - MappingFlags::WRITE, owned: false, ..leaf };
                    visit(Part::Leaf(GuestPhysAddr::new(start), level, leaf));
                    continue;
                }
                _ => continue,
            };
            if way != Way::Shared {
                visit(Part::Frames(next, 1));
            }
            self.inventory_below(level - 1, next, start, way, visit);
        }
    }
}
