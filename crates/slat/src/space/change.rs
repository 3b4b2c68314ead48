//! The structural operations: each checks, plans, then commits.

use super::debt::Debt;
use super::regions::{Cover, OFFSET_LIMIT, Regions};
use super::{AddrSpace, Backend, CustomBackend, Region};
use crate::addr::{GuestPhysAddr, GuestPhysRange, HostPhysAddr, HostPhysRange, PAGE_SIZE};
use crate::device::DeviceId;
use crate::error::{ClearError, MapError, MigrateError, ProtectError, UnmapError};
use crate::flags::{LeafSize, MappingFlags};
use crate::format::Format;
use crate::frame::FrameStack;
use crate::hal::Hal;
use crate::operation::Operation;
use crate::table::{Alike, Extent, Frames, Linear, OutOfMemory, Ownership, Table};
use crate::tlb::Pending;
use log::debug;

/// How `map_alloc_with` takes its frames.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AllocOptions {
    /// Take and map all frames now; otherwise each on the first access.
    pub populate: bool,
    /// The largest leaf to use where alignment and the host's frames allow it.
    pub largest_leaf: LeafSize,
    /// On a fault, populate this much around it as well: as many bytes as a leaf of this size has, aligned to it,
    /// as far as they lie in the region. No more than `largest_leaf` means: only the leaf of the fault.
    pub fault_around: LeafSize,
}

impl Default for AllocOptions {
    /// Lazily, in leaves of up to 2 MiB, one for each fault.
    fn default() -> Self {
        Self { populate: false, largest_leaf: LeafSize::Size2M, fault_around: LeafSize::Size4K }
    }
}

impl<H: Hal, F: Format, B: CustomBackend> AddrSpace<H, F, B> {
    /// Maps `size` bytes at `gpa` to the caller's host physical memory at `hpa`; all three are multiples of 4 KiB.
    ///
    /// The caller keeps the memory; its caches are the caller's business too. The largest leaves that the alignment
    /// of both addresses, the size and the CPU allow are used. Nothing is to be invalidated. Costs one descent and
    /// one store per leaf.
    ///
    /// # Errors
    /// [`MapError`]: a bad range, [`MapError::UnalignedHost`], [`MapError::HostTooWide`] for addresses that the
    /// format cannot output, [`MapError::HostProtected`], flags that it cannot express, [`MapError::AlreadyMapped`],
    /// [`MapError::OutOfMemory`].
    pub fn map_linear(
        &mut self,
        gpa: GuestPhysAddr,
        hpa: HostPhysAddr,
        size: u64,
        flags: MappingFlags,
    ) -> Result<(), MapError> {
        self.observed(Operation::MapLinear, (gpa, size), move |space| {
            space.map_linear_unobserved(gpa, hpa, size, flags)
        })
    }

    #[inline(always)]
    fn map_linear_unobserved(
        &mut self,
        gpa: GuestPhysAddr,
        hpa: HostPhysAddr,
        size: u64,
        flags: MappingFlags,
    ) -> Result<(), MapError> {
        let range = self.check_map(gpa, size, flags)?;
        if !hpa.is_aligned(PAGE_SIZE) {
            return Err(MapError::UnalignedHost(hpa));
        }
        let bits = self.format().hpa_bits();
        if hpa.checked_add(size).is_none_or(|end| (end.as_u64() - 1) >> bits != 0) {
            return Err(MapError::HostTooWide { start: hpa, bits });
        }
        if let Ok(run) = HostPhysRange::new(hpa, size) {
            if self.hal().is_protected(run) {
                return Err(MapError::HostProtected(run));
            }
        }
        self.table.unshare(range, Extent::Edges).map_err(|OutOfMemory| MapError::OutOfMemory)?;
        let largest = self.format().largest_leaf().level();
        let mut source = Linear { gpa, hpa, end: range.end(), largest };
        let out_of_memory = |OutOfMemory| MapError::OutOfMemory;
        let tables = self.table.plan(range, &mut source).map_err(out_of_memory)?;
        let mut tables = FrameStack::with(self.table.hal(), 0, tables).ok_or(MapError::OutOfMemory)?;
        self.regions.reserve(self.table.hal(), 1).map_err(out_of_memory)?;
        self.table.fill(range, flags, &mut source, &mut tables);
        self.regions.insert(self.table.hal(), Region::new(range, flags, Backend::Linear { hpa }));
        debug!("map_linear {range} -> {hpa:#x} {flags}");
        Ok(())
    }

    /// Maps `size` bytes at `gpa`, both multiples of 4 KiB, to zeroed frames of the host: now if `populate` is set,
    /// else each on the first access. Leaves of up to 2 MiB are used; see [`map_alloc_with`](Self::map_alloc_with).
    ///
    /// # Errors
    /// As [`map_alloc_with`](Self::map_alloc_with).
    pub fn map_alloc(
        &mut self,
        gpa: GuestPhysAddr,
        size: u64,
        flags: MappingFlags,
        populate: bool,
    ) -> Result<(), MapError> {
        self.map_alloc_with(gpa, size, flags, AllocOptions { populate, ..AllocOptions::default() })
    }

    /// Maps `size` bytes at `gpa`, both multiples of 4 KiB, to zeroed frames of the host, as `options` say.
    ///
    /// Where the host has no frames for a large leaf, smaller ones are used. A lazy region takes no table until it
    /// is touched. Nothing is to be invalidated.
    ///
    /// # Errors
    /// [`MapError`]: a bad range, flags that the format cannot express, [`MapError::AlreadyMapped`],
    /// [`MapError::OutOfMemory`].
    pub fn map_alloc_with(
        &mut self,
        gpa: GuestPhysAddr,
        size: u64,
        flags: MappingFlags,
        options: AllocOptions,
    ) -> Result<(), MapError> {
        self.observed(Operation::MapAlloc, (gpa, size), move |space| {
            space.map_alloc_with_unobserved(gpa, size, flags, options)
        })
    }

    #[inline(always)]
    fn map_alloc_with_unobserved(
        &mut self,
        gpa: GuestPhysAddr,
        size: u64,
        flags: MappingFlags,
        options: AllocOptions,
    ) -> Result<(), MapError> {
        let range = self.check_map(gpa, size, flags)?;
        let AllocOptions { populate, largest_leaf, fault_around } = options;
        let out_of_memory = |OutOfMemory| MapError::OutOfMemory;
        if populate {
            self.table.unshare(range, Extent::Edges).map_err(out_of_memory)?;
            let mut frames = Frames::new(self.table.hal(), *self.format(), flags, largest_leaf.level());
            let tables = self.table.plan(range, &mut frames).map_err(out_of_memory)?;
            let mut tables = FrameStack::with(self.table.hal(), 0, tables).ok_or(MapError::OutOfMemory)?;
            self.regions.reserve(self.table.hal(), 1).map_err(out_of_memory)?;
            self.table.fill(range, flags, &mut frames, &mut tables);
        } else {
            self.regions.reserve(self.table.hal(), 1).map_err(out_of_memory)?;
        }
        self.regions.insert(
            self.table.hal(),
            Region::new(range, flags, Backend::Alloc { largest_leaf, fault_around }),
        );
        debug!("map_alloc {range} {flags} {options:?}");
        Ok(())
    }

    /// Makes `size` bytes at `gpa`, both multiples of 4 KiB, the registers of `device`: no memory is there, and an
    /// access of the guest is for its emulator ([`FaultOutcome::Trap`](crate::FaultOutcome::Trap)), which is told how
    /// far from `gpa` it falls. Reads and writes are expected; [`protect`](Self::protect) can forbid either, and a
    /// fetch is refused.
    ///
    /// Takes no table. Nothing is to be invalidated.
    ///
    /// # Errors
    /// [`MapError`]: a bad range, [`MapError::BeyondBackend`] above 256 TiB, [`MapError::AlreadyMapped`],
    /// [`MapError::OutOfMemory`] for the region.
    pub fn map_trap(&mut self, gpa: GuestPhysAddr, size: u64, device: DeviceId) -> Result<(), MapError> {
        self.observed(Operation::MapTrap, (gpa, size), move |space| {
            space.map_trap_unobserved(gpa, size, device)
        })
    }

    #[inline(always)]
    fn map_trap_unobserved(
        &mut self,
        gpa: GuestPhysAddr,
        size: u64,
        device: DeviceId,
    ) -> Result<(), MapError> {
        let flags = MappingFlags::READ | MappingFlags::WRITE | MappingFlags::DEVICE;
        let range = self.check_map(gpa, size, flags)?;
        if size > OFFSET_LIMIT {
            return Err(MapError::BeyondBackend { offset: 0, size, most: OFFSET_LIMIT });
        }
        self.regions.reserve(self.table.hal(), 1).map_err(|OutOfMemory| MapError::OutOfMemory)?;
        let backend = Backend::Trap { device, offset: 0 };
        self.regions.insert(self.table.hal(), Region::new(range, flags, backend));
        debug!("map_trap {range} {device}");
        Ok(())
    }

    /// Unmaps `size` bytes at `gpa`, both multiples of 4 KiB, all of them mapped. Frames that the space owns go
    /// back to the host after one invalidation; large leaves at the edges are split, empty tables given back.
    ///
    /// # Errors
    /// [`UnmapError`]: a bad range, [`UnmapError::NotMapped`] with the first address that no region covers,
    /// [`UnmapError::Pinned`], [`UnmapError::OutOfMemory`] if a split needs a frame that the host does not have.
    pub fn unmap(&mut self, gpa: GuestPhysAddr, size: u64) -> Result<(), UnmapError> {
        self.observed(Operation::Unmap, (gpa, size), move |space| {
            let debt = space.defer();
            debt.unmap_unobserved(gpa, size)
        })
    }

    /// Gives `size` bytes at `gpa`, both multiples of 4 KiB, all of them mapped, the flags `flags`. Large leaves at
    /// the edges are split. One invalidation, also when permissions are only added (a CPU may cache a refusal); a
    /// new memory type goes through break-before-make where the format asks for it.
    ///
    /// Without any permission the pages keep their frames and contents, but the guest has no access until another
    /// `protect` gives it back.
    ///
    /// # Errors
    /// [`ProtectError`]: a bad range, [`ProtectError::NotMapped`] with the first address that no region covers,
    /// flags that the format cannot express, [`ProtectError::OutOfMemory`] if a split needs a frame that the host
    /// does not have.
    pub fn protect(
        &mut self,
        gpa: GuestPhysAddr,
        size: u64,
        flags: MappingFlags,
    ) -> Result<(), ProtectError> {
        self.observed(Operation::Protect, (gpa, size), move |space| {
            let debt = space.defer();
            debt.protect_unobserved(gpa, size, flags)
        })
    }

    /// Moves the populated pages of `size` bytes at `gpa`, both multiples of 4 KiB, to other frames of the host;
    /// the old ones go back. Contents, flags and leaf sizes stay (a large leaf at the edges is split). Returns the
    /// number of 4 KiB pages moved.
    ///
    /// One break, one invalidation, one copy and one make for each leaf; the guest sees the old page, a fault, then
    /// the new page with the same contents.
    ///
    /// # Errors
    /// [`MigrateError`]: a bad range, [`MigrateError::NotMapped`], [`MigrateError::NotOwned`] unless the region is one
    /// of [`map_alloc`](Self::map_alloc) or [`map_paged`](Self::map_paged), [`MigrateError::Pinned`], [`MigrateError::OutOfMemory`] if the host does not have as many frames again.
    pub fn migrate(&mut self, gpa: GuestPhysAddr, size: u64) -> Result<u64, MigrateError> {
        self.observed(Operation::Migrate, (gpa, size), move |space| space.migrate_unobserved(gpa, size))
    }

    #[inline(always)]
    fn migrate_unobserved(&mut self, gpa: GuestPhysAddr, size: u64) -> Result<u64, MigrateError> {
        let range = self.checked_range(gpa, size)?;
        let cover = self.regions.cover(range).map_err(MigrateError::NotMapped)?;
        let not_owned =
            |region: &Region| !matches!(region.backend, Backend::Alloc { .. } | Backend::Paged { .. });
        if let Some(region) = self.regions.overlapping(range).find(not_owned) {
            return Err(MigrateError::NotOwned(region.range));
        }
        if let Some(pinned) = self.pinned_in(range, &cover) {
            return Err(MigrateError::Pinned(pinned));
        }
        self.table.settle(&mut self.pending);
        self.table.unshare(range, Extent::All).map_err(|OutOfMemory| MigrateError::OutOfMemory)?;
        let tables = self.table.plan_split(range);
        let mut tables = FrameStack::with(self.table.hal(), 0, tables).ok_or(MigrateError::OutOfMemory)?;
        let frames = self.table.plan_migrate(range).map_err(|OutOfMemory| MigrateError::OutOfMemory)?;
        self.table.split_at(&mut self.pending, range.start(), &mut tables);
        self.table.split_at(&mut self.pending, range.end(), &mut tables);
        let pages = self.table.migrate(&mut self.pending, range, frames);
        debug!("migrate {range}: {pages} pages");
        Ok(pages)
    }

    /// Unmaps everything. Every frame but the root's goes back to where it came from, after one invalidation.
    ///
    /// # Errors
    /// [`ClearError::Pinned`] with the first region that has a pin; nothing has changed then.
    pub fn clear(&mut self) -> Result<(), ClearError> {
        self.observed(Operation::Clear, self.whole(), move |space| space.clear_unobserved())
    }

    #[inline(always)]
    fn clear_unobserved(&mut self) -> Result<(), ClearError> {
        if let Some(region) = self.regions.iter().find(|region| region.pins > 0) {
            return Err(ClearError::Pinned(region.range));
        }
        self.take_back_all();
        self.table.retire(&mut self.pending, self.range, Ownership::Owned);
        self.table.settle(&mut self.pending);
        self.table.release_version();
        self.regions.clear(self.table.hal());
        self.table.drop_spares();
        debug!("clear {}", self.range);
        Ok(())
    }

    /// Begins a batch of operations whose invalidation is deferred: see [`Debt`].
    pub fn defer(&mut self) -> Debt<'_, H, F, B> {
        Debt::new(self)
    }

    pub(super) fn check_map(
        &mut self,
        gpa: GuestPhysAddr,
        size: u64,
        flags: MappingFlags,
    ) -> Result<GuestPhysRange, MapError> {
        let range = self.checked_range(gpa, size)?;
        self.format().check_flags(flags)?;
        if let Some(existing) = self.regions.overlapping(range).next() {
            return Err(MapError::AlreadyMapped { wanted: range, existing: existing.range });
        }
        // What an earlier batch left behind may stand where this wants to map.
        self.table.settle(&mut self.pending);
        Ok(range)
    }

    /// The first region in `range` that is pinned.
    pub(super) fn pinned_in(&self, range: GuestPhysRange, cover: &Cover) -> Option<GuestPhysRange> {
        let mut regions = cover.pinned.then(|| self.regions.overlapping(range))?;
        regions.find(|region| region.pins > 0).map(|region| region.range)
    }

    pub(super) fn unmap_deferred(&mut self, gpa: GuestPhysAddr, size: u64) -> Result<(), UnmapError> {
        let range = self.checked_range(gpa, size)?;
        let cover = self.regions.cover(range).map_err(UnmapError::NotMapped)?;
        if let Some(pinned) = self.pinned_in(range, &cover) {
            return Err(UnmapError::Pinned(pinned));
        }
        self.table.unshare(range, Extent::Edges).map_err(|OutOfMemory| UnmapError::OutOfMemory)?;
        let split = split_edges(&self.table, &mut self.regions, &mut self.pending, range);
        split.map_err(|OutOfMemory| UnmapError::OutOfMemory)?;
        self.table.retire(&mut self.pending, range, cover.ownership());
        if cover.lent {
            self.take_back(range);
            self.let_go(range);
        }
        self.regions.remove(self.table.hal(), range, cover);
        debug!("unmap {range}");
        Ok(())
    }

    pub(super) fn protect_deferred(
        &mut self,
        gpa: GuestPhysAddr,
        size: u64,
        flags: MappingFlags,
    ) -> Result<(), ProtectError> {
        let range = self.checked_range(gpa, size)?;
        self.format().check_flags(flags)?;
        let cover = self.regions.cover(range).map_err(ProtectError::NotMapped)?;
        self.table.unshare(range, Extent::All).map_err(|OutOfMemory| ProtectError::OutOfMemory)?;
        let split = split_edges(&self.table, &mut self.regions, &mut self.pending, range);
        split.map_err(|OutOfMemory| ProtectError::OutOfMemory)?;
        let private = |region: &Region| matches!(region.backend, Backend::Private { .. });
        if self.table.has_version()
            || cover.lent && self.regions.overlapping(range).any(|region| private(&region))
        {
            // A leaf that shares its frame is not made writable where it is to be copied first.
            for region in self.regions.overlapping(range) {
                let Some(part) = region.range.intersection(range) else { continue };
                let copied = region.backend.is_copied_on_write();
                self.table.protect(&mut self.pending, part, flags, Alike::No { copied });
            }
        } else {
            let alike = if cover.alike && !self.held { Alike::Yes } else { Alike::No { copied: false } };
            self.table.protect(&mut self.pending, range, flags, alike);
        }
        if cover.logged {
            self.hold_large(range);
        }
        self.regions.update(self.table.hal(), range, cover, |region| Some(Region { flags, ..region }));
        debug!("protect {range} {flags}");
        Ok(())
    }
}

/// Takes what a change of `range` needs, tables for the leaves at its edges and room for two more regions, and splits
/// those leaves.
pub(super) fn split_edges<H: Hal, F: Format>(
    table: &Table<H, F>,
    regions: &mut Regions,
    pending: &mut Pending,
    range: GuestPhysRange,
) -> Result<(), OutOfMemory> {
    let tables = table.plan_split(range);
    if tables == 0 {
        regions.reserve(table.hal(), 2)?;
        table.ungroup_edges(pending, range);
        return Ok(());
    }
    let mut tables = FrameStack::with(table.hal(), 0, tables).ok_or(OutOfMemory)?;
    regions.reserve(table.hal(), 2)?;
    for edge in [range.start(), range.end()] {
        table.split_at(pending, edge, &mut tables);
        // What is logged is logged page by page.
        let block = GuestPhysRange::new(edge.align_down(LeafSize::Size2M.bytes()), LeafSize::Size2M.bytes());
        if let (true, Ok(block)) = (table.has_groups(), block) {
            for region in regions.overlapping(block).filter(|region| region.log.is_some()) {
                region
                    .range
                    .intersection(block)
                    .into_iter()
                    .for_each(|part| table.ungroup_all(pending, part));
            }
        }
    }
    Ok(())
}
