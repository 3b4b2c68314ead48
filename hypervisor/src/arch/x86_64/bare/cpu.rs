//! What each physical CPU is given when it comes up: descriptors, stacks for exceptions, control registers.
//!
//! Invariant: interrupts are masked whenever the hypervisor itself runs. What still arrives is an NMI, by which another CPU
//! gets this one out of its guest: if it comes too late for that it is counted and forgotten.

#![expect(unsafe_code, reason = "loads descriptor tables and control registers")]

use crate::arch::x86_64::descriptors::{
    self, CODE, DATA, GDT_ENTRIES, SEGMENTS, Stack, TASK_SIZE, cpu_of, gate, task_descriptor, task_selector,
};
use core::arch::{asm, global_asm};
use core::cell::UnsafeCell;
use core::sync::atomic::AtomicU64;
use slat_hv_protocol::CPUS_MAX;
use slat_x86::isa::common::cpuid;
use spin::Once;

/// Exceptions of the architecture: vectors 0 to 31.
const VECTORS: usize = 32;
const NMI: usize = 2;

/// CR4.OSXSAVE: XSETBV and XSAVE, for the guest's state.
const CR4_OSXSAVE: u64 = 1 << 18;
/// CPUID leaf 1 ECX: XSAVE.
const CPUID_XSAVE: u32 = 1 << 26;

/// The descriptor tables, which the CPUs share.
#[repr(C, align(16))]
struct Tables {
    gdt: [u64; GDT_ENTRIES],
    idt: [[u64; 2]; VECTORS],
    tasks: [[u32; TASK_SIZE as usize / 4]; CPUS_MAX],
}

/// Memory that only CPUs write to, by loading what is in it.
#[repr(transparent)]
struct Shared(UnsafeCell<Tables>);

// SAFETY: written once, before any CPU but the first one looks; after that by CPUs only (a task is marked busy).
unsafe impl Sync for Shared {}

static TABLES: Shared = Shared(UnsafeCell::new(Tables {
    gdt: [0; GDT_ENTRIES],
    idt: [[0; 2]; VECTORS],
    tasks: [[0; TASK_SIZE as usize / 4]; CPUS_MAX],
}));

/// NMIs that each CPU took outside of its guest.
static NMIS: [AtomicU64; CPUS_MAX] = [const { AtomicU64::new(0) }; CPUS_MAX];

unsafe extern "C" {
    // Symbols of the linker script and of the assembly below; only their addresses mean something.
    static stacks: u8;
    static stacks_stride: u8;
    static stack_size: u8;
    static exception_stack_size: u8;
    static slat_hv_exceptions: u8;
    static slat_hv_nmi: u8;
}

/// Gives CPU `cpu`, which runs this, everything it needs. CPU 0 comes first, and before any other one is started.
pub(super) fn set_up(cpu: usize) {
    static FILLED: Once<()> = Once::new();
    FILLED.call_once(fill);
    let tables = TABLES.0.get();
    // SAFETY: only the address is taken.
    let gdt = unsafe { &raw const (*tables).gdt };
    // SAFETY: as above.
    let idt = unsafe { &raw const (*tables).idt };
    load(&register(gdt as u64, size_of::<u64>() * GDT_ENTRIES), &register(idt as u64, 16 * VECTORS), cpu);
    let [.., features, _] = cpuid(1, 0);
    if features & CPUID_XSAVE != 0 {
        // SAFETY: the CPU has it; it only makes instructions available.
        unsafe {
            asm!("mov {old}, cr4", "or {old}, {bit}", "mov cr4, {old}", old = out(reg) _,
                bit = in(reg) CR4_OSXSAVE, options(nostack));
        }
    }
}

/// The number of the CPU that runs this.
pub(in crate::arch::x86_64) fn this_cpu() -> usize {
    let selector: u16;
    // SAFETY: reads a register.
    unsafe { asm!("str {0:x}", out(reg) selector, options(nomem, nostack, preserves_flags)) };
    cpu_of(selector)
}

/// NMIs that `cpu` took outside of its guest until now.
#[cfg(feature = "unit-guests")]
pub(in crate::arch::x86_64) fn nmis(cpu: usize) -> u64 {
    NMIS.get(cpu).map_or(0, |count| count.load(core::sync::atomic::Ordering::Acquire))
}

/// The operand of LGDT and LIDT.
#[repr(C, packed)]
struct Register {
    limit: u16,
    base: u64,
}

fn register(base: u64, bytes: usize) -> Register {
    Register { limit: (bytes - 1) as u16, base }
}

fn fill() {
    let size = |symbol: *const u8| symbol as u64;
    let (stride, stack) = (size(&raw const stacks_stride), size(&raw const stack_size));
    let exception = stack + size(&raw const exception_stack_size);
    let first = size(&raw const stacks);
    let tables = TABLES.0.get();
    // SAFETY: this runs once, on CPU 0, before anybody else looks at the tables.
    let tables = unsafe { &mut *tables };
    tables.gdt[..SEGMENTS.len()].copy_from_slice(&SEGMENTS);
    for cpu in 0..CPUS_MAX {
        let base = first + cpu as u64 * stride;
        tables.tasks[cpu] = descriptors::task(base + exception, base + stride);
        let index = usize::from(task_selector(cpu)) / 8;
        let address = &raw const tables.tasks[cpu] as u64;
        tables.gdt[index..index + 2].copy_from_slice(&task_descriptor(address));
    }
    let handlers = size(&raw const slat_hv_exceptions);
    for (vector, entry) in tables.idt.iter_mut().enumerate() {
        *entry = gate(handlers + 16 * vector as u64, Stack::Exception);
    }
    tables.idt[NMI] = gate(size(&raw const slat_hv_nmi), Stack::Nmi);
}

fn load(gdt: &Register, idt: &Register, cpu: usize) {
    // SAFETY: the tables are complete, hold the segments in use at the same places as those before, and live as long as
    // the machine. The task is this CPU's own and not loaded yet.
    unsafe {
        asm!(
            "lgdt [{gdt}]",
            "lidt [{idt}]",
            "push {code}",
            "lea {scratch}, [rip + 2f]",
            "push {scratch}",
            "retfq",
            "2:",
            "mov ds, {data:e}",
            "mov es, {data:e}",
            "mov ss, {data:e}",
            "ltr {task:x}",
            gdt = in(reg) gdt,
            idt = in(reg) idt,
            code = in(reg) u64::from(CODE),
            data = in(reg) u64::from(DATA),
            task = in(reg) task_selector(cpu),
            scratch = out(reg) _,
        );
    }
}

// An exception of the hypervisor itself is reported and ends the machine; vectors with an error code: 8, 10 to 14, 17,
// 21, 29, 30.
global_asm!(
    r#"
    .pushsection .text.exceptions, "ax"
    .balign 16
slat_hv_exceptions:
    .set vector, 0
    .rept {vectors}
    .balign 16
    .if ((0x60227d00 >> vector) & 1) == 0
    push    0
    .endif
    push    vector
    jmp     slat_hv_exception
    .set vector, vector + 1
    .endr

slat_hv_exception:
    // Vector, error code, RIP, CS, RFLAGS, RSP, SS.
    mov     rdi, [rsp]
    mov     rsi, [rsp + 8]
    mov     rdx, [rsp + 16]
    mov     rcx, cr2
    mov     r8, [rsp + 40]
    and     rsp, -16
    cld
    call    {exception}

slat_hv_nmi:
    push    rax
    xor     eax, eax
    str     ax
    sub     eax, {first_task}
    shr     eax, 4
    lock inc qword ptr [{nmis} + 8 * rax]
    pop     rax
    iretq
    .popsection
"#,
    vectors = const VECTORS,
    exception = sym super::failure::host_exception,
    first_task = const descriptors::FIRST_TASK,
    nmis = sym NMIS,
);
