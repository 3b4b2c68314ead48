//! From an exit code and what goes with it to an [`Exit`], once (APM vol. 2, appendix C, "SVM Intercept Exit Codes").

use crate::event::Event;
use crate::exit::{ControlAccess, ControlRegister, Exit, NestedPageFault, PortAccess, PortDirection};
use crate::state::{General, GeneralRegisters};
use slat::device::{AccessWidth, Port};
use slat::format::npt;
use slat::{FaultCause, GuestPhysAddr, MappingFlags};

/// Exit codes.
pub(super) mod code {
    pub(crate) const READ_CR: u64 = 0x000;
    pub(crate) const WRITE_CR: u64 = 0x010;
    pub(crate) const EXCEPTION: u64 = 0x040;
    pub(crate) const INTR: u64 = 0x060;
    pub(crate) const NMI: u64 = 0x061;
    pub(crate) const INIT: u64 = 0x063;
    pub(crate) const VINTR: u64 = 0x064;
    pub(crate) const CR0_SELECTIVE_WRITE: u64 = 0x065;
    pub(crate) const RDTSC: u64 = 0x06e;
    pub(crate) const RDPMC: u64 = 0x06f;
    pub(crate) const CPUID: u64 = 0x072;
    pub(crate) const IRET: u64 = 0x074;
    pub(crate) const INVD: u64 = 0x076;
    pub(crate) const PAUSE: u64 = 0x077;
    pub(crate) const HLT: u64 = 0x078;
    pub(crate) const INVLPGA: u64 = 0x07a;
    pub(crate) const IOIO: u64 = 0x07b;
    pub(crate) const MSR: u64 = 0x07c;
    pub(crate) const SHUTDOWN: u64 = 0x07f;
    pub(crate) const VMRUN: u64 = 0x080;
    pub(crate) const VMMCALL: u64 = 0x081;
    pub(crate) const VMLOAD: u64 = 0x082;
    pub(crate) const SKINIT: u64 = 0x086;
    pub(crate) const WBINVD: u64 = 0x089;
    pub(crate) const MONITOR: u64 = 0x08a;
    pub(crate) const MWAIT_ARMED: u64 = 0x08c;
    pub(crate) const XSETBV: u64 = 0x08d;
    pub(crate) const RDPRU: u64 = 0x08e;
    pub(crate) const INVLPGB: u64 = 0x0a0;
    pub(crate) const INVLPGB_ILLEGAL: u64 = 0x0a1;
    pub(crate) const MCOMMIT: u64 = 0x0a3;
    pub(crate) const TLBSYNC: u64 = 0x0a4;
    pub(crate) const NESTED_PAGE_FAULT: u64 = 0x400;
    /// The guest's state is none.
    pub(crate) const INVALID: u64 = u64::MAX;
    /// As QEMU writes it.
    pub(crate) const INVALID_32: u64 = u32::MAX as u64;
    /// The VMCB is in use elsewhere.
    pub(crate) const BUSY: u64 = u64::MAX - 1;
}

/// What the VMCB and the registers say of an exit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Record {
    /// EXITCODE.
    pub(super) code: u64,
    /// EXITINFO1.
    pub(super) info_1: u64,
    /// EXITINFO2.
    pub(super) info_2: u64,
    /// The guest's general registers.
    pub(super) general: GeneralRegisters,
    /// The guest is in protected mode.
    pub(super) protected: bool,
    /// The event whose delivery was interrupted.
    pub(super) interrupted: Option<Event>,
}

/// What an exit comes to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Decoded {
    /// The hypervisor's.
    Exit(Exit),
    /// The guest takes external interrupts now.
    InterruptWindow,
    /// It is about to execute IRET.
    Iret,
    /// A debug exception: perhaps ours, behind the IRET.
    Debug,
    /// INVD: the caches are the host's too, and it is left out.
    Invd,
    /// The guest was not entered.
    NotEntered,
}

/// The meaning of an exit.
pub(super) fn decode(record: &Record) -> Decoded {
    let Record { code, info_1, info_2, general, .. } = record;
    Decoded::Exit(match *code {
        code::INVALID | code::INVALID_32 | code::BUSY => return Decoded::NotEntered,
        code::VINTR => return Decoded::InterruptWindow,
        code::IRET => return Decoded::Iret,
        code::INVD => return Decoded::Invd,
        code if code == code::EXCEPTION + 1 => return Decoded::Debug,
        code::READ_CR..=0x01f | code::CR0_SELECTIVE_WRITE => control(*code, *info_1),
        code::EXCEPTION..=0x05f => {
            let vector = (code - code::EXCEPTION) as u8;
            let has_error_code = record.protected && Event::has_error_code(vector);
            Exit::Exception { vector, error_code: has_error_code.then_some(*info_1 as u32) }
        }
        // The interrupt was not acknowledged: the host takes it as soon as it lets it.
        code::INTR => Exit::ExternalInterrupt(None),
        code::NMI => Exit::Nmi,
        code::INIT => Exit::Init,
        code::CPUID => Exit::Cpuid,
        code::PAUSE => Exit::Pause,
        code::HLT => Exit::Halt,
        code::IOIO => port(*info_1),
        code::MSR => {
            let index = general.get(General::Rcx) as u32;
            if info_1 & 1 == 0 {
                Exit::ReadMsr(index)
            } else {
                Exit::WriteMsr { index, value: general.edx_eax() }
            }
        }
        code::SHUTDOWN => Exit::Shutdown,
        code::VMMCALL => Exit::Hypercall,
        code::XSETBV => Exit::Xsetbv { index: general.get(General::Rcx) as u32, value: general.edx_eax() },
        // The guest's CPU has no SVM, no MONITOR and no performance counters.
        code::RDPMC
        | code::INVLPGA
        | code::VMRUN
        | code::VMLOAD..=code::SKINIT
        | code::MONITOR..=code::MWAIT_ARMED
        | code::RDPRU
        | code::INVLPGB
        | code::INVLPGB_ILLEGAL
        | code::MCOMMIT
        | code::TLBSYNC => Exit::Refused,
        code::NESTED_PAGE_FAULT => nested_page_fault(*info_1, *info_2, record.interrupted),
        code => Exit::Other { code, information: *info_1 },
    })
}

/// "MOV CRx/DRx Intercepts": with decode assists bit 63 says that it was a MOV, and 3:0 which register.
fn control(exit_code: u64, info_1: u64) -> Exit {
    let selective = exit_code == code::CR0_SELECTIVE_WRITE;
    let write = selective || exit_code >= code::WRITE_CR;
    let number = if selective { 0 } else { exit_code & 0xf };
    let register = match number {
        0 => ControlRegister::Cr0,
        3 => ControlRegister::Cr3,
        4 => ControlRegister::Cr4,
        8 => ControlRegister::Cr8,
        _ => return Exit::Other { code: exit_code, information: info_1 },
    };
    if info_1 >> 63 == 0 {
        return Exit::Other { code: exit_code, information: info_1 };
    }
    let general = General::from_number(info_1);
    Exit::Control(if write {
        ControlAccess::Write(register, general)
    } else {
        ControlAccess::Read(register, general)
    })
}

/// "IN/OUT Intercept Information".
fn port(info_1: u64) -> Exit {
    let has = |bit: u32| info_1 >> bit & 1 != 0;
    let width = match (has(4), has(5)) {
        (true, _) => AccessWidth::Byte,
        (false, true) => AccessWidth::Word,
        (false, false) => AccessWidth::Dword,
    };
    Exit::Port(PortAccess {
        port: Port((info_1 >> 16) as u16),
        width,
        direction: if has(0) { PortDirection::In } else { PortDirection::Out },
        string: has(2),
        repeat: has(3),
    })
}

fn nested_page_fault(info_1: u64, info_2: u64, interrupted: Option<Event>) -> Exit {
    let Ok(info) = npt::decode_fault(info_1, info_2) else {
        return Exit::Misconfiguration(GuestPhysAddr::new(info_2));
    };
    let present = info.cause == FaultCause::Permission;
    Exit::NestedPageFault(NestedPageFault {
        info,
        // A present entry can be read; what else it allows is not told.
        granted: if present { MappingFlags::READ } else { MappingFlags::empty() },
        read_and_write: false,
        nmi_unblocked: false,
        interrupted,
    })
}

#[cfg(all(test, not(loom)))]
mod tests;
