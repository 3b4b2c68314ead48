//! A vCPU's registers for people.

use super::privilege;
use crate::monitor::write_table;
use core::fmt;
use slat_x86::{CpuState, General, SegmentName};

/// Writes `state`, whose vCPU has this root register.
pub(super) fn write(state: &CpuState, root: u64, out: &mut dyn fmt::Write) -> fmt::Result {
    let CpuState { rip, rflags, cr0, cr2, cr3, cr4, efer, .. } = *state;
    let own = [("rip", rip), ("rflags", rflags)];
    let general = General::ALL.map(|register| (name(register), state.general.get(register)));
    let control = [("cr0", cr0), ("cr2", cr2), ("cr3", cr3), ("cr4", cr4), ("efer", efer), ("root", root)];
    write_table(out, own.into_iter().chain(general).chain(control))?;
    for (name, segment) in [("cs", SegmentName::Cs), ("ss", SegmentName::Ss), ("ds", SegmentName::Ds)] {
        let segment = state.segment(segment);
        writeln!(
            out,
            "{name} {:#06x}, base {:#x}, limit {:#x}",
            segment.selector, segment.base, segment.limit
        )?;
    }
    writeln!(out, "privilege level {}", privilege(state))
}

const fn name(register: General) -> &'static str {
    match register {
        General::Rax => "rax",
        General::Rcx => "rcx",
        General::Rdx => "rdx",
        General::Rbx => "rbx",
        General::Rsp => "rsp",
        General::Rbp => "rbp",
        General::Rsi => "rsi",
        General::Rdi => "rdi",
        General::R8 => "r8",
        General::R9 => "r9",
        General::R10 => "r10",
        General::R11 => "r11",
        General::R12 => "r12",
        General::R13 => "r13",
        General::R14 => "r14",
        General::R15 => "r15",
    }
}
