//! Asking a space what it maps.

use super::{AddrSpace, CustomBackend, Region};
use crate::addr::{GuestPhysAddr, GuestPhysRange, HostPhysAddr};
use crate::error::QueryError;
use crate::format::Format;
use crate::hal::Hal;
use crate::table::{Census, Mapping};
use core::fmt;

/// What a space consists of at this moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stats {
    /// Leaves, tables and frames of the table.
    pub table: Census,
    /// Number of regions.
    pub regions: usize,
    /// Frames of 4 KiB that hold the regions.
    pub region_frames: usize,
    /// Frames of 4 KiB that hold what is known of the shared memories that are mapped: 0 or 1. Their own frames are those
    /// of [`SharedMemory::frames`](crate::SharedMemory::frames).
    pub shared_frames: usize,
    /// Frames of 4 KiB that are kept ready for tables.
    pub spare_frames: usize,
    /// States that the space shares with forks or snapshots, one based on the other: see
    /// [`fork`](crate::AddrSpace::fork).
    pub versions: usize,
}

impl fmt::Display for Stats {
    /// Three lines for people: leaves, tables, regions.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Census { leaves_4k, leaves_2m, leaves_1g, table_frames, owned_frames } = self.table;
        writeln!(
            f,
            "leaves: {leaves_4k} x 4K, {leaves_2m} x 2M, {leaves_1g} x 1G; {owned_frames} frames of the space's own"
        )?;
        writeln!(f, "tables: {table_frames} frames, {} kept ready", self.spare_frames)?;
        let frames = self.region_frames + self.shared_frames;
        writeln!(f, "regions: {} in {frames} frames", self.regions)
    }
}

impl<H: Hal, F: Format, B: CustomBackend> AddrSpace<H, F, B> {
    /// The host physical address of `gpa`, or `None` if the guest has no access to it now. One walk.
    #[inline]
    pub fn translate(&self, gpa: GuestPhysAddr) -> Option<HostPhysAddr> {
        // Outside of the space nothing is mapped.
        self.table.translate(gpa)
    }

    /// The host physical address of `gpa`, and how many bytes from there on are contiguous both for the guest and
    /// for the host, to the end of the page at least. `None` if the guest has no access to `gpa` now.
    ///
    /// Costs one walk for each leaf of the run.
    pub fn translate_and_get_limit(&self, gpa: GuestPhysAddr) -> Option<(HostPhysAddr, u64)> {
        let hpa = self.translate(gpa)?;
        let mut limit = 0;
        for mapping in self.mappings(GuestPhysRange::between(gpa, self.range.end())?) {
            let here = mapping.gpa.max(gpa);
            let inside = here.checked_offset_from(mapping.gpa)?;
            let continues = here.checked_offset_from(gpa) == Some(limit)
                && mapping.hpa.checked_add(inside) == hpa.checked_add(limit)
                && mapping.flags.is_accessible();
            if !continues {
                break;
            }
            limit += mapping.size.bytes() - inside;
        }
        Some((hpa, limit))
    }

    /// The leaf that maps `gpa`, with its address, flags, memory type and size. One walk.
    ///
    /// # Errors
    /// [`QueryError`] tells an address outside of the space, one in no region, and one that is not present.
    pub fn query(&self, gpa: GuestPhysAddr) -> Result<Mapping, QueryError> {
        if let Some(mapping) = self.mapping(gpa) {
            return Ok(mapping);
        }
        if !self.range.contains(gpa) {
            return Err(QueryError::OutsideSpace { gpa, space: self.range });
        }
        match self.region(gpa) {
            None => Err(QueryError::NotMapped(gpa)),
            Some(region) => Err(QueryError::NotPresent { gpa, region: region.range }),
        }
    }

    /// The region around `gpa`. Logarithmic.
    pub fn region(&self, gpa: GuestPhysAddr) -> Option<Region> {
        self.regions.find(gpa)
    }

    /// The leaves that overlap `range` (all of it that lies in the space), in ascending order. Leaves to which the
    /// guest has no access are among them, without permissions. One walk for each leaf and each empty entry.
    pub fn mappings(&self, range: GuestPhysRange) -> impl Iterator<Item = Mapping> + '_ {
        let range = range.intersection(self.range);
        range.into_iter().flat_map(|range| self.table.leaves(range))
    }

    /// Counts leaves, tables and regions: one pass over the table.
    pub fn stats(&self) -> Stats {
        Stats {
            table: self.table.census(),
            regions: self.regions.len(),
            region_frames: self.regions.frames(),
            shared_frames: self.shared.frames(),
            spare_frames: self.table.spares(),
            versions: self.table.versions(),
        }
    }

    fn mapping(&self, gpa: GuestPhysAddr) -> Option<Mapping> {
        if !self.range.contains(gpa) {
            return None;
        }
        let range = GuestPhysRange::new(gpa, 1).ok()?;
        self.table.leaves(range).next().filter(|mapping| mapping.flags.is_accessible())
    }
}
