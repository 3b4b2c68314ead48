//! What an emulator of devices has to know: which device an access of the guest is for, how many bytes it moves, and
//! where they come from or go to.
//!
//! Devices are told apart by [`DeviceId`] where they lie in guest-physical memory
//! ([`map_trap`](crate::AddrSpace::map_trap)), by [`PortRange`] on x86 I/O ports, and by [`SysRegRange`] among system
//! registers. Ranges are valid by construction, so an emulator may register for one without looking at it again.

mod range;

pub use range::{BadSysReg, DeviceRangeError, Port, PortRange, SysRegAddr, SysRegRange};

use crate::flags::MappingFlags;
use core::fmt;
use thiserror::Error;

/// The caller's number for a device behind a trap region.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct DeviceId(pub u16);

impl fmt::Display for DeviceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "device {}", self.0)
    }
}

/// How many bytes one access of the guest moves.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum AccessWidth {
    /// 1 byte.
    Byte,
    /// 2 bytes.
    Word,
    /// 4 bytes.
    Dword,
    /// 8 bytes.
    Qword,
}

/// No access moves so many bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("an access moves 1, 2, 4 or 8 bytes, not {0}")]
pub struct BadWidth(pub u64);

impl AccessWidth {
    /// All widths, the smallest first.
    pub const ALL: [Self; 4] = [Self::Byte, Self::Word, Self::Dword, Self::Qword];

    /// The width in bytes: 1, 2, 4 or 8.
    #[must_use]
    pub const fn bytes(self) -> u64 {
        match self {
            Self::Byte => 1,
            Self::Word => 2,
            Self::Dword => 4,
            Self::Qword => 8,
        }
    }

    /// The bits of a register that an access of this width moves: the lowest 8, 16, 32 or all 64.
    #[must_use]
    pub const fn mask(self) -> u64 {
        u64::MAX >> (64 - 8 * self.bytes())
    }

    /// What `value` is as a signed number of this width, in 64 bits. Higher bits of `value` do not matter.
    #[must_use]
    pub const fn sign_extend(self, value: u64) -> u64 {
        let above = 64 - 8 * self.bytes();
        ((value << above) as i64 >> above) as u64
    }

    /// The width of which the base-2 logarithm of the bytes is `size`, as instruction sets encode it; the two lowest
    /// bits count.
    pub(crate) const fn from_size(size: u64) -> Self {
        match size & 3 {
            0 => Self::Byte,
            1 => Self::Word,
            2 => Self::Dword,
            _ => Self::Qword,
        }
    }
}

/// From bytes.
impl TryFrom<u64> for AccessWidth {
    type Error = BadWidth;

    /// # Errors
    /// [`BadWidth`] unless `bytes` is 1, 2, 4 or 8.
    fn try_from(bytes: u64) -> Result<Self, BadWidth> {
        Self::ALL.into_iter().find(|width| width.bytes() == bytes).ok_or(BadWidth(bytes))
    }
}

impl fmt::Display for AccessWidth {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} bit", 8 * self.bytes())
    }
}

/// An access of the guest to a device behind a trap region.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DeviceAccess {
    /// The device.
    pub device: DeviceId,
    /// Bytes from the first address of the device.
    pub offset: u64,
    /// `READ` or `WRITE`.
    pub access: MappingFlags,
    /// How many bytes it moves, where the hardware reports that. Where it does not, the instruction itself has to be
    /// read from the guest's memory.
    pub width: Option<AccessWidth>,
}

/// A load or store of one general register, as far as the hardware has decoded it: all that an emulator needs to
/// answer it.
///
/// [`Syndrome::data_access`](crate::format::stage2::Syndrome::data_access) and
/// [`Trap::data_access`](crate::format::gstage::Trap::data_access) make one; whether it is a load or a store is in
/// [`NestedPageFaultInfo::access`](crate::NestedPageFaultInfo::access).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DataAccess {
    /// How many bytes it moves.
    pub width: AccessWidth,
    /// Number of the general register: 0 to 30 on Arm, 1 to 31 on RISC-V. `None` is the zero register (Arm's number 31,
    /// RISC-V's 0): a load into it is dropped, a store from it writes zeroes.
    pub register: Option<u8>,
    /// Whether a load fills the register with copies of the loaded value's highest bit, and not with zeroes.
    pub sign_extend: bool,
    /// Whether the register is used as one of 64 bits. One of 32 bits has its upper half zeroed by a load.
    pub sixty_four: bool,
}

impl DataAccess {
    /// What a load leaves in the register when the device answers with `value`.
    #[must_use]
    pub const fn loaded(&self, value: u64) -> u64 {
        let value = if self.sign_extend { self.width.sign_extend(value) } else { value & self.width.mask() };
        if self.sixty_four { value } else { value & AccessWidth::Dword.mask() }
    }

    /// What a store sends to the device when the register holds `register`; `None` stands for the zero register.
    #[must_use]
    pub fn stored(&self, register: Option<u64>) -> u64 {
        register.unwrap_or(0) & self.width.mask()
    }
}

#[cfg(all(test, not(loom)))]
mod tests;
