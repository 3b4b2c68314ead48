//! Arm stage 2, VMSAv8-64 with the 4 KiB granule (Arm ARM, chapter D8 "The AArch64 Virtual Memory System
//! Architecture").
//!
//! Two to four levels and up to 16 concatenated root tables, chosen at run time from the width of a guest-physical
//! address; memory attributes with and without FEAT_S2FWB; execute permission with and without FEAT_XNX. FEAT_LPA2
//! (52-bit addresses with 4 KiB pages) is not used: with VTCR_EL2.DS = 0 every CPU has the layout below.

mod fault;
mod features;
mod tlbi;

pub use fault::{Fault, NotAStage2Fault, Syndrome, decode_fault};
pub use features::{Features, IdRegisters};
pub use tlbi::{Instruction, instructions};

use super::{CacheEvent, Format, Geometry, Kind};
use crate::addr::HostPhysAddr;
use crate::error::UnsupportedFlags;
use crate::flags::{LeafSize, MappingFlags, MemoryType};
use crate::hal::CacheActions;
use crate::tlb::{TableKind, TlbFeatures};
use thiserror::Error;

// Descriptor fields: D8.3 "Translation table descriptor formats", stage 2.
const VALID: u64 = 1 << 0;
/// Table descriptor above level 0, page descriptor in level 0; clear in a block.
const TABLE_OR_PAGE: u64 = 1 << 1;
const MEM_ATTR_SHIFT: u32 = 2;
const MEM_ATTR_MASK: u64 = 0xf << MEM_ATTR_SHIFT;
const S2AP_READ: u64 = 1 << 6;
const S2AP_WRITE: u64 = 1 << 7;
const SH_INNER: u64 = 3 << 8;
const SH_MASK: u64 = 3 << 8;
const ACCESSED: u64 = 1 << 10;
const ADDRESS: u64 = 0x0000_ffff_ffff_f000;
const CONTIGUOUS: u64 = 1 << 52;
/// Reserved for software use (58:55): the dirty log knows of no write.
const CLEAN: u64 = 1 << 57;
const XN_SHIFT: u32 = 53;
const XN_MASK: u64 = 3 << XN_SHIFT;
/// nT of a block: bit 16, inside the address field of a page.
const BLOCK_NT: u64 = 1 << 16;

// Values of XN[54:53].
const XN_NONE_DENIED: u64 = 0b00;
const XN_ONLY_EL0: u64 = 0b01;
const XN_ALL_DENIED: u64 = 0b10;
const XN_ONLY_EL1: u64 = 0b11;

/// Why a stage 2 cannot be set up.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum ConfigError {
    /// The CPU does not offer 4 KiB pages at stage 2.
    #[error("the CPU has no 4 KiB granule at stage 2 (ID_AA64MMFR0_EL1.TGran4_2)")]
    NoGranule,
    /// The width asked for is not between 25 bits and the CPU's physical address range.
    #[error("a guest-physical address of {asked} bits is outside of 25..={most}")]
    Width {
        /// Bits asked for.
        asked: u32,
        /// The CPU's physical address range, at most 48.
        most: u32,
    },
}

/// The stage-2 format as one CPU has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stage2 {
    features: Features,
    geometry: Geometry,
}

impl Stage2 {
    /// The format on a CPU with `features`, for guest-physical addresses of `gpa_bits` bits; `None` takes the whole
    /// physical address range of the CPU.
    ///
    /// The root gets the lowest number of levels that covers the width: concatenating up to 16 tables saves a level
    /// for up to 4 bits (D8.2 "Concatenated translation tables").
    ///
    /// # Errors
    /// [`ConfigError`] if the CPU lacks the granule or the width is out of range.
    pub fn new(features: Features, gpa_bits: Option<u32>) -> Result<Self, ConfigError> {
        if !features.granule_4k {
            return Err(ConfigError::NoGranule);
        }
        let most = features.pa_bits.min(48);
        let gpa_bits = gpa_bits.unwrap_or(most);
        if !(25..=most).contains(&gpa_bits) {
            return Err(ConfigError::Width { asked: gpa_bits, most });
        }
        // Bits that levels * 9 + 12 leave uncovered are covered by concatenation, at most 4.
        let levels = (gpa_bits - 12).saturating_sub(4).div_ceil(9).max(2) as u8;
        let covered = 12 + 9 * u32::from(levels);
        let root_tables = 1 << gpa_bits.saturating_sub(covered);
        Ok(Self { features, geometry: Geometry { levels, gpa_bits, root_tables } })
    }

    /// What the CPU offers.
    #[must_use]
    pub const fn features(&self) -> Features {
        self.features
    }

    /// The value of VTCR_EL2 that goes with this format: T0SZ, SL0, inner-shareable write-back walks, 4 KiB
    /// granule, physical address size, VMID size; hardware update of A and D off. (Arm ARM, VTCR_EL2.)
    #[must_use]
    pub const fn vtcr_el2(&self) -> u64 {
        let t0sz = 64 - self.geometry.gpa_bits as u64;
        // SL0 names the start level: 2 levels start at lookup level 2 (0), 3 at 1 (1), 4 at 0 (2).
        let sl0 = self.geometry.levels as u64 - 2;
        let ps = features::pa_range_field(self.features.pa_bits) as u64;
        let vs = (self.features.vmid_bits == 16) as u64;
        // IRGN0 = ORGN0 = 1 (write-back, allocate), SH0 = 3 (inner), TG0 = 0 (4 KiB), bit 31 is RES1.
        t0sz | sl0 << 6 | 1 << 8 | 1 << 10 | 3 << 12 | ps << 16 | vs << 19 | 1 << 31
    }

    /// The bits of HCR_EL2 that this format needs: VM, and FWB where the memory attributes are encoded for it.
    #[must_use]
    pub const fn hcr_el2(&self) -> u64 {
        1 | (self.features.fwb as u64) << 46
    }
}

/// MemAttr for a memory type.
const fn mem_attr(fwb: bool, memory_type: MemoryType) -> u64 {
    match (memory_type, fwb) {
        // Without FWB stage 1 can only make this weaker; with FWB the type is forced, whatever stage 1 says.
        (MemoryType::WriteBack, false) => 0b1111,
        (MemoryType::WriteBack, true) => 0b0110,
        (MemoryType::NonCacheable, _) => 0b0101,
        (MemoryType::Device, _) => 0b0001,
        (MemoryType::StronglyOrdered, _) => 0b0000,
    }
}

/// XN for the permissions to execute.
const fn xn(xnx: bool, flags: MappingFlags) -> u64 {
    let (el1, el0) = (flags.contains(MappingFlags::EXECUTE), flags.contains(MappingFlags::USER));
    match (xnx, el1, el0) {
        (true, true, true) | (false, true, _) => XN_NONE_DENIED,
        (true, false, true) => XN_ONLY_EL0,
        (true, true, false) => XN_ONLY_EL1,
        (_, false, _) => XN_ALL_DENIED,
    }
}

/// MemAttr and XN, worked out for every CPU (FEAT_S2FWB, and FEAT_XNX above it) and for every combination of the flags
/// from [`MappingFlags::EXECUTE`] up.
const ATTRIBUTES: [[u64; 16]; 4] = {
    let mut attributes = [[0; 16]; 4];
    let mut index = 0;
    while index < 64 {
        let (cpu, flags) =
            (index / 16, MappingFlags::from_bits_truncate((index % 16) as u8 * MappingFlags::EXECUTE.bits()));
        let (fwb, xnx) = (cpu & 1 != 0, cpu & 2 != 0);
        attributes[cpu][index % 16] =
            mem_attr(fwb, flags.memory_type()) << MEM_ATTR_SHIFT | xn(xnx, flags) << XN_SHIFT;
        index += 1;
    }
    attributes
};
const _: () = assert!(MappingFlags::READ.bits() as u64 * S2AP_READ == S2AP_READ);
const _: () = assert!(MappingFlags::WRITE.bits() as u64 * S2AP_READ == S2AP_WRITE);
const _: () = assert!(MappingFlags::all().bits() / MappingFlags::EXECUTE.bits() == 15);

impl Default for Stage2 {
    /// The baseline of Armv8.0: 40-bit guest-physical addresses, three levels, no optional feature.
    fn default() -> Self {
        let features = Features::BASELINE;
        Self { features, geometry: Geometry { levels: 3, gpa_bits: 40, root_tables: 2 } }
    }
}

impl Format for Stage2 {
    const OWNED: u64 = 1 << 56;
    const ADDRESS: u64 = ADDRESS;
    const WRITE: u64 = S2AP_WRITE;
    const TABLES_HAVE_PERMISSIONS: bool = false;
    const ADDRESS_SHIFT: u32 = 0;
    const TABLE: TableKind = TableKind::Stage2;

    fn geometry(&self) -> Geometry {
        self.geometry
    }

    fn hpa_bits(&self) -> u32 {
        self.features.pa_bits.min(48)
    }

    fn largest_leaf(&self) -> LeafSize {
        // Lookup level 1 exists as soon as there are three levels, level 2 always.
        if self.geometry.levels >= 3 { LeafSize::Size1G } else { LeafSize::Size2M }
    }

    fn tag_bits(&self) -> u32 {
        self.features.vmid_bits
    }

    fn check_flags(&self, flags: MappingFlags) -> Result<(), UnsupportedFlags> {
        let fetch =
            flags.contains(MappingFlags::EXECUTE) || self.features.xnx && flags.contains(MappingFlags::USER);
        let device = matches!(flags.memory_type(), MemoryType::Device | MemoryType::StronglyOrdered);
        let refused = |reason| Err(UnsupportedFlags { flags, reason });
        if fetch && !flags.contains(MappingFlags::READ) {
            // D8.4 "Stage 2 permissions": recent CPUs want the read permission for a fetch, older ones did not.
            return refused("execution without read");
        }
        if fetch && device {
            // D8.5: fetching from Device memory is CONSTRAINED UNPREDICTABLE.
            return refused("execution from device memory");
        }
        if flags.permissions() == MappingFlags::USER && !self.features.xnx {
            return refused("USER alone on a CPU without FEAT_XNX");
        }
        Ok(())
    }

    #[inline]
    fn leaf(&self, level: u8, hpa: HostPhysAddr, flags: MappingFlags) -> u64 {
        let mut entry = hpa.as_u64() & ADDRESS | VALID | ACCESSED | SH_INNER;
        if level == 0 {
            entry |= TABLE_OR_PAGE;
        }
        let bits = usize::from(flags.bits());
        // The permissions to read and write stand in the same order in both.
        entry |= (bits as u64 & 3) * S2AP_READ;
        let cpu = usize::from(self.features.fwb) | usize::from(self.features.xnx) << 1;
        entry | ATTRIBUTES[cpu][bits / usize::from(MappingFlags::EXECUTE.bits()) % 16]
    }

    #[inline]
    fn table(&self, hpa: HostPhysAddr) -> u64 {
        hpa.as_u64() & ADDRESS | VALID | TABLE_OR_PAGE
    }

    #[inline]
    fn kind(&self, level: u8, entry: u64) -> Kind {
        match (entry & (VALID | TABLE_OR_PAGE), level) {
            (0b11, 0) => Kind::Leaf,
            (0b11, _) => Kind::Table,
            // Blocks exist at lookup levels 1 and 2; one at level 0 needs DS = 1, 0b01 in the last level is invalid.
            (0b01, 1 | 2) => Kind::Leaf,
            _ => Kind::Absent,
        }
    }

    #[inline]
    fn address(&self, entry: u64) -> HostPhysAddr {
        HostPhysAddr::new(entry & ADDRESS)
    }

    #[inline]
    fn flags(&self, entry: u64) -> MappingFlags {
        let mut flags = MappingFlags::empty();
        flags.set(MappingFlags::READ, entry & S2AP_READ != 0);
        flags.set(MappingFlags::WRITE, entry & S2AP_WRITE != 0);
        let (el1, el0) = match ((entry & XN_MASK) >> XN_SHIFT, self.features.xnx) {
            (XN_NONE_DENIED, true) => (true, true),
            (XN_ONLY_EL0, true) => (false, true),
            (XN_ONLY_EL1, true) => (true, false),
            // Without FEAT_XNX only bit 54 counts, and USER says nothing.
            (XN_NONE_DENIED | XN_ONLY_EL0, false) => (true, false),
            _ => (false, false),
        };
        flags.set(MappingFlags::EXECUTE, el1);
        flags.set(MappingFlags::USER, el0);
        let memory_type = match ((entry & MEM_ATTR_MASK) >> MEM_ATTR_SHIFT, self.features.fwb) {
            (0b0000, _) => MemoryType::StronglyOrdered,
            (0b0001..=0b0011, _) => MemoryType::Device,
            (0b1111, false) | (0b0110 | 0b0111, true) => MemoryType::WriteBack,
            _ => MemoryType::NonCacheable,
        };
        flags | memory_type.flags()
    }

    #[inline]
    fn log_bit(&self) -> u64 {
        CLEAN
    }

    #[inline]
    fn log_bit_of_clean(&self) -> u64 {
        CLEAN
    }

    fn needs_break(&self, level: u8, old: u64, new: u64) -> bool {
        // D8.16 "Using break-before-make when updating translation table entries": type, output address, memory
        // type, cacheability, shareability, Contiguous and nT. Not: permissions, AF, DBM, software bits.
        let mut watched = VALID | TABLE_OR_PAGE | ADDRESS | CONTIGUOUS;
        if self.kind(level, old) == Kind::Leaf || self.kind(level, new) == Kind::Leaf {
            watched |= MEM_ATTR_MASK | SH_MASK | BLOCK_NT;
        }
        (old ^ new) & watched != 0
    }

    fn root_register(&self, root: HostPhysAddr, tag: u16) -> u64 {
        // VTTBR_EL2: BADDR, VMID in 63:48; CnP stays 0, the PEs do not promise to share entries.
        root.as_u64() & ADDRESS | u64::from(tag) << 48
    }

    fn cache_actions(&self, event: CacheEvent) -> CacheActions {
        let Features { fwb, idc, dic, .. } = self.features;
        let mut actions = CacheActions::empty();
        match event {
            CacheEvent::ToGuest(flags) => {
                // Without FWB the guest may read past the caches (stage 1 off, or its own choice). With FWB only
                // write-back is forced; a type that bypasses the caches still needs the frame in memory.
                if !fwb || flags.memory_type() != MemoryType::WriteBack {
                    actions |= CacheActions::CLEAN_INVALIDATE_TO_POC;
                }
                if flags.intersects(MappingFlags::EXECUTE | MappingFlags::USER) {
                    // CTR_EL0.IDC: no clean to the PoU for instructions; DIC: no I-cache invalidation either.
                    if !idc && !actions.contains(CacheActions::CLEAN_INVALIDATE_TO_POC) {
                        actions |= CacheActions::CLEAN_TO_POU;
                    }
                    actions.set(CacheActions::INVALIDATE_INSTRUCTIONS, !dic);
                }
            }
            CacheEvent::FromGuest(memory_type) => {
                let coherent = fwb && memory_type == MemoryType::WriteBack;
                actions.set(CacheActions::CLEAN_INVALIDATE_TO_POC, !coherent);
            }
        }
        actions
    }

    fn separates_user_execute(&self) -> bool {
        self.features.xnx
    }

    fn tlb_features(&self) -> TlbFeatures {
        if self.features.range_tlbi { TlbFeatures::RANGE } else { TlbFeatures::empty() }
    }
}

#[cfg(all(test, not(loom)))]
mod tests;
