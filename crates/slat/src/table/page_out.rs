//! Taking pages away from the guest whose contents somebody else keeps from then on.
//!
//! Two passes with one invalidation between them. [`break_pages`](Table::break_pages) makes the leaves absent for the
//! hardware but keeps in each entry what stood there; a table in which nothing else is alive is unlinked with them.
//! After the invalidation nobody can write to the pages and their last marks are in, and
//! [`finish_pages`](Table::finish_pages) hands the contents over: what was taken goes back to the host, and what was
//! refused is made again where it was.

#![expect(unsafe_code, reason = "reads frames of the guest, and gives them back")]

use super::memory::Entries;
use super::{Leaf, Slot, Soft, Table, View, pieces};
use crate::addr::{GuestPhysAddr, GuestPhysRange, HostPhysAddr, PAGE_SIZE};
use crate::flags::LeafSize;
use crate::format::{CacheEvent, Format};
use crate::hal::Hal;
use crate::tlb::Pending;

/// What is to become of a page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// It goes.
    Take,
    /// It stays, and the mark that the guest has used it goes: the next use sets it again.
    Unmark,
    /// It stays, and so does everything behind it: no other page is asked for.
    Stop,
}

/// The first pass.
struct Breaking<'p, C> {
    pending: &'p mut Pending,
    choose: C,
    stopped: bool,
}

/// What is left in a table.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Left {
    /// Entries that mean something to the guest.
    alive: bool,
    /// Pages that were taken out and not finished.
    unfinished: bool,
}

impl<H: Hal, F: Format> Table<H, F> {
    /// Takes out those 4 KiB leaves of `range` that `choose` takes, one after the other, among those whose frames are the
    /// space's own. No debt is pending; afterwards the invalidation is, and [`finish_pages`](Self::finish_pages) is to
    /// follow it.
    pub(crate) fn break_pages(
        &self,
        pending: &mut Pending,
        range: GuestPhysRange,
        choose: impl FnMut(GuestPhysAddr, &Leaf) -> Verdict,
    ) {
        let mut breaking = Breaking { pending, choose, stopped: false };
        self.break_pages_in(&mut breaking, self.geometry.root_level(), self.root, range);
    }

    /// Returns whether a table below the root has nothing alive left in it, which was not so before.
    fn break_pages_in(
        &self,
        breaking: &mut Breaking<'_, impl FnMut(GuestPhysAddr, &Leaf) -> Verdict>,
        level: u8,
        table: HostPhysAddr,
        range: GuestPhysRange,
    ) -> bool {
        let entries = self.entries(level, table);
        let mut taken = false;
        for (index, piece) in pieces(self.geometry, level, range) {
            if breaking.stopped {
                break;
            }
            let slot = Slot { entries, index, level };
            match self.view(level, slot.index, slot.load()) {
                View::Table(next) if self.break_pages_in(breaking, level - 1, next, piece) => {
                    slot.store(
                        &self.hal,
                        Soft::RetiredTable { hpa: next, owned: true, shared: false }.encode(),
                    );
                    taken = true;
                    // The walk to the table is dropped by way of one of its pages.
                    if let Ok(page) = GuestPhysRange::new(piece.start(), PAGE_SIZE) {
                        breaking.pending.add(page, LeafSize::Size4K);
                    }
                    if !self.format.invalidation_by_address_reaches_tables() {
                        breaking.pending.add_whole();
                    }
                }
                View::Leaf(leaf) if level == 0 && leaf.owned => {
                    taken |= self.break_page(breaking, slot, leaf, piece, true);
                }
                View::Soft(Soft::NoAccess(leaf) | Soft::Idle(leaf)) if level == 0 && leaf.owned => {
                    taken |= self.break_page(breaking, slot, leaf, piece, false);
                }
                // What is shared stays: others have it too.
                View::Absent | View::Table(_) | View::SharedTable(_) | View::Leaf(_) | View::Soft(_) => {}
            }
        }
        taken && level != self.geometry.root_level() && !self.left_in(level, entries).alive
    }

    /// Returns whether the page was taken out.
    fn break_page(
        &self,
        breaking: &mut Breaking<'_, impl FnMut(GuestPhysAddr, &Leaf) -> Verdict>,
        slot: Slot,
        leaf: Leaf,
        piece: GuestPhysRange,
        present: bool,
    ) -> bool {
        match (breaking.choose)(piece.start(), &leaf) {
            Verdict::Take if present => self.break_leaf(breaking.pending, slot, leaf, piece),
            // The hardware saw nothing there. Made again, it has no access again.
            Verdict::Take => slot.store(&self.hal, Soft::Broken(leaf).encode()),
            Verdict::Unmark => {
                if present && leaf.accessed {
                    let page = slot.index..slot.index + 1;
                    slot.entries.invert_atomically(&self.hal, page, self.format.accessed_bit());
                    // A CPU that remembers the mark would not set it again.
                    breaking.pending.add(piece, LeafSize::Size4K);
                }
                return false;
            }
            Verdict::Stop => {
                breaking.stopped = true;
                return false;
            }
        }
        true
    }

    /// Marks all leaves of `range` as written to, where the hardware tells: somebody else may have done so.
    pub(crate) fn mark_written(&self, range: GuestPhysRange) {
        let dirty = self.format.dirty_bit();
        if dirty == 0 {
            return;
        }
        self.visit(range, &mut |slot, entry, _| match self.view(slot.level, slot.index, entry) {
            View::Leaf(leaf) if !leaf.dirty => slot.entries.set_bits(&self.hal, slot.index, dirty),
            View::Soft(Soft::NoAccess(leaf)) => {
                slot.store(&self.hal, Soft::NoAccess(Leaf { dirty: true, ..leaf }).encode());
            }
            _ => {}
        });
    }

    fn left_in(&self, level: u8, entries: Entries) -> Left {
        (0..entries.len()).fold(Left::default(), |left, index| {
            match self.view(level, index, entries.load(index)) {
                View::Absent => left,
                View::Soft(Soft::Broken(_) | Soft::RetiredTable { .. }) => Left { unfinished: true, ..left },
                View::Table(_) | View::SharedTable(_) | View::Leaf(_) | View::Soft(_) => {
                    Left { alive: true, ..left }
                }
            }
        })
    }

    /// Hands the pages of `range` that were taken out to `keep`, each with its first guest-physical address, its leaf as it
    /// was in the end, and its contents. The frames of those for which `keep` returns `true` go back to the host; the
    /// others are made again. The invalidation is done.
    pub(crate) fn finish_pages(
        &self,
        pending: &Pending,
        range: GuestPhysRange,
        keep: &mut impl FnMut(GuestPhysAddr, &Leaf, &[u8]) -> bool,
    ) {
        self.finish_pages_in(pending, self.geometry.root_level(), self.root, range, keep);
        self.hal.publish();
    }

    fn finish_pages_in(
        &self,
        pending: &Pending,
        level: u8,
        table: HostPhysAddr,
        range: GuestPhysRange,
        keep: &mut impl FnMut(GuestPhysAddr, &Leaf, &[u8]) -> bool,
    ) {
        let entries = self.entries(level, table);
        for (index, piece) in pieces(self.geometry, level, range) {
            let slot = Slot { entries, index, level };
            match self.view(level, slot.index, slot.load()) {
                View::Table(next) => self.finish_pages_in(pending, level - 1, next, piece, keep),
                View::Soft(Soft::RetiredTable { hpa, .. }) => {
                    self.finish_pages_in(pending, level - 1, hpa, piece, keep);
                    // Those that are left may lie in another range, whose turn comes later.
                    match self.left_in(level - 1, self.lower_entries(hpa)) {
                        Left { unfinished: true, .. } => {}
                        Left { alive: true, .. } => slot.store(&self.hal, self.format.table(hpa)),
                        Left { .. } => {
                            slot.store(&self.hal, 0);
                            self.free_emptied_table(hpa);
                        }
                    }
                }
                View::Soft(Soft::Broken(leaf)) => {
                    self.maintain(level, leaf.hpa, &[CacheEvent::FromGuest(leaf.flags.memory_type())]);
                    if keep(piece.start(), &leaf, self.contents(&leaf)) {
                        slot.store(&self.hal, 0);
                        // SAFETY: the frame was the space's and from this host; its entry is gone, and no CPU has a
                        // translation to it after the invalidation.
                        unsafe { self.hal.dealloc_frames(leaf.hpa, 1) };
                    } else {
                        self.make(pending, slot, self.encode(level, leaf));
                    }
                }
                View::Absent | View::SharedTable(_) | View::Leaf(_) | View::Soft(_) => {}
            }
        }
    }

    /// The bytes of a page that was taken out and invalidated.
    fn contents(&self, leaf: &Leaf) -> &[u8] {
        // SAFETY: the frame is the space's own, taken from this host and initialised before the guest had it, so by promise
        // 2 of `Hal` the pointer is valid for all of it. No CPU can write to it after the invalidation, and no access of
        // the host is under way, because this is part of a change, which has the space for itself.
        unsafe { core::slice::from_raw_parts(self.hal.phys_to_virt(leaf.hpa), PAGE_SIZE as usize) }
    }
}
