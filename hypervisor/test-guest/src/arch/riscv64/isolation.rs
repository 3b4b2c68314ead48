//! Two guests, told apart by the word `slat.guest=N` that the hypervisor adds to the command line: one computes over its memory, the
//! others write to all that they can reach, and to all that they cannot.

use super::machine::{store, traps};
use super::scenarios::check;
use super::{Outcome, say};
use core::hint::black_box;
use slat_test_guest::{RISCV_RAM as RAM, Random, memory_size, word_after};

/// What is computed over: behind the program, before the device tree.
const FIRST: u64 = RAM + (4 << 20);
const WORDS: u64 = (4 << 20) / 8;
/// Rounds of it, some seconds on an emulator, and much longer than an attack takes; `rounds=N` in the command line is another number.
const ROUNDS: u64 = 100;

const MIB: u64 = 1 << 20;
const PAGE: u64 = 4096;

/// Plays the part that the command line gives.
pub(super) fn run(device_tree: &[u8]) -> Outcome {
    let number = |key: &[u8]| word_after(device_tree, key).and_then(|number| number.parse::<u64>().ok());
    let size = memory_size(device_tree, RAM).ok_or("no memory node")?;
    check(FIRST + 8 * WORDS < RAM + size - MIB, "too little memory")?;
    match number(b"slat.guest=") {
        Some(0) => compute(number(b"rounds=").unwrap_or(ROUNDS)),
        Some(guest) => attack(guest, size),
        None => Err("it takes several guests"),
    }
}

/// What word `index` is to be after so many rounds.
fn expected(round: u64, index: u64) -> u64 {
    Random(round << 32 | index).next_u64()
}

/// Adds a word to a checksum.
const fn sum(checksum: u64, word: u64) -> u64 {
    (checksum.rotate_left(5) ^ word).wrapping_mul(0x9e37_79b9_7f4a_7c15)
}

/// Each round sums the words up, which the round before has made, and makes new ones.
fn compute(rounds: u64) -> Outcome {
    let words = core::ptr::with_exposed_provenance_mut::<u64>(FIRST as usize);
    let word = |index: u64| {
        // SAFETY: below `WORDS`: in RAM that belongs to this alone.
        unsafe { words.add(index as usize) }
    };
    for index in 0..WORDS {
        // SAFETY: as above.
        unsafe { word(index).write_volatile(expected(0, index)) };
    }
    for round in 0..rounds {
        let (mut found, mut wanted) = (0, 0);
        for index in 0..WORDS {
            // SAFETY: as above.
            found = sum(found, unsafe { word(index).read_volatile() });
            wanted = sum(wanted, expected(round, index));
            // SAFETY: as above.
            unsafe { word(index).write_volatile(expected(round + 1, index)) };
        }
        check(black_box(found) == wanted, "the checksum of my memory is wrong")?;
    }
    say(format_args!("test-guest: isolation: {rounds} checksums are right"));
    Ok(())
}

/// Writes to `address`; whether that was refused.
fn is_refused(address: u64, value: u64) -> bool {
    let before = traps();
    store(address, value);
    traps() != before
}

/// Writes everywhere: what is not this guest's is refused, and the rest is not.
fn attack(guest: u64, size: u64) -> Outcome {
    let pattern = 0xbad0_0000_0000_0000 | guest;
    let end = RAM + size;
    write_own(pattern)?;
    let mut refused = 0;
    let mut outside = |address: u64| {
        refused += u64::from(is_refused(address, pattern));
    };
    // Below its RAM and above: near by each page, further away each 2 MiB, and what lies across the border.
    let mut tried = 0;
    let mut attack = |address: u64| {
        outside(address);
        tried += 1;
    };
    (0..RAM).step_by(2 * MIB as usize).for_each(&mut attack);
    (RAM - 4 * MIB..RAM).step_by(PAGE as usize).for_each(&mut attack);
    (end..end + 4 * MIB).step_by(PAGE as usize).for_each(&mut attack);
    (end..64 << 30).step_by(8 * MIB as usize).for_each(&mut attack);
    for offset in 1..8 {
        attack(end - offset);
        attack(RAM - offset);
        attack(end + offset);
        attack(offset);
        attack(end + PAGE - offset);
    }
    // Wide: each single bit, and each with what would be an address of the other's, and unaligned.
    for bit in 38..64 {
        for low in [0, 1, RAM, FIRST, FIRST + 3, end - PAGE, end] {
            attack(1 << bit | low);
            attack(u64::MAX << bit & !(2 * RAM - 1) | low & (RAM - 1));
        }
    }
    say(format_args!("test-guest: isolation: {refused} stores of {tried} refused"));
    check(refused == tried, "a store to what is not mine was carried out")?;
    write_own(pattern)
}

/// Writes to all that is its own, where the other one has what it computes over.
fn write_own(pattern: u64) -> Outcome {
    for round in 0..3 {
        let before = traps();
        (FIRST..FIRST + 8 * WORDS).step_by(8).for_each(|address| store(address, pattern ^ round));
        check(traps() == before, "a store to my own memory was refused")?;
        (FIRST + 1..FIRST + 8 * WORDS - 8).step_by(509).for_each(|address| store(address, pattern));
        check(traps() == before, "an unaligned store to my own memory was refused")?;
    }
    Ok(())
}
