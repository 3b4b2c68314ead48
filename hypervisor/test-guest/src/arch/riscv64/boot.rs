//! The entry point and the trap vector.
//!
//! Every trap is noted in the [`RECORD`]; the guest goes on at `resume`, or, if that is 0, behind the instruction, which has 4 bytes.

use core::arch::global_asm;
use core::cell::UnsafeCell;

/// What the vector notes. Only the assembly writes to it while a trap is handled.
#[repr(C)]
pub(super) struct Record {
    /// scause.
    pub(super) scause: UnsafeCell<u64>,
    /// stval.
    pub(super) stval: UnsafeCell<u64>,
    /// How many traps there were.
    pub(super) count: UnsafeCell<u64>,
    /// Where to go on; 0: behind the instruction.
    pub(super) resume: UnsafeCell<u64>,
    /// A register, meanwhile.
    saved: UnsafeCell<u64>,
}

// SAFETY: there is one CPU, and all accesses are single volatile words.
unsafe impl Sync for Record {}

pub(super) static RECORD: Record = Record {
    scause: UnsafeCell::new(0),
    stval: UnsafeCell::new(0),
    count: UnsafeCell::new(0),
    resume: UnsafeCell::new(0),
    saved: UnsafeCell::new(0),
};

global_asm!(
    r#"
    .pushsection .text.head, "ax"
    .global _start
_start:
    la      sp, stack_top
    la      t0, test_guest_trap
    csrw    stvec, t0
    la      t0, {record}
    csrw    sscratch, t0
    li      ra, 0
    mv      a0, a1
    tail    {start}

    .balign 4
    .global test_guest_trap
test_guest_trap:
    csrrw   t0, sscratch, t0
    sd      t1, 32(t0)
    csrr    t1, scause
    sd      t1, 0(t0)
    csrr    t1, stval
    sd      t1, 8(t0)
    ld      t1, 16(t0)
    addi    t1, t1, 1
    sd      t1, 16(t0)
    ld      t1, 24(t0)
    bnez    t1, 1f
    csrr    t1, sepc
    addi    t1, t1, 4
1:  csrw    sepc, t1
    // It goes on with interrupts off: one may be pending still.
    li      t1, 32
    csrc    sstatus, t1
    ld      t1, 32(t0)
    csrrw   t0, sscratch, t0
    sret
    .popsection
"#,
    record = sym RECORD,
    start = sym super::start,
);
