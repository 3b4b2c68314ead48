//! RISC-V G-stage: Sv39x4, Sv48x4, Sv57x4 (RISC-V privileged manual, "Two-Stage Address Translation").
//!
//! The root is four tables side by side, 16 KiB aligned, which widens the guest-physical address by two bits. Every
//! access is checked as if made in user mode, so U is set on every leaf. Accessed and dirty are set beforehand, so
//! neither Svade faults nor Svadu updates happen; or they are clear and tell what the guest has used
//! ([`Capabilities::accessed_dirty`]). The hypervisor's own sstatus.MXR applies to the guest's accesses too, and is to
//! be clear: set, it lets pages be read that can only be executed.
//!
//! Leaves of 64 KiB (Svnapot) are made of memory of the caller if that is wanted ([`Capabilities::napot_leaves`]): sixteen
//! entries that are alike, so that the address in one does not say which it is. When one of them changes by itself, all
//! become ordinary ones first, in place: a page that is found by two entries which agree on it is "well defined"
//! (supervisor chapter, "Supervisor Memory-Management Fence Instruction", on superpages).

mod capabilities;
mod fault;
mod fence;
mod hgatp;
mod instruction;
mod remote;

pub use capabilities::{Capabilities, ConfigError, Extensions, Mode, Modes};
pub use fault::{Fault, NotAGuestPageFault, Trap, decode_fault};
pub use fence::{Fence, Instruction, fences, instructions};
pub use hgatp::{HgatpError, HgatpProbe, probe_henvcfg, vmid};
pub use instruction::transform;
pub use remote::{HartMask, REMOTE_FENCE_I, RFENCE, RemoteFence, remote_fences};

use super::{CacheEvent, Format, Geometry, Kind};
use crate::addr::{GuestPhysAddr, HostPhysAddr};
use crate::error::UnsupportedFlags;
use crate::flags::{LeafSize, MappingFlags, MemoryType, level_bytes};
use crate::hal::CacheActions;
use crate::tlb::{TableKind, TlbFeatures};

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
const PBMT_RESERVED: u64 = 3;
/// N: one of sixteen entries that map 64 KiB together, PPN bits 3:0 being 1000 ("Svnapot").
const NAPOT: u64 = 1 << 63;
const NAPOT_SIZE: u64 = 0xf << PPN_SHIFT;
const NAPOT_64K: u64 = 8 << PPN_SHIFT;
/// Bits 63:54 hold no address: N, PBMT, and seven that are reserved.
const UPPER_SHIFT: u32 = 54;
/// Those that are reserved.
const RESERVED: u64 = 0x7f << UPPER_SHIFT;
/// Bits that are reserved in a pointer to a table, PBMT and N beside them.
const NOT_IN_POINTERS: u64 = USER | ACCESSED | DIRTY;
/// What makes one of sixteen entries of an ordinary one.
const OF_SIXTEEN: u64 = NAPOT | NAPOT_SIZE;
/// PPN, bits 53:10, holds address bits 55:12.
const PPN_MASK: u64 = ((1 << 44) - 1) << PPN_SHIFT;
const PPN_SHIFT: u32 = 10;

/// The G-stage format in one mode.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Gstage {
    mode: Mode,
    capabilities: Capabilities,
}

impl Gstage {
    /// The format in `mode` on a hart with `capabilities`.
    ///
    /// # Errors
    /// [`ConfigError::ModeNotOffered`]; [`ConfigError::VmidBits`] and [`ConfigError::PhysicalBits`] if a value is out of
    /// range.
    pub const fn new(mode: Mode, capabilities: Capabilities) -> Result<Self, ConfigError> {
        let Capabilities { modes, vmid_bits, physical_bits, .. } = capabilities;
        if !modes.contains(mode.only()) {
            return Err(ConfigError::ModeNotOffered(mode));
        }
        if vmid_bits > 14 {
            return Err(ConfigError::VmidBits(vmid_bits));
        }
        if physical_bits < 32 || physical_bits > 56 {
            return Err(ConfigError::PhysicalBits(physical_bits));
        }
        Ok(Self { mode, capabilities })
    }

    /// The format in the widest mode of the hart.
    ///
    /// # Errors
    /// As [`narrowest`](Self::narrowest) for a single bit.
    pub fn widest(capabilities: Capabilities) -> Result<Self, ConfigError> {
        let mut modes = Mode::ALL.into_iter().rev();
        let mode = modes.find(|mode| capabilities.modes.contains(mode.only()));
        Self::new(mode.ok_or(ConfigError::NoModeFor(1))?, capabilities)
    }

    /// The format in the mode with the fewest levels that translates guest-physical addresses of `gpa_bits` bits.
    ///
    /// # Errors
    /// [`ConfigError::NoModeFor`] if the hart has none; otherwise as [`new`](Self::new).
    pub fn narrowest(gpa_bits: u32, capabilities: Capabilities) -> Result<Self, ConfigError> {
        let fits = |mode: &Mode| mode.gpa_bits() >= gpa_bits && capabilities.modes.contains(mode.only());
        let mode = Mode::ALL.into_iter().find(fits).ok_or(ConfigError::NoModeFor(gpa_bits))?;
        Self::new(mode, capabilities)
    }

    /// The mode.
    #[must_use]
    pub const fn mode(&self) -> Mode {
        self.mode
    }

    /// What the hart offers.
    #[must_use]
    pub const fn capabilities(&self) -> Capabilities {
        self.capabilities
    }

    /// The value of hgatp for the table at `root`, a multiple of 16 KiB, under `vmid`: MODE in bits 63:60, VMID in 57:44, PPN
    /// in 43:0. (Privileged manual, "Hypervisor Guest Address Translation and Protection Register".)
    ///
    /// Writing it orders nothing: see [`fences`] for what has to go along with it.
    ///
    /// # Errors
    /// [`HgatpError`] for a root that is not aligned or too wide, and for a VMID that the hart would cut.
    pub fn hgatp(&self, root: HostPhysAddr, vmid: u16) -> Result<u64, HgatpError> {
        hgatp::checked_value(self.mode, self.capabilities.vmid_bits, vmid, root)
    }

    /// Where `entry`, in a table of `level`, leads for an access to `gpa`, and the bytes of the leaf: those of its level, or
    /// 64 KiB for an entry of Svnapot, whether this space makes such or not. `None` if the hart does not take it for a leaf.
    #[must_use]
    pub fn reached(&self, level: u8, entry: u64, gpa: GuestPhysAddr) -> Option<(HostPhysAddr, u64)> {
        let sixteen = entry & NAPOT != 0;
        if sixteen {
            let known = self.capabilities.has(Extensions::SVNAPOT) && level == 0;
            if !known || entry & NAPOT_SIZE != NAPOT_64K {
                return None;
            }
        }
        // One of the sixteen by itself, at the beginning of what they map together.
        let one = if sixteen { entry & !OF_SIXTEEN } else { entry };
        if self.kind(level, one) != Kind::Leaf {
            return None;
        }
        let bytes = if sixteen { 1 << 16 } else { level_bytes(level) };
        let start = self.address(one).as_u64();
        let aligned = start & (bytes - 1) == 0;
        aligned.then(|| (HostPhysAddr::new(start + (gpa.as_u64() & (bytes - 1))), bytes))
    }

    /// Whether the hart takes a leaf of `level` with these bits 63:54, one of which is set, for one that slat makes: with a
    /// memory type that exists, as one of sixteen, and nothing else.
    #[cold]
    fn has_known_upper_bits(&self, level: u8, entry: u64) -> bool {
        let pbmt = (entry & PBMT_MASK) >> PBMT_SHIFT;
        let typed = pbmt == 0 || pbmt != PBMT_RESERVED && self.capabilities.has(Extensions::SVPBMT);
        let grouped = self.makes_groups() && level == 0 && entry & NAPOT_SIZE == NAPOT_64K;
        entry & RESERVED == 0 && typed && (entry & NAPOT == 0 || grouped)
    }

    #[inline]
    const fn makes_groups(&self) -> bool {
        self.capabilities.napot_leaves && self.capabilities.has(Extensions::SVNAPOT)
    }
}

impl Default for Gstage {
    /// Sv39x4, which every hart with a G-stage has, and [nothing else](Capabilities::BASELINE).
    fn default() -> Self {
        Self { mode: Mode::Sv39x4, capabilities: Capabilities::BASELINE }
    }
}

impl Format for Gstage {
    const OWNED: u64 = 1 << 8;
    const ADDRESS: u64 = PPN_MASK;
    const WRITE: u64 = WRITE;
    const TABLES_HAVE_PERMISSIONS: bool = false;
    const ADDRESS_SHIFT: u32 = 2;
    const TABLE: TableKind = TableKind::Gstage;

    fn geometry(&self) -> Geometry {
        Geometry { levels: self.mode.levels(), gpa_bits: self.mode.gpa_bits(), root_tables: 4 }
    }

    fn hpa_bits(&self) -> u32 {
        // A PPN has 56 address bits; entries that wait to be freed hold 52, and no machine has more.
        self.capabilities.physical_bits.min(52)
    }

    fn largest_leaf(&self) -> LeafSize {
        LeafSize::Size1G
    }

    fn tag_bits(&self) -> u32 {
        self.capabilities.vmid_bits
    }

    fn check_flags(&self, flags: MappingFlags) -> Result<(), UnsupportedFlags> {
        let refused = |reason| Err(UnsupportedFlags { flags, reason });
        if flags.contains(MappingFlags::WRITE) && !flags.contains(MappingFlags::READ) {
            return refused("W without R is reserved");
        }
        if flags.permissions() == MappingFlags::USER {
            return refused("USER alone: execution is not separate");
        }
        if !self.capabilities.has(Extensions::SVPBMT) && flags.contains(MappingFlags::UNCACHED) {
            return refused("without Svpbmt the type is that of the physical memory");
        }
        Ok(())
    }

    #[inline]
    fn leaf(&self, _level: u8, hpa: HostPhysAddr, flags: MappingFlags) -> u64 {
        let marks = if self.capabilities.accessed_dirty { 0 } else { ACCESSED | DIRTY };
        let mut entry = (hpa.as_u64() >> 2) & PPN_MASK | VALID | USER | marks;
        for (flag, bit) in
            [(MappingFlags::READ, READ), (MappingFlags::WRITE, WRITE), (MappingFlags::EXECUTE, EXECUTE)]
        {
            if flags.contains(flag) {
                entry |= bit;
            }
        }
        let (pbmt, stronger) = match (flags.memory_type(), self.capabilities.has(Extensions::SVPBMT)) {
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
            // A, D and U, PBMT and N are reserved in a pointer.
            (true, 0, _) if entry & NOT_IN_POINTERS != 0 || entry >> UPPER_SHIFT != 0 => Kind::Absent,
            (true, 0, _) => Kind::Table,
            // W without R is reserved, with X as well; leaves of 512 GiB and more are not used.
            (true, _, 0..=2) if permissions != WRITE | EXECUTE => {
                if entry >> UPPER_SHIFT == 0 || self.has_known_upper_bits(level, entry) {
                    Kind::Leaf
                } else {
                    Kind::Absent
                }
            }
            _ => Kind::Absent,
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
        // Both bits for software are taken. Where D is set beforehand and tells nothing, a leaf from which W is held back
        // can do without it.
        DIRTY
    }

    #[inline]
    fn log_bit_of_clean(&self) -> u64 {
        0
    }

    #[inline]
    fn marks_by_fault(&self) -> bool {
        self.capabilities.accessed_dirty && !self.capabilities.has(Extensions::SVADU)
    }

    #[inline]
    fn fences_new_entries(&self) -> bool {
        self.capabilities.fence_new_entries && !self.capabilities.has(Extensions::SVVPTC)
    }

    #[inline]
    fn address(&self, entry: u64) -> HostPhysAddr {
        HostPhysAddr::new((entry & PPN_MASK) << 2)
    }

    #[inline]
    fn group_bit(&self) -> u64 {
        if self.makes_groups() { NAPOT } else { 0 }
    }

    #[inline]
    fn grouped(&self, entry: u64) -> Option<u64> {
        self.makes_groups().then_some(entry & !NAPOT_SIZE | NAPOT | NAPOT_64K)
    }

    #[inline]
    fn single(&self, index: usize, entry: u64) -> u64 {
        if entry & NAPOT == 0 { entry } else { entry & !OF_SIXTEEN | (index as u64 & 0xf) << PPN_SHIFT }
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
        hgatp::value(self.mode, tag, root)
    }

    fn tlb_features(&self) -> TlbFeatures {
        if self.capabilities.has(Extensions::SVINVAL) {
            TlbFeatures::ORDERED_APART
        } else {
            TlbFeatures::empty()
        }
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

#[cfg(all(test, not(loom)))]
mod tests;
