//! Copy-on-write: what a write does to a leaf whose frame others use too.
//!
//! The frame is copied while nobody can write to it (shared memory: while this space cannot), then the leaf goes through a break, on every format: **no CPU reads the
//! old frame any more when one writes to the new one.** Whoever meets the broken leaf answers its fault with a retry. Only
//! one CPU can break it; the others give their copies back.

#![expect(unsafe_code, reason = "copies frames")]

use super::version::TakenOver;
use super::{Leaf, Slot, Soft, Table, View};
use crate::addr::{GuestPhysAddr, GuestPhysRange};
use crate::flags::{LeafSize, MappingFlags, level_bytes};
use crate::format::{CacheEvent, Format};
use crate::frame::OwnedFrames;
use crate::hal::Hal;
use crate::table::OutOfMemory;
use crate::tlb::{Reach, Scope};

/// What a write did to a leaf that shares its frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Unshared {
    /// It does not, or there is none.
    Never,
    /// The space has a copy of its own now, in a leaf of this size.
    Copied(LeafSize),
    /// Nobody else used it any more: it is the space's own.
    TakenOver,
    /// Another CPU is about to do so.
    Unsettled,
}

impl<H: Hal, F: Format> Table<H, F> {
    /// Makes the frame of the leaf of `gpa`, which lies in a region of memory of the space's own with `flags`, the space's
    /// alone, as a write needs it. A large leaf of which others have the rest is split. Tables above are the space's own.
    /// `from_version` says that the frame can only be that of a version, so that there is nothing to copy once nobody else
    /// needs that one; otherwise it may be of shared memory, which other spaces go on writing to.
    #[cold]
    pub(crate) fn write_shared(
        &self,
        gpa: GuestPhysAddr,
        flags: MappingFlags,
        from_version: bool,
    ) -> Result<Unshared, OutOfMemory> {
        let mut copy: Option<OwnedFrames<'_, H>> = None;
        loop {
            let (slot, entry) = self.walk(gpa);
            let leaf = match self.view(slot.level, slot.index, entry) {
                View::Leaf(leaf) | View::Soft(Soft::NoAccess(leaf) | Soft::Idle(leaf)) if !leaf.owned => leaf,
                View::Soft(Soft::Broken(_) | Soft::NewTable(_)) => return Ok(Unshared::Unsettled),
                _ => return Ok(Unshared::Never),
            };
            let taken =
                if from_version { self.take_over(gpa, slot.level, leaf.hpa) } else { TakenOver::Shared };
            match taken {
                TakenOver::Taken => {
                    let owned = |entry: u64| {
                        let leaf = self.view(slot.level, slot.index, entry).any_leaf();
                        let owned = leaf.map(|leaf| Leaf { flags, owned: true, clean: false, ..leaf });
                        owned.map_or(entry, |leaf| self.encode(slot.level, leaf))
                    };
                    let mut entry = entry;
                    while !slot.compare_exchange(&self.hal, entry, owned(entry)) {
                        entry = slot.load();
                    }
                    return Ok(Unshared::TakenOver);
                }
                TakenOver::Gone => return Ok(Unshared::Unsettled),
                TakenOver::Shared => {}
            }
            if slot.level > 0 {
                self.split_beside_faults(slot, entry, leaf, gpa)?;
                continue;
            }
            let new = match copy.take() {
                Some(new) => new,
                None => self.copy_of(leaf, flags, from_version).ok_or(OutOfMemory)?,
            };
            match self.replace_shared(slot, entry, leaf, (new, flags), gpa) {
                Ok(()) => return Ok(Unshared::Copied(LeafSize::Size4K)),
                // Marked by the hardware, or by now another CPU's: what was copied is still the same.
                Err(new) => copy = Some(new),
            }
        }
    }

    /// As [`write_shared`](Self::write_shared) where all there is to do is to copy a page of a version that others need too: the
    /// way of nearly all first writes. Returns whether it did; where not, nothing has changed.
    #[inline]
    pub(crate) fn copy_page(&self, gpa: GuestPhysAddr, flags: MappingFlags) -> bool {
        if !self.shares_version() {
            return false;
        }
        let Some(slot) = self.page_slot(gpa) else { return false };
        let entry = slot.load();
        let View::Leaf(leaf) = self.view(0, slot.index, entry) else { return false };
        if leaf.owned {
            return false;
        }
        let Some(new) = self.copy_of(leaf, flags, true) else { return false };
        self.replace_shared(slot, entry, leaf, (new, flags), gpa).is_ok()
    }

    /// A copy of the page of a shared leaf, which is of a version or else of memory that others may write to, ready for the
    /// guest.
    #[inline]
    fn copy_of(&self, leaf: Leaf, flags: MappingFlags, from_version: bool) -> Option<OwnedFrames<'_, H>> {
        let mut new = OwnedFrames::alloc_leaf(&self.hal, 0)?;
        // The guest may have written past the caches; only then does the copy see what it wrote.
        self.maintain(0, leaf.hpa, &[CacheEvent::FromGuest(leaf.flags.memory_type())]);
        if from_version {
            // SAFETY: the leaf is of a frame of this host that is shared, so that no leaf anywhere lets a CPU write to it, and it
            // stays as long as this space holds the version that it comes from.
            unsafe { new.copy_from(leaf.hpa) };
        } else {
            // SAFETY: as above, as long as this space holds the version or memory; others may write to it.
            unsafe { new.copy_from_live(leaf.hpa) };
        }
        self.maintain(0, new.start(), &[CacheEvent::ToGuest(flags)]);
        Some(new)
    }

    /// Puts a leaf of `new` with `flags` in the place of a shared one, in the answer to a write; gives the frame back if the entry
    /// is not `entry` any more.
    #[inline]
    fn replace_shared<'h>(
        &self,
        slot: Slot,
        entry: u64,
        old: Leaf,
        (new, flags): (OwnedFrames<'h, H>, MappingFlags),
        gpa: GuestPhysAddr,
    ) -> Result<(), OwnedFrames<'h, H>> {
        if !slot.compare_exchange(&self.hal, entry, Soft::Broken(old).encode()) {
            return Err(new);
        }
        let leaf = Leaf { hpa: new.into_raw(), flags, owned: true, clean: false, ..old };
        let bytes = level_bytes(slot.level);
        if let Ok(piece) = GuestPhysRange::new(gpa.align_down(bytes), bytes) {
            let scope = Scope::Ranges { ranges: &[piece], stride: Self::leaf_size(slot.level) };
            self.invalidate(scope, Reach::AllCpus);
        }
        let marks = if flags.is_accessible() { self.access_marks(MappingFlags::WRITE) } else { 0 };
        slot.store(&self.hal, self.encode(slot.level, leaf) | marks);
        self.publish_leaf(gpa, MappingFlags::WRITE, true);
        Ok(())
    }

    /// Splits the large leaf `leaf`, which `slot` holds by `entry`, in the answer to a fault, unless another CPU changes it
    /// first. All small leaves are what the large one was.
    pub(super) fn split_beside_faults(
        &self,
        slot: Slot,
        entry: u64,
        leaf: Leaf,
        gpa: GuestPhysAddr,
    ) -> Result<(), OutOfMemory> {
        let bytes = level_bytes(slot.level);
        let Ok(block) = GuestPhysRange::new(gpa.align_down(bytes), bytes) else { return Ok(()) };
        let frame = self.spares.take(&self.hal).or_else(|| OwnedFrames::alloc(&self.hal, 1, 1));
        let frame = frame.ok_or(OutOfMemory)?;
        self.fill_split(slot.level - 1, frame.start(), leaf, false);
        let table = self.format.table(frame.start());
        let breaks = self.format.needs_break(slot.level, entry, table);
        let replacement = if breaks { Soft::NewTable(frame.start()).encode() } else { table };
        if !slot.compare_exchange(&self.hal, entry, replacement) {
            // Marked, perhaps: the next attempt sees it.
            return Ok(());
        }
        frame.into_raw();
        let scope = Scope::Ranges { ranges: &[block], stride: Self::leaf_size(slot.level) };
        self.invalidate(scope, Reach::AllCpus);
        if breaks {
            // Another CPU may have linked it already, after an invalidation of its own.
            slot.compare_exchange(&self.hal, replacement, table);
        }
        self.hal.publish();
        Ok(())
    }
}
