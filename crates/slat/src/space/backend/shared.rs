//! Memory that several spaces map.
//!
//! A [`SharedMemory`] lives in a frame of its host, so that no heap is needed, with a table that no CPU ever walks: it
//! keeps the frames by their offset. **Invariant:** handles and spaces that map any of it are counted, and the last one to
//! let go gives everything back; a space lets go only after its CPUs were told to forget the frames.

#![expect(unsafe_code, reason = "keeps counted memory in a frame of the host")]

use super::OFFSET_LIMIT;
use crate::addr::{GuestPhysAddr, GuestPhysRange, HostPhysAddr, PAGE_SIZE};
use crate::flags::{LeafSize, MappingFlags, level_bytes};
use crate::format::npt::{Capabilities, Npt};
use crate::format::{CacheEvent, Format};
use crate::frame::OwnedFrames;
use crate::hal::Hal;
use crate::space::Region;
use crate::sync::{AtomicU64, Ordering, fence};
use crate::table::{OutOfMemory, Part, Populated, Refused, Source, Supplier, Table, Want};
use core::fmt;
use core::ptr::NonNull;
use thiserror::Error;

/// Why a shared memory could not be made or filled.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum SharedMemoryError {
    /// The size is zero, no multiple of 4 KiB, or more than 256 TiB.
    #[error("{0:#x} bytes cannot be shared: the size must be a multiple of 4 KiB up to 256 TiB")]
    BadSize(u64),
    /// The host has no frame left.
    #[error("out of memory")]
    OutOfMemory,
}

/// What a frame of the host keeps for all who hold the memory.
pub(in crate::space) struct Inner<H: Hal> {
    /// Frames by offset.
    table: Table<H, Npt>,
    size: u64,
    /// The frame that this stands in.
    frame: HostPhysAddr,
    /// Handles, and spaces that map any of it.
    holders: AtomicU64,
}

/// Memory that several spaces can map with [`map_shared`](crate::AddrSpace::map_shared), and that lives as long as
/// anybody holds it: a handle like this one, or a space that maps some of it. Cloning it makes another handle.
///
/// Frames are zeroed and taken from the host that it was made with, each when it is first needed, whichever space that
/// is for; in runs of 2 MiB where the host has them. Only spaces on that host can map it.
///
/// ```
/// use slat::{AddrSpace, GuestPhysAddr, MappingFlags, SharedMemory, test_util::HeapHal};
///
/// let host = HeapHal::new();
/// let ring = SharedMemory::new(&host, 0x4000)?;
/// let rw = MappingFlags::READ | MappingFlags::WRITE;
/// let space = |tag| AddrSpace::<&HeapHal>::with_format(&host, Default::default(), GuestPhysAddr::new(0), 1 << 30, tag);
/// let (mut one, mut other) = (space(1)?, space(2)?);
/// one.map_shared(GuestPhysAddr::new(0x1000), &ring, 0, 0x4000, rw, true)?;
/// other.map_shared(GuestPhysAddr::new(0x9000), &ring, 0x2000, 0x2000, MappingFlags::READ, false)?; // on first use
/// other.handle_page_fault(GuestPhysAddr::new(0x9000), MappingFlags::READ)?;
/// assert_eq!(one.translate(GuestPhysAddr::new(0x3000)), other.translate(GuestPhysAddr::new(0x9000)));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub struct SharedMemory<H: Hal> {
    inner: NonNull<Inner<H>>,
}

// SAFETY: handles and spaces on several threads use the host behind it at once, and the last of them drops it.
unsafe impl<H: Hal + Send + Sync> Send for SharedMemory<H> {}
// SAFETY: as above; a handle itself is only an address.
unsafe impl<H: Hal + Send + Sync> Sync for SharedMemory<H> {}

/// What keeps the frames: nothing but addresses matter, so any format would do.
const KEEPER: Npt = {
    let capabilities =
        Capabilities { physical_bits: 52, leaf_1g: false, no_execute: true, asids: 1, accessed_dirty: false };
    match Npt::new(capabilities, 4) {
        Ok(format) => format,
        Err(_) => unreachable!(),
    }
};

impl<H: Hal> SharedMemory<H> {
    /// Shared memory of `size` bytes, a multiple of 4 KiB up to 256 TiB, on `hal`. Takes two frames for itself, and
    /// those of the memory when they are needed.
    ///
    /// # Errors
    /// [`SharedMemoryError`].
    pub fn new(hal: H, size: u64) -> Result<Self, SharedMemoryError> {
        const { assert!(size_of::<Inner<H>>() <= PAGE_SIZE as usize, "the host is larger than a frame") };
        if size == 0 || size % PAGE_SIZE != 0 || size > OFFSET_LIMIT {
            return Err(SharedMemoryError::BadSize(size));
        }
        let table = Table::new_unwalked(hal, KEEPER).ok_or(SharedMemoryError::OutOfMemory)?;
        let frame = OwnedFrames::alloc(table.hal(), 1, 1).ok_or(SharedMemoryError::OutOfMemory)?.into_raw();
        let Some(inner) = NonNull::new(table.hal().phys_to_virt(frame).cast::<Inner<H>>()) else {
            unreachable!("a frame has a pointer that is not null")
        };
        // SAFETY: the frame was just taken, is as large as that (asserted above) and aligned to 4 KiB.
        unsafe { inner.write(Inner { table, size, frame, holders: AtomicU64::new(1) }) };
        Ok(Self { inner })
    }

    /// Size in bytes.
    #[must_use]
    pub fn size(&self) -> u64 {
        self.inner().size
    }

    /// Frames of 4 KiB that it has taken until now, its own two and those of its tables included. One pass over them.
    #[must_use]
    pub fn frames(&self) -> u64 {
        let census = self.inner().table.census();
        1 + census.table_frames + census.owned_frames
    }

    /// Takes all frames that are missing now, so that no fault has to.
    ///
    /// # Errors
    /// [`SharedMemoryError::OutOfMemory`]; what was taken before stays.
    pub fn populate(&self) -> Result<(), SharedMemoryError> {
        let inner = self.inner();
        inner.populate(0, inner.size).map_err(|OutOfMemory| SharedMemoryError::OutOfMemory)
    }

    pub(in crate::space) fn inner(&self) -> &Inner<H> {
        // SAFETY: `new` made it, and it stays until the last holder, of which this is one, lets go.
        unsafe { self.inner.as_ref() }
    }

    /// The host that it was made with.
    pub(in crate::space) fn host(&self) -> &H {
        self.inner().table.hal()
    }

    /// The address by which a space remembers it.
    pub(super) fn inner_pointer(&self) -> NonNull<Inner<H>> {
        self.inner
    }
}

impl<H: Hal> Clone for SharedMemory<H> {
    fn clone(&self) -> Self {
        self.inner().hold();
        Self { inner: self.inner }
    }
}

impl<H: Hal> Drop for SharedMemory<H> {
    fn drop(&mut self) {
        // SAFETY: this handle is a holder, and lets go once.
        unsafe { Inner::let_go(self.inner) };
    }
}

impl<H: Hal> fmt::Debug for SharedMemory<H> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SharedMemory").field("size", &self.size()).finish_non_exhaustive()
    }
}

impl<H: Hal> Inner<H> {
    /// One more holder, beside one that is there.
    pub(super) fn hold(&self) {
        self.holders.fetch_add(1, Ordering::Relaxed);
    }

    /// One holder less; the last one gives everything back to the host.
    ///
    /// # Safety
    /// The caller is a holder and does not use the memory any more; no CPU can reach a frame through the caller.
    pub(super) unsafe fn let_go(this: NonNull<Self>) {
        // SAFETY: the caller holds it until the next line.
        let holders = unsafe { &this.as_ref().holders };
        if holders.fetch_sub(1, Ordering::Release) > 1 {
            return;
        }
        // What the others did with it comes before the end.
        fence(Ordering::Acquire);
        // SAFETY: nobody else holds it any more, so this is the only copy that is ever used again.
        let inner = unsafe { this.read() };
        // SAFETY: the frame was taken from this host in `new`; what stood in it has just moved out.
        unsafe { inner.table.hal().dealloc_frames(inner.frame, 1) };
    }

    /// Calls `visit` for the frames that no space maps.
    pub(super) fn visit_own_frames(&self, visit: &mut dyn FnMut(HostPhysAddr, usize)) {
        visit(self.frame, 1);
        self.table.inventory(&mut |part| {
            if let Part::Frames(start, count) = part {
                visit(start, count);
            }
        });
    }

    /// Takes the frames of `size` bytes at `offset`, both multiples of 4 KiB inside.
    pub(in crate::space) fn populate(&self, offset: u64, size: u64) -> Result<(), OutOfMemory> {
        let (mut at, end) = (offset, offset + size);
        while at < end {
            let leaf = self.frames_at(at)?;
            let bytes = level_bytes(leaf.level);
            at = (at & !(bytes - 1)) + bytes;
        }
        Ok(())
    }

    /// The frames around `offset`, a multiple of 4 KiB inside; taken now if they are missing.
    fn frames_at(&self, offset: u64) -> Result<Kept, OutOfMemory> {
        let gpa = GuestPhysAddr::new(offset);
        let Ok(all) = GuestPhysRange::new(GuestPhysAddr::new(0), self.size) else { return Err(OutOfMemory) };
        let largest = LeafSize::Size2M;
        let want = Want { gpa, region: all, flags: MappingFlags::READ | MappingFlags::WRITE, largest };
        match self.table.populate(&want, MappingFlags::empty(), &mut |_, _| {}) {
            Ok(Populated::New(_) | Populated::Present(_) | Populated::Woken(_)) => {
                self.kept(offset).ok_or(OutOfMemory)
            }
            // Nothing is ever taken out of this table, and its source is the host alone.
            Ok(Populated::Unsettled) | Err(_) => Err(OutOfMemory),
        }
    }

    /// The frames around `offset`, if they were taken.
    fn kept(&self, offset: u64) -> Option<Kept> {
        let page = GuestPhysRange::new(GuestPhysAddr::new(offset), PAGE_SIZE).ok()?;
        let leaf = self.table.leaves(page).next()?;
        let inside = offset - leaf.gpa.as_u64();
        Some(Kept { level: leaf.size.level(), hpa: leaf.hpa.checked_add(inside)? })
    }
}

/// Frames of a shared memory.
#[derive(Clone, Copy, Debug)]
struct Kept {
    /// The level of a leaf that would hold all of the run that they belong to.
    level: u8,
    /// The host physical address of the offset that was asked for.
    hpa: HostPhysAddr,
}

impl Kept {
    /// The largest level up to `most` of a leaf for `gpa` that lies in `range` and in the run.
    fn level_for(&self, gpa: GuestPhysAddr, range: GuestPhysRange, most: u8) -> u8 {
        let fits = |level: &u8| {
            let bytes = level_bytes(*level);
            let alike = gpa.as_u64() & (bytes - 1) == self.hpa.as_u64() & (bytes - 1);
            let block = GuestPhysRange::new(gpa.align_down(bytes), bytes);
            alike && block.is_ok_and(|block| range.contains_range(block))
        };
        (0..=self.level.min(most)).rev().find(fits).unwrap_or(0)
    }
}

/// The frames of a shared memory that a fault of one space needs.
pub(in crate::space) struct Shared<'s, H: Hal, F: Format> {
    pub(in crate::space) table: &'s Table<H, F>,
    pub(in crate::space) memory: &'s Inner<H>,
    pub(in crate::space) region: Region,
    /// Bytes from the beginning of the memory to that of the region.
    pub(in crate::space) offset: u64,
    /// The page that faulted.
    pub(in crate::space) gpa: GuestPhysAddr,
}

impl<H: Hal, F: Format> Shared<'_, H, F> {
    /// The frames around the page that faulted.
    fn kept(&self) -> Result<Kept, OutOfMemory> {
        let inside = self.gpa.align_down(PAGE_SIZE).as_u64() - self.region.range.start().as_u64();
        self.memory.frames_at(self.offset + inside)
    }

    /// The frame of the page that faulted.
    pub(super) fn frame(&self) -> Result<HostPhysAddr, OutOfMemory> {
        Ok(self.kept()?.hpa)
    }
}

impl<H: Hal, F: Format> Supplier for Shared<'_, H, F> {
    const OWNED: bool = false;
    type Frames = HostPhysAddr;

    fn take(&mut self, most: u8) -> Result<(u8, Self::Frames), Refused> {
        let gpa = self.gpa.align_down(PAGE_SIZE);
        let kept = self.kept()?;
        let most = most.min(self.table.format().largest_leaf().level());
        let level = kept.level_for(gpa, self.region.range, most);
        let start = kept.hpa.align_down(level_bytes(level));
        self.table.maintain(level, start, &[CacheEvent::ToGuest(self.region.flags)]);
        Ok((level, start))
    }

    fn start(frames: &Self::Frames) -> HostPhysAddr {
        *frames
    }

    fn keep(_frames: Self::Frames) {}
}

/// The frames of a shared memory, all there, that are mapped at once.
pub(in crate::space) struct SharedRun<'s, H: Hal, F: Format> {
    pub(in crate::space) table: &'s Table<H, F>,
    pub(in crate::space) memory: &'s Inner<H>,
    pub(in crate::space) range: GuestPhysRange,
    pub(in crate::space) offset: u64,
    pub(in crate::space) flags: MappingFlags,
}

impl<H: Hal, F: Format> SharedRun<'_, H, F> {
    fn kept(&self, gpa: GuestPhysAddr) -> Option<Kept> {
        self.memory.kept(self.offset + (gpa.as_u64() - self.range.start().as_u64()))
    }
}

impl<H: Hal, F: Format> Source for SharedRun<'_, H, F> {
    const OWNED: bool = false;

    fn plan(&mut self, level: u8, gpa: GuestPhysAddr) -> bool {
        self.kept(gpa).is_some_and(|kept| kept.level_for(gpa, self.range, level) == level)
    }

    fn plan_pages(&mut self, _range: GuestPhysRange) -> Result<(), OutOfMemory> {
        Ok(())
    }

    fn run(&mut self, _level: u8, _range: GuestPhysRange) -> Option<(HostPhysAddr, usize)> {
        None
    }

    fn next(&mut self, level: u8, gpa: GuestPhysAddr) -> Option<HostPhysAddr> {
        let kept = self.kept(gpa)?;
        if kept.level_for(gpa, self.range, level) != level {
            return None;
        }
        self.table.maintain(level, kept.hpa, &[CacheEvent::ToGuest(self.flags)]);
        Some(kept.hpa)
    }
}
