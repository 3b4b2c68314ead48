//! All leaves of a range, in the order of their addresses.
//!
//! Tables that are not present are skipped, so the cost is that of the tables that exist. Depth is bounded by the levels of the
//! format; width is not, because entries may all point to the same table, so the caller gives a budget of entries. A table that
//! is its own ancestor is reported and not entered.

use crate::decode::{LEVELS, shift};
use crate::entry::{Entry, Leaf, LeafFlags, Permissions, Table};
use crate::memory::PhysicalMemory;
use crate::problem::Problem;
use crate::root::Root;
use crate::walk::{Inherited, Tables};
use core::ops::{ControlFlow, RangeInclusive};

/// Where an entry is, and its value.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct EntryAt {
    /// The physical address of its table.
    pub table: u64,
    /// Its index there.
    pub index: u16,
    /// Its level, counted from the leaf.
    pub level: u8,
    /// The value that was read.
    pub raw: u64,
}

impl EntryAt {
    /// The physical address of the entry.
    #[must_use]
    pub const fn address(&self) -> u64 {
        self.table.wrapping_add(8 * self.index as u64)
    }
}

/// What one leaf maps.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Mapping {
    /// The first address that it translates: a GPA, IPA or virtual address.
    pub address: u64,
    /// The physical address that this one is translated to.
    pub output: u64,
    /// How many bytes the entry translates. That is the leaf's size, but for Svnapot, where sixteen entries have a part each.
    pub length: u64,
    /// What all entries down to the leaf allow together.
    pub permissions: Permissions,
    /// The leaf's flags, and what those above it say for all below.
    pub flags: LeafFlags,
    /// The leaf itself.
    pub leaf: Leaf,
    /// Where it is.
    pub at: EntryAt,
}

/// An entry that points to a table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Pointer {
    /// The first address that the table translates.
    pub address: u64,
    /// How many bytes of address space it translates.
    pub length: u64,
    /// What all entries down to this one allow together.
    pub permissions: Permissions,
    /// The entry's meaning.
    pub table: Table,
    /// Where it is.
    pub at: EntryAt,
}

/// What is wrong with an entry, or with what it points to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Trouble {
    /// The first address concerned.
    pub address: u64,
    /// How many bytes of address space are concerned.
    pub length: u64,
    /// The entry; for a root table outside of the memory there is none.
    pub at: Option<EntryAt>,
    /// What is wrong.
    pub kind: TroubleKind,
}

/// What can be wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum TroubleKind {
    /// The entry breaks a rule of its format.
    Malformed(Problem),
    /// The table that the entry points to is not (all) in the memory; reported once for a table.
    Unreadable {
        /// The physical address of the first entry that is missing.
        missing: u64,
    },
    /// The table that the entry points to is one that led to it.
    Cycle {
        /// The level of the ancestor's entries.
        ancestor: u8,
    },
}

/// Whether to go to the entries of a table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Descend {
    /// Go there.
    Yes,
    /// Go on behind it.
    Skip,
}

/// What is told about tables.
pub trait Visitor {
    /// A leaf. Leaves come in the order of their addresses.
    fn leaf(&mut self, mapping: &Mapping) -> ControlFlow<()>;

    /// A pointer to a table, before what is in the table.
    fn table(&mut self, pointer: &Pointer) -> ControlFlow<(), Descend> {
        let _ = pointer;
        ControlFlow::Continue(Descend::Yes)
    }

    /// Something is wrong; what it would have translated is passed over.
    fn trouble(&mut self, trouble: &Trouble) -> ControlFlow<()> {
        let _ = trouble;
        ControlFlow::Continue(())
    }
}

/// What a visit has cost, and whether it saw everything.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Summary {
    /// Entries that were read.
    pub entries: u64,
    /// Tables that were entered, the root among them.
    pub tables: u64,
    /// How it ended.
    pub end: End,
}

/// How a visit ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// The whole range was visited.
    Complete,
    /// The visitor broke off.
    Stopped,
    /// The budget was used up.
    Truncated {
        /// The first address of which nothing is known.
        address: u64,
    },
}

impl Tables {
    /// Visits what is mapped in `range`, reading at most `budget` entries. Leaves at the edges are given whole.
    pub fn visit(
        &self,
        memory: &impl PhysicalMemory,
        range: RangeInclusive<u64>,
        budget: u64,
        visitor: &mut impl Visitor,
    ) -> Summary {
        let mut visit = Visit {
            tables: self,
            memory,
            visitor,
            first: 0,
            last: 0,
            budget,
            ancestors: [0; LEVELS],
            summary: Summary { entries: 0, tables: 0, end: End::Complete },
        };
        for (first, last) in parts(&self.root, &range).into_iter().flatten() {
            (visit.first, visit.last) = (first, last);
            let root = Place { table: self.root.table(), level: self.root.level(), offset: 0, parent: None };
            visit.summary.tables += 1;
            if let ControlFlow::Break(end) = visit.table(root, self.root.entries(), Inherited::NOTHING) {
                visit.summary.end = end;
                break;
            }
        }
        visit.summary
    }
}

/// The offsets of a range of addresses: two parts where the upper half is sign-extended.
fn parts(root: &Root, range: &RangeInclusive<u64>) -> [Option<(u64, u64)>; 2] {
    let all = u64::MAX >> (64 - root.input_bits());
    let clip = |low: u64, high: u64| {
        let (first, last) = ((*range.start()).max(low), (*range.end()).min(high));
        (first <= last).then_some((first & all, last & all))
    };
    if root.sign_shift() == 0 {
        return [clip(0, all), None];
    }
    [clip(0, all >> 1), clip(!(all >> 1), u64::MAX)]
}

/// A table on the way.
#[derive(Clone, Copy)]
struct Place {
    table: u64,
    level: u8,
    /// Of the first address that it translates.
    offset: u64,
    parent: Option<EntryAt>,
}

struct Visit<'a, M, V> {
    tables: &'a Tables,
    memory: &'a M,
    visitor: &'a mut V,
    /// Offsets of the range.
    first: u64,
    last: u64,
    budget: u64,
    /// The tables that led here, by level.
    ancestors: [u64; LEVELS],
    summary: Summary,
}

impl<M: PhysicalMemory, V: Visitor> Visit<'_, M, V> {
    fn table(&mut self, place: Place, entries: u64, above: Inherited) -> ControlFlow<End> {
        let Place { table, level, offset: base, parent } = place;
        let (shift, span) = (shift(level), 1u64 << shift(level));
        let begin = self.first.saturating_sub(base) >> shift;
        let end = (self.last.saturating_sub(base) >> shift).min(entries - 1) + 1;
        self.ancestors[usize::from(level)] = table;
        let mut missing = false;
        for index in begin..end {
            let offset = base + (index << shift);
            if self.budget == 0 {
                let address = self.tables.root.address(offset);
                return ControlFlow::Break(End::Truncated { address });
            }
            self.budget -= 1;
            self.summary.entries += 1;
            let entry_address = table.wrapping_add(8 * index);
            let Some(raw) = self.memory.read(entry_address) else {
                if !missing {
                    missing = true;
                    let kind = TroubleKind::Unreadable { missing: entry_address };
                    let length = entries << shift;
                    let address = self.tables.root.address(base);
                    stop(self.visitor.trouble(&Trouble { address, length, at: parent, kind }))?;
                }
                continue;
            };
            let entry = self.tables.decoder.decode(level, raw);
            if entry == Entry::Absent {
                continue;
            }
            let at = EntryAt { table, index: index as u16, level, raw };
            let address = self.tables.root.address(offset);
            match entry {
                Entry::Absent => {}
                Entry::Leaf(leaf) => stop(self.visitor.leaf(&above.mapping(address, at, leaf)))?,
                Entry::Malformed(problem) => {
                    let kind = TroubleKind::Malformed(problem);
                    stop(self.visitor.trouble(&Trouble { address, length: span, at: Some(at), kind }))?;
                }
                Entry::Table(pointer) => {
                    let below = above.below(&pointer);
                    let seen =
                        Pointer { address, length: span, permissions: below.permissions, table: pointer, at };
                    if let Some(ancestor) = self.ancestor(pointer.address, level) {
                        let kind = TroubleKind::Cycle { ancestor };
                        stop(self.visitor.trouble(&Trouble { address, length: span, at: Some(at), kind }))?;
                        continue;
                    }
                    if let Descend::Yes = stop(self.visitor.table(&seen))? {
                        self.summary.tables += 1;
                        let parent = Some(at);
                        let place = Place { table: pointer.address, level: level - 1, offset, parent };
                        self.table(place, 512, below)?;
                    }
                }
            }
        }
        ControlFlow::Continue(())
    }

    /// The level of the ancestor that a table is, if it is one.
    fn ancestor(&self, table: u64, level: u8) -> Option<u8> {
        let root = &self.tables.root;
        (level..=root.level()).find(|&above| {
            let bytes = if above == root.level() { root.bytes() } else { 4096 };
            table.wrapping_sub(self.ancestors[usize::from(above)]) < bytes
        })
    }
}

fn stop<C>(flow: ControlFlow<(), C>) -> ControlFlow<End, C> {
    match flow {
        ControlFlow::Continue(value) => ControlFlow::Continue(value),
        ControlFlow::Break(()) => ControlFlow::Break(End::Stopped),
    }
}
