//! The only place that touches table memory: loads, stores and compare-exchanges of whole 64-bit entries.
//!
//! **Invariant:** no `&u64` or `&mut u64` to a live entry ever exists. The hardware walks, and may update, the same
//! memory at any time, so every access is atomic. Stores are reported to [`Hal::table_stored`].

#![expect(unsafe_code, reason = "reaches table memory through the host's pointers")]

use crate::addr::HostPhysAddr;
use crate::hal::Hal;
use core::sync::atomic::{AtomicU64, Ordering};

/// One table: `entries` 64-bit entries in frames of the space.
#[derive(Clone, Copy)]
pub(crate) struct Entries {
    base: *mut u64,
    hpa: HostPhysAddr,
    entries: usize,
}

impl Entries {
    /// The table of `entries` entries at `hpa`.
    ///
    /// # Safety
    /// `hpa` is a table of at least that many entries in frames taken from `hal`, and stays taken while this value
    /// is used.
    pub(super) unsafe fn new<H: Hal>(hal: &H, hpa: HostPhysAddr, entries: usize) -> Self {
        Self { base: hal.phys_to_virt(hpa).cast(), hpa, entries }
    }

    fn atomic(&self, index: usize) -> &AtomicU64 {
        assert!(index < self.entries, "an index beyond its table");
        // SAFETY: the index is inside the table, which `new` promised to be taken memory; frames are aligned.
        let entry = unsafe { self.base.add(index) };
        // SAFETY: as above, and all accesses of slat to it are atomic; the hardware's are single-copy atomic.
        unsafe { AtomicU64::from_ptr(entry) }
    }

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

    /// Writes `new` if the entry still is `old`; says whether it did.
    #[inline]
    pub(crate) fn compare_exchange<H: Hal>(&self, hal: &H, old: u64, new: u64) -> bool {
        self.entries.compare_exchange(hal, self.index, old, new)
    }
}
