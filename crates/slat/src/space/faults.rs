//! Answering a guest's faults, on any number of CPUs at once.

use super::backend::{Custom, PageIn, PrivateCopy, Shared, page_of, paged_page};
use super::{AddrSpace, Backend, CustomBackend, Region};
use crate::addr::{GuestPhysAddr, GuestPhysRange, PAGE_SIZE};
use crate::device::DeviceAccess;
use crate::error::FaultError;
use crate::fault::{FaultOutcome, NestedPageFaultInfo};
use crate::flags::{LeafSize, MappingFlags};
use crate::format::{Format, allows};
use crate::hal::Hal;
use crate::observe::Begin;
use crate::operation::Operation;
use crate::table::{Init, Leaf, MadeWritable, OutOfMemory, Populated, Refused, Unshared, Want};
#[cfg(feature = "tracing")]
use crate::trace::{FaultAnswer, What};
use log::{trace, warn};

impl<H: Hal, F: Format, B: CustomBackend> AddrSpace<H, F, B> {
    /// Answers an access `access` (`READ`, `WRITE` or `EXECUTE`; with `USER` if it was a fetch of user mode) of the
    /// guest to `gpa` that the hardware refused. On `Ok` the guest is to be re-entered.
    ///
    /// A page of a lazy region gets a zeroed frame, in the largest leaf that the region, the table and the host
    /// allow; the window around it too, if the region has one. Lock-free; two CPUs that fault on one page end up with
    /// one frame. Takes frames only for that leaf and for tables on the way. Nothing is to be invalidated for a new
    /// page (on RISC-V, if that is [wanted](crate::format::gstage::Capabilities::fence_new_entries), on this CPU); a page that
    /// turns out to be mapped is invalidated on this CPU.
    ///
    /// # Errors
    /// [`FaultError`] says whose fault it is, and changes nothing. What the guest gets to see (an external abort,
    /// the end of its run) is the caller's policy.
    #[inline]
    pub fn handle_page_fault(
        &self,
        gpa: GuestPhysAddr,
        access: MappingFlags,
    ) -> Result<FaultOutcome, FaultError> {
        self.handle_page_fault_with(gpa, access, |_, _| {})
    }

    /// As [`handle_page_fault`](Self::handle_page_fault), with contents: `init` is given every fresh frame, zeroed,
    /// before any CPU of the guest can see it. Its arguments are the first guest-physical address of the leaf and
    /// all of its bytes. It may be called for a frame that is then given back, when another CPU was faster.
    ///
    /// # Errors
    /// As [`handle_page_fault`](Self::handle_page_fault).
    #[inline]
    pub fn handle_page_fault_with(
        &self,
        gpa: GuestPhysAddr,
        access: MappingFlags,
        mut init: impl FnMut(GuestPhysAddr, &mut [u8]),
    ) -> Result<FaultOutcome, FaultError> {
        let begin = Begin::now(self.hal());
        let answer = self.answer_fault(gpa, access, &mut init);
        if let Some(counters) = self.hal().counters() {
            counters.fault(&answer);
        }
        #[cfg(feature = "tracing")]
        begin.end(self.hal(), (self.tag(), self.root()), || {
            let (answer, leaf) = FaultAnswer::of(&answer);
            What::Fault { gpa, access, answer, leaf }
        });
        #[cfg(not(feature = "tracing"))]
        let _ = begin;
        answer
    }

    /// As [`handle_page_fault_with`](Self::handle_page_fault_with), neither counted nor traced: also for accesses that are
    /// no faults of the guest.
    #[inline(always)]
    pub(super) fn answer_fault(
        &self,
        gpa: GuestPhysAddr,
        access: MappingFlags,
        init: &mut impl FnMut(GuestPhysAddr, &mut [u8]),
    ) -> Result<FaultOutcome, FaultError> {
        // Nearly all faults find a region and all tables, and miss a page.
        if let Some(flags) = self.regions.single_page_flags(gpa) {
            if allows(self.format(), flags, access) && self.table.populate_page(gpa, flags, access, init) {
                trace!("fault `{access}` at {gpa:#x}: populated a page");
                return Ok(FaultOutcome::Populated(LeafSize::Size4K));
            }
        }
        self.handle_unusual_fault(gpa, access, init)
    }

    /// As [`handle_page_fault`](Self::handle_page_fault), from what an exit says: an access to a device is told with
    /// the width that the hardware reports.
    ///
    /// # Errors
    /// As [`handle_page_fault`](Self::handle_page_fault).
    #[inline]
    pub fn handle_nested_fault(&self, info: &NestedPageFaultInfo) -> Result<FaultOutcome, FaultError> {
        self.handle_nested_fault_with(info, |_, _| {})
    }

    /// As [`handle_nested_fault`](Self::handle_nested_fault), with contents as in
    /// [`handle_page_fault_with`](Self::handle_page_fault_with).
    ///
    /// # Errors
    /// As [`handle_page_fault`](Self::handle_page_fault).
    #[inline]
    pub fn handle_nested_fault_with(
        &self,
        info: &NestedPageFaultInfo,
        init: impl FnMut(GuestPhysAddr, &mut [u8]),
    ) -> Result<FaultOutcome, FaultError> {
        Ok(match self.handle_page_fault_with(info.gpa, info.access, init)? {
            FaultOutcome::Trap(access) => FaultOutcome::Trap(DeviceAccess { width: info.width, ..access }),
            other => other,
        })
    }

    /// Compiled once, whatever the contents come from.
    #[inline(never)]
    fn handle_unusual_fault(
        &self,
        gpa: GuestPhysAddr,
        access: MappingFlags,
        init: &mut Init<'_>,
    ) -> Result<FaultOutcome, FaultError> {
        // Regions lie inside the space, so only the unusual case asks where its edges are.
        let Some(region) = self.regions.find(gpa) else { return Err(self.no_region(gpa, access)) };
        if !allows(self.format(), region.flags, access) {
            return Err(denied(gpa, access, &region));
        }
        if let Backend::Trap { device, offset } = region.backend {
            let offset = offset + (gpa.as_u64() - region.range.start().as_u64());
            trace!("fault `{access}` at {gpa:#x}: {device} + {offset:#x}");
            return Ok(FaultOutcome::Trap(DeviceAccess { device, offset, access, width: None }));
        }
        // What a private mapping copies, others may be writing to.
        let private = matches!(region.backend, Backend::Private { .. });
        let copies = access.contains(MappingFlags::WRITE) && region.backend.is_copied_on_write() && !private;
        if copies && self.table.copy_page(gpa, region.flags) {
            trace!("fault `{access}` at {gpa:#x}: copied a page");
            return Ok(FaultOutcome::Copied(LeafSize::Size4K));
        }
        let unshared = self.unshare_for_fault(gpa).map_err(|refused| self.refused(gpa, access, refused))?;
        match region.backend {
            Backend::Linear { .. } => {
                // Mapped for good, but the table of a split may wait for a debt that was forgotten.
                return match self.table.link_waiting(gpa, access) {
                    Some(leaf) => self.answer_woken(&region, gpa, access, &leaf),
                    None => self.answer_present(&region, gpa, access, unshared),
                };
            }
            Backend::Trap { .. }
            | Backend::Alloc { .. }
            | Backend::Shared { .. }
            | Backend::Private { .. }
            | Backend::Custom { .. }
            | Backend::Paged { .. } => {}
        }
        match self.supply(&region, gpa, access, init) {
            Ok(Populated::New(size)) => {
                if let Backend::Alloc { fault_around, .. } = region.backend {
                    if fault_around > size {
                        self.populate_around(&region, gpa, fault_around, init);
                    }
                }
                trace!("fault `{access}` at {gpa:#x}: populated {size}");
                Ok(FaultOutcome::Populated(size))
            }
            Ok(Populated::Present(_)) => self.answer_present(&region, gpa, access, unshared),
            Ok(Populated::Woken(leaf)) => self.answer_woken(&region, gpa, access, &leaf),
            Ok(Populated::Unsettled) => Ok(FaultOutcome::Retry),
            Err(Refused::NotYet) => Ok(FaultOutcome::Wait),
            Err(refused) => Err(self.refused(gpa, access, refused)),
        }
    }

    /// Maps the leaf around `gpa`, in a region that has frames to be mapped on demand and allows some access: in the answer
    /// to `access`, or ahead of any if that is of no kind.
    pub(super) fn supply(
        &self,
        region: &Region,
        gpa: GuestPhysAddr,
        access: MappingFlags,
        init: &mut Init<'_>,
    ) -> Result<Populated, Refused> {
        let populated = self.supply_unlogged(region, gpa, access, init);
        if region.log.is_some() && matches!(populated, Ok(Populated::New(_))) {
            // Whoever follows the log knows nothing of it yet, written to or not.
            self.table.note_dirty(gpa);
        }
        populated
    }

    fn supply_unlogged(
        &self,
        region: &Region,
        gpa: GuestPhysAddr,
        access: MappingFlags,
        init: &mut Init<'_>,
    ) -> Result<Populated, Refused> {
        let Region { range, flags, .. } = *region;
        match region.backend {
            Backend::Alloc { largest_leaf: largest, .. } => {
                self.table.populate(&Want { gpa, region: range, flags, largest }, access, init)
            }
            Backend::Shared { memory, offset } => {
                let Some(memory) = self.shared.get(memory) else { return Err(Refused::NoSuchPage) };
                let mut shared = Shared { table: &self.table, memory, region: *region, offset, gpa };
                self.table.populate_from(gpa, (flags, access), &mut shared)
            }
            Backend::Private { memory, offset } => {
                let Some(memory) = self.shared.get(memory) else { return Err(Refused::NoSuchPage) };
                let table = &self.table;
                let shared = |region| Shared { table, memory, region, offset, gpa };
                let reads = flags - MappingFlags::WRITE;
                let copies = access.contains(MappingFlags::WRITE)
                    || !reads.is_accessible()
                    || self.format().check_flags(reads).is_err();
                if copies {
                    table.populate_from(gpa, (flags, access), &mut PrivateCopy(shared(*region)))
                } else {
                    let region = Region { flags: reads, ..*region };
                    table.populate_from(gpa, (reads, access), &mut shared(region))
                }
            }
            Backend::Custom { .. } => {
                let Some(page) = page_of(region, gpa) else { return Err(Refused::NoSuchPage) };
                let mut custom = Custom { table: &self.table, backend: &self.backend, page };
                self.table.populate_from(gpa, (flags, access), &mut custom)
            }
            Backend::Paged { .. } => {
                let (Some(page), Some(pager)) = (paged_page(region, gpa), self.backend.pager()) else {
                    return Err(Refused::NoSuchPage);
                };
                self.table.populate_from(
                    gpa,
                    (flags, access),
                    &mut PageIn { table: &self.table, pager, page },
                )
            }
            Backend::Linear { .. } | Backend::Trap { .. } => Err(Refused::NoSuchPage),
        }
    }

    #[cold]
    fn refused(&self, gpa: GuestPhysAddr, access: MappingFlags, refused: Refused) -> FaultError {
        let error = match refused {
            Refused::OutOfMemory => FaultError::OutOfMemory(gpa),
            Refused::NoSuchPage | Refused::NotYet => FaultError::NoSuchPage(gpa),
            Refused::BadFrame(hpa) => FaultError::BadFrame { gpa, hpa },
        };
        warn!("fault `{access}` at {gpa:#x}: {error}");
        error
    }

    #[cold]
    fn no_region(&self, gpa: GuestPhysAddr, access: MappingFlags) -> FaultError {
        let error = if self.range.contains(gpa) {
            FaultError::NoRegion(gpa)
        } else {
            FaultError::OutsideSpace { gpa, space: self.range }
        };
        warn!("fault `{access}` at {gpa:#x}: {error}");
        error
    }

    /// The leaf was idle and is there again. It may lack the permission to write, as any other.
    #[cold]
    fn answer_woken(
        &self,
        region: &Region,
        gpa: GuestPhysAddr,
        access: MappingFlags,
        leaf: &Leaf,
    ) -> Result<FaultOutcome, FaultError> {
        let refused = leaf.clean || !leaf.flags.contains(MappingFlags::WRITE);
        if access.contains(MappingFlags::WRITE) && refused {
            return self.answer_present(region, gpa, access, false);
        }
        trace!("fault `{access}` at {gpa:#x}: was idle");
        Ok(FaultOutcome::Marked)
    }

    /// The region allows the access and the leaf is there: it lacks a permission that the region has, or a mark, or this CPU
    /// remembers an older refusal.
    fn answer_present(
        &self,
        region: &Region,
        gpa: GuestPhysAddr,
        access: MappingFlags,
        unshared: bool,
    ) -> Result<FaultOutcome, FaultError> {
        if access.contains(MappingFlags::WRITE) {
            if region.backend.is_copied_on_write() {
                // Whose the frame is, the memory or a version, is not known of a private mapping.
                let from_version = !matches!(region.backend, Backend::Private { .. });
                let written = self.table.write_shared(gpa, region.flags, from_version);
                match written.map_err(|OutOfMemory| self.refused(gpa, access, Refused::OutOfMemory))? {
                    Unshared::Never => {}
                    Unshared::Copied(size) => {
                        trace!("fault `{access}` at {gpa:#x}: copied {size}");
                        return Ok(FaultOutcome::Copied(size));
                    }
                    Unshared::TakenOver => {
                        self.table.forget_refusal(gpa);
                        trace!("fault `{access}` at {gpa:#x}: taken over");
                        return Ok(FaultOutcome::MadeWritable);
                    }
                    Unshared::Unsettled => return Ok(FaultOutcome::Retry),
                }
            }
            match self.table.make_writable(gpa, region.flags, region.log, access) {
                MadeWritable::Already => {}
                MadeWritable::Now => {
                    self.table.forget_refusal(gpa);
                    trace!("fault `{access}` at {gpa:#x}: made writable");
                    return Ok(FaultOutcome::MadeWritable);
                }
            }
        }
        if unshared {
            trace!("fault `{access}` at {gpa:#x}: unshared tables");
            return Ok(FaultOutcome::Unshared);
        }
        Ok(self.spurious(gpa, access))
    }

    /// Makes the tables above `gpa` the space's own, if they are shared with a fork or a snapshot; returns whether any was.
    #[inline]
    fn unshare_for_fault(&self, gpa: GuestPhysAddr) -> Result<bool, Refused> {
        if !self.table.has_version() || !self.table.unshare_path(gpa)? {
            return Ok(false);
        }
        // This CPU may remember that nothing can be written through the old table, or that there was none.
        if F::TABLES_HAVE_PERMISSIONS || self.format().fences_new_entries() {
            self.table.forget_refusal(gpa);
        }
        Ok(true)
    }

    /// The leaf allows the access: it lacks a mark, or this CPU remembers an older refusal.
    #[cold]
    fn spurious(&self, gpa: GuestPhysAddr, access: MappingFlags) -> FaultOutcome {
        if self.format().marks_by_fault() && self.table.mark_by_fault(gpa, access) {
            trace!("fault `{access}` at {gpa:#x}: marked");
            return FaultOutcome::Marked;
        }
        self.table.forget_refusal(gpa);
        trace!("fault `{access}` at {gpa:#x}: spurious");
        FaultOutcome::Spurious
    }

    /// Populates the window around a fault that was just answered. Best effort: a page that cannot be had now will
    /// fault by itself.
    #[cold]
    fn populate_around(&self, region: &Region, fault: GuestPhysAddr, window: LeafSize, init: &mut Init<'_>) {
        let window = GuestPhysRange::new(fault.align_down(window.bytes()), window.bytes());
        let Some(window) = window.ok().and_then(|window| window.intersection(region.range)) else { return };
        let begin = Begin::now(self.hal());
        let mut pages = 0;
        let mut next = Some(window.start());
        while let Some(gpa) = next.filter(|gpa| *gpa < window.end()) {
            let step = match self.supply(region, gpa, MappingFlags::empty(), init) {
                Ok(Populated::New(size)) => {
                    pages += size.bytes() / PAGE_SIZE;
                    size.bytes()
                }
                Ok(Populated::Present(_) | Populated::Woken(_) | Populated::Unsettled) => PAGE_SIZE,
                Err(_) => break,
            };
            next = gpa.align_down(step).checked_add(step);
        }
        let around = (window.start(), window.size());
        self.over(begin, Operation::PopulateAround, around, || Ok(pages));
    }
}

/// The guest may not do this in `region`.
#[cold]
fn denied(gpa: GuestPhysAddr, access: MappingFlags, region: &Region) -> FaultError {
    let error = FaultError::Permission { gpa, access, region: region.range, allowed: region.flags };
    warn!("fault `{access}` at {gpa:#x}: {error}");
    error
}
