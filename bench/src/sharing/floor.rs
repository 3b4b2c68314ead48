//! What the hardware allows, on the frames of the same arena.

use super::host;
use super::works::{BLOCK, PAGE};
use crate::contender::Contender as _;
use crate::contenders::Floor;
use crate::frames;
use crate::measure::{GIB, Sample, timed};
use std::hint::black_box;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

const WRITE: u64 = 1 << 1;
const MARK: u64 = 1 << 9;

/// The entries of a table.
fn table(frame: u64) -> &'static [AtomicU64; 512] {
    // SAFETY: a frame of the arena, which lives as long as the process; it is only reached like this.
    unsafe { &*(frame as *const [AtomicU64; 512]) }
}

fn frame() -> u64 {
    frames::alloc().expect("a frame")
}

/// Copies a table, without the permission to write.
fn copy_table(from: u64, to: u64) {
    for (to, from) in table(to).iter().zip(table(from)) {
        to.store(from.load(Ordering::Acquire) & !WRITE, Ordering::Relaxed);
    }
}

/// A root with one entry, which the parent may only read through from now on; the same for the child, and where it is kept.
fn share(root: u64) -> [u64; 2] {
    let (child, kept) = (frame(), frame());
    for (index, entry) in table(root).iter().enumerate() {
        let value = entry.load(Ordering::Acquire);
        table(kept)[index].store(value, Ordering::Relaxed);
        table(child)[index].store(value & !WRITE, Ordering::Relaxed);
        if value != 0 {
            entry.fetch_and(!WRITE, Ordering::AcqRel);
        }
    }
    [child, kept]
}

/// The root of a parent.
fn root() -> u64 {
    host::begin();
    let root = frame();
    frames::zero(root);
    table(root)[0].store(frame() | 7, Ordering::Relaxed);
    root
}

/// Copies a root twice; per fork.
pub(super) fn fork(forks: u64) -> Sample {
    let (root, mut all) = (root(), Sample { nanoseconds: 0.0, units: forks });
    for _ in 0..forks {
        let mut taken = [0; 2];
        all.nanoseconds += timed(1, || taken = share(black_box(root))).nanoseconds;
        assert_eq!(table(taken[0])[0].load(Ordering::Relaxed) & WRITE, 0, "the child can only read");
        taken.into_iter().for_each(frames::free);
    }
    all
}

/// Copies a root `count` times; for all.
pub(super) fn children(count: u64) -> Sample {
    let root = root();
    timed(1, || {
        for _ in 0..count {
            let child = frame();
            copy_table(black_box(root), child);
        }
    })
}

/// The first `tables` leaf tables of a guest of 1 GiB, populated.
fn populated(tables: u64) -> Floor {
    host::begin();
    let mut floor = Floor::new();
    floor.declare(0, GIB);
    (0..tables * BLOCK).step_by(PAGE as usize).for_each(|gpa| floor.fault(gpa));
    floor
}

/// The same, and filled: a parent, whose pages are shared.
fn parent(tables: u64) -> Floor {
    let floor = populated(tables);
    for gpa in (0..tables * BLOCK).step_by(PAGE as usize) {
        let frame = floor.translate(gpa).expect("the page is there");
        // SAFETY: a frame of the arena, which the floor has taken; no reference to it is alive.
        unsafe { std::slice::from_raw_parts_mut(frame as *mut u64, 512) }.fill(gpa + 1);
    }
    floor
}

/// Copies each page of `tables` leaf tables, one fault each, also right after one another; per page.
pub(super) fn writes(tables: u64, back_to_back: bool) -> Sample {
    let floor = parent(tables);
    let pages = || (0..tables * BLOCK).step_by(PAGE as usize);
    let sample = timed(tables * 512, || {
        if back_to_back {
            return pages().for_each(|gpa| floor.copy_on_write(black_box(gpa)));
        }
        pages().for_each(|gpa| {
            host::enter_and_exit();
            floor.copy_on_write(black_box(gpa));
        });
    });
    check(&floor, (tables * 512 - 1) * PAGE);
    sample
}

fn check(floor: &Floor, gpa: u64) {
    let frame = floor.translate(gpa).expect("the page is there");
    // SAFETY: a frame of the arena, which nobody writes to meanwhile.
    assert_eq!(unsafe { *(frame as *const u64) }, gpa + 1, "the copy holds the same");
}

/// As [`writes`] for one page each of `forks` forks, with `levels` tables above that are copied, and a count for each entry
/// that is then in two tables; per page.
pub(super) fn cold(forks: u64, levels: u8) -> Sample {
    let floor = parent(forks);
    let counts: Vec<AtomicU32> = (0..1 << 19).map(|_| AtomicU32::new(1)).collect();
    let count_of = |entry: u64| &counts[(entry / PAGE) as usize % counts.len()];
    let copies: Vec<AtomicU64> = (0..forks).map(|_| AtomicU64::new(0)).collect();
    let leaves = |fork: u64| floor.leaf_table(fork * BLOCK);
    let sample = timed(forks, || {
        for fork in 0..forks {
            host::enter_and_exit();
            // All levels are as full as the leaf table.
            for _ in 0..levels {
                let (from, to) = (leaves(fork), frame());
                copy_table(from, to);
                for entry in table(from) {
                    count_of(entry.load(Ordering::Relaxed)).fetch_add(1, Ordering::Relaxed);
                }
                copies[fork as usize].store(to, Ordering::Release);
            }
            floor.copy_on_write(black_box(fork * BLOCK));
        }
    });
    let counted: u64 = counts.iter().map(|count| u64::from(count.load(Ordering::Relaxed)) - 1).sum();
    assert_eq!(counted, forks * 512 * u64::from(levels), "each entry was counted");
    check(&floor, 0);
    sample
}

/// One atomic read-modify-write for each leaf of 1 GiB; per leaf.
pub(super) fn log() -> Sample {
    let mut floor = populated(GIB / BLOCK);
    timed(GIB / PAGE, || floor.protect_atomic(0, black_box(GIB)))
}

/// Looks at each leaf of `bytes`, of which one in a hundred has a mark, which is taken away; per leaf without.
pub(super) fn collect(bytes: u64) -> Sample {
    let floor = populated(bytes / BLOCK);
    let slots: Vec<&[AtomicU64; 512]> =
        (0..bytes).step_by(BLOCK as usize).map(|gpa| table(floor.leaf_table(gpa))).collect();
    let marked = bytes / PAGE / 100;
    (0..marked).for_each(|mark| {
        slots[(mark * 100 / 512) as usize][(mark * 100 % 512) as usize].fetch_or(MARK, Ordering::Relaxed);
    });
    host::cool_down();
    let mut found = 0;
    let sample = timed(bytes / PAGE - marked, || {
        for entry in slots.iter().flat_map(|table| table.iter()) {
            if entry.load(Ordering::Relaxed) & MARK != 0 {
                entry.fetch_and(!MARK, Ordering::Relaxed);
                found += 1;
            }
        }
    });
    assert_eq!(found, marked, "each mark was found");
    sample
}
