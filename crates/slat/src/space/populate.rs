//! Populating ahead, and joining leaves again: neither changes what the guest sees.

use super::observe::Observable as _;
use super::{AddrSpace, Backend, CustomBackend, Region};
use crate::addr::{GuestPhysAddr, PAGE_SIZE};
use crate::error::{CollapseError, PopulateError, TopUpError};
use crate::flags::MappingFlags;
use crate::format::Format;
use crate::hal::Hal;
use crate::observe::Begin;
use crate::operation::Operation;
use crate::table::{Populated, Refused};
use log::debug;

impl<H: Hal, F: Format, B: CustomBackend> AddrSpace<H, F, B> {
    /// Populates what is not yet populated of `size` bytes at `gpa`, both multiples of 4 KiB, all of them mapped, as
    /// the faults of a guest would: so that it does not have to fault. Returns the number of 4 KiB pages added.
    /// Lock-free, beside faults; linear and trap regions and pages without access are passed over.
    ///
    /// Nothing is to be invalidated. Costs one walk for each leaf.
    ///
    /// # Errors
    /// [`PopulateError`]: a bad range, [`PopulateError::NotMapped`], [`PopulateError::OutOfMemory`] with the page at
    /// which the host ran out, [`PopulateError::Refused`] with the one that a custom backend did not give; what was
    /// populated before stays.
    pub fn populate(&self, gpa: GuestPhysAddr, size: u64) -> Result<u64, PopulateError> {
        let begin = Begin::now(self.hal());
        let result = self.populate_unobserved(gpa, size);
        self.over(begin, Operation::Populate, (gpa, size), || result.result());
        result
    }

    #[inline(always)]
    pub(super) fn populate_unobserved(&self, gpa: GuestPhysAddr, size: u64) -> Result<u64, PopulateError> {
        let range = self.checked_range(gpa, size)?;
        if let Some(hole) = self.regions.first_hole(range) {
            return Err(PopulateError::NotMapped(hole));
        }
        let mut pages = 0;
        let mut at = range.start();
        while at < range.end() {
            let Some(region) = self.region(at) else { return Err(PopulateError::NotMapped(at)) };
            let mut next = region.range.end();
            let on_demand = !matches!(region.backend, Backend::Linear { .. } | Backend::Trap { .. });
            if on_demand && region.flags.is_accessible() {
                let step = match self.supply(&region, at, MappingFlags::empty(), &mut |_, _| {}) {
                    Ok(Populated::New(size)) => {
                        pages += size.bytes() / PAGE_SIZE;
                        size.bytes()
                    }
                    Ok(Populated::Present(_) | Populated::Woken(_)) => {
                        self.query(at).map_or(PAGE_SIZE, |leaf| leaf.size.bytes())
                    }
                    Ok(Populated::Unsettled) => PAGE_SIZE,
                    Err(Refused::OutOfMemory) => return Err(PopulateError::OutOfMemory(at)),
                    Err(_) => return Err(PopulateError::Refused(at)),
                };
                next = at.align_down(step).checked_add(step).map_or(next, |end| end.min(next));
            }
            at = next;
        }
        debug!("populate {range}: {pages} pages");
        Ok(pages)
    }

    /// Takes frames ahead for the tables that `faults` faults at the same time can need at the worst (one less than
    /// the levels each; 32 in all are kept), so that a fault takes nothing from the host but the guest's own frame.
    /// To be called before a guest is entered, and again after it faulted. Lock-free; what is kept goes back with
    /// [`clear`](Self::clear) and with the space.
    ///
    /// # Errors
    /// [`TopUpError`] if the host has no frame left; what was taken before is kept.
    pub fn top_up(&self, faults: usize) -> Result<(), TopUpError> {
        self.table.top_up(faults).map_err(|_| TopUpError)
    }

    /// Joins leaves in `size` bytes at `gpa`, both multiples of 4 KiB, wherever 512 of them continue each other in
    /// both address spaces with the same flags and make a larger leaf that lies in the range: the way back from the
    /// splits of [`unmap`](Self::unmap) and [`protect`](Self::protect). Returns the number of larger leaves made.
    ///
    /// Pages that are shared with a fork or a snapshot stay as they are, and paged regions keep their leaves of 4 KiB. Takes
    /// no memory and gives tables back. One invalidation for each larger leaf; where the format asks for
    /// break-before-make, its pages fault for that moment.
    ///
    /// # Errors
    /// [`CollapseError`]: a bad range, [`CollapseError::NotMapped`] with the first address that no region covers.
    pub fn collapse(&mut self, gpa: GuestPhysAddr, size: u64) -> Result<u64, CollapseError> {
        self.observed(Operation::Collapse, (gpa, size), move |space| space.collapse_unobserved(gpa, size))
    }

    #[inline(always)]
    fn collapse_unobserved(&mut self, gpa: GuestPhysAddr, size: u64) -> Result<u64, CollapseError> {
        let range = self.checked_range(gpa, size)?;
        if let Some(hole) = self.regions.first_hole(range) {
            return Err(CollapseError::NotMapped(hole));
        }
        self.table.settle(&mut self.pending);
        // What lies in one leaf has one set of flags, also while permissions are held back from some of it; and what shares its
        // frames stays as it is.
        let versions = self.table.has_version();
        let paged = |region: &Region| matches!(region.backend, Backend::Paged { .. });
        let private = |region: &Region| matches!(region.backend, Backend::Private { .. });
        let kind = |region: &Region| {
            let copied = versions && region.backend.is_copied_on_write();
            (region.flags, region.log, copied, paged(region), private(region))
        };
        let Self { table, regions, pending, .. } = self;
        let mut join = |part: Region| {
            // Paged regions keep their small leaves, each of which can be paged out.
            if paged(&part) {
                return 0;
            }
            let owned = kind(&part).2;
            let part = part.range.intersection(range);
            part.map_or(0, |part| table.collapse(pending, part, owned))
        };
        let (mut joined, mut alike): (u64, Option<Region>) = (0, None);
        for region in regions.overlapping(range) {
            alike = match alike {
                Some(before) if kind(&before) == kind(&region) => {
                    Some(Region { range: before.range.hull(region.range), ..region })
                }
                before => {
                    joined += before.map_or(0, &mut join);
                    Some(region)
                }
            };
        }
        joined += alike.map_or(0, join);
        self.table.settle(&mut self.pending);
        debug!("collapse {range}: {joined} leaves");
        Ok(joined)
    }
}
