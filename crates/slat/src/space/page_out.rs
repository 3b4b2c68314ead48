//! Paged regions: more memory for guests than the host has, and contents that come later.
//!
//! **Invariants.** A paged region has leaves of 4 KiB only. A page is either in the table or what its pager has of it is
//! all that there is: a frame goes back only after an invalidation, and after the pager took what the guest may have
//! written to it since it was paged in.

use super::backend::{Backend, BackendError, CustomBackend, paged_page};
use super::lend::check_offset;
use super::regions::OFFSET_LIMIT;
use super::{AddrSpace, Region};
use crate::addr::{GuestPhysAddr, GuestPhysRange, PAGE_SIZE};
use crate::error::{MapError, PageOutError};
use crate::flags::MappingFlags;
use crate::format::Format;
use crate::hal::Hal;
use crate::observe::Begin;
use crate::operation::Operation;
use crate::table::{Leaf, OutOfMemory, Verdict};
use log::debug;

/// What became of pages that were to be paged out.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PagedOut {
    /// Pages of 4 KiB that are gone: as many frames went back to the host.
    pub pages: u64,
    /// How many of those the pager was given; it had the others as they were.
    pub written: u64,
    /// Pages of 4 KiB that the pager did not take: they are mapped as they were.
    pub refused: u64,
    /// The first of those, and why.
    pub first_refused: Option<(GuestPhysAddr, BackendError)>,
    /// Pages of 4 KiB whose writes are logged and were not collected yet: they are mapped as they were, so that no write
    /// is lost.
    pub logged: u64,
}

impl<H: Hal, F: Format, B: CustomBackend> AddrSpace<H, F, B> {
    /// Maps `size` bytes at `gpa` to frames of the host, in leaves of 4 KiB, each taken on the first access and filled by
    /// the pager of the space's own backend ([`CustomBackend::pager`]): with its pages of `source`, a number of the
    /// caller's, from `offset` on. `gpa`, `size` and `offset` are multiples of 4 KiB.
    ///
    /// Takes no table and asks the pager for nothing yet. Nothing is to be invalidated.
    /// [`page_out`](Self::page_out) and [`evict`](Self::evict) give frames back and keep the contents;
    /// [`unmap`](Self::unmap), [`discard`](Self::discard), [`clear`](Self::clear) and the end of the space give them back
    /// without a word to the pager, as those of [`map_alloc`](Self::map_alloc).
    ///
    /// # Errors
    /// [`MapError`]: a bad range, flags that the format cannot express, [`MapError::AlreadyMapped`],
    /// [`MapError::NoPager`], [`MapError::UnalignedOffset`], [`MapError::BeyondBackend`] above 256 TiB,
    /// [`MapError::OutOfMemory`] for the region.
    pub fn map_paged(
        &mut self,
        gpa: GuestPhysAddr,
        source: u16,
        offset: u64,
        size: u64,
        flags: MappingFlags,
    ) -> Result<(), MapError> {
        self.observed(Operation::MapPaged, (gpa, size), move |space| {
            space.map_paged_unobserved(gpa, source, offset, size, flags)
        })
    }

    #[inline(always)]
    fn map_paged_unobserved(
        &mut self,
        gpa: GuestPhysAddr,
        source: u16,
        offset: u64,
        size: u64,
        flags: MappingFlags,
    ) -> Result<(), MapError> {
        let range = self.check_map(gpa, size, flags)?;
        if self.backend.pager().is_none() {
            return Err(MapError::NoPager);
        }
        check_offset(offset, size, OFFSET_LIMIT)?;
        self.regions.reserve(self.table.hal(), 1).map_err(|OutOfMemory| MapError::OutOfMemory)?;
        let backend = Backend::Paged { source, offset };
        self.regions.insert(self.table.hal(), Region::new(range, flags, backend));
        debug!("map_paged {range} {flags} {source} + {offset:#x}");
        Ok(())
    }

    /// Takes the pages that are there of `size` bytes at `gpa`, both multiples of 4 KiB, all of them in paged regions, away
    /// from the guest, and gives their frames back to the host. Those that the guest may have written to since they were
    /// paged in (all of them, where the hardware does not tell) are given to the pager first. The next access pages them
    /// in again.
    ///
    /// One invalidation for all of it, if anything was there: the pager is given contents that nobody can change any more.
    /// What it refuses is mapped again as it was, and the others go. So is what a fork or a snapshot shares, and what is dirty
    /// in a [log](Region::log) of writes until that is collected. Takes no memory; empty tables go back too. Costs a
    /// pass over the tables of the range before the invalidation and one after it, beside what the pager does. If the
    /// pager panics and the panic is caught, pages that were not handed over yet answer their faults with
    /// [`FaultOutcome::Retry`](crate::FaultOutcome::Retry) until they are unmapped.
    ///
    /// # Errors
    /// [`PageOutError`]: a bad range, [`PageOutError::NotMapped`], [`PageOutError::NotPaged`] for a region of another
    /// backend, [`PageOutError::Pinned`]. Nothing has changed then.
    pub fn page_out(&mut self, gpa: GuestPhysAddr, size: u64) -> Result<PagedOut, PageOutError> {
        self.observed(Operation::PageOut, (gpa, size), move |space| space.page_out_unobserved(gpa, size))
    }

    #[inline(always)]
    fn page_out_unobserved(&mut self, gpa: GuestPhysAddr, size: u64) -> Result<PagedOut, PageOutError> {
        let range = self.checked_range(gpa, size)?;
        let cover = self.regions.cover(range).map_err(PageOutError::NotMapped)?;
        if let Some(region) = self.regions.overlapping(range).find(|region| !is_paged(region)) {
            return Err(PageOutError::NotPaged(region.range));
        }
        if let Some(pinned) = self.pinned_in(range, &cover) {
            return Err(PageOutError::Pinned(pinned));
        }
        self.table.settle(&mut self.pending);
        self.table.break_pages(&mut self.pending, range, |_, _| Verdict::Take);
        let out = self.hand_over(&[Some(range)]);
        debug!("page_out {range}: {out:?}");
        Ok(out)
    }

    /// Pages out up to `most` pages of paged regions that the guest has not used lately, having looked at up to
    /// `most_looks`; each call goes on where the last one stopped. What is pinned stays.
    ///
    /// Where the hardware tells what was used (`Mapping::accessed`), a page that was keeps its frame and loses that mark,
    /// and goes if it has not been used until the next time round: a clock with a second chance. Elsewhere pages go one
    /// after the other. A call goes round twice at most.
    ///
    /// One invalidation for all of it, and otherwise as [`page_out`](Self::page_out). Costs as much as there is to be
    /// looked at: a step for each page, for each empty entry of its table, and for each region passed over.
    ///
    /// The answer to a fault that found no memory:
    ///
    /// ```
    /// use slat::test_util::{HeapHal, MemoryPager};
    /// use slat::{AddrSpace, FaultError, FaultOutcome, GuestPhysAddr, MappingFlags, PagerBackend};
    /// type Guest<'h> = AddrSpace<&'h HeapHal, slat::format::ept::Ept, PagerBackend<MemoryPager>>;
    ///
    /// fn fault(guest: &mut Guest<'_>, gpa: GuestPhysAddr) -> Result<FaultOutcome, FaultError> {
    ///     loop {
    ///         match guest.handle_page_fault(gpa, MappingFlags::WRITE) {
    ///             // The frame and the tables on the way: at most as many as there are levels.
    ///             Err(FaultError::OutOfMemory(_)) if guest.evict(8, u64::MAX).pages > 0 => {}
    ///             answer => return answer,
    ///         }
    ///     }
    /// }
    ///
    /// let host = HeapHal::new();
    /// let (start, pager) = (GuestPhysAddr::new(0), PagerBackend(MemoryPager::new()));
    /// let mut guest = Guest::with_backend(&host, Default::default(), start, 1 << 30, 1, pager)?;
    /// guest.map_paged(start, 0, 0, 1 << 20, MappingFlags::READ | MappingFlags::WRITE)?;
    /// guest.populate(start, 64 << 12)?;
    /// host.limit_in_use(Some(host.in_use())); // not a frame more
    /// assert!(matches!(fault(&mut guest, GuestPhysAddr::new(0x40000))?, FaultOutcome::Populated(_)));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn evict(&mut self, most: u64, most_looks: u64) -> PagedOut {
        let begin = Begin::now(self.hal());
        let out = self.evict_unobserved(most, most_looks);
        self.over(begin, Operation::Evict, self.whole(), || Ok(out.pages));
        out
    }

    #[inline(always)]
    fn evict_unobserved(&mut self, most: u64, most_looks: u64) -> PagedOut {
        self.table.settle(&mut self.pending);
        let Self { table, regions, pending, range, hand, .. } = self;
        let mut clock = Clock { most, most_looks, taken: 0, looks: 0, hand: *hand };
        let round =
            [GuestPhysRange::between(*hand, range.end()), GuestPhysRange::between(range.start(), *hand)];
        let mut passed = [None; 2];
        // The first time round what was used loses its mark; the second time it goes.
        'rounds: for first in [true, false] {
            for (part, passed) in round.into_iter().zip(&mut passed) {
                let Some(part) = part else { continue };
                for region in regions.overlapping(part).filter(|region| is_paged(region) && region.pins == 0)
                {
                    let Some(piece) = region.range.intersection(part) else { continue };
                    let logged = region.log.is_some();
                    table.break_pages(pending, piece, |gpa, leaf| {
                        clock.judge(gpa, leaf, logged && table.is_dirty(leaf))
                    });
                    if clock.is_done() {
                        if first {
                            *passed = GuestPhysRange::between(part.start(), clock.hand);
                        }
                        break 'rounds;
                    }
                }
                *passed = Some(part);
            }
        }
        *hand = if clock.hand < range.end() { clock.hand } else { range.start() };
        let out = self.hand_over(&passed);
        debug!("evict {most}: {out:?} of {}", clock.looks);
        out
    }

    /// Settles what is owed, and hands what was taken out of the paged regions in `ranges` over to the pager.
    fn hand_over(&mut self, ranges: &[Option<GuestPhysRange>]) -> PagedOut {
        self.table.settle(&mut self.pending);
        let Self { backend, table, regions, pending, .. } = self;
        let mut out = PagedOut::default();
        for range in ranges.iter().flatten() {
            for region in regions.overlapping(*range).filter(is_paged) {
                let Some(part) = region.range.intersection(*range) else { continue };
                table.finish_pages(pending, part, &mut |gpa, leaf: &Leaf, bytes| {
                    if region.log.is_some() && table.is_dirty(leaf) {
                        out.logged += 1;
                        return false;
                    }
                    // A log that was collected has taken marks away.
                    let told = table.format().dirty_bit() != 0 && region.log.is_none();
                    let written = leaf.dirty || !told;
                    let kept = match (written, backend.pager(), paged_page(&region, gpa)) {
                        (false, ..) => Ok(()),
                        (true, Some(pager), Some(page)) => pager.page_out(&page, bytes),
                        (true, ..) => Err(BackendError::NoSuchPage),
                    };
                    match kept {
                        Ok(()) => {
                            out.pages += 1;
                            out.written += u64::from(written);
                        }
                        Err(error) => {
                            out.refused += 1;
                            out.first_refused = out.first_refused.or(Some((gpa, error)));
                        }
                    }
                    kept.is_ok()
                });
            }
        }
        out
    }
}

/// Chooses what is evicted.
struct Clock {
    most: u64,
    most_looks: u64,
    taken: u64,
    looks: u64,
    /// Behind the last page that was looked at.
    hand: GuestPhysAddr,
}

impl Clock {
    fn is_done(&self) -> bool {
        self.taken == self.most || self.looks == self.most_looks
    }

    /// `stays` says that it could not go anyway.
    fn judge(&mut self, gpa: GuestPhysAddr, leaf: &Leaf, stays: bool) -> Verdict {
        if self.is_done() {
            return Verdict::Stop;
        }
        self.looks += 1;
        self.hand = gpa.checked_add(PAGE_SIZE).unwrap_or(gpa);
        if leaf.accessed && leaf.flags.is_accessible() || stays {
            return Verdict::Unmark;
        }
        self.taken += 1;
        Verdict::Take
    }
}

fn is_paged(region: &Region) -> bool {
    matches!(region.backend, Backend::Paged { .. })
}
