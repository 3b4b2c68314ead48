//! Reading the table: leaf after leaf, and counts of all of it.

use super::{Soft, Table, View, pieces};
use crate::addr::{GuestPhysAddr, GuestPhysRange, HostPhysAddr};
use crate::flags::{LeafSize, MappingFlags, level_bytes};
use crate::format::Format;
use crate::hal::Hal;

/// One leaf of a table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mapping {
    /// First guest-physical address of the leaf.
    pub gpa: GuestPhysAddr,
    /// The host physical address that it is mapped to.
    pub hpa: HostPhysAddr,
    /// Permissions and memory type, as the hardware applies them; no permission means that the guest has no access.
    pub flags: MappingFlags,
    /// Size of the leaf. Sixteen leaves that map 64 KiB together (RISC-V: Svnapot) are listed one by one.
    pub size: LeafSize,
    /// Whether the frame belongs to the space and goes back to the host with it.
    pub owned: bool,
    /// Whether the guest may have used it since it was mapped; always `true` where the hardware does not tell.
    pub accessed: bool,
    /// Whether the guest may have written to it since it was mapped, or since the [dirty
    /// log](crate::AddrSpace::start_dirty_log) was last collected; always `true` where neither the hardware nor a log tells.
    /// A leaf that was split or joined passes on what is known of any part of it, and of sixteen that map 64 KiB together
    /// (RISC-V: Svnapot) each has the marks of all.
    pub dirty: bool,
}

impl Mapping {
    /// The guest-physical addresses that the leaf maps.
    #[must_use]
    pub fn range(&self) -> GuestPhysRange {
        let range = GuestPhysRange::new(self.gpa, self.size.bytes());
        range.unwrap_or_else(|_| unreachable!("a leaf lies inside the width of its format"))
    }
}

/// What a table consists of.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Census {
    /// Leaves of 4 KiB, those included that map 64 KiB together.
    pub leaves_4k: u64,
    /// Leaves of 2 MiB.
    pub leaves_2m: u64,
    /// Leaves of 1 GiB.
    pub leaves_1g: u64,
    /// Frames of 4 KiB that hold tables, the root's included.
    pub table_frames: u64,
    /// Frames of 4 KiB that belong to the space and hold guest memory. Those that it shares with forks or snapshots are
    /// nobody's alone, and do not count.
    pub owned_frames: u64,
}

impl Census {
    /// Counts the leaves below a table of a version: what belongs to the version is not the space's.
    fn add_shared(&mut self, shared: &Self) {
        self.leaves_4k += shared.leaves_4k;
        self.leaves_2m += shared.leaves_2m;
        self.leaves_1g += shared.leaves_1g;
    }
}

/// The leaves of a range in ascending order, each once, also those that the guest may not access.
pub(crate) struct Leaves<'t, H: Hal, F: Format> {
    table: &'t Table<H, F>,
    rest: Option<GuestPhysRange>,
}

impl<H: Hal, F: Format> Table<H, F> {
    /// The leaves that overlap `range`.
    pub(crate) fn leaves(&self, range: GuestPhysRange) -> Leaves<'_, H, F> {
        Leaves { table: self, rest: Some(range) }
    }

    /// Counts all of the table: one pass over it.
    pub(crate) fn census(&self) -> Census {
        let mut census = Census { table_frames: u64::from(self.geometry.root_tables), ..Census::default() };
        self.count(self.geometry.root_level(), self.root, &mut census);
        census
    }

    fn count(&self, level: u8, table: HostPhysAddr, census: &mut Census) {
        let entries = self.entries(level, table);
        for index in 0..entries.len() {
            let entry = entries.load(index);
            // Most are, and are nothing in any format.
            if entry == 0 {
                continue;
            }
            match self.view(level, index, entry) {
                View::Absent => {}
                View::Table(next)
                | View::Soft(Soft::RetiredTable { hpa: next, shared: false, .. } | Soft::NewTable(next)) => {
                    census.table_frames += 1;
                    self.count(level - 1, next, census);
                }
                View::SharedTable(next)
                | View::Soft(Soft::RetiredTable { hpa: next, shared: true, .. } | Soft::SharedTable(next)) => {
                    let mut shared = Census::default();
                    self.count(level - 1, next, &mut shared);
                    census.add_shared(&shared);
                }
                View::Leaf(leaf)
                | View::Soft(
                    Soft::NoAccess(leaf) | Soft::Idle(leaf) | Soft::Broken(leaf) | Soft::RetiredLeaf(leaf),
                ) => {
                    match level {
                        0 => census.leaves_4k += 1,
                        1 => census.leaves_2m += 1,
                        _ => census.leaves_1g += 1,
                    }
                    census.owned_frames += if leaf.owned { level_bytes(level) / crate::PAGE_SIZE } else { 0 };
                }
            }
        }
    }
}

impl<H: Hal, F: Format> Iterator for Leaves<'_, H, F> {
    type Item = Mapping;

    fn next(&mut self) -> Option<Mapping> {
        loop {
            let range = self.rest?;
            let (slot, entry, shared) = self.table.walk_to_read(range.start());
            // One entry further, or whatever of an absent one lies in the range.
            let (_, piece) = pieces(self.table.geometry, slot.level, range).next()?;
            self.rest = GuestPhysRange::between(piece.end(), range.end());
            let (leaf, accessible) = match self.table.view(slot.level, slot.index, entry) {
                View::Leaf(leaf) => (self.table.with_marks_of_group(slot, entry, leaf), true),
                // It is put back by the next access.
                View::Soft(Soft::Idle(leaf)) => (leaf, true),
                View::Soft(Soft::NoAccess(leaf)) => (leaf, false),
                _ => continue,
            };
            let mut permissions =
                if accessible { MappingFlags::all() } else { MappingFlags::DEVICE | MappingFlags::UNCACHED };
            permissions.set(MappingFlags::WRITE, accessible && !shared);
            return Some(Mapping {
                gpa: range.start().align_down(level_bytes(slot.level)),
                hpa: leaf.hpa,
                flags: leaf.flags & permissions,
                size: Table::<H, F>::leaf_size(slot.level),
                owned: leaf.owned && !shared,
                accessed: leaf.accessed || self.table.format.accessed_bit() == 0,
                dirty: self.table.is_dirty(&leaf),
            });
        }
    }
}
