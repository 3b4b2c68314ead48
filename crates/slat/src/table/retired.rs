//! What was taken out of the table and waits there for the invalidation.

use super::{Leaf, Soft, Table, View, pieces};
use crate::addr::{GuestPhysAddr, GuestPhysRange, HostPhysAddr};
use crate::flags::level_bytes;
use crate::format::Format;
use crate::hal::Hal;

impl<H: Hal, F: Format> Table<H, F> {
    /// Calls `visit` for every leaf in `range` that was taken out and is not the space's: its level, its first
    /// guest-physical address, and the leaf.
    pub(crate) fn visit_retired(
        &self,
        range: GuestPhysRange,
        visit: &mut impl FnMut(u8, GuestPhysAddr, Leaf),
    ) {
        self.visit_retired_in(self.geometry.root_level(), self.root, range, false, visit);
    }

    /// `whole` says that the table itself was taken out, with all below it.
    fn visit_retired_in(
        &self,
        level: u8,
        table: HostPhysAddr,
        range: GuestPhysRange,
        whole: bool,
        visit: &mut impl FnMut(u8, GuestPhysAddr, Leaf),
    ) {
        let entries = self.entries(level, table);
        for (index, piece) in pieces(self.geometry, level, range) {
            match self.view(level, index, entries.load(index)) {
                View::Table(next) | View::Soft(Soft::NewTable(next)) => {
                    self.visit_retired_in(level - 1, next, piece, whole, visit);
                }
                View::SharedTable(next) if whole => {
                    self.visit_retired_in(level - 1, next, piece, whole, visit);
                }
                View::Soft(Soft::RetiredTable { hpa, .. }) => {
                    self.visit_retired_in(level - 1, hpa, piece, true, visit);
                }
                View::Leaf(leaf)
                | View::Soft(Soft::NoAccess(leaf) | Soft::Idle(leaf) | Soft::Broken(leaf))
                    if whole && !leaf.owned =>
                {
                    visit(level, piece.start().align_down(level_bytes(level)), leaf);
                }
                View::Soft(Soft::RetiredLeaf(leaf)) if !leaf.owned => {
                    visit(level, piece.start().align_down(level_bytes(level)), leaf);
                }
                View::Absent | View::SharedTable(_) | View::Leaf(_) | View::Soft(_) => {}
            }
        }
    }
}
