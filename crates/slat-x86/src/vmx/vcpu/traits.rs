//! The vCPU in the words of both vendors.

#![expect(unsafe_code, reason = "loads the VMCS and the guest's registers into the CPU")]

use super::super::cpu::{CR4_VMXE, NONE_CURRENT, identity, reap};
use super::super::eptp::EptPointer;
use super::super::field::{self, read, write};
use super::super::instructions::{Instructions, VmxError};
use super::{SetupError, VmxVcpu, failed};
use crate::event::{BadEvent, Event};
use crate::exit::Exit;
use crate::state::{CpuState, GeneralRegisters};
use crate::vcpu::{BindError, Control, RunError, Vcpu};
use slat::guest::{GuestPaging, X86Paging};
use slat::{GuestPageWalkInfo, Hal, HostPhysAddr, InstructionBytes};

impl<H: Hal, P: Instructions> VmxVcpu<H, P> {
    /// Everything that follows VMPTRLD.
    fn write_all(&mut self, cpu: usize) -> Result<(), VmxError> {
        self.write_host()?;
        if !self.initialized {
            self.write_fixed()?;
            self.write_log()?;
            self.initialized = true;
        } else if let Some(state) = self.staged {
            self.write_state(&state)?;
        }
        self.staged = None;
        if let Some(root) = self.root {
            write(&self.cpu, field::EPT_POINTER, root.raw())?;
        }
        if self.last_cpu != Some(cpu) {
            // Here the number may have been another vCPU's, or this one's at an earlier time.
            self.drop_linear()?;
        }
        Ok(())
    }

    /// Loads the vCPU into CPU `cpu`, the one at hand, where VMX is on and no VMCS current. If that fails it is in no CPU.
    fn load(&mut self, cpu: usize) -> Result<(), VmxError> {
        // There is one until the vCPU is dropped.
        let vmcs = self.vmcs().ok_or(VmxError::Invalid)?;
        // SAFETY: VMX is on; unbound, the VMCS is active nowhere.
        unsafe { self.clear(vmcs) }?;
        self.launched = false;
        // SAFETY: likewise; from here on only VMX instructions touch the frame.
        unsafe { self.cpu.vmptrld(vmcs) }?;
        if let Err(error) = self.write_all(cpu) {
            // SAFETY: it is active here.
            let _ = unsafe { self.clear(vmcs) };
            return Err(error);
        }
        // SAFETY: `VmxCpu::on` has prepared this CPU; the MSRs were chosen by its capabilities.
        unsafe { self.remains.resident.load() };
        Ok(())
    }

    /// # Safety
    /// VMX is on, and the VMCS is active on this CPU or on none.
    unsafe fn clear(&self, vmcs: HostPhysAddr) -> Result<(), VmxError> {
        // SAFETY: the caller's promise; the frame is a VMCS of ours.
        unsafe { self.cpu.vmclear(vmcs) }
    }

    /// A value of the bound vCPU's; the default where there is none.
    fn of_bound<T: Default>(&self, value: impl FnOnce(&Self) -> Result<T, VmxError>) -> T {
        if self.is_here() { value(self).unwrap_or_default() } else { T::default() }
    }
}

impl<H: Hal, P: Instructions> Vcpu for VmxVcpu<H, P> {
    fn bind(&mut self, cpu: usize) -> Result<(), BindError> {
        if let Some(bound) = self.bound {
            return Err(BindError::Bound(bound.cpu));
        }
        if self.cpu.cr4() & CR4_VMXE == 0 {
            return Err(BindError::Off(cpu));
        }
        self.cpus.check(cpu, identity(&self.cpu))?;
        // SAFETY: VMX is on, and this is CPU `cpu`.
        unsafe { reap(&self.cpu, &self.cpus, cpu) };
        if self.cpu.vmptrst() != NONE_CURRENT {
            return Err(BindError::Occupied(cpu));
        }
        let binding = self.cpus.take(cpu)?;
        if let Err(error) = self.load(cpu) {
            self.cpus.free(binding);
            return Err(BindError::Refused(error.number()));
        }
        self.bound = Some(binding);
        self.last_cpu = Some(cpu);
        Ok(())
    }

    fn unbind(&mut self) {
        if !self.is_here() {
            return;
        }
        // SAFETY: loaded on this CPU.
        unsafe { self.remains.resident.unload() };
        if let Some(vmcs) = self.vmcs() {
            // SAFETY: it is active here. A VMCS that is current can be cleared, so this does not fail.
            let _ = unsafe { self.clear(vmcs) };
        }
        self.launched = false;
        if let Some(binding) = self.bound.take() {
            self.cpus.free(binding);
        }
    }

    fn bound_to(&self) -> Option<usize> {
        self.bound.map(|binding| binding.cpu)
    }

    fn set_root(&mut self, root: u64) -> Result<(), RunError> {
        let root = EptPointer::from_raw(&self.capabilities, root).map_err(|_| RunError::BadRoot(root))?;
        self.set_ept_root(root)
    }

    fn state(&self) -> Result<CpuState, RunError> {
        match self.staged {
            Some(staged) => Ok(CpuState { general: self.general, rip: self.rip, ..staged }),
            None => {
                self.here()?;
                self.read_state().map_err(failed)
            }
        }
    }

    fn set_state(&mut self, state: &CpuState) -> Result<(), RunError> {
        self.set_entry(state).map_err(|error| match error {
            SetupError::Run(error) => error,
            // As the CPU would say: exit reason 33, failed entry.
            _ => RunError::InvalidState { reason: 1 << 31 | 33, qualification: 0 },
        })
    }

    fn general(&self) -> &GeneralRegisters {
        &self.general
    }

    fn general_mut(&mut self) -> &mut GeneralRegisters {
        &mut self.general
    }

    fn rip(&self) -> u64 {
        self.rip
    }

    fn set_rip(&mut self, rip: u64) {
        self.rip = rip;
    }

    fn advance(&mut self) {
        if self.is_here() {
            // The fields are there on every CPU, and this one has the VMCS.
            let _ = self.advance_bound();
        }
    }

    fn run(&mut self, flush: bool) -> Result<Exit, RunError> {
        self.run_bound(flush)
    }

    fn inject(&mut self, event: Event) -> Result<(), RunError> {
        self.here()?;
        let protected = self.read_cr0().map_err(failed)? & 1 != 0;
        event.check(protected)?;
        if matches!(event, Event::ExternalInterrupt(_)) && !self.takes_interrupts() {
            return Err(BadEvent::Masked.into());
        }
        self.pending.add(event, protected);
        Ok(())
    }

    fn take_interrupted(&mut self) -> Option<Event> {
        self.take_pending_event()
    }

    fn takes_interrupts(&self) -> bool {
        self.pending.has_room_for_interrupts() && self.of_bound(|this| Ok(this.open()?.interrupts))
    }

    fn is_in_interrupt_shadow(&self) -> bool {
        self.of_bound(Self::is_shadowed)
    }

    fn set_interrupt_window(&mut self, wanted: bool) {
        self.windows.0 = wanted;
    }

    fn set_nmi_window(&mut self, wanted: bool) {
        self.windows.1 = wanted;
    }

    fn set_control(&mut self, control: Control, value: u64) -> bool {
        self.is_here() && matches!(self.write_control(control, value), Ok(Some(())))
    }

    fn control(&self, control: Control) -> u64 {
        match self.staged {
            Some(staged) => match control {
                Control::Cr0 => staged.cr0,
                Control::Cr3 => staged.cr3,
                Control::Cr4 => staged.cr4,
                Control::Efer => staged.efer,
            },
            None => self.of_bound(|this| this.read_control(control)),
        }
    }

    fn xcr0(&self) -> u64 {
        self.remains.resident.xcr0(self.is_here())
    }

    fn set_xcr0(&mut self, value: u64) {
        if self.bound.is_none() || self.is_here() {
            self.remains.resident.set_xcr0(value);
        }
    }

    fn paging(&self) -> GuestPageWalkInfo {
        let [cr0, cr3, cr4, efer] =
            [Control::Cr0, Control::Cr3, Control::Cr4, Control::Efer].map(|control| self.control(control));
        let rflags = self.of_bound(|this| read(&this.cpu, field::GUEST_RFLAGS));
        let mut paging = X86Paging::new(cr0, cr3, cr4, efer, rflags);
        paging.physical_bits = self.capabilities.raw().physical_bits.min(52) as u8;
        paging.page_1g = self.capabilities.raw().cpuid_extended_edx >> 26 & 1 == 1;
        if Self::has_pdptes(cr0, cr4, efer) {
            paging.pdptes = Some(self.of_bound(Self::read_pdptes));
        }
        GuestPageWalkInfo { paging: GuestPaging::X86(paging), set_marks: false }
    }

    fn instruction_bytes(&self) -> Option<InstructionBytes> {
        None
    }
}
