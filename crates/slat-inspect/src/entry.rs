//! What one entry means, in words that all formats share.

use crate::problem::Problem;
use bitflags::bitflags;

bitflags! {
    /// What an entry allows, or all entries on the way to a leaf together.
    ///
    /// Which of these a format can tell apart differs: EPT and Arm have no `USER` (it is set), x86 and RISC-V give both kinds of
    /// fetches one bit and say with `USER` whose page it is. [`Decoder::check`](crate::Decoder::check) knows the rules.
    #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
    pub struct Permissions: u8 {
        /// Loads.
        const READ = 1;
        /// Stores.
        const WRITE = 2;
        /// Instruction fetches by the supervisor (a guest's kernel).
        const EXECUTE = 4;
        /// Instruction fetches by user mode.
        const EXECUTE_USER = 8;
        /// x86 U/S, RISC-V U.
        const USER = 16;
    }
}

bitflags! {
    /// What a leaf says beside its address, permissions and memory type.
    #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
    pub struct LeafFlags: u8 {
        /// Accessed. EPT: only where EPTP bit 6 is set; Arm: AF.
        const ACCESSED = 1;
        /// Dirty. Arm: writable with DBM set.
        const DIRTY = 2;
        /// x86 single stage and RISC-V: global, in all address spaces.
        const GLOBAL = 4;
        /// RISC-V Svnapot: one of sixteen entries of 64 KiB.
        const NAPOT = 8;
        /// Arm: one of sixteen neighbours that may share a TLB entry.
        const CONTIGUOUS = 16;
        /// Arm DBM: the hardware may make it writable to mark it dirty.
        const DIRTY_BIT_MODIFIER = 32;
    }
}

/// One entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Entry {
    /// Not present (Arm, RISC-V: not valid); the other bits are free for software.
    Absent,
    /// It points to a table.
    Table(Table),
    /// It maps memory.
    Leaf(Leaf),
    /// Present, but the hardware faults on it or may do anything.
    Malformed(Problem),
}

/// An entry that points to a table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Table {
    /// The physical address of the table, a multiple of 4096.
    pub address: u64,
    /// The most that entries below can allow.
    pub permissions: Permissions,
    /// [`ACCESSED`](LeafFlags::ACCESSED), and [`GLOBAL`](LeafFlags::GLOBAL) for all below (RISC-V).
    pub flags: LeafFlags,
}

/// An entry that maps memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Leaf {
    /// The physical address that the first byte of `size` bytes is mapped to, a multiple of `size`.
    pub address: u64,
    /// In bytes. With [`NAPOT`](LeafFlags::NAPOT) 64 KiB, which sixteen such entries map together.
    pub size: u64,
    /// What this entry allows, without those above it.
    pub permissions: Permissions,
    /// The memory type.
    pub memory: MemoryType,
    /// The rest.
    pub flags: LeafFlags,
}

/// The memory type of a leaf, as far as this stage of translation says it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum MemoryType {
    /// EPT.
    Ept {
        /// Bits 5:3.
        kind: X86MemoryType,
        /// Bit 6: the guest's PAT does not count.
        ignore_pat: bool,
    },
    /// NPT and x86-64.
    Pat {
        /// PAT, PCD and PWT of the leaf.
        index: u8,
        /// The entry of IA32_PAT ([`Cpu::pat`](crate::Cpu::pat)) at that index.
        kind: X86MemoryType,
    },
    /// Arm.
    Stage2 {
        /// MemAttr.
        kind: Stage2Type,
        /// SH.
        shareability: Shareability,
    },
    /// RISC-V.
    Pbmt(Pbmt),
}

/// Memory types of x86.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum X86MemoryType {
    /// UC, 0.
    Uncacheable,
    /// WC, 1.
    WriteCombining,
    /// WT, 4.
    WriteThrough,
    /// WP, 5.
    WriteProtected,
    /// WB, 6.
    WriteBack,
    /// UC-, 7, in the PAT only.
    UncachedMinus,
    /// 2 and 3.
    Reserved,
}

impl X86MemoryType {
    /// By its number.
    #[must_use]
    pub const fn from_number(number: u8) -> Self {
        match number {
            0 => Self::Uncacheable,
            1 => Self::WriteCombining,
            4 => Self::WriteThrough,
            5 => Self::WriteProtected,
            6 => Self::WriteBack,
            7 => Self::UncachedMinus,
            _ => Self::Reserved,
        }
    }
}

/// Arm, MemAttr\[3:0\] of stage 2.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Stage2Type {
    /// Device-nGnRnE.
    DevicenGnRnE,
    /// Device-nGnRE.
    DevicenGnRE,
    /// Device-nGRE.
    DevicenGRE,
    /// Device-GRE.
    DeviceGRE,
    /// Normal memory, the most that stage 1 can have; without FWB.
    Normal {
        /// Outer cacheability.
        outer: Cache,
        /// Inner cacheability.
        inner: Cache,
    },
    /// FWB, 0b0101: non-cacheable, or Device where stage 1 says so.
    NormalNonCacheable,
    /// FWB, 0b0110: write-back whatever stage 1 says.
    ForcedWriteBack,
    /// FWB, 0b0111: as stage 1 says.
    AsStage1,
}

/// Arm cacheability of normal memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Cache {
    /// 0b01.
    NonCacheable,
    /// 0b10.
    WriteThrough,
    /// 0b11.
    WriteBack,
}

/// Arm SH\[1:0\].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Shareability {
    /// 0b00.
    NonShareable,
    /// 0b10.
    Outer,
    /// 0b11.
    Inner,
}

/// RISC-V Svpbmt.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Pbmt {
    /// As the physical memory attributes say.
    Pma,
    /// Non-cacheable, idempotent, weakly ordered main memory.
    NonCacheable,
    /// Non-cacheable, non-idempotent, strongly ordered I/O.
    Io,
}

/// What a memory type comes to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Cacheability {
    /// Cached (at least partly: write-through counts).
    Cacheable,
    /// Normal memory that is not cached.
    Uncached,
    /// Device memory, or x86 UC.
    Device,
    /// Another stage, or the physical memory's own attributes, decide.
    Elsewhere,
}

impl MemoryType {
    /// What it comes to.
    #[must_use]
    pub const fn cacheability(self) -> Cacheability {
        match self {
            Self::Ept { kind, .. } | Self::Pat { kind, .. } => match kind {
                X86MemoryType::Uncacheable | X86MemoryType::UncachedMinus | X86MemoryType::Reserved => {
                    Cacheability::Device
                }
                X86MemoryType::WriteCombining => Cacheability::Uncached,
                _ => Cacheability::Cacheable,
            },
            Self::Stage2 { kind, .. } => match kind {
                Stage2Type::Normal { outer: Cache::NonCacheable, inner: Cache::NonCacheable }
                | Stage2Type::NormalNonCacheable => Cacheability::Uncached,
                Stage2Type::Normal { .. } | Stage2Type::ForcedWriteBack => Cacheability::Cacheable,
                Stage2Type::AsStage1 => Cacheability::Elsewhere,
                _ => Cacheability::Device,
            },
            Self::Pbmt(Pbmt::Pma) => Cacheability::Elsewhere,
            Self::Pbmt(Pbmt::NonCacheable) => Cacheability::Uncached,
            Self::Pbmt(Pbmt::Io) => Cacheability::Device,
        }
    }
}
