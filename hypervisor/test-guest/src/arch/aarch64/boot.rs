//! The Image header, the entry points, and the exception vectors.
//!
//! Every exception is noted in the [`record`] of its CPU; the guest goes on at `resume`, or, if that is 0, behind the
//! instruction.

use super::machine::this_cpu;
use core::arch::global_asm;
use core::cell::UnsafeCell;

/// What the vectors note. Only the assembly writes to it while an exception is handled.
#[repr(C, align(64))]
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

// SAFETY: each CPU has its own, and all accesses are single volatile words.
unsafe impl Sync for Record {}

impl Record {
    const fn new() -> Self {
        Self {
            esr: UnsafeCell::new(0),
            far: UnsafeCell::new(0),
            elr: UnsafeCell::new(0),
            count: UnsafeCell::new(0),
            resume: UnsafeCell::new(0),
        }
    }
}

static RECORDS: [Record; 2] = [Record::new(), Record::new()];

// The vectors find the record of CPU n 64 * n bytes further on.
const _: () = assert!(size_of::<Record>() == 64);

/// The record of this CPU.
pub(super) fn record() -> &'static Record {
    &RECORDS[this_cpu()]
}

unsafe extern "C" {
    /// Where a CPU begins that another one turns on: CPU_ON's context identifier goes to `begin`.
    pub(super) fn test_guest_begin();
}

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

    .global test_guest_begin
test_guest_begin:
    adrp    x1, stack_top
    add     x1, x1, :lo12:stack_top
    adrp    x2, second_stack_top
    add     x2, x2, :lo12:second_stack_top
    mrs     x3, mpidr_el1
    tst     x3, #1
    csel    x1, x1, x2, eq
    mov     sp, x1
    adrp    x1, test_guest_vectors
    add     x1, x1, :lo12:test_guest_vectors
    msr     vbar_el1, x1
    isb
    mov     x29, xzr
    mov     x30, xzr
    b       {begin}
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
    adrp    x0, {records}
    add     x0, x0, :lo12:{records}
    mrs     x1, mpidr_el1
    and     x1, x1, #1
    add     x0, x0, x1, lsl #6
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
    begin = sym super::second::begin,
    records = sym RECORDS,
);
