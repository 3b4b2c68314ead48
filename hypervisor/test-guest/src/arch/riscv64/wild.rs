//! The scenario `wild`: random words as code, thousands of times over, each until the next trap, which is the timer's at the latest: most
//! random words are jumps, and many of them go in circles.
//!
//! Whatever a round does to the registers and to this guest's memory, the next one begins with its own; what gets lost for good
//! (the vector, translation) ends in a guest that goes nowhere, which is right as well.

use super::boot::RECORD;
use super::firmware::{TIME, call};
use super::{Outcome, say};
use core::arch::{asm, global_asm};
use core::cell::UnsafeCell;
use slat_test_guest::{RISCV_RAM as RAM, Random};

const ROUNDS: u64 = 3000;
/// Most ticks that a round takes.
const ROUND: u64 = 5000;
const REGISTERS: usize = 32;
const WORDS: usize = 16;

#[repr(C, align(64))]
struct Arena {
    registers: UnsafeCell<[u64; REGISTERS]>,
    code: UnsafeCell<[u32; WORDS + 3]>,
    random: UnsafeCell<Random>,
    round: UnsafeCell<u64>,
    stack: UnsafeCell<u64>,
}

// SAFETY: one CPU, and one round at a time.
unsafe impl Sync for Arena {}

static ARENA: Arena = Arena {
    registers: UnsafeCell::new([0; REGISTERS]),
    code: UnsafeCell::new([0; WORDS + 3]),
    random: UnsafeCell::new(Random(0)),
    round: UnsafeCell::new(0),
    stack: UnsafeCell::new(0),
};

unsafe extern "C" {
    /// Saves the stack pointer, then plays rounds until there are no more.
    fn test_guest_wild();
    /// Where every round ends.
    fn test_guest_wild_next();
}

/// Plays the rounds.
pub(super) fn run(seed: u64) -> Outcome {
    // SAFETY: no round is being played.
    unsafe { ARENA.random.get().write(Random(seed)) };
    let next: unsafe extern "C" fn() = test_guest_wild_next;
    // SAFETY: from now on every trap ends a round.
    unsafe { RECORD.resume.get().write_volatile(next as usize as u64) };
    // SAFETY: the rounds may do anything to this guest: that is the scenario.
    unsafe { test_guest_wild() };
    // SAFETY: no round is being played any more.
    unsafe { RECORD.resume.get().write_volatile(0) };
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
            // Addresses: RAM (not where this code lies), holes, powers of two.
            0 | 1 => RAM + (6 << 20) + (number >> 8 & 0x3f_fff8),
            2 => number >> 8 & 0xffff_ffff,
            3 => 1 << (number >> 8 & 0x3f),
            // Functions of the firmware, and its extensions: the console, harts, interrupts, fences, time; never the end.
            4 => number >> 8 & 7,
            5 => {
                let extensions = [0x10, 0x5449_4d45, 0x0073_5049, 0x5246_4e43, 0x0048_534d, 0x4442_434e];
                extensions[(number >> 8) as usize % extensions.len()]
            }
            _ => number,
        };
    }
    // SAFETY: as above.
    let code = unsafe { &mut *ARENA.code.get() };
    for word in code.iter_mut().skip(1).take(WORDS) {
        let number = random.next_u64();
        let bits = (number >> 8) as u32;
        *word = match number & 7 {
            // Calls, control and status registers, loads, stores and atomics more often than by chance.
            0 => 0x0000_0073,
            1 => bits & !0x7f | 0x73,
            2 => bits & !0x7f | 0x03,
            3 => bits & !0x7f | 0x23,
            4 => bits & !0x7f | 0x2f,
            _ => bits,
        };
    }
    // `li x31, 0`: the address of the code is not one that random stores should hit more often than others. And the way back, an
    // instruction that does not exist.
    let [first, .., last_but_one, last] = code;
    *first = 0x0000_0f93;
    *last_but_one = 0;
    *last = 0;
    let now: u64;
    // SAFETY: makes the new code visible to fetches, and reads a clock.
    unsafe { asm!("fence.i", "csrr {}, time", out(reg) now, options(nostack)) };
    call(TIME, 0, [now + ROUND, 0, 0, 0, 0]);
    *round <= ROUNDS
}

global_asm!(
    r#"
    .pushsection .text.wild, "ax"
    .global test_guest_wild
    .global test_guest_wild_next
test_guest_wild:
    addi    sp, sp, -112
    sd      ra, 0(sp)
    .irp    number, 0,1,2,3,4,5,6,7,8,9,10,11
    sd      s\number, 8+8*\number(sp)
    .endr
    la      t0, {arena}
    sd      sp, {stack}(t0)

    .balign 4
test_guest_wild_next:
    // Anything may have happened to the registers: only constants are left. Vector and translation are set again.
    la      t0, {record}
    csrw    sscratch, t0
    la      t0, test_guest_trap
    csrw    stvec, t0
    csrw    satp, zero
    csrw    sie, zero
    la      t0, {arena}
    ld      sp, {stack}(t0)
    call    {prepare}
    beqz    a0, 9f
    // The timer may interrupt the round.
    li      t0, 32
    csrw    sie, t0
    la      x31, {arena}
    .irp    number, 1,3,4,5,6,7,8,9,10,11,12,13,14,15,16,17,18,19,20,21,22,23,24,25,26,27,28,29,30
    ld      x\number, 8*\number(x31)
    .endr
    addi    x31, x31, {code}
    // What the round writes to its stack must not hit the frame above.
    addi    sp, sp, -1024
    csrsi   sstatus, 2
    jr      x31
9:  la      t0, {arena}
    ld      sp, {stack}(t0)
    ld      ra, 0(sp)
    .irp    number, 0,1,2,3,4,5,6,7,8,9,10,11
    ld      s\number, 8+8*\number(sp)
    .endr
    addi    sp, sp, 112
    ret
    .popsection
"#,
    arena = sym ARENA,
    record = sym RECORD,
    prepare = sym prepare,
    stack = const core::mem::offset_of!(Arena, stack),
    code = const core::mem::offset_of!(Arena, code),
);
