//! AArch64 at EL2.
//!
//! All functions expect to run at EL2 with the EL2 stage 1 on and its memory cacheable.

#![expect(unsafe_code, reason = "executes system instructions")]

use crate::format::stage2::{self, IdRegisters, Instruction};
use crate::hal::CacheActions;
use crate::tlb::Invalidation;
use core::arch::asm;

macro_rules! read_register {
    ($name:literal) => {{
        let value: u64;
        // SAFETY: reading this register has no effect on memory or on the flags.
        unsafe { asm!(concat!("mrs {}, ", $name), out(reg) value, options(nomem, nostack, preserves_flags)) };
        value
    }};
}

/// The ID registers of this CPU that matter to stage 2.
#[must_use]
pub fn id_registers() -> IdRegisters {
    IdRegisters {
        mmfr0: read_register!("id_aa64mmfr0_el1"),
        mmfr1: read_register!("id_aa64mmfr1_el1"),
        mmfr2: read_register!("S3_0_C0_C7_2"),
        isar0: read_register!("id_aa64isar0_el1"),
        ctr: read_register!("ctr_el0"),
    }
}

const HCR_TGE: u64 = 1 << 27;

/// Executes `instructions` under the VMID of `root`, a value of VTTBR_EL2.
///
/// TLB maintenance by IPA and by VMID works on the VMID that VTTBR_EL2 holds, and on EL1&0 only while HCR_EL2.TGE is
/// 0 (Arm ARM, D8.17): both are changed for the time of the call if they are not so already, with the ISBs that
/// the change needs. Interrupts at EL2 must not run a guest meanwhile.
pub fn run(root: u64, instructions: impl Iterator<Item = Instruction>) {
    let (vttbr, hcr) = (read_register!("vttbr_el2"), read_register!("hcr_el2"));
    let switch = vttbr != root || hcr & HCR_TGE != 0;
    if switch {
        // SAFETY: EL2 does not use EL1&0 translation itself, and the values are put back below.
        unsafe {
            asm!("msr vttbr_el2, {}", "msr hcr_el2, {}", "isb", in(reg) root, in(reg) hcr & !HCR_TGE,
                options(nostack, preserves_flags));
        }
    }
    instructions.for_each(execute);
    if switch {
        // SAFETY: puts back what was there.
        unsafe {
            asm!("msr vttbr_el2, {}", "msr hcr_el2, {}", "isb", in(reg) vttbr, in(reg) hcr,
                options(nostack, preserves_flags));
        }
    }
}

macro_rules! instruction {
    ($text:literal) => {
        // SAFETY: a barrier or TLB maintenance; it changes no memory, and forgetting a translation is always allowed.
        unsafe { asm!($text, options(nostack, preserves_flags)) }
    };
    ($text:literal, $operand:expr) => {
        // SAFETY: TLB maintenance; it changes no memory, and forgetting a translation is always allowed.
        unsafe { asm!($text, in(reg) $operand, options(nostack, preserves_flags)) }
    };
}

/// Executes one instruction of a maintenance sequence.
pub fn execute(instruction: Instruction) {
    match instruction {
        Instruction::DsbIshst => instruction!("dsb ishst"),
        Instruction::DsbIsh => instruction!("dsb ish"),
        Instruction::DsbNshst => instruction!("dsb nshst"),
        Instruction::DsbNsh => instruction!("dsb nsh"),
        Instruction::Isb => instruction!("isb"),
        Instruction::Ipas2e1is(operand) => instruction!("tlbi ipas2e1is, {}", operand),
        Instruction::Ipas2e1(operand) => instruction!("tlbi ipas2e1, {}", operand),
        // By number: the assembler knows the names of the range forms only with FEAT_TLBIRANGE switched on.
        Instruction::Ripas2e1is(operand) => instruction!("sys #4, c8, c0, #2, {}", operand),
        Instruction::Ripas2e1(operand) => instruction!("sys #4, c8, c4, #2, {}", operand),
        Instruction::Vmalle1is => instruction!("tlbi vmalle1is"),
        Instruction::Vmalle1 => instruction!("tlbi vmalle1"),
        Instruction::Vmalls12e1is => instruction!("tlbi vmalls12e1is"),
        Instruction::Vmalls12e1 => instruction!("tlbi vmalls12e1"),
        Instruction::Alle1is => instruction!("tlbi alle1is"),
        Instruction::Alle1 => instruction!("tlbi alle1"),
    }
}

pub(crate) fn invalidate(invalidation: &Invalidation<'_>) {
    run(invalidation.root, stage2::instructions(invalidation));
}

/// Completes the stores to the table before the guest is entered. (Arm ARM, D8.16: a new valid entry needs no TLB
/// maintenance, but a DSB, and an ISB for fetches.)
pub(crate) fn publish() {
    execute(Instruction::DsbIshst);
    execute(Instruction::Isb);
}

/// Cache maintenance of `bytes` bytes from `start` on, for all CPUs of the inner shareable domain.
///
/// Maintenance by address reaches all caches to the point named; line sizes are CTR_EL0.DminLine and IminLine. A
/// virtually indexed instruction cache (CTR_EL0.L1Ip) is invalidated as a whole, because lines may lie under another
/// address (Arm ARM, D7.5 "Cache support").
pub fn maintain_cache(start: *mut u8, bytes: usize, actions: CacheActions) {
    /// More than this, and invalidating the whole instruction cache is cheaper.
    const BY_LINE_LIMIT: usize = 64 * 1024;
    let ctr = read_register!("ctr_el0");
    let data_line = 4usize << (ctr >> 16 & 0xf);
    let instruction_line = 4usize << (ctr & 0xf);
    let physically_indexed = ctr >> 14 & 3 == 3;
    let lines = |line: usize| {
        let first = start as usize & !(line - 1);
        (first..start as usize + bytes).step_by(line)
    };
    if actions.contains(CacheActions::CLEAN_INVALIDATE_TO_POC) {
        lines(data_line).for_each(|line| instruction!("dc civac, {}", line));
    } else if actions.contains(CacheActions::CLEAN_TO_POU) {
        lines(data_line).for_each(|line| instruction!("dc cvau, {}", line));
    }
    instruction!("dsb sy");
    if actions.contains(CacheActions::INVALIDATE_INSTRUCTIONS) {
        if physically_indexed && bytes <= BY_LINE_LIMIT {
            lines(instruction_line).for_each(|line| instruction!("ic ivau, {}", line));
        } else {
            instruction!("ic ialluis");
        }
        instruction!("dsb ish");
        instruction!("isb");
    }
}

/// Zeroes `bytes` bytes from `start` on, by DC ZVA where the CPU allows it.
///
/// # Safety
/// The memory is valid for writes, nobody else uses it, and it is mapped as Normal memory.
pub unsafe fn zero(start: *mut u8, bytes: usize) {
    let dczid = read_register!("dczid_el0");
    let block = 4usize << (dczid & 0xf);
    let prohibited = dczid & 1 << 4 != 0;
    if prohibited || start as usize % block != 0 || bytes % block != 0 {
        // SAFETY: the caller's promise.
        unsafe { core::ptr::write_bytes(start, 0, bytes) };
        return;
    }
    for offset in (0..bytes).step_by(block) {
        // SAFETY: the block lies inside the memory that the caller gave us, and is aligned to its size.
        unsafe { asm!("dc zva, {}", in(reg) start.wrapping_add(offset), options(nostack, preserves_flags)) };
    }
}
