//! Ageing: which pages the guest has not used for a while.

use super::{AddrSpace, CustomBackend};
use crate::addr::{GuestPhysAddr, GuestPhysRange, PAGE_SIZE};
use crate::error::ScanError;
use crate::format::Format;
use crate::hal::Hal;
use crate::operation::Operation;
use crate::table::{Extent, OutOfMemory};
use log::debug;

impl<H: Hal, F: Format, B: CustomBackend> AddrSpace<H, F, B> {
    /// Asks which pages of `size` bytes at `gpa`, both multiples of 4 KiB, the guest or [`memory`](Self::memory) has used
    /// since the last scan. `ages` is the caller's, a byte for each page, 0 in the beginning: the number of scans for which
    /// the page has not been used, up to 255. Calls `visit` for each leaf, or part of one, that has not been used for `least`
    /// scans or more, with its age, in ascending order. Returns the number of 4 KiB pages visited.
    ///
    /// A page that is not there has age 0, and so has a pinned one, which somebody uses without being seen. A leaf that the range covers in part counts
    /// as used.
    ///
    /// Where the hardware keeps accessed flags, they are read and cleared. Elsewhere **the next access to each page faults**
    /// ([`Marked`](crate::FaultOutcome::Marked)), and large leaves stay as large as they are. The guest runs on meanwhile. One
    /// invalidation, if any page was used; it comes after the last call of `visit`. Takes no memory, but for tables
    /// that are shared with a fork or a snapshot. Costs one pass over the leaves. [`evict`](Self::evict) uses the same flags,
    /// so that each of the two takes what it has asked for the first look of the other.
    ///
    /// ```
    /// # use slat::{AddrSpace, GuestPhysAddr, MappingFlags, test_util::HeapHal};
    /// # let mut space = AddrSpace::<HeapHal>::new_empty(GuestPhysAddr::new(0), 1 << 30)?;
    /// # space.map_alloc(GuestPhysAddr::new(0), 0x3000, MappingFlags::READ | MappingFlags::WRITE, true)?;
    /// let mut ages = [0; 3];
    /// for _ in 0..3 {
    ///     space.scan_idle(GuestPhysAddr::new(0), 0x3000, &mut ages, 2, |_, _| {})?;
    ///     // ... the guest runs, and uses the second page:
    ///     space.memory().write(GuestPhysAddr::new(0x1000), &[1])?;
    /// }
    /// let mut idle = Vec::new();
    /// space.scan_idle(GuestPhysAddr::new(0), 0x3000, &mut ages, 2, |range, age| idle.push((range.start().as_u64(), age)))?;
    /// assert_eq!(idle.iter().map(|(start, _)| *start).collect::<Vec<_>>(), [0, 0x2000]);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// [`ScanError`]: a bad range, [`ScanError::AgesTooShort`], [`ScanError::OutOfMemory`]; nothing was asked then.
    pub fn scan_idle(
        &mut self,
        gpa: GuestPhysAddr,
        size: u64,
        ages: &mut [u8],
        least: u8,
        visit: impl FnMut(GuestPhysRange, u8),
    ) -> Result<u64, ScanError> {
        self.observed(Operation::ScanIdle, (gpa, size), move |space| {
            space.scan_idle_unobserved(gpa, size, ages, least, visit)
        })
    }

    #[inline(always)]
    fn scan_idle_unobserved(
        &mut self,
        gpa: GuestPhysAddr,
        size: u64,
        ages: &mut [u8],
        least: u8,
        mut visit: impl FnMut(GuestPhysRange, u8),
    ) -> Result<u64, ScanError> {
        let range = self.checked_range(gpa, size)?;
        let (needed, given) = (size / PAGE_SIZE, ages.len() as u64);
        let Some(ages) = usize::try_from(needed).ok().and_then(|needed| ages.get_mut(..needed)) else {
            return Err(ScanError::AgesTooShort { needed, given });
        };
        self.table.unshare(range, Extent::All).map_err(|OutOfMemory| ScanError::OutOfMemory)?;
        // A linear region's leaves are not all alike any more.
        self.held |= self.table.idles();
        let page = |at: GuestPhysAddr| ((at.as_u64() - range.start().as_u64()) / PAGE_SIZE) as usize;
        let (mut next, mut pages) = (0, 0);
        for region in self.regions.overlapping(range).filter(|region| region.pins == 0) {
            let Some(part) = region.range.intersection(range) else { continue };
            self.table.scan(&mut self.pending, part, &mut |leaf, used| {
                let (start, end) = (page(leaf.start()), page(leaf.end()));
                ages[next..start].fill(0);
                let of_leaf = &mut ages[start..end];
                // Pages that were joined into one leaf are as young as the youngest.
                let youngest = of_leaf.iter().copied().min().unwrap_or(0);
                let age = if used { 0 } else { youngest.saturating_add(1) };
                of_leaf.fill(age);
                next = end;
                if age >= least {
                    pages += (end - start) as u64;
                    visit(leaf, age);
                }
            });
        }
        ages[next..].fill(0);
        self.table.settle(&mut self.pending);
        debug!("scan_idle {range}: {pages} pages idle for {least} scans");
        Ok(pages)
    }
}
