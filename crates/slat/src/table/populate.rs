//! Mapping one leaf on a fault, beside other CPUs that do the same.
//!
//! The frame and every missing table are taken and linked to each other first; one compare-exchange then makes all
//! of it visible. Whoever loses gives everything back and looks again. Nothing is half done at any time.

use super::{Leaf, Slot, Soft, Table, View};
use crate::addr::{GuestPhysAddr, GuestPhysRange, HostPhysAddr};
use crate::flags::{LeafSize, MappingFlags, level_bytes};
use crate::format::{CacheEvent, Format};
use crate::frame::OwnedFrames;
use crate::hal::Hal;
use crate::table::OutOfMemory;
use crate::tlb::{Reach, Scope};

/// What a fault may map.
pub(crate) struct Want {
    /// The address that faulted.
    pub(crate) gpa: GuestPhysAddr,
    /// The region; a leaf must lie inside.
    pub(crate) region: GuestPhysRange,
    /// Flags of the leaf, with some permission.
    pub(crate) flags: MappingFlags,
    /// The largest leaf to use.
    pub(crate) largest: LeafSize,
}

/// Why a fault gets no frames.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Refused {
    /// There are none left, for the leaf or for a table.
    OutOfMemory,
    /// They are on their way.
    NotYet,
    /// There is no such page.
    NoSuchPage,
    /// A custom backend gave what no guest can have.
    BadFrame(HostPhysAddr),
}

impl From<OutOfMemory> for Refused {
    fn from(_: OutOfMemory) -> Self {
        Self::OutOfMemory
    }
}

/// Where the frames of a leaf come from that a fault maps.
pub(crate) trait Supplier {
    /// Whether the frames belong to the space.
    const OWNED: bool;
    /// The frames of one leaf; whoever drops them gives them back.
    type Frames;

    /// Takes the frames of a leaf of level `most` or below, ready for the guest; also says which level.
    fn take(&mut self, most: u8) -> Result<(u8, Self::Frames), Refused>;

    /// First host physical address.
    fn start(frames: &Self::Frames) -> HostPhysAddr;

    /// The guest has them now.
    fn keep(frames: Self::Frames);
}

/// What fills a fresh frame, as [`handle_page_fault_with`](crate::AddrSpace::handle_page_fault_with) is given it.
pub(crate) type Init<'a> = dyn FnMut(GuestPhysAddr, &mut [u8]) + 'a;

/// Fresh frames of the host.
struct Fresh<'a, 'h, H: Hal, F: Format> {
    table: &'h Table<H, F>,
    want: &'a Want,
    init: &'a mut Init<'a>,
}

impl<'h, H: Hal, F: Format> Supplier for Fresh<'_, 'h, H, F> {
    const OWNED: bool = true;
    type Frames = OwnedFrames<'h, H>;

    fn take(&mut self, most: u8) -> Result<(u8, Self::Frames), Refused> {
        let Self { table, want, init } = self;
        let (level, mut frames) = table.take_leaf(want, most)?;
        table.prepare(want.gpa, want.flags, level, &mut frames, *init);
        Ok((level, frames))
    }

    fn start(frames: &Self::Frames) -> HostPhysAddr {
        frames.start()
    }

    fn keep(frames: Self::Frames) {
        frames.into_raw();
    }
}

/// What a fault found or did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Populated {
    /// A leaf was added.
    New(LeafSize),
    /// A leaf is there already.
    Present(Leaf),
    /// A leaf was idle, and is there again.
    Woken(Leaf),
    /// An entry is between two states.
    Unsettled,
}

impl<H: Hal, F: Format> Table<H, F> {
    /// Maps the page of `gpa` to a fresh, zeroed frame if only its entry is missing: the way of nearly all faults.
    /// Returns whether it did; where not, [`populate`](Self::populate) finds out what there is to do. `access` and `init`
    /// are as there.
    #[inline(always)]
    pub(crate) fn populate_page(
        &self,
        gpa: GuestPhysAddr,
        flags: MappingFlags,
        access: MappingFlags,
        init: &mut impl FnMut(GuestPhysAddr, &mut [u8]),
    ) -> bool {
        let Some(slot) = self.page_slot(gpa) else { return false };
        if slot.load() != 0 || !flags.is_accessible() {
            return false;
        }
        let Some(mut frame) = OwnedFrames::alloc_leaf(&self.hal, 0) else { return false };
        self.prepare(gpa, flags, 0, &mut frame, init);
        let leaf = self.owned_leaf(0, frame.start(), flags) | self.first_marks(access);
        // As a read-modify-write this also orders the zeroing.
        if !slot.compare_exchange(&self.hal, 0, leaf) {
            return false;
        }
        frame.into_raw();
        self.publish_leaf(gpa, access, true);
        true
    }

    /// Makes frames ready for the guest.
    #[inline(always)]
    fn prepare(
        &self,
        gpa: GuestPhysAddr,
        flags: MappingFlags,
        level: u8,
        frames: &mut OwnedFrames<'_, H>,
        init: &mut (impl FnMut(GuestPhysAddr, &mut [u8]) + ?Sized),
    ) {
        frames.zero();
        init(gpa.align_down(level_bytes(level)), frames.as_mut_slice());
        self.maintain(level, frames.start(), &[CacheEvent::ToGuest(flags)]);
    }

    /// The marks that a leaf has from the beginning if it answers an `access`: those that the access would fault for.
    #[inline(always)]
    pub(super) fn first_marks(&self, access: MappingFlags) -> u64 {
        if self.format.marks_by_fault() && !access.is_empty() { self.access_marks(access) } else { 0 }
    }

    /// What follows when the leaf of `gpa` became valid in the answer to an `access` (of no kind: ahead of any). `page` says
    /// that it is a 4 KiB leaf in a table that was there: of an invalid entry above, nobody says that an address reaches it.
    #[inline(always)]
    pub(super) fn publish_leaf(&self, gpa: GuestPhysAddr, access: MappingFlags, page: bool) {
        self.hal.publish();
        if self.format.fences_new_entries() && !access.is_empty() {
            if page { self.invalidate_locally(gpa) } else { self.invalidate_space_locally() }
        }
    }

    /// Maps the leaf around `want.gpa` to a fresh, zeroed frame, unless one is there, in the answer to an `access` (of no
    /// kind: ahead of any). `init` may fill the frame before the guest can see it; it gets the leaf's first address and all
    /// of its bytes.
    pub(crate) fn populate(
        &self,
        want: &Want,
        access: MappingFlags,
        init: &mut Init<'_>,
    ) -> Result<Populated, Refused> {
        self.populate_from(want.gpa, (want.flags, access), &mut Fresh { table: self, want, init })
    }

    /// Maps the leaf around `gpa` to frames of `supplier`, unless one is there, in the answer to an `access`.
    pub(crate) fn populate_from<S: Supplier>(
        &self,
        gpa: GuestPhysAddr,
        (flags, access): (MappingFlags, MappingFlags),
        supplier: &mut S,
    ) -> Result<Populated, Refused> {
        let mut ready: Option<(u8, S::Frames, u64)> = None;
        loop {
            let (slot, entry) = self.walk(gpa);
            if entry != 0 {
                match self.view(slot.level, slot.index, entry) {
                    // Without access, but not for good: it could only be written to, and is shared.
                    View::Leaf(leaf) | View::Soft(Soft::NoAccess(leaf)) => {
                        return Ok(Populated::Present(leaf));
                    }
                    View::Soft(Soft::NewTable(table)) => {
                        self.link_early(gpa, slot, entry, table);
                        continue;
                    }
                    View::SharedTable(table) => {
                        self.unshare_entry(slot, entry, table)?;
                        continue;
                    }
                    View::Soft(Soft::RetiredTable { hpa, .. }) => {
                        // A forgotten debt left it, and a region needs it again, so it was empty: a table that a range
                        // covers whole goes with the regions there.
                        slot.compare_exchange(&self.hal, entry, self.format.table(hpa));
                        continue;
                    }
                    View::Soft(Soft::Idle(leaf)) => {
                        if access.is_empty() {
                            return Ok(Populated::Present(leaf));
                        }
                        if self.wake(gpa, slot, entry, leaf, access) {
                            return Ok(Populated::Woken(leaf));
                        }
                        continue;
                    }
                    View::Soft(_) => return Ok(Populated::Unsettled),
                    View::Absent | View::Table(_) => {}
                }
            }
            // Frames from a lost race serve again if they still fit.
            let (level, frames, leaf) = match ready.take() {
                Some((level, frames, leaf)) if level <= slot.level => (level, frames, leaf),
                _ => {
                    let (level, frames) = supplier.take(slot.level)?;
                    let leaf = self.encode(level, Leaf::new(S::start(&frames), flags, S::OWNED));
                    (level, frames, leaf | self.first_marks(access))
                }
            };
            let done = if level == slot.level {
                slot.compare_exchange(&self.hal, entry, leaf)
            } else {
                self.link_below(gpa, slot, entry, level, leaf)?
            };
            if done {
                S::keep(frames);
                self.publish_leaf(gpa, access, slot.level == 0);
                return Ok(Populated::New(Self::leaf_size(level)));
            }
            ready = Some((level, frames, leaf));
        }
    }

    /// Puts `leaf` into a new table of `level`, that into one of the level above and so on up to `slot`, which is
    /// changed last; returns whether it still was `entry`.
    #[cold]
    fn link_below(
        &self,
        gpa: GuestPhysAddr,
        slot: Slot,
        entry: u64,
        level: u8,
        leaf: u64,
    ) -> Result<bool, OutOfMemory> {
        let mut top = leaf;
        let mut chain = [const { None }; 5];
        for (above, link) in (level..slot.level).zip(chain.iter_mut()) {
            let table = self.spares.take(&self.hal).or_else(|| OwnedFrames::alloc(&self.hal, 1, 1));
            let mut table = table.ok_or(OutOfMemory)?;
            table.zero_table();
            let entries = self.lower_entries(table.start());
            entries.store_unlinked(&self.hal, self.geometry.index(above, gpa), top);
            top = self.format.table(table.start());
            *link = Some(table);
        }
        let done = slot.compare_exchange(&self.hal, entry, top);
        if done {
            for table in chain.into_iter().flatten() {
                table.into_raw();
            }
        }
        Ok(done)
    }

    /// Links the tables above `gpa` that wait for an invalidation, and puts its leaf back if that was idle, in the answer to
    /// `access`; returns it then.
    #[cold]
    pub(crate) fn link_waiting(&self, gpa: GuestPhysAddr, access: MappingFlags) -> Option<Leaf> {
        loop {
            let (slot, entry) = self.walk(gpa);
            match self.view(slot.level, slot.index, entry) {
                View::Soft(Soft::NewTable(table)) => self.link_early(gpa, slot, entry, table),
                View::Soft(Soft::Idle(leaf)) => {
                    if self.wake(gpa, slot, entry, leaf, access) {
                        return Some(leaf);
                    }
                }
                _ => return None,
            }
        }
    }

    /// Puts the idle leaf `leaf` back, which `slot` keeps by `entry`, unless another CPU does so first.
    #[cold]
    fn wake(&self, gpa: GuestPhysAddr, slot: Slot, entry: u64, leaf: Leaf, access: MappingFlags) -> bool {
        let done = slot.compare_exchange(&self.hal, entry, self.encode(slot.level, leaf));
        if done {
            self.publish_leaf(gpa, access, slot.level == 0);
        }
        done
    }

    /// Links a table that waits for an invalidation, because its debt was forgotten and a guest must go on. Several CPUs
    /// may do so at once.
    #[cold]
    pub(super) fn link_early(&self, gpa: GuestPhysAddr, slot: Slot, entry: u64, table: HostPhysAddr) {
        let bytes = level_bytes(slot.level);
        let Ok(block) = GuestPhysRange::new(gpa.align_down(bytes), bytes) else { return };
        let scope = Scope::Ranges { ranges: &[block], stride: Self::leaf_size(slot.level) };
        self.invalidate(scope, Reach::AllCpus);
        slot.compare_exchange(&self.hal, entry, self.format.table(table));
    }

    /// Takes the frames for the largest leaf that `want`, an entry of level `most` and the host allow.
    fn take_leaf(&self, want: &Want, most: u8) -> Result<(u8, OwnedFrames<'_, H>), OutOfMemory> {
        let largest = want.largest.min(self.format.largest_leaf()).level().min(most);
        for level in (1..=largest).rev() {
            let block = GuestPhysRange::new(want.gpa.align_down(level_bytes(level)), level_bytes(level));
            if block.is_ok_and(|block| want.region.contains_range(block)) {
                if let Some(frames) = OwnedFrames::alloc_leaf(&self.hal, level) {
                    return Ok((level, frames));
                }
            }
        }
        OwnedFrames::alloc_leaf(&self.hal, 0).map(|frames| (0, frames)).ok_or(OutOfMemory)
    }
}
