//! The machine's TLB maintenance, counted.

#![expect(unsafe_code, reason = "executes fences")]

use super::guest::all_forgotten;
use super::recording::record;
use crate::arch::riscv64::platform::RAM_ADDRESS;
use crate::pool::Maintenance;
use alloc::collections::BTreeMap;
use alloc::string::{String, ToString};
use core::arch::asm;
use slat::format::gstage::fences;
use slat::{CacheActions, CacheMaintenance, HostPhysRange, Invalidation, Scope};
use slat_hv_protocol::Mistake;
use slat_hv_protocol::recording::Event;
use spin::Mutex;

/// Executes what the library asks for, with the mistake that the run asks for.
pub(super) struct Counted {
    mistake: Mistake,
    counts: Mutex<BTreeMap<&'static str, u64>>,
}

impl Counted {
    /// Nothing counted yet.
    pub(super) fn new(mistake: Mistake) -> Self {
        Self { mistake, counts: Mutex::new(BTreeMap::new()) }
    }

    /// Instructions executed, by mnemonic.
    pub(super) fn counts(&self) -> BTreeMap<String, u64> {
        self.counts.lock().iter().map(|(mnemonic, count)| (mnemonic.to_string(), *count)).collect()
    }
}

impl Maintenance for Counted {
    fn invalidate(&self, invalidation: &Invalidation<'_>) {
        record(Event::Invalidate { root: invalidation.root });
        if invalidation.scope == Scope::AllSpaces {
            all_forgotten();
        }
        for fence in fences(invalidation).filter(|_| self.mistake != Mistake::NoTlbi) {
            *self.counts.lock().entry("hfence.gvma").or_default() += 1;
            slat::isa::riscv64::fence(fence);
        }
        record(Event::Invalidated);
    }

    fn is_memory(&self, range: HostPhysRange) -> bool {
        range.end().as_u64() > RAM_ADDRESS
    }

    fn maintain_cache(&self, _start: *mut u8, maintenance: &CacheMaintenance) {
        if maintenance.actions.contains(CacheActions::INVALIDATE_INSTRUCTIONS) {
            // SAFETY: a fence.
            unsafe { asm!("fence.i", options(nostack)) };
        }
    }

    fn publish(&self) {
        // SAFETY: a fence.
        unsafe { asm!("fence rw, rw", options(nostack)) };
    }

    fn record(&self, event: Event) {
        record(event);
    }
}
