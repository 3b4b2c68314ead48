//! Counting what happened: how faults ended, what was invalidated, which frames came and went.
//!
//! A host that wants it keeps [`Counters`], one for each CPU so that they do not fight for a cache line, and names the
//! one of the CPU at hand in [`Hal::counters`]; [`Counted`] does that for any host. The numbers are **exact:** each is
//! an atomic addition, so none is lost where a thread moves to another CPU between naming and counting. Where nobody
//! counts, the compiler removes all of it.

#![expect(unsafe_code, reason = "implements Hal by way of another one")]

use crate::addr::{HostPhysAddr, HostPhysRange};
use crate::error::FaultError;
use crate::fault::FaultOutcome;
use crate::flags::LeafSize;
use crate::hal::{CacheMaintenance, Hal};
use crate::tlb::{Invalidation, Reach, Scope};
use core::fmt;
use core::iter::Sum;
use core::ops::Add;
// Not those of `sync`: these order nothing, and loom's have no place in a constant.
use core::sync::atomic::{AtomicU64, Ordering};

macro_rules! counters {
    ($($(#[$doc:meta])* $name:ident,)*) => {
        /// What was counted, as plain numbers: of one CPU, or the sum of several.
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
        pub struct Totals {
            $($(#[$doc])* pub $name: u64,)*
        }

        /// The counters of one CPU, on cache lines of their own (128 bytes: two that are fetched together).
        #[derive(Debug, Default)]
        #[repr(align(128))]
        pub struct Counters {
            $($name: AtomicU64,)*
        }

        impl Counters {
            /// All zero.
            #[must_use]
            pub const fn new() -> Self {
                Self { $($name: AtomicU64::new(0),)* }
            }

            /// The numbers at this moment. Each is exact by itself; two may be of slightly different moments while
            /// other CPUs count.
            #[must_use]
            pub fn snapshot(&self) -> Totals {
                Totals { $($name: self.$name.load(Ordering::Relaxed),)* }
            }
        }

        impl Add for Totals {
            type Output = Self;

            fn add(self, other: Self) -> Self {
                Self { $($name: self.$name.wrapping_add(other.$name),)* }
            }
        }
    };
}

counters! {
    /// Faults that mapped a leaf of 4 KiB.
    populated_4k,
    /// Faults that mapped a leaf of 2 MiB.
    populated_2m,
    /// Faults that mapped a leaf of 1 GiB.
    populated_1g,
    /// Faults on a page that was mapped already: [`FaultOutcome::Spurious`].
    spurious,
    /// Faults for a missing accessed or dirty flag: [`FaultOutcome::Marked`].
    marked,
    /// Faults that copied a shared page: [`FaultOutcome::Copied`].
    copied,
    /// Faults that made a page writable: [`FaultOutcome::MadeWritable`].
    made_writable,
    /// Faults that copied shared tables and nothing else: [`FaultOutcome::Unshared`].
    unshared,
    /// Faults that the guest is to repeat, at once or later: [`FaultOutcome::Retry`], [`FaultOutcome::Wait`].
    retried,
    /// Accesses left to the emulator of a device: [`FaultOutcome::Trap`].
    trapped,
    /// [`FaultError::OutsideSpace`].
    outside_space,
    /// [`FaultError::NoRegion`].
    no_region,
    /// [`FaultError::Permission`].
    permission,
    /// [`FaultError::NoSuchPage`].
    no_such_page,
    /// [`FaultError::BadFrame`].
    bad_frame,
    /// [`FaultError::OutOfMemory`].
    out_of_memory,
    /// Invalidations of ranges ([`Scope::Ranges`]) on all CPUs.
    ranges_on_all_cpus,
    /// Invalidations of ranges on the CPU at hand.
    ranges_on_this_cpu,
    /// Invalidations of a whole space ([`Scope::Space`]) on all CPUs.
    space_on_all_cpus,
    /// Invalidations of a whole space on the CPU at hand.
    space_on_this_cpu,
    /// Invalidations of all spaces ([`Scope::AllSpaces`]) on all CPUs.
    all_spaces_on_all_cpus,
    /// Invalidations of all spaces on the CPU at hand.
    all_spaces_on_this_cpu,
    /// Frames of 4 KiB taken from the host, by [`Counted`].
    frames_taken,
    /// Frames of 4 KiB given back to the host, by [`Counted`].
    frames_returned,
}

fn count(counter: &AtomicU64, by: u64) {
    counter.fetch_add(by, Ordering::Relaxed);
}

impl Counters {
    /// Counts how a fault ended. The pages of a window around it belong to the same fault.
    pub(crate) fn fault(&self, answer: &Result<FaultOutcome, FaultError>) {
        let counter = match answer {
            Ok(FaultOutcome::Populated(LeafSize::Size4K)) => &self.populated_4k,
            Ok(FaultOutcome::Populated(LeafSize::Size2M)) => &self.populated_2m,
            Ok(FaultOutcome::Populated(LeafSize::Size1G)) => &self.populated_1g,
            Ok(FaultOutcome::Spurious) => &self.spurious,
            Ok(FaultOutcome::Marked) => &self.marked,
            Ok(FaultOutcome::Copied(_)) => &self.copied,
            Ok(FaultOutcome::MadeWritable) => &self.made_writable,
            Ok(FaultOutcome::Unshared) => &self.unshared,
            Ok(FaultOutcome::Retry | FaultOutcome::Wait) => &self.retried,
            Ok(FaultOutcome::Trap(_)) => &self.trapped,
            Err(FaultError::OutsideSpace { .. }) => &self.outside_space,
            Err(FaultError::NoRegion(_)) => &self.no_region,
            Err(FaultError::Permission { .. }) => &self.permission,
            Err(FaultError::NoSuchPage(_)) => &self.no_such_page,
            Err(FaultError::BadFrame { .. }) => &self.bad_frame,
            Err(FaultError::OutOfMemory(_)) => &self.out_of_memory,
        };
        count(counter, 1);
    }

    /// Counts an invalidation that the host is asked for.
    pub(crate) fn invalidation(&self, scope: Scope<'_>, reach: Reach) {
        let counter = match (scope, reach) {
            (Scope::Ranges { .. }, Reach::AllCpus) => &self.ranges_on_all_cpus,
            (Scope::Ranges { .. }, Reach::ThisCpu) => &self.ranges_on_this_cpu,
            (Scope::Space, Reach::AllCpus) => &self.space_on_all_cpus,
            (Scope::Space, Reach::ThisCpu) => &self.space_on_this_cpu,
            (Scope::AllSpaces, Reach::AllCpus) => &self.all_spaces_on_all_cpus,
            (Scope::AllSpaces, Reach::ThisCpu) => &self.all_spaces_on_this_cpu,
        };
        count(counter, 1);
    }
}

impl Totals {
    /// Faults that were answered, whatever the answer was.
    #[must_use]
    pub const fn faults(&self) -> u64 {
        self.populated()
            + self.spurious
            + self.marked
            + self.copied
            + self.made_writable
            + self.unshared
            + self.retried
            + self.trapped
            + self.refused()
    }

    /// Faults that mapped a leaf.
    #[must_use]
    pub const fn populated(&self) -> u64 {
        self.populated_4k + self.populated_2m + self.populated_1g
    }

    /// Faults that ended in a [`FaultError`].
    #[must_use]
    pub const fn refused(&self) -> u64 {
        self.outside_space
            + self.no_region
            + self.permission
            + self.no_such_page
            + self.bad_frame
            + self.out_of_memory
    }

    /// Invalidations that the host was asked for: those of all CPUs, then those of the CPU at hand.
    #[must_use]
    pub const fn invalidations(&self) -> (u64, u64) {
        (
            self.ranges_on_all_cpus + self.space_on_all_cpus + self.all_spaces_on_all_cpus,
            self.ranges_on_this_cpu + self.space_on_this_cpu + self.all_spaces_on_this_cpu,
        )
    }
}

impl Sum for Totals {
    fn sum<I: Iterator<Item = Self>>(each: I) -> Self {
        each.fold(Self::default(), Self::add)
    }
}

impl fmt::Display for Totals {
    /// Four lines for people: faults, those that were refused, invalidations, frames.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "{} faults: populated {} x 4K, {} x 2M, {} x 1G; {} spurious, {} for marks, {} copied, {} made writable, {} unshared, {} to be repeated, {} for devices, {} refused",
            self.faults(),
            self.populated_4k,
            self.populated_2m,
            self.populated_1g,
            self.spurious,
            self.marked,
            self.copied,
            self.made_writable,
            self.unshared,
            self.retried,
            self.trapped,
            self.refused()
        )?;
        writeln!(
            f,
            "refused: {} outside of the space, {} in no region, {} by permission, {} without a page, {} bad frames, {} out of memory",
            self.outside_space,
            self.no_region,
            self.permission,
            self.no_such_page,
            self.bad_frame,
            self.out_of_memory
        )?;
        writeln!(
            f,
            "invalidations on all CPUs and on one: {} and {} of ranges, {} and {} of a space, {} and {} of all spaces",
            self.ranges_on_all_cpus,
            self.ranges_on_this_cpu,
            self.space_on_all_cpus,
            self.space_on_this_cpu,
            self.all_spaces_on_all_cpus,
            self.all_spaces_on_this_cpu
        )?;
        writeln!(f, "frames: {} taken, {} given back", self.frames_taken, self.frames_returned)
    }
}

/// A host `H` with [`Counters`] for each of `CPUS` CPUs: what a space of its own statistics is made on.
///
/// `N` says on which CPU it is called, from 0 on; what happens on a CPU beyond `CPUS` is counted with the last one.
/// Counting costs an atomic addition on a line that no other CPU uses.
///
/// ```
/// use slat::{AddrSpace, Counted, GuestPhysAddr, MappingFlags, test_util::HeapHal};
/// # fn cpu_number() -> usize { 0 }
/// let host = HeapHal::new(); // yours, and so is `cpu_number`
/// let counted: Counted<&HeapHal, 4> = Counted::new(&host, cpu_number);
/// let mut guest: AddrSpace<_> =
///     AddrSpace::with_format(counted, Default::default(), GuestPhysAddr::new(0), 1 << 30, 1)?;
/// guest.map_alloc(GuestPhysAddr::new(0), 0x4000, MappingFlags::READ, false)?;
/// guest.handle_page_fault(GuestPhysAddr::new(0x1000), MappingFlags::READ)?;
/// assert!(guest.handle_page_fault(GuestPhysAddr::new(0x9000), MappingFlags::READ).is_err());
///
/// let totals = guest.hal().totals();
/// assert_eq!((totals.populated_4k, totals.no_region), (1, 1));
/// print!("{totals}{}", guest.stats());
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
pub struct Counted<H, const CPUS: usize, N = fn() -> usize> {
    host: H,
    cpu_number: N,
    slots: [Counters; CPUS],
}

impl<H, const CPUS: usize, N: Fn() -> usize> Counted<H, CPUS, N> {
    /// The host with all counters at zero. With no CPU at all it does not compile.
    pub fn new(host: H, cpu_number: N) -> Self {
        const { assert!(CPUS > 0, "counters of no CPU") };
        Self { host, cpu_number, slots: [const { Counters::new() }; CPUS] }
    }

    /// The host itself.
    pub fn host(&self) -> &H {
        &self.host
    }

    /// The counters of each CPU.
    pub fn slots(&self) -> &[Counters; CPUS] {
        &self.slots
    }

    /// The sum over all CPUs.
    pub fn totals(&self) -> Totals {
        self.slots.iter().map(Counters::snapshot).sum()
    }

    #[inline]
    fn slot(&self) -> &Counters {
        &self.slots[(self.cpu_number)().min(CPUS - 1)]
    }
}

// SAFETY: every promise is kept by the host inside.
unsafe impl<H: Hal, const CPUS: usize, N: Fn() -> usize> Hal for Counted<H, CPUS, N> {
    #[inline]
    fn alloc_frames(&self, count: usize, align: usize) -> Option<HostPhysAddr> {
        let start = self.host.alloc_frames(count, align)?;
        self::count(&self.slot().frames_taken, count as u64);
        Some(start)
    }

    #[inline]
    unsafe fn dealloc_frames(&self, start: HostPhysAddr, count: usize) {
        self::count(&self.slot().frames_returned, count as u64);
        // SAFETY: the same contract.
        unsafe { self.host.dealloc_frames(start, count) }
    }

    #[inline]
    fn phys_to_virt(&self, hpa: HostPhysAddr) -> *mut u8 {
        self.host.phys_to_virt(hpa)
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
    fn linear_to_virt(&self, range: HostPhysRange) -> Option<*mut u8> {
        self.host.linear_to_virt(range)
    }

    #[inline]
    fn maintain_linear_cache(&self, start: *mut u8, maintenance: &CacheMaintenance) {
        self.host.maintain_linear_cache(start, maintenance);
    }

    #[inline]
    fn is_same_host(&self, other: &Self) -> bool {
        self.host.is_same_host(&other.host)
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
    fn is_protected(&self, range: HostPhysRange) -> bool {
        self.host.is_protected(range)
    }

    #[inline]
    fn table_stored(&self, entry: HostPhysAddr, value: u64) {
        self.host.table_stored(entry, value);
    }

    #[inline]
    fn counters(&self) -> Option<&Counters> {
        Some(self.slot())
    }

    #[cfg(feature = "tracing")]
    #[inline(always)]
    fn tracer(&self) -> Option<crate::trace::Tracer<'_>> {
        self.host.tracer()
    }

    #[cfg(feature = "tracing")]
    #[inline]
    fn trace_time(&self) -> u64 {
        self.host.trace_time()
    }
}

#[cfg(all(test, not(loom)))]
mod tests;
