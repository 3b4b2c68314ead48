//! AMD nested page tables (AMD64 APM vol. 2, "Nested Paging"): the long-mode format of the host.
//!
//! Every nested access is a user access, so U/S is set on every level. Accessed and dirty are set beforehand, so that the
//! hardware has nothing to update and never writes to a table beside us; or the hardware sets them, where its
//! marks are wanted. Memory types select entries of the host's PAT as it is after reset.

mod fault;

pub use fault::{ReservedBit, decode_fault};

use super::{Format, Geometry, Kind};
use crate::addr::HostPhysAddr;
use crate::error::UnsupportedFlags;
use crate::flags::{LeafSize, MappingFlags, MemoryType};
use crate::tlb::TableKind;
use thiserror::Error;

// "Page-Translation-Table Entry Fields".
const PRESENT: u64 = 1 << 0;
const WRITE: u64 = 1 << 1;
const USER: u64 = 1 << 2;
/// PWT: bit 0 of the index into the PAT.
const PAT_INDEX_0: u64 = 1 << 3;
/// PCD: bit 1 of the index into the PAT. (Bit 2 stays 0: it has another place in large leaves.)
const PAT_INDEX_1: u64 = 1 << 4;
const ACCESSED: u64 = 1 << 5;
const DIRTY: u64 = 1 << 6;
const LARGE: u64 = 1 << 7;
/// Available to software: the type asked for was `NonCacheable`.
const NON_CACHEABLE: u64 = 1 << 9;
/// Available to software: the dirty log knows of no write, where the CPU's dirty flag is not used.
const CLEAN: u64 = 1 << 53;
const NO_EXECUTE: u64 = 1 << 63;
const ADDRESS: u64 = 0x000f_ffff_ffff_f000;

/// What of nested paging a CPU and its host's mode offer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Capabilities {
    /// MAXPHYADDR: CPUID 8000_0008H, EAX bits 7:0.
    pub physical_bits: u32,
    /// 1 GiB leaves: CPUID 8000_0001H, EDX bit 26.
    pub leaf_1g: bool,
    /// Whether the **host's** EFER.NXE is set, without which bit 63 is reserved.
    pub no_execute: bool,
    /// Address-space identifiers: CPUID 8000_000AH, EBX; 0 itself is the host's.
    pub asids: u32,
    /// Whether the CPU is to tell what a guest has used and written: accessed and dirty are then clear in a new leaf, and
    /// the CPU sets them (APM vol. 2, "Nested Table Walk").
    pub accessed_dirty: bool,
}

/// Why nested paging cannot be set up.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum ConfigError {
    /// Neither 4 nor 5 levels; the table has as many as the host's own.
    #[error("nested paging with {0} levels does not exist")]
    Levels(u8),
    /// MAXPHYADDR is not between 32 and 52.
    #[error("a physical address width of {0} bits is outside of 32..=52")]
    PhysicalBits(u32),
}

/// The nested page-table format as one CPU has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Npt {
    capabilities: Capabilities,
    levels: u8,
}

impl Npt {
    /// The format on a CPU with `capabilities`, with the host's number of levels: 4 (48-bit guest-physical
    /// addresses) or 5 (57 bits, while the host's CR4.LA57 is set).
    ///
    /// # Errors
    /// [`ConfigError`] if a value is out of range.
    pub const fn new(capabilities: Capabilities, levels: u8) -> Result<Self, ConfigError> {
        if levels != 4 && levels != 5 {
            return Err(ConfigError::Levels(levels));
        }
        if capabilities.physical_bits < 32 || capabilities.physical_bits > 52 {
            return Err(ConfigError::PhysicalBits(capabilities.physical_bits));
        }
        Ok(Self { capabilities, levels })
    }

    /// What the CPU offers.
    #[must_use]
    pub const fn capabilities(&self) -> Capabilities {
        self.capabilities
    }
}

impl Default for Npt {
    /// Four levels, 40 bits, NX and no 1 GiB leaves.
    fn default() -> Self {
        let capabilities = Capabilities {
            physical_bits: 40,
            leaf_1g: false,
            no_execute: true,
            asids: 64,
            accessed_dirty: false,
        };
        Self { capabilities, levels: 4 }
    }
}

impl Format for Npt {
    const OWNED: u64 = 1 << 52;
    const ADDRESS: u64 = ADDRESS;
    const WRITE: u64 = WRITE;
    const TABLES_HAVE_PERMISSIONS: bool = true;
    const ADDRESS_SHIFT: u32 = 0;
    const TABLE: TableKind = TableKind::Npt;

    fn geometry(&self) -> Geometry {
        Geometry { levels: self.levels, gpa_bits: 12 + 9 * u32::from(self.levels), root_tables: 1 }
    }

    fn hpa_bits(&self) -> u32 {
        self.capabilities.physical_bits
    }

    fn largest_leaf(&self) -> LeafSize {
        if self.capabilities.leaf_1g { LeafSize::Size1G } else { LeafSize::Size2M }
    }

    fn tag_bits(&self) -> u32 {
        // The number of bits in which every value is an ASID that the CPU has.
        self.capabilities.asids.max(1).ilog2().min(16)
    }

    fn check_flags(&self, flags: MappingFlags) -> Result<(), UnsupportedFlags> {
        let refused = |reason| Err(UnsupportedFlags { flags, reason });
        if !flags.is_accessible() {
            return Ok(());
        }
        if !flags.contains(MappingFlags::READ) {
            return refused("a present entry is readable");
        }
        if !flags.contains(MappingFlags::EXECUTE) && !self.capabilities.no_execute {
            return refused("without the host's EFER.NXE every page is executable");
        }
        Ok(())
    }

    #[inline]
    fn leaf(&self, level: u8, hpa: HostPhysAddr, flags: MappingFlags) -> u64 {
        let marks = if self.capabilities.accessed_dirty { 0 } else { ACCESSED | DIRTY };
        let mut entry = hpa.as_u64() & ADDRESS | PRESENT | USER | marks;
        if level > 0 {
            entry |= LARGE;
        }
        if flags.contains(MappingFlags::WRITE) {
            entry |= WRITE;
        }
        if !flags.contains(MappingFlags::EXECUTE) {
            entry |= NO_EXECUTE;
        }
        // The PAT after reset: 0 is write-back, 2 is UC- (the guest can make it write-combining), 3 is UC.
        entry
            | match flags.memory_type() {
                MemoryType::WriteBack => 0,
                MemoryType::NonCacheable => PAT_INDEX_1 | NON_CACHEABLE,
                MemoryType::Device => PAT_INDEX_1,
                MemoryType::StronglyOrdered => PAT_INDEX_1 | PAT_INDEX_0,
            }
    }

    #[inline]
    fn table(&self, hpa: HostPhysAddr) -> u64 {
        hpa.as_u64() & ADDRESS | PRESENT | WRITE | USER | ACCESSED
    }

    #[inline]
    fn kind(&self, level: u8, entry: u64) -> Kind {
        match (entry & PRESENT != 0, level, entry & LARGE != 0) {
            (false, ..) => Kind::Absent,
            // Bit 7 is a PAT bit in the last level.
            (true, 0, _) | (true, 1 | 2, true) => Kind::Leaf,
            (true, _, false) => Kind::Table,
            // Reserved in the upper levels.
            (true, _, true) => Kind::Absent,
        }
    }

    #[inline]
    fn accessed_bit(&self) -> u64 {
        if self.capabilities.accessed_dirty { ACCESSED } else { 0 }
    }

    #[inline]
    fn dirty_bit(&self) -> u64 {
        if self.capabilities.accessed_dirty { DIRTY } else { 0 }
    }

    #[inline]
    fn log_bit(&self) -> u64 {
        if self.capabilities.accessed_dirty { DIRTY } else { CLEAN }
    }

    #[inline]
    fn log_bit_of_clean(&self) -> u64 {
        if self.capabilities.accessed_dirty { 0 } else { CLEAN }
    }

    #[inline]
    fn address(&self, entry: u64) -> HostPhysAddr {
        HostPhysAddr::new(entry & ADDRESS)
    }

    #[inline]
    fn flags(&self, entry: u64) -> MappingFlags {
        let mut flags = MappingFlags::READ;
        flags.set(MappingFlags::WRITE, entry & WRITE != 0);
        flags.set(MappingFlags::EXECUTE, entry & NO_EXECUTE == 0);
        let memory_type = match (entry & PAT_INDEX_1 != 0, entry & PAT_INDEX_0 != 0) {
            (true, true) => MemoryType::StronglyOrdered,
            (true, false) if entry & NON_CACHEABLE != 0 => MemoryType::NonCacheable,
            (true, false) => MemoryType::Device,
            (false, _) => MemoryType::WriteBack,
        };
        flags | memory_type.flags()
    }

    fn root_register(&self, root: HostPhysAddr, _tag: u16) -> u64 {
        // nCR3, as CR3: PWT and PCD clear, so the tables are read write-back.
        root.as_u64() & ADDRESS
    }
}

#[cfg(all(test, not(loom)))]
mod tests;
