//! The walk for one address, with everything on its way.

use crate::access::{Access, Denial};
use crate::decode::{Decoder, LEVELS, shift};
use crate::entry::{Entry, Leaf, LeafFlags, Permissions};
use crate::format::{Cpu, Format};
use crate::memory::PhysicalMemory;
use crate::problem::Problem;
use crate::root::Root;
use crate::visit::{EntryAt, Mapping};

/// A root table and the CPU that walks it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tables {
    pub(crate) root: Root,
    pub(crate) decoder: Decoder,
}

/// What the entries above a table have said.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Inherited {
    pub(crate) permissions: Permissions,
    pub(crate) flags: LeafFlags,
}

impl Inherited {
    pub(crate) const NOTHING: Self = Self { permissions: Permissions::all(), flags: LeafFlags::empty() };

    pub(crate) fn below(self, table: &crate::entry::Table) -> Self {
        Self {
            permissions: self.permissions & table.permissions,
            flags: self.flags | (table.flags & LeafFlags::GLOBAL),
        }
    }

    pub(crate) fn mapping(self, address: u64, at: EntryAt, leaf: Leaf) -> Mapping {
        let span = 1 << shift(at.level);
        Mapping {
            address,
            output: leaf.address | (address & (leaf.size - 1) & !(span - 1)),
            length: span,
            permissions: self.permissions & leaf.permissions,
            flags: self.flags | leaf.flags,
            leaf,
            at,
        }
    }
}

/// One level of a walk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Step {
    /// Where the entry is, and its value.
    pub at: EntryAt,
    /// What it means.
    pub entry: Entry,
    /// What all entries down to this one allow together.
    pub permissions: Permissions,
}

/// A walk for one address. `Display` gives a line for each level, and one for how it ended, without a line break behind it.
///
/// ```
/// use slat_inspect::{Cpu, Format, Root, Tables, Words};
///
/// let mut words = vec![0; 512];
/// words[2] = 0x4000_0004;
/// let tables = Tables::new(Root::with_level(Format::Ept, 0x1000, 3)?, Cpu::permissive(Format::Ept));
/// let walk = tables.walk(&Words { base: 0x1000, words: &words }, 0x100_1234_5678);
/// assert_eq!(
///     walk.to_string(),
///     "PML4E 2 at 0x1010 = 0x40000004: --xu table at 0x40000000\n\
///      GPA 0x10012345678: the PDPTE at 0x40000000 is not in the memory"
/// );
/// # Ok::<(), slat_inspect::RootError>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Walk {
    pub(crate) format: Format,
    address: u64,
    steps: [Option<Step>; LEVELS],
    end: WalkEnd,
}

/// How a walk ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WalkEnd {
    /// At a leaf.
    Mapped(Mapping),
    /// At an entry that is not present.
    Absent {
        /// Its level, counted from the leaf.
        level: u8,
    },
    /// At an entry that the hardware faults on.
    Malformed {
        /// Its level, counted from the leaf.
        level: u8,
        /// What is wrong with it.
        problem: Problem,
    },
    /// Before the first entry: the address is wider than the root translates, or not canonical.
    OutOfRange,
    /// The entry is not in the memory.
    Unreadable {
        /// Its level, counted from the leaf.
        level: u8,
        /// The physical address of the entry.
        address: u64,
    },
}

impl Walk {
    /// The address that the walk was for.
    #[must_use]
    pub const fn address(&self) -> u64 {
        self.address
    }

    /// The entries that it read, from the root down.
    pub fn steps(&self) -> impl Iterator<Item = &Step> {
        self.steps.iter().flatten()
    }

    /// How it ended.
    #[must_use]
    pub const fn end(&self) -> &WalkEnd {
        &self.end
    }

    /// The mapping, if the address has one.
    #[must_use]
    pub const fn mapping(&self) -> Option<&Mapping> {
        match &self.end {
            WalkEnd::Mapped(mapping) => Some(mapping),
            _ => None,
        }
    }

    /// The physical address that the address is translated to, if it is.
    #[must_use]
    pub fn output(&self) -> Option<u64> {
        let mapping = self.mapping()?;
        Some(mapping.output + (self.address & (mapping.length - 1)))
    }
}

impl Tables {
    /// The tables below `root`, as `cpu` understands them.
    #[must_use]
    pub fn new(root: Root, cpu: Cpu) -> Self {
        Self { root, decoder: Decoder::new(root.format(), cpu) }
    }

    /// The root.
    #[must_use]
    pub const fn root(&self) -> &Root {
        &self.root
    }

    /// What entries mean.
    #[must_use]
    pub const fn decoder(&self) -> &Decoder {
        &self.decoder
    }

    /// Walks for `address`. At most five entries are read.
    pub fn walk(&self, memory: &impl PhysicalMemory, address: u64) -> Walk {
        let format = self.root.format();
        let mut walk = Walk { format, address, steps: [None; LEVELS], end: WalkEnd::OutOfRange };
        let Some(offset) = self.root.offset(address) else { return walk };
        let (mut table, mut level) = (self.root.table(), self.root.level());
        let mut index = offset >> shift(level);
        let mut above = Inherited::NOTHING;
        for step in 0..LEVELS {
            let entry_address = table.wrapping_add(8 * index);
            let Some(raw) = memory.read(entry_address) else {
                walk.end = WalkEnd::Unreadable { level, address: entry_address };
                return walk;
            };
            let at = EntryAt { table, index: index as u16, level, raw };
            let entry = self.decoder.decode(level, raw);
            let own = match &entry {
                Entry::Table(pointer) => pointer.permissions,
                Entry::Leaf(leaf) => leaf.permissions,
                _ => Permissions::empty(),
            };
            walk.steps[step] = Some(Step { at, entry, permissions: above.permissions & own });
            walk.end = match entry {
                Entry::Absent => WalkEnd::Absent { level },
                Entry::Malformed(problem) => WalkEnd::Malformed { level, problem },
                Entry::Leaf(leaf) => {
                    let base = address & !((1 << shift(level)) - 1);
                    WalkEnd::Mapped(above.mapping(base, at, leaf))
                }
                Entry::Table(pointer) if level > 0 => {
                    above = above.below(&pointer);
                    table = pointer.address;
                    level -= 1;
                    index = offset >> shift(level) & 0x1ff;
                    continue;
                }
                // No decoder takes an entry of the last level for a pointer.
                Entry::Table(_) => WalkEnd::Absent { level },
            };
            break;
        }
        walk
    }

    /// Whether a mapping allows an access.
    ///
    /// # Errors
    /// Why not.
    pub fn check(&self, mapping: &Mapping, access: Access) -> Result<(), Denial> {
        self.decoder.check(mapping.permissions, mapping.flags, access)
    }
}
