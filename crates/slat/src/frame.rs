//! Frames that give themselves back, and stacks of frames taken ahead.
//!
//! An operation first takes all the frames that it needs into a [`FrameStack`]; if one is missing, dropping the
//! stack gives all back. The stack costs no memory: some of its frames list the others, which is sound because nobody
//! sees them yet.

#![expect(
    unsafe_code,
    reason = "gives frames back to the host, and links free frames through their own memory"
)]

use crate::addr::{HostPhysAddr, HostPhysRange, PAGE_SIZE};
use crate::hal::Hal;
use crate::isa;
use crate::sync::{AtomicU64, Ordering, make_words};

/// Number of 4 KiB frames in a leaf of `level`.
pub(crate) const fn frames_of_level(level: u8) -> usize {
    1 << (9 * level as u32)
}

/// A run of frames that belongs to whoever holds this; dropping it gives the frames back.
pub(crate) struct OwnedFrames<'h, H: Hal> {
    hal: &'h H,
    start: HostPhysAddr,
    count: usize,
}

impl<'h, H: Hal> OwnedFrames<'h, H> {
    /// Takes `count` contiguous frames aligned to `align` frames.
    pub(crate) fn alloc(hal: &'h H, count: usize, align: usize) -> Option<Self> {
        let start = hal.alloc_frames(count, align)?;
        debug_assert!(start.is_aligned(align as u64 * PAGE_SIZE), "the host ignored the alignment");
        let frames = Self { hal, start, count };
        let protected = |range| hal.is_protected(range);
        // Dropping them gives them back.
        if HostPhysRange::new(start, count as u64 * PAGE_SIZE).is_ok_and(protected) {
            None
        } else {
            Some(frames)
        }
    }

    /// Takes the frames behind one leaf of `level`.
    pub(crate) fn alloc_leaf(hal: &'h H, level: u8) -> Option<Self> {
        Self::alloc(hal, frames_of_level(level), frames_of_level(level))
    }

    /// Takes over frames that [`into_raw`](Self::into_raw) let go.
    ///
    /// # Safety
    /// The frames are taken from `hal` and nothing else will use them or give them back.
    pub(crate) unsafe fn from_raw(hal: &'h H, start: HostPhysAddr, count: usize) -> Self {
        Self { hal, start, count }
    }

    /// Lets go: the caller answers for the frames from now on.
    pub(crate) fn into_raw(self) -> HostPhysAddr {
        let start = self.start;
        core::mem::forget(self);
        start
    }

    /// First frame.
    pub(crate) fn start(&self) -> HostPhysAddr {
        self.start
    }

    /// Zeroes all of it, by the fastest way of the machine.
    pub(crate) fn zero(&mut self) {
        // SAFETY: the run was taken from this host and is ours alone.
        unsafe { self.hal.zero_frames(self.start, self.count) };
    }

    /// Zeroes all of it through the caches: for a table, which is written and walked at once.
    pub(crate) fn zero_table(&mut self) {
        let words = self.count * PAGE_SIZE as usize / size_of::<u64>();
        // SAFETY: the run is ours alone, and by promise 2 of `Hal` the pointer is valid for its whole length.
        unsafe { make_words(self.hal.phys_to_virt(self.start).cast(), words) };
    }

    /// The contents. The frames are ours alone, so no guest can change them meanwhile.
    pub(crate) fn as_mut_slice(&mut self) -> &mut [u8] {
        let bytes = self.count * PAGE_SIZE as usize;
        // SAFETY: the run is ours alone (`&mut self`), promise 2 of `Hal` makes the pointer valid for its whole
        // length, and every caller zeroed or copied into it first, so it is initialised.
        unsafe { core::slice::from_raw_parts_mut(self.hal.phys_to_virt(self.start), bytes) }
    }

    /// Copies all of `source`, frames that the guest may still read, into this run.
    ///
    /// # Safety
    /// `source` is a run of as many frames, taken from the same host, that no CPU can write any more.
    pub(crate) unsafe fn copy_from(&mut self, source: HostPhysAddr) {
        let bytes = self.count * PAGE_SIZE as usize;
        let (from, to) = (self.hal.phys_to_virt(source), self.hal.phys_to_virt(self.start));
        // SAFETY: both runs are taken and as long as that (the caller's promise and ours), and they are different
        // runs, so they do not overlap.
        unsafe { core::ptr::copy_nonoverlapping(from, to, bytes) };
    }
}

impl<H: Hal> OwnedFrames<'_, H> {
    /// As [`copy_from`](Self::copy_from), where guests may go on writing: each word is what it was at some moment.
    ///
    /// # Safety
    /// `source` is a run of as many frames, taken from the same host, and stays so.
    pub(crate) unsafe fn copy_from_live(&mut self, source: HostPhysAddr) {
        let bytes = self.count * PAGE_SIZE as usize;
        let (from, to) = (self.hal.phys_to_virt(source), self.hal.phys_to_virt(self.start));
        // SAFETY: both runs are taken and as long as that, the one to be written is ours alone, and the other one is read by
        // accesses that may race.
        unsafe { isa::read(from, to, bytes) };
    }
}

impl<H: Hal> Drop for OwnedFrames<'_, H> {
    fn drop(&mut self) {
        // SAFETY: the frames were taken from this host and are ours: nothing else refers to them.
        unsafe { self.hal.dealloc_frames(self.start, self.count) };
    }
}

/// Runs of frames taken ahead, all for leaves of one level (level 0: single frames, also for tables).
///
/// Every 511th run is the list of the next ones until its own turn comes, so that the others stay untouched: a frame
/// that is not in the caches is not brought there for a link.
pub(crate) struct FrameStack<'h, H: Hal> {
    hal: &'h H,
    level: u8,
    /// The run that is the list at present, and how many runs it names.
    head: Option<(HostPhysAddr, usize)>,
}

/// Words of a frame that is a list: the list below it, then the runs that it names. The list below is full.
const LIST_WORDS: usize = PAGE_SIZE as usize / size_of::<u64>();
const NO_LIST: u64 = u64::MAX;

impl<'h, H: Hal> FrameStack<'h, H> {
    /// An empty stack.
    pub(crate) fn new(hal: &'h H, level: u8) -> Self {
        Self { hal, level, head: None }
    }

    /// A stack of `len` runs, or `None` (and all given back) if one is missing.
    pub(crate) fn with(hal: &'h H, level: u8, len: usize) -> Option<Self> {
        let mut stack = Self::new(hal, level);
        for _ in 0..len {
            stack.take_one()?;
        }
        Some(stack)
    }

    /// Whether there is nothing to pop.
    pub(crate) fn is_empty(&self) -> bool {
        self.head.is_none()
    }

    /// The `index`th word of a list.
    fn word(&self, list: HostPhysAddr, index: usize) -> *mut u64 {
        debug_assert!(index < LIST_WORDS);
        self.hal.phys_to_virt(list).cast::<u64>().wrapping_add(index)
    }

    /// Takes one more run from the host.
    pub(crate) fn take_one(&mut self) -> Option<()> {
        let start = OwnedFrames::alloc_leaf(self.hal, self.level)?.into_raw();
        match &mut self.head {
            Some((list, named)) if *named + 1 < LIST_WORDS => {
                *named += 1;
                let (list, named) = (*list, *named);
                // SAFETY: the list is the first frame of a run that is ours alone, and the word lies inside.
                unsafe { self.word(list, named).write(start.as_u64()) };
            }
            head => {
                let below = head.map_or(NO_LIST, |(list, _)| list.as_u64());
                *head = Some((start, 0));
                // SAFETY: as above, for the run that was just taken.
                unsafe { self.word(start, 0).write(below) };
            }
        }
        Some(())
    }

    /// Takes the top run off the stack.
    pub(crate) fn pop(&mut self) -> Option<OwnedFrames<'h, H>> {
        let (list, named) = self.head?;
        // SAFETY: `take_one` wrote the first `named + 1` words of the list, which is ours alone.
        let word = unsafe { self.word(list, named).read() };
        let start = if named > 0 {
            self.head = Some((list, named - 1));
            HostPhysAddr::new(word)
        } else {
            self.head = (word != NO_LIST).then_some((HostPhysAddr::new(word), LIST_WORDS - 1));
            list
        };
        // SAFETY: the stack owned the run and has just let go of it.
        Some(unsafe { OwnedFrames::from_raw(self.hal, start, frames_of_level(self.level)) })
    }
}

impl<H: Hal> Drop for FrameStack<'_, H> {
    fn drop(&mut self) {
        while self.pop().is_some() {}
    }
}

/// Single frames kept ready for tables, shared by all CPUs: places that are taken and filled by one atomic exchange.
pub(crate) struct Spares {
    places: [AtomicU64; Self::PLACES],
}

impl Spares {
    /// How many frames can be kept.
    pub(crate) const PLACES: usize = 32;

    const EMPTY: u64 = u64::MAX;

    /// None are kept.
    pub(crate) fn new() -> Self {
        Self { places: core::array::from_fn(|_| AtomicU64::new(Self::EMPTY)) }
    }

    /// How many are kept at this moment.
    pub(crate) fn len(&self) -> usize {
        self.places.iter().filter(|place| place.load(Ordering::Relaxed) != Self::EMPTY).count()
    }

    /// Calls `visit` for each that is kept at this moment.
    pub(crate) fn visit(&self, visit: &mut dyn FnMut(HostPhysAddr)) {
        let kept = self.places.iter().map(|place| place.load(Ordering::Relaxed));
        kept.filter(|start| *start != Self::EMPTY).for_each(|start| visit(HostPhysAddr::new(start)));
    }

    /// Takes one out.
    pub(crate) fn take<'h, H: Hal>(&self, hal: &'h H) -> Option<OwnedFrames<'h, H>> {
        for place in &self.places {
            if place.load(Ordering::Relaxed) != Self::EMPTY {
                let start = place.swap(Self::EMPTY, Ordering::Acquire);
                if start != Self::EMPTY {
                    // SAFETY: `put` let go of this frame of the same host, and the exchange made it ours alone.
                    return Some(unsafe { OwnedFrames::from_raw(hal, HostPhysAddr::new(start), 1) });
                }
            }
        }
        None
    }

    /// Keeps a single frame; gives it back to the host if all places are taken.
    pub(crate) fn put<H: Hal>(&self, frame: OwnedFrames<'_, H>) {
        let start = frame.start().as_u64();
        let exchange = |place: &AtomicU64| {
            place.compare_exchange(Self::EMPTY, start, Ordering::Release, Ordering::Relaxed).is_ok()
        };
        if self.places.iter().any(exchange) {
            frame.into_raw();
        }
    }
}
