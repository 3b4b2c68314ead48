//! Random words as code: whatever they do, the hypervisor must go on.
//!
//! Each round writes a few random words and a jump back behind them, loads all registers with random numbers and
//! addresses, and jumps there. Every exception, and the jump back, leads to the next round.

use super::boot::record;
use super::{Outcome, say};
use core::arch::{asm, global_asm};
use core::cell::UnsafeCell;
use slat_test_guest::Random;

const ROUNDS: u64 = 5_000;
/// Random words in a round.
const WORDS: usize = 6;
/// Registers x0 to x29.
const REGISTERS: usize = 30;

#[repr(C)]
struct Arena {
    registers: UnsafeCell<[u64; REGISTERS]>,
    code: UnsafeCell<[u32; WORDS + 2]>,
    random: UnsafeCell<Random>,
    round: UnsafeCell<u64>,
    stack: UnsafeCell<u64>,
}

// SAFETY: one CPU, and one round at a time.
unsafe impl Sync for Arena {}

static ARENA: Arena = Arena {
    registers: UnsafeCell::new([0; REGISTERS]),
    code: UnsafeCell::new([0; WORDS + 2]),
    random: UnsafeCell::new(Random(0)),
    round: UnsafeCell::new(0),
    stack: UnsafeCell::new(0),
};

unsafe extern "C" {
    /// Saves the stack pointer, then plays rounds until there are no more.
    fn test_guest_wild(stack: *mut u64, registers: *const u64, code: *const u32);
    /// Where every round ends.
    fn test_guest_wild_next();
}

/// Plays the rounds.
pub(super) fn run(seed: u64) -> Outcome {
    // SAFETY: no round is being played.
    unsafe { ARENA.random.get().write(Random(seed)) };
    let next: unsafe extern "C" fn() = test_guest_wild_next;
    // SAFETY: from now on every exception ends a round.
    unsafe { record().resume.get().write_volatile(next as usize as u64) };
    // SAFETY: the rounds may do anything to this guest: that is the scenario.
    unsafe { test_guest_wild(ARENA.stack.get(), ARENA.registers.get().cast(), ARENA.code.get().cast()) };
    // SAFETY: no round is being played any more.
    unsafe { record().resume.get().write_volatile(0) };
    Ok(())
}

/// Prepares a round; tells whether there is one.
extern "C" fn prepare() -> bool {
    // SAFETY: called between two rounds.
    let random = unsafe { &mut *ARENA.random.get() };
    // SAFETY: as above.
    let round = unsafe { &mut *ARENA.round.get() };
    *round += 1;
    if *round % 1000 == 0 {
        say(format_args!("test-guest: wild: {round} rounds"));
    }
    // SAFETY: as above.
    for register in unsafe { &mut *ARENA.registers.get() } {
        let number = random.next_u64();
        *register = match number & 7 {
            // Addresses: RAM (not where this code lies), devices, anything below 4 GiB, powers of two.
            0 | 1 => 0x4100_0000 + (number >> 8 & 0xff_fff8),
            2 => 0x0800_0000 + (number >> 8 & 0x1ff_fffc),
            3 => number >> 8 & 0xffff_fff8,
            4 => 1 << (number >> 8 & 0x3f),
            // Functions of the firmware and small numbers; never SYSTEM_OFF or SYSTEM_RESET (8 and 9).
            5 => 0x8400_0000 | number >> 8 & 0x4000_0017 & !8,
            6 => number >> 8 & 0xff,
            _ => number,
        };
    }
    // SAFETY: as above.
    let code = unsafe { &mut *ARENA.code.get() };
    for word in code.iter_mut().take(WORDS) {
        let number = random.next_u64();
        *word = match number & 7 {
            // System instructions, exception generation, loads and stores more often than by chance.
            0 => 0xd500_0000 | (number >> 8) as u32 & 0x003f_ffff,
            1 => 0xd400_0000 | (number >> 8) as u32 & 0x00e0_0003,
            2 | 3 => 0xb800_0000 | (number >> 8) as u32 & 0x47ff_ffff,
            _ => (number >> 8) as u32,
        };
    }
    // The way back: SVC is an exception too.
    let [.., first, second] = code;
    *first = 0xd400_0001;
    *second = 0xd400_0001;
    // SAFETY: makes the new code visible to fetches; the MMU is off, so nothing is cached but instructions.
    unsafe { asm!("dsb sy", "ic iallu", "dsb sy", "isb", options(nostack)) };
    *round <= ROUNDS
}

global_asm!(
    r#"
    .pushsection .text.wild, "ax"
    .global test_guest_wild
    .global test_guest_wild_next
test_guest_wild:
    stp     x29, x30, [sp, #-96]!
    stp     x19, x20, [sp, #16]
    stp     x21, x22, [sp, #32]
    stp     x23, x24, [sp, #48]
    stp     x25, x26, [sp, #64]
    stp     x27, x28, [sp, #80]
    mov     x3, sp
    str     x3, [x0]

test_guest_wild_next:
    // Anything may have happened to the registers: only constants are left. Masks and vectors are set again.
    msr     daifset, #0xf
    msr     spsel, #1
    adrp    x0, {arena}
    add     x0, x0, :lo12:{arena}
    add     x1, x0, #{stack}
    ldr     x1, [x1]
    mov     sp, x1
    adrp    x1, test_guest_vectors
    add     x1, x1, :lo12:test_guest_vectors
    msr     vbar_el1, x1
    ldr     x1, =0x30d00800
    msr     sctlr_el1, x1
    isb
    bl      {prepare}
    cbz     w0, 9f
    adrp    x30, {arena}
    add     x30, x30, :lo12:{arena}
    ldp     x0, x1, [x30]
    ldp     x2, x3, [x30, #16]
    ldp     x4, x5, [x30, #32]
    ldp     x6, x7, [x30, #48]
    ldp     x8, x9, [x30, #64]
    ldp     x10, x11, [x30, #80]
    ldp     x12, x13, [x30, #96]
    ldp     x14, x15, [x30, #112]
    ldp     x16, x17, [x30, #128]
    ldp     x18, x19, [x30, #144]
    ldp     x20, x21, [x30, #160]
    ldp     x22, x23, [x30, #176]
    ldp     x24, x25, [x30, #192]
    ldp     x26, x27, [x30, #208]
    ldp     x28, x29, [x30, #224]
    add     x30, x30, #{code}
    // What the round writes to its stack must not hit the frame above.
    sub     sp, sp, #1024
    br      x30
9:  ldp     x19, x20, [sp, #16]
    ldp     x21, x22, [sp, #32]
    ldp     x23, x24, [sp, #48]
    ldp     x25, x26, [sp, #64]
    ldp     x27, x28, [sp, #80]
    ldp     x29, x30, [sp], #96
    ret
    .ltorg
    .popsection
"#,
    arena = sym ARENA,
    prepare = sym prepare,
    stack = const core::mem::offset_of!(Arena, stack),
    code = const core::mem::offset_of!(Arena, code),
);
