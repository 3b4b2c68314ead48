//! The first instructions, and the trap vector of HS-mode.
//!
//! Protocol: the firmware enters `_start` in HS-mode on any one hart (a0 its number, a1 the device tree), and
//! `slat_hv_start_hart` on every other one when it is asked to. Translation stays off (satp is Bare) throughout: the
//! hypervisor works on physical addresses, whose attributes are those of the machine, so that there is nothing to map and no
//! translation of its own that a fence could have to reach. tp holds the number of the hart; sscratch, while the hart is not
//! in a guest, the top of the stack on which it reports an exception of its own.

use super::{start, start_hart};
use core::arch::global_asm;
use slat_hv_protocol::CPUS_MAX;

global_asm!(
    r#"
    // The stacks of the hart whose number is in s0, and the vector. Changes t0 to t2.
    .macro set_stacks
    mv      tp, s0
    la      t0, stacks
    lui     t1, %hi(stacks_stride)
    addi    t1, t1, %lo(stacks_stride)
    mul     t2, tp, t1
    add     t0, t0, t2
    add     t1, t1, t0
    csrw    sscratch, t1
    lui     t1, %hi(stack_size)
    addi    t1, t1, %lo(stack_size)
    add     sp, t0, t1
    la      t0, slat_hv_host_trap
    csrw    stvec, t0
    li      ra, 0
    .endm

    .pushsection .text.boot, "ax"
    // Global assembly starts out without the extensions of the target.
    .option push
    .option arch, +m
    .global _start
_start:
    csrw    sie, zero
    csrci   sstatus, 2
    csrw    satp, zero
    la      t0, 5f
    csrw    stvec, t0
    // Without the hypervisor extension this register does not exist.
    csrr    zero, hstatus
    li      t0, {cpus_max}
    bgeu    a0, t0, 6f
    la      t0, bss_start
    la      t1, bss_end
2:  bgeu    t0, t1, 3f
    sd      zero, 0(t0)
    sd      zero, 8(t0)
    addi    t0, t0, 16
    j       2b
3:  mv      s0, a0
    set_stacks
    tail    {start}

    // a1: the number of the hart, which is a0 too.
    .global slat_hv_start_hart
slat_hv_start_hart:
    csrw    sie, zero
    csrci   sstatus, 2
    csrw    satp, zero
    mv      s0, a1
    set_stacks
    mv      a0, s0
    tail    {start_hart}

    // Says why not, and has the firmware stop the machine.
    .balign 4
5:  la      s0, 7f
    j       9f
6:  la      s0, 8f
    j       9f
7:  .asciz  "slat-hv: the machine has no hypervisor extension (QEMU: -cpu rv64,h=true)\r\n"
8:  .asciz  "slat-hv: the machine has more harts than slat-hv can use\r\n"
    .balign 4
9:  la      t0, slat_hv_stop
    csrw    stvec, t0
10: lbu     a0, 0(s0)
    beqz    a0, 11f
    // Legacy console.
    li      a7, 1
    ecall
    addi    s0, s0, 1
    j       10b
11: li      a7, 0x53525354
    li      a6, 0
    li      a0, 0
    li      a1, 0
    ecall
    .balign 4
slat_hv_stop:
    wfi
    j       slat_hv_stop

    // A trap from HS-mode: a mistake of the hypervisor, reported on a stack of its own.
    .balign 4
    .global slat_hv_host_trap
slat_hv_host_trap:
    csrr    sp, sscratch
    tail    {host_exception}
    .option pop
    .popsection
"#,
    cpus_max = const CPUS_MAX,
    start = sym start,
    start_hart = sym start_hart,
    host_exception = sym super::failure::host_exception,
);
