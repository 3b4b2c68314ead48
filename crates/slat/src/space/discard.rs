//! Giving up the frames of a range whose region stays: what a balloon does.

use super::{AddrSpace, Backend, CustomBackend, Region};
use crate::addr::{GuestPhysAddr, PAGE_SIZE};
use crate::error::DiscardError;
use crate::format::Format;
use crate::frame::FrameStack;
use crate::hal::Hal;
use crate::operation::Operation;
use crate::table::{Extent, OutOfMemory};
use log::debug;

impl<H: Hal, F: Format, B: CustomBackend> AddrSpace<H, F, B> {
    /// Gives the frames of `size` bytes at `gpa`, both multiples of 4 KiB, all of them mapped, back to the host or to the
    /// custom backend; the regions stay, lazy ones now. The next access of the guest finds a page of zeroes, or what
    /// the custom backend, the pager or the memory of a private mapping has: what it wrote to a paged region since then is lost
    /// ([`page_out`](Self::page_out) keeps it). Returns the number of 4 KiB pages given up.
    ///
    /// One invalidation, if anything was populated. Large leaves at the edges are split, empty tables given back.
    ///
    /// # Errors
    /// [`DiscardError`]: a bad range, [`DiscardError::NotMapped`], [`DiscardError::NotOwned`] for a linear, shared or
    /// trap region, [`DiscardError::Pinned`], [`DiscardError::OutOfMemory`] if a split needs a frame that the host
    /// does not have.
    pub fn discard(&mut self, gpa: GuestPhysAddr, size: u64) -> Result<u64, DiscardError> {
        self.observed(Operation::Discard, (gpa, size), move |space| space.discard_unobserved(gpa, size))
    }

    #[inline(always)]
    fn discard_unobserved(&mut self, gpa: GuestPhysAddr, size: u64) -> Result<u64, DiscardError> {
        let range = self.checked_range(gpa, size)?;
        let cover = self.regions.cover(range).map_err(DiscardError::NotMapped)?;
        let kept = |region: &Region| {
            !region.backend.is_copied_on_write() && !matches!(region.backend, Backend::Custom { .. })
        };
        if let Some(region) = self.regions.overlapping(range).find(kept) {
            return Err(DiscardError::NotOwned(region.range));
        }
        if let Some(pinned) = self.pinned_in(range, &cover) {
            return Err(DiscardError::Pinned(pinned));
        }
        self.table.unshare(range, Extent::Edges).map_err(|OutOfMemory| DiscardError::OutOfMemory)?;
        let tables = self.table.plan_split(range);
        let mut tables = FrameStack::with(self.table.hal(), 0, tables).ok_or(DiscardError::OutOfMemory)?;
        self.table.split_at(&mut self.pending, range.start(), &mut tables);
        self.table.split_at(&mut self.pending, range.end(), &mut tables);
        drop(tables);
        let pages = self.mappings(range).map(|mapping| mapping.size.bytes() / PAGE_SIZE).sum();
        self.table.retire(&mut self.pending, range, cover.ownership());
        self.take_back(range);
        debug!("discard {range}: {pages} pages");
        Ok(pages)
    }
}
