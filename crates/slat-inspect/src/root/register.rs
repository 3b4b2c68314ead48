//! The registers that point the hardware to a root table.

use super::{Root, RootError};
use crate::decode::{bit, field, mask};
use crate::format::{Cpu, Format};

/// A root register, raw.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Register {
    /// Intel: the EPT pointer of a VMCS.
    Eptp(u64),
    /// AMD: nCR3 of a VMCB, and whether the host runs with CR4.LA57.
    Ncr3 {
        /// The value.
        ncr3: u64,
        /// Five levels.
        la57: bool,
    },
    /// x86: CR3, and CR4.LA57.
    Cr3 {
        /// The value.
        cr3: u64,
        /// Five levels.
        la57: bool,
    },
    /// Arm: VTTBR_EL2 and VTCR_EL2.
    Stage2 {
        /// VTTBR_EL2.
        vttbr: u64,
        /// VTCR_EL2.
        vtcr: u64,
    },
    /// RISC-V: hgatp.
    Hgatp(u64),
    /// RISC-V: satp, or vsatp.
    Satp(u64),
}

impl Register {
    /// The root table.
    ///
    /// # Errors
    /// [`RootError::Field`] names the field that the hardware refuses, [`RootError::Bare`] says that nothing is translated.
    pub fn root(&self) -> Result<Root, RootError> {
        match *self {
            Self::Eptp(eptp) => {
                let level = field(eptp, 5, 3) as u8;
                Root::with_level(Format::Ept, eptp & mask(51, 12), level)
            }
            Self::Ncr3 { ncr3, la57 } => {
                Root::with_level(Format::Npt, ncr3 & mask(51, 12), if la57 { 4 } else { 3 })
            }
            Self::Cr3 { cr3, la57 } => {
                Root::with_level(Format::X86_64, cr3 & mask(51, 12), if la57 { 4 } else { 3 })
            }
            Self::Stage2 { vttbr, vtcr } => {
                let level = [1, 2, 3, 0][field(vtcr, 7, 6) as usize];
                let bits = 64 - field(vtcr, 5, 0) as u32;
                Root::with_input_bits(Format::Stage2, vttbr & mask(47, 1), level, bits)
            }
            Self::Hgatp(hgatp) => {
                let format = match field(hgatp, 63, 60) {
                    8 => Format::Sv39x4,
                    9 => Format::Sv48x4,
                    10 => Format::Sv57x4,
                    _ => return Err(RootError::Bare { register: "hgatp" }),
                };
                Root::new(format, field(hgatp, 43, 0) << 12)
            }
            Self::Satp(satp) => {
                let format = match field(satp, 63, 60) {
                    8 => Format::Sv39,
                    9 => Format::Sv48,
                    10 => Format::Sv57,
                    _ => return Err(RootError::Bare { register: "satp" }),
                };
                Root::new(format, field(satp, 43, 0) << 12)
            }
        }
    }

    /// What the register says about the meaning of entries: EPTP bit 6, VTCR_EL2.PS, HA and HD.
    pub fn apply_to(&self, cpu: &mut Cpu) {
        match *self {
            Self::Eptp(eptp) => {
                cpu.sets_accessed = bit(eptp, 6);
                cpu.sets_dirty = bit(eptp, 6);
            }
            Self::Stage2 { vtcr, .. } => {
                cpu.sets_accessed = bit(vtcr, 21);
                cpu.sets_dirty = bit(vtcr, 21) && bit(vtcr, 22);
                let bits = [32, 36, 40, 42, 44, 48, 48, 48][field(vtcr, 18, 16) as usize];
                cpu.physical_bits = cpu.physical_bits.min(bits);
            }
            _ => {}
        }
    }
}
