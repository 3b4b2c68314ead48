//! Tables that belong to a version: copying those that are about to be changed.
//!
//! A table of a version is never written to. It hangs in the tables of a space by an entry that the hardware can only read
//! through (EPT, NPT), or that it takes for absent where table entries have no permissions (Arm, RISC-V). Before anything
//! below it changes, the space gets a copy, level by level, in which whatever the version owns is shared in turn: tables as
//! above, leaves without the permission to write and without [`Format::OWNED`]. **A copy translates as the original does,**
//! so nothing has to be invalidated for it.

use super::memory::Slot;
use super::{Leaf, Soft, Table, View, pieces};
use crate::addr::{GuestPhysAddr, GuestPhysRange, HostPhysAddr};
use crate::flags::{MappingFlags, level_bytes};
use crate::format::{Format, Kind};
use crate::frame::{FrameStack, OwnedFrames};
use crate::hal::Hal;
use crate::table::OutOfMemory;

/// Which tables of a version have to make way for a change of a range.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Extent {
    /// All of them.
    All,
    /// Those that the range does not cover whole.
    Edges,
}

impl<H: Hal, F: Format> Table<H, F> {
    /// How an entry of a table of `level` looks to whoever shares it.
    #[inline]
    pub(super) fn as_shared(&self, level: u8, entry: u64) -> u64 {
        if entry == 0 {
            return 0;
        }
        match self.format.kind(level, entry) {
            Kind::Leaf if entry & F::OWNED != 0 => {
                let shared = entry & !(F::OWNED | F::WRITE);
                // One that could only be written to is none for the hardware.
                if self.format.flags(shared).is_accessible() {
                    shared
                } else {
                    self.without_access(level, shared)
                }
            }
            Kind::Leaf => entry,
            Kind::Table if F::TABLES_HAVE_PERMISSIONS => entry & !F::WRITE,
            Kind::Table => Soft::SharedTable(self.format.address(entry)).encode(),
            Kind::Absent => match Soft::decode(entry) {
                Some(Soft::NoAccess(leaf)) => Soft::NoAccess(Leaf { owned: false, ..leaf }).encode(),
                Some(Soft::Idle(leaf)) => {
                    let withdrawn = if leaf.owned { MappingFlags::WRITE } else { MappingFlags::empty() };
                    Soft::Idle(Leaf { owned: false, flags: leaf.flags - withdrawn, ..leaf }).encode()
                }
                Some(Soft::SharedTable(_)) => entry,
                // No debt is pending when a version is made, and no fault is half done.
                _ => 0,
            },
        }
    }

    #[cold]
    fn without_access(&self, level: u8, entry: u64) -> u64 {
        // What is owned is in no group.
        match self.view(level, 0, entry) {
            // That it was there, and not idle, is as good as a mark.
            View::Leaf(leaf) => {
                let accessed = leaf.accessed || self.idles();
                Soft::NoAccess(Leaf { accessed, ..leaf }).encode()
            }
            _ => entry,
        }
    }

    /// Copies the table `table` of a version, of `level`, to a frame that nobody knows of yet.
    fn copy_shared(&self, level: u8, table: HostPhysAddr, copy: HostPhysAddr) {
        let (from, to) = (self.lower_entries(table), self.lower_entries(copy));
        for index in 0..from.len() {
            let entry = self.as_shared(level, from.load(index));
            to.fill_unlinked(&self.hal, index..index + 1, entry, 0);
        }
    }

    /// Puts a copy in the place of the table `table` of a version, to which `slot` points by `entry`, unless another CPU does
    /// so first.
    #[cold]
    pub(super) fn unshare_entry(
        &self,
        slot: Slot,
        entry: u64,
        table: HostPhysAddr,
    ) -> Result<(), OutOfMemory> {
        let copy = self.spares.take(&self.hal).or_else(|| OwnedFrames::alloc(&self.hal, 1, 1));
        let copy = copy.ok_or(OutOfMemory)?;
        self.copy_shared(slot.level - 1, table, copy.start());
        if slot.compare_exchange(&self.hal, entry, self.format.table(copy.start())) {
            copy.into_raw();
            self.hal.publish();
        }
        Ok(())
    }

    /// Makes all tables above `gpa` the space's own, beside faults on other CPUs; returns whether any was not.
    #[cold]
    pub(crate) fn unshare_path(&self, gpa: GuestPhysAddr) -> Result<bool, OutOfMemory> {
        let mut unshared = false;
        loop {
            let (slot, entry) = self.walk(gpa);
            let View::SharedTable(table) = self.view(slot.level, slot.index, entry) else {
                return Ok(unshared);
            };
            self.unshare_entry(slot, entry, table)?;
            unshared = true;
        }
    }

    /// Makes the tables in `range` the space's own that a change of it may write to, as `extent` says. Nothing is to be
    /// invalidated for it.
    pub(crate) fn unshare(&self, range: GuestPhysRange, extent: Extent) -> Result<(), OutOfMemory> {
        if !self.has_version() {
            return Ok(());
        }
        let tables = self.plan_unshare(range, extent, false);
        let mut tables = FrameStack::with(&self.hal, 0, tables).ok_or(OutOfMemory)?;
        self.unshare_planned(range, extent, &mut tables);
        Ok(())
    }

    /// The number of tables that [`unshare_planned`](Self::unshare_planned) copies; `frozen` counts as if all of the table were
    /// a version's already.
    pub(crate) fn plan_unshare(&self, range: GuestPhysRange, extent: Extent, frozen: bool) -> usize {
        self.plan_unshare_in(self.geometry.root_level(), self.root, range, extent, frozen)
    }

    fn plan_unshare_in(
        &self,
        level: u8,
        table: HostPhysAddr,
        range: GuestPhysRange,
        extent: Extent,
        frozen: bool,
    ) -> usize {
        if level == 0 {
            return 0;
        }
        let entries = self.entries(level, table);
        let mut count = 0;
        for (index, piece) in pieces(self.geometry, level, range) {
            if extent == Extent::Edges && piece.size() == level_bytes(level) {
                continue;
            }
            let (next, shared) = match self.view(level, index, entries.load(index)) {
                View::SharedTable(next) => (next, true),
                View::Table(next) | View::Soft(Soft::NewTable(next)) => (next, frozen),
                _ => continue,
            };
            // What hangs below a table of a version is shared as well.
            count += usize::from(shared) + self.plan_unshare_in(level - 1, next, piece, extent, shared);
        }
        count
    }

    /// Copies the tables that [`plan_unshare`](Self::plan_unshare) counted.
    pub(crate) fn unshare_planned(
        &self,
        range: GuestPhysRange,
        extent: Extent,
        tables: &mut FrameStack<'_, H>,
    ) {
        self.unshare_in(self.geometry.root_level(), self.root, range, extent, tables);
        self.hal.publish();
    }

    fn unshare_in(
        &self,
        level: u8,
        table: HostPhysAddr,
        range: GuestPhysRange,
        extent: Extent,
        tables: &mut FrameStack<'_, H>,
    ) {
        if level == 0 {
            return;
        }
        let entries = self.entries(level, table);
        for (index, piece) in pieces(self.geometry, level, range) {
            if extent == Extent::Edges && piece.size() == level_bytes(level) {
                continue;
            }
            let next = match self.view(level, index, entries.load(index)) {
                View::Table(next) | View::Soft(Soft::NewTable(next)) => next,
                View::SharedTable(next) => {
                    let Some(copy) = tables.pop() else { unreachable!("plan_unshare counted the tables") };
                    let copy = copy.into_raw();
                    self.copy_shared(level - 1, next, copy);
                    entries.store(&self.hal, index, self.format.table(copy));
                    copy
                }
                _ => continue,
            };
            self.unshare_in(level - 1, next, piece, extent, tables);
        }
    }
}
