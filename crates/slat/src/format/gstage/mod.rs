//! RISC-V G-stage: Sv39x4, Sv48x4, Sv57x4 (RISC-V privileged manual, "Two-Stage Address Translation").
//!
//! The root is four tables side by side, 16 KiB aligned, which widens the guest-physical address by two bits. Every
//! access is checked as if made in user mode, so U is set on every leaf. Accessed and dirty are set beforehand, so
//! neither Svade faults nor Svadu updates happen.

mod fault;
mod fence;

pub use fault::{NotAGuestPageFault, Trap, decode_fault};
pub use fence::{Fence, fences};

use super::{CacheEvent, Format, Geometry, Kind};
use crate::addr::HostPhysAddr;
use crate::error::UnsupportedFlags;
use crate::flags::{LeafSize, MappingFlags, MemoryType};
use crate::hal::CacheActions;
use crate::tlb::TableKind;

// "Sv39 page table entry", which the other modes share.
const VALID: u64 = 1 << 0;
const READ: u64 = 1 << 1;
const WRITE: u64 = 1 << 2;
const EXECUTE: u64 = 1 << 3;
const USER: u64 = 1 << 4;
const ACCESSED: u64 = 1 << 6;
const DIRTY: u64 = 1 << 7;
/// RSW bit 1: the stronger of two types that share an encoding was asked for.
const STRONGER: u64 = 1 << 9;
const PBMT_SHIFT: u32 = 61;
const PBMT_MASK: u64 = 3 << PBMT_SHIFT;
const PBMT_NC: u64 = 1;
const PBMT_IO: u64 = 2;
/// PPN, bits 53:10, holds address bits 55:12.
const PPN_MASK: u64 = ((1 << 44) - 1) << 10;

/// The mode of hgatp.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// Three levels, 41-bit guest-physical addresses.
    Sv39x4,
    /// Four levels, 50 bits.
    Sv48x4,
    /// Five levels, 59 bits.
    Sv57x4,
}

/// What of the G-stage a hart offers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Capabilities {
    /// Svpbmt is there and menvcfg.PBMTE is set: a leaf can choose its memory type.
    pub svpbmt: bool,
    /// VMIDLEN: bits of hgatp.VMID that hold what is written, 0 to 14.
    pub vmid_bits: u32,
}

/// The G-stage format in one mode.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Gstage {
    mode: Mode,
    capabilities: Capabilities,
}

impl Gstage {
    /// The format in `mode` on a hart with `capabilities`. That the hart offers the mode is to be seen by writing
    /// hgatp and reading it back.
    #[must_use]
    pub const fn new(mode: Mode, capabilities: Capabilities) -> Self {
        Self { mode, capabilities }
    }

    /// The mode.
    #[must_use]
    pub const fn mode(&self) -> Mode {
        self.mode
    }
}

impl Default for Gstage {
    /// Sv39x4, which every hart with a G-stage has, without Svpbmt and without VMIDs.
    fn default() -> Self {
        Self { mode: Mode::Sv39x4, capabilities: Capabilities { svpbmt: false, vmid_bits: 0 } }
    }
}

impl Format for Gstage {
    const OWNED: u64 = 1 << 8;
    const ADDRESS: u64 = PPN_MASK;
    const ADDRESS_SHIFT: u32 = 2;
    const TABLE: TableKind = TableKind::Gstage;

    fn geometry(&self) -> Geometry {
        let levels = match self.mode {
            Mode::Sv39x4 => 3,
            Mode::Sv48x4 => 4,
            Mode::Sv57x4 => 5,
        };
        Geometry { levels, gpa_bits: 12 + 9 * u32::from(levels) + 2, root_tables: 4 }
    }

    fn hpa_bits(&self) -> u32 {
        // A PPN has 56 address bits; entries that wait to be freed hold 52, and no machine has more.
        52
    }

    fn largest_leaf(&self) -> LeafSize {
        LeafSize::Size1G
    }

    fn tag_bits(&self) -> u32 {
        self.capabilities.vmid_bits.min(14)
    }

    fn check_flags(&self, flags: MappingFlags) -> Result<(), UnsupportedFlags> {
        let refused = |reason| Err(UnsupportedFlags { flags, reason });
        if flags.contains(MappingFlags::WRITE) && !flags.contains(MappingFlags::READ) {
            return refused("W without R is reserved");
        }
        if flags.permissions() == MappingFlags::USER {
            return refused("USER alone: execution is not separate");
        }
        if !self.capabilities.svpbmt && flags.contains(MappingFlags::UNCACHED) {
            return refused("without Svpbmt the type is that of the physical memory");
        }
        Ok(())
    }

    #[inline]
    fn leaf(&self, _level: u8, hpa: HostPhysAddr, flags: MappingFlags) -> u64 {
        let mut entry = (hpa.as_u64() >> 2) & PPN_MASK | VALID | USER | ACCESSED | DIRTY;
        for (flag, bit) in
            [(MappingFlags::READ, READ), (MappingFlags::WRITE, WRITE), (MappingFlags::EXECUTE, EXECUTE)]
        {
            if flags.contains(flag) {
                entry |= bit;
            }
        }
        let (pbmt, stronger) = match (flags.memory_type(), self.capabilities.svpbmt) {
            (MemoryType::WriteBack, _) => (0, 0),
            (MemoryType::NonCacheable, true) => (PBMT_NC, 0),
            (MemoryType::Device, true) => (PBMT_IO, 0),
            (MemoryType::StronglyOrdered, true) => (PBMT_IO, STRONGER),
            // Devices lie where the physical memory attributes say I/O, with or without us.
            (_, false) => (0, STRONGER),
        };
        entry | pbmt << PBMT_SHIFT | stronger
    }

    #[inline]
    fn table(&self, hpa: HostPhysAddr) -> u64 {
        // A, D, U and PBMT are reserved in a pointer.
        (hpa.as_u64() >> 2) & PPN_MASK | VALID
    }

    #[inline]
    fn kind(&self, level: u8, entry: u64) -> Kind {
        let permissions = entry & (READ | WRITE | EXECUTE);
        match (entry & VALID != 0, permissions, level) {
            (false, ..) | (true, WRITE, _) => Kind::Absent,
            (true, 0, 0) => Kind::Absent,
            (true, 0, _) => Kind::Table,
            // W without R is reserved, with X as well; leaves of 512 GiB and more are not used.
            (true, _, 0..=2) if permissions != WRITE | EXECUTE => Kind::Leaf,
            _ => Kind::Absent,
        }
    }

    #[inline]
    fn address(&self, entry: u64) -> HostPhysAddr {
        HostPhysAddr::new((entry & PPN_MASK) << 2)
    }

    #[inline]
    fn flags(&self, entry: u64) -> MappingFlags {
        let mut flags = MappingFlags::empty();
        flags.set(MappingFlags::READ, entry & READ != 0);
        flags.set(MappingFlags::WRITE, entry & WRITE != 0);
        flags.set(MappingFlags::EXECUTE, entry & EXECUTE != 0);
        let memory_type = match ((entry & PBMT_MASK) >> PBMT_SHIFT, entry & STRONGER != 0) {
            (0, false) => MemoryType::WriteBack,
            (PBMT_NC, _) => MemoryType::NonCacheable,
            (PBMT_IO, true) => MemoryType::StronglyOrdered,
            _ => MemoryType::Device,
        };
        flags | memory_type.flags()
    }

    fn root_register(&self, root: HostPhysAddr, tag: u16) -> u64 {
        // hgatp: MODE in 63:60, VMID in 57:44, PPN in 43:0.
        let mode: u64 = match self.mode {
            Mode::Sv39x4 => 8,
            Mode::Sv48x4 => 9,
            Mode::Sv57x4 => 10,
        };
        mode << 60 | u64::from(tag & 0x3fff) << 44 | root.as_u64() >> 12
    }

    fn cache_actions(&self, event: CacheEvent) -> CacheActions {
        match event {
            // FENCE.I: stores do not reach instruction fetches by themselves.
            CacheEvent::ToGuest(flags) if flags.contains(MappingFlags::EXECUTE) => {
                CacheActions::INVALIDATE_INSTRUCTIONS
            }
            _ => CacheActions::empty(),
        }
    }

    fn invalidation_by_address_reaches_tables(&self) -> bool {
        // HFENCE.GVMA with an address orders leaf entries only.
        false
    }
}

#[cfg(test)]
mod tests;
