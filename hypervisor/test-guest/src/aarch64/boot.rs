//! The Image header, the entry point, and the exception vectors.
//!
//! Every exception is noted in [`RECORD`]; the guest goes on at `resume`, or, if that is 0, behind the instruction.

use core::arch::global_asm;
use core::cell::UnsafeCell;

/// What the vectors note. Only the assembly writes to it while an exception is handled.
#[repr(C)]
pub(super) struct Record {
    /// ESR_EL1.
    pub(super) esr: UnsafeCell<u64>,
    /// FAR_EL1.
    pub(super) far: UnsafeCell<u64>,
    /// ELR_EL1.
    pub(super) elr: UnsafeCell<u64>,
    /// How many exceptions there were.
    pub(super) count: UnsafeCell<u64>,
    /// Where to go on; 0: behind the instruction.
    pub(super) resume: UnsafeCell<u64>,
}

// SAFETY: there is one CPU, and all accesses are single volatile words.
unsafe impl Sync for Record {}

pub(super) static RECORD: Record = Record {
    esr: UnsafeCell::new(0),
    far: UnsafeCell::new(0),
    elr: UnsafeCell::new(0),
    count: UnsafeCell::new(0),
    resume: UnsafeCell::new(0),
};

global_asm!(
    r#"
    .pushsection .text.head, "ax"
    .global _start
_start:
    // Linux, Documentation/arm64/booting.rst: the header of 64 bytes.
    b       1f
    .long   0
    .quad   0                           // text_offset
    .quad   image_size
    .quad   0b1010                      // little-endian, 4 KiB pages, anywhere in memory
    .quad   0, 0, 0
    .ascii  "ARM\x64"
    .long   0
1:  adrp    x1, stack_top
    add     x1, x1, :lo12:stack_top
    mov     sp, x1
    adrp    x1, test_guest_vectors
    add     x1, x1, :lo12:test_guest_vectors
    msr     vbar_el1, x1
    isb
    mov     x29, xzr
    mov     x30, xzr
    b       {start}
    .popsection

    .pushsection .text.vectors, "ax"
    .balign 0x800
    .global test_guest_vectors
test_guest_vectors:
    .rept   16
    .balign 0x80
    b       test_guest_exception
    .endr

    // No stack: the code before may have ruined it.
test_guest_exception:
    msr     tpidr_el1, x0
    msr     tpidrro_el0, x1
    adrp    x0, {record}
    add     x0, x0, :lo12:{record}
    mrs     x1, esr_el1
    str     x1, [x0]
    mrs     x1, far_el1
    str     x1, [x0, #8]
    ldr     x1, [x0, #24]
    add     x1, x1, #1
    str     x1, [x0, #24]
    mrs     x1, elr_el1
    str     x1, [x0, #16]
    ldr     x0, [x0, #32]
    add     x1, x1, #4
    cmp     x0, #0
    csel    x1, x1, x0, eq
    msr     elr_el1, x1
    mrs     x0, tpidr_el1
    mrs     x1, tpidrro_el0
    eret
    .popsection
"#,
    start = sym super::start,
    record = sym RECORD,
);
