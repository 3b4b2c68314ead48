//! What slat counts, beside what it must have counted: faults by the answers that the specification agreed to,
//! invalidations as the host saw them.

use crate::checks::{Check, Violation, ensure};
use slat::{Counters, FaultError, FaultOutcome, LeafSize, Reach, Scope, Totals};
use std::cell::{Cell, RefCell};

/// Slots; fewer than CPUs, so that the last one stands for several.
const SLOTS: usize = 2;

/// The counters of the CPUs, and the totals that they must have.
#[derive(Debug, Default)]
pub(crate) struct Ledger {
    counters: [Counters; SLOTS],
    wanted: RefCell<[Totals; SLOTS]>,
    asked: Cell<u64>,
}

impl Ledger {
    /// The counters of a CPU.
    pub(crate) fn counters(&self, cpu: usize) -> &Counters {
        self.asked.set(self.asked.get() + 1);
        &self.counters[cpu.min(SLOTS - 1)]
    }

    /// How often they were asked for.
    pub(crate) fn asked(&self) -> u64 {
        self.asked.get()
    }

    fn add(&self, cpu: usize, which: impl FnOnce(&mut Totals) -> &mut u64) {
        *which(&mut self.wanted.borrow_mut()[cpu.min(SLOTS - 1)]) += 1;
    }

    /// A fault was answered on a CPU.
    pub(crate) fn answered(&self, cpu: usize, answer: &Result<FaultOutcome, FaultError>) {
        self.add(cpu, |wanted| match answer {
            Ok(FaultOutcome::Populated(LeafSize::Size4K)) => &mut wanted.populated_4k,
            Ok(FaultOutcome::Populated(LeafSize::Size2M)) => &mut wanted.populated_2m,
            Ok(FaultOutcome::Populated(LeafSize::Size1G)) => &mut wanted.populated_1g,
            Ok(FaultOutcome::Spurious) => &mut wanted.spurious,
            Ok(FaultOutcome::Marked) => &mut wanted.marked,
            Ok(FaultOutcome::Copied(_)) => &mut wanted.copied,
            Ok(FaultOutcome::MadeWritable) => &mut wanted.made_writable,
            Ok(FaultOutcome::Unshared) => &mut wanted.unshared,
            Ok(FaultOutcome::Retry | FaultOutcome::Wait) => &mut wanted.retried,
            Ok(FaultOutcome::Trap(_)) => &mut wanted.trapped,
            Err(FaultError::OutsideSpace { .. }) => &mut wanted.outside_space,
            Err(FaultError::NoRegion(_)) => &mut wanted.no_region,
            Err(FaultError::Permission { .. }) => &mut wanted.permission,
            Err(FaultError::NoSuchPage(_)) => &mut wanted.no_such_page,
            Err(FaultError::BadFrame { .. }) => &mut wanted.bad_frame,
            Err(FaultError::OutOfMemory(_)) => &mut wanted.out_of_memory,
        });
    }

    /// The host was asked for an invalidation on a CPU.
    pub(crate) fn invalidated(&self, cpu: usize, scope: Scope<'_>, reach: Reach) {
        self.add(cpu, |wanted| match (scope, reach) {
            (Scope::Ranges { .. }, Reach::AllCpus) => &mut wanted.ranges_on_all_cpus,
            (Scope::Ranges { .. }, Reach::ThisCpu) => &mut wanted.ranges_on_this_cpu,
            (Scope::Space, Reach::AllCpus) => &mut wanted.space_on_all_cpus,
            (Scope::Space, Reach::ThisCpu) => &mut wanted.space_on_this_cpu,
            (Scope::AllSpaces, Reach::AllCpus) => &mut wanted.all_spaces_on_all_cpus,
            (Scope::AllSpaces, Reach::ThisCpu) => &mut wanted.all_spaces_on_this_cpu,
        });
    }

    /// Everything was counted, once and on its CPU.
    pub(crate) fn check(&self) -> Result<(), Violation> {
        let counted = self.counters.each_ref().map(Counters::snapshot);
        let wanted = *self.wanted.borrow();
        ensure(counted == wanted, Check::Statistics, || format!("{counted:?} where {wanted:?} happened"))
    }
}
