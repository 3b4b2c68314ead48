//! Pins: pages that stay where they are while somebody uses them by their host physical address.
//!
//! Pins are counted per region, which is cut at the ends of a pinned range and joined again when the pins are gone: so a
//! pin costs nothing to whoever has none, and every operation sees them where it looks up the region anyway.

use super::regions::MOST_PINS;
use super::{AddrSpace, Backend, CustomBackend, Region};
use crate::addr::{GuestPhysAddr, GuestPhysRange};
use crate::error::{PinError, UnpinError};
use crate::format::Format;
use crate::hal::Hal;
use crate::operation::Operation;
use crate::table::{Extent, OutOfMemory};
use log::debug;

impl<H: Hal, F: Format, B: CustomBackend> AddrSpace<H, F, B> {
    /// Populates and pins `size` bytes at `gpa`, both multiples of 4 KiB, all of them memory: until
    /// [`unpin`](Self::unpin), their frames are not moved, discarded or unmapped, and who knows their host physical
    /// addresses ([`translate_and_get_limit`](Self::translate_and_get_limit)) can use them, such as a device by DMA.
    /// Pages that are shared with a fork or a snapshot, and those of a private mapping, are copied first. Pins add up; the flags of pinned pages can change, for they concern the guest alone.
    ///
    /// Nothing is to be invalidated. Costs as much as [`populate`](Self::populate) and a change of regions.
    ///
    /// # Errors
    /// [`PinError`]: a bad range, an address that no region covers, [`PinError::NoMemory`] in a device,
    /// [`PinError::NoAccess`] at a page that has no frame and no access, pages that cannot be populated,
    /// [`PinError::TooMany`] above 2047 pins, [`PinError::OutOfMemory`]. Nothing is pinned then; what was populated
    /// stays.
    pub fn pin(&mut self, gpa: GuestPhysAddr, size: u64) -> Result<(), PinError> {
        self.observed(Operation::Pin, (gpa, size), move |space| space.pin_unobserved(gpa, size))
    }

    #[inline(always)]
    fn pin_unobserved(&mut self, gpa: GuestPhysAddr, size: u64) -> Result<(), PinError> {
        self.populate_unobserved(gpa, size)?;
        let range = self.checked_range(gpa, size).map_err(crate::error::PopulateError::from)?;
        for region in self.regions.overlapping(range) {
            if matches!(region.backend, Backend::Trap { .. }) {
                return Err(PinError::NoMemory(region.range));
            }
            if region.pins == MOST_PINS {
                return Err(PinError::TooMany(region.range));
            }
        }
        if let Some(hole) = self.first_without_frame(range) {
            return Err(PinError::NoAccess(hole));
        }
        self.own(range).map_err(|OutOfMemory| PinError::OutOfMemory)?;
        self.change_pins(range, |region| Region { pins: region.pins + 1, ..region })
            .map_err(|OutOfMemory| PinError::OutOfMemory)?;
        debug!("pin {range}");
        Ok(())
    }

    /// Takes one pin off `size` bytes at `gpa`, both multiples of 4 KiB, every page of which has one. It need not be a
    /// range that was pinned at once.
    ///
    /// # Errors
    /// [`UnpinError`]: a bad range, [`UnpinError::NotPinned`] with the first address that has no pin,
    /// [`UnpinError::OutOfMemory`] if a region must be divided and there is no memory for that. The pins are as they
    /// were then.
    pub fn unpin(&mut self, gpa: GuestPhysAddr, size: u64) -> Result<(), UnpinError> {
        self.observed(Operation::Unpin, (gpa, size), move |space| space.unpin_unobserved(gpa, size))
    }

    #[inline(always)]
    fn unpin_unobserved(&mut self, gpa: GuestPhysAddr, size: u64) -> Result<(), UnpinError> {
        let range = self.checked_range(gpa, size)?;
        let mut next = range.start();
        for region in self.regions.overlapping(range) {
            if region.range.start() > next || region.pins == 0 {
                break;
            }
            next = region.range.end();
        }
        if next < range.end() {
            return Err(UnpinError::NotPinned(next));
        }
        self.change_pins(range, |region| Region { pins: region.pins - 1, ..region })
            .map_err(|OutOfMemory| UnpinError::OutOfMemory)?;
        debug!("unpin {range}");
        Ok(())
    }

    /// Copies what pages of `range` share with forks, snapshots and memory, as writes would.
    fn own(&self, range: GuestPhysRange) -> Result<(), OutOfMemory> {
        let private = |region: &Region| matches!(region.backend, Backend::Private { .. });
        if !self.table.has_version() && !self.regions.overlapping(range).any(|region| private(&region)) {
            return Ok(());
        }
        self.table.unshare(range, Extent::All)?;
        for region in self.regions.overlapping(range).filter(|region| region.backend.is_copied_on_write()) {
            let mut rest = region.range.intersection(range);
            while let Some(part) = rest {
                self.table.write_shared(part.start(), region.flags, !private(&region))?;
                let leaf = self.mappings(part).next().map(|mapping| mapping.range().end());
                rest = leaf.and_then(|end| GuestPhysRange::between(end, part.end()));
            }
        }
        Ok(())
    }

    fn change_pins(
        &mut self,
        range: GuestPhysRange,
        change: impl Fn(Region) -> Region,
    ) -> Result<(), OutOfMemory> {
        let Ok(cover) = self.regions.cover(range) else { unreachable!("it was looked at") };
        self.regions.reserve(self.table.hal(), 2)?;
        self.regions.update(self.table.hal(), range, cover, |region| Some(change(region)));
        // A device leaves no marks, and may write until its pin is gone.
        for region in self.regions.overlapping(range) {
            let part = region.range.intersection(range);
            if let (Backend::Custom { .. } | Backend::Paged { .. }, Some(part)) = (region.backend, part) {
                self.table.mark_written(part);
            }
        }
        Ok(())
    }

    /// The first address of `range` that has no frame.
    fn first_without_frame(&self, range: GuestPhysRange) -> Option<GuestPhysAddr> {
        let mut next = range.start();
        for mapping in self.mappings(range) {
            if mapping.gpa > next {
                break;
            }
            next = mapping.range().end();
        }
        (next < range.end()).then_some(next)
    }
}
