//! The guest's registers, to and from the VMCS.

use super::super::field::{self, read, write};
use super::super::instructions::{Instructions, VmxError};
use super::{Activity, VmxVcpu, failed};
use crate::state::{CpuState, General, Segment, SegmentName, TableRegister};
use crate::vcpu::RunError;
use slat::Hal;

/// Bits of the interruptibility state.
pub(super) const BLOCKED_BY_STI: u32 = 1 << 0;
pub(super) const BLOCKED_BY_MOV_SS: u32 = 1 << 1;
pub(super) const BLOCKED_BY_NMI: u32 = 1 << 3;

const EFER_LMA: u64 = 1 << 10;

impl<H: Hal, P: Instructions> VmxVcpu<H, P> {
    /// Writes `state`, and what goes with it: the guest executes, and nothing blocks events.
    pub(super) fn write_state(&mut self, state: &CpuState) -> Result<(), VmxError> {
        self.write_controls(state.cr0, state.cr4, state.efer)?;
        let cpu = &self.cpu;
        write(cpu, field::GUEST_CR3, state.cr3)?;
        for name in SegmentName::ALL {
            let Segment { selector, base, limit, rights } = state.segment(name);
            write(cpu, field::guest_selector(name), selector)?;
            write(cpu, field::guest_base(name), base)?;
            write(cpu, field::guest_limit(name), limit)?;
            write(cpu, field::guest_rights(name), rights)?;
        }
        write(cpu, field::GUEST_GDTR_BASE, state.gdtr.base)?;
        write(cpu, field::GUEST_GDTR_LIMIT, state.gdtr.limit.into())?;
        write(cpu, field::GUEST_IDTR_BASE, state.idtr.base)?;
        write(cpu, field::GUEST_IDTR_LIMIT, state.idtr.limit.into())?;
        write(cpu, field::GUEST_DR7, state.dr7)?;
        write(cpu, field::GUEST_PAT, state.pat)?;
        write(cpu, field::GUEST_RFLAGS, state.rflags | 2)?;
        write(cpu, field::GUEST_RIP, state.rip)?;
        let rsp = state.general.get(General::Rsp);
        write(cpu, field::GUEST_RSP, rsp)?;
        write(cpu, field::GUEST_PENDING_DEBUG, 0)?;
        write(cpu, field::GUEST_INTERRUPTIBILITY, 0)?;
        write(cpu, field::GUEST_ACTIVITY, Activity::Active as u32)?;
        // As MOV to the control registers would.
        self.drop_linear()?;
        self.general = state.general;
        self.rip = state.rip;
        self.written = (state.rip, rsp);
        Ok(())
    }

    pub(super) fn read_state(&self) -> Result<CpuState, VmxError> {
        let cpu = &self.cpu;
        let mut segments = [Segment::UNUSABLE; 8];
        for (segment, name) in segments.iter_mut().zip(SegmentName::ALL) {
            *segment = Segment {
                selector: read(cpu, field::guest_selector(name))?,
                base: read(cpu, field::guest_base(name))?,
                limit: read(cpu, field::guest_limit(name))?,
                rights: read(cpu, field::guest_rights(name))?,
            };
        }
        let table = |base, limit: u32| TableRegister { base, limit: limit as u16 };
        Ok(CpuState {
            general: self.general,
            rip: self.rip,
            rflags: read(cpu, field::GUEST_RFLAGS)?,
            cr0: self.read_cr0()?,
            cr2: self.cr2,
            cr3: read(cpu, field::GUEST_CR3)?,
            cr4: self.read_cr4()?,
            efer: read(cpu, field::GUEST_EFER)?,
            segments,
            gdtr: table(read(cpu, field::GUEST_GDTR_BASE)?, read(cpu, field::GUEST_GDTR_LIMIT)?),
            idtr: table(read(cpu, field::GUEST_IDTR_BASE)?, read(cpu, field::GUEST_IDTR_LIMIT)?),
            dr7: read(cpu, field::GUEST_DR7)?,
            pat: read(cpu, field::GUEST_PAT)?,
        })
    }

    /// The guest's PDPTEs under PAE paging: an entry takes them from the VMCS, not from memory.
    ///
    /// # Errors
    /// [`RunError::NotBound`], [`RunError::Instruction`].
    pub fn set_pdptes(&mut self, pdptes: [u64; 4]) -> Result<(), RunError> {
        self.here()?;
        let fields = [field::GUEST_PDPTE0, field::GUEST_PDPTE1, field::GUEST_PDPTE2, field::GUEST_PDPTE3];
        for (field, pdpte) in fields.into_iter().zip(pdptes) {
            write(&self.cpu, field, pdpte).map_err(failed)?;
        }
        Ok(())
    }

    pub(super) fn read_pdptes(&self) -> Result<[u64; 4], VmxError> {
        let cpu = &self.cpu;
        Ok([
            read(cpu, field::GUEST_PDPTE0)?,
            read(cpu, field::GUEST_PDPTE1)?,
            read(cpu, field::GUEST_PDPTE2)?,
            read(cpu, field::GUEST_PDPTE3)?,
        ])
    }

    /// Whether the guest's CPU keeps PDPTEs: PAE paging, outside of 64-bit mode.
    pub(super) fn has_pdptes(cr0: u64, cr4: u64, efer: u64) -> bool {
        cr0 & 1 << 31 != 0 && cr4 & 1 << 5 != 0 && efer & EFER_LMA == 0
    }

    /// What the vCPU is doing.
    ///
    /// # Errors
    /// [`RunError::NotBound`], [`RunError::Instruction`].
    pub fn activity(&self) -> Result<Activity, RunError> {
        self.here()?;
        Ok(match read(&self.cpu, field::GUEST_ACTIVITY).map_err(failed)? {
            0 => Activity::Active,
            1 => Activity::Halted,
            2 => Activity::ShutDown,
            _ => Activity::WaitForStartUp,
        })
    }

    /// Lets the vCPU begin the next entry so. `false` if the CPU does not offer that (IA32_VMX_MISC bits 6 to 8); nothing has
    /// changed then.
    ///
    /// # Errors
    /// [`RunError::NotBound`], [`RunError::Instruction`].
    pub fn set_activity(&mut self, activity: Activity) -> Result<bool, RunError> {
        self.here()?;
        let number = activity as u32;
        if number != 0 && self.capabilities.raw().misc >> (5 + number) & 1 == 0 {
            return Ok(false);
        }
        write(&self.cpu, field::GUEST_ACTIVITY, number).map_err(failed)?;
        Ok(true)
    }
}
