//! What a contender has to do.

use crate::measure::Sample;
use crate::work::{Sizes, Work};

/// A guest-physical address space or page table, empty at first. All sizes and addresses are in bytes and multiples
/// of 4 KiB; failures panic.
pub(crate) trait Contender: Sized {
    /// The name in the table, crate and version.
    const NAME: &'static str;
    /// The name at the head of a column.
    const SHORT: &'static str;
    /// Whether [`fault_shared`](Self::fault_shared) exists; others are put behind a spin lock.
    const CONCURRENT: bool = false;
    /// Whether [`new_marked`](Self::new_marked) and [`protect_atomic`](Self::protect_atomic) exist.
    const ATOMIC_PROTECT: bool = false;
    /// Whether it knows regions and not only a table.
    const HAS_REGIONS: bool = false;
    /// The same contender on a host that zeroes frames, for works with zeroed frames.
    type OnZeroingHost: Contender;

    /// Whether the contender can do this at all.
    fn can(work: Work) -> bool;

    /// An empty one.
    fn new() -> Self;

    /// An empty one whose leaves the hardware marks as accessed and dirty.
    fn new_marked() -> Self {
        Self::new()
    }

    /// Maps a range linearly in the largest leaves that both addresses allow.
    fn map(&mut self, gpa: u64, hpa: u64, bytes: u64);

    /// The host physical address of `gpa`.
    fn translate(&self, gpa: u64) -> Option<u64>;

    /// Reads the 8 bytes at `gpa`, a multiple of 8 in memory that is populated.
    fn read_obj(&self, _gpa: u64) -> u64 {
        unreachable!("{} does not read guest memory", Self::NAME)
    }

    /// Copies memory that is populated, from `gpa` on, into `to`.
    fn copy(&self, _gpa: u64, _to: &mut [u8]) {
        unreachable!("{} does not copy guest memory", Self::NAME)
    }

    /// Maps a range to memory of its own, in leaves of 2 MiB.
    fn populate_large(&mut self, _gpa: u64, _bytes: u64) {
        unreachable!("{} has no large leaves of its own", Self::NAME)
    }

    /// As [`copy`](Self::copy), of a range that [`populate_large`](Self::populate_large) mapped.
    fn copy_large(&self, gpa: u64, to: &mut [u8]) {
        self.copy(gpa, to);
    }

    /// Declares a range to be populated page by page.
    fn declare(&mut self, _gpa: u64, _bytes: u64) {}

    /// Populates the page of `gpa`, which is inside a declared range and absent, in a 4 KiB leaf.
    fn fault(&mut self, gpa: u64);

    /// As [`fault`](Self::fault), the frame zeroed. For contenders that zero it themselves, or whose
    /// [`OnZeroingHost`](Self::OnZeroingHost) does, this is the same.
    fn fault_zeroed(&mut self, gpa: u64) {
        self.fault(gpa);
    }

    /// As [`fault`](Self::fault), beside other threads.
    fn fault_shared(&self, _gpa: u64) {
        unreachable!("{} has no concurrent faults", Self::NAME)
    }

    /// Populates a range with zeroed frames in 4 KiB leaves.
    fn populate(&mut self, gpa: u64, bytes: u64);

    /// Makes a range, which is mapped readable and writable, read-only.
    fn protect(&mut self, _gpa: u64, _bytes: u64) {
        unreachable!("{} cannot protect", Self::NAME)
    }

    /// As [`protect`](Self::protect) on a [marked](Self::new_marked) one: no accessed or dirty bit that the hardware
    /// sets meanwhile is lost.
    fn protect_atomic(&mut self, _gpa: u64, _bytes: u64) {
        unreachable!("{} cannot protect beside the hardware", Self::NAME)
    }

    /// Unmaps a range that was mapped linearly.
    fn unmap(&mut self, gpa: u64, bytes: u64);

    /// Unmaps a range that was populated in 4 KiB leaves, and gives its frames back to the host.
    fn unmap_free(&mut self, gpa: u64, bytes: u64);

    /// Unmaps one 4 KiB page in the middle of a leaf of 1 GiB; the rest of the leaf stays mapped.
    fn unmap_inside(&mut self, gpa: u64) {
        self.unmap(gpa, 4096);
    }

    /// Maps a range as one region of many.
    fn map_region(&mut self, gpa: u64, hpa: u64, bytes: u64) {
        self.map(gpa, hpa, bytes);
    }

    /// Removes a region of [`map_region`](Self::map_region).
    fn unmap_region(&mut self, gpa: u64, bytes: u64) {
        self.unmap(gpa, bytes);
    }

    /// Runs a work of [sharing](Work::is_sharing).
    fn share(_work: Work, _sizes: &Sizes) -> Option<Sample> {
        None
    }

    /// Frames of the host that hold the regions; others keep them on the heap.
    fn region_frames(&self) -> u64 {
        0
    }
}
