//! What a mapping allows and how it is cached, in the same words on every ISA.

use bitflags::bitflags;
use core::fmt;

bitflags! {
    /// Permissions and memory type of a mapping; also the kind of an access.
    ///
    /// `EXECUTE` is execution, in the guest's supervisor mode where the format separates the modes (Arm with
    /// FEAT_XNX, Intel with MBEC); there `USER` is execution in user mode. Elsewhere `USER` changes nothing in the
    /// table. A guest that runs an ordinary operating system wants `READ | WRITE | EXECUTE | USER`.
    ///
    /// No flags at all: the page keeps its frame but the guest cannot reach it.
    #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
    pub struct MappingFlags: u8 {
        /// The guest may read.
        const READ = 1 << 0;
        /// The guest may write.
        const WRITE = 1 << 1;
        /// The guest may execute (see the type).
        const EXECUTE = 1 << 2;
        /// The guest's user mode may execute (see the type); in an access: it was made in user mode.
        const USER = 1 << 3;
        /// Device memory: no caching, no speculation.
        const DEVICE = 1 << 4;
        /// Not cached.
        const UNCACHED = 1 << 5;
    }
}

/// How the memory behind a leaf may be cached and reordered.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum MemoryType {
    /// Ordinary memory, write-back cacheable: neither `DEVICE` nor `UNCACHED`.
    #[default]
    WriteBack = 0,
    /// Device memory whose writes may be acknowledged early (Arm: Device-nGnRE): `DEVICE`.
    Device = 1,
    /// Ordinary memory, not cached: `UNCACHED`.
    NonCacheable = 2,
    /// Device memory without any liberty (Arm: Device-nGnRnE): `DEVICE | UNCACHED`.
    StronglyOrdered = 3,
}

impl MemoryType {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::WriteBack, Self::Device, Self::NonCacheable, Self::StronglyOrdered];

    /// The flags that ask for this type.
    #[must_use]
    pub const fn flags(self) -> MappingFlags {
        match self {
            Self::WriteBack => MappingFlags::empty(),
            Self::NonCacheable => MappingFlags::UNCACHED,
            Self::Device => MappingFlags::DEVICE,
            Self::StronglyOrdered => MappingFlags::DEVICE.union(MappingFlags::UNCACHED),
        }
    }
}

impl MappingFlags {
    /// `READ`, `WRITE`, `EXECUTE` and `USER`.
    pub const PERMISSIONS: Self = Self::READ.union(Self::WRITE).union(Self::EXECUTE).union(Self::USER);

    /// The memory type that these flags ask for.
    #[must_use]
    pub const fn memory_type(self) -> MemoryType {
        match self.intersection(Self::DEVICE.union(Self::UNCACHED)).bits()
            >> Self::DEVICE.bits().trailing_zeros()
        {
            0 => MemoryType::WriteBack,
            1 => MemoryType::Device,
            2 => MemoryType::NonCacheable,
            _ => MemoryType::StronglyOrdered,
        }
    }

    /// The flags without those of the memory type.
    #[must_use]
    pub const fn permissions(self) -> Self {
        self.intersection(Self::PERMISSIONS)
    }

    /// Whether a guest can do anything with a page that has these flags: `READ`, `WRITE`, `EXECUTE` or, where it
    /// stands for execution, `USER`.
    #[must_use]
    pub const fn is_accessible(self) -> bool {
        self.intersects(Self::PERMISSIONS)
    }
}

impl fmt::Display for MappingFlags {
    /// Writes `rwxu` with `-` for what is missing, then the memory type if it is not write-back.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (flag, letter) in [(Self::READ, "r"), (Self::WRITE, "w"), (Self::EXECUTE, "x"), (Self::USER, "u")]
        {
            f.write_str(if self.contains(flag) { letter } else { "-" })?;
        }
        f.write_str(match self.memory_type() {
            MemoryType::WriteBack => "",
            MemoryType::NonCacheable => " uncached",
            MemoryType::Device => " device",
            MemoryType::StronglyOrdered => " device uncached",
        })
    }
}

/// The size of a leaf: what one entry of a table maps.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum LeafSize {
    /// 4 KiB.
    Size4K,
    /// 2 MiB.
    Size2M,
    /// 1 GiB.
    Size1G,
}

impl LeafSize {
    /// All of them, smallest first.
    pub const ALL: [Self; 3] = [Self::Size4K, Self::Size2M, Self::Size1G];

    /// Bytes that a leaf of this size maps.
    #[must_use]
    pub const fn bytes(self) -> u64 {
        level_bytes(self.level())
    }

    /// Level of the table that holds leaves of this size: 0 for 4 KiB, 1 for 2 MiB, 2 for 1 GiB.
    #[must_use]
    pub const fn level(self) -> u8 {
        self as u8
    }

    /// The leaf size of this level, or `None` above 2.
    #[must_use]
    pub const fn from_level(level: u8) -> Option<Self> {
        match level {
            0 => Some(Self::Size4K),
            1 => Some(Self::Size2M),
            2 => Some(Self::Size1G),
            _ => None,
        }
    }
}

impl fmt::Display for LeafSize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Size4K => "4K",
            Self::Size2M => "2M",
            Self::Size1G => "1G",
        })
    }
}

/// Bytes that one entry of a table of this level covers: `4 KiB << 9 * level`.
pub(crate) const fn level_bytes(level: u8) -> u64 {
    1 << (12 + 9 * level as u32)
}

#[cfg(all(test, not(loom)))]
mod tests;
