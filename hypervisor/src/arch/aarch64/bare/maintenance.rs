//! The machine's TLB and cache maintenance, counted.

#![expect(unsafe_code, reason = "executes an instruction that the library never uses")]

use super::recording::record;
use crate::arch::aarch64::maintenance::{Step, narrowed, steps};
use crate::arch::aarch64::platform::RAM_ADDRESS;
use crate::pool::Maintenance;
use aarch64_cpu::registers::{MPIDR_EL1, Readable};
use alloc::collections::BTreeMap;
use alloc::string::{String, ToString};
use core::arch::asm;
use core::sync::atomic::{AtomicBool, Ordering};
use slat::format::stage2::Instruction;
use slat::trace::{Ring, Tracer};
use slat::{CacheMaintenance, HostPhysRange, Invalidation};
use slat_hv_protocol::Mistake;
use slat_hv_protocol::recording::Event;
use spin::Mutex;

/// Executes what the library asks for, with the mistake that the run asks for.
pub(super) struct Counted {
    mistake: Mistake,
    /// Whether the mistake is made no more.
    corrected: AtomicBool,
    counts: Mutex<BTreeMap<&'static str, u64>>,
    trace: Option<Ring<'static>>,
}

impl Counted {
    /// Nothing counted yet. What happens goes into `trace`, if there is one.
    pub(super) fn new(mistake: Mistake, trace: Option<Ring<'static>>) -> Self {
        Self { mistake, corrected: AtomicBool::new(false), counts: Mutex::new(BTreeMap::new()), trace }
    }

    /// From now on everything is done as the library wants it.
    pub(super) fn make_no_more_mistakes(&self) {
        self.corrected.store(true, Ordering::Release);
    }

    /// Instructions executed, by mnemonic.
    pub(super) fn counts(&self) -> BTreeMap<String, u64> {
        self.counts.lock().iter().map(|(mnemonic, count)| (mnemonic.to_string(), *count)).collect()
    }
}

impl Maintenance for Counted {
    fn invalidate(&self, invalidation: &Invalidation<'_>) {
        let corrected = self.corrected.load(Ordering::Acquire);
        let mistake = if corrected { Mistake::None } else { self.mistake };
        let invalidation = &narrowed(*invalidation, mistake);
        let mut counts = self.counts.lock();
        record(Event::Invalidate { root: invalidation.root });
        let native = steps(invalidation, mistake).filter_map(|step| {
            *counts.entry(step.mnemonic()).or_default() += 1;
            let (operation, operand) = step.recorded();
            let event = Event::Maintenance { operation, operand };
            match step {
                // Before its record, so that nothing counts as complete too early.
                Step::Native(barrier) if step.is_barrier() => {
                    slat::isa::aarch64::execute(barrier);
                    record(event);
                    None
                }
                Step::Native(instruction) => {
                    record(event);
                    Some(instruction)
                }
                Step::Vae2is(operand) => {
                    record(event);
                    // SAFETY: forgets a translation of the hypervisor, whose table never changes.
                    unsafe { asm!("tlbi vae2is, {}", in(reg) operand, options(nostack, preserves_flags)) };
                    None
                }
            }
        });
        slat::isa::aarch64::run(invalidation.root, native);
        record(Event::Invalidated);
    }

    fn tracer(&self) -> Option<Tracer<'_>> {
        self.trace.map(|ring| ring.on_cpu((MPIDR_EL1.get() & 0xff) as usize))
    }

    fn invalidations(&self) -> BTreeMap<String, u64> {
        self.counts()
    }

    fn is_memory(&self, range: HostPhysRange) -> bool {
        range.end().as_u64() > RAM_ADDRESS
    }

    fn maintain_cache(&self, start: *mut u8, maintenance: &CacheMaintenance) {
        slat::isa::aarch64::maintain_cache(start, maintenance.bytes(), maintenance.actions);
    }

    fn publish(&self) {
        for barrier in [Instruction::DsbIshst, Instruction::Isb] {
            slat::isa::aarch64::execute(barrier);
            let (operation, operand) = Step::Native(barrier).recorded();
            record(Event::Maintenance { operation, operand });
        }
    }

    fn record(&self, event: Event) {
        record(event);
    }
}
