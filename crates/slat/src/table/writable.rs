//! Giving a leaf the permission to write that its region has: it lacks it while writes are logged, or while its frame is
//! shared.

use super::{Leaf, Soft, Table, View};
use crate::addr::GuestPhysAddr;
use crate::flags::MappingFlags;
use crate::format::Format;
use crate::hal::Hal;

/// What became of a leaf to which the guest writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum MadeWritable {
    /// It was writable.
    Already,
    /// It is now.
    Now,
}

impl<H: Hal, F: Format> Table<H, F> {
    /// Gives the leaf of `gpa`, if there is one, the flags `flags` of its region, which allow to write, if it cannot be
    /// written to. Beside other faults and the hardware. The CPU that faulted has to forget that it was refused.
    #[cold]
    pub(crate) fn make_writable(&self, gpa: GuestPhysAddr, flags: MappingFlags) -> MadeWritable {
        loop {
            let (slot, entry) = self.walk(gpa);
            // The latter if it could only be written to, and was shared.
            let (View::Leaf(leaf) | View::Soft(Soft::NoAccess(leaf))) = self.view(slot.level, entry) else {
                return MadeWritable::Already;
            };
            if leaf.flags.contains(MappingFlags::WRITE) {
                return MadeWritable::Already;
            }
            let writable = self.encode(slot.level, Leaf { flags, ..leaf });
            if slot.compare_exchange(&self.hal, entry, writable) {
                return MadeWritable::Now;
            }
        }
    }
}
