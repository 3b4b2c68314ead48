//! The first instructions: of the machine, of CPU 0, of every other CPU.
//!
//! **Protocol.** QEMU enters `_start` by the PVH note, in 32-bit protected mode without paging. Bochs (and QEMU with `-bios`)
//! starts at the reset vector of a ROM made by `slat_hv_protocol::rom`: the first bytes of the image, at its end. They
//! switch to the same state, read one word of each 128 KiB of what was loaded behind the image (Bochs gives its
//! blocks of memory out in the order of first use), copy the image to where it is linked, and jump to `_start`. Other CPUs
//! begin at `trampoline`, in real mode, copied to a page below 1 MiB. All of them pass through `long_mode` with their
//! number in ESI. The tables are constant data; nothing here needs a stack before 64-bit mode.

use super::{start, start_cpu};
use crate::arch::x86_64::descriptors::{CODE, CODE_32, DATA, SEGMENTS};
use crate::arch::x86_64::mmu;
use crate::arch::x86_64::platform::TRAMPOLINE;
use core::arch::global_asm;
use slat_hv_protocol::MemoryMap;
use slat_hv_protocol::rom::{self, CODE_SIZE, HEADER_SIZE};

/// The segments until each CPU has its task state segment.
static BOOT_GDT: [u64; SEGMENTS.len()] = SEGMENTS;

/// EFER: long mode enabled; execute-disable is added where the CPU has it.
const EFER_LME: u32 = 1 << 8;
const EFER_NXE: u32 = 1 << 11;
/// CR4: physical-address extension.
const CR4_PAE: u32 = 1 << 5;
/// CR0: PG, WP, NE, ET, MP, PE; caches on.
const CR0: u32 = 1 << 31 | 1 << 16 | 1 << 5 | 1 << 4 | 1 << 1 | 1;

// The ROM's code. It sits in the last bytes below 4 GiB, not where it is linked: `at` is what its labels are there.
global_asm!(
    r#"
    .pushsection .text.rom, "ax"
    .set at, 0xffffffff - {size} + 1
rom:
    .quad {magic}
    .org rom + {header_size}
    .balign 8
rom_gdt:
    .quad 0
    .quad 0x00cf9b000000ffff
    .quad 0x00cf93000000ffff
rom_gdt_register:
    .short . - rom_gdt - 1
    .long at + rom_gdt - rom

    .code16
rom_start:
    cli
    cld
    lgdtl   %cs:(at - 0xffff0000 + rom_gdt_register - rom)
    movl    %cr0, %eax
    // Protected mode, and the caches, which are off after a reset.
    andl    $0x9fffffff, %eax
    orl     $1, %eax
    movl    %eax, %cr0
    ljmpl   $8, $(at + rom_protected - rom)

    .code32
rom_protected:
    movw    $0x10, %ax
    movw    %ax, %ds
    movw    %ax, %es
    movw    %ax, %ss
    movl    $at, %ebp
    movl    ${payload}, %esi
    movl    {payload_end}(%ebp), %edi
1:  cmpl    %edi, %esi
    jae     2f
    movl    (%esi), %eax
    addl    $0x20000, %esi
    jmp     1b
2:  movl    {source}(%ebp), %esi
    movl    {target}(%ebp), %edi
    movl    {words}(%ebp), %ecx
    rep     movsl
    movl    {entry}(%ebp), %eax
    jmpl    *%eax

    .code16
    .org rom + {size} - 16
    jmp     rom_start
    .org rom + {size}
    .code64
    .popsection
"#,
    size = const CODE_SIZE,
    header_size = const HEADER_SIZE,
    magic = const rom::MAGIC,
    payload = const MemoryMap::X86_64.params,
    payload_end = const rom::PAYLOAD_END,
    source = const rom::SOURCE,
    target = const rom::TARGET,
    words = const rom::WORDS,
    entry = const rom::ENTRY,
    options(att_syntax)
);

// What 32-bit entry, trampoline and 64-bit mode need. `_start` is entered by PVH and from the ROM.
global_asm!(
    r#"
    .pushsection .note.pvh, "a", @note
    .balign 4
    .long 4                     // length of the name
    .long 8                     // length of the value
    .long 18                    // XEN_ELFNOTE_PHYS32_ENTRY
    .asciz "Xen"
    .quad _start
    .popsection

    .pushsection .rodata.tables, "a"
    .balign 4096
identity_root:
    .quad identity_1g + {table}
    .fill 511, 8, 0
identity_1g:
    .quad {identity} + {table}
    .quad {identity} + 0x1000 + {table}
    .quad {identity} + 0x2000 + {table}
    .quad {identity} + 0x3000 + {table}
    .fill 508, 8, 0
boot_gdt_register:
    .short  8 * {segments} - 1
    .long   {gdt}
    .popsection

    .pushsection .text.boot, "ax"
    .code32
    .global _start
_start:
    cli
    cld
    movl    $bss_start, %edi
    movl    $bss_end, %ecx
    subl    %edi, %ecx
    shrl    $2, %ecx
    xorl    %eax, %eax
    rep     stosl
    xorl    %esi, %esi

    // ESI: the number of the CPU.
long_mode:
    lgdtl   boot_gdt_register
    movl    $identity_root, %eax
    movl    %eax, %cr3
    movl    ${cr4_pae}, %eax
    movl    %eax, %cr4
    xorl    %edi, %edi
    movl    $0x80000000, %eax
    cpuid
    cmpl    $0x80000001, %eax
    jb      1f
    movl    $0x80000001, %eax
    cpuid
    btl     $20, %edx
    jnc     1f
    movl    ${efer_nxe}, %edi
1:  movl    $0xc0000080, %ecx
    rdmsr
    orl     ${efer_lme}, %eax
    orl     %edi, %eax
    wrmsr
    movl    ${cr0}, %eax
    movl    %eax, %cr0
    ljmpl   ${code}, $long_mode_64

    .code64
long_mode_64:
    movw    ${data}, %ax
    movw    %ax, %ds
    movw    %ax, %es
    movw    %ax, %ss
    xorl    %eax, %eax
    movw    %ax, %fs
    movw    %ax, %gs
    movl    %esi, %edi
    imull   $stacks_stride, %esi, %eax
    addl    $stacks, %eax
    addl    $stack_size, %eax
    movl    %eax, %esp
    xorl    %ebp, %ebp
    pushq   %rbp
    testl   %edi, %edi
    jz      {start}
    jmp     {start_cpu}
    .popsection

    // Copied to {trampoline}; `here` is what its labels are there. The vector of the start-up IPI makes CS.
    .pushsection .rodata.trampoline, "a"
    .set here, {trampoline}
    .code16
    .global trampoline, trampoline_end, trampoline_cpu
trampoline:
    cli
    cld
    movw    %cs, %ax
    movw    %ax, %ds
    lgdtl   (trampoline_gdt_register - trampoline)
    movl    %cr0, %eax
    andl    $0x9fffffff, %eax
    orl     $1, %eax
    movl    %eax, %cr0
    ljmpl   ${code_32}, $(here + 2f - trampoline)
    .code32
2:  movw    ${data}, %ax
    movw    %ax, %ds
    movw    %ax, %es
    movw    %ax, %ss
    movl    (here + trampoline_cpu - trampoline), %esi
    movl    $long_mode, %eax
    jmpl    *%eax
    .balign 8
trampoline_gdt_register:
    .short  8 * {segments} - 1
    .long   {gdt}
trampoline_cpu:
    .long   0
trampoline_end:
    .code64
    .popsection
"#,
    table = const mmu::TABLE,
    identity = sym mmu::IDENTITY,
    gdt = sym BOOT_GDT,
    segments = const SEGMENTS.len(),
    cr4_pae = const CR4_PAE,
    efer_nxe = const EFER_NXE,
    efer_lme = const EFER_LME,
    cr0 = const CR0 as i32,
    code = const CODE,
    code_32 = const CODE_32,
    data = const DATA,
    start = sym start,
    start_cpu = sym start_cpu,
    trampoline = const TRAMPOLINE,
    options(att_syntax)
);
