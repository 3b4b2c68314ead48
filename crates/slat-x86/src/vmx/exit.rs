//! From the fields of an exit to [`Exit`]: a pure function (SDM vol. 3C, "Basic VM-Exit Information"; the numbers are those
//! of appendix "VMX Basic Exit Reasons").

use super::interruption::{self, Interruption};
use super::violation;
use crate::event::Event;
use crate::exit::{ControlAccess, ControlRegister, Exit, PortAccess, PortDirection};
use crate::state::{General, GeneralRegisters};
use slat::GuestPhysAddr;
use slat::device::{AccessWidth, Port};
use slat::format::ept::Ept;

/// Basic exit reasons.
pub(crate) mod reason {
    pub(crate) const EXCEPTION_OR_NMI: u16 = 0;
    pub(crate) const EXTERNAL_INTERRUPT: u16 = 1;
    pub(crate) const TRIPLE_FAULT: u16 = 2;
    pub(crate) const INIT: u16 = 3;
    pub(crate) const START_UP: u16 = 4;
    pub(crate) const INTERRUPT_WINDOW: u16 = 7;
    pub(crate) const NMI_WINDOW: u16 = 8;
    pub(crate) const CPUID: u16 = 10;
    pub(crate) const GETSEC: u16 = 11;
    pub(crate) const HLT: u16 = 12;
    pub(crate) const RDPMC: u16 = 15;
    pub(crate) const VMCALL: u16 = 18;
    /// VMCLEAR to VMXON, with what lies between.
    pub(crate) const VMCLEAR: u16 = 19;
    pub(crate) const VMXON: u16 = 27;
    pub(crate) const CONTROL_REGISTER: u16 = 28;
    pub(crate) const IO: u16 = 30;
    pub(crate) const RDMSR: u16 = 31;
    pub(crate) const WRMSR: u16 = 32;
    pub(crate) const MWAIT: u16 = 36;
    pub(crate) const MONITOR: u16 = 39;
    pub(crate) const PAUSE: u16 = 40;
    pub(crate) const EPT_VIOLATION: u16 = 48;
    pub(crate) const EPT_MISCONFIGURATION: u16 = 49;
    pub(crate) const INVEPT: u16 = 50;
    pub(crate) const INVVPID: u16 = 53;
    pub(crate) const XSETBV: u16 = 55;
    pub(crate) const VMFUNC: u16 = 59;
    pub(crate) const ENCLS: u16 = 60;
    pub(crate) const MODIFICATION_LOG_FULL: u16 = 62;
}

/// What an exit leaves in the VMCS. Fields that an exit does not set may be anything.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Fields {
    /// Exit reason, bits 15:0.
    pub(crate) reason: u16,
    pub(crate) qualification: u64,
    /// Guest-physical address, of violations and misconfigurations.
    pub(crate) physical: u64,
    /// Guest-linear address, of violations.
    pub(crate) linear: u64,
    /// VM-exit interruption information and error code.
    pub(crate) interruption: Interruption,
    /// The event whose delivery the exit interrupted.
    pub(crate) interrupted: Option<Event>,
    /// Whether the CPU tracks the blocking of NMIs in the guest.
    pub(crate) virtual_nmis: bool,
}

/// Why the guest left.
pub(crate) fn decode(fields: &Fields, general: &GeneralRegisters, ept: &Ept) -> Exit {
    let Fields { reason, qualification, .. } = *fields;
    let ecx = general.get(General::Rcx) as u32;
    match reason {
        reason::EXCEPTION_OR_NMI => exception(fields),
        reason::EXTERNAL_INTERRUPT => match interruption::decode(fields.interruption) {
            Some(Event::ExternalInterrupt(vector)) => Exit::ExternalInterrupt(Some(vector)),
            _ => Exit::ExternalInterrupt(None),
        },
        reason::TRIPLE_FAULT => Exit::Shutdown,
        reason::INIT => Exit::Init,
        reason::START_UP => Exit::StartUp(qualification as u8),
        reason::INTERRUPT_WINDOW => Exit::InterruptWindow,
        reason::NMI_WINDOW => Exit::NmiWindow,
        reason::CPUID => Exit::Cpuid,
        reason::HLT => Exit::Halt,
        reason::VMCALL => Exit::Hypercall,
        reason::CONTROL_REGISTER => control_register(qualification),
        reason::IO => port(qualification),
        reason::RDMSR => Exit::ReadMsr(ecx),
        reason::WRMSR => Exit::WriteMsr { index: ecx, value: general.edx_eax() },
        reason::PAUSE => Exit::Pause,
        reason::EPT_VIOLATION => Exit::NestedPageFault(violation::decode(fields, ept)),
        reason::EPT_MISCONFIGURATION => Exit::Misconfiguration(GuestPhysAddr::new(fields.physical)),
        reason::XSETBV => Exit::Xsetbv { index: ecx, value: general.edx_eax() },
        reason::MODIFICATION_LOG_FULL => Exit::ModificationLogFull,
        reason::GETSEC
        | reason::RDPMC
        | reason::VMCLEAR..=reason::VMXON
        | reason::MWAIT
        | reason::MONITOR
        | reason::INVEPT
        | reason::INVVPID
        | reason::VMFUNC
        | reason::ENCLS => Exit::Refused,
        _ => Exit::Other { code: reason.into(), information: qualification },
    }
}

fn exception(fields: &Fields) -> Exit {
    match interruption::decode(fields.interruption) {
        Some(Event::Nmi) => Exit::Nmi,
        Some(Event::Exception { vector, error_code }) => Exit::Exception { vector, error_code },
        Some(Event::SoftwareException { vector, .. }) => Exit::Exception { vector, error_code: None },
        Some(Event::PrivilegedSoftwareException { .. }) => Exit::Exception { vector: 1, error_code: None },
        _ => Exit::Other { code: fields.reason.into(), information: fields.interruption.information.into() },
    }
}

/// "Exit Qualification for Control-Register Accesses".
fn control_register(qualification: u64) -> Exit {
    let register = match qualification & 0xf {
        0 => Some(ControlRegister::Cr0),
        3 => Some(ControlRegister::Cr3),
        4 => Some(ControlRegister::Cr4),
        8 => Some(ControlRegister::Cr8),
        _ => None,
    };
    let general = General::from_number(qualification >> 8);
    match (qualification >> 4 & 3, register) {
        (0, Some(register)) => Exit::Control(ControlAccess::Write(register, general)),
        (1, Some(register)) => Exit::Control(ControlAccess::Read(register, general)),
        (2, _) => Exit::Control(ControlAccess::ClearTaskSwitched),
        (3, _) => Exit::Control(ControlAccess::LoadStatusWord((qualification >> 16) as u16)),
        _ => Exit::Other { code: reason::CONTROL_REGISTER.into(), information: qualification },
    }
}

/// "Exit Qualification for I/O Instructions".
fn port(qualification: u64) -> Exit {
    let width = match qualification & 7 {
        0 => AccessWidth::Byte,
        1 => AccessWidth::Word,
        3 => AccessWidth::Dword,
        _ => return Exit::Other { code: reason::IO.into(), information: qualification },
    };
    let has = |bit: u32| qualification >> bit & 1 == 1;
    Exit::Port(PortAccess {
        port: Port((qualification >> 16) as u16),
        width,
        direction: if has(3) { PortDirection::In } else { PortDirection::Out },
        string: has(4),
        repeat: has(5),
    })
}

#[cfg(all(test, not(loom)))]
mod tests;
