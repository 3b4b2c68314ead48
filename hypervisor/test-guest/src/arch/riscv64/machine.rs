//! Accesses that may trap, each by a single instruction of 4 bytes.

use super::boot::RECORD;
use core::arch::asm;

/// A trap of the guest's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Trap {
    /// scause.
    pub(super) scause: u64,
    /// stval.
    pub(super) stval: u64,
}

// Causes.
pub(super) const FETCH_ACCESS: u64 = 1;
pub(super) const ILLEGAL_INSTRUCTION: u64 = 2;
pub(super) const LOAD_ACCESS: u64 = 5;
pub(super) const STORE_ACCESS: u64 = 7;

/// How many traps there were.
pub(super) fn traps() -> u64 {
    // SAFETY: a word that only the trap vector writes.
    unsafe { RECORD.count.get().read_volatile() }
}

/// The trap that `work` leads to, if it leads to one; the last of several.
pub(super) fn trap_of(work: impl FnOnce()) -> Option<Trap> {
    let before = traps();
    work();
    (traps() != before).then(last)
}

fn last() -> Trap {
    // SAFETY: words that only the trap vector writes.
    let scause = unsafe { RECORD.scause.get().read_volatile() };
    // SAFETY: as above.
    let stval = unsafe { RECORD.stval.get().read_volatile() };
    Trap { scause, stval }
}

/// Loads 8 bytes; 0 if that traps.
pub(super) fn load(address: u64) -> u64 {
    let mut value = 0;
    // SAFETY: reads what may be no memory: then the vector goes on behind the instruction. Whatever is read changes nothing.
    unsafe {
        asm!(".option push", ".option norvc", "ld {0}, ({1})", ".option pop", inout(reg) value, in(reg) address,
             options(nostack));
    }
    value
}

/// Stores 8 bytes at an address that is no memory of this program's, or of no further use to it.
pub(super) fn store(address: u64, value: u64) {
    // SAFETY: the caller says so; where there is no memory the vector goes on behind the instruction.
    unsafe {
        asm!(".option push", ".option norvc", "sd {0}, ({1})", ".option pop", in(reg) value, in(reg) address,
             options(nostack));
    }
}

/// The trap of a jump to `address`, which must lead to one.
pub(super) fn trap_of_fetch(address: u64) -> Option<Trap> {
    trap_of(|| {
        // SAFETY: the trap leads to label 2. Nothing but two registers is changed.
        unsafe {
            asm!("la {label}, 2f", "sd {label}, ({resume})", "jalr {label}, {address}", ".balign 4", "2:",
                 "sd zero, ({resume})", label = out(reg) _, resume = in(reg) RECORD.resume.get(),
                 address = in(reg) address, options(nostack));
        }
    })
}
