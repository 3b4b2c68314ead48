//! The host of every contender: frames of one large, pre-faulted allocation.
//!
//! Host physical addresses are the addresses of this process, so reaching a frame costs nothing. A thread has a share
//! of the arena for itself, a stack of free frames: taking or giving back a frame is a few instructions without any
//! atomic one, for every contender the same. [`take_share`] begins anew: the frames of earlier samples are used again.
//!
//! The frames come in scattered order, as on a host that has been up for a while. In ascending order `memset` of one
//! frame after the other costs a third, because the hardware sees it coming; no hypervisor is that lucky for long.

use std::cell::UnsafeCell;
use std::sync::OnceLock;

/// Bytes of a frame.
pub(crate) const FRAME: u64 = 4096;
/// From one free frame to the next; a prime.
const STRIDE: usize = 48_271;
/// Shares at most: the main thread and two others.
const SHARES: usize = 3;

struct Arena {
    base: u64,
    frames: usize,
    stacks: [u64; SHARES],
}

struct Share {
    stack: *mut u64,
    free: usize,
    capacity: usize,
    run: u64,
    end: u64,
    /// Frames that were free at first, and where runs began.
    at_first: (usize, u64),
}

static ARENA: OnceLock<Arena> = OnceLock::new();

thread_local! {
    static SHARE: UnsafeCell<Share> = const {
        UnsafeCell::new(Share {
            stack: std::ptr::null_mut(),
            free: 0,
            capacity: 0,
            run: 0,
            end: 0,
            at_first: (0, 0),
        })
    };
}

/// Maps and touches `bytes` bytes, in huge pages where the kernel has them.
fn map(bytes: usize) -> u64 {
    const HUGE: usize = 2 << 20;
    let (protection, flags) = (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS);
    // SAFETY: a new anonymous mapping at an address of the kernel's choice.
    let start = unsafe { libc::mmap(std::ptr::null_mut(), bytes + HUGE, protection, flags, -1, 0) };
    assert!(start != libc::MAP_FAILED, "the kernel gives {} MiB", bytes >> 20);
    let start = (start as usize).next_multiple_of(HUGE);
    // SAFETY: advice about the mapping above; a refusal changes nothing.
    unsafe { libc::madvise(start as *mut libc::c_void, bytes, libc::MADV_HUGEPAGE) };
    for offset in (0..bytes).step_by(FRAME as usize) {
        // SAFETY: inside the mapping, which nobody uses yet.
        unsafe { ((start + offset) as *mut u64).write_volatile(0) };
    }
    start as u64
}

/// Sets the arena up.
pub(crate) fn init(frames: usize) {
    ARENA.get_or_init(|| Arena {
        base: map(frames * FRAME as usize),
        frames,
        stacks: std::array::from_fn(|_| map(frames * size_of::<u64>())),
    });
}

/// Gives this thread share `index` of `shares` of all frames. What any thread took before is forgotten, so nobody
/// may use it any more; no two threads may have overlapping shares.
pub(crate) fn take_share(index: usize, shares: usize) {
    let arena = ARENA.get().expect("init comes first");
    let each = arena.frames / shares;
    let start = arena.base + (index * each) as u64 * FRAME;
    // The last eighth is for runs.
    let single = each - each / 8;
    let stack = arena.stacks[index] as *mut u64;
    assert!(!single.is_multiple_of(STRIDE), "the stride reaches every frame");
    let mut frame = 0;
    for slot in 0..single {
        // SAFETY: the stack has room for all frames of the arena.
        unsafe { stack.add(slot).write(start + frame as u64 * FRAME) };
        frame = (frame + STRIDE) % single;
    }
    let (run, end) = (start + single as u64 * FRAME, start + each as u64 * FRAME);
    let share = Share { stack, free: single, capacity: arena.frames, run, end, at_first: (single, run) };
    // SAFETY: only this thread reaches its cell, and no reference into it outlives the functions of this file.
    SHARE.with(|cell| unsafe { *cell.get() = share });
}

/// Frames that this thread has taken from its share and not given back.
pub(crate) fn in_use() -> u64 {
    SHARE.with(|cell| {
        // SAFETY: only this thread reaches its cell, and nothing below calls back.
        let share = unsafe { &*cell.get() };
        let (single, run) = share.at_first;
        // What comes back of a run lies on the stack afterwards.
        single as u64 + (share.run - run) / FRAME - share.free as u64
    })
}

/// A frame, its contents anything.
#[inline]
pub(crate) fn alloc() -> Option<u64> {
    SHARE.with(|cell| {
        // SAFETY: only this thread reaches its cell, and nothing below calls back.
        let share = unsafe { &mut *cell.get() };
        share.free = share.free.checked_sub(1)?;
        // SAFETY: below `free` the stack was written.
        Some(unsafe { share.stack.add(share.free).read() })
    })
}

/// Takes a frame back.
#[inline]
pub(crate) fn free(frame: u64) {
    SHARE.with(|cell| {
        // SAFETY: only this thread reaches its cell, and nothing below calls back.
        let share = unsafe { &mut *cell.get() };
        assert!(share.free < share.capacity, "more frames came back than there are");
        // SAFETY: the stack has room for `capacity` entries.
        unsafe { share.stack.add(share.free).write(frame) };
        share.free += 1;
    });
}

/// `count` contiguous frames, aligned to `align` frames. Runs have their own part of the share, in which nothing is
/// used twice before the next sample.
#[inline]
pub(crate) fn alloc_run(count: usize, align: usize) -> Option<u64> {
    if count == 1 && align <= 1 {
        return alloc();
    }
    alloc_contiguous(count, align)
}

#[cold]
fn alloc_contiguous(count: usize, align: usize) -> Option<u64> {
    SHARE.with(|cell| {
        // SAFETY: only this thread reaches its cell, and nothing below calls back.
        let share = unsafe { &mut *cell.get() };
        let start = share.run.next_multiple_of(align.max(1) as u64 * FRAME);
        let end = start + count as u64 * FRAME;
        (end <= share.end).then(|| {
            share.run = end;
            start
        })
    })
}

/// Takes a run back, frame by frame.
#[inline]
pub(crate) fn free_run(start: u64, count: usize) {
    for index in 0..count as u64 {
        free(start + index * FRAME);
    }
}

/// Zeroes a frame as a contender's host would: the library's memset.
#[inline]
pub(crate) fn zero(frame: u64) {
    // SAFETY: the caller holds the frame, which is mapped and 4 KiB long.
    unsafe { std::ptr::write_bytes(frame as *mut u8, 0, FRAME as usize) };
}
