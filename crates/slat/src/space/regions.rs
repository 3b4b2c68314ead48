//! The regions of a space: what is mapped where, by which backend, with which flags.
//!
//! Sorted by address in frames of the host, so that a space needs no heap. Finding is a binary search; inserting
//! and removing move the regions behind by one `memmove`. **Invariant:** regions never overlap, and neighbours that
//! could be one region are one.

#![expect(unsafe_code, reason = "keeps the regions in frames of the host")]

use crate::addr::{GuestPhysAddr, GuestPhysRange, HostPhysAddr, PAGE_SIZE};
use crate::flags::{LeafSize, MappingFlags};
use crate::hal::Hal;
use crate::table::OutOfMemory;

/// Where the frames of a region come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Backend {
    /// A run of host physical memory of the caller.
    Linear {
        /// Host physical address of the region's first byte.
        hpa: HostPhysAddr,
    },
    /// Frames taken from the host, at once or on the first access, and given back with the region.
    Alloc {
        /// The largest leaf to use.
        largest_leaf: LeafSize,
        /// What a fault populates, if that is more than a leaf.
        fault_around: LeafSize,
    },
}

/// A range of guest-physical addresses with one backend and one set of flags.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Region {
    /// The addresses.
    pub range: GuestPhysRange,
    /// What the guest may do, and the memory type.
    pub flags: MappingFlags,
    /// Where the frames come from.
    pub backend: Backend,
}

impl Region {
    /// The part of this region that lies in `range`.
    pub(crate) fn part(&self, range: GuestPhysRange) -> Option<Self> {
        let part = self.range.intersection(range)?;
        let backend = match self.backend {
            Backend::Linear { hpa } => {
                let offset = part.start().as_u64() - self.range.start().as_u64();
                Backend::Linear { hpa: HostPhysAddr::new(hpa.as_u64() + offset) }
            }
            alloc @ Backend::Alloc { .. } => alloc,
        };
        Some(Self { range: part, backend, ..*self })
    }

    /// This region and `next`, if the two are really one.
    fn joined(&self, next: &Self) -> Option<Self> {
        if self.range.end() != next.range.start() || self.flags != next.flags {
            return None;
        }
        let continues = match (self.backend, next.backend) {
            (Backend::Linear { hpa }, Backend::Linear { hpa: other }) => {
                hpa.checked_add(self.range.size()) == Some(other)
            }
            (one, other) => one == other,
        };
        continues.then(|| Self { range: self.range.hull(next.range), ..*self })
    }
}

/// The regions of a space.
pub(crate) struct Regions {
    start: HostPhysAddr,
    base: *mut Region,
    frames: usize,
    len: usize,
}

// SAFETY: `base` points to frames that only this value uses; it is a plain owned buffer.
unsafe impl Send for Regions {}
// SAFETY: `&Regions` only reads.
unsafe impl Sync for Regions {}

impl Regions {
    /// No region, no memory.
    pub(crate) const fn new() -> Self {
        Self { start: HostPhysAddr::new(0), base: core::ptr::null_mut(), frames: 0, len: 0 }
    }

    fn capacity(&self) -> usize {
        self.frames * PAGE_SIZE as usize / size_of::<Region>()
    }

    pub(crate) fn as_slice(&self) -> &[Region] {
        if self.len == 0 {
            return &[];
        }
        // SAFETY: the first `len` regions behind `base` were written and belong to this value alone.
        unsafe { core::slice::from_raw_parts(self.base, self.len) }
    }

    /// Frames of 4 KiB that the regions take.
    pub(crate) fn frames(&self) -> usize {
        self.frames
    }

    /// The region that contains `gpa`. Logarithmic.
    pub(crate) fn find(&self, gpa: GuestPhysAddr) -> Option<&Region> {
        let after = self.as_slice().partition_point(|region| region.range.start() <= gpa);
        self.as_slice().get(after.checked_sub(1)?).filter(|region| region.range.contains(gpa))
    }

    /// The regions that overlap `range`. Logarithmic.
    pub(crate) fn overlapping(&self, range: GuestPhysRange) -> &[Region] {
        let slice = self.as_slice();
        let first = slice.partition_point(|region| region.range.end() <= range.start());
        let last = slice.partition_point(|region| region.range.start() < range.end());
        slice.get(first..last).unwrap_or(&[])
    }

    /// The first address of `range` that no region covers.
    pub(crate) fn first_hole(&self, range: GuestPhysRange) -> Option<GuestPhysAddr> {
        let mut covered = range.start();
        for region in self.overlapping(range) {
            if region.range.start() > covered {
                return Some(covered);
            }
            covered = region.range.end();
        }
        (covered < range.end()).then_some(covered)
    }

    /// Makes room for `extra` more regions, so that adding them cannot fail.
    pub(crate) fn reserve<H: Hal>(&mut self, hal: &H, extra: usize) -> Result<(), OutOfMemory> {
        if self.len + extra <= self.capacity() {
            return Ok(());
        }
        let needed = (self.len + extra) * size_of::<Region>();
        let frames = needed.div_ceil(PAGE_SIZE as usize).max(2 * self.frames);
        let start = hal.alloc_frames(frames, 1).ok_or(OutOfMemory)?;
        let base = hal.phys_to_virt(start).cast::<Region>();
        if self.len > 0 {
            // SAFETY: both buffers hold at least `len` regions, are page aligned, and the new one is not the old.
            unsafe { core::ptr::copy_nonoverlapping(self.base, base, self.len) };
        }
        let old = core::mem::replace(self, Self { start, base, frames, len: self.len });
        old.free(hal);
        Ok(())
    }

    fn free<H: Hal>(self, hal: &H) {
        if self.frames > 0 {
            // SAFETY: the buffer was taken from this host in one run, and `self` was its only user.
            unsafe { hal.dealloc_frames(self.start, self.frames) };
        }
    }

    /// Gives the memory back.
    pub(crate) fn clear<H: Hal>(&mut self, hal: &H) {
        core::mem::replace(self, Self::new()).free(hal);
    }

    /// Adds a region in a hole and joins it with its neighbours; room was reserved.
    pub(crate) fn insert(&mut self, region: Region) {
        let index = self.as_slice().partition_point(|other| other.range.start() < region.range.start());
        self.splice(index, 0, &[region]);
        self.join_at(index + 1);
        self.join_at(index);
    }

    /// Replaces what the regions say about `range`, which they cover, by `change` of each part; room for two more
    /// was reserved.
    pub(crate) fn update(&mut self, range: GuestPhysRange, mut change: impl FnMut(Region) -> Option<Region>) {
        self.cut_at(range.start());
        self.cut_at(range.end());
        let first = self.as_slice().partition_point(|region| region.range.end() <= range.start());
        let mut index = first;
        while let Some(&region) = self.as_slice().get(index) {
            if region.range.start() >= range.end() {
                break;
            }
            match change(region) {
                Some(region) => {
                    self.splice(index, 1, &[region]);
                    index += 1;
                }
                None => self.splice(index, 1, &[]),
            }
        }
        for index in (first..=index).rev() {
            self.join_at(index);
        }
    }

    /// Splits the region around `gpa` so that one begins there.
    fn cut_at(&mut self, gpa: GuestPhysAddr) {
        let index = self.as_slice().partition_point(|region| region.range.end() <= gpa);
        let Some(region) = self.as_slice().get(index).copied() else { return };
        let halves = (
            GuestPhysRange::between(region.range.start(), gpa).and_then(|range| region.part(range)),
            GuestPhysRange::between(gpa, region.range.end()).and_then(|range| region.part(range)),
        );
        if let (Some(below), Some(above)) = halves {
            self.splice(index, 1, &[below, above]);
        }
    }

    /// Joins the regions before and at `index` if they are one.
    fn join_at(&mut self, index: usize) {
        let Some(before) = index.checked_sub(1) else { return };
        let pair = (self.as_slice().get(before), self.as_slice().get(index));
        if let (Some(a), Some(b)) = pair {
            if let Some(joined) = a.joined(b) {
                self.splice(before, 2, &[joined]);
            }
        }
    }

    /// Replaces `remove` regions from `index` on by `insert`.
    fn splice(&mut self, index: usize, remove: usize, insert: &[Region]) {
        let new_len = self.len - remove + insert.len();
        assert!(
            index + remove <= self.len && new_len <= self.capacity(),
            "room for regions was not reserved"
        );
        let tail = self.len - index - remove;
        // SAFETY: `index` is at most `len`, inside the buffer.
        let at = unsafe { self.base.add(index) };
        // SAFETY: source and target of the tail lie within the capacity, by the assertion; `copy` allows overlap.
        unsafe { core::ptr::copy(at.wrapping_add(remove), at.wrapping_add(insert.len()), tail) };
        // SAFETY: the gap has room for `insert`, which is not part of the buffer (`&mut self` is held).
        unsafe { core::ptr::copy_nonoverlapping(insert.as_ptr(), at, insert.len()) };
        self.len = new_len;
    }
}
