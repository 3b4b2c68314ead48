//! Decoding of what brought the hart back to HS-mode: scause, and for a virtual instruction which one it was.
//!
//! Everything that a guest can provoke has a case here; what it cannot provoke is [`Cause::Unexpected`].
//! Reference: RISC-V privileged manual, "Machine and supervisor cause codes", "Trap Cause Codes" of the hypervisor
//! extension.

/// Exception codes of scause.
pub mod code {
    /// A fetch for which the bus has no answer.
    pub const FETCH_ACCESS: u64 = 1;
    /// An instruction that does not exist, or not here.
    pub const ILLEGAL_INSTRUCTION: u64 = 2;
    /// A load for which the bus has no answer.
    pub const LOAD_ACCESS: u64 = 5;
    /// A store for which the bus has no answer.
    pub const STORE_ACCESS: u64 = 7;
    /// ECALL from HS-mode.
    pub const HOST_ECALL: u64 = 9;
    /// ECALL from VS-mode.
    pub const GUEST_ECALL: u64 = 10;
    /// ECALL from M-mode.
    pub const MACHINE_ECALL: u64 = 11;
    /// A fetch that G-stage translation refused.
    pub const GUEST_FETCH: u64 = 20;
    /// A load that G-stage translation refused.
    pub const GUEST_LOAD: u64 = 21;
    /// An instruction that is there, but not for a guest in this mode.
    pub const VIRTUAL_INSTRUCTION: u64 = 22;
    /// A store that G-stage translation refused.
    pub const GUEST_STORE: u64 = 23;
    /// The highest one that is defined for the guest itself.
    pub(super) const LAST_OF_GUEST: u64 = 18;
}

/// Bit 63 of scause: an interrupt.
const INTERRUPT: u64 = 1 << 63;

/// WFI.
const WFI: u64 = 0x1050_0073;

/// Why the guest left.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cause {
    /// A guest-page fault: for the library to decode.
    GuestPageFault,
    /// A call to the firmware; the program counter is on it.
    Call,
    /// A virtual instruction; the program counter is on it.
    VirtualInstruction,
    /// An instruction that does not exist, or that uses floating-point registers which are not in the hart.
    IllegalInstruction,
    /// Another exception with this code that belongs to the guest, but was not delegated.
    ForGuest(u64),
    /// The host's timer.
    Timer,
    /// Another hart has sent an interrupt.
    Software,
    /// Nothing that a guest can bring about.
    Unexpected,
}

/// The cause of an exit.
#[must_use]
pub const fn decode(scause: u64) -> Cause {
    use code::{
        GUEST_ECALL, GUEST_FETCH, GUEST_LOAD, GUEST_STORE, HOST_ECALL, ILLEGAL_INSTRUCTION, LAST_OF_GUEST,
        MACHINE_ECALL, VIRTUAL_INSTRUCTION,
    };
    if scause & INTERRUPT != 0 {
        return match scause & !INTERRUPT {
            1 => Cause::Software,
            5 => Cause::Timer,
            _ => Cause::Unexpected,
        };
    }
    match scause {
        GUEST_FETCH | GUEST_LOAD | GUEST_STORE => Cause::GuestPageFault,
        GUEST_ECALL => Cause::Call,
        VIRTUAL_INSTRUCTION => Cause::VirtualInstruction,
        ILLEGAL_INSTRUCTION => Cause::IllegalInstruction,
        HOST_ECALL | MACHINE_ECALL => Cause::Unexpected,
        other if other <= LAST_OF_GUEST => Cause::ForGuest(other),
        _ => Cause::Unexpected,
    }
}

/// Whether the virtual instruction `instruction`, executed in VS-mode if `supervisor`, is a wait for an interrupt that the
/// hypervisor carries out. In VU-mode it is the guest's kernel that would have to allow it.
#[must_use]
pub const fn is_wait(instruction: u64, supervisor: bool) -> bool {
    supervisor && instruction == WFI
}

/// Length in bytes of the instruction whose first 16 bits are the lowest of `instruction` ("Base Instruction-Length
/// Encoding").
#[must_use]
pub const fn length(instruction: u64) -> u64 {
    if instruction & 0b11 == 0b11 { 4 } else { 2 }
}

#[cfg(test)]
mod tests;
