//! What the host gives: frames, a way to reach them, and its hooks for invalidation and cache maintenance.
//!
//! A [`Hal`] is a value, not a set of static functions: two address spaces with two allocators live side by side.
//! The hooks have defaults that execute the right instructions on bare metal and do nothing on a development host,
//! where there is no second-level TLB to talk to.

#![expect(unsafe_code, reason = "declares the contract between slat and its host")]

use crate::addr::{HostPhysAddr, HostPhysRange};
use crate::counters::Counters;
use crate::isa;
use crate::tlb::Invalidation;
use bitflags::bitflags;

/// The host of an address space.
///
/// A host that wants to know of every invalidation, because its CPUs do not reach each other by instruction alone,
/// overrides the hook:
///
/// ```
/// use slat::{AddrSpace, GuestPhysAddr, Hal, HostPhysAddr, Invalidation, MappingFlags, Reach, test_util::HeapHal};
/// use std::sync::atomic::{AtomicUsize, Ordering};
///
/// #[derive(Default)]
/// struct Host {
///     frames: HeapHal, // yours: the allocator of your hypervisor
///     shootdowns: AtomicUsize,
/// }
///
/// // SAFETY: frames and pointers are those of the allocator, and `invalidate` reaches every CPU.
/// unsafe impl Hal for Host {
///     fn alloc_frames(&self, count: usize, align: usize) -> Option<HostPhysAddr> {
///         self.frames.alloc_frames(count, align)
///     }
///     unsafe fn dealloc_frames(&self, start: HostPhysAddr, count: usize) {
///         unsafe { self.frames.dealloc_frames(start, count) }
///     }
///     fn phys_to_virt(&self, hpa: HostPhysAddr) -> *mut u8 {
///         self.frames.phys_to_virt(hpa)
///     }
///     fn invalidate(&self, invalidation: &Invalidation<'_>) {
///         if invalidation.reach == Reach::AllCpus {
///             self.shootdowns.fetch_add(1, Ordering::Relaxed); // kick the other CPUs here, and wait for them
///         }
///         self.frames.invalidate(invalidation);
///     }
/// }
///
/// let host = Host::default();
/// let mut guest: AddrSpace<&Host> =
///     AddrSpace::with_format(&host, Default::default(), GuestPhysAddr::new(0), 1 << 30, 1)?;
/// guest.map_alloc(GuestPhysAddr::new(0), 0x4000, MappingFlags::READ, true)?;
/// guest.unmap(GuestPhysAddr::new(0x1000), 0x2000)?;
/// assert_eq!(host.shootdowns.load(Ordering::Relaxed), 1); // one for both pages
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// # Safety
/// The implementor promises:
/// 1. A run of frames returned by [`alloc_frames`](Hal::alloc_frames) is 4 KiB-granular RAM, aligned as asked, used
///    by nobody else until it is given to [`dealloc_frames`](Hal::dealloc_frames). It lies within the
///    [`hpa_bits`](crate::format::Format::hpa_bits) of every format that the host is used with: an address beyond
///    them would be cut.
/// 2. [`phys_to_virt`](Hal::phys_to_virt) of an address inside such a run returns a pointer that is valid for reads
///    and writes up to the end of the run, the same one each time, for as long as the run is taken. It has the address's
///    offset in its page; and where the pointers of two runs that continue each other do so too, the first reaches both.
/// 3. [`invalidate`](Hal::invalidate), when it returns, has made every CPU forget what the argument names; an
///    override ends in the native sequence on each CPU that may have used the space.
/// 4. [`linear_to_virt`](Hal::linear_to_virt) returns a pointer that is valid for reads and writes of all of the range
///    for as long as the range is mapped linearly by a space of this host, with the address's offset in its page; and no
///    Rust reference to that memory is in use meanwhile.
/// 5. [`is_same_host`](Hal::is_same_host) is true only of hosts that can reach and take back each other's frames.
pub unsafe trait Hal {
    /// Takes `count` physically contiguous frames of 4 KiB whose start is a multiple of `align` frames (a power of
    /// two), or returns `None` and changes nothing. The contents may be anything: slat zeroes.
    fn alloc_frames(&self, count: usize, align: usize) -> Option<HostPhysAddr>;

    /// Takes back `count` frames from `start` on. They may come back in other groupings than they were taken in:
    /// the 512 frames of a 2 MiB leaf that was split come back one by one.
    ///
    /// # Safety
    /// The frames were returned by [`alloc_frames`](Hal::alloc_frames) of this very host, are still taken, and
    /// nothing refers to them any more.
    unsafe fn dealloc_frames(&self, start: HostPhysAddr, count: usize);

    /// The pointer by which the host reaches host physical address `hpa`. Only asked for addresses in frames that
    /// are taken from this host, or that a custom backend of a space on it gave.
    fn phys_to_virt(&self, hpa: HostPhysAddr) -> *mut u8;

    /// The pointer by which the host reaches all of `range`, memory of the caller that is mapped by
    /// [`map_linear`](crate::AddrSpace::map_linear); or `None` if it cannot reach all of it, or does not want a guest's
    /// pointers to lead there. Whether a page can be reached does not depend on the rest of the range. Asked on each
    /// access of the host to such memory, so that it should be quick; the default is `None`.
    fn linear_to_virt(&self, range: HostPhysRange) -> Option<*mut u8> {
        let _ = range;
        None
    }

    /// Makes every CPU (or this one: see [`Invalidation::reach`]) forget the translations named. Called after the
    /// stores to the table and before any frame is reused.
    ///
    /// The default executes the native sequence. On Arm that reaches all CPUs of the inner shareable domain by
    /// itself; on x86 and RISC-V it reaches only this one, and a host with more CPUs sends it to the others too (RISC-V:
    /// [`remote_fences`](crate::format::gstage::remote_fences) to a [`HartSet`](crate::tlb::HartSet)).
    /// AMD has no instruction for it at all: there the host must override this, to set TLB_CONTROL at the next VMRUN
    /// of each CPU, and the default panics.
    fn invalidate(&self, invalidation: &Invalidation<'_>) {
        isa::invalidate(invalidation);
    }

    /// Cache maintenance of frames that go to the guest or come back from it. The default executes the native
    /// instructions on the frames. On RISC-V that is FENCE.I, which reaches only this hart: a host with more sends it to
    /// the others too ([`REMOTE_FENCE_I`](crate::format::gstage::REMOTE_FENCE_I)), at once or before each enters the guest.
    fn maintain_cache(&self, maintenance: &CacheMaintenance) {
        isa::maintain_cache(self.phys_to_virt(maintenance.start), maintenance.bytes(), maintenance.actions);
    }

    /// As [`maintain_cache`](Self::maintain_cache), of memory that [`linear_to_virt`](Self::linear_to_virt) gave a pointer
    /// to: `start` is that of the maintenance. Only where the host itself reached such memory.
    fn maintain_linear_cache(&self, start: *mut u8, maintenance: &CacheMaintenance) {
        isa::maintain_cache(start, maintenance.bytes(), maintenance.actions);
    }

    /// Orders the stores to the table before the guest's next access: called after an entry became valid. The
    /// default is the native barrier (Arm: `DSB ISHST; ISB`).
    fn publish(&self) {
        isa::publish();
    }

    /// Zeroes a run of frames that is about to be used. The default is the fastest way of the machine for frames
    /// that are not in its caches; a host that recycles hot frames may prefer [`core::ptr::write_bytes`], and one
    /// that hands out zeroed frames does nothing here.
    ///
    /// # Safety
    /// The frames are taken from this host and nobody uses them.
    unsafe fn zero_frames(&self, start: HostPhysAddr, count: usize) {
        // SAFETY: the run is taken and unused (the caller's promise), so by promise 2 the pointer is valid for it.
        unsafe { isa::zero(self.phys_to_virt(start), count * crate::addr::PAGE_SIZE as usize) };
    }

    /// Whether `other` is this very host, so that each can reach the frames of the other: asked where a space maps shared
    /// memory. The default takes a host for itself only, and hosts without any state for one; one that is cloned says
    /// more.
    fn is_same_host(&self, other: &Self) -> bool
    where
        Self: Sized,
    {
        core::ptr::eq(self, other) || size_of::<Self>() == 0
    }

    /// Whether any of `range` is the host's own: memory that no guest may ever reach, such as the hypervisor's image and
    /// heaps. No backend can map it, and a run of frames that overlaps it counts as not there. The default has none.
    #[inline(always)]
    fn is_protected(&self, range: HostPhysRange) -> bool {
        let _ = range;
        false
    }

    /// Told of every store to table memory, after it: the host physical address of the 8-byte entry and its new
    /// value. For tests and tracing; the default does nothing and costs nothing.
    #[inline(always)]
    fn table_stored(&self, entry: HostPhysAddr, value: u64) {
        let _ = (entry, value);
    }

    /// The counters of the CPU at hand, where faults and invalidations are to be counted: see
    /// [`Counted`](crate::Counted). The default counts nothing and costs nothing.
    #[inline(always)]
    fn counters(&self) -> Option<&Counters> {
        None
    }

    /// The ring that events go into, and the CPU at hand: see [`trace`](crate::trace). Asked at the beginning and at the end
    /// of each event. The default has none and costs nothing.
    #[cfg(feature = "tracing")]
    #[inline(always)]
    fn tracer(&self) -> Option<crate::trace::Tracer<'_>> {
        None
    }

    /// The time for events, in units of the host's, asked only where there is a [`tracer`](Self::tracer). It should not go
    /// back on one CPU, and be about the same on all. The default is the counter of the CPU
    /// ([`timestamp`](crate::isa::timestamp)).
    #[cfg(feature = "tracing")]
    #[inline]
    fn trace_time(&self) -> u64 {
        isa::timestamp()
    }
}

// SAFETY: every promise is kept by the host behind the reference.
unsafe impl<H: Hal + ?Sized> Hal for &H {
    #[inline]
    fn alloc_frames(&self, count: usize, align: usize) -> Option<HostPhysAddr> {
        (**self).alloc_frames(count, align)
    }

    #[inline]
    unsafe fn dealloc_frames(&self, start: HostPhysAddr, count: usize) {
        // SAFETY: the same contract.
        unsafe { (**self).dealloc_frames(start, count) }
    }

    #[inline]
    fn phys_to_virt(&self, hpa: HostPhysAddr) -> *mut u8 {
        (**self).phys_to_virt(hpa)
    }

    #[inline]
    fn linear_to_virt(&self, range: HostPhysRange) -> Option<*mut u8> {
        (**self).linear_to_virt(range)
    }

    #[inline]
    fn invalidate(&self, invalidation: &Invalidation<'_>) {
        (**self).invalidate(invalidation);
    }

    #[inline]
    fn maintain_cache(&self, maintenance: &CacheMaintenance) {
        (**self).maintain_cache(maintenance);
    }

    #[inline]
    fn maintain_linear_cache(&self, start: *mut u8, maintenance: &CacheMaintenance) {
        (**self).maintain_linear_cache(start, maintenance);
    }

    #[inline]
    fn publish(&self) {
        (**self).publish();
    }

    #[inline]
    fn is_same_host(&self, other: &Self) -> bool {
        core::ptr::addr_eq(*self, *other) || size_of_val(*self) == 0
    }

    #[inline]
    fn is_protected(&self, range: HostPhysRange) -> bool {
        (**self).is_protected(range)
    }

    #[inline]
    fn table_stored(&self, entry: HostPhysAddr, value: u64) {
        (**self).table_stored(entry, value);
    }

    #[inline(always)]
    fn counters(&self) -> Option<&Counters> {
        (**self).counters()
    }

    #[cfg(feature = "tracing")]
    #[inline(always)]
    fn tracer(&self) -> Option<crate::trace::Tracer<'_>> {
        (**self).tracer()
    }

    #[cfg(feature = "tracing")]
    #[inline]
    fn trace_time(&self) -> u64 {
        (**self).trace_time()
    }

    #[inline]
    unsafe fn zero_frames(&self, start: HostPhysAddr, count: usize) {
        // SAFETY: the same contract.
        unsafe { (**self).zero_frames(start, count) }
    }
}

bitflags! {
    /// What cache maintenance has to do. The format decides by the CPU's ID registers.
    #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
    pub struct CacheActions: u8 {
        /// Data cache: clean and invalidate to the point of coherency (Arm: `DC CIVAC`).
        const CLEAN_INVALIDATE_TO_POC = 1 << 0;
        /// Data cache: clean to the point of unification (Arm: `DC CVAU`).
        const CLEAN_TO_POU = 1 << 1;
        /// Instruction cache: invalidate (Arm: `IC IVAU` or `IC IALLUIS`).
        const INVALIDATE_INSTRUCTIONS = 1 << 2;
    }
}

/// Cache maintenance of a run of frames.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CacheMaintenance {
    /// First frame.
    pub start: HostPhysAddr,
    /// Number of 4 KiB frames.
    pub frames: usize,
    /// What to do; never empty.
    pub actions: CacheActions,
}

impl CacheMaintenance {
    /// Length in bytes.
    #[must_use]
    pub const fn bytes(&self) -> usize {
        self.frames * crate::addr::PAGE_SIZE as usize
    }
}

#[cfg(all(test, not(loom)))]
mod tests;
