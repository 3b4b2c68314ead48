//! The vCPU in the words of both vendors.

#![expect(unsafe_code, reason = "exchanges the registers that stay in the CPU while the vCPU is bound")]

use super::super::control::{Allowed, CR0_PE, Controls, EFER_SVME};
use super::super::cpu::reap;
use super::super::exit::{Record, code};
use super::super::vmcb::fields;
use super::{Capabilities, RFLAGS_IF, RFLAGS_TF, SINGLE_STEP, SvmVcpu};
use crate::event::{BadEvent, Event};
use crate::exit::Exit;
use crate::isa::svm::Instructions;
use crate::state::{CpuState, GeneralRegisters, SegmentName};
use crate::vcpu::{BindError, Control, RunError, Vcpu};
use core::ops::Deref;
use slat::guest::{GuestPaging, X86Paging};
use slat::{GuestPageWalkInfo, Hal, InstructionBytes, TagError, TagPool};

const RFLAGS_RF: u64 = 1 << 16;
const RFLAGS_AC: u64 = 1 << 18;

impl<H: Hal, T: Deref<Target = TagPool<H>>, I: Instructions> Vcpu for SvmVcpu<H, T, I> {
    /// A guest that comes from another CPU gets rid of what this one remembers of it at its next entry, and the CPU reads the
    /// whole VMCB anew.
    fn bind(&mut self, cpu: usize) -> Result<(), BindError> {
        if let Some(binding) = self.bound {
            return Err(BindError::Bound(binding.cpu));
        }
        if cpu >= self.tags.cpus() {
            return Err(BindError::Tag(TagError::NoSuchCpu { cpu, cpus: self.tags.cpus() }));
        }
        if !self.instructions.is_on() {
            return Err(BindError::Off(cpu));
        }
        self.cpus.check(cpu, self.instructions.save_area())?;
        // SAFETY: this is CPU `cpu`.
        unsafe { reap(&self.cpus, cpu) };
        let binding = self.cpus.take(cpu)?;
        if self.last_cpu != Some(cpu) {
            self.vmcb.forget_kept();
        }
        // Another vCPU of the same space, with another ASID, may have been told on this CPU to forget.
        self.owes_flush |= self.last_cpu.is_some();
        self.last_cpu = Some(cpu);
        // SAFETY: SVM is on, and whoever turned it on has prepared the CPU; the capabilities say which components and
        // registers there are.
        unsafe { self.remains.resident.load() };
        self.bound = Some(binding);
        Ok(())
    }

    fn unbind(&mut self) {
        let Some(binding) = self.here() else { return };
        // SAFETY: as in `bind`, on the same CPU.
        unsafe { self.remains.resident.unload() };
        // The pool has this CPU: asked when it was bound.
        let _ = self.tags.deactivate(binding.cpu);
        self.cpus.free(binding);
        self.bound = None;
    }

    fn bound_to(&self) -> Option<usize> {
        self.bound.map(|binding| binding.cpu)
    }

    /// Never fails for want of a CPU.
    fn set_root(&mut self, root: u64) -> Result<(), RunError> {
        if root & 0xfff != 0 || root >> self.capabilities.physical_bits != 0 {
            return Err(RunError::BadRoot(root));
        }
        self.vmcb.set(fields::NESTED_CR3, root);
        self.has_root = true;
        self.owes_flush = true;
        Ok(())
    }

    /// Never fails: all of it is in memory.
    fn state(&self) -> Result<CpuState, RunError> {
        let vmcb = &self.vmcb;
        Ok(CpuState {
            general: self.general,
            rip: vmcb.get(fields::RIP),
            rflags: vmcb.get(fields::RFLAGS),
            cr0: vmcb.get(fields::CR0),
            cr2: vmcb.get(fields::CR2),
            cr3: vmcb.get(fields::CR3),
            cr4: vmcb.get(fields::CR4),
            efer: vmcb.get(fields::EFER) & !EFER_SVME,
            segments: SegmentName::ALL.map(|name| vmcb.segment(name)),
            gdtr: vmcb.table(fields::GDTR),
            idtr: vmcb.table(fields::IDTR),
            dr7: vmcb.get(fields::DR7),
            pat: vmcb.get(fields::PAT),
        })
    }

    /// Never fails: all of it is in memory.
    fn set_state(&mut self, state: &CpuState) -> Result<(), RunError> {
        self.write_state(state);
        Ok(())
    }

    fn general(&self) -> &GeneralRegisters {
        &self.general
    }

    fn general_mut(&mut self) -> &mut GeneralRegisters {
        &mut self.general
    }

    fn rip(&self) -> u64 {
        self.vmcb.get(fields::RIP)
    }

    fn set_rip(&mut self, rip: u64) {
        self.vmcb.set(fields::RIP, rip);
    }

    fn advance(&mut self) {
        if let Some(next) = self.next_rip() {
            self.vmcb.set(fields::RIP, next);
            self.vmcb.set(fields::INTERRUPT_SHADOW, 0);
            let flags = self.vmcb.get(fields::RFLAGS);
            self.vmcb.set(fields::RFLAGS, flags & !RFLAGS_RF);
            if flags & RFLAGS_TF != 0 {
                // A guest that steps is told that the instruction is over.
                self.vmcb.set(fields::DR6, self.vmcb.get(fields::DR6) | SINGLE_STEP);
                let protected = self.vmcb.get(fields::CR0) & CR0_PE != 0;
                self.pending.add(Event::Exception { vector: 1, error_code: None }, protected);
            }
            // Done once.
            self.last = Record { code: code::INVALID, ..self.last };
        }
    }

    fn needs_instruction(&self) -> bool {
        self.opcode().is_some() && !self.has_next_rip() && self.instruction.is_none()
    }

    fn set_instruction(&mut self, bytes: InstructionBytes) {
        self.instruction = Some(bytes);
    }

    fn run(&mut self, flush: bool) -> Result<Exit, RunError> {
        self.run_guest(flush)
    }

    /// An NMI waits until the guest takes NMIs.
    fn inject(&mut self, event: Event) -> Result<(), RunError> {
        let protected = self.vmcb.get(fields::CR0) & CR0_PE != 0;
        event.check(protected)?;
        if matches!(event, Event::ExternalInterrupt(_)) && !self.takes_interrupts() {
            return Err(RunError::Event(BadEvent::Masked));
        }
        self.pending.add(event, protected);
        Ok(())
    }

    fn take_interrupted(&mut self) -> Option<Event> {
        self.pending.take_interrupted()
    }

    fn takes_interrupts(&self) -> bool {
        self.is_interruptible() && self.pending.has_room_for_interrupts()
    }

    fn is_in_interrupt_shadow(&self) -> bool {
        self.vmcb.get(fields::RFLAGS) & RFLAGS_IF != 0 && self.is_in_shadow()
    }

    fn set_interrupt_window(&mut self, wanted: bool) {
        self.pending.interrupt_window = wanted;
    }

    fn set_nmi_window(&mut self, wanted: bool) {
        self.pending.nmi_window = wanted;
    }

    fn set_control(&mut self, control: Control, value: u64) -> bool {
        let Capabilities { cr4, efer, physical_bits, .. } = self.capabilities;
        let allowed = Allowed { cr4, efer, physical_bits };
        let Some(new) = self.controls().with(control, value, allowed) else { return false };
        self.vmcb.set(fields::CR0, new.cr0);
        self.vmcb.set(fields::CR3, new.cr3);
        self.vmcb.set(fields::CR4, new.cr4);
        self.vmcb.set(fields::EFER, new.efer | EFER_SVME);
        // What the guest's own translations depend on may have changed.
        self.owes_flush = true;
        true
    }

    fn control(&self, control: Control) -> u64 {
        let controls = self.controls();
        match control {
            Control::Cr0 => controls.cr0,
            Control::Cr3 => controls.cr3,
            Control::Cr4 => controls.cr4,
            Control::Efer => controls.efer,
        }
    }

    fn xcr0(&self) -> u64 {
        self.remains.resident.xcr0(self.here().is_some())
    }

    fn set_xcr0(&mut self, value: u64) {
        if self.bound.is_none() || self.here().is_some() {
            self.remains.resident.set_xcr0(value);
        }
    }

    fn paging(&self) -> GuestPageWalkInfo {
        let Controls { cr0, cr3, cr4, efer, .. } = self.controls();
        let paging = X86Paging {
            cr0,
            cr3,
            cr4,
            efer,
            ac: self.vmcb.get(fields::RFLAGS) & RFLAGS_AC != 0,
            physical_bits: self.capabilities.physical_bits,
            // Under nested paging they are read from memory (APM vol. 2, "PAE Mode PDPTEs").
            pdptes: None,
            page_1g: self.capabilities.leaf_1g,
            pse36: self.capabilities.pse36,
        };
        GuestPageWalkInfo { paging: GuestPaging::X86(paging), set_marks: false }
    }

    fn instruction_bytes(&self) -> Option<InstructionBytes> {
        if !self.capabilities.decode_assists || self.last.code != code::NESTED_PAGE_FAULT {
            return None;
        }
        let (bytes, count) = self.vmcb.fetched();
        InstructionBytes::from_slice(bytes.get(..count)?)
    }
}
