//! Entry codecs: how a leaf, a table pointer and a root look in memory.
//!
//! **Invariant:** plain integers. No `unsafe`, no `cfg`: every format is built and tested on every host. What a CPU
//! offers (levels, widths, memory attributes) is a run-time value of the format.
//!
//! Levels are counted from the leaf: an entry of level `n` covers `4 KiB << 9 n`, so level 0 holds the 4 KiB leaves
//! (Arm counts the other way round: its lookup level is 3 minus ours).

pub mod ept;
pub mod gstage;
pub mod npt;
pub mod stage2;

#[cfg(all(test, not(loom)))]
pub(crate) mod conformance;

use crate::addr::{GuestPhysAddr, HostPhysAddr};
use crate::error::UnsupportedFlags;
use crate::flags::{LeafSize, MappingFlags, MemoryType, level_bytes};
use crate::hal::CacheActions;
use crate::tlb::{TableKind, TlbFeatures};
use core::fmt::Debug;

/// The shape of a table: how many levels, how wide, how large the root.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Geometry {
    /// Number of levels: 2 to 5.
    pub levels: u8,
    /// Width of a guest-physical address in bits.
    pub gpa_bits: u32,
    /// Tables of 512 entries that stand side by side as the root: 1, 2, 4, 8 or 16.
    pub root_tables: u8,
}

impl Geometry {
    /// Level of the root table.
    #[must_use]
    pub const fn root_level(self) -> u8 {
        self.levels - 1
    }

    /// Entries in a table of `level`.
    #[must_use]
    pub const fn entries(self, level: u8) -> usize {
        if level == self.root_level() { 512 * self.root_tables as usize } else { 512 }
    }

    /// Index of the entry that translates `gpa` in its table of `level`. Within [`entries`](Self::entries) for
    /// every `gpa`, also for one that is too wide.
    #[must_use]
    pub const fn index(self, level: u8, gpa: GuestPhysAddr) -> usize {
        (gpa.as_u64() >> (12 + 9 * level as u32)) as usize & (self.entries(level) - 1)
    }

    /// The guest-physical address after the last one that can be translated, if that fits into 64 bits.
    #[must_use]
    pub const fn limit(self) -> GuestPhysAddr {
        GuestPhysAddr::new(1 << self.gpa_bits)
    }

    /// Whether `gpa` is narrow enough.
    #[must_use]
    pub const fn translates(self, gpa: GuestPhysAddr) -> bool {
        gpa.as_u64() >> self.gpa_bits == 0
    }
}

/// What the hardware takes an entry for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Nothing: an access faults.
    Absent,
    /// A pointer to a table of the next lower level.
    Table,
    /// A leaf.
    Leaf,
}

/// What happens to a frame, seen from the caches.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CacheEvent {
    /// The host wrote it and the guest will reach it with this memory type and permission.
    ToGuest(MappingFlags),
    /// The guest, which had this memory type, no longer reaches it; the host will read or reuse it.
    FromGuest(MemoryType),
}

pub use crate::isa::Native;

/// A page-table format as one CPU model has it.
pub trait Format: Copy + Debug + PartialEq + Send + Sync + 'static {
    /// A bit of a present leaf that the hardware ignores. slat sets it on leaves whose frame it owns.
    const OWNED: u64;

    /// The bits of an entry that hold the address.
    const ADDRESS: u64;

    /// The bit of a present leaf, and of a table entry where those have permissions, without which nobody writes through it.
    const WRITE: u64;

    /// Whether an entry that points to a table has permissions, which count for all below it.
    const TABLES_HAVE_PERMISSIONS: bool;

    /// By how many bits an address is shifted down where it stands in an entry.
    const ADDRESS_SHIFT: u32;

    /// Which kind of table this is.
    const TABLE: TableKind;

    /// Levels, width, root.
    fn geometry(&self) -> Geometry;

    /// Width of a host physical address in bits.
    fn hpa_bits(&self) -> u32;

    /// The largest leaf that this CPU takes.
    fn largest_leaf(&self) -> LeafSize;

    /// Bits of the tag (VMID) that this CPU's TLB entries carry.
    fn tag_bits(&self) -> u32;

    /// Whether a leaf can have these flags.
    ///
    /// # Errors
    /// [`UnsupportedFlags`] with the reason. Empty permissions are fine: such a page is not present.
    fn check_flags(&self, flags: MappingFlags) -> Result<(), UnsupportedFlags>;

    /// The leaf of `level` that maps to `hpa` with `flags`. Where the hardware tells what was accessed and what is
    /// dirty, it is neither; elsewhere it is both, so that no access waits for the hardware to say so.
    ///
    /// Expects flags that [`check_flags`](Self::check_flags) takes with some permission, and an address that is
    /// aligned to the leaf and fits into [`hpa_bits`](Self::hpa_bits).
    fn leaf(&self, level: u8, hpa: HostPhysAddr, flags: MappingFlags) -> u64;

    /// The entry that points to the table at `hpa`. The hardware never changes it: what it would set is set.
    fn table(&self, hpa: HostPhysAddr) -> u64;

    /// What the hardware takes `entry` for in a table of `level`.
    fn kind(&self, level: u8, entry: u64) -> Kind;

    /// The table to which `entry` points if it is an entry that [`table`](Self::table) makes: the shortest way down.
    #[inline]
    fn next_table(&self, entry: u64) -> Option<HostPhysAddr> {
        let rest = entry ^ self.table(HostPhysAddr::new(0));
        (rest & !Self::ADDRESS == 0).then(|| HostPhysAddr::new(rest << Self::ADDRESS_SHIFT))
    }

    /// The bit that is set in a leaf when the guest has used it, by the hardware unless
    /// [`marks_by_fault`](Self::marks_by_fault); 0 if nothing tells.
    #[inline]
    fn accessed_bit(&self) -> u64 {
        0
    }

    /// The bit that is set in a leaf when the guest has written to it, as [`accessed_bit`](Self::accessed_bit); 0 if nothing
    /// tells.
    #[inline]
    fn dirty_bit(&self) -> u64 {
        0
    }

    /// The bit of a leaf by which the dirty log tells clean ones: [`dirty_bit`](Self::dirty_bit) where there is one, else one
    /// of software's own that a fresh leaf has as a dirty one.
    fn log_bit(&self) -> u64;

    /// What the [`log_bit`](Self::log_bit) is in a leaf that is clean.
    fn log_bit_of_clean(&self) -> u64;

    /// Whether the hardware sets neither bit: an access to a leaf without those that it would leave faults, and the answer
    /// to the fault sets them (RISC-V without Svadu).
    #[inline]
    fn marks_by_fault(&self) -> bool {
        false
    }

    /// Whether the CPU that makes an entry valid in the answer to a fault has to be told so by an invalidation of its own,
    /// because it may go on using the invalid one (RISC-V without Svvptc, if that is wanted).
    #[inline]
    fn fences_new_entries(&self) -> bool {
        false
    }

    /// The address in a leaf or a table entry; for one of a group see [`single`](Self::single).
    fn address(&self, entry: u64) -> HostPhysAddr;

    /// The bit that is set in a 4 KiB leaf that is one of a group: sixteen neighbours, aligned to 64 KiB in both address
    /// spaces and alike but for their marks, any of which the hardware may use for the pages of all (RISC-V: N); 0 if no
    /// group is made.
    #[inline]
    fn group_bit(&self) -> u64 {
        0
    }

    /// What maps as one of a group what `entry`, an ordinary leaf of 4 KiB, maps; `None` if no group is made. Expects that
    /// all sixteen are mapped so.
    #[inline]
    fn grouped(&self, entry: u64) -> Option<u64> {
        let _ = entry;
        None
    }

    /// The ordinary leaf that maps what `entry` maps, one of a group that stands at `index` in its table; every other
    /// entry as it is. In an entry of a group, [`address`](Self::address) need not be that of its own page (RISC-V: in no
    /// entry is it).
    #[inline]
    fn single(&self, index: usize, entry: u64) -> u64 {
        let _ = index;
        entry
    }

    /// The flags of a leaf.
    fn flags(&self, entry: u64) -> MappingFlags;

    /// Whether replacing the present entry `old` by the present entry `new` in a table of `level` must go through
    /// an invalid entry and an invalidation (Arm: break-before-make).
    ///
    /// The least, where the architecture asks for nothing: a leaf never jumps to another frame, because two CPUs
    /// would write to both until the invalidation.
    fn needs_break(&self, level: u8, old: u64, new: u64) -> bool {
        let leaves = self.kind(level, old) == Kind::Leaf && self.kind(level, new) == Kind::Leaf;
        leaves && self.address(old) != self.address(new)
    }

    /// The value of the register that points the hardware to the root (Arm: VTTBR_EL2).
    fn root_register(&self, root: HostPhysAddr, tag: u16) -> u64;

    /// Which cache maintenance a frame needs; none where the hardware keeps its caches coherent.
    fn cache_actions(&self, event: CacheEvent) -> CacheActions {
        let _ = event;
        CacheActions::empty()
    }

    /// Whether user-mode execution has a permission of its own.
    fn separates_user_execute(&self) -> bool {
        false
    }

    /// What the CPU's invalidation instructions can do beyond the least.
    fn tlb_features(&self) -> TlbFeatures {
        TlbFeatures::empty()
    }

    /// Whether an invalidation by address also drops what a CPU remembers of the tables on the way. Where it does
    /// not, a table that is unlinked costs an invalidation of the whole space.
    fn invalidation_by_address_reaches_tables(&self) -> bool {
        true
    }
}

/// Whether a mapping with the flags `allowed` lets the access `access` pass on this format. `USER` in an access
/// says that it was made in user mode.
pub(crate) fn allows<F: Format>(format: &F, allowed: MappingFlags, access: MappingFlags) -> bool {
    let mut needed = access & (MappingFlags::READ | MappingFlags::WRITE | MappingFlags::EXECUTE);
    if format.separates_user_execute() && access.contains(MappingFlags::EXECUTE | MappingFlags::USER) {
        needed.remove(MappingFlags::EXECUTE);
        needed.insert(MappingFlags::USER);
    }
    allowed.contains(needed)
}

/// Whether a mapping of `gpa` up to `end` to `hpa` can begin with a leaf of `level`.
pub(crate) fn fits(level: u8, gpa: GuestPhysAddr, end: GuestPhysAddr, hpa: HostPhysAddr) -> bool {
    let bytes = level_bytes(level);
    gpa.is_aligned(bytes)
        && hpa.is_aligned(bytes)
        && end.checked_offset_from(gpa).is_some_and(|size| size >= bytes)
}
