//! The world switch: general registers only. System registers of EL1 stay the guest's while it is bound, and the
//! hypervisor is built without floating point, so those registers stay the guest's too.

#![expect(unsafe_code, reason = "calls the world switch, which is assembly, and sends events")]

use core::arch::{asm, global_asm};
use core::mem::offset_of;

/// The guest's general registers, where the assembly finds them.
#[repr(C)]
#[derive(Clone, Debug, Default)]
pub(super) struct Registers {
    /// x0 to x30.
    pub(super) x: [u64; 31],
    /// ELR_EL2: the guest's program counter.
    pub(super) pc: u64,
    /// SPSR_EL2: the guest's PSTATE.
    pub(super) pstate: u64,
}

// `ldp`/`stp` move pairs: pc and pstate have to follow x30 as the assembly has it.
const _: () = assert!(offset_of!(Registers, pc) == 31 * 8 && offset_of!(Registers, pstate) == 32 * 8);

unsafe extern "C" {
    /// Runs the guest with `registers` until its next exit, and returns the number of the vector.
    fn slat_hv_enter_guest(registers: *mut Registers) -> u64;
}

/// Runs the guest until its next exit; returns the number of the vector, 0 to 7.
pub(super) fn enter(registers: &mut Registers) -> u64 {
    // SAFETY: the register file is exclusively borrowed for the call. The assembly keeps what the AAPCS wants kept.
    // The guest runs behind stage 2, which maps nothing of the hypervisor: it cannot touch this program's memory.
    unsafe { slat_hv_enter_guest(registers) }
}

/// Ends the sleep of every CPU that has executed WFE, in the guest too: that is not trapped.
pub(super) fn wake_all() {
    // SAFETY: sends an event, which changes no memory; every WFE has to reckon with one.
    unsafe { asm!("sev", options(nomem, nostack, preserves_flags)) };
}

global_asm!(
    r#"
    .pushsection .text.switch, "ax"
    .global slat_hv_enter_guest
slat_hv_enter_guest:
    stp     x29, x30, [sp, #-16]!
    stp     x27, x28, [sp, #-16]!
    stp     x25, x26, [sp, #-16]!
    stp     x23, x24, [sp, #-16]!
    stp     x21, x22, [sp, #-16]!
    stp     x19, x20, [sp, #-16]!
    // The top of the stack stays the register file's address while the guest runs.
    str     x0, [sp, #-16]!
    ldp     x1, x2, [x0, #{pc}]
    msr     elr_el2, x1
    msr     spsr_el2, x2
    ldp     x2, x3, [x0, #16]
    ldp     x4, x5, [x0, #32]
    ldp     x6, x7, [x0, #48]
    ldp     x8, x9, [x0, #64]
    ldp     x10, x11, [x0, #80]
    ldp     x12, x13, [x0, #96]
    ldp     x14, x15, [x0, #112]
    ldp     x16, x17, [x0, #128]
    ldp     x18, x19, [x0, #144]
    ldp     x20, x21, [x0, #160]
    ldp     x22, x23, [x0, #176]
    ldp     x24, x25, [x0, #192]
    ldp     x26, x27, [x0, #208]
    ldp     x28, x29, [x0, #224]
    ldr     x30, [x0, #240]
    ldp     x0, x1, [x0]
    eret
    // Nothing behind an ERET may be executed speculatively.
    dsb     nsh
    isb

    .global slat_hv_guest_exit
slat_hv_guest_exit:
    // x0: number of the vector; on the stack: the guest's x0 and x1, then the register file's address.
    ldr     x1, [sp, #16]
    stp     x2, x3, [x1, #16]
    stp     x4, x5, [x1, #32]
    stp     x6, x7, [x1, #48]
    stp     x8, x9, [x1, #64]
    stp     x10, x11, [x1, #80]
    stp     x12, x13, [x1, #96]
    stp     x14, x15, [x1, #112]
    stp     x16, x17, [x1, #128]
    stp     x18, x19, [x1, #144]
    stp     x20, x21, [x1, #160]
    stp     x22, x23, [x1, #176]
    stp     x24, x25, [x1, #192]
    stp     x26, x27, [x1, #208]
    stp     x28, x29, [x1, #224]
    str     x30, [x1, #240]
    ldp     x2, x3, [sp], #32
    stp     x2, x3, [x1]
    mrs     x2, elr_el2
    mrs     x3, spsr_el2
    stp     x2, x3, [x1, #{pc}]
    ldp     x19, x20, [sp], #16
    ldp     x21, x22, [sp], #16
    ldp     x23, x24, [sp], #16
    ldp     x25, x26, [sp], #16
    ldp     x27, x28, [sp], #16
    ldp     x29, x30, [sp], #16
    ret
    .popsection
"#,
    pc = const offset_of!(Registers, pc),
);
