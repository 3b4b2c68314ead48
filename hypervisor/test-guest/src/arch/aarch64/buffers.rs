//! Hypercalls about buffers: every bad pointer, and some good ones.

use super::emulated::PORT;
use super::machine::{DISTRIBUTOR, Function, UART, buffer_call, hvc, read64, write64};
use super::scenarios::{DENIED, HOLE, INVALID_PARAMETERS, check};
use super::{Outcome, expect};
use slat_test_guest::{RAM, Random, memory_size};

const INVALID_ADDRESS: i64 = -9;
const DEVICE: i64 = -10;

/// Most bytes of one call.
const LENGTH_MAX: u64 = 0x1_0000;
/// RAM that is nobody's: behind the program, its stacks and its device tree.
const FREE: u64 = RAM + (8 << 20);
const PAGE_SIZE: u64 = 4096;
/// Calls with pointers by chance.
const RANDOM_CALLS: u64 = 3_000;

/// Beginning of the text about the run.
const STATISTICS_BEGIN: [u8; 8] = *b"exits   ";

/// Scenario `hostile-buffer`.
pub(super) fn run(device_tree: &[u8]) -> Outcome {
    let end = RAM + memory_size(device_tree, RAM).ok_or("no memory node")?;
    good_ones()?;
    bad_ones(end)?;
    refused_pages()?;
    by_chance(end)
}

/// A call must be answered like that.
fn must(function: u64, (gpa, length): (u64, u64), (status, done): (i64, u64), why: &'static str) -> Outcome {
    let (found, bytes) = buffer_call(function, gpa, length);
    expect(found as u64, status as u64, why)?;
    expect(bytes, done, why)
}

fn good_ones() -> Outcome {
    let text = *b"buffer!\n";
    write64(FREE + 16, u64::from_le_bytes(text));
    must(Function::PRINT, (FREE + 16, 8), (0, 8), "a text was not printed")?;
    must(Function::PRINT, (FREE + 17, 1), (0, 1), "an odd address")?;
    // Across pages, the second of which nobody has touched; then as much as is allowed.
    must(Function::PRINT, (FREE + PAGE_SIZE - 3, 7), (0, 7), "a text across pages")?;
    must(Function::PRINT, (FREE, LENGTH_MAX), (0, LENGTH_MAX), "the longest text")?;
    // A text that is cut off where the buffer ends.
    let (status, whole) = buffer_call(Function::STATISTICS, FREE + (1 << 20), LENGTH_MAX);
    check(status == 0 && (100..LENGTH_MAX).contains(&whole), "no statistics")?;
    let begin = read64(FREE + (1 << 20)).to_le_bytes();
    check(begin == STATISTICS_BEGIN, "the statistics are not in the buffer")?;
    let next = FREE + (1 << 20) + PAGE_SIZE;
    must(Function::STATISTICS, (next, 5), (0, 5), "a short buffer")?;
    let cut = u64::from_le_bytes(STATISTICS_BEGIN) & 0xff_ffff_ffff;
    expect(read64(next), cut, "the bytes behind a short buffer")
}

fn bad_ones(end: u64) -> Outcome {
    for function in [Function::PRINT, Function::STATISTICS] {
        for gpa in [0, RAM, HOLE, PORT, UART, end, 1 << 42, 1 << 63, u64::MAX] {
            must(function, (gpa, 0), (0, 0), "a buffer of no bytes")?;
            for length in [LENGTH_MAX + 1, 1 << 32, 1 << 63, u64::MAX - RAM, u64::MAX] {
                must(function, (gpa, length), (INVALID_PARAMETERS, 0), "more bytes than are allowed")?;
            }
        }
        for gpa in [0, 8, HOLE, HOLE + 1, end, end + 1, 1 << 36, 1 << 42, 1 << 44, 1 << 48, 1 << 52, 1 << 63]
        {
            must(function, (gpa, 8), (INVALID_ADDRESS, 0), "a buffer in a hole")?;
            must(function, (gpa, 100), (INVALID_ADDRESS, 0), "a long buffer in a hole")?;
        }
        for below in 0..8 {
            must(function, (u64::MAX - below, 16), (INVALID_ADDRESS, 0), "a buffer that wraps around")?;
            must(function, (RAM - 1 - below, 16), (INVALID_ADDRESS, 0), "a buffer from a hole into RAM")?;
            let inside = 1 + below;
            must(function, (end - inside, 16), (INVALID_ADDRESS, inside), "a buffer that leaves RAM")?;
        }
        for gpa in [UART, UART + 0xfff, DISTRIBUTOR, DISTRIBUTOR + 0x7ff8, PORT, PORT + 1, PORT + 0xff8] {
            must(function, (gpa, 1), (DEVICE, 0), "a byte of a device")?;
            must(function, (gpa, 64), (DEVICE, 0), "a buffer in a device")?;
        }
        must(function, (PORT - 4, 8), (INVALID_ADDRESS, 0), "a buffer from a hole into a device")?;
    }
    Ok(())
}

/// Pages that the guest must not write to.
fn refused_pages() -> Outcome {
    let page = FREE + (2 << 20);
    write64(page, 0x55);
    write64(page + PAGE_SIZE, 0x66);
    check(hvc(Function::WRITE_PROTECT, [page + PAGE_SIZE, 0, 0]) == 0, "the page was not write-protected")?;
    must(Function::PRINT, (page + PAGE_SIZE, 64), (0, 64), "reading a page that may be read")?;
    must(
        Function::STATISTICS,
        (page + PAGE_SIZE, 64),
        (DENIED, 0),
        "writing to a page that may not be written to",
    )?;
    must(Function::STATISTICS, (page + PAGE_SIZE - 10, 64), (DENIED, 10), "writing up to such a page")?;
    expect(read64(page + PAGE_SIZE), 0x66, "a page that may not be written to has changed")
}

/// Pointers and lengths by chance, near everything that there is. What comes back must be one of the answers.
fn by_chance(end: u64) -> Outcome {
    let mut random = Random(7);
    for _ in 0..RANDOM_CALLS {
        let number = random.next_u64();
        let offset = number >> 8 & 0x3f_ffff;
        // Only what is free may be written to.
        let (function, ram) = match number & 1 {
            0 => (Function::PRINT, RAM),
            _ => (Function::STATISTICS, FREE + (3 << 20)),
        };
        let gpa = match number >> 1 & 7 {
            0 | 1 => ram + offset % (end - ram),
            2 => end - offset % 64,
            3 => UART + offset % 0x1_0000 - 0x80,
            4 => PORT + offset % 0x1100 - 0x80,
            5 => 0_u64.wrapping_sub(offset),
            6 => 1 << (offset & 63),
            _ => random.next_u64() | 1 << 63,
        };
        let length = match number >> 4 & 7 {
            0 => random.next_u64(),
            1 => 0,
            _ => offset >> 4 & 0x3ff,
        };
        let wholly_free = gpa >= FREE + (3 << 20) || gpa.saturating_add(length.min(LENGTH_MAX)) <= RAM;
        if function == Function::STATISTICS && !wholly_free {
            continue;
        }
        let (status, done) = buffer_call(function, gpa, length);
        check(done <= length, "more bytes were done than there are")?;
        let known = match status {
            0 => function == Function::STATISTICS || done == length,
            INVALID_PARAMETERS => done == 0 && length > LENGTH_MAX,
            INVALID_ADDRESS | DEVICE => done < length,
            _ => false,
        };
        check(known, "an answer that is none of those")?;
    }
    Ok(())
}
