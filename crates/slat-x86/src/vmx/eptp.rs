//! The EPT pointer (SDM vol. 3C, "Extended-Page-Table Pointer (EPTP)").

use super::capabilities::Capabilities;
use core::fmt;
use slat::HostPhysAddr;
use thiserror::Error;

/// How the CPU reads the tables.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EptMemoryType {
    /// Past the caches.
    Uncacheable,
    /// Through the caches.
    WriteBack,
}

const ACCESSED_DIRTY: u64 = 1 << 6;
const ADDRESS: u64 = 0x000f_ffff_ffff_f000;

/// An EPTP that this CPU takes.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct EptPointer(u64);

/// Why a number is no EPTP of this CPU's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum EptPointerError {
    /// The root is not aligned to 4 KiB.
    #[error("the EPT root {0:#x} is not aligned to 4 KiB")]
    Unaligned(u64),
    /// The root is wider than the CPU's physical addresses.
    #[error("the EPT root {0:#x} is wider than the CPU's physical addresses")]
    TooWide(u64),
    /// Neither 4 nor 5 levels, or five on a CPU that does not offer them.
    #[error("the CPU offers no EPT of {0} levels")]
    Levels(u8),
    /// The CPU cannot read tables of this memory type.
    #[error("the CPU cannot read EPT tables of memory type {0}")]
    MemoryType(u8),
    /// The CPU keeps no accessed and dirty flags.
    #[error("the CPU keeps no accessed and dirty flags in the EPT")]
    NoAccessedDirty,
    /// A reserved bit (11:7) is set.
    #[error("reserved bits of the EPTP {0:#x} are set")]
    Reserved(u64),
}

impl EptPointer {
    /// The EPTP for tables of `levels` (4 or 5) levels at `root`.
    ///
    /// # Errors
    /// [`EptPointerError`].
    pub fn new(
        capabilities: &Capabilities,
        root: HostPhysAddr,
        levels: u8,
        memory_type: EptMemoryType,
        accessed_dirty: bool,
    ) -> Result<Self, EptPointerError> {
        if !root.is_aligned(slat::PAGE_SIZE) {
            return Err(EptPointerError::Unaligned(root.as_u64()));
        }
        if levels != 4 && levels != 5 {
            return Err(EptPointerError::Levels(levels));
        }
        let memory_type = match memory_type {
            EptMemoryType::Uncacheable => 0,
            EptMemoryType::WriteBack => 6,
        };
        let flags = if accessed_dirty { ACCESSED_DIRTY } else { 0 };
        Self::from_raw(capabilities, root.as_u64() | flags | u64::from(levels - 1) << 3 | memory_type)
    }

    /// The EPTP with this value, such as slat's [`root_register`](slat::AddrSpace::root_register).
    ///
    /// # Errors
    /// [`EptPointerError`].
    pub fn from_raw(capabilities: &Capabilities, raw: u64) -> Result<Self, EptPointerError> {
        let levels = (raw >> 3 & 7) as u8 + 1;
        let levels_offered = match levels {
            4 => true,
            5 => capabilities.five_levels(),
            _ => false,
        };
        let memory_type = (raw & 7) as u8;
        let type_offered = match memory_type {
            0 => capabilities.uncacheable_tables(),
            6 => true,
            _ => false,
        };
        if raw & 0xf80 != 0 {
            Err(EptPointerError::Reserved(raw))
        } else if !levels_offered {
            Err(EptPointerError::Levels(levels))
        } else if !type_offered {
            Err(EptPointerError::MemoryType(memory_type))
        } else if raw & ACCESSED_DIRTY != 0 && !capabilities.accessed_dirty() {
            Err(EptPointerError::NoAccessedDirty)
        } else if raw & !0xfff >= 1 << capabilities.raw().physical_bits.min(52) {
            Err(EptPointerError::TooWide(raw & !0xfff))
        } else {
            Ok(Self(raw))
        }
    }

    /// The value of the VMCS field, and the operand of INVEPT.
    #[must_use]
    pub const fn raw(self) -> u64 {
        self.0
    }

    /// Where the root table lies.
    #[must_use]
    pub const fn root(self) -> HostPhysAddr {
        HostPhysAddr::new(self.0 & ADDRESS)
    }

    /// 4 or 5.
    #[must_use]
    pub const fn levels(self) -> u8 {
        (self.0 >> 3 & 7) as u8 + 1
    }

    /// Whether the CPU keeps accessed and dirty flags, and treats its walks of the guest's tables as writes.
    #[must_use]
    pub const fn accessed_dirty(self) -> bool {
        self.0 & ACCESSED_DIRTY != 0
    }
}

impl fmt::Debug for EptPointer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "EptPointer({:#x})", self.0)
    }
}

#[cfg(all(test, not(loom)))]
mod tests;
