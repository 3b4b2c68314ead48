//! What is written once, when a vCPU is bound for the first time, and what each time: the host's state.

use super::super::controls::{Controls, entry, exit, pin, primary, secondary};
use super::super::field::{self, write};
use super::super::instructions::{HostRegisters, Instructions, VmxError};
use super::{Capabilities, VmxConfig, VmxVcpu};
use crate::state::CpuState;
use slat::{Hal, PAGE_SIZE};

/// The controls of a vCPU of this `config`.
pub(super) fn controls(capabilities: &Capabilities, config: &VmxConfig) -> Controls {
    let mut controls = *capabilities.controls();
    let raw = capabilities.raw();
    let set = |value: &mut u32, bit: u32, wanted: bool| {
        if wanted {
            *value |= bit;
        }
    };
    set(
        &mut controls.pin,
        pin::EXTERNAL_INTERRUPT,
        config.interrupt_exits && may(raw.pin, pin::EXTERNAL_INTERRUPT),
    );
    set(&mut controls.primary, primary::HLT, config.halt_exits && may(raw.primary, primary::HLT));
    if config.vpid == 0 {
        controls.secondary &= !secondary::VPID;
    }
    controls
}

const fn may(msr: u64, bit: u32) -> bool {
    super::super::controls::may_be_one(msr, bit)
}

impl<H: Hal, P: Instructions> VmxVcpu<H, P> {
    /// Writes everything that does not depend on the CPU or on what the guest does.
    pub(super) fn write_fixed(&mut self) -> Result<(), VmxError> {
        let cpu = &self.cpu;
        let Controls { pin, primary, secondary, exit, entry } = self.controls;
        write(cpu, field::PIN_CONTROLS, pin)?;
        write(cpu, field::PRIMARY_CONTROLS, primary)?;
        write(cpu, field::SECONDARY_CONTROLS, secondary)?;
        write(cpu, field::EXIT_CONTROLS, exit)?;
        write(cpu, field::ENTRY_CONTROLS, entry)?;
        // No exception exits: neither page faults (mask, match and bit 14 all 0) nor others.
        write(cpu, field::EXCEPTION_BITMAP, 0)?;
        write(cpu, field::PAGE_FAULT_MASK, 0)?;
        write(cpu, field::PAGE_FAULT_MATCH, 0)?;
        write(cpu, field::CR3_TARGET_COUNT, 0)?;
        write(cpu, field::EXIT_MSR_STORE_COUNT, 0)?;
        write(cpu, field::EXIT_MSR_LOAD_COUNT, 0)?;
        write(cpu, field::ENTRY_MSR_LOAD_COUNT, 0)?;
        write(cpu, field::ENTRY_INTERRUPTION, 0)?;
        write(cpu, field::MSR_BITMAP, self.remains.place.address().as_u64())?;
        write(cpu, field::IO_BITMAP_A, self.io_bitmaps.address().as_u64())?;
        write(cpu, field::IO_BITMAP_B, self.io_bitmaps.address().as_u64() + PAGE_SIZE)?;
        if self.has_vpid() {
            write(cpu, field::VPID, self.config.vpid)?;
        }
        if secondary & secondary::ENCLS != 0 {
            write(cpu, field::ENCLS_EXITING_BITMAP, u64::MAX)?;
        }
        write(cpu, field::VMCS_LINK_POINTER, u64::MAX)?;
        write(cpu, field::GUEST_DEBUGCTL, 0)?;
        write(cpu, field::GUEST_SYSENTER_CS, 0)?;
        write(cpu, field::GUEST_SYSENTER_ESP, 0)?;
        write(cpu, field::GUEST_SYSENTER_EIP, 0)?;
        self.write_state(&self.staged.unwrap_or(CpuState::real_mode(0xf000, 0xfff0)))
    }

    /// Writes what an exit is to restore on this CPU.
    pub(super) fn write_host(&self) -> Result<(), VmxError> {
        let HostRegisters {
            cr0,
            cr3,
            cr4,
            selectors: [es, cs, ss, ds, fs, gs, tr],
            fs_base,
            gs_base,
            tr_base,
            gdtr_base,
            idtr_base,
            sysenter_cs,
            sysenter_esp,
            sysenter_eip,
            pat,
            efer,
        } = self.cpu.host_registers();
        let cpu = &self.cpu;
        write(cpu, field::HOST_CR0, cr0)?;
        write(cpu, field::HOST_CR3, cr3)?;
        write(cpu, field::HOST_CR4, cr4)?;
        write(cpu, field::HOST_ES, es)?;
        write(cpu, field::HOST_CS, cs)?;
        write(cpu, field::HOST_SS, ss)?;
        write(cpu, field::HOST_DS, ds)?;
        write(cpu, field::HOST_FS, fs)?;
        write(cpu, field::HOST_GS, gs)?;
        write(cpu, field::HOST_TR, tr)?;
        write(cpu, field::HOST_FS_BASE, fs_base)?;
        write(cpu, field::HOST_GS_BASE, gs_base)?;
        write(cpu, field::HOST_TR_BASE, tr_base)?;
        write(cpu, field::HOST_GDTR_BASE, gdtr_base)?;
        write(cpu, field::HOST_IDTR_BASE, idtr_base)?;
        write(cpu, field::HOST_SYSENTER_CS, sysenter_cs)?;
        write(cpu, field::HOST_SYSENTER_ESP, sysenter_esp)?;
        write(cpu, field::HOST_SYSENTER_EIP, sysenter_eip)?;
        write(cpu, field::HOST_PAT, pat)?;
        write(cpu, field::HOST_EFER, efer)
    }
}

// What the controls must have for the state that is written and read here.
const _: () = assert!(exit::SAVE_EFER != 0 && entry::LOAD_EFER != 0);
