//! Forks, snapshots, and going back to one.
//!
//! A fork freezes the table into a version (`table/version.rs`) that both spaces begin with; nothing of it is copied until
//! one of them writes. So it costs the entries of the root that are in use and one invalidation, however large the guest is.

use super::backend::Attached;
use super::change::split_edges;
use super::regions::Regions;
use super::{AddrSpace, Backend, CustomBackend, Region};
use crate::addr::{GuestPhysAddr, GuestPhysRange};
use crate::error::{ForkError, InheritError, ResetError};
use crate::format::Format;
use crate::frame::FrameStack;
use crate::hal::Hal;
use crate::observe::Begin;
use crate::operation::Operation;
use crate::table::{Extent, OutOfMemory, Ownership, Table, Version};
use crate::tlb::Pending;
use core::fmt;
use log::debug;

impl<H: Hal, F: Format, B: CustomBackend> AddrSpace<H, F, B> {
    /// A second space with the same regions and the same contents at this moment, under `tag`. Nothing is copied: each of the
    /// two gets a copy of its own of what it writes to, when it does
    /// ([`FaultOutcome::Copied`](crate::FaultOutcome::Copied)), and of the tables above. Large leaves are shared whole, and
    /// split on the first write.
    ///
    /// - Memory of [`map_alloc`](Self::map_alloc) is copied on write. What is not populated yet, each populates by itself.
    /// - So is what is there of [`map_paged`](Self::map_paged) regions. For the rest each asks its own pager: that of the fork has
    ///   to answer as the other one would at this moment.
    /// - Linear memory, devices and shared memory stay mapped in both.
    /// - Memory of [`map_paged`](Self::map_paged) is copied on write as far as it is there, and not
    ///   [paged out](Self::page_out) while it is shared. The rest comes from the fork's own pager, which must have what the
    ///   parent's has at this moment, and may have no page in common with it that is paged out later.
    /// - Pages of a custom backend are not in the fork, which asks its own backend for them.
    /// - What [`set_in_children`](Self::set_in_children) excludes is not in the fork.
    /// - Pinned pages stay where they are; the fork gets copies at once, and no pins. Writes are not logged in the fork.
    ///
    /// The guest goes on running; what it writes until the invalidation is done may or may not be seen by the fork. **One
    /// invalidation, of the space on all CPUs; none if nothing was written to since an earlier fork;** a second one on EPT and
    /// NPT if anything is pinned. Takes the frames of a
    /// root, one for each 250 entries of the root that are in use, and one for up to 170 regions. Costs as much as there are
    /// regions and used entries of the root, whatever lies below. What earlier forks have left behind that nobody needs any
    /// more is given back, at the cost of what was written since.
    ///
    /// A page that all who share it have replaced stays taken until all but one of them are gone or fork again.
    ///
    /// ```
    /// use slat::{AddrSpace, FaultOutcome, GuestPhysAddr, LeafSize, MappingFlags, test_util::HeapHal};
    ///
    /// let host = HeapHal::new();
    /// let (page, rw) = (GuestPhysAddr::new(0x1000), MappingFlags::READ | MappingFlags::WRITE);
    /// let mut parent: AddrSpace<&HeapHal> =
    ///     AddrSpace::with_format(&host, Default::default(), GuestPhysAddr::new(0), 1 << 30, 1)?;
    /// parent.map_alloc(page, 0x1000, rw, true)?;
    ///
    /// let child = parent.fork(2)?;
    /// assert_eq!(child.translate(page), parent.translate(page));
    /// assert_eq!(child.handle_page_fault(page, MappingFlags::WRITE)?, FaultOutcome::Copied(LeafSize::Size4K));
    /// assert_ne!(child.translate(page), parent.translate(page));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// [`ForkError`]: a tag that is too wide, [`ForkError::OtherHost`] if a clone of the host is another one,
    /// [`ForkError::OutOfMemory`]. Nothing has changed then.
    pub fn fork(&mut self, tag: u16) -> Result<Self, ForkError>
    where
        H: Clone,
        B: Clone,
    {
        let (hal, backend) = (self.hal().clone(), self.backend.clone());
        self.fork_with(hal, backend, tag)
    }

    /// As [`fork`](Self::fork), with a value for the same host and a backend of the fork's own.
    ///
    /// # Errors
    /// As [`fork`](Self::fork).
    pub fn fork_with(&mut self, hal: H, backend: B, tag: u16) -> Result<Self, ForkError> {
        self.observed(Operation::Fork, self.whole(), move |space| space.fork_as(hal, backend, tag, false))
    }

    /// As [`fork_with`](Self::fork_with); `still` makes what the fork begins with a version, which it is then the only one to
    /// hold if it lacks anything that this space has.
    fn fork_as(&mut self, hal: H, backend: B, tag: u16, still: bool) -> Result<Self, ForkError> {
        let format = *self.format();
        if u32::from(tag) >> format.tag_bits() != 0 {
            return Err(ForkError::TagTooWide { tag, tag_bits: format.tag_bits() });
        }
        if !self.hal().is_same_host(&hal) {
            return Err(ForkError::OtherHost);
        }
        self.table.settle(&mut self.pending);
        let table = Table::new(hal, format, tag).ok_or(ForkError::OutOfMemory)?;
        let (shared, regions, pending) = (Attached::new(), Regions::new(), Pending::NONE);
        let mut child = Self {
            backend,
            shared,
            lent: false,
            held: self.held,
            table,
            regions,
            pending,
            range: self.range,
            hand: self.hand,
        };
        // Dropping the child gives back whatever it has by then.
        self.begin_child(&mut child, still).map_err(|OutOfMemory| ForkError::OutOfMemory)?;
        let name = if still { "snapshot" } else { "fork" };
        debug!("{name} {}: tag {tag}", self.range);
        Ok(child)
    }

    fn begin_child(&mut self, child: &mut Self, still: bool) -> Result<(), OutOfMemory> {
        child.copy_regions(self)?;
        let mut cut = self.plan_cut()?;
        // A child has no more entries of the root than its parent.
        let chunks =
            if still && self.regions().any(|region| is_cut(&region)) { self.table.plan_freeze() } else { 0 };
        let mut chunks = FrameStack::with(self.table.hal(), 0, chunks).ok_or(OutOfMemory)?;
        let version = match self.table.version().filter(|_| self.table.is_as_version()) {
            Some(version) => version,
            None => {
                let version = self.freeze()?;
                child.begin(version, &mut cut, &mut chunks);
                drop((cut, chunks));
                self.table.set_version(version);
                self.table.compact(version);
                return Ok(());
            }
        };
        child.begin(version, &mut cut, &mut chunks);
        drop((cut, chunks));
        self.table.compact(version);
        Ok(())
    }

    /// Takes over regions and shared memories of a parent, without pins and logs; the table comes
    /// [later](Self::begin). On an error the space is to be dropped.
    fn copy_regions(&mut self, parent: &Self) -> Result<(), OutOfMemory> {
        (self.regions, self.shared) = parent.copies_of_regions(self.table.hal())?;
        self.lent = parent.lent;
        Ok(())
    }

    /// The regions, without pins and logs, and the shared memories, each held once more, in frames of `hal`.
    fn copies_of_regions(&self, hal: &H) -> Result<(Regions, Attached<H>), OutOfMemory> {
        let (mut regions, mut shared) = (Regions::new(), Attached::new());
        let filled = self.regions().try_for_each(|region| {
            regions.reserve(hal, 1)?;
            regions.insert(hal, Region { pins: 0, log: None, ..region });
            Ok(())
        });
        let filled =
            filled.and_then(|()| if self.shared.frames() > 0 { shared.reserve(hal) } else { Ok(()) });
        if let Err(error) = filled {
            regions.clear(hal);
            return Err(error);
        }
        shared.copy_from(&self.shared);
        Ok((regions, shared))
    }

    /// Takes the frames that [`begin`](Self::begin) of a child needs at the most, whose parent this is.
    fn plan_cut(&self) -> Result<FrameStack<'_, H>, OutOfMemory> {
        let cut = self.regions().filter(is_cut);
        let tables = cut.map(|region| self.table.plan_unshare(region.range, Extent::Edges, true)).sum();
        FrameStack::with(self.table.hal(), 0, tables).ok_or(OutOfMemory)
    }

    /// Begins an empty table, which no CPU walks yet, with what a version is, and takes out what a child does not have. What is left
    /// becomes a version if there are `chunks` for it.
    fn begin(&mut self, version: Version, cut: &mut FrameStack<'_, H>, chunks: &mut FrameStack<'_, H>) {
        self.table.begin_as(version);
        let mut next = self.range.start();
        while let Some(region) = GuestPhysRange::between(next, self.range.end())
            .and_then(|rest| self.regions.overlapping(rest).find(is_cut))
        {
            next = region.range.end();
            self.table.unshare_planned(region.range, Extent::Edges, cut);
            self.table.retire(&mut self.pending, region.range, Ownership::Foreign);
            self.table.settle_unwalked(&mut self.pending);
            if !region.in_children {
                self.let_go(region.range);
                let Ok(cover) = self.regions.cover(region.range) else { continue };
                self.regions.remove(self.table.hal(), region.range, cover);
            }
        }
        if !chunks.is_empty() {
            let left = self.table.freeze(chunks);
            self.table.set_version(left);
        }
    }

    /// Makes what the table is a version; every CPU forgets the space.
    fn freeze(&self) -> Result<Version, OutOfMemory> {
        let pinned = || {
            let pinned = |region: &Region| region.pins > 0 && region.backend.is_copied_on_write();
            self.regions().filter(pinned).map(|region| region.range)
        };
        let tables = pinned().map(|range| self.table.plan_unshare(range, Extent::All, true)).sum();
        let mut tables = FrameStack::with(self.table.hal(), 0, tables).ok_or(OutOfMemory)?;
        let mut copies = [0, 1, 2].map(|level| FrameStack::new(self.table.hal(), level));
        pinned().try_for_each(|range| self.table.plan_copies(range, &mut copies))?;
        let chunks = self.table.plan_freeze();
        let mut chunks = FrameStack::with(self.table.hal(), 0, chunks).ok_or(OutOfMemory)?;

        let version = self.table.freeze(&mut chunks);
        self.table.invalidate_space();
        // What is pinned gets tables of its own: only now, when the hardware marks nothing as dirty any more in those of the
        // version that they are copied from, and where Arm has broken what it makes.
        for range in pinned() {
            self.table.unshare_planned(range, Extent::All, &mut tables);
            self.table.keep_leaves(version, range);
        }
        if F::TABLES_HAVE_PERMISSIONS && pinned().next().is_some() {
            // No CPU may read in the version what is about to change there.
            self.table.invalidate_space();
        }
        pinned().for_each(|range| self.table.copy_leaves(version, range, &mut copies));
        Ok(version)
    }

    /// What the space is at this moment, to [go back](Self::reset) to: a fork that never runs, with all that is said of
    /// [`fork`](Self::fork).
    ///
    /// # Errors
    /// As [`fork`](Self::fork).
    pub fn snapshot(&mut self) -> Result<Snapshot<H, F, B>, ForkError>
    where
        H: Clone,
        B: Clone,
    {
        let (hal, backend) = (self.hal().clone(), self.backend.clone());
        let mut space = self
            .observed(Operation::Snapshot, self.whole(), move |space| space.fork_as(hal, backend, 0, true))?;
        space.table.set_unwalked();
        let Some(version) = space.table.hold_version() else { unreachable!("a fork begins with a version") };
        Ok(Snapshot { space, version })
    }

    /// Makes the space what it was when `snapshot` was taken, of this space or of another one of the same size on the same host
    /// and in the same format: regions and contents, but for what the snapshot leaves out
    /// ([custom backends](Self::map_custom), which are asked anew, and what [`set_in_children`](Self::set_in_children)
    /// excludes). The snapshot can be used again.
    ///
    /// One invalidation. Costs as much as was written since, and as there are regions; nothing is copied.
    ///
    /// # Errors
    /// [`ResetError::Pinned`], [`ResetError::OtherHost`], [`ResetError::OtherShape`], [`ResetError::OutOfMemory`]. Nothing
    /// has changed then.
    pub fn reset(&mut self, snapshot: &Snapshot<H, F, B>) -> Result<(), ResetError> {
        self.observed(Operation::Reset, self.whole(), move |space| space.reset_unobserved(snapshot))
    }

    #[inline(always)]
    fn reset_unobserved(&mut self, snapshot: &Snapshot<H, F, B>) -> Result<(), ResetError> {
        let from = &snapshot.space;
        if let Some(region) = self.regions.iter().find(|region| region.pins > 0) {
            return Err(ResetError::Pinned(region.range));
        }
        if !self.hal().is_same_host(from.hal()) {
            return Err(ResetError::OtherHost);
        }
        if self.format() != from.format() || self.range != from.range {
            return Err(ResetError::OtherShape);
        }
        let copies = from.copies_of_regions(self.table.hal());
        let (regions, shared) = copies.map_err(|OutOfMemory| ResetError::OutOfMemory)?;

        self.take_back_all();
        self.table.retire(&mut self.pending, self.range, Ownership::Owned);
        self.table.settle(&mut self.pending);
        self.regions.clear(self.table.hal());
        (self.regions, self.shared, self.lent) = (regions, shared, from.lent);
        self.held |= from.held;
        // CPUs walk the table, so that nothing may be in it that would have to be taken out again.
        self.table.begin_as(snapshot.version);
        debug!("reset {}", self.range);
        Ok(())
    }

    /// Gives back what this space alone still keeps for forks and snapshots that are gone: pages and tables that it has
    /// replaced since. Returns the number of states that are no more. [`fork`](Self::fork) does so too, as far as it does not
    /// cost an invalidation.
    ///
    /// One invalidation, if there is anything. Costs as much as was written since the forks.
    pub fn consolidate(&mut self) -> usize {
        let begin = Begin::now(self.hal());
        self.table.settle(&mut self.pending);
        let merged = self.table.consolidate();
        debug!("consolidate {}: {merged} states", self.range);
        self.over(begin, Operation::Consolidate, self.whole(), || Ok(merged as u64));
        merged
    }

    /// Says whether a later fork has the regions in `size` bytes at `gpa`, both multiples of 4 KiB, all of them mapped: at
    /// first it has all. Large leaves at the edges are split, which takes one invalidation.
    ///
    /// # Errors
    /// [`InheritError`]: a bad range, [`InheritError::NotMapped`] with the first address that no region covers,
    /// [`InheritError::OutOfMemory`]. Nothing has changed then.
    pub fn set_in_children(
        &mut self,
        gpa: GuestPhysAddr,
        size: u64,
        in_children: bool,
    ) -> Result<(), InheritError> {
        self.observed(Operation::SetInChildren, (gpa, size), move |space| {
            space.set_in_children_unobserved(gpa, size, in_children)
        })
    }

    #[inline(always)]
    fn set_in_children_unobserved(
        &mut self,
        gpa: GuestPhysAddr,
        size: u64,
        in_children: bool,
    ) -> Result<(), InheritError> {
        let range = self.checked_range(gpa, size)?;
        let cover = self.regions.cover(range).map_err(InheritError::NotMapped)?;
        let out_of_memory = |OutOfMemory| InheritError::OutOfMemory;
        self.table.unshare(range, Extent::Edges).map_err(out_of_memory)?;
        let split = split_edges(&self.table, &mut self.regions, &mut self.pending, range);
        split.map_err(out_of_memory)?;
        self.table.settle(&mut self.pending);
        self.regions.update(self.table.hal(), range, cover, |region| Some(Region { in_children, ..region }));
        debug!("set_in_children {range}: {in_children}");
        Ok(())
    }
}

/// Whether the pages of a region are not in a child.
fn is_cut(region: &Region) -> bool {
    !region.in_children || matches!(region.backend, Backend::Custom { .. })
}

/// What a space was at some moment: see [`AddrSpace::snapshot`]. Dropping it gives back what only it kept.
pub struct Snapshot<H: Hal, F: Format, B: CustomBackend> {
    space: AddrSpace<H, F, B>,
    /// What spaces go back to, held by this: whatever becomes of `space`, it stays as it is.
    version: Version,
}

impl<H: Hal, F: Format, B: CustomBackend> Snapshot<H, F, B> {
    /// The space as it was, to be read.
    #[must_use]
    pub fn space(&self) -> &AddrSpace<H, F, B> {
        &self.space
    }

    /// A space that begins as the snapshot, under `tag`: see [`AddrSpace::fork`].
    ///
    /// # Errors
    /// As [`AddrSpace::fork`].
    pub fn fork(&mut self, tag: u16) -> Result<AddrSpace<H, F, B>, ForkError>
    where
        H: Clone,
        B: Clone,
    {
        self.space.fork(tag)
    }
}

impl<H: Hal, F: Format, B: CustomBackend> Drop for Snapshot<H, F, B> {
    fn drop(&mut self) {
        self.space.table.let_go(self.version);
    }
}

impl<H: Hal, F: Format, B: CustomBackend> fmt::Debug for Snapshot<H, F, B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Snapshot").field("space", &self.space).finish()
    }
}
