//! Finding what the host has to touch where it accesses memory of the guest itself, and leaving the marks there that the
//! CPU would leave for the guest.

use super::{Leaf, Slot, Table, View};
use crate::addr::{GuestPhysAddr, HostPhysAddr};
use crate::flags::{MappingFlags, level_bytes};
use crate::format::{Format, Kind};
use crate::hal::Hal;

/// Leaves of one table that continue each other in both address spaces, with the same attributes.
#[derive(Clone, Copy)]
pub(crate) struct Reached {
    /// The entry of the first one.
    slot: Slot,
    /// Bytes from the beginning of the first leaf to the address asked for.
    offset: u64,
    /// Host physical address of the first byte asked for.
    pub(crate) hpa: HostPhysAddr,
    /// The host's pointer to it, if the frames are the host's.
    pub(crate) pointer: Option<*mut u8>,
    /// Bytes from there on, no more than asked for.
    pub(crate) bytes: u64,
}

/// What tells that a 4 KiB leaf needs no closer look for an access.
#[derive(Clone, Copy, Debug)]
pub(super) struct Plain {
    /// The bits that say so.
    mask: u64,
    /// What they are then.
    value: u64,
}

impl Plain {
    /// For each set of the bits of `READ` and `WRITE`; none passes for no access at all.
    pub(super) fn all<F: Format>(format: &F) -> [Self; 4] {
        [0, 1, 2, 3].map(|bits| Self::new(format, MappingFlags::from_bits_truncate(bits)))
    }

    fn new<F: Format>(format: &F, access: MappingFlags) -> Self {
        if access.is_empty() {
            return Self { mask: 0, value: 1 };
        }
        let leaf = |flags| format.leaf(0, HostPhysAddr::new(0), flags);
        // Leaves with more permissions are as good, so what differs between them says nothing. Everything else has to be as
        // in a leaf of write-back memory.
        let more = (0..16).map(MappingFlags::from_bits_truncate).filter(|flags| flags.contains(access));
        let any = more.fold(0, |any, flags| any | leaf(flags) ^ leaf(access));
        let marked = marks(format, access);
        // What the log knows is of no interest: a leaf from which it holds the permission back lacks that.
        let all_marks = format.accessed_bit() | format.log_bit();
        Self {
            mask: !(F::ADDRESS | any | all_marks) | marked,
            value: leaf(access) & !(F::ADDRESS | any | all_marks) | marked | F::OWNED,
        }
    }
}

/// The bits that are set in a leaf when `access` uses it.
fn marks<F: Format>(format: &F, access: MappingFlags) -> u64 {
    let dirty = if access.contains(MappingFlags::WRITE) { format.dirty_bit() } else { 0 };
    format.accessed_bit() | dirty
}

impl<H: Hal, F: Format> Table<H, F> {
    /// The entry of `gpa`, if it is the usual case: a 4 KiB leaf of write-back memory, the frame the space's own, which
    /// allows `access` (`READ`, `WRITE` or both; never for another one) and has all marks that it would leave.
    #[inline(always)]
    pub(crate) fn plain_page(&self, gpa: GuestPhysAddr, access: MappingFlags) -> Option<(Slot, u64)> {
        let plain = self.plain.get(usize::from(access.bits()))?;
        let slot = self.page_slot(gpa)?;
        let entry = slot.load();
        (entry & plain.mask == plain.value).then_some((slot, entry))
    }

    /// The bits that are set in a leaf when `access` uses it.
    pub(super) fn access_marks(&self, access: MappingFlags) -> u64 {
        marks(&self.format, access)
    }

    /// Whether a leaf lacks marks for which `access` faults.
    pub(crate) fn lacks_marks(&self, leaf: &Leaf, access: MappingFlags) -> bool {
        let written = access.contains(MappingFlags::WRITE);
        self.format.marks_by_fault() && !(leaf.accessed && (leaf.dirty || !written))
    }

    /// Sets the marks that an access faults for in the leaf of `gpa`, and makes this CPU forget that they were missing.
    /// Returns whether they were.
    #[cold]
    pub(crate) fn mark_by_fault(&self, gpa: GuestPhysAddr, access: MappingFlags) -> bool {
        let (slot, entry) = self.walk(gpa);
        let View::Leaf(leaf) = self.view(slot.level, slot.index, entry) else { return false };
        if !self.lacks_marks(&leaf, access) {
            return false;
        }
        if self.mark_leaf(slot, self.access_marks(access)) {
            self.invalidate_locally(gpa);
        }
        true
    }

    /// Sets `marks` in the leaf of `slot`; returns whether one is still there. Only faults run beside this; they may split a
    /// large leaf, and a table has no marks.
    pub(super) fn mark_leaf(&self, slot: Slot, marks: u64) -> bool {
        loop {
            let entry = slot.load();
            if self.format.kind(slot.level, entry) != Kind::Leaf {
                return false;
            }
            if entry & marks == marks || slot.compare_exchange(&self.hal, entry, entry | marks) {
                return true;
            }
        }
    }

    /// Where `most` bytes (at least 1) at `gpa`, an address inside of a region, are, as far as leaves of one table
    /// continue each other. `None` if no leaf is there that the guest could use for `access`. `foreign` says that the frames
    /// are not the host's own.
    pub(crate) fn reach(
        &self,
        gpa: GuestPhysAddr,
        most: u64,
        access: MappingFlags,
        foreign: bool,
    ) -> Option<Reached> {
        let (slot, entry) = self.walk(gpa);
        let View::Leaf(leaf) = self.view(slot.level, slot.index, entry) else { return None };
        if access.contains(MappingFlags::WRITE) && !leaf.flags.contains(MappingFlags::WRITE) {
            return None;
        }
        let offset = gpa.as_u64() & (level_bytes(slot.level) - 1);
        let hpa = HostPhysAddr::new(leaf.hpa.as_u64() + offset);
        let pointer = (!foreign).then(|| self.hal.phys_to_virt(hpa));
        let bytes = self.run((slot, entry), offset, most, self.marks(), pointer);
        Some(Reached { slot, offset, hpa, pointer, bytes })
    }

    /// Bytes from `offset` in the leaf of `slot` on to the end of the last leaf of its table that continues it, but no
    /// more than `most`. Leaves may differ in `marks`. Where the host has a pointer to the first byte, its pointers continue
    /// each other as well.
    #[inline]
    pub(crate) fn run(
        &self,
        (slot, entry): (Slot, u64),
        offset: u64,
        most: u64,
        marks: u64,
        pointer: Option<*mut u8>,
    ) -> u64 {
        let step = level_bytes(slot.level);
        let single = |index, entry| self.format.single(index, entry);
        let (mut bytes, mut expected, mut index) = (step - offset, single(slot.index, entry), slot.index);
        while bytes < most {
            index += 1;
            expected = expected.wrapping_add(step >> F::ADDRESS_SHIFT);
            if index == slot.entries.len()
                || (single(index, slot.entries.load(index)) ^ expected) & !marks != 0
            {
                break;
            }
            let next = |pointer: *mut u8| {
                self.hal.phys_to_virt(self.format.address(expected)) == pointer.wrapping_add(bytes as usize)
            };
            if !pointer.is_none_or(next) {
                break;
            }
            bytes += step;
        }
        bytes.min(most)
    }

    /// Marks the leaves of `reached` as accessed, and as dirty if `access` has `WRITE`, as the CPU would: before the data
    /// is written, so that a mark is never late. Returns `false` if one of them is there no more.
    pub(crate) fn mark(&self, reached: &Reached, access: MappingFlags) -> bool {
        let marks = self.access_marks(access);
        if marks == 0 {
            return true;
        }
        let leaves = (reached.offset + reached.bytes).div_ceil(level_bytes(reached.slot.level));
        let mut indices = (reached.slot.index..).take(leaves as usize);
        indices.all(|index| self.mark_leaf(Slot { index, ..reached.slot }, marks))
    }
}
