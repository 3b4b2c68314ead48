//! A host with a ring behind it.

#![expect(unsafe_code, reason = "implements Hal by way of another one")]

use super::ring::{Ring, Tracer};
use crate::addr::{HostPhysAddr, HostPhysRange};
use crate::counters::Counters;
use crate::hal::{CacheMaintenance, Hal};
use crate::tlb::Invalidation;

/// A host `H` whose spaces leave their events in a [`Ring`].
///
/// `N` says on which CPU it is called. The clock is the host's ([`Hal::trace_time`]).
#[derive(Clone, Copy, Debug)]
pub struct Traced<'m, H, N = fn() -> usize> {
    host: H,
    ring: Ring<'m>,
    cpu_number: N,
}

impl<'m, H, N: Fn() -> usize> Traced<'m, H, N> {
    /// The host with this ring.
    pub const fn new(host: H, ring: &Ring<'m>, cpu_number: N) -> Self {
        Self { host, ring: *ring, cpu_number }
    }

    /// The host itself.
    pub const fn host(&self) -> &H {
        &self.host
    }

    /// The ring.
    pub const fn ring(&self) -> Ring<'m> {
        self.ring
    }
}

// SAFETY: every promise is kept by the host inside.
unsafe impl<H: Hal, N: Fn() -> usize> Hal for Traced<'_, H, N> {
    #[inline]
    fn alloc_frames(&self, count: usize, align: usize) -> Option<HostPhysAddr> {
        self.host.alloc_frames(count, align)
    }

    #[inline]
    unsafe fn dealloc_frames(&self, start: HostPhysAddr, count: usize) {
        // SAFETY: the same contract.
        unsafe { self.host.dealloc_frames(start, count) }
    }

    #[inline]
    fn phys_to_virt(&self, hpa: HostPhysAddr) -> *mut u8 {
        self.host.phys_to_virt(hpa)
    }

    #[inline]
    fn linear_to_virt(&self, range: HostPhysRange) -> Option<*mut u8> {
        self.host.linear_to_virt(range)
    }

    #[inline]
    fn invalidate(&self, invalidation: &Invalidation<'_>) {
        self.host.invalidate(invalidation);
    }

    #[inline]
    fn maintain_cache(&self, maintenance: &CacheMaintenance) {
        self.host.maintain_cache(maintenance);
    }

    #[inline]
    fn maintain_linear_cache(&self, start: *mut u8, maintenance: &CacheMaintenance) {
        self.host.maintain_linear_cache(start, maintenance);
    }

    #[inline]
    fn publish(&self) {
        self.host.publish();
    }

    #[inline]
    unsafe fn zero_frames(&self, start: HostPhysAddr, count: usize) {
        // SAFETY: the same contract.
        unsafe { self.host.zero_frames(start, count) }
    }

    #[inline]
    fn is_same_host(&self, other: &Self) -> bool {
        self.host.is_same_host(&other.host)
    }

    #[inline]
    fn is_protected(&self, range: HostPhysRange) -> bool {
        self.host.is_protected(range)
    }

    #[inline]
    fn table_stored(&self, entry: HostPhysAddr, value: u64) {
        self.host.table_stored(entry, value);
    }

    #[inline(always)]
    fn counters(&self) -> Option<&Counters> {
        self.host.counters()
    }

    #[inline]
    fn tracer(&self) -> Option<Tracer<'_>> {
        Some(self.ring.on_cpu((self.cpu_number)()))
    }

    #[inline]
    fn trace_time(&self) -> u64 {
        self.host.trace_time()
    }
}
