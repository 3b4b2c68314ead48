//! Ports and system registers, and ranges of them.

use core::fmt;
use thiserror::Error;

/// Number of an x86 I/O port: 0 to 0xffff, one byte each.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Port(pub u16);

/// Number of a system register, in the numbering of its instruction set: [`msr`](Self::msr) on x86,
/// [`csr`](Self::csr) on RISC-V, [`arm`](Self::arm) or [`from_iss`](Self::from_iss) on Arm.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SysRegAddr(u32);

/// The parts do not name a system register.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum BadSysReg {
    /// A field of Arm's encoding does not fit: op0 has 2 bits, op1 and op2 have 3, CRn and CRm have 4.
    #[error("no system register has op0 {op0}, op1 {op1}, CRn {crn}, CRm {crm}, op2 {op2}")]
    Arm {
        /// op0.
        op0: u8,
        /// op1.
        op1: u8,
        /// CRn.
        crn: u8,
        /// CRm.
        crm: u8,
        /// op2.
        op2: u8,
    },
    /// The number of a RISC-V CSR has 12 bits.
    #[error("{0:#x} is no number of a control and status register: it has 12 bits")]
    Csr(u16),
}

impl SysRegAddr {
    /// Op0, Op2, Op1, CRn and CRm in the ISS; not Rt and the direction.
    const ISS: u32 = 0x003f_fc1e;

    /// The x86 model-specific register with this number: what ECX holds for RDMSR and WRMSR.
    #[must_use]
    pub const fn msr(number: u32) -> Self {
        Self(number)
    }

    /// The RISC-V control and status register with this number, as in bits 31:20 of the instruction.
    ///
    /// # Errors
    /// [`BadSysReg::Csr`] above 0xfff.
    pub const fn csr(number: u16) -> Result<Self, BadSysReg> {
        if number <= 0xfff { Ok(Self(number as u32)) } else { Err(BadSysReg::Csr(number)) }
    }

    /// The Arm system register `S<op0>_<op1>_C<crn>_C<crm>_<op2>`.
    ///
    /// # Errors
    /// [`BadSysReg::Arm`] if a field does not fit.
    pub const fn arm(op0: u8, op1: u8, crn: u8, crm: u8, op2: u8) -> Result<Self, BadSysReg> {
        if op0 > 3 || op1 > 7 || crn > 15 || crm > 15 || op2 > 7 {
            return Err(BadSysReg::Arm { op0, op1, crn, crm, op2 });
        }
        let fields = (op0 as u32) << 20
            | (op2 as u32) << 17
            | (op1 as u32) << 14
            | (crn as u32) << 10
            | (crm as u32) << 1;
        Ok(Self(fields))
    }

    /// The Arm system register that a trapped MSR, MRS or System instruction names, from ESR_ELx (Arm ARM, "ISS encoding
    /// for an exception from MSR, MRS, or System instruction execution in AArch64 state", exception class 0x18). Which
    /// general register it moves, and in which direction, is left out.
    #[must_use]
    pub const fn from_iss(esr: u64) -> Self {
        Self(esr as u32 & Self::ISS)
    }

    /// The number: of the MSR, of the CSR, or, on Arm, Op0 in bits 21:20, Op2 in 19:17, Op1 in 16:14, CRn in 13:10 and
    /// CRm in 4:1. Ranges are in the order of this number.
    #[must_use]
    pub const fn as_u32(self) -> u32 {
        self.0
    }
}

impl fmt::Display for Port {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:#x}", self.0)
    }
}

impl fmt::Display for SysRegAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:#x}", self.0)
    }
}

/// The range asked for is none.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum DeviceRangeError {
    /// It has no element: the count is zero, or the end does not lie behind the start.
    #[error("the range is empty")]
    Empty,
    /// Its last element would lie behind the highest number that there is.
    #[error("the range ends behind the highest number")]
    Wraps,
}

macro_rules! device_range {
    ($(#[$doc:meta])* $name:ident of $address:ident, $number:ty) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub struct $name {
            first: $address,
            last: $address,
        }

        impl $name {
            /// From `first` to `last`, both included.
            ///
            /// # Errors
            /// [`DeviceRangeError::Empty`] if `last` lies before `first`.
            pub const fn inclusive(first: $address, last: $address) -> Result<Self, DeviceRangeError> {
                if last.0 < first.0 { Err(DeviceRangeError::Empty) } else { Ok(Self { first, last }) }
            }

            /// From `start` to just before `end`.
            ///
            /// # Errors
            /// [`DeviceRangeError::Empty`] if `end` does not lie behind `start`.
            pub const fn half_open(start: $address, end: $address) -> Result<Self, DeviceRangeError> {
                match end.0.checked_sub(1) {
                    Some(last) => Self::inclusive(start, $address(last)),
                    None => Err(DeviceRangeError::Empty),
                }
            }

            /// `count` numbers from `first` on.
            ///
            /// # Errors
            /// [`DeviceRangeError::Empty`] if `count` is zero, [`DeviceRangeError::Wraps`] if the last one would lie
            /// behind the highest number.
            pub fn with_count(first: $address, count: u64) -> Result<Self, DeviceRangeError> {
                let beyond_first = count.checked_sub(1).ok_or(DeviceRangeError::Empty)?;
                let last = u64::from(first.0).checked_add(beyond_first).ok_or(DeviceRangeError::Wraps)?;
                let last = <$number>::try_from(last).map_err(|_| DeviceRangeError::Wraps)?;
                Ok(Self { first, last: $address(last) })
            }

            /// The lowest number.
            #[must_use]
            pub const fn first(self) -> $address {
                self.first
            }

            /// The highest number.
            #[must_use]
            pub const fn last(self) -> $address {
                self.last
            }

            /// How many numbers there are, at least 1.
            #[must_use]
            pub const fn count(self) -> u64 {
                (self.last.0 - self.first.0) as u64 + 1
            }

            /// Whether `address` is one of them.
            #[must_use]
            pub const fn contains(self, address: $address) -> bool {
                self.first.0 <= address.0 && address.0 <= self.last.0
            }

            /// How far `address` lies behind the first, or `None` if it is not one of them: what an emulator finds
            /// its register by.
            #[must_use]
            pub fn offset_of(self, address: $address) -> Option<$number> {
                self.contains(address).then(|| address.0 - self.first.0)
            }

            /// Whether the two have a number in common: then one of two emulators would be in the other's way.
            #[must_use]
            pub const fn overlaps(self, other: Self) -> bool {
                self.first.0 <= other.last.0 && other.first.0 <= self.last.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{}..={}", self.first, self.last)
            }
        }
    };
}

device_range! {
    /// Consecutive x86 I/O ports, at least one. All 65,536 are a range too.
    ///
    /// ```
    /// use slat::device::{Port, PortRange};
    ///
    /// let serial = PortRange::with_count(Port(0x3f8), 8)?;
    /// assert_eq!(serial.offset_of(Port(0x3fd)), Some(5)); // the line status register
    /// assert_eq!(serial.offset_of(Port(0x400)), None);
    /// # Ok::<(), slat::device::DeviceRangeError>(())
    /// ```
    PortRange of Port, u16
}
device_range! {
    /// System registers with consecutive numbers, at least one.
    ///
    /// ```
    /// use slat::device::{SysRegAddr, SysRegRange};
    ///
    /// let x2apic = SysRegRange::inclusive(SysRegAddr::msr(0x800), SysRegAddr::msr(0x8ff))?;
    /// assert!(x2apic.contains(SysRegAddr::msr(0x80b)));
    /// # Ok::<(), slat::device::DeviceRangeError>(())
    /// ```
    SysRegRange of SysRegAddr, u32
}
