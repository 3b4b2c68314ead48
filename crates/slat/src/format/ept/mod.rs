//! Intel EPT (Intel SDM vol. 3C, "The extended page table mechanism (EPT)").
//!
//! Four or five levels, mode-based execute control, memory types with and without the guest's PAT, accessed and dirty
//! flags. With the flags on (EPTP bit 6) the CPU may set bits 8 and 9 of a present leaf at any time, so a present leaf
//! is only changed by an atomic read-modify-write.

mod fault;

pub use fault::Violation;

use super::{Format, Geometry, Kind};
use crate::addr::HostPhysAddr;
use crate::error::UnsupportedFlags;
use crate::flags::{LeafSize, MappingFlags, MemoryType};
use crate::tlb::{TableKind, TlbFeatures};
use thiserror::Error;

// "Format of an EPT Page-Table Entry" and the tables beside it.
const READ: u64 = 1 << 0;
const WRITE: u64 = 1 << 1;
const EXECUTE: u64 = 1 << 2;
const MEMORY_TYPE_SHIFT: u32 = 3;
const MEMORY_TYPE_MASK: u64 = 7 << MEMORY_TYPE_SHIFT;
/// The guest's PAT is ignored.
const IGNORE_PAT: u64 = 1 << 6;
const LARGE: u64 = 1 << 7;
/// Set by the CPU when it uses an entry, and when it writes through a leaf, if EPTP says so.
const ACCESSED: u64 = 1 << 8;
const DIRTY: u64 = 1 << 9;
/// Ignored by the CPU: the dirty log knows of no write, where the CPU keeps no dirty flag.
const CLEAN: u64 = 1 << 53;
/// Execution in user mode, with mode-based execute control.
const EXECUTE_USER: u64 = 1 << 10;
/// From [`MappingFlags::USER`] to [`EXECUTE_USER`].
const USER_SHIFT: u32 = 7;
const _: () =
    assert!(MappingFlags::READ.bits() as u64 == READ && MappingFlags::EXECUTE.bits() as u64 == EXECUTE);
const _: () = assert!(MappingFlags::WRITE.bits() as u64 == WRITE);
const _: () = assert!((MappingFlags::USER.bits() as u64) << USER_SHIFT == EXECUTE_USER);
const ADDRESS: u64 = 0x000f_ffff_ffff_f000;

// Values of the memory type: uncacheable, write-combining, write-back.
const UC: u64 = 0;
const WC: u64 = 1;
const WB: u64 = 6;

/// In the order of [`MemoryType`].
const MEMORY_TYPES: [u64; 4] = [
    WB << MEMORY_TYPE_SHIFT,
    UC << MEMORY_TYPE_SHIFT,
    WC << MEMORY_TYPE_SHIFT,
    UC << MEMORY_TYPE_SHIFT | IGNORE_PAT,
];

/// What of EPT a CPU offers (IA32_VMX_EPT_VPID_CAP, the physical address width), and which of its options will be on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Capabilities {
    /// IA32_VMX_EPT_VPID_CAP (MSR 48CH).
    pub ept_vpid_cap: u64,
    /// MAXPHYADDR: CPUID 8000_0008H, EAX bits 7:0.
    pub physical_bits: u32,
    /// Whether mode-based execute control is on (secondary controls, bit 22).
    pub mode_based_execute: bool,
    /// Whether the CPU is to keep accessed and dirty flags (EPTP bit 6; needs IA32_VMX_EPT_VPID_CAP bit 21). The CPU
    /// then treats its walks of the guest's page tables as writes to them.
    pub accessed_dirty: bool,
}

impl Capabilities {
    /// The least that a CPU with EPT offers: four levels, write-back, no large leaf, 36 bits.
    pub const BASELINE: Self = Self {
        ept_vpid_cap: 1 << 6 | 1 << 14,
        physical_bits: 36,
        mode_based_execute: false,
        accessed_dirty: false,
    };

    const fn has(self, bit: u32) -> bool {
        self.ept_vpid_cap >> bit & 1 == 1
    }
}

/// Why EPT cannot be set up.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum ConfigError {
    /// The CPU lacks the page-walk length (IA32_VMX_EPT_VPID_CAP bit 6 or 7), or it is neither 4 nor 5.
    #[error("EPT with {0} levels is not offered by this CPU")]
    Levels(u8),
    /// The CPU does not offer write-back for the EPT paging structures (bit 14).
    #[error("the CPU cannot read its EPT tables through the cache (IA32_VMX_EPT_VPID_CAP bit 14)")]
    NoWriteBack,
    /// Accessed and dirty flags are asked for, and the CPU has none (bit 21).
    #[error("the CPU keeps no accessed and dirty flags for EPT (IA32_VMX_EPT_VPID_CAP bit 21)")]
    NoAccessedDirty,
    /// MAXPHYADDR is not between 32 and 52.
    #[error("a physical address width of {0} bits is outside of 32..=52")]
    PhysicalBits(u32),
}

/// The EPT format as one CPU has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ept {
    capabilities: Capabilities,
    levels: u8,
    /// The bits of which one makes an entry present.
    present: u64,
    /// What a table entry has beside the address.
    table: u64,
}

impl Ept {
    /// The format on a CPU with `capabilities`, with 4 levels (48-bit guest-physical addresses) or 5 (57 bits).
    ///
    /// # Errors
    /// [`ConfigError`] if the CPU lacks what that needs.
    pub const fn new(capabilities: Capabilities, levels: u8) -> Result<Self, ConfigError> {
        let offered = match levels {
            4 => capabilities.has(6),
            5 => capabilities.has(7),
            _ => false,
        };
        if !offered {
            return Err(ConfigError::Levels(levels));
        }
        if !capabilities.has(14) {
            return Err(ConfigError::NoWriteBack);
        }
        if capabilities.accessed_dirty && !capabilities.has(21) {
            return Err(ConfigError::NoAccessedDirty);
        }
        if capabilities.physical_bits < 32 || capabilities.physical_bits > 52 {
            return Err(ConfigError::PhysicalBits(capabilities.physical_bits));
        }
        Ok(Self::offered(capabilities, levels))
    }

    const fn offered(capabilities: Capabilities, levels: u8) -> Self {
        let user = if capabilities.mode_based_execute { EXECUTE_USER } else { 0 };
        let present = READ | WRITE | EXECUTE | user;
        // A permission that a table entry lacks is lacking below it, so all are given. That it was used is known.
        let table = present | if capabilities.accessed_dirty { ACCESSED } else { 0 };
        Self { capabilities, levels, present, table }
    }

    /// What the CPU offers.
    #[must_use]
    pub const fn capabilities(&self) -> Capabilities {
        self.capabilities
    }
}

impl Default for Ept {
    /// Four levels on a CPU of the [baseline](Capabilities::BASELINE), which has no large leaves.
    fn default() -> Self {
        Self::offered(Capabilities::BASELINE, 4)
    }
}

impl Format for Ept {
    const OWNED: u64 = 1 << 52;
    const ADDRESS: u64 = ADDRESS;
    const WRITE: u64 = WRITE;
    const TABLES_HAVE_PERMISSIONS: bool = true;
    const ADDRESS_SHIFT: u32 = 0;
    const TABLE: TableKind = TableKind::Ept;

    fn geometry(&self) -> Geometry {
        Geometry { levels: self.levels, gpa_bits: 12 + 9 * u32::from(self.levels), root_tables: 1 }
    }

    fn hpa_bits(&self) -> u32 {
        self.capabilities.physical_bits
    }

    fn largest_leaf(&self) -> LeafSize {
        match (self.capabilities.has(16), self.capabilities.has(17)) {
            (_, true) => LeafSize::Size1G,
            (true, false) => LeafSize::Size2M,
            (false, false) => LeafSize::Size4K,
        }
    }

    fn tag_bits(&self) -> u32 {
        // VPIDs are 16 bits wide; EPT's own entries are told apart by the EPTP.
        16
    }

    fn check_flags(&self, flags: MappingFlags) -> Result<(), UnsupportedFlags> {
        let refused = |reason| Err(UnsupportedFlags { flags, reason });
        let user_counts = self.capabilities.mode_based_execute;
        let fetch =
            flags.contains(MappingFlags::EXECUTE) || user_counts && flags.contains(MappingFlags::USER);
        if flags.contains(MappingFlags::WRITE) && !flags.contains(MappingFlags::READ) {
            // "EPT Misconfigurations": bit 1 set and bit 0 clear.
            return refused("write without read is an EPT misconfiguration");
        }
        if fetch && !flags.contains(MappingFlags::READ) && !self.capabilities.has(0) {
            return refused("this CPU has no execute-only translations (IA32_VMX_EPT_VPID_CAP bit 0)");
        }
        if flags.permissions() == MappingFlags::USER && !user_counts {
            return refused("USER alone without mode-based execute control");
        }
        Ok(())
    }

    #[inline]
    fn leaf(&self, level: u8, hpa: HostPhysAddr, flags: MappingFlags) -> u64 {
        // The permissions stand in the same order in both.
        let mut entry = hpa.as_u64() & ADDRESS | u64::from(flags.bits()) & (READ | WRITE | EXECUTE);
        if level > 0 {
            entry |= LARGE;
        }
        // Bit 10 makes an entry present where it counts, and only there.
        entry |= u64::from((flags & MappingFlags::USER).bits()) << USER_SHIFT & self.present;
        // MTRRs do not apply under EPT: the type stands in their place, and the guest's PAT can weaken it unless it
        // is ignored ("Memory type used for translated guest-physical addresses").
        entry | MEMORY_TYPES[flags.memory_type() as usize]
    }

    #[inline]
    fn table(&self, hpa: HostPhysAddr) -> u64 {
        hpa.as_u64() & ADDRESS | self.table
    }

    #[inline]
    fn kind(&self, level: u8, entry: u64) -> Kind {
        if entry & self.present == 0 {
            return Kind::Absent;
        }
        match (level, entry & LARGE != 0) {
            // Bit 7 is ignored in the last level.
            (0, _) | (1 | 2, true) => Kind::Leaf,
            (_, false) => Kind::Table,
            // Reserved: a misconfiguration.
            (_, true) => Kind::Absent,
        }
    }

    #[inline]
    fn address(&self, entry: u64) -> HostPhysAddr {
        HostPhysAddr::new(entry & ADDRESS)
    }

    #[inline]
    fn flags(&self, entry: u64) -> MappingFlags {
        let mut flags = MappingFlags::empty();
        flags.set(MappingFlags::READ, entry & READ != 0);
        flags.set(MappingFlags::WRITE, entry & WRITE != 0);
        flags.set(MappingFlags::EXECUTE, entry & EXECUTE != 0);
        flags.set(MappingFlags::USER, self.capabilities.mode_based_execute && entry & EXECUTE_USER != 0);
        let memory_type = match ((entry & MEMORY_TYPE_MASK) >> MEMORY_TYPE_SHIFT, entry & IGNORE_PAT != 0) {
            (WB, _) => MemoryType::WriteBack,
            (UC, true) => MemoryType::StronglyOrdered,
            (UC, false) => MemoryType::Device,
            _ => MemoryType::NonCacheable,
        };
        flags | memory_type.flags()
    }

    fn root_register(&self, root: HostPhysAddr, _tag: u16) -> u64 {
        // EPTP: memory type of the tables in 2:0, page-walk length less one in 5:3, accessed and dirty flags in 6.
        let flags = u64::from(self.capabilities.accessed_dirty) << 6;
        root.as_u64() & ADDRESS | flags | u64::from(self.levels - 1) << 3 | WB
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

    fn separates_user_execute(&self) -> bool {
        self.capabilities.mode_based_execute
    }

    fn tlb_features(&self) -> TlbFeatures {
        // IA32_VMX_EPT_VPID_CAP bit 25.
        if self.capabilities.has(25) { TlbFeatures::SINGLE_CONTEXT } else { TlbFeatures::empty() }
    }
}

#[cfg(all(test, not(loom)))]
mod tests;
