//! Regions whose frames are lent: shared memory and custom backends.
//!
//! **Invariant:** what a backend lent goes back to it after an invalidation, while the region still says where it came
//! from. So a change that takes such a region out settles its debt at once, also inside a batch.

#![expect(unsafe_code, reason = "gives frames back to the custom backend")]

use super::backend::{MOST_SHARED, OFFSET_LIMIT, SharedMemory, SharedRun, page_of};
use super::{AddrSpace, Backend, CustomBackend, Region};
use crate::addr::{GuestPhysAddr, GuestPhysRange, PAGE_SIZE};
use crate::error::MapError;
use crate::flags::{MappingFlags, level_bytes};
use crate::format::{CacheEvent, Format};
use crate::frame::FrameStack;
use crate::hal::Hal;
use crate::operation::Operation;
use crate::table::{Extent, Leaf, OutOfMemory, Ownership};
use log::debug;

impl<H: Hal, F: Format, B: CustomBackend> AddrSpace<H, F, B> {
    /// Maps `size` bytes at `gpa` to those of `memory` from `offset` on, all three multiples of 4 KiB: now if
    /// `populate` is set, else each page on the first access. Several spaces can map the same memory, each with flags
    /// of its own, and one space can map it several times. The memory lives as long as any of them maps it.
    ///
    /// Leaves of up to 2 MiB are used where `gpa`, `offset` and the frames allow it. Nothing is to be invalidated.
    ///
    /// # Errors
    /// [`MapError`]: a bad range, flags that the format cannot express, [`MapError::AlreadyMapped`],
    /// [`MapError::UnalignedOffset`], [`MapError::BeyondBackend`], [`MapError::TooManyShared`] (256 different ones),
    /// [`MapError::OtherHost`], [`MapError::OutOfMemory`]. Frames that the memory took meanwhile stay in it.
    pub fn map_shared(
        &mut self,
        gpa: GuestPhysAddr,
        memory: &SharedMemory<H>,
        offset: u64,
        size: u64,
        flags: MappingFlags,
        populate: bool,
    ) -> Result<(), MapError> {
        self.map_memory(gpa, memory, (offset, size), flags, Mapped::Shared { populate })
    }

    /// Maps `size` bytes at `gpa` to those of `memory` from `offset` on, all three multiples of 4 KiB, as a copy of its own:
    /// the guest reads the memory, whoever maps it besides, until it first writes to a page; that page is the space's own
    /// from then on, in a leaf of 4 KiB, and starts as what the memory holds at that moment. Nobody else sees what it writes;
    /// whether it sees what others write to pages that it has not written to is left open by what a copy is for.
    ///
    /// Takes no table; pages are mapped on the first access ([`populate`](Self::populate) maps all, for reading), in leaves of
    /// up to 2 MiB, one of which is split when a page of it is written to. Nothing is to be invalidated; a first write to a
    /// page that was read before takes one invalidation of that page on all CPUs
    /// ([`FaultOutcome::Copied`](crate::FaultOutcome::Copied)). [`discard`](Self::discard) drops the copies, so that the memory
    /// is seen again.
    ///
    /// ```
    /// # use slat::{AddrSpace, GuestPhysAddr, MappingFlags, SharedMemory, test_util::HeapHal};
    /// let host = HeapHal::new();
    /// let (image, rw) = (SharedMemory::new(&host, 0x4000)?, MappingFlags::READ | MappingFlags::WRITE);
    /// let space = |tag| AddrSpace::<&HeapHal>::with_format(&host, Default::default(), GuestPhysAddr::new(0), 1 << 30, tag);
    /// let (mut builder, mut guest) = (space(1)?, space(2)?);
    /// builder.map_shared(GuestPhysAddr::new(0), &image, 0, 0x4000, rw, true)?;
    /// builder.write_obj(GuestPhysAddr::new(0x1000), 7u64)?;
    ///
    /// let at = GuestPhysAddr::new(0x8000);
    /// guest.map_private(at, &image, 0x1000, 0x3000, rw)?;
    /// assert_eq!(guest.read_obj::<u64>(at)?, 7);
    /// guest.write_obj(at, 8u64)?;
    /// assert_eq!((guest.read_obj::<u64>(at)?, builder.read_obj::<u64>(GuestPhysAddr::new(0x1000))?), (8, 7));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// As [`map_shared`](Self::map_shared).
    pub fn map_private(
        &mut self,
        gpa: GuestPhysAddr,
        memory: &SharedMemory<H>,
        offset: u64,
        size: u64,
        flags: MappingFlags,
    ) -> Result<(), MapError> {
        self.map_memory(gpa, memory, (offset, size), flags, Mapped::Private)
    }

    fn map_memory(
        &mut self,
        gpa: GuestPhysAddr,
        memory: &SharedMemory<H>,
        (offset, size): (u64, u64),
        flags: MappingFlags,
        mapped: Mapped,
    ) -> Result<(), MapError> {
        let operation = match mapped {
            Mapped::Shared { .. } => Operation::MapShared,
            Mapped::Private => Operation::MapPrivate,
        };
        self.observed(operation, (gpa, size), move |space| {
            space.map_memory_unobserved(gpa, memory, (offset, size), flags, mapped)
        })
    }

    #[inline(always)]
    fn map_memory_unobserved(
        &mut self,
        gpa: GuestPhysAddr,
        memory: &SharedMemory<H>,
        (offset, size): (u64, u64),
        flags: MappingFlags,
        mapped: Mapped,
    ) -> Result<(), MapError> {
        let range = self.check_map(gpa, size, flags)?;
        check_offset(offset, size, memory.size())?;
        if !self.table.hal().is_same_host(memory.host()) {
            return Err(MapError::OtherHost);
        }
        let result = self.map_memory_checked(range, memory, offset, flags, mapped);
        self.shared.trim(self.table.hal());
        if result.is_ok() {
            let name = match mapped {
                Mapped::Shared { .. } => "map_shared",
                Mapped::Private => "map_private",
            };
            debug!("{name} {range} {flags} + {offset:#x}");
        }
        result
    }

    fn map_memory_checked(
        &mut self,
        range: GuestPhysRange,
        memory: &SharedMemory<H>,
        offset: u64,
        flags: MappingFlags,
        mapped: Mapped,
    ) -> Result<(), MapError> {
        let out_of_memory = |OutOfMemory| MapError::OutOfMemory;
        self.shared.reserve(self.table.hal()).map_err(out_of_memory)?;
        let too_many = MapError::TooManyShared { most: MOST_SHARED };
        let id = self.shared.number(memory).ok_or(too_many)?;
        if let Mapped::Shared { populate: true } = mapped {
            self.table.unshare(range, Extent::Edges).map_err(out_of_memory)?;
            memory.inner().populate(offset, range.size()).map_err(out_of_memory)?;
            let mut run = SharedRun { table: &self.table, memory: memory.inner(), range, offset, flags };
            let tables = self.table.plan(range, &mut run).map_err(out_of_memory)?;
            let mut tables = FrameStack::with(self.table.hal(), 0, tables).ok_or(MapError::OutOfMemory)?;
            self.regions.reserve(self.table.hal(), 1).map_err(out_of_memory)?;
            self.table.fill(range, flags, &mut run, &mut tables);
        } else {
            self.regions.reserve(self.table.hal(), 1).map_err(out_of_memory)?;
        }
        self.shared.add(id, memory, range.size() / PAGE_SIZE);
        let backend = match mapped {
            Mapped::Shared { .. } => Backend::Shared { memory: id, offset },
            Mapped::Private => Backend::Private { memory: id, offset },
        };
        self.regions.insert(self.table.hal(), Region::new(range, flags, backend));
        self.lent = true;
        Ok(())
    }

    /// Maps `size` bytes at `gpa` to pages of the space's own backend ([`with_backend`](Self::with_backend)), each on
    /// the first access: those of `source`, a number of the caller's, from `offset` on. `gpa`, `size` and `offset` are
    /// multiples of 4 KiB.
    ///
    /// Takes no table and asks the backend for nothing yet. Nothing is to be invalidated. The frames go back to the
    /// backend, each after an invalidation, when they are unmapped or discarded, and with the space.
    ///
    /// # Errors
    /// [`MapError`]: a bad range, flags that the format cannot express, [`MapError::AlreadyMapped`],
    /// [`MapError::UnalignedOffset`], [`MapError::BeyondBackend`] above 256 TiB, [`MapError::OutOfMemory`] for the
    /// region.
    pub fn map_custom(
        &mut self,
        gpa: GuestPhysAddr,
        source: u16,
        offset: u64,
        size: u64,
        flags: MappingFlags,
    ) -> Result<(), MapError> {
        self.observed(Operation::MapCustom, (gpa, size), move |space| {
            space.map_custom_unobserved(gpa, source, offset, size, flags)
        })
    }

    #[inline(always)]
    fn map_custom_unobserved(
        &mut self,
        gpa: GuestPhysAddr,
        source: u16,
        offset: u64,
        size: u64,
        flags: MappingFlags,
    ) -> Result<(), MapError> {
        let range = self.check_map(gpa, size, flags)?;
        check_offset(offset, size, OFFSET_LIMIT)?;
        self.regions.reserve(self.table.hal(), 1).map_err(|OutOfMemory| MapError::OutOfMemory)?;
        let backend = Backend::Custom { source, offset };
        self.regions.insert(self.table.hal(), Region::new(range, flags, backend));
        self.lent = true;
        debug!("map_custom {range} {flags} {source} + {offset:#x}");
        Ok(())
    }

    /// Settles what is owed and gives the frames of `range` back to the backends that lent them. All of it was retired
    /// as [`Ownership::Lent`]; its regions are still there.
    pub(super) fn take_back(&mut self, range: GuestPhysRange) {
        let Self { table, regions, pending, backend, .. } = self;
        table.settle_with(pending, |table| {
            table.visit_retired(range, &mut |level, gpa, leaf: Leaf| {
                let Some(region) = regions.find(gpa) else { return };
                if matches!(region.backend, Backend::Shared { .. } | Backend::Custom { .. }) {
                    table.maintain(level, leaf.hpa, &[CacheEvent::FromGuest(leaf.flags.memory_type())]);
                }
                // What a log has collected is forgotten here.
                let written = leaf.dirty || table.format().dirty_bit() == 0 || region.log.is_some();
                for offset in (0..level_bytes(level)).step_by(PAGE_SIZE as usize) {
                    let at = (gpa.checked_add(offset), leaf.hpa.checked_add(offset));
                    let (Some(gpa), Some(frame)) = at else { return };
                    let Some(page) = page_of(&region, gpa) else { return };
                    // SAFETY: this backend gave the frame for this page of the region, the only one that it can be of;
                    // its leaf was retired, so it is given back once, and after the invalidation no CPU can reach it.
                    unsafe { backend.give_back(&page, frame, written) };
                }
            });
        });
    }

    /// Counts the pages of shared memory in `range` as unmapped; no CPU can reach them any more.
    pub(super) fn let_go(&mut self, range: GuestPhysRange) {
        let Self { regions, shared, .. } = self;
        for region in regions.overlapping(range) {
            let part = region.range.intersection(range);
            if let (Backend::Shared { memory, .. } | Backend::Private { memory, .. }, Some(part)) =
                (region.backend, part)
            {
                shared.remove(memory, part.size() / PAGE_SIZE);
            }
        }
        shared.trim(self.table.hal());
    }

    /// Gives everything back that backends lent, if anything is.
    pub(super) fn take_back_all(&mut self) {
        if self.lent {
            self.table.retire(&mut self.pending, self.range, Ownership::Lent);
            self.take_back(self.range);
            self.let_go(self.range);
            self.lent = false;
        }
    }
}

/// How shared memory is mapped.
#[derive(Clone, Copy, Debug)]
enum Mapped {
    /// As what it is.
    Shared {
        /// Now, and not each page on the first access.
        populate: bool,
    },
    /// To be copied when it is written to.
    Private,
}

pub(super) fn check_offset(offset: u64, size: u64, most: u64) -> Result<(), MapError> {
    if offset % PAGE_SIZE != 0 {
        return Err(MapError::UnalignedOffset(offset));
    }
    if offset.checked_add(size).is_none_or(|end| end > most) {
        return Err(MapError::BeyondBackend { offset, size, most });
    }
    Ok(())
}
