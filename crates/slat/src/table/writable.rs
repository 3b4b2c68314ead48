//! Giving a leaf the permission to write that its region has: it lacks it while writes are logged, or while its frame is
//! shared.

use super::{Leaf, LogUnit, Soft, Table, View};
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
    /// written to. A clean large leaf whose log is of pages is split first, if there is a frame for the table; where there is
    /// none, all of it is dirty then. `access` is what the guest does. Beside other faults and the hardware. The CPU that
    /// faulted has to forget that it was refused.
    #[cold]
    pub(crate) fn make_writable(
        &self,
        gpa: GuestPhysAddr,
        flags: MappingFlags,
        log: Option<LogUnit>,
        access: MappingFlags,
    ) -> MadeWritable {
        loop {
            let (slot, entry) = self.walk(gpa);
            // The latter if it could only be written to, and was shared.
            let (View::Leaf(leaf) | View::Soft(Soft::NoAccess(leaf))) =
                self.view(slot.level, slot.index, entry)
            else {
                return MadeWritable::Already;
            };
            if leaf.flags.contains(MappingFlags::WRITE) {
                return MadeWritable::Already;
            }
            let split = slot.level > 0 && log == Some(LogUnit::Page) && !self.is_dirty(&leaf);
            if split && self.split_by_fault(gpa, slot, entry, leaf, flags) {
                continue;
            }
            // That a page was written to is for the hardware to say, where it does: it may keep a list of what it marks.
            let writable = self.encode(slot.level, Leaf { flags, clean: false, ..leaf });
            let writable = writable | self.first_marks(access);
            if slot.compare_exchange(&self.hal, entry, writable) {
                return MadeWritable::Now;
            }
        }
    }
}
