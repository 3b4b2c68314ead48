//! Entry into a trap at VS-mode, as the hart does it: how the hypervisor delivers one to its guest.
//!
//! Reference: RISC-V privileged manual, "Trap Entry" of the hypervisor extension.

use super::exit::code;
use super::registers::sstatus::{SIE, SPIE, SPP};

/// The guest's state on which the entry depends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Before {
    /// Program counter.
    pub pc: u64,
    /// sstatus as the exit left it: SPP is the mode that the guest was in.
    pub sstatus: u64,
    /// vsstatus.
    pub vsstatus: u64,
    /// vstvec.
    pub vstvec: u64,
}

/// What delivering the exception changes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Program counter: the guest's vector.
    pub pc: u64,
    /// sstatus: the guest goes on in VS-mode.
    pub sstatus: u64,
    /// vsstatus.
    pub vsstatus: u64,
    /// vsepc.
    pub vsepc: u64,
    /// vscause.
    pub vscause: u64,
    /// vstval.
    pub vstval: u64,
}

/// An exception for the guest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Exception {
    /// Its code in vscause.
    pub code: u64,
    /// What vstval tells about it.
    pub value: u64,
}

impl Exception {
    /// `instruction` does not exist.
    #[must_use]
    pub const fn illegal_instruction(instruction: u64) -> Self {
        Self { code: code::ILLEGAL_INSTRUCTION, value: instruction }
    }

    /// The access fault that answers the guest-page fault with this scause and stval.
    #[must_use]
    pub const fn access_fault(scause: u64, stval: u64) -> Self {
        let code = match scause {
            code::GUEST_FETCH => code::FETCH_ACCESS,
            code::GUEST_LOAD => code::LOAD_ACCESS,
            _ => code::STORE_ACCESS,
        };
        Self { code, value: stval }
    }
}

/// What the hart would do if it took `exception` to VS-mode.
#[must_use]
pub const fn enter(before: Before, exception: Exception) -> Entry {
    let Before { pc, sstatus, vsstatus, vstvec } = before;
    let enabled = if vsstatus & SIE != 0 { SPIE } else { 0 };
    Entry {
        // Exceptions go to the base in either mode of vstvec.
        pc: vstvec & !0b11,
        sstatus: sstatus | SPP,
        vsstatus: vsstatus & !(SIE | SPIE | SPP) | enabled | sstatus & SPP,
        vsepc: pc,
        vscause: exception.code,
        vstval: exception.value,
    }
}

#[cfg(test)]
mod tests;
