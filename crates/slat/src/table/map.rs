//! Mapping a range in one descent.
//!
//! [`plan`](Table::plan) counts the tables that a range needs and takes the frames of its leaves;
//! [`fill`](Table::fill) then cannot fail. A new table is filled by one loop before it is linked by one store.

use super::memory::Entries;
use super::{Leaf, Table, View, pieces};
use crate::addr::{GuestPhysAddr, GuestPhysRange, HostPhysAddr};
use crate::flags::{MappingFlags, level_bytes};
use crate::format::{CacheEvent, Format, fits};
use crate::frame::FrameStack;
use crate::hal::Hal;
use crate::isa;

/// The host has no frame left.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct OutOfMemory;

/// Where the leaves of a mapping come from. Asked twice for the same pieces in the same order: first to plan, then
/// to fill.
pub(crate) trait Source {
    /// Whether the frames belong to the space.
    const OWNED: bool;

    /// Plans a leaf of `level` (at least 1) for a whole entry; `false` asks for smaller ones.
    fn plan(&mut self, level: u8, gpa: GuestPhysAddr) -> bool;

    /// Plans 4 KiB leaves for a range.
    fn plan_pages(&mut self, range: GuestPhysRange) -> Result<(), OutOfMemory>;

    /// The first host physical address and the number of leaves of `level` with which `range` begins, if they are
    /// contiguous and all of them were planned so.
    fn run(&mut self, level: u8, range: GuestPhysRange) -> Option<(HostPhysAddr, usize)>;

    /// The frames of a leaf that was planned; `None` where smaller ones were.
    fn next(&mut self, level: u8, gpa: GuestPhysAddr) -> Option<HostPhysAddr>;
}

/// A run of host physical addresses of the caller.
pub(crate) struct Linear {
    pub(crate) gpa: GuestPhysAddr,
    pub(crate) hpa: HostPhysAddr,
    pub(crate) end: GuestPhysAddr,
    pub(crate) largest: u8,
}

impl Linear {
    fn hpa_of(&self, gpa: GuestPhysAddr) -> HostPhysAddr {
        HostPhysAddr::new(self.hpa.as_u64() + (gpa.as_u64() - self.gpa.as_u64()))
    }
}

impl Source for Linear {
    const OWNED: bool = false;

    fn plan(&mut self, level: u8, gpa: GuestPhysAddr) -> bool {
        level <= self.largest && fits(level, gpa, self.end, self.hpa_of(gpa))
    }

    fn plan_pages(&mut self, _range: GuestPhysRange) -> Result<(), OutOfMemory> {
        Ok(())
    }

    fn run(&mut self, level: u8, range: GuestPhysRange) -> Option<(HostPhysAddr, usize)> {
        let hpa = self.hpa_of(range.start());
        let fits = level <= self.largest && fits(level, range.start(), range.end(), hpa);
        fits.then(|| (hpa, (range.size() / level_bytes(level)) as usize))
    }

    fn next(&mut self, level: u8, gpa: GuestPhysAddr) -> Option<HostPhysAddr> {
        (level == 0 || self.plan(level, gpa)).then(|| self.hpa_of(gpa))
    }
}

/// Frames taken ahead from the host: one stack for each leaf size.
pub(crate) struct Frames<'h, H: Hal, F: Format> {
    format: F,
    flags: MappingFlags,
    hal: &'h H,
    stacks: [FrameStack<'h, H>; 3],
    /// Levels that are asked for; one is given up at the first refusal, so that plan and fill agree.
    largest: [bool; 3],
}

impl<'h, H: Hal, F: Format> Frames<'h, H, F> {
    pub(crate) fn new(hal: &'h H, format: F, flags: MappingFlags, largest: u8) -> Self {
        let stacks = [0, 1, 2].map(|level| FrameStack::new(hal, level));
        Self { format, flags, hal, stacks, largest: [true, largest >= 1, largest >= 2] }
    }
}

impl<H: Hal, F: Format> Source for Frames<'_, H, F> {
    const OWNED: bool = true;

    fn plan(&mut self, level: u8, _gpa: GuestPhysAddr) -> bool {
        let index = usize::from(level);
        let (Some(stack), Some(asked)) = (self.stacks.get_mut(index), self.largest.get_mut(index)) else {
            return false;
        };
        *asked = *asked && stack.take_one().is_some();
        *asked
    }

    fn plan_pages(&mut self, range: GuestPhysRange) -> Result<(), OutOfMemory> {
        let [pages, ..] = &mut self.stacks;
        for _ in 0..range.size() / crate::PAGE_SIZE {
            pages.take_one().ok_or(OutOfMemory)?;
        }
        Ok(())
    }

    fn run(&mut self, _level: u8, _range: GuestPhysRange) -> Option<(HostPhysAddr, usize)> {
        None
    }

    fn next(&mut self, level: u8, _gpa: GuestPhysAddr) -> Option<HostPhysAddr> {
        let mut frames = self.stacks.get_mut(usize::from(level))?.pop()?;
        frames.zero();
        let actions = self.format.cache_actions(CacheEvent::ToGuest(self.flags));
        if !actions.is_empty() {
            let (start, frames) = (frames.start(), crate::frame::frames_of_level(level));
            self.hal.maintain_cache(&crate::CacheMaintenance { start, frames, actions });
        }
        Some(frames.into_raw())
    }
}

impl<H: Hal, F: Format> Table<H, F> {
    /// Plans the leaves of `range`, in which nothing is mapped, and returns the number of tables to add.
    pub(crate) fn plan<S: Source>(
        &self,
        range: GuestPhysRange,
        source: &mut S,
    ) -> Result<usize, OutOfMemory> {
        if self.page_run(range).is_some() {
            return source.plan_pages(range).map(|()| 0);
        }
        self.plan_in(self.geometry.root_level(), Some(self.root), range, source)
    }

    fn plan_in<S: Source>(
        &self,
        level: u8,
        table: Option<HostPhysAddr>,
        range: GuestPhysRange,
        source: &mut S,
    ) -> Result<usize, OutOfMemory> {
        if level == 0 {
            return source.plan_pages(range).map(|()| 0);
        }
        let Some(table) = table else { return self.plan_new(level, range, source) };
        let entries = self.entries(level, table);
        let mut tables = 0;
        for (index, piece) in pieces(self.geometry, level, range) {
            match self.view(level, index, entries.load(index)) {
                View::Table(next) => tables += self.plan_in(level - 1, Some(next), piece, source)?,
                _ if self.takes_leaf(level, piece) && source.plan(level, piece.start()) => {}
                _ => tables += 1 + self.plan_in(level - 1, None, piece, source)?,
            }
        }
        Ok(tables)
    }

    /// Plans in a table that is still to be made.
    fn plan_new<S: Source>(
        &self,
        level: u8,
        range: GuestPhysRange,
        source: &mut S,
    ) -> Result<usize, OutOfMemory> {
        let mut tables = 0;
        let mut rest = Some(range);
        while let Some(range) = rest {
            let run = source.run(level, range).map(|(_, count)| count as u64 * level_bytes(level));
            let end = if let Some(end) = run.and_then(|bytes| range.start().checked_add(bytes)) {
                end
            } else {
                let Some((_, piece)) = pieces(self.geometry, level, range).next() else { break };
                if !(self.takes_leaf(level, piece) && source.plan(level, piece.start())) {
                    tables += 1 + self.plan_in(level - 1, None, piece, source)?;
                }
                piece.end()
            };
            rest = GuestPhysRange::between(end, range.end());
        }
        Ok(tables)
    }

    fn takes_leaf(&self, level: u8, piece: GuestPhysRange) -> bool {
        level <= self.format.largest_leaf().level() && piece.size() == level_bytes(level)
    }

    /// Maps `range` as it was planned, with as many frames for tables as [`plan`](Self::plan) asked for.
    pub(crate) fn fill<S: Source>(
        &self,
        range: GuestPhysRange,
        flags: MappingFlags,
        source: &mut S,
        tables: &mut FrameStack<'_, H>,
    ) {
        let (level, table) = match self.page_run(range) {
            Some((slot, _)) => (0, slot.entries.hpa()),
            None => (self.geometry.root_level(), self.root),
        };
        self.fill_in(level, table, true, range, flags, source, tables);
        self.hal.publish();
    }

    #[expect(clippy::too_many_arguments, reason = "the state of one recursive descent")]
    fn fill_in<S: Source>(
        &self,
        level: u8,
        table: HostPhysAddr,
        linked: bool,
        range: GuestPhysRange,
        flags: MappingFlags,
        source: &mut S,
        tables: &mut FrameStack<'_, H>,
    ) {
        let entries = self.entries(level, table);
        let mut rest = Some(range);
        while let Some(range) = rest {
            if let Some((hpa, count)) = source.run(level, range) {
                let leaf = Leaf::new(hpa, flags, S::OWNED);
                let first = self.geometry.index(level, range.start());
                let done = self.fill_run(level, entries, linked, first..first + count, leaf);
                if done > 0 {
                    let next = range.start().checked_add(done as u64 * level_bytes(level));
                    rest = next.and_then(|next| GuestPhysRange::between(next, range.end()));
                    continue;
                }
            }
            let Some((index, piece)) = pieces(self.geometry, level, range).next() else { return };
            rest = GuestPhysRange::between(piece.end(), range.end());
            // A table that is not linked yet is new: nothing in it means anything.
            if level > 0 && linked {
                if let View::Table(next) = self.view(level, index, entries.load(index)) {
                    self.fill_in(level - 1, next, linked, piece, flags, source, tables);
                    continue;
                }
            }
            let leaf = if level == 0 || self.takes_leaf(level, piece) {
                source.next(level, piece.start())
            } else {
                None
            };
            let entry = if let Some(hpa) = leaf {
                self.encode(level, Leaf::new(hpa, flags, S::OWNED))
            } else {
                let Some(mut frame) = tables.pop() else { unreachable!("plan counted the tables") };
                if piece.size() < level_bytes(level) {
                    // Otherwise every entry of it is about to be written.
                    frame.zero_table();
                }
                let next = frame.into_raw();
                self.fill_in(level - 1, next, false, piece, flags, source, tables);
                self.format.table(next)
            };
            if linked {
                if S::OWNED {
                    isa::order_zeroing();
                }
                entries.store(&self.hal, index, entry);
            } else {
                entries.store_unlinked(&self.hal, index, entry);
            }
        }
    }

    /// Writes contiguous leaves, the first of which is `leaf`, into `indices`, up to the first table that stands
    /// there; returns how many.
    fn fill_run(
        &self,
        level: u8,
        entries: Entries,
        linked: bool,
        indices: core::ops::Range<usize>,
        leaf: Leaf,
    ) -> usize {
        if level == 0 {
            // Nothing but pages can stand there.
            let count = indices.len();
            self.fill_pages(entries, linked, indices, leaf);
            return count;
        }
        // Software entries hold the address unshifted.
        let shift = if leaf.flags.is_accessible() { F::ADDRESS_SHIFT } else { 0 };
        let step = level_bytes(level) >> shift;
        let first = self.encode(level, leaf);
        if !linked {
            entries.fill_unlinked(&self.hal, indices.clone(), first, step);
            return indices.len();
        }
        // Nothing is mapped there, so that only a table can stand in the way.
        let free = |index: &usize| entries.load(*index) == 0;
        let count = indices.clone().take_while(free).count();
        entries.fill(&self.hal, indices.start..indices.start + count, first, step);
        count
    }
}

#[cfg(all(test, not(loom)))]
mod tests;
