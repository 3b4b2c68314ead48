//! CR0, CR4 and EFER: which bits are whose, what the guest reads, what it may write.

use super::super::controls::entry;
use super::super::field::{self, read, write};
use super::super::instructions::{Instructions, VmxError};
use super::VmxVcpu;
use crate::vcpu::Control;
use slat::Hal;

const CR0_PE: u64 = 1 << 0;
const CR0_ET: u64 = 1 << 4;
const CR0_NE: u64 = 1 << 5;
const CR0_NW: u64 = 1 << 29;
const CR0_CD: u64 = 1 << 30;
const CR0_PG: u64 = 1 << 31;
/// What CR0 defines.
const CR0_DEFINED: u64 = 0xe005_003f;
const CR4_PAE: u64 = 1 << 5;
const CR4_LA57: u64 = 1 << 12;
const CR4_VMXE: u64 = 1 << 13;
const CR4_PCIDE: u64 = 1 << 17;
/// What a guest may set, where its CPU has it: VME, PVI, TSD, DE, PSE, PAE, MCE, PGE, PCE, OSFXSR, OSXMMEXCPT, UMIP, LA57,
/// FSGSBASE, PCIDE, OSXSAVE, SMEP, SMAP. Not VMXE, SMXE, PKE, CET, PKS, UINTR.
const CR4_GUEST: u64 = 0x37_1fff;
const EFER_SCE: u64 = 1 << 0;
const EFER_LME: u64 = 1 << 8;
const EFER_LMA: u64 = 1 << 10;
const EFER_NXE: u64 = 1 << 11;

/// The bits of CR0 that are the host's.
pub(super) const fn cr0_mask(unrestricted: bool) -> u64 {
    if unrestricted { CR0_NE } else { CR0_NE | CR0_PE | CR0_PG }
}

/// The bits of CR4 that are the guest's on a CPU that lets `fixed1` be set.
pub(super) const fn cr4_owned(fixed1: u64) -> u64 {
    CR4_GUEST & fixed1
}

/// Whether MOV to CR0 takes `value` (SDM vol. 3A, "Control Registers"; vol. 2B, "MOV - Move to/from Control Registers"),
/// besides what depends on CR4 and EFER.
const fn is_valid_cr0(value: u64) -> bool {
    value & !CR0_DEFINED == 0
        && (value & CR0_PG == 0 || value & CR0_PE != 0)
        && (value & CR0_NW == 0 || value & CR0_CD != 0)
}

impl<H: Hal, P: Instructions> VmxVcpu<H, P> {
    fn cr0_mask(&self) -> u64 {
        cr0_mask(self.capabilities.unrestricted_guest())
    }

    fn cr4_owned(&self) -> u64 {
        cr4_owned(self.capabilities.raw().cr4_fixed1)
    }

    /// Writes CR0, CR4 and EFER as the guest is to see them, with everything that goes along.
    pub(super) fn write_controls(&mut self, cr0: u64, cr4: u64, efer: u64) -> Result<(), VmxError> {
        let efer = if efer & EFER_LME != 0 && cr0 & CR0_PG != 0 { efer | EFER_LMA } else { efer & !EFER_LMA };
        let cpu = &self.cpu;
        let must = self.capabilities.raw().cr0_fixed0 & !(CR0_PE | CR0_PG);
        write(cpu, field::CR0_MASK, self.cr0_mask())?;
        write(cpu, field::CR0_SHADOW, cr0)?;
        write(cpu, field::GUEST_CR0, cr0 | must | CR0_ET)?;
        write(cpu, field::CR4_MASK, !self.cr4_owned())?;
        write(cpu, field::CR4_SHADOW, cr4)?;
        write(cpu, field::GUEST_CR4, cr4 | CR4_VMXE)?;
        self.write_efer(efer)
    }

    fn write_efer(&mut self, efer: u64) -> Result<(), VmxError> {
        let cpu = &self.cpu;
        write(cpu, field::GUEST_EFER, efer)?;
        // The guest changes this by itself (IA32_VMX_MISC bit 5), so what is in the VMCS counts.
        let controls = read(cpu, field::ENTRY_CONTROLS)?;
        let controls = if efer & EFER_LMA != 0 { controls | entry::IA32E } else { controls & !entry::IA32E };
        write(cpu, field::ENTRY_CONTROLS, controls)
    }

    pub(super) fn read_cr0(&self) -> Result<u64, VmxError> {
        let (real, seen) = (read(&self.cpu, field::GUEST_CR0)?, read(&self.cpu, field::CR0_SHADOW)?);
        let mask = self.cr0_mask();
        Ok(real & !mask | seen & mask)
    }

    pub(super) fn read_cr4(&self) -> Result<u64, VmxError> {
        let (real, seen) = (read(&self.cpu, field::GUEST_CR4)?, read(&self.cpu, field::CR4_SHADOW)?);
        let owned = self.cr4_owned();
        Ok(real & owned | seen & !owned)
    }

    pub(super) fn read_control(&self, control: Control) -> Result<u64, VmxError> {
        match control {
            Control::Cr0 => self.read_cr0(),
            Control::Cr3 => read(&self.cpu, field::GUEST_CR3),
            Control::Cr4 => self.read_cr4(),
            Control::Efer => read(&self.cpu, field::GUEST_EFER),
        }
    }

    /// The guest's MOV to CR0 exited because of a bit of the host's. Whether it goes through at the second attempt: then
    /// what it reads of NE is what it wanted to write, and nothing of the rest is the host's.
    pub(super) fn adopt_cr0(&mut self, value: u64) -> Result<bool, VmxError> {
        let shadow = read(&self.cpu, field::CR0_SHADOW)?;
        let others = self.cr0_mask() & !CR0_NE;
        if (value ^ shadow) & others != 0 || (value ^ shadow) & CR0_NE == 0 {
            return Ok(false);
        }
        write(&self.cpu, field::CR0_SHADOW, shadow & !CR0_NE | value & CR0_NE)?;
        Ok(true)
    }

    /// As the guest's own MOV or WRMSR; `None` for a general protection exception.
    pub(super) fn write_control(&mut self, control: Control, value: u64) -> Result<Option<()>, VmxError> {
        let (cr0, cr4) = (self.read_cr0()?, self.read_cr4()?);
        let efer = read(&self.cpu, field::GUEST_EFER)?;
        let paged = cr0 & CR0_PG != 0;
        match control {
            Control::Cr0 => {
                let value = value | CR0_ET;
                let turns_on = value & CR0_PG != 0 && !paged;
                let long = efer & EFER_LME != 0;
                let good = is_valid_cr0(value)
                    && !(turns_on && long && cr4 & CR4_PAE == 0)
                    // In 64-bit mode it cannot be turned off; with PCIDs neither.
                    && !(value & CR0_PG == 0 && paged && efer & EFER_LMA != 0 && (self.is_64_bit()? || cr4 & CR4_PCIDE != 0))
                    // The PDPTEs would have to be read from the guest's memory, and the CPU does that without an exit.
                    && !(turns_on && !long && cr4 & CR4_PAE != 0)
                    && (self.capabilities.unrestricted_guest() || value & (CR0_PE | CR0_PG) == CR0_PE | CR0_PG);
                if !good {
                    return Ok(None);
                }
                self.write_controls(value, cr4, efer)?;
            }
            Control::Cr3 => {
                let physical = self.capabilities.raw().physical_bits.min(52);
                // Bit 63 keeps translations, with PCIDs.
                let keeps = if cr4 & CR4_PCIDE != 0 { 1 << 63 } else { 0 };
                if efer & EFER_LMA != 0 && (value & !keeps) >> physical != 0 {
                    return Ok(None);
                }
                write(&self.cpu, field::GUEST_CR3, value & !keeps)?;
            }
            Control::Cr4 => {
                let changed = value ^ cr4;
                let long = efer & EFER_LMA != 0;
                let pcid = value & CR4_PCIDE != 0 && cr4 & CR4_PCIDE == 0;
                let good = changed & !self.cr4_owned() == 0
                    && !(long && changed & (CR4_PAE | CR4_LA57) != 0)
                    && !(pcid && (!long || read(&self.cpu, field::GUEST_CR3)? & 0xfff != 0))
                    && !(paged && !long && changed & value & CR4_PAE != 0);
                if !good {
                    return Ok(None);
                }
                self.write_controls(cr0, value, efer)?;
            }
            Control::Efer => {
                // LMA is the CPU's: a write of it changes nothing.
                let value = value & !EFER_LMA | efer & EFER_LMA;
                let defined = EFER_SCE | EFER_LME | EFER_LMA | EFER_NXE;
                if value & !defined != 0 || (paged && (value ^ efer) & EFER_LME != 0) {
                    return Ok(None);
                }
                self.write_efer(value)?;
            }
        }
        self.drop_linear()?;
        Ok(Some(()))
    }

    /// Whether the guest executes 64-bit code: EFER.LMA and CS.L.
    pub(super) fn is_64_bit(&self) -> Result<bool, VmxError> {
        let rights = read(&self.cpu, field::guest_rights(crate::state::SegmentName::Cs))?;
        Ok(read(&self.cpu, field::GUEST_EFER)? & EFER_LMA != 0 && rights & 1 << 13 != 0)
    }
}
