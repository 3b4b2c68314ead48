//! The first instructions, and the exception vectors of EL2.
//!
//! Protocol: QEMU enters `_start` at EL2 on CPU 0, and the firmware enters `slat_hv_start_cpu` on every other one (and on
//! CPU 0, when the guest turned that off and on), with the MMU and the caches off. The identity table is constant
//! data, so translation is on before the zeroed data is cleared, before any load or store, and before any Rust
//! runs. TPIDR_EL2 is the top of the stack on which the CPU reports an exception of its own.

use super::{start, start_cpu};
use crate::arch::aarch64::mmu;
use crate::arch::aarch64::platform::UART;
use core::arch::global_asm;

global_asm!(
    r#"
    // Translation on. Changes x0 to x2.
    .macro translate
    ldr     x0, ={mair}
    msr     mair_el2, x0
    // The output size is the CPU's, at most 48 bits (value 5).
    mrs     x1, id_aa64mmfr0_el1
    and     x1, x1, #0xf
    mov     x2, #5
    cmp     x1, x2
    csel    x1, x1, x2, lo
    ldr     x0, ={tcr}
    bfi     x0, x1, #16, #3
    msr     tcr_el2, x0
    adrp    x0, {identity}
    add     x0, x0, :lo12:{identity}
    msr     ttbr0_el2, x0
    // The host's own HCR_EL2: EL1 is AArch64, no host extensions, nothing trapped.
    mov     x0, #(1 << 31)
    msr     hcr_el2, x0
    isb
    tlbi    alle2
    tlbi    alle1
    ic      iallu
    dsb     nsh
    isb
    ldr     x0, ={sctlr}
    msr     sctlr_el2, x0
    isb
    .endm

    // The stacks of the CPU whose number is in x19, and the vectors. Changes x0 to x2.
    .macro set_stacks
    adrp    x0, stacks
    add     x0, x0, :lo12:stacks
    ldr     x1, =stacks_stride
    madd    x0, x19, x1, x0
    add     x1, x0, x1
    msr     tpidr_el2, x1
    ldr     x2, =stack_size
    add     x0, x0, x2
    mov     sp, x0
    adrp    x0, slat_hv_vectors
    add     x0, x0, :lo12:slat_hv_vectors
    msr     vbar_el2, x0
    isb
    mov     x29, xzr
    mov     x30, xzr
    .endm

    .pushsection .text.boot, "ax"
    .global _start
_start:
    msr     daifset, #0xf
    mrs     x0, CurrentEL
    cmp     x0, #(2 << 2)
    b.ne    5f

    translate
    adrp    x0, bss_start
    add     x0, x0, :lo12:bss_start
    adrp    x1, bss_end
    add     x1, x1, :lo12:bss_end
2:  cmp     x0, x1
    b.hs    3f
    stp     xzr, xzr, [x0], #16
    b       2b
3:  mov     x19, xzr
    set_stacks
    b       {start}

    // x0: the number of the CPU.
    .global slat_hv_start_cpu
slat_hv_start_cpu:
    msr     daifset, #0xf
    mov     x19, x0
    translate
    set_stacks
    mov     x0, x19
    b       {start_cpu}

    // Not at EL2: the machine has no virtualization. Say so and ask QEMU's PSCI, which HVC reaches then, to stop.
5:  adr     x0, 7f
    ldr     x1, ={uart}
6:  ldrb    w2, [x0], #1
    cbz     w2, 8f
    str     w2, [x1]
    b       6b
7:  .asciz  "slat-hv: the machine did not start at EL2 (QEMU: -machine virt,virtualization=on)\r\n"
    .balign 4
8:  ldr     x0, =0x84000008
    hvc     #0
9:  wfi
    b       9b
    .ltorg
    .popsection
"#,
    mair = const mmu::MAIR,
    tcr = const mmu::TCR,
    sctlr = const mmu::SCTLR,
    identity = sym mmu::IDENTITY,
    start = sym start,
    start_cpu = sym start_cpu,
    uart = const UART.address,
);

// The vectors. From the current exception level: a mistake of the hypervisor, reported on a stack of its own. From a
// lower one, in either width: the guest left; `slat_hv_guest_exit` finds its register file on the stack.
global_asm!(
    r#"
    .macro host_vector number
    .balign 0x80
    mrs     x0, tpidr_el2
    mov     sp, x0
    mov     x0, #\number
    b       {host_exception}
    .endm

    .macro guest_vector number
    .balign 0x80
    stp     x0, x1, [sp, #-16]!
    mov     x0, #\number
    b       slat_hv_guest_exit
    .endm

    .pushsection .text.vectors, "ax"
    .balign 0x800
    .global slat_hv_vectors
slat_hv_vectors:
    host_vector 0
    host_vector 1
    host_vector 2
    host_vector 3
    host_vector 4
    host_vector 5
    host_vector 6
    host_vector 7
    guest_vector 0
    guest_vector 1
    guest_vector 2
    guest_vector 3
    guest_vector 4
    guest_vector 5
    guest_vector 6
    guest_vector 7
    .popsection
"#,
    host_exception = sym super::failure::host_exception,
);
