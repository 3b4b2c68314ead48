//! Finding what the host has to touch where it accesses memory of the guest itself, and leaving the marks there that the
//! CPU would leave for the guest.

use super::{Slot, Table, View};
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

impl<H: Hal, F: Format> Table<H, F> {
    /// The host physical address of `gpa` and its entry, if it is the usual case: a 4 KiB leaf of write-back memory, the
    /// frame the space's own, which allows `access` (`READ`, `WRITE` or both) and has all marks that it would leave.
    #[inline(always)]
    pub(crate) fn plain_page(&self, gpa: GuestPhysAddr, access: MappingFlags) -> Option<(Slot, u64)> {
        let slot = self.page_slot(gpa)?;
        let entry = slot.load();
        let needed = F::OWNED | self.access_marks(access);
        let judged = access | MappingFlags::DEVICE | MappingFlags::UNCACHED;
        let plain = entry & needed == needed
            && self.format.kind(0, entry) == Kind::Leaf
            && self.format.flags(entry) & judged == access;
        plain.then_some((slot, entry))
    }

    /// The bits that the hardware sets in a leaf for `access`.
    #[inline(always)]
    fn access_marks(&self, access: MappingFlags) -> u64 {
        let dirty = if access.contains(MappingFlags::WRITE) { self.format.dirty_bit() } else { 0 };
        self.format.accessed_bit() | dirty
    }

    /// Where `most` bytes (at least 1) at `gpa`, an address inside of a region, are, as far as leaves of one table
    /// continue each other. `None` if no leaf is there that the guest could use. `foreign` says that the frames are not the
    /// host's own.
    pub(crate) fn reach(&self, gpa: GuestPhysAddr, most: u64, foreign: bool) -> Option<Reached> {
        let (slot, entry) = self.walk(gpa);
        let View::Leaf(leaf) = self.view(slot.level, entry) else { return None };
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
        let (mut bytes, mut expected, mut index) = (step - offset, entry, slot.index);
        while bytes < most {
            index += 1;
            expected = expected.wrapping_add(step >> F::ADDRESS_SHIFT);
            if index == slot.entries.len() || (slot.entries.load(index) ^ expected) & !marks != 0 {
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
    /// is written, so that a mark is never late.
    pub(crate) fn mark(&self, reached: &Reached, access: MappingFlags) {
        let marks = self.access_marks(access);
        if marks == 0 {
            return;
        }
        let leaves = (reached.offset + reached.bytes).div_ceil(level_bytes(reached.slot.level));
        for index in (reached.slot.index..).take(leaves as usize) {
            // Only faults run beside this, and they leave present leaves alone.
            if reached.slot.entries.load(index) & marks != marks {
                reached.slot.entries.set_bits(&self.hal, index, marks);
            }
        }
    }
}
