//! What slat does, in any format; what was timed is checked afterwards, frames and invalidations exactly.

use super::host::{self, Counts, Host};
use crate::measure::{GIB, Sample, timed};
use slat::format::Format;
use slat::{AddrSpace, AllocOptions, FaultOutcome, GuestPhysAddr, LeafSize, MappingFlags};
use std::hint::black_box;

pub(super) const PAGE: u64 = 4096;
/// Bytes below one table of 4 KiB leaves.
pub(super) const BLOCK: u64 = 512 * PAGE;
/// All that a format of 40 bits can translate.
const SPACE: u64 = 1 << 40;
const RW: MappingFlags = MappingFlags::READ.union(MappingFlags::WRITE);

pub(super) type Space<F> = AddrSpace<Host, F>;

pub(super) fn at(gpa: u64) -> GuestPhysAddr {
    GuestPhysAddr::new(gpa)
}

/// What a guest's memory is made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Made {
    /// Leaves of 4 KiB.
    Small,
    /// Leaves of 2 MiB.
    Large,
    /// One page of 4 KiB below each GiB.
    Sparse,
}

/// A guest on a host that begins anew, populated from 0 to `bytes`.
pub(super) fn guest<F: Format>(format: F, bytes: u64, made: Made) -> Space<F> {
    host::begin();
    let mut space = Space::with_format(Host, format, at(0), SPACE, 1).expect("an empty space");
    let largest_leaf = if made == Made::Large { LeafSize::Size2M } else { LeafSize::Size4K };
    let options = AllocOptions { populate: made != Made::Sparse, largest_leaf, ..AllocOptions::default() };
    space.map_alloc_with(at(0), bytes, RW, options).expect("map_alloc_with");
    if made == Made::Sparse {
        (0..bytes)
            .step_by(GIB as usize)
            .for_each(|gpa| write(&space, gpa, FaultOutcome::Populated(LeafSize::Size4K)));
    }
    space
}

/// The guest writes to a page, and the answer is to be `outcome`.
#[inline]
fn write<F: Format>(space: &Space<F>, gpa: u64, outcome: FaultOutcome) {
    let answer = space.handle_page_fault(black_box(at(gpa)), MappingFlags::WRITE);
    assert!(answer.is_ok_and(|answer| answer == outcome), "the write to {gpa:#x} is {outcome:?}");
}

const COPIED: FaultOutcome = FaultOutcome::Copied(LeafSize::Size4K);

/// The words of the page at `gpa`.
fn words<F: Format>(space: &Space<F>, gpa: u64) -> &[u64] {
    let frame = space.translate(at(gpa)).expect("the page is there").as_u64();
    // SAFETY: host physical addresses are addresses of this process, and nobody writes to the page meanwhile.
    unsafe { std::slice::from_raw_parts(frame as *const u64, 512) }
}

/// Fills the page at `gpa` with `value`, whoever has it.
fn fill<F: Format>(space: &Space<F>, gpa: u64, value: u64) {
    let frame = space.translate(at(gpa)).expect("the page is there").as_u64();
    // SAFETY: as above, and no reference to it is alive.
    unsafe { std::slice::from_raw_parts_mut(frame as *mut u64, 512) }.fill(value);
}

fn holds<F: Format>(space: &Space<F>, gpa: u64, value: u64) -> bool {
    words(space, gpa).iter().all(|word| *word == value)
}

/// Entries of the root that `bytes` bytes from 0 on use.
pub(super) fn root_entries(format: &impl Format, bytes: u64) -> u64 {
    bytes.div_ceil(PAGE << (9 * format.geometry().root_level()))
}

/// Frames of a fork of a guest with one region: its root, its region, and the version's where one is made.
fn frames_of_fork(format: &impl Format, bytes: u64, version: bool) -> i64 {
    let version = if version { root_entries(format, bytes).div_ceil(250) } else { 0 };
    i64::from(format.geometry().root_tables) + 1 + version as i64
}

/// Forks a guest of which nothing is shared yet, again and again; per fork.
pub(super) fn fork<F: Format>(format: F, bytes: u64, made: Made, forks: u64) -> Sample {
    let mut space = guest(format, bytes, made);
    let expected = Counts { frames: frames_of_fork(&format, bytes, true), invalidations: 1 };
    assert!(
        format.geometry().levels < 4 || expected.frames <= 3,
        "EPT and NPT take three frames at the most"
    );
    let pages = [0, bytes / (2 * GIB) * GIB, bytes.saturating_sub(GIB)];
    pages.iter().for_each(|gpa| fill(&space, *gpa, gpa + 1));
    let (whole, mut all) = (host::counts().frames, Sample { nanoseconds: 0.0, units: forks });
    for _ in 0..forks {
        let (before, mut child) = (host::counts(), None);
        all.nanoseconds += timed(1, || child = space.fork(2).ok()).nanoseconds;
        let child = child.expect("fork");
        assert_eq!(host::counts() - before, expected, "frames and invalidations of a fork");
        for gpa in pages {
            assert_eq!(child.translate(at(gpa)), space.translate(at(gpa)), "both have the page at {gpa:#x}");
            assert!(holds(&child, gpa, gpa + 1), "its contents are what they were");
        }
        drop(child);
        assert_eq!(space.consolidate(), 1, "the guest has all for itself again");
        assert_eq!(host::counts().frames, whole, "all frames of the fork came back");
    }
    all
}

/// Forks one guest `count` times, all of which live; for all. With `writes`, the guest writes to a page before each.
pub(super) fn children<F: Format>(format: F, count: u64, writes: bool) -> Sample {
    let mut space = guest(format, GIB, Made::Small);
    let mut children = Vec::with_capacity(count as usize);
    let (before, mut all) = (host::counts(), Sample { nanoseconds: 0.0, units: 1 });
    let page = |index: u64| index % 512 * BLOCK + index / 512 * PAGE;
    fill(&space, 0, 0);
    if writes {
        for index in 0..count {
            if index > 0 {
                write(&space, page(index - 1), COPIED);
                fill(&space, page(index - 1), index);
            }
            let mut child = None;
            all.nanoseconds += timed(1, || child = space.fork(2).ok()).nanoseconds;
            children.extend(child);
        }
    } else {
        all = timed(1, || {
            for _ in 0..count {
                children.extend(space.fork(black_box(2)));
            }
        });
    }
    assert_eq!(children.len() as u64, count, "each fork is there");
    let made = host::counts() - before;
    if writes {
        assert_eq!(made.invalidations as u64, count + (count - 1), "one for each fork, one for each page");
        for index in [1, count / 2, count - 1] {
            let (old, new) = (&children[index as usize - 1], &children[index as usize]);
            assert!(holds(new, page(index - 1), index), "a fork has what was written before it");
            assert_ne!(
                old.translate(at(page(index - 1))),
                new.translate(at(page(index - 1))),
                "and no earlier one"
            );
        }
    } else {
        let each = frames_of_fork(&format, GIB, false);
        let expected = Counts { frames: count as i64 * each + 1, invalidations: 1 };
        assert_eq!(made, expected, "one version and one invalidation for all");
        assert!(children.iter().all(|child| child.translate(at(0)) == space.translate(at(0))));
    }
    all
}

/// Which pages a fork writes to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Written {
    /// All but the first below each of so many leaf tables, which have a copy of their own already.
    Private(u64),
    /// The same, one fault right after the other.
    BackToBack(u64),
    /// All of them, the first of each copies the table.
    Whole(u64),
    /// One each of so many forks.
    Cold(u64),
}

/// The first writes to pages after a fork, in a guest of `bytes`; per page.
pub(super) fn writes<F: Format>(format: F, bytes: u64, written: Written) -> Sample {
    let mut space = guest(format, bytes, Made::Small);
    let (tables, forks, first) = match written {
        Written::Private(tables) | Written::BackToBack(tables) => (tables, 1, 1),
        Written::Whole(tables) => (tables, 1, 0),
        Written::Cold(forks) => (0, forks, 0),
    };
    let of_table = |table: u64| (first..512).map(move |page| table * BLOCK + page * PAGE);
    let pages: Vec<u64> = match written {
        Written::Cold(forks) => (0..forks).map(|fork| fork % (bytes / BLOCK) * BLOCK).collect(),
        _ => (0..tables).flat_map(of_table).collect(),
    };
    pages.iter().for_each(|gpa| fill(&space, *gpa, gpa + 1));
    let children: Vec<Space<F>> = (0..forks).map(|_| space.fork(2).expect("fork")).collect();
    let mut copies = match written {
        Written::Cold(forks) => forks * u64::from(format.geometry().root_level()),
        _ => tables + u64::from(format.geometry().root_level() - 1),
    };
    if let Written::Private(_) | Written::BackToBack(_) = written {
        (0..tables).for_each(|table| write(&children[0], table * BLOCK, COPIED));
        copies = 0;
    }
    let before = host::counts();
    let fault = |child: &Space<F>, gpa: u64| {
        host::enter_and_exit();
        write(child, gpa, COPIED);
    };
    let sample = timed(pages.len() as u64, || match (children.as_slice(), written) {
        ([child], Written::BackToBack(_)) => pages.iter().for_each(|gpa| write(child, *gpa, COPIED)),
        ([child], _) => pages.iter().for_each(|gpa| fault(child, *gpa)),
        (children, _) => children.iter().zip(&pages).for_each(|(child, gpa)| fault(child, *gpa)),
    });
    let count = pages.len() as i64;
    let expected = Counts { frames: count + copies as i64, invalidations: count };
    assert_eq!(
        host::counts() - before,
        expected,
        "a frame and an invalidation for each page, and the tables"
    );
    for (index, gpa) in pages.iter().enumerate() {
        let child = &children[index % children.len()];
        assert_ne!(child.translate(at(*gpa)), space.translate(at(*gpa)), "the fork has a copy of {gpa:#x}");
        assert!(holds(child, *gpa, gpa + 1) && holds(&space, *gpa, gpa + 1), "with the same contents");
    }
    sample
}

/// Pages that are written to before a guest goes back.
const RESET: u64 = 1000;

/// Goes back to a snapshot after 1,000 pages were written to, the same ones in a guest of any size; per reset.
pub(super) fn reset<F: Format>(format: F, bytes: u64, resets: u64) -> Sample {
    let mut space = guest(format, bytes, Made::Large);
    // Eight below every fourth leaf of the first GiB.
    let pages: Vec<u64> = (0..RESET).map(|page| page / 8 * 4 * BLOCK + page % 8 * 32 * PAGE).collect();
    pages.iter().for_each(|gpa| fill(&space, *gpa, gpa + 1));
    let frames: Vec<_> = pages.iter().map(|gpa| space.translate(at(*gpa))).collect();
    let snapshot = space.snapshot().expect("snapshot");
    let (whole, mut all) = (host::counts().frames, Sample { nanoseconds: 0.0, units: resets });
    for _ in 0..resets {
        for gpa in &pages {
            write(&space, *gpa, COPIED);
            fill(&space, *gpa, 0);
        }
        let before = host::counts();
        all.nanoseconds += timed(1, || space.reset(&snapshot).expect("reset")).nanoseconds;
        assert_eq!((host::counts() - before).invalidations, 1, "one invalidation");
        assert_eq!(host::counts().frames, whole, "all that was written to went back");
        for (gpa, frame) in pages.iter().zip(&frames) {
            assert_eq!(space.translate(at(*gpa)), *frame, "{gpa:#x} is where it was");
            assert!(holds(&space, *gpa, gpa + 1), "and holds what it held");
        }
    }
    all
}
