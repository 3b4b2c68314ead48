//! Decoding of what brought the CPU to EL2: which vector, and ESR_EL2.
//!
//! Everything that a guest can provoke has a case here; what it cannot provoke is [`Cause::Unexpected`].

/// Exception classes of ESR_EL2, bits 31:26.
mod class {
    pub(super) const WAIT: u64 = 0x01;
    pub(super) const HVC64: u64 = 0x16;
    pub(super) const SMC64: u64 = 0x17;
    pub(super) const INSTRUCTION_ABORT: u64 = 0x20;
    pub(super) const DATA_ABORT: u64 = 0x24;
}

/// The kind of an exception, by its vector.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Vector {
    /// Synchronous: ESR_EL2 says why.
    Synchronous,
    /// An interrupt. Interrupts belong to the guest, so none is expected here.
    Interrupt,
    /// A fast interrupt; likewise.
    FastInterrupt,
    /// A system error.
    SystemError,
}

impl Vector {
    /// The vector that the entry code passes as a number, 0 to 3, for both widths of the guest's registers.
    #[must_use]
    pub const fn from_index(index: u64) -> Self {
        match index & 3 {
            0 => Self::Synchronous,
            1 => Self::Interrupt,
            2 => Self::FastInterrupt,
            _ => Self::SystemError,
        }
    }
}

/// Why the guest left.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cause {
    /// A data or instruction abort: for the library to decode.
    Abort,
    /// HVC from AArch64, with its immediate; the program counter is already behind it.
    Hvc(u16),
    /// SMC from AArch64, with its immediate; the program counter is still on it.
    Smc(u16),
    /// WFI or WFE, trapped; the program counter is on it.
    Wait,
    /// An instruction or register access that is trapped because the guest must not have it.
    Trapped,
    /// SError.
    SystemError,
    /// Nothing that a guest can bring about.
    Unexpected,
}

/// Exception class, bits 31:26 of an ESR.
#[must_use]
pub const fn exception_class(esr: u64) -> u64 {
    esr >> 26 & 0x3f
}

/// The cause of an exit.
#[must_use]
pub fn decode(vector: Vector, esr: u64) -> Cause {
    match vector {
        Vector::Synchronous => {}
        Vector::SystemError => return Cause::SystemError,
        Vector::Interrupt | Vector::FastInterrupt => return Cause::Unexpected,
    }
    let immediate = esr as u16;
    match exception_class(esr) {
        class::INSTRUCTION_ABORT | class::DATA_ABORT => Cause::Abort,
        class::HVC64 => Cause::Hvc(immediate),
        class::SMC64 => Cause::Smc(immediate),
        class::WAIT => Cause::Wait,
        // Every other class is the trap of some extension that this hypervisor keeps from the guest (or does not
        // know yet): to the guest, the instruction does not exist.
        _ => Cause::Trapped,
    }
}

#[cfg(test)]
mod tests;
