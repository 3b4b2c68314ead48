//! Intel: SDM volume 3C, "Exit Qualification for EPT Violations"; volume 3A, "Page-Fault Exceptions". AMD: APM volume 2, "Nested
//! versus Guest Page Faults, Fault Ordering".

use super::{List, noun};
use crate::access::{Access, AccessKind};
use crate::decode::bit;
use crate::fields::{How, Spec, flag, spec};
use core::fmt;

pub(super) fn violation_access(qualification: u64) -> Option<Access> {
    let kind = match (bit(qualification, 1), bit(qualification, 2), bit(qualification, 0)) {
        (true, _, _) => AccessKind::Write,
        (_, true, _) => AccessKind::Execute,
        (_, _, true) => AccessKind::Read,
        _ => return None,
    };
    // Bit 9 says whose page it is, where the CPU has advanced information; else it is 0.
    Some(Access { kind, user: qualification & 0x380 == 0x380 })
}

pub(super) fn violation(
    f: &mut fmt::Formatter<'_>,
    qualification: u64,
    gpa: u64,
    linear: Option<u64>,
) -> fmt::Result {
    let has = |n| bit(qualification, n);
    f.write_str("EPT violation: ")?;
    match violation_access(qualification) {
        Some(_) if has(0) && has(1) => f.write_str("a read and write of")?,
        Some(access) => f.write_str(noun(access.kind))?,
        None => f.write_str("an access (of which kind is not reported) to")?,
    }
    write!(f, " GPA {gpa:#x}")?;
    match (has(7), has(8), linear) {
        (true, true, Some(linear)) => write!(f, " (linear address {linear:#x})")?,
        (true, false, Some(linear)) => {
            write!(f, " by the guest's page walk for linear address {linear:#x}")?;
        }
        (true, false, None) => f.write_str(" by the guest's page walk")?,
        (false, ..) => f.write_str(" (no linear address: a PDPTE load, or an access of the CPU's own)")?,
        _ => {}
    }
    let allowed = [(has(3), "reads"), (has(4), "writes"), (has(5), "fetches"), (has(6), "user-mode fetches")];
    if allowed.iter().any(|(shown, _)| *shown) {
        write!(f, "; the entries allow {} only", List(&allowed))?;
    } else {
        f.write_str("; an entry on the way is not present or allows nothing")?;
    }
    let more = [
        (has(13), "a shadow-stack access"),
        (has(15), "refused by guest-paging verification"),
        (has(16), "asynchronous to the instruction"),
    ];
    if more.iter().any(|(shown, _)| *shown) {
        write!(f, "; {}", List(&more))?;
    }
    if has(12) {
        f.write_str("; an IRET had unblocked NMIs")?;
    }
    Ok(())
}

pub(super) fn error_code_access(code: u64) -> Access {
    let kind = match (bit(code, 1), bit(code, 4)) {
        (true, _) => AccessKind::Write,
        (_, true) => AccessKind::Execute,
        _ => AccessKind::Read,
    };
    Access { kind, user: bit(code, 2) }
}

fn why(f: &mut fmt::Formatter<'_>, code: u64) -> fmt::Result {
    let has = |n| bit(code, n);
    f.write_str(match (has(0), has(3)) {
        (_, true) => "; an entry on the way has a reserved bit set",
        (false, _) => "; an entry on the way is not present",
        (true, _) if has(31) => "; the reverse map table (SEV-SNP) refuses it",
        (true, _) if has(5) => "; a protection key refuses it",
        (true, _) => "; all entries are present, but do not allow it",
    })?;
    if has(6) { f.write_str("; a shadow-stack access") } else { Ok(()) }
}

pub(super) fn nested(f: &mut fmt::Formatter<'_>, info1: u64, info2: u64) -> fmt::Result {
    let access = error_code_access(info1);
    write!(f, "nested page fault: {} GPA {info2:#x}", noun(access.kind))?;
    f.write_str(match (bit(info1, 32), bit(info1, 33)) {
        (true, false) => ", the final address",
        (false, true) => " by the guest's page walk (which counts as a user write)",
        _ => " (whether by a page walk is not reported)",
    })?;
    why(f, info1)
}

pub(super) fn page_fault(f: &mut fmt::Formatter<'_>, code: u64, cr2: u64) -> fmt::Result {
    let access = error_code_access(code);
    let who = if access.user { "user mode" } else { "the supervisor" };
    write!(f, "page fault: {} {cr2:#x} by {who}", noun(access.kind))?;
    why(f, code)?;
    if bit(code, 15) { f.write_str("; refused by SGX") } else { Ok(()) }
}

pub(super) const QUALIFICATION: &[Spec] = &[
    flag("read", 0, "", "the access was a read"),
    flag("write", 1, "", "the access was a write"),
    flag("fetch", 2, "", "the access was an instruction fetch"),
    flag("readable", 3, "the entries do not allow reads", "the entries allow reads"),
    flag("writable", 4, "the entries do not allow writes", "the entries allow writes"),
    flag("executable", 5, "the entries do not allow fetches", "the entries allow fetches"),
    flag("user-executable", 6, "", "the entries allow user-mode fetches"),
    flag("linear address valid", 7, "no linear address", "the linear address is valid"),
    flag("final access", 8, "the guest's page walk (if bit 7 is set)", "the final access"),
    flag("user page", 9, "", "the linear address is one of user mode"),
    flag("writable page", 10, "", "the guest's tables allow writes"),
    flag("execute-disable page", 11, "", "the guest's tables forbid fetches"),
    flag("NMI unblocking due to IRET", 12, "", "an IRET had unblocked NMIs"),
    flag("shadow stack", 13, "", "a shadow-stack access"),
    flag("supervisor shadow stack", 14, "", "bit 60 of the EPT leaf is set"),
    flag("guest-paging verification", 15, "", "refused by guest-paging verification"),
    flag("asynchronous", 16, "", "asynchronous to the instruction"),
    spec("undefined", 63, 17, How::Number),
];

pub(super) const EXITINFO1: &[Spec] = &[
    flag("P", 0, "not present", "present"),
    flag("RW", 1, "not a write", "a write"),
    flag("US", 2, "supervisor", "user (all nested accesses are)"),
    flag("RSV", 3, "", "a reserved bit is set"),
    flag("ID", 4, "", "an instruction fetch"),
    flag("PK", 5, "", "a protection key"),
    flag("SS", 6, "", "a shadow-stack access"),
    flag("RMP", 31, "", "the reverse map table (SEV-SNP) refuses it"),
    flag("final", 32, "", "the final guest physical address"),
    flag("walk", 33, "", "the guest's page walk"),
    flag("ENC", 34, "", "the guest's C-bit was set"),
    flag("SIZEM", 35, "", "PVALIDATE or RMPADJUST of another size"),
    flag("VMPL", 36, "", "a VMPL check failed"),
    flag("SSS", 37, "", "supervisor shadow-stack check"),
];

pub(super) const ERROR_CODE: &[Spec] = &[
    flag("P", 0, "not present", "present"),
    flag("W/R", 1, "not a write", "a write"),
    flag("U/S", 2, "supervisor", "user"),
    flag("RSVD", 3, "", "a reserved bit is set"),
    flag("I/D", 4, "", "an instruction fetch"),
    flag("PK", 5, "", "a protection key"),
    flag("SS", 6, "", "a shadow-stack access"),
    flag("HLAT", 7, "", "during HLAT paging"),
    flag("SGX", 15, "", "refused by SGX"),
    flag("RMP", 31, "", "the reverse map table (SEV-SNP) refuses it"),
];
