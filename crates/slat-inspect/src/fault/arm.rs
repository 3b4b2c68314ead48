//! Arm: Arm ARM, "ESR_EL2", "ISS encoding for an exception from a Data Abort" and "... an Instruction Abort", "HPFAR_EL2".

use super::noun;
use crate::access::{Access, AccessKind};
use crate::decode::{bit, field};
use crate::fields::{How, Spec, flag, spec};
use core::fmt;

fn class(esr: u64) -> u64 {
    field(esr, 31, 26)
}

fn is_data(esr: u64) -> bool {
    matches!(class(esr), 0x24 | 0x25)
}

fn is_abort(esr: u64) -> bool {
    is_data(esr) || matches!(class(esr), 0x20 | 0x21)
}

fn is_permission(esr: u64) -> bool {
    field(esr, 5, 2) == 3
}

pub(super) fn is_of_walk(esr: u64) -> bool {
    is_abort(esr) && bit(esr, 7)
}

/// HPFAR_EL2 has the page, FAR_EL2 the rest; of a stage 1 walk the rest is not known. HPFAR_EL2 is UNKNOWN for a permission fault
/// that is not of a walk.
pub(super) fn address(esr: u64, far: Option<u64>, hpfar: Option<u64>) -> Option<u64> {
    if !is_abort(esr) || (is_permission(esr) && !is_of_walk(esr)) {
        return None;
    }
    let page = field(hpfar?, 43, 4) << 12;
    let known = !is_of_walk(esr) && !bit(esr, 10);
    Some(page | if known { far.unwrap_or(0) & 0xfff } else { 0 })
}

pub(super) fn access(esr: u64) -> Option<Access> {
    if !is_abort(esr) {
        return None;
    }
    let kind = match (is_data(esr), bit(esr, 6)) {
        (false, _) => AccessKind::Execute,
        (true, false) => AccessKind::Read,
        (true, true) => AccessKind::Write,
    };
    // From which exception level is not in the syndrome, but in SPSR_EL2.
    Some(Access { kind, user: false })
}

fn status(code: u64) -> (&'static str, Option<i8>) {
    let level = (code & 3) as i8;
    match code {
        0x00..=0x03 => ("address size fault", Some(level)),
        0x04..=0x07 => ("translation fault", Some(level)),
        0x08..=0x0b => ("access flag fault", Some(level)),
        0x0c..=0x0f => ("permission fault", Some(level)),
        0x10 => ("synchronous external abort", None),
        0x11 => ("synchronous tag check fault", None),
        0x13 => ("synchronous external abort on a table walk", Some(-1)),
        0x14..=0x17 => ("synchronous external abort on a table walk", Some(level)),
        0x18 => ("synchronous parity or ECC error", None),
        0x1c..=0x1f => ("synchronous parity or ECC error on a table walk", Some(level)),
        0x21 => ("alignment fault", None),
        0x23 => ("granule protection fault on a table walk", Some(-1)),
        0x24..=0x27 => ("granule protection fault on a table walk", Some(level)),
        0x28 => ("granule protection fault", None),
        0x29 => ("address size fault", Some(-1)),
        0x2b => ("translation fault", Some(-1)),
        0x30 => ("TLB conflict", None),
        0x31 => ("unsupported atomic hardware update", None),
        0x34 => ("lockdown fault", None),
        0x35 => ("unsupported exclusive or atomic access", None),
        _ => ("fault of a reserved status code", None),
    }
}

pub(super) fn abort(
    f: &mut fmt::Formatter<'_>,
    esr: u64,
    far: Option<u64>,
    hpfar: Option<u64>,
) -> fmt::Result {
    if !is_abort(esr) {
        return write!(f, "exception class {:#x} is no abort: ESR_EL2 {esr:#x}", class(esr));
    }
    let (name, level) = status(field(esr, 5, 0));
    let from = if class(esr) & 1 == 0 { "from a lower exception level" } else { "from EL2 itself" };
    let kind = if is_data(esr) { "data abort" } else { "instruction abort" };
    write!(f, "{kind} {from}: {name}")?;
    if let Some(level) = level {
        write!(f, " at lookup level {level}")?;
    }
    let access = access(esr).map_or("an access to", |access| noun(access.kind));
    write!(f, ", {access}")?;
    match address(esr, far, hpfar) {
        Some(ipa) if is_of_walk(esr) => write!(f, " the page of IPA {ipa:#x}")?,
        Some(ipa) => write!(f, " IPA {ipa:#x}")?,
        None if is_permission(esr) => {
            f.write_str(" an IPA that HPFAR_EL2 does not hold (translate FAR_EL2)")?
        }
        None => f.write_str(" an IPA that is not known")?,
    }
    match far {
        _ if bit(esr, 10) => f.write_str(" (FAR_EL2 is not valid)")?,
        Some(far) => write!(f, " (virtual address {far:#x})")?,
        None => {}
    }
    if is_of_walk(esr) {
        f.write_str(" by the guest's stage 1 table walk")?;
    }
    if is_data(esr) && bit(esr, 8) {
        f.write_str("; a cache maintenance or address translation instruction")?;
    }
    if bit(esr, 9) { f.write_str("; reported as external") } else { Ok(()) }
}

/// What else an emulator needs of a data abort, or the fields of another syndrome.
pub(super) fn fields_of(esr: u64) -> &'static [Spec] {
    if is_data(esr) {
        DATA_ABORT
    } else if is_abort(esr) {
        INSTRUCTION_ABORT
    } else {
        OTHER
    }
}

const DATA_ABORT: &[Spec] = &[
    spec("DFSC", 5, 0, How::Number),
    flag("WnR", 6, "a read", "a write"),
    flag("S1PTW", 7, "", "a stage 1 table walk"),
    flag("CM", 8, "", "cache maintenance or address translation"),
    flag("EA", 9, "", "external abort type"),
    flag("FnV", 10, "FAR_EL2 is valid", "FAR_EL2 is not valid"),
    spec("SET", 12, 11, How::Number),
    flag("AR", 14, "", "acquire or release"),
    flag("SF", 15, "32-bit register", "64-bit register"),
    spec("SRT", 20, 16, How::Number),
    flag("SSE", 21, "", "sign-extended"),
    spec("SAS", 23, 22, How::Names(&["byte", "halfword", "word", "doubleword"])),
    flag("ISV", 24, "the instruction is not described", "SAS, SSE, SRT, SF and AR are valid"),
    flag("IL", 25, "16-bit instruction", "32-bit instruction"),
    spec("EC", 31, 26, How::Flag("", "data abort")),
];
const INSTRUCTION_ABORT: &[Spec] = &[
    spec("IFSC", 5, 0, How::Number),
    flag("S1PTW", 7, "", "a stage 1 table walk"),
    flag("EA", 9, "", "external abort type"),
    flag("FnV", 10, "FAR_EL2 is valid", "FAR_EL2 is not valid"),
    spec("SET", 12, 11, How::Number),
    flag("IL", 25, "16-bit instruction", "32-bit instruction"),
    spec("EC", 31, 26, How::Flag("", "instruction abort")),
];
const OTHER: &[Spec] =
    &[spec("ISS", 24, 0, How::Number), flag("IL", 25, "", ""), spec("EC", 31, 26, How::Number)];
