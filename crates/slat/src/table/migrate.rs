//! Moving pages to other frames without losing a byte.
//!
//! All leaves of the range are broken, one invalidation makes sure that nobody writes the old frames any more, then
//! each is copied and made again at its new place. A guest that touches a page meanwhile faults and retries.

#![expect(unsafe_code, reason = "copies frames")]

use super::{Leaf, Soft, Table, View};
use crate::addr::GuestPhysRange;
use crate::flags::level_bytes;
use crate::format::{CacheEvent, Format};
use crate::frame::FrameStack;
use crate::hal::Hal;
use crate::table::OutOfMemory;
use crate::tlb::Pending;

/// Frames to move to, one stack for each leaf size.
pub(crate) type NewFrames<'h, H> = [FrameStack<'h, H>; 3];

impl<H: Hal, F: Format> Table<H, F> {
    /// All regions of `range` are of memory of the space's own: a leaf that is not shares its frame, and is moved by a copy.
    /// Takes the frames to which the leaves of `range` can move once those at its edges are split.
    pub(crate) fn plan_migrate(&self, range: GuestPhysRange) -> Result<NewFrames<'_, H>, OutOfMemory> {
        let mut stacks = [0, 1, 2].map(|level| FrameStack::new(self.hal(), level));
        let mut result = Ok(());
        self.visit(range, &mut |slot, entry, piece| {
            if self.view(slot.level, slot.index, entry).any_leaf().is_none() {
                return;
            }
            // A leaf that the range covers in part will have been split into the largest leaves that fit.
            let mut rest = Some(piece);
            while let Some(piece) = rest {
                let fits = |level: &u8| {
                    let bytes = level_bytes(*level);
                    piece.start().is_aligned(bytes) && piece.size() >= bytes
                };
                let level = (0..=slot.level).rev().find(fits).unwrap_or(0);
                let taken = stacks.get_mut(usize::from(level)).and_then(FrameStack::take_one);
                if taken.is_none() {
                    result = Err(OutOfMemory);
                    return;
                }
                rest = piece
                    .start()
                    .checked_add(level_bytes(level))
                    .and_then(|next| GuestPhysRange::between(next, piece.end()));
            }
        });
        result.map(|()| stacks)
    }

    /// Moves every leaf of `range` to a frame of `frames`; returns the number of 4 KiB pages moved.
    pub(crate) fn migrate(
        &self,
        pending: &mut Pending,
        range: GuestPhysRange,
        mut frames: NewFrames<'_, H>,
    ) -> u64 {
        self.visit(range, &mut |slot, entry, piece| {
            if let View::Leaf(leaf) = self.view(slot.level, slot.index, entry) {
                self.break_leaf(pending, slot, leaf, piece);
            }
        });
        self.settle(pending);
        let mut pages = 0;
        self.visit(range, &mut |slot, entry, piece| {
            let View::Soft(Soft::Broken(old) | Soft::NoAccess(old) | Soft::Idle(old)) =
                self.view(slot.level, slot.index, entry)
            else {
                return;
            };
            let new = frames.get_mut(usize::from(slot.level)).and_then(FrameStack::pop);
            let Some(mut new) = new else { unreachable!("plan_migrate took the frames") };
            // The guest may have written past the caches; only then does the copy see what it wrote.
            self.maintain(slot.level, old.hpa, &[CacheEvent::FromGuest(old.flags.memory_type())]);
            // SAFETY: the leaf owned this run of frames, or shares it, and no CPU can write it: it was not present, or it was
            // broken and the invalidation is done; and nobody writes to what is shared.
            unsafe { new.copy_from(old.hpa) };
            self.maintain(slot.level, new.start(), &[CacheEvent::ToGuest(old.flags)]);
            // Without the permission to write if it was shared: the next write fault gives it that.
            let leaf = Leaf { hpa: new.into_raw(), owned: true, ..old };
            self.make(pending, slot, self.encode(slot.level, leaf));
            self.give_back(slot.level, old);
            pages += piece.size() / crate::PAGE_SIZE;
        });
        self.hal.publish();
        pages
    }
}
