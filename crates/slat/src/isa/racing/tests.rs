//! Whatever the alignment and the length, the portable way and the machine's own copy the same bytes and no others.

#![expect(unsafe_code, reason = "calls what copies by pointers")]

use super::*;
use crate::isa;

/// Memory of a test, aligned to more than the largest word.
#[repr(align(64))]
struct Memory([u8; 512]);

fn memory() -> Memory {
    Memory(core::array::from_fn(|index| index as u8 ^ (index >> 8) as u8))
}

type Copy = unsafe fn(*const u8, *mut u8, usize);

/// What a copy upwards, byte after byte, leaves.
fn expected(from: usize, to: usize, bytes: usize) -> [u8; 512] {
    let mut all = memory().0;
    for offset in 0..bytes {
        all[to + offset] = all[from + offset];
    }
    all
}

#[test]
fn every_way_copies_upwards_byte_after_byte() {
    let ways: [(Copy, bool); 6] = [
        (copy, true),
        (isa::copy, true),
        (read, false),
        (isa::read, false),
        (write, false),
        (isa::write, false),
    ];
    for (way, may_overlap) in ways {
        for bytes in [0, 1, 2, 3, 4, 7, 8, 9, 15, 16, 17, 31, 63, 127, 128, 131, 200] {
            for (from, to) in (0..9).flat_map(|from| (0..9).map(move |to| (from, to))) {
                let apart = if may_overlap { 0 } else { 256 };
                let to = apart + to;
                let mut memory = memory();
                let base = memory.0.as_mut_ptr();
                // SAFETY: both ranges lie inside of the memory; those that must not do not overlap.
                unsafe { way(base.wrapping_add(from), base.wrapping_add(to), bytes) };
                assert_eq!(memory.0, expected(from, to, bytes), "{bytes} bytes from {from} to {to}");
            }
        }
    }
}

#[test]
fn every_way_fills_what_it_is_told_to() {
    for way in [fill, isa::fill] {
        for (start, bytes) in
            (0..9).flat_map(|start| [0, 1, 5, 8, 30, 127, 128, 300].map(|bytes| (start, bytes)))
        {
            let mut filled = memory();
            // SAFETY: inside of the memory.
            unsafe { way(filled.0.as_mut_ptr().wrapping_add(start), 0xee, bytes) };
            let mut expected = memory().0;
            expected[start..start + bytes].fill(0xee);
            assert_eq!(filled.0, expected, "{bytes} bytes at {start}");
        }
    }
}

#[test]
fn words_are_as_large_as_alignment_and_length_allow() {
    assert_eq!([0, 1, 2, 4, 6, 8, 12].map(|address| word(address, 8, 3)), [8, 1, 2, 4, 2, 8, 4]);
    assert_eq!([1, 2, 3, 4, 7, 8, 100].map(|left| word(64, left, 3)), [1, 2, 2, 4, 4, 8, 8]);
    assert_eq!([0, 1, 2, 3].map(|most| word(64, 100, most)), [1, 2, 4, 8]);
}
