//! The dirty log: which pages the guest has written to, without stopping it.
//!
//! **Invariant:** whatever a guest wrote is told by a later collection, or still stands in the leaf. A collection makes
//! leaves clean first and invalidates then: a write before the invalidation is part of what it tells, one after it finds a
//! clean leaf. So contents are read after the collection returned, never in its `visit`.

use super::change::split_edges;
use super::{AddrSpace, Backend, CustomBackend, Region};
use crate::addr::{GuestPhysAddr, GuestPhysRange, PAGE_SIZE};
use crate::error::{CollectLogError, StartLogError, StopLogError};
use crate::format::Format;
use crate::hal::Hal;
use crate::observe::Begin;
use crate::operation::Operation;
use crate::table::{Extent, LogUnit, OutOfMemory};
use log::debug;

/// Whether there is memory of which writes can be logged. The registers of a device are nobody's pages.
fn has_memory(region: &Region) -> bool {
    !matches!(region.backend, Backend::Trap { .. })
}

/// What is not logged of what should be.
enum Unlogged {
    NotMapped(GuestPhysAddr),
    NotLogged(GuestPhysRange),
}

impl<H: Hal, F: Format, B: CustomBackend> AddrSpace<H, F, B> {
    /// Begins to log which pages of `size` bytes at `gpa`, both multiples of 4 KiB, all of them mapped, are written to, by the
    /// guest and by [`memory`](Self::memory), in the unit `unit`. All that is there is clean from now on; what is populated
    /// later is dirty, for whoever has a copy knows nothing of it. Trap regions are passed over. The log is a property of
    /// the regions and stays when they are protected, moved, split and joined; what is unmapped or discarded goes with its
    /// marks. Writes of devices to pinned pages and of other spaces to shared memory are not seen.
    ///
    /// The guest runs on meanwhile. One invalidation. Large leaves at the edges are split; others stay as they are: with
    /// [`LogUnit::Page`] the first write to one faults and splits it, and takes a frame for the table
    /// ([`top_up`](Self::top_up) keeps some ready); where the host has none, all of the leaf is dirty. Takes no other memory.
    /// Where the hardware keeps dirty flags, a write to a 4 KiB leaf costs the guest nothing; elsewhere the first one after
    /// each collection faults ([`MadeWritable`](crate::FaultOutcome::MadeWritable)). Costs one change of each leaf; a large one
    /// is one.
    ///
    /// ```
    /// # use slat::{AddrSpace, GuestPhysAddr, LogUnit, MappingFlags, test_util::HeapHal};
    /// # let mut space = AddrSpace::<HeapHal>::new_empty(GuestPhysAddr::new(0), 1 << 30)?;
    /// space.map_alloc(GuestPhysAddr::new(0), 0x10000, MappingFlags::READ | MappingFlags::WRITE, true)?;
    /// space.start_dirty_log(GuestPhysAddr::new(0), 0x10000, LogUnit::Page)?;
    /// // ... all pages are copied, while the guest runs and writes:
    /// space.memory().write(GuestPhysAddr::new(0x3ffc), &[1; 8])?;
    /// // ... and those again that it wrote to:
    /// let mut again = Vec::new();
    /// space.collect_dirty(GuestPhysAddr::new(0), 0x10000, |range| again.push(range))?;
    /// assert_eq!(again.len(), 1);
    /// assert_eq!((again[0].start(), again[0].size()), (GuestPhysAddr::new(0x3000), 0x2000));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// [`StartLogError`]: a bad range, [`StartLogError::NotMapped`] with the first address that no region covers,
    /// [`StartLogError::AlreadyLogged`] if some of it is, [`StartLogError::OutOfMemory`].
    pub fn start_dirty_log(
        &mut self,
        gpa: GuestPhysAddr,
        size: u64,
        unit: LogUnit,
    ) -> Result<(), StartLogError> {
        self.observed(Operation::StartDirtyLog, (gpa, size), move |space| {
            space.start_dirty_log_unobserved(gpa, size, unit)
        })
    }

    #[inline(always)]
    fn start_dirty_log_unobserved(
        &mut self,
        gpa: GuestPhysAddr,
        size: u64,
        unit: LogUnit,
    ) -> Result<(), StartLogError> {
        let range = self.checked_range(gpa, size)?;
        let cover = self.regions.cover(range).map_err(StartLogError::NotMapped)?;
        if let Some(logged) = self.regions.overlapping(range).find(|region| region.log.is_some()) {
            return Err(StartLogError::AlreadyLogged(logged.range));
        }
        let out_of_memory = |OutOfMemory| StartLogError::OutOfMemory;
        self.table.unshare(range, Extent::All).map_err(out_of_memory)?;
        split_edges(&self.table, &mut self.regions, &mut self.pending, range).map_err(out_of_memory)?;
        self.held = true;
        self.table.ungroup_all(&mut self.pending, range);
        self.regions.update(self.table.hal(), range, cover, |region| {
            Some(Region { log: has_memory(&region).then_some(unit), ..region })
        });
        self.clean(range, &mut |_| {});
        debug!("start_dirty_log {range} {unit:?}");
        Ok(())
    }

    /// Calls `visit` for the pages of `size` bytes at `gpa`, both multiples of 4 KiB, that may have been written to or were
    /// populated since [`start_dirty_log`](Self::start_dirty_log) or the last collection, and makes them clean: in ascending
    /// order, neighbours joined into one range. Returns the number of 4 KiB pages.
    ///
    /// The guest runs on meanwhile. At most one invalidation, after the last call of `visit`: **the contents are to be read
    /// after this has returned,** for until then a CPU may write to a page without its being told again. A large leaf that is
    /// dirty is told as a whole; one that the range covers in part stays dirty, so that the rest is not lost. Takes no
    /// memory, but for tables that are shared with a fork or a snapshot. Costs one pass over the tables of the range, and one change of each dirty leaf.
    ///
    /// # Errors
    /// [`CollectLogError`]: a bad range, [`CollectLogError::NotMapped`], [`CollectLogError::NotLogged`] with the first region
    /// that is not logged, [`CollectLogError::OutOfMemory`]; nothing was visited then.
    pub fn collect_dirty(
        &mut self,
        gpa: GuestPhysAddr,
        size: u64,
        visit: impl FnMut(GuestPhysRange),
    ) -> Result<u64, CollectLogError> {
        self.observed(Operation::CollectDirty, (gpa, size), move |space| {
            space.collect_dirty_unobserved(gpa, size, visit)
        })
    }

    #[inline(always)]
    fn collect_dirty_unobserved(
        &mut self,
        gpa: GuestPhysAddr,
        size: u64,
        mut visit: impl FnMut(GuestPhysRange),
    ) -> Result<u64, CollectLogError> {
        let range = self.checked_range(gpa, size)?;
        self.check_logged(range)?;
        self.table.unshare(range, Extent::All).map_err(|OutOfMemory| CollectLogError::OutOfMemory)?;
        let pages = self.clean(range, &mut visit);
        debug!("collect_dirty {range}: {pages} pages");
        Ok(pages)
    }

    /// As [`collect_dirty`](Self::collect_dirty), into a bitmap: bit `n % 64` of word `n / 64` stands for the `n`th page
    /// from `gpa` on. Bits are set and none is cleared, so that several collections can add up. Returns the number of dirty
    /// pages.
    ///
    /// # Errors
    /// As [`collect_dirty`](Self::collect_dirty); [`CollectLogError::BitmapTooSmall`].
    pub fn collect_dirty_bitmap(
        &mut self,
        gpa: GuestPhysAddr,
        size: u64,
        bitmap: &mut [u64],
    ) -> Result<u64, CollectLogError> {
        let (needed, given) = ((size / PAGE_SIZE).div_ceil(64), bitmap.len() as u64);
        if needed > given {
            return Err(CollectLogError::BitmapTooSmall { needed, given });
        }
        self.collect_dirty(gpa, size, |dirty| {
            let page = |at: GuestPhysAddr| (at.as_u64() - gpa.as_u64()) / PAGE_SIZE;
            set_bits(bitmap, page(dirty.start()), page(dirty.end()));
        })
    }

    /// As [`collect_dirty`](Self::collect_dirty) for the pages around `written` alone, which somebody else has noted: the
    /// hardware (Intel's page-modification log), or whoever answered a fault. Calls `visit` for each leaf that was dirty, in
    /// the order of `written`, and makes it clean. Addresses outside of what is logged, and those without a leaf, are passed
    /// over and counted: the result. An address may come more than once.
    ///
    /// The hardware notes the writes of the guest. It does not note what a fault
    /// [populated](crate::FaultOutcome::Populated) or [copied](crate::FaultOutcome::Copied), nor what
    /// [`memory`](Self::memory) wrote: either somebody adds their addresses, or the last collection is one of [`collect_dirty`](Self::collect_dirty), which finds everything.
    ///
    /// At most one invalidation, as there. Costs one walk for each address, whatever the size of the space. After a
    /// [fork](Self::fork), takes frames for copies of the tables above; a page for which there are none is told and stays
    /// dirty.
    pub fn collect_logged(
        &mut self,
        written: impl IntoIterator<Item = GuestPhysAddr>,
        mut visit: impl FnMut(GuestPhysRange),
    ) -> u64 {
        let mut told = 0;
        let visit = |dirty: GuestPhysRange| {
            told += dirty.size() / PAGE_SIZE;
            visit(dirty);
        };
        let begin = Begin::now(self.hal());
        let passed_over = self.collect_logged_unobserved(written, visit);
        debug!("collect_logged: {told} pages, {passed_over} addresses passed over");
        self.over(begin, Operation::CollectLogged, self.whole(), || Ok(told));
        passed_over
    }

    #[inline(always)]
    fn collect_logged_unobserved(
        &mut self,
        written: impl IntoIterator<Item = GuestPhysAddr>,
        mut visit: impl FnMut(GuestPhysRange),
    ) -> u64 {
        let mut passed_over = 0;
        for gpa in written {
            let region = self.regions.find(gpa);
            let logged = region.and_then(|region| Some((region.range, region.log?)));
            let leaf = logged.and_then(|(region, unit)| match self.table.unshare_path(gpa) {
                Ok(_) => self.table.clean_one(&mut self.pending, gpa, region, unit),
                // It stays dirty, so that it is told once more.
                Err(OutOfMemory) => {
                    let page = GuestPhysRange::new(gpa.align_down(PAGE_SIZE), PAGE_SIZE).ok()?;
                    let leaf = self.table.leaves(page).next()?;
                    Some(leaf.dirty.then(|| leaf.range().intersection(region)).flatten())
                }
            });
            match leaf {
                Some(dirty) => dirty.into_iter().for_each(&mut visit),
                None => passed_over += 1,
            }
        }
        self.table.hal().publish();
        self.table.settle(&mut self.pending);
        passed_over
    }

    /// Ends the log of `size` bytes at `gpa`, both multiples of 4 KiB: the guest has all of its permissions again, at once.
    /// What was not collected is not told any more. The leaves of a custom backend or a pager count as written to from now on
    /// ([`give_back`](CustomBackend::give_back), [`page_out`](Self::page_out)), for the log may have collected that they were.
    ///
    /// One invalidation, if anything was held back from the guest. Large leaves that were split stay split
    /// ([`collapse`](Self::collapse) joins them). Costs one pass over the leaves.
    ///
    /// # Errors
    /// [`StopLogError`]: a bad range, [`StopLogError::NotMapped`], [`StopLogError::NotLogged`] with the first region that is
    /// not logged, [`StopLogError::OutOfMemory`] if a region must be divided and there is no memory for that. The log goes on
    /// then.
    pub fn stop_dirty_log(&mut self, gpa: GuestPhysAddr, size: u64) -> Result<(), StopLogError> {
        self.observed(Operation::StopDirtyLog, (gpa, size), move |space| {
            space.stop_dirty_log_unobserved(gpa, size)
        })
    }

    #[inline(always)]
    fn stop_dirty_log_unobserved(&mut self, gpa: GuestPhysAddr, size: u64) -> Result<(), StopLogError> {
        let range = self.checked_range(gpa, size)?;
        self.check_logged(range)?;
        let cover = self.regions.cover(range).map_err(StopLogError::NotMapped)?;
        let out_of_memory = |OutOfMemory| StopLogError::OutOfMemory;
        self.table.unshare(range, Extent::All).map_err(out_of_memory)?;
        self.regions.reserve(self.table.hal(), 2).map_err(out_of_memory)?;
        for region in self.regions.overlapping(range).filter(|region| region.log.is_some()) {
            let Some(part) = region.range.intersection(range) else { continue };
            // Frames of the host that are not the space's alone are shared, and somebody else reads them.
            let alone = region.backend.is_copied_on_write();
            let written = matches!(region.backend, Backend::Custom { .. } | Backend::Paged { .. });
            self.table.end_log(&mut self.pending, part, (region.flags, alone, written));
        }
        self.regions.update(self.table.hal(), range, cover, |region| Some(Region { log: None, ..region }));
        self.table.settle(&mut self.pending);
        debug!("stop_dirty_log {range}");
        Ok(())
    }

    /// Makes what is logged of `range` clean, calls `visit` for what was dirty of it, and settles what is owed. Returns the
    /// number of pages.
    fn clean(&mut self, range: GuestPhysRange, visit: &mut impl FnMut(GuestPhysRange)) -> u64 {
        let mut pages = 0;
        for region in self.regions.overlapping(range) {
            if let (Some(part), Some(unit)) = (region.range.intersection(range), region.log) {
                self.table.clean(&mut self.pending, part, unit, &mut |dirty: GuestPhysRange| {
                    pages += dirty.size() / PAGE_SIZE;
                    visit(dirty);
                });
            }
        }
        self.table.settle(&mut self.pending);

        pages
    }

    /// Whether all of `range` is logged or the registers of a device.
    fn check_logged(&self, range: GuestPhysRange) -> Result<(), Unlogged> {
        if let Some(hole) = self.regions.first_hole(range) {
            return Err(Unlogged::NotMapped(hole));
        }
        let unlogged = |region: &Region| has_memory(region) && region.log.is_none();
        match self.regions.overlapping(range).find(unlogged) {
            Some(region) => Err(Unlogged::NotLogged(region.range)),
            None => Ok(()),
        }
    }

    /// Holds back the permission to write from clean large leaves in `range`, after its flags were changed, where its log is
    /// of pages.
    pub(super) fn hold_large(&mut self, range: GuestPhysRange) {
        for region in self.regions.overlapping(range) {
            if let (Some(part), Some(LogUnit::Page)) = (region.range.intersection(range), region.log) {
                self.table.hold_large(&mut self.pending, part);
            }
        }
    }
}

impl From<Unlogged> for CollectLogError {
    fn from(reason: Unlogged) -> Self {
        match reason {
            Unlogged::NotMapped(gpa) => Self::NotMapped(gpa),
            Unlogged::NotLogged(region) => Self::NotLogged(region),
        }
    }
}

impl From<Unlogged> for StopLogError {
    fn from(reason: Unlogged) -> Self {
        match reason {
            Unlogged::NotMapped(gpa) => Self::NotMapped(gpa),
            Unlogged::NotLogged(region) => Self::NotLogged(region),
        }
    }
}

/// Sets the bits from `first` up to, not including, `end`, all of which the words have.
fn set_bits(words: &mut [u64], first: u64, end: u64) {
    let mut bit = first;
    while bit < end {
        let (word, low) = ((bit / 64) as usize, bit % 64);
        let count = (64 - low).min(end - bit);
        words[word] |= u64::MAX >> (64 - count) << low;
        bit += count;
    }
}
