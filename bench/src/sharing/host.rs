//! The host of spaces that share memory: the arena, and a stretch of reserved addresses for large leaves.
//!
//! Tables and 4 KiB leaves are frames of the arena. A run of 2 MiB comes from 1 TiB of addresses behind which the kernel
//! puts memory only where somebody writes: to the pages that a work writes to, and to the few frames in which slat lists
//! runs while it populates. Invalidations and frames are counted; the hook does nothing else.

use crate::frames::{self, FRAME};
use slat::{Hal, HostPhysAddr, Invalidation, Reach};
use std::arch::x86_64::_mm_lfence;
use std::cell::Cell;
use std::ops::Sub;
use std::sync::OnceLock;

/// Frames from which on a run is one of the reserved addresses.
const LARGE: usize = 512;
/// Bytes of addresses: what the largest guest has, and the start of a leaf.
const RESERVED: u64 = (1 << 40) + (4 << 30);

/// What a host has given and was told, up to some moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Counts {
    /// Frames that are taken.
    pub(super) frames: i64,
    /// Invalidations on all CPUs.
    pub(super) invalidations: i64,
}

impl Sub for Counts {
    type Output = Self;

    fn sub(self, earlier: Self) -> Self {
        Self {
            frames: self.frames - earlier.frames,
            invalidations: self.invalidations - earlier.invalidations,
        }
    }
}

thread_local! {
    static FRAMES: Cell<i64> = const { Cell::new(0) };
    static INVALIDATIONS: Cell<i64> = const { Cell::new(0) };
    /// Offset of the next run in the reserved addresses.
    static NEXT_RUN: Cell<u64> = const { Cell::new(0) };
}

static RUNS: OnceLock<u64> = OnceLock::new();

/// Reserves the addresses.
fn reserve() -> u64 {
    let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE;
    let (protection, bytes) = (libc::PROT_READ | libc::PROT_WRITE, RESERVED as usize);
    // SAFETY: a new anonymous mapping at an address of the kernel's choice.
    let start = unsafe { libc::mmap(std::ptr::null_mut(), bytes, protection, flags, -1, 0) };
    assert!(
        start != libc::MAP_FAILED,
        "the kernel reserves 1 TiB of addresses (vm.overcommit_memory is not 2)"
    );
    // SAFETY: advice about the mapping above; a refusal changes nothing.
    unsafe { libc::madvise(start, bytes, libc::MADV_NOHUGEPAGE) };
    start as u64
}

/// Whether `hpa` is one of the reserved addresses. They are reserved when the first run is asked for.
fn is_reserved(hpa: u64) -> bool {
    RUNS.get().is_some_and(|start| (*start..start + RESERVED).contains(&hpa))
}

/// Begins anew: whatever was taken before is forgotten, so nobody may use it any more.
pub(super) fn begin() {
    frames::take_share(0, 1);
    NEXT_RUN.set(0);
    FRAMES.set(0);
    INVALIDATIONS.set(0);
}

/// What was counted since it [began](begin).
pub(super) fn counts() -> Counts {
    Counts { frames: FRAMES.get(), invalidations: INVALIDATIONS.get() }
}

/// What lies between two faults of a guest: an entry and an exit, over which a CPU carries nothing on that is under way.
/// Without it the copy of one page overlaps with the fault before, if that is short enough.
#[inline]
pub(super) fn enter_and_exit() {
    // SAFETY: a fence; it changes nothing.
    unsafe { _mm_lfence() };
}

/// Puts what was populated just now out of the caches, in a guest of any size: writes to as much as they hold.
pub(super) fn cool_down() {
    thread_local! {
        static OTHER: Vec<Cell<u64>> = vec![Cell::new(0); 96 << 17];
    }
    OTHER.with(|other| other.iter().step_by(8).for_each(|word| word.set(word.get() + 1)));
}

#[cold]
fn alloc_large(count: usize, align: usize) -> Option<u64> {
    let first = *RUNS.get_or_init(reserve);
    let start = (first + NEXT_RUN.get()).next_multiple_of(align as u64 * FRAME);
    let end = start + count as u64 * FRAME;
    (end <= first + RESERVED).then(|| {
        NEXT_RUN.set(end - first);
        start
    })
}

/// The host.
#[derive(Clone, Copy, Debug)]
pub(super) struct Host;

// SAFETY: frames are those of the arena or of the reserved addresses, each of which is given once, identity-mapped; no
// CPU ever walks the tables.
unsafe impl Hal for Host {
    #[inline]
    fn alloc_frames(&self, count: usize, align: usize) -> Option<HostPhysAddr> {
        let start = if count < LARGE { frames::alloc_run(count, align) } else { alloc_large(count, align) };
        if start.is_some() {
            FRAMES.set(FRAMES.get() + count as i64);
        }
        start.map(HostPhysAddr::new)
    }

    #[inline]
    unsafe fn dealloc_frames(&self, start: HostPhysAddr, count: usize) {
        FRAMES.set(FRAMES.get() - count as i64);
        let start = start.as_u64();
        // What is reserved is not used twice before it begins anew.
        if !is_reserved(start) {
            frames::free_run(start, count);
        }
    }

    #[inline]
    fn phys_to_virt(&self, hpa: HostPhysAddr) -> *mut u8 {
        hpa.as_u64() as *mut u8
    }

    /// Frames count as zeroed already: no work is about that.
    #[inline]
    unsafe fn zero_frames(&self, _start: HostPhysAddr, _count: usize) {}

    #[inline]
    fn invalidate(&self, invalidation: &Invalidation<'_>) {
        if invalidation.reach == Reach::AllCpus {
            INVALIDATIONS.set(INVALIDATIONS.get() + 1);
        }
    }
}
