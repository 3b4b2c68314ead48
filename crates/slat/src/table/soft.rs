//! Entries that mean something to slat and nothing to the hardware.
//!
//! An entry that the hardware takes for absent is free for software, except for a few bits: bits 0 to 2 make an
//! entry present on one format or another, bit 10 on EPT with MBEC, bit 63 is read by EPT with #VE. The layout
//! below stays clear of them and so serves every format:
//!
//! | bits  | what |
//! |-------|------|
//! | 5:3   | what the entry is; 0 is nothing |
//! | 6     | the frame belongs to the space |
//! | 51:12 | host physical address of the frame or table |
//! | 57:52 | the flags of the leaf |
//! | 58    | the guest has used the leaf; the table is a version's |
//! | 59    | the guest has written to the leaf |
//! | 60    | the dirty log knows of no write to the leaf, where only it can tell |

use crate::addr::HostPhysAddr;
use crate::flags::MappingFlags;

const KIND_SHIFT: u32 = 3;
const OWNED: u64 = 1 << 6;
const ADDRESS: u64 = 0x000f_ffff_ffff_f000;
const FLAGS_SHIFT: u32 = 52;
const FLAGS_MASK: u64 = 0x3f;
const ACCESSED: u64 = 1 << 58;
const DIRTY: u64 = 1 << 59;
const CLEAN: u64 = 1 << 60;

/// A leaf, in the terms of the library and not of a format.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Leaf {
    /// First host physical address.
    pub(crate) hpa: HostPhysAddr,
    /// Permissions and memory type.
    pub(crate) flags: MappingFlags,
    /// Whether the frame belongs to the space.
    pub(crate) owned: bool,
    /// Whether the hardware says that the guest has used it; `false` where it does not tell.
    pub(crate) accessed: bool,
    /// Whether the hardware says that the guest has written to it; `false` where it does not tell.
    pub(crate) dirty: bool,
    /// Whether the dirty log knows that the guest has not written to it since, so that the leaf lacks the permission;
    /// `false` where the hardware tells.
    pub(crate) clean: bool,
}

impl Leaf {
    /// A leaf that the guest has not used yet.
    #[inline]
    pub(crate) const fn new(hpa: HostPhysAddr, flags: MappingFlags, owned: bool) -> Self {
        Self { hpa, flags, owned, accessed: false, dirty: false, clean: false }
    }
}

/// What makes a software entry of a leaf that it keeps.
pub(crate) type Kept = fn(Leaf) -> Soft;

/// A software entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Soft {
    /// A leaf that the guest may not reach: it keeps its frame.
    NoAccess(Leaf),
    /// A leaf between break and make.
    Broken(Leaf),
    /// A leaf that was unmapped, its frame to be given back after the invalidation.
    RetiredLeaf(Leaf),
    /// A table that was unlinked, to be given back with all below it after the invalidation.
    RetiredTable {
        /// The table.
        hpa: HostPhysAddr,
        /// Whether frames of leaves below it may belong to the space.
        owned: bool,
        /// Whether the table is a version's (see `version.rs`), so that neither it nor anything below it is given back.
        shared: bool,
    },
    /// A table that takes the place of a large leaf after the invalidation.
    NewTable(HostPhysAddr),
    /// A table of a version, where the format has no permissions in table entries with which it could be walked for reading.
    SharedTable(HostPhysAddr),
    /// A leaf that was there until a scan asked who uses it, where the hardware does not tell: the next access faults, and puts
    /// it back.
    Idle(Leaf),
}

impl Soft {
    /// The entry.
    pub(crate) const fn encode(self) -> u64 {
        let (kind, leaf) = match self {
            Self::NoAccess(leaf) => (1, leaf),
            Self::Broken(leaf) => (2, leaf),
            Self::RetiredLeaf(leaf) => (3, leaf),
            Self::RetiredTable { hpa, owned, shared } => {
                (4, Leaf { accessed: shared, ..Leaf::new(hpa, MappingFlags::empty(), owned) })
            }
            Self::NewTable(hpa) => (5, Leaf::new(hpa, MappingFlags::empty(), false)),
            Self::SharedTable(hpa) => (6, Leaf::new(hpa, MappingFlags::empty(), false)),
            Self::Idle(leaf) => (7, leaf),
        };
        let mut entry = kind << KIND_SHIFT | leaf.hpa.as_u64() & ADDRESS;
        entry |= (leaf.flags.bits() as u64) << FLAGS_SHIFT;
        entry |= if leaf.owned { OWNED } else { 0 };
        entry |= if leaf.accessed { ACCESSED } else { 0 };
        entry |= if leaf.clean { CLEAN } else { 0 };
        entry | if leaf.dirty { DIRTY } else { 0 }
    }

    /// Whether an entry that the hardware takes for absent is [`RetiredLeaf`](Self::RetiredLeaf) or
    /// [`RetiredTable`](Self::RetiredTable).
    #[inline]
    pub(crate) const fn is_retired(entry: u64) -> bool {
        matches!(entry >> KIND_SHIFT & 7, 3 | 4)
    }

    /// What a non-zero entry that the hardware takes for absent means; `None` for none of ours.
    pub(crate) const fn decode(entry: u64) -> Option<Self> {
        let leaf = Leaf {
            hpa: HostPhysAddr::new(entry & ADDRESS),
            flags: MappingFlags::from_bits_truncate((entry >> FLAGS_SHIFT & FLAGS_MASK) as u8),
            owned: entry & OWNED != 0,
            accessed: entry & ACCESSED != 0,
            dirty: entry & DIRTY != 0,
            clean: entry & CLEAN != 0,
        };
        match entry >> KIND_SHIFT & 7 {
            1 => Some(Self::NoAccess(leaf)),
            2 => Some(Self::Broken(leaf)),
            3 => Some(Self::RetiredLeaf(leaf)),
            4 => Some(Self::RetiredTable { hpa: leaf.hpa, owned: leaf.owned, shared: leaf.accessed }),
            5 => Some(Self::NewTable(leaf.hpa)),
            6 => Some(Self::SharedTable(leaf.hpa)),
            7 => Some(Self::Idle(leaf)),
            _ => None,
        }
    }

    /// The leaf of an entry that keeps one for the guest, and what makes the same kind of entry of a leaf.
    pub(crate) fn kept_leaf(self) -> Option<(Leaf, Kept)> {
        match self {
            Self::NoAccess(leaf) => Some((leaf, Self::NoAccess)),
            Self::Idle(leaf) => Some((leaf, Self::Idle)),
            _ => None,
        }
    }
}
