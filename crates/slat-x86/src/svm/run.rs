//! One run of a guest: what goes into the VMCB before VMRUN, and what is made of what it says afterwards.

#![expect(unsafe_code, reason = "runs guests")]

use super::control::CR0_PE;
use super::event::{self, Delivery};
use super::exit::{Decoded, Record, code, decode};
use super::flush::{self, TlbControl};
use super::intercepts;
use super::pending::{NmiBlocking, Step};
use super::vcpu::{LastEntry, RFLAGS_TF, SINGLE_STEP, SvmVcpu};
use super::vmcb::fields;
use crate::event::Event;
use crate::exit::Exit;
use crate::isa::svm::{Entry, Instructions};
use crate::vcpu::{RunError, Vcpu};
use core::ops::Deref;
use slat::{Hal, Tag, TagPool};

// VMCB offset 060h.
const V_TPR: u64 = 0xff;
const V_IRQ: u64 = 1 << 8;
const V_INTR_PRIO: u64 = 0xf << 16;
const V_IGN_TPR: u64 = 1 << 20;
const V_INTR_MASKING: u64 = 1 << 24;

impl<H: Hal, T: Deref<Target = TagPool<H>>, I: Instructions> SvmVcpu<H, T, I> {
    /// Enters the guest until it leaves for something that is the hypervisor's.
    pub(super) fn run_guest(&mut self, flush: bool) -> Result<Exit, RunError> {
        // Whoever asks will not ask again, whatever becomes of this entry.
        self.owes_flush |= flush;
        let cpu = self.here().ok_or(RunError::NotBound)?.cpu;
        if !self.has_root {
            return Err(RunError::NoRoot);
        }
        if self.pending.take_shutdown() {
            return Ok(Exit::Shutdown);
        }
        if self.pending.is_nmi_window_open() && !self.is_in_shadow() {
            return Ok(Exit::NmiWindow);
        }
        loop {
            self.prepare(cpu)?;
            let entry = Entry {
                vmcb: self.vmcb.address(),
                host: self.remains.place.address(),
                take_interrupts: self.intercepts.external_interrupts,
                root: self.vmcb.get(fields::NESTED_CR3),
                asid: self.last_entry.asid,
                tlb_control: self.last_entry.tlb_control,
            };
            // SAFETY: SVM is on on this CPU, for the vCPU is bound to it; both frames are the vCPU's; the guest reaches
            // what its nested table and permission maps let it, which is the hypervisor's choice.
            unsafe { self.instructions.enter(&entry, &mut self.general) };
            if let Some(exit) = self.conclude(cpu)? {
                return Ok(exit);
            }
        }
    }

    /// Everything that an entry needs.
    fn prepare(&mut self, cpu: usize) -> Result<(), RunError> {
        self.prepare_tag(cpu)?;
        let interruptible = self.is_interruptible();
        let plan = self.pending.plan(interruptible);
        let injection = plan.delivery.map_or(0, |delivery| delivery.info);
        self.vmcb.set(fields::EVENT_INJECTION, injection);
        if let Some(delivery) = plan.delivery {
            self.vmcb.set(fields::INTERRUPT_SHADOW, 0);
            if delivery.length != 0 {
                self.prepare_return(delivery);
            }
        }
        let words = intercepts::words(self.intercepts, plan.wanted);
        self.vmcb.set(fields::INTERCEPT_CR, 0);
        self.vmcb.set(fields::INTERCEPT_EXCEPTIONS, words.exceptions.into());
        self.vmcb.set(fields::INTERCEPT_1, words.first.into());
        self.vmcb.set(fields::INTERCEPT_2, words.second.into());
        self.vmcb.set(fields::INTERCEPT_3, words.third.into());
        let virtual_interrupt = self.vmcb.get(fields::VIRTUAL_INTERRUPT) & V_TPR
            | if plan.wanted.interrupt_window { V_IRQ | V_IGN_TPR | V_INTR_PRIO } else { 0 }
            | if self.intercepts.external_interrupts { V_INTR_MASKING } else { 0 };
        self.vmcb.set(fields::VIRTUAL_INTERRUPT, virtual_interrupt);
        self.store_general();
        self.instruction = None;
        // What stands here if the guest is not entered at all.
        self.vmcb.set(fields::EXIT_CODE, code::INVALID);
        self.vmcb.set_clean(self.capabilities.vmcb_clean);
        Ok(())
    }

    /// ASID and TLB_CONTROL. The debt is paid only when the guest has been entered.
    fn prepare_tag(&mut self, cpu: usize) -> Result<(), RunError> {
        // The pool has this CPU: asked when it was bound.
        let activate = |tag: &Tag| self.tags.activate(cpu, tag).map_err(|_| RunError::NotBound);
        let mut activation = activate(&self.tag)?;
        let shared = activation.tag == 0;
        let plan = flush::plan(self.owes_flush, self.capabilities.flush_by_asid, shared);
        let tlb_control = match plan {
            _ if activation.flush => TlbControl::Everything,
            flush::Plan::Keep(tlb_control) => tlb_control,
            flush::Plan::Fresh => {
                let fresh = Tag::new();
                activation = activate(&fresh)?;
                self.tag = fresh;
                if activation.flush { TlbControl::Everything } else { TlbControl::Nothing }
            }
        };
        // A pool without tags gives 0, which is the host's ASID.
        let asid = activation.tag.max(1);
        self.vmcb.set(fields::ASID, asid.into());
        self.vmcb.set(fields::TLB_CONTROL, tlb_control as u64);
        self.last_entry = LastEntry { asid, tlb_control };
        Ok(())
    }

    /// Makes an injected event of an instruction return behind that ("Event Injection": by NRIP where the CPU has it, else by
    /// RIP itself; and for INT1, which is injected as the exception that it is not, by RIP in any case).
    fn prepare_return(&mut self, delivery: Delivery) {
        let rip = self.vmcb.get(fields::RIP);
        let next = rip.wrapping_add(delivery.length.into());
        if self.capabilities.next_rip && !delivery.is_debug() {
            self.vmcb.set(fields::NEXT_RIP, next);
        } else {
            self.vmcb.set(fields::RIP, next);
            self.moved_from = Some(rip);
        }
    }

    /// What the exit comes to; `None` if the guest goes on at once.
    fn conclude(&mut self, cpu: usize) -> Result<Option<Exit>, RunError> {
        let exit_code = self.vmcb.get(fields::EXIT_CODE);
        let info_1 = self.vmcb.get(fields::EXIT_INFO_1);
        let info_2 = self.vmcb.get(fields::EXIT_INFO_2);
        let invalid = matches!(exit_code, code::INVALID | code::INVALID_32 | code::BUSY);
        let moved_from = self.moved_from.take();
        if invalid {
            if let Some(rip) = moved_from {
                self.vmcb.set(fields::RIP, rip);
            }
            self.pending.has_not_run();
            self.vmcb.forget_kept();
            self.last = Record { code: code::INVALID, info_1, info_2, ..Record::default() };
            if self.last_entry.tlb_control == TlbControl::Everything {
                // Whether it was dropped nobody knows. The pool has this CPU: asked when it was bound.
                let _ = self.tags.owe_flush(cpu);
            }
            return Err(RunError::InvalidState { reason: exit_code, qualification: info_1 });
        }
        self.vmcb.entered();
        self.owes_flush = false;
        self.load_general();
        let info = self.vmcb.get(fields::EXIT_INTERRUPT_INFO);
        let injected = self.pending.injected();
        let interrupted = event::interrupted(info, injected);
        if let Some(rip) = moved_from.filter(|_| interrupted.map(|found| found.event) == injected) {
            // It was not delivered yet, and perhaps something else goes first: then the instruction is executed.
            self.vmcb.set(fields::RIP, rip);
        }
        self.pending.has_run(interrupted);
        self.last = Record {
            code: exit_code,
            info_1,
            info_2,
            general: self.general,
            protected: self.vmcb.get(fields::CR0) & CR0_PE != 0,
            interrupted: interrupted.map(|interrupted| interrupted.event),
        };
        let stepped = self.end_step();
        Ok(match decode(&self.last) {
            Decoded::Exit(exit) => Some(exit),
            Decoded::InterruptWindow => self.pending.interrupt_window.then_some(Exit::InterruptWindow),
            Decoded::Iret => {
                if self.pending.blocking == NmiBlocking::Blocked {
                    self.begin_step();
                }
                None
            }
            Decoded::Debug => self.debug(stepped),
            Decoded::Invd => {
                self.advance();
                None
            }
            // Answered above.
            Decoded::NotEntered => {
                return Err(RunError::InvalidState { reason: exit_code, qualification: info_1 });
            }
        })
    }

    /// Lets the guest execute its IRET and no more.
    fn begin_step(&mut self) {
        let flags = self.vmcb.get(fields::RFLAGS);
        let step = Step {
            rip: self.vmcb.get(fields::RIP),
            trap_flag: flags & RFLAGS_TF != 0,
            dr6: self.vmcb.get(fields::DR6),
        };
        self.pending.blocking = NmiBlocking::Stepping(step);
        self.vmcb.set(fields::RFLAGS, flags | RFLAGS_TF);
    }

    /// Takes back what [`begin_step`](Self::begin_step) has changed, whatever the exit was. An IRET that could not be executed
    /// will be seen again.
    fn end_step(&mut self) -> Option<Step> {
        let NmiBlocking::Stepping(step) = self.pending.blocking else { return None };
        if self.vmcb.get(fields::RIP) == step.rip && self.last.code != code::EXCEPTION + 1 {
            let flags = self.vmcb.get(fields::RFLAGS);
            let own = if step.trap_flag { RFLAGS_TF } else { 0 };
            self.vmcb.set(fields::RFLAGS, flags & !RFLAGS_TF | own);
            self.pending.blocking = NmiBlocking::Blocked;
            return None;
        }
        self.pending.blocking = NmiBlocking::Open;
        Some(step)
    }

    /// A debug exception: behind a stepped IRET it is ours, unless the guest steps through its own code.
    fn debug(&mut self, stepped: Option<Step>) -> Option<Exit> {
        let Some(step) = stepped else {
            return Some(Exit::Exception { vector: 1, error_code: None });
        };
        if step.trap_flag {
            self.pending.add(Event::Exception { vector: 1, error_code: None }, self.last.protected);
        } else {
            let dr6 = self.vmcb.get(fields::DR6) & !SINGLE_STEP | step.dr6 & SINGLE_STEP;
            self.vmcb.set(fields::DR6, dr6);
        }
        self.pending.nmi_window.then_some(Exit::NmiWindow)
    }
}
