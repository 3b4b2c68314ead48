//! The hypervisor as slat's host: a pool of frames, counted, and TLB maintenance by the machine's own means.
//!
//! Invariant: a frame is in the buddy allocator or taken, never both; whatever is asked for and comes back is counted,
//! so that the report can prove that nothing was lost. Memory is mapped one to one, unless the machine says otherwise.

#![expect(unsafe_code, reason = "hands out memory: implements the unsafe trait Hal")]

use alloc::collections::BTreeMap;
use alloc::string::String;
use buddy_system_allocator::FrameAllocator;
use core::sync::atomic::{AtomicU64, Ordering};
use slat::trace::{Ring, Tracer, What};
use slat::{CacheActions, CacheMaintenance, Hal, HostPhysAddr, HostPhysRange, Invalidation, PAGE_SIZE};
use slat_hv_protocol::recording::Event;
use slat_hv_protocol::trace::{FRAMES, FRAMES_STEP};
use slat_hv_protocol::{Frames, Span};
use spin::Mutex;

/// What a returned frame is filled with when frames are to be poisoned: to a guest that still reaches it, wrong data
/// and undefined instructions.
pub const POISON: u8 = 0xa5;

/// The ring of a trace in this memory of the machine's, if there is any.
///
/// # Safety
/// `memory` is zeroed RAM, aligned to words, mapped one to one, and nothing else ever uses it.
#[must_use]
pub unsafe fn trace_ring(memory: Span) -> Option<Ring<'static>> {
    let first = core::ptr::with_exposed_provenance::<AtomicU64>(memory.address as usize);
    (memory.size != 0).then(|| {
        // SAFETY: the caller's promise; atomic words may be shared.
        Ring::new(unsafe { core::slice::from_raw_parts(first, memory.size as usize / 8) })
    })
}

/// The part of the host that belongs to the machine.
pub trait Maintenance {
    /// Makes every CPU forget what `invalidation` names.
    fn invalidate(&self, invalidation: &Invalidation<'_>);
    /// Cleans or invalidates the caches of `maintenance`'s frames, which are mapped at `start`.
    fn maintain_cache(&self, start: *mut u8, maintenance: &CacheMaintenance);
    /// Completes stores to the table before the guest's next access.
    fn publish(&self);
    /// Records what has just happened, or is about to, if the run is recorded.
    fn record(&self, event: Event);
    /// Whether any of `range` is memory, and not registers of devices. The default knows of none.
    fn is_memory(&self, range: HostPhysRange) -> bool {
        let _ = range;
        false
    }
    /// The ring that the run is traced in, and the CPU at hand, if it is traced. The default is not.
    fn tracer(&self) -> Option<Tracer<'_>> {
        None
    }
    /// The time for the trace. The default is the CPU's counter.
    fn time(&self) -> u64 {
        slat::isa::timestamp()
    }
    /// Instructions and messages of TLB maintenance until now, by kind. The default counts none.
    fn invalidations(&self) -> BTreeMap<String, u64> {
        BTreeMap::new()
    }
    /// The pointer by which the pool's memory at `hpa` is reached. The default is for memory that is mapped one to one.
    fn pointer(&self, hpa: HostPhysAddr) -> *mut u8 {
        core::ptr::with_exposed_provenance_mut(hpa.as_u64() as usize)
    }
}

/// A host that knows how much it has left.
pub trait Host: Hal {
    /// Frames of 4 KiB that nobody has taken. Others may take them at any time.
    fn frames_left(&self) -> u64;
    /// The word at `address`, if that is a multiple of 8 in the memory from which frames are taken. One atomic load, whatever lies there
    /// and whoever writes to it.
    fn word(&self, address: u64) -> Option<u64>;
    /// Invalidations until now, by kind.
    fn invalidations(&self) -> BTreeMap<String, u64>;
    /// Frames of 4 KiB that there are in all.
    fn frames(&self) -> u64;
}

impl<M: Maintenance> Host for &Pool<M> {
    fn frames_left(&self) -> u64 {
        self.frames.saturating_sub(self.state.lock().in_use)
    }

    fn word(&self, address: u64) -> Option<u64> {
        let first = self.memory.address.next_multiple_of(PAGE_SIZE);
        let offset = address.checked_sub(first)?;
        if address % 8 != 0 || offset >= self.frames * PAGE_SIZE {
            return None;
        }
        let word = self.maintenance.pointer(HostPhysAddr::new(address)).cast::<u64>();
        // SAFETY: by the contract of `new` the pointer is good for all of the pool's memory; it is aligned, and whoever writes to what lies
        // there at the same time (a guest, an entry's store) does so by whole words, or to memory that no table leads to.
        let word = unsafe { AtomicU64::from_ptr(word) };
        Some(u64::from_le(word.load(Ordering::Relaxed)))
    }

    fn invalidations(&self) -> BTreeMap<String, u64> {
        self.maintenance.invalidations()
    }

    fn frames(&self) -> u64 {
        self.frames
    }
}

/// The host of the guest's address space.
pub struct Pool<M> {
    memory: Span,
    /// Whole frames in it.
    frames: u64,
    state: Mutex<State>,
    poison: bool,
    maintenance: M,
}

struct State {
    free: FrameAllocator<32>,
    counts: Frames,
    in_use: u64,
    cache_frames: u64,
    /// How many were in use when the trace was told last.
    told: u64,
}

impl<M: Maintenance> Pool<M> {
    /// A pool of the frames in `memory`; with `poison`, returned frames are overwritten.
    ///
    /// # Safety
    /// `memory` is RAM that nothing else uses as long as the pool lives, and for each address in it
    /// [`pointer`](Maintenance::pointer) gives the same valid pointer each time, one run of memory as one run of pointers.
    pub unsafe fn new(memory: Span, poison: bool, maintenance: M) -> Self {
        let mut free = FrameAllocator::new();
        let frame = |address: u64| usize::try_from(address / PAGE_SIZE).unwrap_or(0);
        // Rounded inwards. The addresses are below 2^48, the sum cannot wrap.
        let start = memory.address.next_multiple_of(PAGE_SIZE);
        let end = memory.address.saturating_add(memory.size);
        let frames = frame(end).saturating_sub(frame(start)) as u64;
        if frames > 0 {
            free.add_frame(frame(start), frame(end));
        }
        let state = State { free, counts: Frames::default(), in_use: 0, cache_frames: 0, told: 0 };
        Self { memory, frames, state: Mutex::new(state), poison, maintenance }
    }

    /// Leaves the frames in use in the trace, if there is one and they are many more or fewer than last time.
    fn tell_frames(&self, state: &mut State) {
        if state.in_use.abs_diff(state.told) < FRAMES_STEP && state.in_use != 0 {
            return;
        }
        let Some(tracer) = self.maintenance.tracer() else { return };
        state.told = state.in_use;
        let (cpu, time) = (tracer.cpu(), self.maintenance.time());
        let what = What::Host { code: FRAMES, values: [state.in_use, state.counts.taken, 0] };
        let root = HostPhysAddr::new(0);
        tracer.ring().record(&slat::trace::Event { begin: time, end: time, cpu, tag: 0, root, what });
    }

    /// What happened to the frames until now.
    pub fn counts(&self) -> Frames {
        self.state.lock().counts
    }

    /// Frames whose caches were cleaned or invalidated until now.
    pub fn cache_frames(&self) -> u64 {
        self.state.lock().cache_frames
    }

    /// The machine's maintenance, for its counts.
    pub fn maintenance(&self) -> &M {
        &self.maintenance
    }
}

// SAFETY: 1. the buddy allocator hands a frame of the span out once until it comes back, in naturally aligned blocks
// of at least the size and alignment asked for; 2. the machine's pointers are good for the span (contract of `new`); 3. `invalidate`
// is the machine's sequence, which is spoiled only by a run that asks for it (`Mistake`).
unsafe impl<M: Maintenance> Hal for Pool<M> {
    fn alloc_frames(&self, count: usize, align: usize) -> Option<HostPhysAddr> {
        let mut state = self.state.lock();
        // A block of the buddy allocator is a power of two of frames and aligned to its size.
        let block = count.checked_next_power_of_two()?.max(align);
        if count == 0 || !block.is_power_of_two() {
            return None;
        }
        let start = state.free.alloc(block)?;
        give_back(&mut state.free, start + count, block - count);
        state.counts.taken += count as u64;
        state.in_use += count as u64;
        state.counts.peak = state.counts.peak.max(state.in_use);
        self.tell_frames(&mut state);
        let start = start as u64 * PAGE_SIZE;
        self.maintenance.record(Event::Take { start, count: count as u64 });
        Some(HostPhysAddr::new(start))
    }

    unsafe fn dealloc_frames(&self, start: HostPhysAddr, count: usize) {
        if self.poison {
            // SAFETY: by the caller's contract the frames were taken here, and nothing refers to them any more.
            unsafe { self.phys_to_virt(start).write_bytes(POISON, count * PAGE_SIZE as usize) };
        }
        let mut state = self.state.lock();
        self.maintenance.record(Event::Return { start: start.as_u64(), count: count as u64 });
        give_back(&mut state.free, (start.as_u64() / PAGE_SIZE) as usize, count);
        state.counts.returned += count as u64;
        state.in_use = state.in_use.saturating_sub(count as u64);
        self.tell_frames(&mut state);
    }

    fn phys_to_virt(&self, hpa: HostPhysAddr) -> *mut u8 {
        self.maintenance.pointer(hpa)
    }

    fn invalidate(&self, invalidation: &Invalidation<'_>) {
        self.maintenance.invalidate(invalidation);
    }

    fn maintain_cache(&self, maintenance: &CacheMaintenance) {
        self.state.lock().cache_frames += maintenance.frames as u64;
        self.maintenance.maintain_cache(self.phys_to_virt(maintenance.start), maintenance);
        if maintenance.actions.contains(CacheActions::CLEAN_INVALIDATE_TO_POC) {
            let (start, count) = (maintenance.start.as_u64(), maintenance.frames as u64);
            self.maintenance.record(Event::Clean { start, count });
        }
    }

    fn publish(&self) {
        self.maintenance.publish();
    }

    /// What is memory and not the pool's is the hypervisor's own: its image, its heap, what was loaded beside it.
    fn is_protected(&self, range: HostPhysRange) -> bool {
        let Span { address, size } = self.memory;
        let inside =
            range.start().as_u64() >= address && range.end().as_u64() <= address.saturating_add(size);
        self.maintenance.is_memory(range) && !inside
    }

    fn tracer(&self) -> Option<Tracer<'_>> {
        self.maintenance.tracer()
    }

    fn trace_time(&self) -> u64 {
        self.maintenance.time()
    }

    fn table_stored(&self, entry: HostPhysAddr, value: u64) {
        self.maintenance.record(Event::Store { entry: entry.as_u64(), value });
    }

    unsafe fn zero_frames(&self, start: HostPhysAddr, count: usize) {
        // SAFETY: by the caller's contract the frames are taken and unused, and by that of `new` the pointer is good.
        unsafe { slat::isa::zero(self.phys_to_virt(start), count * PAGE_SIZE as usize) };
        self.state.lock().counts.zeroed += count as u64;
        self.maintenance.record(Event::Zero { start: start.as_u64(), count: count as u64 });
    }
}

/// Puts `count` frames from `start` on into the allocator, in the blocks that it knows: powers of two, aligned to
/// their size. They need not be the blocks in which the frames were taken.
fn give_back(free: &mut FrameAllocator<32>, mut start: usize, mut count: usize) {
    while count > 0 {
        let aligned = if start == 0 { usize::MAX } else { 1 << start.trailing_zeros() };
        let block = aligned.min(1 << count.ilog2());
        free.dealloc(start, block);
        start += block;
        count -= block;
    }
}

#[cfg(test)]
pub(crate) mod tests;
