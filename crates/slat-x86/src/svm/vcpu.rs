//! A virtual CPU: its parts, and what can be asked of them without running it.

#![expect(unsafe_code, reason = "takes itself apart when it is dropped")]

mod traits;

use super::capabilities::Capabilities;
use super::control::{CR0_PE, Controls, EFER_SVME};
use super::exit::{Record, code};
use super::flush::TlbControl;
use super::instruction;
use super::intercepts::Intercepts;
use super::pending::Pending;
use super::permissions::PermissionMaps;
use super::vmcb::{Vmcb, fields};
use crate::frame::Frames;
use crate::host_cpus::{Binding, HostCpus, Remains};
use crate::isa::svm::{Instructions, Native};
use crate::msr::TSC_AUX;
use crate::port::Intercepted;
use crate::resident::Resident;
use crate::state::{CpuState, General, GeneralRegisters, SegmentName};
use crate::vcpu::Vcpu;
use core::mem::ManuallyDrop;
use core::ops::Deref;
use slat::{Hal, InstructionBytes, Tag, TagPool};
use thiserror::Error;

pub(super) const RFLAGS_TF: u64 = 1 << 8;
const RFLAGS_IF: u64 = 1 << 9;
const RFLAGS_VM: u64 = 1 << 17;
const DR6_RESET: u64 = 0xffff_0ff0;
/// DR6.BS.
pub(super) const SINGLE_STEP: u64 = 1 << 14;
/// NP_ENABLE.
const NESTED_PAGING: u64 = 1 << 0;
/// L, in the rights of a code segment.
const CODE_LONG: u32 = 1 << 13;

/// No frames for a vCPU.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("out of memory for a vCPU")]
pub struct OutOfMemory;

/// What a vCPU is to be like.
#[derive(Clone, Copy, Debug)]
pub struct Configuration<'a> {
    /// What the CPUs offer that it will run on.
    pub capabilities: &'a Capabilities,
    /// What leads to an exit, beyond what always does.
    pub intercepts: Intercepts,
    /// The ports that lead to an exit.
    pub ports: &'a Intercepted,
}

/// A virtual CPU on AMD SVM with nested paging.
///
/// It owns its VMCB, a page for the host's half of VMSAVE, the permission maps and two XSAVE areas: nine frames with up to 4 KiB of
/// XSAVE state. Its ASIDs come from a pool that all vCPUs of a CPU share; each vCPU has one of its own, because translations of
/// guest virtual addresses are tagged with it too. `T` is how it holds the pool: a reference, or an `Arc`.
///
/// Dropping it unbinds it, if that happens on the CPU that it is bound to, and gives all its frames back. If it is dropped on another
/// CPU while it is bound, its registers wait for the CPU to clear them up ([`HostCpus`]).
#[derive(Debug)]
pub struct SvmVcpu<H: Hal, T: Deref<Target = TagPool<H>>, I: Instructions = Native> {
    pub(super) instructions: I,
    pub(super) capabilities: Capabilities,
    pub(super) intercepts: Intercepts,
    pub(super) vmcb: Vmcb<H>,
    cpus: HostCpus<H>,
    /// As the place, the page for the host's half of VMSAVE. Until the vCPU is dropped.
    pub(super) remains: ManuallyDrop<Remains<H>>,
    /// The VMCB points there.
    _maps: PermissionMaps<H>,
    pub(super) tags: T,
    pub(super) tag: Tag,
    pub(super) general: GeneralRegisters,
    pub(super) bound: Option<Binding>,
    last_cpu: Option<usize>,
    pub(super) has_root: bool,
    /// What this CPU remembers of the guest has to go before the next entry.
    pub(super) owes_flush: bool,
    pub(super) pending: Pending,
    /// RIP of the instruction that the event of this entry belongs to, while RIP is behind it.
    pub(super) moved_from: Option<u64>,
    pub(super) last: Record,
    pub(super) instruction: Option<InstructionBytes>,
    pub(super) last_entry: LastEntry,
}

/// How the guest was last entered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LastEntry {
    /// Its ASID, not 0.
    pub asid: u16,
    /// What the CPU dropped.
    pub tlb_control: TlbControl,
}

impl<H: Hal + Clone, T: Deref<Target = TagPool<H>>> SvmVcpu<H, T> {
    /// A vCPU in real mode at address 0, without a root, not bound. Takes nine frames, or more for more than 4 KiB of XSAVE state.
    ///
    /// # Errors
    /// [`OutOfMemory`]; no frame is taken then.
    pub fn new(
        hal: &H,
        configuration: &Configuration<'_>,
        cpus: &HostCpus<H>,
        tags: T,
    ) -> Result<Self, OutOfMemory> {
        Self::with_instructions(hal, configuration, cpus, tags, Native)
    }
}

impl<H: Hal + Clone, T: Deref<Target = TagPool<H>>, I: Instructions> SvmVcpu<H, T, I> {
    /// As [`new`](SvmVcpu::new), entered through `instructions`.
    ///
    /// # Errors
    /// [`OutOfMemory`]; no frame is taken then.
    pub fn with_instructions(
        hal: &H,
        configuration: &Configuration<'_>,
        cpus: &HostCpus<H>,
        tags: T,
        instructions: I,
    ) -> Result<Self, OutOfMemory> {
        let capabilities = *configuration.capabilities;
        let msrs: &[u32] = if capabilities.rdtscp { &[TSC_AUX] } else { &[] };
        let mut vmcb = Vmcb::new(hal.clone()).ok_or(OutOfMemory)?;
        let host = Frames::zeroed(hal.clone(), 1).ok_or(OutOfMemory)?;
        let maps = PermissionMaps::new(hal.clone(), configuration.ports).ok_or(OutOfMemory)?;
        let resident =
            Resident::new(hal, capabilities.components, capabilities.xsave_bytes, msrs).ok_or(OutOfMemory)?;
        vmcb.set(fields::IOPM_BASE, maps.io().as_u64());
        vmcb.set(fields::MSRPM_BASE, maps.msr());
        vmcb.set(fields::NESTED_CONTROL, NESTED_PAGING);
        vmcb.set(fields::DR6, DR6_RESET);
        let mut vcpu = Self {
            instructions,
            capabilities,
            intercepts: configuration.intercepts,
            vmcb,
            cpus: cpus.clone(),
            remains: ManuallyDrop::new(Remains { vmcs: None, resident, place: host }),
            _maps: maps,
            tags,
            tag: Tag::new(),
            general: GeneralRegisters::default(),
            bound: None,
            last_cpu: None,
            has_root: false,
            owes_flush: false,
            pending: Pending::default(),
            moved_from: None,
            last: Record::default(),
            instruction: None,
            last_entry: LastEntry { asid: 0, tlb_control: TlbControl::Nothing },
        };
        vcpu.write_state(&CpuState::real_mode(0, 0));
        Ok(vcpu)
    }
}

impl<H: Hal, T: Deref<Target = TagPool<H>>, I: Instructions> SvmVcpu<H, T, I> {
    /// How the guest was last entered; ASID 0 before the first entry.
    #[must_use]
    pub fn last_entry(&self) -> LastEntry {
        self.last_entry
    }

    /// What enters the guest.
    #[must_use]
    pub fn instructions(&self) -> &I {
        &self.instructions
    }

    /// What leads to an exit from the next entry on.
    pub fn set_intercepts(&mut self, intercepts: Intercepts) {
        self.intercepts = intercepts;
    }

    fn write_state(&mut self, state: &CpuState) {
        self.general = state.general;
        let vmcb = &mut self.vmcb;
        vmcb.set(fields::RIP, state.rip);
        vmcb.set(fields::RFLAGS, state.rflags);
        vmcb.set(fields::CR0, state.cr0);
        vmcb.set(fields::CR2, state.cr2);
        vmcb.set(fields::CR3, state.cr3);
        vmcb.set(fields::CR4, state.cr4);
        vmcb.set(fields::EFER, state.efer | EFER_SVME);
        vmcb.set(fields::DR7, state.dr7);
        vmcb.set(fields::PAT, state.pat);
        vmcb.set_table(fields::GDTR, state.gdtr);
        vmcb.set_table(fields::IDTR, state.idtr);
        for name in SegmentName::ALL {
            vmcb.set_segment(name, state.segment(name));
        }
        vmcb.set(fields::CPL, privilege_level(state).into());
        vmcb.set(fields::INTERRUPT_SHADOW, 0);
        self.pending.forget();
        self.owes_flush = true;
    }

    fn controls(&self) -> Controls {
        Controls {
            cr0: self.vmcb.get(fields::CR0),
            cr3: self.vmcb.get(fields::CR3),
            cr4: self.vmcb.get(fields::CR4),
            efer: self.vmcb.get(fields::EFER) & !EFER_SVME,
            long_code: self.is_long_code(),
        }
    }

    fn is_long_code(&self) -> bool {
        const EFER_LMA: u64 = 1 << 10;
        let long = self.vmcb.get(fields::EFER) & EFER_LMA != 0;
        long && self.vmcb.segment(SegmentName::Cs).rights & CODE_LONG != 0
    }

    /// The opcode of the instruction that led to the last exit, if its length has to be found out.
    fn opcode(&self) -> Option<&'static [u8]> {
        match self.last.code {
            code::MSR => Some(instruction::msr_opcode(self.last.info_1 & 1 != 0)),
            code => instruction::opcode(code),
        }
    }

    /// Where the guest goes on behind the instruction; `None` if the exit was by none, or by one that nobody goes on behind.
    fn next_rip(&self) -> Option<u64> {
        if self.last.code == code::IOIO {
            // Every CPU says that.
            return Some(self.last.info_2);
        }
        if self.has_next_rip() {
            return Some(self.vmcb.get(fields::NEXT_RIP));
        }
        let opcode = self.opcode()?;
        let long = self.is_long_code();
        let decoded = self.instruction.and_then(|bytes| instruction::length(bytes.as_slice(), opcode, long));
        let length = decoded.unwrap_or(instruction::bare_length(self.last.code, opcode));
        let next = self.vmcb.get(fields::RIP).wrapping_add(length.into());
        Some(if long { next } else { next & 0xffff_ffff })
    }

    fn has_next_rip(&self) -> bool {
        self.capabilities.next_rip && self.vmcb.get(fields::NEXT_RIP) != 0
    }

    /// Where the vCPU is bound, if that is the CPU at hand. Costs one RDMSR.
    pub(super) fn here(&self) -> Option<Binding> {
        self.bound.filter(|binding| self.cpus.is_bound_here(*binding, self.instructions.save_area()))
    }

    /// Whether the guest is in the shadow of STI or MOV SS.
    pub(super) fn is_in_shadow(&self) -> bool {
        self.vmcb.get(fields::INTERRUPT_SHADOW) & 1 != 0
    }

    /// Whether the guest's own state lets it take an external interrupt.
    pub(super) fn is_interruptible(&self) -> bool {
        self.vmcb.get(fields::RFLAGS) & RFLAGS_IF != 0 && !self.is_in_shadow()
    }
}

/// CPL has a field of its own: the DPL of SS, 0 in real mode and 3 in virtual-8086 mode.
fn privilege_level(state: &CpuState) -> u8 {
    if state.cr0 & CR0_PE == 0 {
        0
    } else if state.rflags & RFLAGS_VM != 0 {
        3
    } else {
        (state.segment(SegmentName::Ss).rights >> 5 & 3) as u8
    }
}

impl<H: Hal, T: Deref<Target = TagPool<H>>, I: Instructions> Drop for SvmVcpu<H, T, I> {
    fn drop(&mut self) {
        self.unbind();
        // SAFETY: taken once, here, and not used any more.
        let remains = unsafe { ManuallyDrop::take(&mut self.remains) };
        if let Some(binding) = self.bound {
            // Its ASID stays active there until the CPU activates the next one.
            self.cpus.leave(binding, remains);
        }
    }
}

impl<H: Hal, T: Deref<Target = TagPool<H>>, I: Instructions> SvmVcpu<H, T, I> {
    /// RSP and RAX, which VMRUN takes from the VMCB.
    pub(super) fn store_general(&mut self) {
        self.vmcb.set(fields::RAX, self.general.get(General::Rax));
        self.vmcb.set(fields::RSP, self.general.get(General::Rsp));
    }

    pub(super) fn load_general(&mut self) {
        self.general.set(General::Rax, self.vmcb.get(fields::RAX));
        self.general.set(General::Rsp, self.vmcb.get(fields::RSP));
    }
}

#[cfg(all(test, not(loom)))]
mod tests;
