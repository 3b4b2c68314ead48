//! A host on the heap, for tests, examples and experiments on a development machine.

#![expect(unsafe_code, reason = "implements Hal on the heap")]

mod backends;
mod pager;

pub use backends::{FrameBackend, check_backend};
pub use pager::MemoryPager;

use crate::addr::{HostPhysAddr, HostPhysRange, PAGE_SIZE};
use crate::hal::{CacheActions, CacheMaintenance, Hal};
use crate::tlb::{Invalidation, Reach, Scope};
use crate::{GuestPhysRange, LeafSize};
use std::alloc::{Layout, alloc, dealloc};
use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::vec::Vec;

/// Byte that fresh frames are filled with: what a previous owner left behind.
const LEFT_BEHIND: u8 = 0x5a;
/// Byte that frames are filled with when they come back.
const POISON: u8 = 0xa5;
/// "Host physical" addresses of the first frame handed out.
const FIRST_HPA: u64 = 0x8000_0000;

/// What an address space asked its host to do, in order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// A run of frames was taken.
    Alloc(HostPhysAddr, usize),
    /// A run of frames came back.
    Dealloc(HostPhysAddr, usize),
    /// An entry was written: its address and value.
    Store(HostPhysAddr, u64),
    /// The whole space was invalidated.
    InvalidateSpace(Reach),
    /// All spaces were invalidated.
    InvalidateAllSpaces(Reach),
    /// Ranges were invalidated.
    InvalidateRanges(Vec<GuestPhysRange>, LeafSize, Reach),
    /// Stores were published.
    Publish,
    /// Cache maintenance of a run of frames.
    Maintain(HostPhysAddr, usize, CacheActions),
    /// A run of frames was zeroed.
    Zeroed(HostPhysAddr, usize),
}

#[derive(Debug, Default)]
struct State {
    /// Blocks from the heap by the "physical" address they pretend to have: pointer, layout, frames still taken.
    blocks: BTreeMap<u64, Block>,
    next: u64,
    taken: usize,
    returned: usize,
    /// Allocations until one is refused, and whether all later ones are refused too.
    fail_after: Option<usize>,
    largest: Option<usize>,
    most: Option<usize>,
    protected: Vec<HostPhysRange>,
    events: Option<Vec<Event>>,
}

#[derive(Debug)]
struct Block {
    pointer: usize,
    frames: usize,
    taken: Vec<bool>,
    left: usize,
}

/// A host whose frames come from the heap, under made-up host physical addresses. It checks every promise that slat
/// makes: frames come back once, and only frames that were taken. Each one is a world of its own.
#[derive(Debug, Default)]
pub struct HeapHal {
    state: Mutex<State>,
}

impl HeapHal {
    /// A host without a frame taken.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Frames of 4 KiB that are taken at this moment.
    #[must_use]
    pub fn in_use(&self) -> usize {
        let state = self.lock();
        state.taken - state.returned
    }

    /// Frames of 4 KiB taken since the beginning.
    #[must_use]
    pub fn taken(&self) -> usize {
        self.lock().taken
    }

    /// Refuses every allocation after the next `successes` ones; `None` allows all again.
    pub fn fail_after(&self, successes: Option<usize>) {
        self.lock().fail_after = successes;
    }

    /// Refuses runs of more than `frames` frames, as a fragmented host does; `None` allows all again.
    pub fn limit_runs(&self, frames: Option<usize>) {
        self.lock().largest = frames;
    }

    /// Refuses what would make more than `frames` frames of 4 KiB be taken at once, as a host does that has no more;
    /// `None` allows all again.
    pub fn limit_in_use(&self, frames: Option<usize>) {
        self.lock().most = frames;
    }

    /// Makes `range` the host's own, which no guest may reach.
    pub fn protect(&self, range: HostPhysRange) {
        self.lock().protected.push(range);
    }

    /// The address of the first frame of the next run that is taken, if that asks for no more than 4 KiB of alignment.
    #[must_use]
    pub fn next_frame(&self) -> HostPhysAddr {
        HostPhysAddr::new(self.lock().next.max(FIRST_HPA))
    }

    /// Begins to record events.
    pub fn record(&self) {
        self.lock().events = Some(Vec::new());
    }

    /// The events since [`record`](Self::record) or the last call of this.
    #[must_use]
    pub fn events(&self) -> Vec<Event> {
        self.lock().events.as_mut().map(core::mem::take).unwrap_or_default()
    }

    fn note(&self, event: Event) {
        if let Some(events) = &mut self.lock().events {
            events.push(event);
        }
    }

    /// Reads `bytes` bytes at `hpa`, which must be taken.
    #[must_use]
    pub fn read(&self, hpa: HostPhysAddr, bytes: usize) -> Vec<u8> {
        let pointer = self.phys_to_virt(hpa);
        // SAFETY: `phys_to_virt` panics unless the frame is taken; tests read only what nobody writes meanwhile.
        (0..bytes).map(|offset| unsafe { pointer.wrapping_add(offset).read_volatile() }).collect()
    }

    /// Writes `bytes` at `hpa`, which must be taken.
    pub fn write(&self, hpa: HostPhysAddr, bytes: &[u8]) {
        let pointer = self.phys_to_virt(hpa);
        for (offset, byte) in bytes.iter().enumerate() {
            // SAFETY: as in `read`.
            unsafe { pointer.wrapping_add(offset).write_volatile(*byte) };
        }
    }
}

/// How many cases a test of random ones goes through: `usual`, or so many percent of them as the environment variable
/// `SLAT_TEST_PERCENT` says, for runs that repeat all tests thousands of times (`cargo xtask audit`).
#[cfg(all(test, not(loom)))]
pub(crate) fn cases(usual: usize) -> usize {
    let percent = std::env::var("SLAT_TEST_PERCENT").ok().and_then(|percent| percent.parse().ok());
    (usual * percent.unwrap_or(100)).div_ceil(100)
}

fn layout(frames: usize) -> Layout {
    let page = PAGE_SIZE as usize;
    Layout::from_size_align(frames * page, page).expect("a sane size")
}

// SAFETY: frames are heap blocks of the size and alignment asked for, each handed out once; the pointer of an address
// is fixed while its block lives. There is no TLB, so every CPU has forgotten what it never knew.
unsafe impl Hal for HeapHal {
    fn alloc_frames(&self, count: usize, align: usize) -> Option<HostPhysAddr> {
        let mut state = self.lock();
        if let Some(left) = &mut state.fail_after {
            *left = left.checked_sub(1)?;
        }
        if state.largest.is_some_and(|largest| count > largest) {
            return None;
        }
        if state.most.is_some_and(|most| state.taken - state.returned + count > most) {
            return None;
        }
        let bytes = align as u64 * PAGE_SIZE;
        let start = state.next.max(FIRST_HPA).next_multiple_of(bytes);
        // SAFETY: the layout has a size, for slat never asks for zero frames.
        let pointer = unsafe { alloc(layout(count)) };
        if pointer.is_null() {
            return None;
        }
        // SAFETY: the block was just allocated with that many bytes.
        unsafe { pointer.write_bytes(LEFT_BEHIND, count * PAGE_SIZE as usize) };
        let block =
            Block { pointer: pointer as usize, frames: count, taken: std::vec![true; count], left: count };
        state.blocks.insert(start, block);
        // A gap, so that runs are never contiguous by accident.
        state.next = start + (count as u64 + 1) * PAGE_SIZE;
        state.taken += count;
        drop(state);
        let start = HostPhysAddr::new(start);
        self.note(Event::Alloc(start, count));
        Some(start)
    }

    unsafe fn dealloc_frames(&self, start: HostPhysAddr, count: usize) {
        self.note(Event::Dealloc(start, count));
        let mut state = self.lock();
        for page in 0..count as u64 {
            let hpa = start.as_u64() + page * PAGE_SIZE;
            let (first, block) = state.blocks.range_mut(..=hpa).next_back().expect("a frame that was taken");
            let index = ((hpa - first) / PAGE_SIZE) as usize;
            let taken = block.taken.get_mut(index).expect("a frame that was taken");
            assert!(core::mem::replace(taken, false), "frame {hpa:#x} came back twice");
            let pointer = (block.pointer + index * PAGE_SIZE as usize) as *mut u8;
            // SAFETY: the frame is part of the block and was taken until now.
            unsafe { pointer.write_bytes(POISON, PAGE_SIZE as usize) };
            block.left -= 1;
            if block.left == 0 {
                let first = *first;
                let block = state.blocks.remove(&first).expect("it was just found");
                // SAFETY: allocated with this layout; no frame of it is taken any more.
                unsafe { dealloc(block.pointer as *mut u8, layout(block.frames)) };
            }
        }
        state.returned += count;
    }

    fn phys_to_virt(&self, hpa: HostPhysAddr) -> *mut u8 {
        let state = self.lock();
        let (first, block) = state.blocks.range(..=hpa.as_u64()).next_back().expect("a frame that is taken");
        let offset = (hpa.as_u64() - first) as usize;
        let taken = block.taken.get(offset / PAGE_SIZE as usize);
        assert_eq!(taken, Some(&true), "{hpa:#x} is not taken");
        (block.pointer + offset) as *mut u8
    }

    /// Linear memory can be reached if it consists of frames that are taken from this host, all of one run.
    fn linear_to_virt(&self, range: HostPhysRange) -> Option<*mut u8> {
        let state = self.lock();
        let (first, block) = state.blocks.range(..=range.start().as_u64()).next_back()?;
        let (offset, page) = (range.start().as_u64() - first, PAGE_SIZE as usize);
        let frames = offset as usize / page..(offset + range.size()).div_ceil(PAGE_SIZE) as usize;
        let taken = block.taken.get(frames)?.iter().all(|taken| *taken);
        taken.then_some((block.pointer + offset as usize) as *mut u8)
    }

    fn invalidate(&self, invalidation: &Invalidation<'_>) {
        self.note(match invalidation.scope {
            Scope::Space => Event::InvalidateSpace(invalidation.reach),
            Scope::AllSpaces => Event::InvalidateAllSpaces(invalidation.reach),
            Scope::Ranges { ranges, stride } => {
                Event::InvalidateRanges(ranges.to_vec(), stride, invalidation.reach)
            }
        });
    }

    fn maintain_cache(&self, maintenance: &CacheMaintenance) {
        self.note(Event::Maintain(maintenance.start, maintenance.frames, maintenance.actions));
    }

    fn maintain_linear_cache(&self, _start: *mut u8, maintenance: &CacheMaintenance) {
        self.maintain_cache(maintenance);
    }

    fn publish(&self) {
        self.note(Event::Publish);
    }

    fn is_protected(&self, range: HostPhysRange) -> bool {
        self.lock().protected.iter().any(|other| other.intersection(range).is_some())
    }

    fn table_stored(&self, entry: HostPhysAddr, value: u64) {
        self.note(Event::Store(entry, value));
    }

    unsafe fn zero_frames(&self, start: HostPhysAddr, count: usize) {
        // SAFETY: the frames are taken and unused (the caller's promise).
        unsafe { crate::isa::zero(self.phys_to_virt(start), count * PAGE_SIZE as usize) };
        self.note(Event::Zeroed(start, count));
    }
}

impl Drop for HeapHal {
    fn drop(&mut self) {
        let left: usize = self.lock().blocks.values().map(|block| block.left).sum();
        assert!(left == 0 || std::thread::panicking(), "{left} frames never came back");
    }
}
