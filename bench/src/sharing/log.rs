//! The dirty log: what slat does, in any format; what was timed is checked afterwards.

use super::host;
use super::works::{BLOCK, Made, PAGE, Space, at, guest};
use crate::measure::{Sample, timed};
use slat::LogUnit;
use slat::format::Format;
use std::hint::black_box;

/// The guest writes to one page in so many.
const EVERY: u64 = 100;

/// The guest writes to the page at `gpa`, which is there.
fn write<F: Format>(space: &Space<F>, gpa: u64) {
    space.memory().write_obj(at(gpa), gpa + 1).expect("the page is there");
}

/// All pages from 0 on that are dirty.
fn collect<F: Format>(space: &mut Space<F>, bytes: u64) -> Vec<u64> {
    let mut dirty = Vec::new();
    let pages = space.collect_dirty(at(0), bytes, |range| {
        dirty.extend((range.start().as_u64()..range.end().as_u64()).step_by(PAGE as usize));
    });
    assert_eq!(pages, Ok(dirty.len() as u64), "as many as were told");
    dirty
}

/// Starts the log of a guest of `bytes` in 4 KiB leaves, each of which was written to; per leaf.
pub(super) fn start_small<F: Format>(format: F, bytes: u64) -> Sample {
    let mut space = guest(format, bytes, Made::Small);
    (0..bytes).step_by(PAGE as usize).for_each(|gpa| write(&space, gpa));
    start(&mut space, bytes, bytes / PAGE)
}

/// Starts the log of a guest of `bytes` in 2 MiB leaves, none of whose tables is in the caches; per table of 512 of them.
pub(super) fn start_large<F: Format>(format: F, bytes: u64) -> Sample {
    let mut space = guest(format, bytes, Made::Large);
    host::cool_down();
    start(&mut space, bytes, bytes / (512 * BLOCK))
}

fn start<F: Format>(space: &mut Space<F>, bytes: u64, units: u64) -> Sample {
    let before = host::counts();
    let sample = timed(units, || {
        space.start_dirty_log(at(0), black_box(bytes), LogUnit::Page).expect("start_dirty_log");
    });
    let made = host::counts() - before;
    assert_eq!((made.frames, made.invalidations), (0, 1), "no frames, one invalidation");
    assert!(collect(space, bytes).is_empty(), "all is clean");
    write(space, bytes - BLOCK + 3 * PAGE);
    assert_eq!(collect(space, bytes), [bytes - BLOCK + 3 * PAGE], "a write is told, as a page");
    sample
}

/// Collects what was written to in a guest of `bytes` in 4 KiB leaves: one page in a hundred, or none; per clean leaf. No
/// table is in the caches.
pub(super) fn collect_dirty<F: Format>(format: F, bytes: u64, clean: bool) -> Sample {
    let mut space = guest(format, bytes, Made::Small);
    space.start_dirty_log(at(0), bytes, LogUnit::Page).expect("start_dirty_log");
    let written: Vec<u64> = (0..bytes / PAGE).step_by(EVERY as usize).map(|page| page * PAGE).collect();
    let written = if clean { Vec::new() } else { written };
    written.iter().for_each(|gpa| write(&space, *gpa));
    host::cool_down();
    let (before, mut told, mut pages) = (host::counts(), Vec::with_capacity(written.len()), 0);
    let sample = timed(bytes / PAGE - written.len() as u64, || {
        let visit = |range: slat::GuestPhysRange| told.push((range.start().as_u64(), range.size()));
        pages = space.collect_dirty(at(0), black_box(bytes), visit).expect("collect_dirty");
    });
    let made = host::counts() - before;
    assert_eq!(made.frames, 0, "no frames");
    assert_eq!(made.invalidations, i64::from(!clean), "one invalidation, if anything was dirty");
    assert_eq!(pages, written.len() as u64, "as many as were written to");
    assert!(told.iter().copied().eq(written.iter().map(|gpa| (*gpa, PAGE))), "and those");
    assert!(collect(&mut space, bytes).is_empty(), "all is clean again");
    sample
}
