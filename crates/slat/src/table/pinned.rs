//! What is pinned when a table is frozen: it stays the space's, where it is, and the version gets copies.

#![expect(unsafe_code, reason = "copies frames")]

use super::version::Version;
use super::{Leaf, NewFrames, Table};
use crate::addr::GuestPhysRange;
use crate::format::{CacheEvent, Format};
use crate::frame::FrameStack;
use crate::hal::Hal;
use crate::table::OutOfMemory;

impl<H: Hal, F: Format> Table<H, F> {
    /// Takes the frames to which the leaves of the space's own in `range` can be copied.
    pub(crate) fn plan_copies(
        &self,
        range: GuestPhysRange,
        frames: &mut NewFrames<'_, H>,
    ) -> Result<(), OutOfMemory> {
        let mut result = Ok(());
        self.visit(range, &mut |slot, entry, _| {
            if self.view(slot.level, entry).any_leaf().is_some_and(|leaf| leaf.owned) {
                let taken = frames.get_mut(usize::from(slot.level)).and_then(FrameStack::take_one);
                result = result.and(taken.ok_or(OutOfMemory));
            }
        });
        result
    }

    /// Gives the leaves of `range` back to the table, which was just frozen into `version` and has tables of its own there.
    pub(crate) fn keep_leaves(&self, version: Version, range: GuestPhysRange) {
        self.visit(range, &mut |slot, _, piece| {
            let Some(place) = self.entry_of(version, piece.start()) else { return };
            let original = place.load();
            if place.level() != slot.level
                || !self.view(slot.level, original).any_leaf().is_some_and(|leaf| leaf.owned)
            {
                return;
            }
            let mut entry = slot.load();
            // What the hardware marks meanwhile stays.
            while !slot.compare_exchange(&self.hal, entry, original | entry & self.marks()) {
                entry = slot.load();
            }
        });
    }

    /// Copies the leaves of `range`, which the table [kept](Self::keep_leaves), into `version`, whose tables no CPU can walk
    /// there any more. What a device writes meanwhile may be in the copy or not.
    pub(crate) fn copy_leaves(&self, version: Version, range: GuestPhysRange, frames: &mut NewFrames<'_, H>) {
        self.visit(range, &mut |slot, entry, piece| {
            let Some(kept) = self.view(slot.level, entry).any_leaf().filter(|leaf| leaf.owned) else {
                return;
            };
            let Some(place) = self.entry_of(version, piece.start()) else { return };
            let original = place.load();
            // A leaf at the edge of two ranges is copied once.
            if self.view(place.level(), original).any_leaf().is_none_or(|leaf| leaf.hpa != kept.hpa) {
                return;
            }
            let new = frames.get_mut(usize::from(slot.level)).and_then(FrameStack::pop);
            let Some(mut new) = new else { unreachable!("plan_copies took the frames") };
            self.maintain(slot.level, kept.hpa, &[CacheEvent::FromGuest(kept.flags.memory_type())]);
            // SAFETY: the leaf owns this run of frames. Its guest, or a device, may write to it meanwhile: the caller asks
            // for a copy of what is pinned while it is in use, and no reference to it exists on either side.
            unsafe { new.copy_from(kept.hpa) };
            self.maintain(slot.level, new.start(), &[CacheEvent::ToGuest(kept.flags)]);
            let copy = self.encode(slot.level, Leaf { hpa: new.into_raw(), ..kept });
            let done = place.compare_exchange(&self.hal, original, copy);
            debug_assert!(done, "nobody else knows of the version yet");
        });
    }
}
