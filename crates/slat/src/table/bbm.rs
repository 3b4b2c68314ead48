//! Break-before-make: the two verbs by which a present leaf changes its address, memory type or size.
//!
//! Between them the hardware finds nothing, and every CPU has forgotten what it knew: a guest that touches the page
//! meanwhile faults, and finds it again when it is re-entered. Whether a change needs this is the format's decision
//! ([`Format::needs_break`]), never the caller's memory.

use super::{Leaf, Slot, Soft, Table};
use crate::addr::GuestPhysRange;
use crate::format::Format;
use crate::hal::Hal;
use crate::tlb::Pending;

impl<H: Hal, F: Format> Table<H, F> {
    /// Takes a present leaf out, keeping in its place what it was. The invalidation is owed for `piece`.
    pub(super) fn break_leaf(&self, pending: &mut Pending, slot: Slot, leaf: Leaf, piece: GuestPhysRange) {
        self.take_out(slot, leaf, Soft::Broken);
        pending.add(piece, Self::leaf_size(slot.level));
    }

    /// Puts `entry` in the place of a leaf that was broken and invalidated.
    pub(super) fn make(&self, pending: &Pending, slot: Slot, entry: u64) {
        assert!(pending.is_empty(), "make before the invalidation that break owes");
        slot.store(&self.hal, entry);
    }
}
