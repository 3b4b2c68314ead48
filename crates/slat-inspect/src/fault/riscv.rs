//! RISC-V: Privileged ISA, "Supervisor Cause Register", "Hypervisor Trap Value Register", "Transformed Instruction or
//! Pseudoinstruction for mtinst or htinst".

use super::noun;
use crate::access::{Access, AccessKind};
use crate::decode::bit;
use crate::fields::{How, Spec, flag, spec};
use core::fmt;

fn is_guest_page_fault(scause: u64) -> bool {
    matches!(scause, 20 | 21 | 23)
}

/// Reads and writes of 64-bit and 32-bit implicit accesses.
pub(super) fn is_pseudo(htinst: u64) -> bool {
    matches!(htinst, 0x2000 | 0x2020 | 0x3000 | 0x3020)
}

/// htval is the guest physical address shifted right by 2, or 0; the low bits are stval's, and of an implicit access 0.
pub(super) fn address(scause: u64, stval: u64, htval: u64, htinst: u64) -> Option<u64> {
    match scause {
        20 | 21 | 23 if htval == 0 => None,
        20 | 21 | 23 => Some(htval << 2 | if is_pseudo(htinst) { 0 } else { stval & 3 }),
        1 | 5 | 7 | 12 | 13 | 15 => Some(stval),
        _ => None,
    }
}

fn original(scause: u64) -> Option<AccessKind> {
    match scause {
        1 | 12 | 20 => Some(AccessKind::Execute),
        5 | 13 | 21 => Some(AccessKind::Read),
        7 | 15 | 23 => Some(AccessKind::Write),
        _ => None,
    }
}

/// What the walk does, where it is one; a G-stage checks all as user accesses.
pub(super) fn access(scause: u64, htinst: u64) -> Option<Access> {
    let kind = match htinst {
        0x2000 | 0x3000 => AccessKind::Read,
        0x2020 | 0x3020 => AccessKind::Write,
        _ => original(scause)?,
    };
    Some(Access { kind, user: is_guest_page_fault(scause) })
}

pub(super) fn trap(f: &mut fmt::Formatter<'_>, registers: [u64; 4]) -> fmt::Result {
    let [scause, stval, htval, htinst] = registers;
    if bit(scause, 63) {
        return write!(f, "interrupt {}", scause & !(1 << 63));
    }
    let name = match scause {
        1 => "instruction access fault",
        5 => "load access fault",
        7 => "store or AMO access fault",
        12 => "instruction page fault",
        13 => "load page fault",
        15 => "store or AMO page fault",
        20 => "instruction guest-page fault",
        21 => "load guest-page fault",
        22 => "virtual instruction",
        23 => "store or AMO guest-page fault",
        _ => return write!(f, "exception {scause} is no fault of a translation: stval {stval:#x}"),
    };
    f.write_str(name)?;
    let Some(kind) = original(scause) else {
        return write!(f, ": instruction {stval:#x} is not for VS- or VU-mode");
    };
    if !is_guest_page_fault(scause) {
        return write!(f, ": {} {stval:#x}", noun(kind));
    }
    f.write_str(": ")?;
    match address(scause, stval, htval, htinst) {
        Some(gpa) if is_pseudo(htinst) => {
            let word = if htinst & 0x20 == 0 { "a read of" } else { "a write of the A or D flag of" };
            let stage = "the guest's own page walk";
            write!(f, "{word} an entry at GPA {gpa:#x} by {stage} for {} {stval:#x}", noun(kind))
        }
        Some(gpa) => write!(f, "{} GPA {gpa:#x} (virtual address {stval:#x})", noun(kind)),
        None => write!(f, "{} virtual address {stval:#x}; htval is 0: the GPA is not reported", noun(kind)),
    }?;
    if htinst != 0 && !is_pseudo(htinst) {
        write!(f, "; transformed instruction {htinst:#x}")?;
    }
    Ok(())
}

pub(super) const SCAUSE: &[Spec] =
    &[spec("exception code", 62, 0, How::Number), flag("interrupt", 63, "an exception", "an interrupt")];
