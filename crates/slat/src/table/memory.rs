//! The only place that touches table memory: loads, stores and compare-exchanges of whole 64-bit entries.
//!
//! **Invariant:** no `&u64` or `&mut u64` to a live entry ever exists. The hardware walks, and may update, the same
//! memory at any time, so every access to a linked table is atomic, and a present leaf that the hardware may mark is
//! changed by a read-modify-write. Stores are reported to [`Hal::table_stored`].

#![expect(unsafe_code, reason = "reaches table memory through the host's pointers")]

use crate::addr::HostPhysAddr;
use crate::hal::Hal;
use crate::sync::{AtomicU64, Ordering};
use core::ops::Range;

/// One table: `entries` 64-bit entries in frames of the space.
#[derive(Clone, Copy)]
pub(crate) struct Entries {
    base: *mut AtomicU64,
    hpa: HostPhysAddr,
    entries: usize,
}

impl Entries {
    /// The table of `entries` entries at `hpa`.
    ///
    /// # Safety
    /// `hpa` is a table of at least that many entries in frames taken from `hal`, and stays taken while this value
    /// is used.
    #[inline]
    pub(super) unsafe fn new<H: Hal>(hal: &H, hpa: HostPhysAddr, entries: usize) -> Self {
        Self { base: hal.phys_to_virt(hpa).cast(), hpa, entries }
    }

    #[inline]
    fn atomic(&self, index: usize) -> &AtomicU64 {
        assert!(index < self.entries, "an index beyond its table");
        // SAFETY: the index is inside the table, which `new` promised to be taken memory; frames are aligned.
        let entry = unsafe { self.base.add(index) };
        // SAFETY: as above, and all accesses of slat to it are atomic; the hardware's are single-copy atomic.
        unsafe { &*entry }
    }

    /// A run of entries.
    fn run(&self, indices: Range<usize>) -> &[AtomicU64] {
        assert!(indices.start <= indices.end && indices.end <= self.entries, "indices beyond their table");
        // SAFETY: the first index is inside the table or just behind it.
        let first = unsafe { self.base.add(indices.start) };
        // SAFETY: as in `atomic`, for each of them.
        unsafe { core::slice::from_raw_parts(first, indices.end - indices.start) }
    }

    #[inline]
    fn report<H: Hal>(&self, hal: &H, index: usize, value: u64) {
        hal.table_stored(HostPhysAddr::new(self.hpa.as_u64() + 8 * index as u64), value);
    }

    /// Host physical address of the table.
    pub(crate) fn hpa(&self) -> HostPhysAddr {
        self.hpa
    }

    /// Number of entries.
    pub(crate) fn len(&self) -> usize {
        self.entries
    }

    /// Reads an entry, and whatever was written before it was linked.
    #[inline]
    pub(crate) fn load(&self, index: usize) -> u64 {
        self.atomic(index).load(Ordering::Acquire)
    }

    /// Writes an entry after everything written before it.
    #[inline]
    pub(crate) fn store<H: Hal>(&self, hal: &H, index: usize, value: u64) {
        self.atomic(index).store(value, Ordering::Release);
        self.report(hal, index, value);
    }

    /// Writes an entry and returns what stood there until then, the hardware's last mark included.
    #[inline]
    pub(crate) fn swap<H: Hal>(&self, hal: &H, index: usize, value: u64) -> u64 {
        let old = self.atomic(index).swap(value, Ordering::AcqRel);
        self.report(hal, index, value);
        old
    }

    /// Writes `first` into the first of `indices` and `step` more into each that follows, in a table that is not
    /// linked yet.
    #[inline]
    pub(crate) fn fill_unlinked<H: Hal>(&self, hal: &H, indices: Range<usize>, first: u64, step: u64) {
        assert!(indices.start <= indices.end && indices.end <= self.entries, "indices beyond their table");
        let mut value = first;
        for index in indices {
            // SAFETY: the index is inside the table.
            let entry = unsafe { self.base.add(index) };
            // SAFETY: as above, and nobody else knows of the table yet, so that it need not be atomic: the compiler may
            // write several entries at once.
            unsafe { entry.write(AtomicU64::new(value)) };
            self.report(hal, index, value);
            value = value.wrapping_add(step);
        }
    }

    /// As [`fill_unlinked`](Self::fill_unlinked), in a table that is linked.
    #[inline]
    pub(crate) fn fill<H: Hal>(&self, hal: &H, indices: Range<usize>, first: u64, step: u64) {
        let mut value = first;
        for (entry, index) in self.run(indices.clone()).iter().zip(indices) {
            entry.store(value, Ordering::Release);
            self.report(hal, index, value);
            value = value.wrapping_add(step);
        }
    }

    /// The bits in which any entry of `indices` differs from `value`.
    #[inline]
    pub(crate) fn differences(&self, indices: Range<usize>, value: u64) -> u64 {
        let entries = self.run(indices).iter();
        entries.fold(0, |bits, entry| bits | entry.load(Ordering::Relaxed) ^ value)
    }

    /// As [`differences`](Self::differences), several entries at once.
    ///
    /// # Safety
    /// Nobody writes to the table meanwhile: the caller has the space for itself, and the hardware marks nothing.
    #[inline]
    #[cfg(not(loom))]
    pub(super) unsafe fn differences_unwatched(&self, indices: Range<usize>, value: u64) -> u64 {
        let first = self.run(indices.clone()).as_ptr().cast::<u64>();
        (0..indices.end - indices.start).fold(0, |bits, index| {
            // SAFETY: inside the run that was just checked; an `AtomicU64` is laid out as a `u64`.
            let entry = unsafe { first.add(index) };
            // SAFETY: as above, and nobody writes to it (the caller's promise).
            bits | unsafe { entry.read() } ^ value
        })
    }

    /// # Safety
    /// As without loom.
    #[cfg(loom)]
    pub(super) unsafe fn differences_unwatched(&self, indices: Range<usize>, value: u64) -> u64 {
        self.differences(indices, value)
    }

    /// Inverts `bits` in each entry of `indices`, which the hardware does not mark.
    #[inline]
    pub(crate) fn invert<H: Hal>(&self, hal: &H, indices: Range<usize>, bits: u64) {
        for (entry, index) in self.run(indices.clone()).iter().zip(indices) {
            let value = entry.load(Ordering::Relaxed) ^ bits;
            entry.store(value, Ordering::Relaxed);
            self.report(hal, index, value);
        }
    }

    /// Inverts `bits` in each entry of `indices`, and keeps what the hardware marks meanwhile.
    #[inline]
    pub(crate) fn invert_atomically<H: Hal>(&self, hal: &H, indices: Range<usize>, bits: u64) {
        for (entry, index) in self.run(indices.clone()).iter().zip(indices) {
            let old = entry.fetch_xor(bits, Ordering::Relaxed);
            self.report(hal, index, old ^ bits);
        }
    }

    /// Sets `bits` in an entry.
    pub(crate) fn set_bits<H: Hal>(&self, hal: &H, index: usize, bits: u64) {
        let old = self.atomic(index).fetch_or(bits, Ordering::Relaxed);
        self.report(hal, index, old | bits);
    }

    /// Clears `bits` in an entry, and keeps what the hardware marks meanwhile.
    #[inline]
    pub(crate) fn clear_bits<H: Hal>(&self, hal: &H, index: usize, bits: u64) {
        let old = self.atomic(index).fetch_and(!bits, Ordering::Relaxed);
        self.report(hal, index, old & !bits);
    }

    /// Writes an entry of a table that is not linked yet: its linking orders it.
    #[inline]
    pub(crate) fn store_unlinked<H: Hal>(&self, hal: &H, index: usize, value: u64) {
        self.atomic(index).store(value, Ordering::Relaxed);
        self.report(hal, index, value);
    }

    /// Writes `new` if the entry still is `old`, after everything written before; says whether it did.
    #[inline]
    pub(crate) fn compare_exchange<H: Hal>(&self, hal: &H, index: usize, old: u64, new: u64) -> bool {
        let done = self.atomic(index).compare_exchange(old, new, Ordering::AcqRel, Ordering::Acquire).is_ok();
        if done {
            self.report(hal, index, new);
        }
        done
    }
}

/// One entry of a table.
#[derive(Clone, Copy)]
pub(crate) struct Slot {
    /// The table.
    pub(crate) entries: Entries,
    /// The index in it.
    pub(crate) index: usize,
    /// The level of the table.
    pub(crate) level: u8,
}

impl Slot {
    /// Reads the entry.
    #[inline]
    pub(crate) fn load(&self) -> u64 {
        self.entries.load(self.index)
    }

    /// Writes the entry after everything written before it.
    #[inline]
    pub(crate) fn store<H: Hal>(&self, hal: &H, value: u64) {
        self.entries.store(hal, self.index, value);
    }

    /// Writes the entry and returns what stood there until then.
    #[inline]
    pub(crate) fn swap<H: Hal>(&self, hal: &H, value: u64) -> u64 {
        self.entries.swap(hal, self.index, value)
    }

    /// Writes `new` if the entry still is `old`; says whether it did.
    #[inline]
    pub(crate) fn compare_exchange<H: Hal>(&self, hal: &H, old: u64, new: u64) -> bool {
        self.entries.compare_exchange(hal, self.index, old, new)
    }
}

#[cfg(all(test, not(loom)))]
mod tests;
