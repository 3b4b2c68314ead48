//! The firmware that the guest sees: SBI 2.0 with its extensions Base, TIME, sPI, RFENCE, HSM, SRST and DBCN, and of the legacy
//! ones those that a kernel without them would print and stop by.
//!
//! Reference: RISC-V Supervisor Binary Interface Specification. Any call that is not offered is answered
//! `SBI_ERR_NOT_SUPPORTED`. The hypervisor's own calls (see [`requests`]) are those of the experimental extension
//! [`EXTENSION`]: a6 is the low half of the function's number, a0 the address and a1 the length; on return a0 is the status
//! and a1 how many bytes were done.

use crate::cpus::{Cpus, Entry, Power, StartError};
use crate::requests;
use crate::vcpu::{BufferAnswer, BufferCall, BufferError, Request};
use sbi_spec::binary::{
    RET_ERR_ALREADY_AVAILABLE, RET_ERR_DENIED, RET_ERR_FAILED, RET_ERR_INVALID_ADDRESS,
    RET_ERR_INVALID_PARAM, RET_ERR_NOT_SUPPORTED, RET_SUCCESS,
};
use sbi_spec::{base, dbcn, hsm, legacy, rfnc, spi, srst, time};

/// Number of the experimental extension with the hypervisor's own calls: "SLT" behind the prefix of such extensions.
pub const EXTENSION: u64 = 0x0853_4c54;

/// What SBI_GET_IMPL_ID says: "slat". The numbers that are handed out begin at 0.
const IMPLEMENTATION: u64 = 0x736c_6174;

/// Most bytes of one write to the console; what is beyond is for the guest's next call.
const CONSOLE_MAX: u64 = crate::run::LENGTH_MAX;

/// The numbers of the machine that SBI tells.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Machine {
    /// mvendorid.
    pub vendor: u64,
    /// marchid.
    pub architecture: u64,
    /// mimpid.
    pub implementation: u64,
}

/// A call.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Call {
    /// a7: the extension.
    pub extension: u64,
    /// a6: the function.
    pub function: u64,
    /// a0 to a4.
    pub arguments: [u64; 5],
}

/// A set of CPUs of the guest, a bit each.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Harts(pub u64);

impl Harts {
    /// Whether `cpu` is one of them.
    #[must_use]
    pub const fn contains(self, cpu: usize) -> bool {
        cpu < 64 && self.0 >> cpu & 1 != 0
    }
}

/// A fence that CPUs of the guest are to execute.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fence {
    /// FENCE.I.
    Instructions,
    /// SFENCE.VMA of so many bytes from this guest virtual address on, or of everything.
    Addresses {
        /// First address and length in bytes; `None` is all addresses.
        range: Option<(u64, u64)>,
        /// Only of this address space of the guest's.
        asid: Option<u16>,
    },
}

/// What becomes of a call. Where nothing else is said the guest goes on with success in a0 and 0 in a1.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer {
    /// The guest goes on with this error in a0 and this value in a1.
    Return {
        /// a0.
        error: u64,
        /// a1.
        value: u64,
    },
    /// A legacy call: the guest goes on with this value in a0, and a1 as it was.
    ReturnLegacy(u64),
    /// The timer of the CPU is set to this time.
    SetTimer(u64),
    /// These CPUs get a software interrupt.
    SendInterrupts(Harts),
    /// These CPUs execute a fence.
    Fence(Harts, Fence),
    /// This character goes to the guest's console, by a legacy call (a0 becomes 0) if `legacy`.
    Print {
        /// The character.
        character: u8,
        /// Whether the call is the old one.
        legacy: bool,
    },
    /// The text in so many bytes from this guest-physical address on goes to the console.
    PrintBuffer(u64, u64),
    /// The guest waits for an interrupt.
    Wait,
    /// This CPU of the guest goes off.
    CpuOff,
    /// The guest's machine goes off.
    PowerOff,
    /// The guest's machine starts over.
    Reset,
    /// A page is to be changed.
    Request(Request, u64),
    /// Something is to be done with so many bytes of the guest's memory from this address on.
    Buffer(BufferCall, u64, u64),
}

/// Success, with this value.
const fn value(value: u64) -> Answer {
    Answer::Return { error: RET_SUCCESS as u64, value }
}

const fn error(error: usize) -> Answer {
    Answer::Return { error: error as u64, value: 0 }
}

/// Answers a call of CPU `caller` of `cpus`. A CPU that it asks for has been started.
#[must_use]
pub fn answer(call: &Call, caller: usize, cpus: &Cpus, machine: &Machine) -> Answer {
    let Call { extension, function, arguments } = *call;
    // SBI: a hart's registers are as wide as `usize` there, and sbi-spec has the numbers in that type.
    let function = usize::try_from(function).unwrap_or(usize::MAX);
    let [a0, a1, ..] = arguments;
    match usize::try_from(extension).unwrap_or(usize::MAX) {
        base::EID_BASE => answer_base(function, a0, machine),
        time::EID_TIME if function == time::SET_TIMER => Answer::SetTimer(a0),
        spi::EID_SPI if function == spi::SEND_IPI => match harts(a0, a1, cpus.count()) {
            Some(harts) => Answer::SendInterrupts(harts),
            None => error(RET_ERR_INVALID_PARAM),
        },
        rfnc::EID_RFNC => answer_fence(function, arguments, cpus.count()),
        hsm::EID_HSM => answer_hsm(function, arguments, caller, cpus),
        srst::EID_SRST if function == srst::SYSTEM_RESET => answer_reset(a0, a1),
        dbcn::EID_DBCN => answer_console(function, arguments),
        legacy::LEGACY_SET_TIMER => Answer::SetTimer(a0),
        legacy::LEGACY_CONSOLE_PUTCHAR => Answer::Print { character: a0 as u8, legacy: true },
        // Nobody types.
        legacy::LEGACY_CONSOLE_GETCHAR => Answer::ReturnLegacy(u64::MAX),
        legacy::LEGACY_SHUTDOWN => Answer::PowerOff,
        _ if extension == EXTENSION => answer_own(function, a0, a1),
        _ => error(RET_ERR_NOT_SUPPORTED),
    }
}

/// What a0 and a1 are after a write to the console came to this.
#[must_use]
pub const fn printed(answer: BufferAnswer) -> (u64, u64) {
    let error = match answer.status {
        // What could be printed was; if the rest cannot be the guest learns it when it comes to that.
        _ if answer.done > 0 => RET_SUCCESS,
        Ok(()) => RET_SUCCESS,
        Err(BufferError::Denied) => RET_ERR_DENIED,
        Err(BufferError::OutOfFrames | BufferError::Busy) => RET_ERR_FAILED,
        Err(BufferError::TooLong | BufferError::NoMemory | BufferError::Device) => RET_ERR_INVALID_PARAM,
    };
    (error as u64, answer.done)
}

fn answer_base(function: usize, argument: u64, machine: &Machine) -> Answer {
    value(match function {
        base::GET_SBI_SPEC_VERSION => (base::Version::V2_0.major() as u64) << 24,
        base::GET_SBI_IMPL_ID => IMPLEMENTATION,
        base::GET_SBI_IMPL_VERSION => 1,
        base::PROBE_EXTENSION => u64::from(is_offered(argument)),
        base::GET_MVENDORID => machine.vendor,
        base::GET_MARCHID => machine.architecture,
        base::GET_MIMPID => machine.implementation,
        _ => return error(RET_ERR_NOT_SUPPORTED),
    })
}

fn is_offered(extension: u64) -> bool {
    let known = matches!(
        usize::try_from(extension).unwrap_or(usize::MAX),
        base::EID_BASE
            | time::EID_TIME
            | spi::EID_SPI
            | rfnc::EID_RFNC
            | hsm::EID_HSM
            | srst::EID_SRST
            | dbcn::EID_DBCN
            | legacy::LEGACY_SET_TIMER
            | legacy::LEGACY_CONSOLE_PUTCHAR
            | legacy::LEGACY_CONSOLE_GETCHAR
            | legacy::LEGACY_SHUTDOWN
    );
    known || extension == EXTENSION
}

/// The CPUs of a guest with `count` of them that `mask` and `base` name; `None` if one of them does not exist.
fn harts(mask: u64, base: u64, count: usize) -> Option<Harts> {
    let all = u64::MAX.checked_shr(64_u32.saturating_sub(count as u32)).unwrap_or(0);
    if base == u64::MAX {
        return Some(Harts(all));
    }
    // A base that moves the mask out of all bits is wrong only if there is a bit in it.
    let shift = u32::try_from(base).unwrap_or(u32::MAX);
    let moved = mask.checked_shl(shift).unwrap_or(0);
    let lost = moved.checked_shr(shift).unwrap_or(0) != mask;
    (!lost && moved & !all == 0).then_some(Harts(moved))
}

fn answer_fence(function: usize, arguments: [u64; 5], count: usize) -> Answer {
    let [mask, base, start, size, asid] = arguments;
    let whole = (start == 0 && size == 0) || size == u64::MAX;
    let range = (!whole).then_some((start, size));
    let fence = match function {
        rfnc::REMOTE_FENCE_I => Fence::Instructions,
        rfnc::REMOTE_SFENCE_VMA => Fence::Addresses { range, asid: None },
        rfnc::REMOTE_SFENCE_VMA_ASID => match u16::try_from(asid) {
            Ok(asid) => Fence::Addresses { range, asid: Some(asid) },
            // RV64 has 16 bits at most.
            Err(_) => return error(RET_ERR_INVALID_PARAM),
        },
        // The hypervisor extension is hidden.
        _ => return error(RET_ERR_NOT_SUPPORTED),
    };
    match harts(mask, base, count) {
        Some(_) if range.is_some_and(|(start, size)| start.checked_add(size).is_none()) => {
            error(RET_ERR_INVALID_ADDRESS)
        }
        Some(harts) => Answer::Fence(harts, fence),
        None => error(RET_ERR_INVALID_PARAM),
    }
}

fn answer_hsm(function: usize, arguments: [u64; 5], caller: usize, cpus: &Cpus) -> Answer {
    let [a0, a1, a2, ..] = arguments;
    let hart = usize::try_from(a0).unwrap_or(usize::MAX);
    match function {
        hsm::HART_START => match cpus.start(hart, Entry { address: a1, argument: a2 }) {
            Ok(()) => value(0),
            Err(StartError::NoSuchCpu) => error(RET_ERR_INVALID_PARAM),
            Err(StartError::AlreadyOn | StartError::Pending) => error(RET_ERR_ALREADY_AVAILABLE),
            Err(StartError::BadAddress) => error(RET_ERR_INVALID_ADDRESS),
            Err(StartError::Failed) => error(RET_ERR_FAILED),
        },
        hsm::HART_STOP if cpus.stop(caller) => Answer::CpuOff,
        // Nobody could start the last CPU again.
        hsm::HART_STOP => error(RET_ERR_FAILED),
        hsm::HART_GET_STATUS => match cpus.power(hart) {
            Some(Power::On) => value(hsm::hart_state::STARTED as u64),
            Some(Power::Off) => value(hsm::hart_state::STOPPED as u64),
            Some(Power::Pending) => value(hsm::hart_state::START_PENDING as u64),
            None => error(RET_ERR_INVALID_PARAM),
        },
        hsm::HART_SUSPEND => match u32::try_from(a0) {
            Ok(hsm::suspend_type::RETENTIVE) => Answer::Wait,
            // The other default type, and those of the platform.
            Ok(0x1000_0000..=0x7fff_ffff | hsm::suspend_type::NON_RETENTIVE | 0x9000_0000..) => {
                error(RET_ERR_NOT_SUPPORTED)
            }
            _ => error(RET_ERR_INVALID_PARAM),
        },
        _ => error(RET_ERR_NOT_SUPPORTED),
    }
}

fn answer_reset(kind: u64, reason: u64) -> Answer {
    // Reasons 2 to 0xdfff_ffff are reserved.
    let known = reason <= u64::from(srst::RESET_REASON_SYSTEM_FAILURE)
        || (0xe000_0000..=u64::from(u32::MAX)).contains(&reason);
    match u32::try_from(kind) {
        _ if !known => error(RET_ERR_INVALID_PARAM),
        Ok(srst::RESET_TYPE_SHUTDOWN) => Answer::PowerOff,
        Ok(srst::RESET_TYPE_COLD_REBOOT | srst::RESET_TYPE_WARM_REBOOT) => Answer::Reset,
        Ok(0xf000_0000..) => error(RET_ERR_NOT_SUPPORTED),
        _ => error(RET_ERR_INVALID_PARAM),
    }
}

fn answer_console(function: usize, arguments: [u64; 5]) -> Answer {
    let [a0, a1, a2, ..] = arguments;
    match function {
        // a2 is the upper half of an address that is twice as wide as a register: no memory is there.
        dbcn::CONSOLE_WRITE if a2 != 0 && a0 != 0 => error(RET_ERR_INVALID_PARAM),
        dbcn::CONSOLE_WRITE => Answer::PrintBuffer(a1, a0.min(CONSOLE_MAX)),
        // Nobody types: no byte was read, wherever the buffer is.
        dbcn::CONSOLE_READ => value(0),
        dbcn::CONSOLE_WRITE_BYTE => Answer::Print { character: a0 as u8, legacy: false },
        _ => error(RET_ERR_NOT_SUPPORTED),
    }
}

/// The hypervisor's own calls.
fn answer_own(function: usize, address: u64, length: u64) -> Answer {
    // The half above is the range of SMCCC in which they are numbered.
    let number = match u32::try_from(function) {
        Ok(function @ 0..=0xffff) => u64::from(requests::MOVE & 0xffff_0000 | function),
        _ => return Answer::Return { error: requests::UNKNOWN, value: 0 },
    };
    if let Some(request) = requests::decode(number) {
        return Answer::Request(request, address);
    }
    match requests::decode_buffer(number) {
        Some(call) => Answer::Buffer(call, address, length),
        None => Answer::Return { error: requests::UNKNOWN, value: 0 },
    }
}

#[cfg(test)]
mod tests;
