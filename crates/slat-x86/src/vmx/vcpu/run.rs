//! One entry and one exit.

#![expect(unsafe_code, reason = "enters the guest")]

use super::super::controls::{pin, primary};
use super::super::exit::{self, Fields, reason};
use super::super::field::{self, read, write};
use super::super::instructions::{Instructions, VmxError};
use super::super::interruption::{self, Interruption, NMI_UNBLOCKED};
use super::super::violation;
use super::state::{BLOCKED_BY_MOV_SS, BLOCKED_BY_NMI, BLOCKED_BY_STI};
use super::{Activity, VmxVcpu, failed, invalidate_ept};
use crate::event::Event;
use crate::exit::{ControlAccess, ControlRegister, Exit};
use crate::pending::Open;
use crate::state::General;
use crate::vcpu::RunError;
use slat::Hal;

const RFLAGS_TF: u64 = 1 << 8;
const RFLAGS_IF: u64 = 1 << 9;
/// Pending debug exceptions: a single step.
const SINGLE_STEP: u64 = 1 << 14;
/// Exit reason: the entry failed.
const ENTRY_FAILED: u32 = 1 << 31;

impl<H: Hal, P: Instructions> VmxVcpu<H, P> {
    pub(super) fn run_bound(&mut self, flush: bool) -> Result<Exit, RunError> {
        // Whoever asks will not ask again, whatever becomes of this entry.
        self.owes_flush |= flush;
        self.here()?;
        let root = self.root.ok_or(RunError::NoRoot)?;
        if self.log.is_some() && !root.accessed_dirty() {
            // An entry with a log and without flags would fail.
            return Err(RunError::BadRoot(root.raw()));
        }
        if self.owes_flush {
            invalidate_ept(&self.cpu, &self.capabilities, root)?;
            self.owes_flush = false;
        }
        if self.pending.take_shutdown() {
            return Ok(Exit::Shutdown);
        }
        loop {
            self.enter()?;
            let exit = self.leave().map_err(failed)?;
            if !self.answer(exit).map_err(failed)? {
                return Ok(exit);
            }
        }
    }

    /// Enters the guest. What was to be delivered is still to be delivered if that fails.
    fn enter(&mut self) -> Result<(), RunError> {
        let event = self.prepare().map_err(failed)?;
        let launched = self.launched;
        // SAFETY: the VMCS is this vCPU's and current; the host's state in it is that of the CPU on which it was bound,
        // which is this one; the EPT is the caller's, whose contract with slat says where it leads.
        let entered = unsafe { self.cpu.enter(&mut self.general, &mut self.cr2, launched) };
        let failed_reason = match entered {
            Err(error) => Some(failed(error)),
            Ok(()) => {
                let reason = read(&self.cpu, field::EXIT_REASON).map_err(failed)?;
                if reason & ENTRY_FAILED == 0 {
                    None
                } else {
                    let qualification = read(&self.cpu, field::EXIT_QUALIFICATION).map_err(failed)?;
                    Some(RunError::InvalidState { reason: reason.into(), qualification })
                }
            }
        };
        if let Some(error) = failed_reason {
            if let Some(event) = event {
                // The CPU takes it out of the VMCS only at an exit.
                write(&self.cpu, field::ENTRY_INTERRUPTION, 0).map_err(failed)?;
                self.pending.interrupted(event);
            }
            return Err(error);
        }
        self.launched = true;
        Ok(())
    }

    /// Everything that an entry needs in the VMCS. Returns the event that it delivers.
    fn prepare(&mut self) -> Result<Option<Event>, VmxError> {
        let rsp = self.general.get(General::Rsp);
        if self.written.0 != self.rip {
            write(&self.cpu, field::GUEST_RIP, self.rip)?;
        }
        if self.written.1 != rsp {
            write(&self.cpu, field::GUEST_RSP, rsp)?;
        }
        self.written = (self.rip, rsp);
        let waits = self.pending.is_occupied()
            || self.pending.waits_for_interrupts()
            || self.pending.waits_for_nmis();
        let event = if waits {
            let event = self.pending.deliver(self.open()?);
            event.map_or(Ok(()), |event| self.write_event(event))?;
            event
        } else {
            None
        };
        self.write_windows()?;
        Ok(event)
    }

    /// What the guest takes at the next entry.
    pub(super) fn open(&self) -> Result<Open, VmxError> {
        let blocking = read(&self.cpu, field::GUEST_INTERRUPTIBILITY)?;
        let shadow = blocking & (BLOCKED_BY_STI | BLOCKED_BY_MOV_SS) != 0;
        if read(&self.cpu, field::GUEST_ACTIVITY)? == Activity::WaitForStartUp as u32 {
            // Nothing else wakes it.
            return Ok(Open { interrupts: false, nmis: false });
        }
        let interrupts = read(&self.cpu, field::GUEST_RFLAGS)? & RFLAGS_IF != 0 && !shadow;
        // Without virtual NMIs nobody knows whether they are blocked.
        let nmis = !shadow && (blocking & BLOCKED_BY_NMI == 0 || !self.virtual_nmis());
        Ok(Open { interrupts, nmis })
    }

    /// Whether STI or a load of SS keeps interrupts away.
    pub(super) fn is_shadowed(&self) -> Result<bool, VmxError> {
        let blocking = read(&self.cpu, field::GUEST_INTERRUPTIBILITY)?;
        let enabled = read(&self.cpu, field::GUEST_RFLAGS)? & RFLAGS_IF != 0;
        Ok(enabled && blocking & (BLOCKED_BY_STI | BLOCKED_BY_MOV_SS) != 0)
    }

    fn write_event(&mut self, event: Event) -> Result<(), VmxError> {
        let cpu = &self.cpu;
        let Interruption { information, error_code, instruction_length } = interruption::encode(event);
        write(cpu, field::ENTRY_INTERRUPTION, information)?;
        write(cpu, field::ENTRY_ERROR_CODE, error_code)?;
        write(cpu, field::ENTRY_INSTRUCTION_LENGTH, instruction_length)?;
        // An event that is delivered ends the shadow of STI and MOV SS, and an NMI whose delivery was interrupted blocks
        // NMIs anew: with these bits set the entry would fail (SDM vol. 3C, "Checks on Guest Non-Register State").
        let blocking = read(cpu, field::GUEST_INTERRUPTIBILITY)?;
        let mut kept = blocking & !(BLOCKED_BY_STI | BLOCKED_BY_MOV_SS);
        if event == Event::Nmi {
            kept &= !BLOCKED_BY_NMI;
        }
        if kept != blocking {
            write(cpu, field::GUEST_INTERRUPTIBILITY, kept)?;
        }
        // It wakes a vCPU that halts.
        write(cpu, field::GUEST_ACTIVITY, Activity::Active as u32)
    }

    fn write_windows(&mut self) -> Result<(), VmxError> {
        let interrupts = self.windows.0 || self.pending.waits_for_interrupts();
        let nmis = (self.windows.1 || self.pending.waits_for_nmis()) && self.virtual_nmis();
        let mut wanted = self.controls.primary & !(primary::INTERRUPT_WINDOW | primary::NMI_WINDOW);
        if interrupts {
            wanted |= primary::INTERRUPT_WINDOW;
        }
        if nmis {
            wanted |= primary::NMI_WINDOW;
        }
        if wanted != self.controls.primary {
            write(&self.cpu, field::PRIMARY_CONTROLS, wanted)?;
            self.controls.primary = wanted;
        }
        Ok(())
    }

    pub(super) fn virtual_nmis(&self) -> bool {
        self.controls.has_pin(pin::VIRTUAL_NMIS)
    }

    /// Reads what the exit left in the VMCS, as much of it as its reason sets.
    fn leave(&mut self) -> Result<Exit, VmxError> {
        let cpu = &self.cpu;
        let mut fields = Fields {
            reason: read(cpu, field::EXIT_REASON)? as u16,
            virtual_nmis: self.virtual_nmis(),
            ..Fields::default()
        };
        let information = read(cpu, field::IDT_VECTORING)?;
        if information >> 31 != 0 {
            fields.interrupted = interruption::decode(Interruption {
                information,
                error_code: read(cpu, field::IDT_VECTORING_ERROR_CODE)?,
                instruction_length: read(cpu, field::EXIT_INSTRUCTION_LENGTH)?,
            });
        }
        match fields.reason {
            reason::EXCEPTION_OR_NMI | reason::EXTERNAL_INTERRUPT => {
                let information = read(cpu, field::EXIT_INTERRUPTION)?;
                let error_code = read(cpu, field::EXIT_ERROR_CODE)?;
                fields.interruption = Interruption { information, error_code, instruction_length: 0 };
            }
            reason::EPT_MISCONFIGURATION => fields.physical = read(cpu, field::GUEST_PHYSICAL_ADDRESS)?,
            _ => fields.qualification = read(cpu, field::EXIT_QUALIFICATION)?,
        }
        if fields.reason == reason::EPT_VIOLATION {
            fields.physical = read(cpu, field::GUEST_PHYSICAL_ADDRESS)?;
            fields.linear = read(cpu, field::GUEST_LINEAR_ADDRESS)?;
        }
        self.rip = read(cpu, field::GUEST_RIP)?;
        let rsp = read(cpu, field::GUEST_RSP)?;
        self.general.set(General::Rsp, rsp);
        self.written = (self.rip, rsp);
        self.interrupted = fields.interrupted;
        if let Some(event) = fields.interrupted {
            self.pending.interrupted(event);
        }
        self.correct_nmi_blocking(&fields)?;
        self.last = fields;
        Ok(exit::decode(&fields, &self.general, &self.ept))
    }

    /// An IRET that ended the blocking of NMIs and then faulted will be executed again, so NMIs stay blocked. An NMI whose
    /// delivery was interrupted blocks none before it is delivered: something else may go first.
    fn correct_nmi_blocking(&self, fields: &Fields) -> Result<(), VmxError> {
        let unblocked = match fields.reason {
            reason::EPT_VIOLATION | reason::MODIFICATION_LOG_FULL => violation::is_nmi_unblocked(fields),
            reason::EXCEPTION_OR_NMI => {
                // Undefined for double faults.
                let information = fields.interruption.information;
                information & NMI_UNBLOCKED != 0
                    && information & 0xff != 8
                    && fields.interrupted.is_none()
                    && fields.virtual_nmis
            }
            _ => false,
        };
        let undelivered = fields.interrupted == Some(Event::Nmi);
        if unblocked || undelivered {
            let blocking = read(&self.cpu, field::GUEST_INTERRUPTIBILITY)?;
            let right = if undelivered { blocking & !BLOCKED_BY_NMI } else { blocking | BLOCKED_BY_NMI };
            write(&self.cpu, field::GUEST_INTERRUPTIBILITY, right)?;
        }
        Ok(())
    }

    /// Whether the exit needs nobody else, and the guest can go on.
    fn answer(&mut self, exit: Exit) -> Result<bool, VmxError> {
        match exit {
            Exit::Control(ControlAccess::Write(ControlRegister::Cr0, from)) => {
                let value = self.general.get(from);
                self.adopt_cr0(value)
            }
            Exit::InterruptWindow => Ok(!self.windows.0 && self.pending.waits_for_interrupts()),
            Exit::NmiWindow => Ok(!self.windows.1 && self.pending.waits_for_nmis()),
            Exit::Nmi => {
                // NMIs are blocked from the exit on until an IRET, also for this CPU's next guest.
                self.cpu.end_nmi();
                Ok(false)
            }
            _ => Ok(false),
        }
    }

    pub(super) fn advance_bound(&mut self) -> Result<(), VmxError> {
        let cpu = &self.cpu;
        let length = u64::from(read(cpu, field::EXIT_INSTRUCTION_LENGTH)?);
        let next = self.rip.wrapping_add(length & 0xf);
        // Outside of 64-bit mode the instruction pointer has 32 bits.
        self.rip = if self.is_64_bit()? { next } else { next & 0xffff_ffff };
        let blocking = read(cpu, field::GUEST_INTERRUPTIBILITY)?;
        let kept = blocking & !(BLOCKED_BY_STI | BLOCKED_BY_MOV_SS);
        if kept != blocking {
            write(cpu, field::GUEST_INTERRUPTIBILITY, kept)?;
        }
        if read(cpu, field::GUEST_RFLAGS)? & RFLAGS_TF != 0 {
            // A guest that steps is told that the instruction is over.
            let pending = read(cpu, field::GUEST_PENDING_DEBUG)?;
            write(cpu, field::GUEST_PENDING_DEBUG, pending | SINGLE_STEP)?;
        }
        Ok(())
    }
}
