//! The dirty log: which leaves the guest has written to since it was last asked. It lives in the leaves themselves.
//!
//! A leaf is *clean* or dirty, by [`Format::log_bit`]. Where the hardware sets a dirty flag, a clean leaf is one without it.
//! Elsewhere a bit of software's own says so, and the permission to write is held back: the write faults, and makes the leaf
//! dirty. **A leaf is dirty unless it was found clean**: a fresh one is, one that may be either is, and where a leaf is put
//! together from several, one of them is enough. So whatever goes wrong, too much is told and never too little.
//!
//! In [`LogUnit::Page`] the permission to write is held back from clean large leaves in any case, so that the first write
//! faults and splits them. A leaf that a range covers only in part is told and stays dirty: the rest of it belongs to
//! somebody else's question.

use super::memory::Entries;
use super::{Leaf, Slot, Soft, Table, View};
use crate::addr::{GuestPhysAddr, GuestPhysRange, PAGE_SIZE};
use crate::flags::{LeafSize, MappingFlags, level_bytes};
use crate::format::Format;
use crate::frame::OwnedFrames;
use crate::hal::Hal;
use crate::tlb::Pending;
use core::ops::Range;

/// The unit in which writes of a guest are logged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogUnit {
    /// 4 KiB: a large leaf is split when the guest first writes to it.
    Page,
    /// The leaf that is there: a large one is logged as a whole.
    Leaf,
}

/// Dirty pages in ascending order, neighbours joined.
struct Joined<'v, V> {
    run: Option<GuestPhysRange>,
    visit: &'v mut V,
}

impl<V: FnMut(GuestPhysRange)> Joined<'_, V> {
    fn add(&mut self, range: GuestPhysRange) {
        self.run = match self.run {
            Some(run) if run.end() == range.start() => Some(run.hull(range)),
            before => {
                before.into_iter().for_each(&mut *self.visit);
                Some(range)
            }
        };
    }

    fn finish(self) {
        self.run.into_iter().for_each(self.visit);
    }
}

/// What neighbours nearly always have in common: the attributes of 4 KiB leaves that are clean, and of dirty ones with
/// what makes them clean.
struct Alike {
    clean: u64,
    dirty: u64,
    bits: u64,
}

impl<H: Hal, F: Format> Table<H, F> {
    /// Whether the guest may have written to a leaf since the log was last asked, or since ever if there is none.
    #[inline]
    pub(crate) fn is_dirty(&self, leaf: &Leaf) -> bool {
        if self.format.dirty_bit() != 0 { leaf.dirty } else { !leaf.clean }
    }

    fn cleaned(&self, leaf: Leaf) -> Leaf {
        Leaf { dirty: false, clean: self.format.dirty_bit() == 0, ..leaf }
    }

    /// The entry of a leaf that is clean by the log alone. Where it would have no permission left, it stays dirty.
    #[cold]
    pub(super) fn encode_clean(&self, level: u8, leaf: Leaf) -> u64 {
        let flags = leaf.flags - MappingFlags::WRITE;
        if !flags.is_accessible() || self.format.check_flags(flags).is_err() {
            return self.encode(level, Leaf { clean: false, ..leaf });
        }
        let entry = self.encode(level, Leaf { flags, clean: false, ..leaf });
        entry & !self.format.log_bit() | self.format.log_bit_of_clean()
    }

    /// Calls `visit` for what is dirty of `range`, whose log has the unit `unit`, and makes it clean. The invalidation is
    /// owed: until then, a CPU that knows a page as dirty writes on without a word.
    pub(crate) fn clean(
        &self,
        pending: &mut Pending,
        range: GuestPhysRange,
        unit: LogUnit,
        visit: &mut impl FnMut(GuestPhysRange),
    ) {
        // Absent entries are as good as clean, and no leaf has all bits set.
        let mut alike = Alike { clean: 0, dirty: u64::MAX, bits: 0 };
        let mut dirty = Joined { run: None, visit };
        self.visit_runs(range, &mut |level, entries, indices, run| {
            if level == 0 {
                self.clean_pages(entries, indices, run.start(), &mut alike, &mut |pages| {
                    pending.add(pages, LeafSize::Size4K);
                    dirty.add(pages);
                });
            } else if self.clean_large(
                pending,
                Slot { entries, index: indices.start, level },
                run,
                Some(unit),
            ) {
                dirty.add(run);
            }
        });
        dirty.finish();
        self.hal.publish();
    }

    /// Makes clean what is dirty of the leaf around `gpa` as far as it lies in `region`, whose log has the unit `unit`. `None`
    /// if there is no leaf; else the leaf, if it was dirty.
    pub(crate) fn clean_one(
        &self,
        pending: &mut Pending,
        gpa: GuestPhysAddr,
        region: GuestPhysRange,
        unit: LogUnit,
    ) -> Option<Option<GuestPhysRange>> {
        let (slot, entry, _) = self.walk_for_change(gpa);
        self.view(slot.level, slot.index, entry).any_leaf()?;
        let bytes = level_bytes(slot.level);
        let piece = GuestPhysRange::new(gpa.align_down(bytes), bytes).ok()?.intersection(region)?;
        let dirty = if slot.level > 0 {
            self.clean_large(pending, slot, piece, Some(unit))
        } else {
            let dirty = self.clean_page(slot, entry, &mut Alike { clean: 0, dirty: 0, bits: 0 });
            if dirty {
                pending.add(piece, LeafSize::Size4K);
            }
            dirty
        };
        Some(dirty.then_some(piece))
    }

    /// As [`clean`](Self::clean) for `indices` of a table of 4 KiB leaves, the first of which is at `start`.
    fn clean_pages(
        &self,
        entries: Entries,
        indices: Range<usize>,
        start: GuestPhysAddr,
        alike: &mut Alike,
        dirty: &mut impl FnMut(GuestPhysRange),
    ) {
        let attributes = self.log_attributes();
        let mut note = |run: Range<usize>| {
            let first = start.checked_add((run.start - indices.start) as u64 * PAGE_SIZE);
            let pages = first.and_then(|first| GuestPhysRange::new(first, run.len() as u64 * PAGE_SIZE).ok());
            pages.into_iter().for_each(&mut *dirty);
        };
        let mut first = None;
        for index in indices.clone() {
            let entry = entries.load(index);
            let known = entry & attributes;
            let is_dirty = if known == alike.clean {
                false
            } else if known == alike.dirty {
                self.make_clean(entries, index, alike.bits);
                true
            } else {
                self.clean_page(Slot { entries, index, level: 0 }, entry, alike)
            };
            if is_dirty != first.is_some() {
                match first.take() {
                    Some(first) => note(first..index),
                    None => first = Some(index),
                }
            }
        }
        if let Some(first) = first {
            note(first..indices.end);
        }
    }

    /// The bits of an entry that tell whether it is a leaf, and whether it is clean.
    #[inline]
    fn log_attributes(&self) -> u64 {
        !(F::ADDRESS | F::OWNED | self.format.accessed_bit())
    }

    /// Makes a dirty 4 KiB leaf clean, which takes changing `bits`.
    #[inline]
    fn make_clean(&self, entries: Entries, index: usize, bits: u64) {
        if self.marks() == 0 {
            // Changes have the space for themselves, and this hardware writes to no leaf.
            entries.invert(&self.hal, index..index + 1, bits);
        } else {
            entries.clear_bits(&self.hal, index, bits);
        }
    }

    /// Makes one 4 KiB leaf clean; returns whether it was dirty.
    #[inline(never)]
    fn clean_page(&self, slot: Slot, entry: u64, alike: &mut Alike) -> bool {
        match self.view(0, slot.index, entry) {
            View::Leaf(leaf) if !self.is_dirty(&leaf) => {
                alike.clean = entry & self.log_attributes();
                false
            }
            View::Leaf(leaf) => {
                let marked = self.format.dirty_bit();
                let bits = if marked != 0 { marked } else { entry ^ self.encode(0, self.cleaned(leaf)) };
                (alike.dirty, alike.bits) = (entry & self.log_attributes(), bits);
                self.make_clean(slot.entries, slot.index, bits);
                true
            }
            View::Soft(soft) => match soft.kept_leaf() {
                Some((leaf, soft)) if self.is_dirty(&leaf) => {
                    slot.store(&self.hal, soft(self.cleaned(leaf)).encode());
                    true
                }
                _ => false,
            },
            _ => false,
        }
    }

    /// Makes a large leaf clean of which `piece` is asked for, and holds back the permission to write where `unit` wants
    /// that, if the piece is all of it; returns whether it was dirty. Without a unit only a clean leaf is looked at.
    fn clean_large(
        &self,
        pending: &mut Pending,
        slot: Slot,
        piece: GuestPhysRange,
        unit: Option<LogUnit>,
    ) -> bool {
        let whole = piece.size() == level_bytes(slot.level);
        let marked = self.format.dirty_bit();
        loop {
            let entry = slot.load();
            let leaf = match self.view(slot.level, slot.index, entry) {
                View::Leaf(leaf) => leaf,
                View::Soft(soft) => {
                    let Some((leaf, soft)) = soft.kept_leaf() else { return false };
                    let dirty = self.is_dirty(&leaf);
                    if dirty && whole && unit.is_some() {
                        slot.store(&self.hal, soft(self.cleaned(leaf)).encode());
                    }
                    return dirty;
                }
                _ => return false,
            };
            let dirty = self.is_dirty(&leaf);
            if !whole || dirty && unit.is_none() {
                return dirty;
            }
            let clean = match (marked, unit) {
                (0, _) => self.encode(slot.level, self.cleaned(leaf)),
                (_, Some(LogUnit::Leaf)) => entry & !marked,
                (_, Some(LogUnit::Page) | None) => entry & !(marked | F::WRITE),
            };
            if clean == entry {
                return dirty;
            }
            // The hardware may mark it until the last moment.
            if slot.compare_exchange(&self.hal, entry, clean) {
                pending.add(piece, Self::leaf_size(slot.level));
                return dirty;
            }
        }
    }

    /// Holds back the permission to write from clean large leaves in `range`, whose log is of pages and whose flags were
    /// changed. The invalidation is owed.
    pub(crate) fn hold_large(&self, pending: &mut Pending, range: GuestPhysRange) {
        if self.format.dirty_bit() == 0 {
            // A clean leaf never has it.
            return;
        }
        self.visit_runs(range, &mut |level, entries, indices, run| {
            if level > 0 {
                self.clean_large(pending, Slot { entries, index: indices.start, level }, run, None);
            }
        });
    }

    /// Ends the log of `range`, a part of a region: what was held back from its leaves is given. `flags` are the region's;
    /// `alone` says that only leaves whose frame is the space's may have the permission to write. `written` makes all of it
    /// dirty. The invalidation is owed.
    pub(crate) fn end_log(
        &self,
        pending: &mut Pending,
        range: GuestPhysRange,
        (flags, alone, written): (MappingFlags, bool, bool),
    ) {
        self.visit(range, &mut |slot, entry, piece| {
            let mut entry = entry;
            loop {
                let ended = |leaf: Leaf| {
                    let given = if leaf.owned || !alone { flags & MappingFlags::WRITE } else { leaf.flags };
                    let (flags, dirty) = (leaf.flags | given, leaf.dirty | written);
                    Leaf { flags, dirty, clean: false, ..leaf }
                };
                let (new, present) = match self.view(slot.level, slot.index, entry) {
                    View::Leaf(leaf) if ended(leaf) == leaf => return,
                    View::Leaf(leaf) => (self.encode(slot.level, ended(leaf)), true),
                    View::Soft(Soft::Idle(leaf)) => (Soft::Idle(ended(leaf)).encode(), false),
                    View::Soft(Soft::NoAccess(leaf)) => {
                        let dirty = leaf.dirty | written;
                        (Soft::NoAccess(Leaf { dirty, clean: false, ..leaf }).encode(), false)
                    }
                    _ => return,
                };
                if slot.compare_exchange(&self.hal, entry, new) {
                    if present {
                        pending.add(piece, Self::leaf_size(slot.level));
                    }
                    return;
                }
                entry = slot.load();
            }
        });
        self.hal.publish();
    }

    /// Makes the leaf of `gpa` dirty, which a fault has added. Beside other faults and the hardware.
    #[cold]
    pub(crate) fn note_dirty(&self, gpa: GuestPhysAddr) {
        let dirty = self.format.dirty_bit();
        if dirty != 0 {
            let (slot, _) = self.walk(gpa);
            self.mark_leaf(slot, dirty);
        }
    }

    /// Replaces the large leaf `leaf` at `slot`, from which the log holds back the permission to write that `flags`, those of
    /// its region, have, by a table of smaller ones that are all clean. Beside other faults and the hardware; whoever is
    /// slower than another CPU gives everything back. Returns `false` if there is no frame for the table.
    #[cold]
    pub(super) fn split_by_fault(
        &self,
        gpa: GuestPhysAddr,
        slot: Slot,
        mut entry: u64,
        mut leaf: Leaf,
        flags: MappingFlags,
    ) -> bool {
        let frame = self.spares.take(&self.hal).or_else(|| OwnedFrames::alloc(&self.hal, 1, 1));
        let Some(frame) = frame else { return false };
        let table = frame.start();
        loop {
            // Pages that the hardware marks may be written to; others are held back from as the large leaf was.
            let flags = if self.marks() != 0 && slot.level > 1 { leaf.flags } else { flags };
            self.fill_split(slot.level - 1, table, Leaf { flags, ..leaf }, false);
            let linked = self.format.table(table);
            let breaks = self.format.needs_break(slot.level, entry, linked);
            let next = if breaks { Soft::NewTable(table).encode() } else { linked };
            if slot.compare_exchange(&self.hal, entry, next) {
                frame.into_raw();
                if breaks {
                    self.link_early(gpa, slot, next, table);
                }
                self.hal.publish();
                return true;
            }
            entry = slot.load();
            match self.view(slot.level, slot.index, entry) {
                // The hardware marked it meanwhile.
                View::Leaf(marked) if marked.flags == leaf.flags && !self.is_dirty(&marked) => leaf = marked,
                // Another CPU was faster.
                _ => return true,
            }
        }
    }
}
