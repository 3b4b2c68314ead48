//! CR0, CR4 and EFER, checked as the CPU checks a MOV or WRMSR (APM vol. 2, "System-Control Registers" and "Activating Long
//! Mode").

use crate::vcpu::Control;

pub(super) const CR0_PE: u64 = 1 << 0;
const CR0_ET: u64 = 1 << 4;
const CR0_NW: u64 = 1 << 29;
const CR0_CD: u64 = 1 << 30;
const CR0_PG: u64 = 1 << 31;
/// PE, MP, EM, TS, ET, NE, WP, AM, NW, CD, PG. What else is set in the lower half is ignored.
const CR0_KNOWN: u64 = 0xe005_003f;
const CR4_PAE: u64 = 1 << 5;
const CR4_LA57: u64 = 1 << 12;
const CR4_PCIDE: u64 = 1 << 17;
const EFER_LME: u64 = 1 << 8;
const EFER_LMA: u64 = 1 << 10;
/// Set in the VMCB always, and never seen by the guest.
pub(super) const EFER_SVME: u64 = 1 << 12;

/// The registers that decide about the CPU's mode.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Controls {
    pub(super) cr0: u64,
    pub(super) cr3: u64,
    pub(super) cr4: u64,
    /// As the guest sees it.
    pub(super) efer: u64,
    /// CS.L: 64-bit code.
    pub(super) long_code: bool,
}

/// What a guest may set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Allowed {
    pub(super) cr4: u64,
    pub(super) efer: u64,
    pub(super) physical_bits: u8,
}

impl Controls {
    /// The registers after the guest has written `value` to `control`; `None` if it gets a general protection exception.
    pub(super) fn with(self, control: Control, value: u64, allowed: Allowed) -> Option<Self> {
        match control {
            Control::Cr0 => self.with_cr0(value),
            Control::Cr3 => {
                // Bit 63 keeps the translations of the PCID.
                let address = if self.cr4 & CR4_PCIDE != 0 { value & !(1 << 63) } else { value };
                let long = self.efer & EFER_LMA != 0;
                let fits = address >> allowed.physical_bits == 0 || !long;
                fits.then_some(Self { cr3: address, ..self })
            }
            Control::Cr4 => self.with_cr4(value, allowed.cr4),
            Control::Efer => self.with_efer(value, allowed.efer),
        }
    }

    fn with_cr0(self, value: u64) -> Option<Self> {
        let paging = value & CR0_PG != 0;
        if value >> 32 != 0 || paging && value & CR0_PE == 0 || value & CR0_NW != 0 && value & CR0_CD == 0 {
            return None;
        }
        let was_paging = self.cr0 & CR0_PG != 0;
        let mut efer = self.efer;
        if paging && !was_paging && efer & EFER_LME != 0 {
            if self.cr4 & CR4_PAE == 0 || self.long_code {
                return None;
            }
            efer |= EFER_LMA;
        }
        if !paging && was_paging {
            if self.long_code || self.cr4 & CR4_PCIDE != 0 {
                return None;
            }
            efer &= !EFER_LMA;
        }
        Some(Self { cr0: value & CR0_KNOWN | CR0_ET, efer, ..self })
    }

    fn with_cr4(self, value: u64, allowed: u64) -> Option<Self> {
        let long = self.efer & EFER_LMA != 0;
        let changed = value ^ self.cr4;
        let pcids_begin = changed & value & CR4_PCIDE != 0;
        let bad = value & !allowed != 0
            || long && (value & CR4_PAE == 0 || changed & CR4_LA57 != 0)
            || pcids_begin && (!long || self.cr3 & 0xfff != 0);
        (!bad).then_some(Self { cr4: value, ..self })
    }

    fn with_efer(self, value: u64, allowed: u64) -> Option<Self> {
        // LMA is the CPU's.
        let value = value & !EFER_LMA | self.efer & EFER_LMA;
        let paging = self.cr0 & CR0_PG != 0;
        let bad = value & !allowed != 0 || paging && (value ^ self.efer) & EFER_LME != 0;
        (!bad).then_some(Self { efer: value, ..self })
    }
}

#[cfg(all(test, not(loom)))]
mod tests;
