//! Answers to the exits that every hypervisor answers alike.

use crate::cpuid::{self, Leaf};
use crate::event::Event;
use crate::exit::{ControlAccess, ControlRegister, Exit};
use crate::msr::{self, Rule};
use crate::state::General;
use crate::vcpu::{Control, Vcpu};
use crate::xcr;

/// The machine, as far as the answers depend on it.
pub trait Machine {
    /// CPUID.
    fn cpuid(&self, leaf: u32, subleaf: u32) -> Leaf;
    /// The value of one of the registers that have [`Rule::Host`]; `None` if reading it faults.
    fn read_msr(&self, index: u32) -> Option<u64>;
}

/// Whether an exit was answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub enum Answer {
    /// Yes: the guest can go on.
    Done,
    /// Yes, by an exception that the guest gets.
    Exception,
    /// No: it is the caller's.
    Open,
}

/// Answers CPUID, RDMSR, WRMSR, XSETBV, accesses to control registers and instructions that the guest cannot have. What is
/// wrong with them is an exception for the guest: an unknown register and a bad value are `#GP(0)`, a missing instruction
/// is `#UD`.
pub fn answer<V: Vcpu + ?Sized>(
    vcpu: &mut V,
    exit: &Exit,
    policy: cpuid::Policy,
    machine: &impl Machine,
) -> Answer {
    let host_leaf = |leaf, subleaf| machine.cpuid(leaf, subleaf);
    let good = match *exit {
        Exit::Cpuid => {
            let general = *vcpu.general();
            let (leaf, subleaf) = (general.get(General::Rax) as u32, general.get(General::Rcx) as u32);
            let seen = cpuid::Seen { cr4: vcpu.control(Control::Cr4), xcr0: vcpu.xcr0() };
            let found = cpuid::guest_leaf(policy, seen, leaf, subleaf, host_leaf);
            let general = vcpu.general_mut();
            general.set(General::Rax, found.eax.into());
            general.set(General::Rbx, found.ebx.into());
            general.set(General::Rcx, found.ecx.into());
            general.set(General::Rdx, found.edx.into());
            true
        }
        Exit::ReadMsr(index) => match read_msr(vcpu, index, machine) {
            Some(value) => {
                vcpu.general_mut().set_edx_eax(value);
                true
            }
            None => false,
        },
        Exit::WriteMsr { index, value } => write_msr(vcpu, index, value, machine),
        Exit::Xsetbv { index, value } => {
            let good = xcr::check(index, value, cpuid::guest_xcr0(host_leaf)).is_ok();
            if good {
                vcpu.set_xcr0(value);
            }
            good
        }
        Exit::Control(access) => control(vcpu, access),
        Exit::Refused => return exception(vcpu, Event::UNDEFINED),
        _ => return Answer::Open,
    };
    if good {
        vcpu.advance();
        Answer::Done
    } else {
        exception(vcpu, Event::GENERAL_PROTECTION)
    }
}

/// Gives the guest an exception, without the error code in real mode.
fn exception<V: Vcpu + ?Sized>(vcpu: &mut V, event: Event) -> Answer {
    let protected = vcpu.control(Control::Cr0) & 1 != 0;
    let event = match event {
        Event::Exception { vector, error_code } => {
            Event::Exception { vector, error_code: error_code.filter(|_| protected) }
        }
        other => other,
    };
    // It passes `Event::check`.
    let _ = vcpu.inject(event);
    Answer::Exception
}

fn read_msr<V: Vcpu + ?Sized>(vcpu: &V, index: u32, machine: &impl Machine) -> Option<u64> {
    match msr::rule(index) {
        Rule::Control(register) => Some(vcpu.control(register)),
        Rule::Host => machine.read_msr(index),
        Rule::Constant(value) | Rule::ReadOnly(value) => Some(value),
        // The first two do not get here.
        Rule::PassThrough | Rule::ReadThrough | Rule::Refused => None,
    }
}

fn write_msr<V: Vcpu + ?Sized>(vcpu: &mut V, index: u32, value: u64, machine: &impl Machine) -> bool {
    match msr::rule(index) {
        Rule::Control(register) => vcpu.set_control(register, value),
        Rule::Host => machine.read_msr(index) == Some(value),
        Rule::Constant(_) => true,
        Rule::PassThrough | Rule::ReadThrough | Rule::ReadOnly(_) | Rule::Refused => false,
    }
}

fn control<V: Vcpu + ?Sized>(vcpu: &mut V, access: ControlAccess) -> bool {
    let register = |register| match register {
        ControlRegister::Cr0 => Some(Control::Cr0),
        ControlRegister::Cr3 => Some(Control::Cr3),
        ControlRegister::Cr4 => Some(Control::Cr4),
        // The local APIC is the guest's, and with it the task priority.
        ControlRegister::Cr8 => None,
    };
    match access {
        ControlAccess::Write(to, from) => {
            let value = vcpu.general().get(from);
            register(to).is_some_and(|to| vcpu.set_control(to, value))
        }
        ControlAccess::Read(from, to) => {
            let Some(from) = register(from) else { return false };
            let value = vcpu.control(from);
            vcpu.general_mut().set(to, value);
            true
        }
        ControlAccess::ClearTaskSwitched => {
            let cr0 = vcpu.control(Control::Cr0);
            vcpu.set_control(Control::Cr0, cr0 & !(1 << 3))
        }
        ControlAccess::LoadStatusWord(word) => {
            // PE, MP, EM and TS; it can set PE and not clear it (SDM vol. 2A, "LMSW").
            let cr0 = vcpu.control(Control::Cr0);
            let loaded = cr0 & !0xe | u64::from(word) & 0xf;
            vcpu.set_control(Control::Cr0, loaded)
        }
    }
}

#[cfg(all(test, not(loom)))]
mod tests;
