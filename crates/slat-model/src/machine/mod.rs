//! RAM, CPUs and their TLBs.

mod capture;
mod invalidate;
mod second;
mod stale;
#[cfg(test)]
mod tests;
mod two_stage;

use std::collections::BTreeSet;
use std::ops::Range;

use crate::access::{Access, Fault, Outcome, Translation};
use crate::instruction::Instruction;
use crate::mmu::{InvalidRoot, Mmu, Root};
use crate::ram::{Mirror, Ram};
use crate::report::{Reach, Report, Stale};
use crate::stage1::{Stage1, VirtualFault};
use crate::tlb::Tlb;
use crate::walk::Regime;
use invalidate::Pending;

/// What a TLB keeps, and which of several possible results an access gets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Policy {
    /// Everything that the architecture allows is kept; an access gets the stalest result. Deterministic.
    Everything,
    /// Each translation is kept or not, and each access gets any of the possible results, by this seed.
    Seeded(u64),
}

/// RAM and CPUs.
///
/// TLBs are kept lazily: whatever the tables say now can be walked, so only what a store takes out of the tables has to
/// be remembered, at that store ([`stored`](Self::stored)). That equals a TLB that has prefetched everything before the
/// store. Stores that nobody reports are seen by walks, but what they replaced is forgotten.
///
/// Combined entries of a stage 1 that is on are made by [`access_virtual`](Self::access_virtual) alone. On Arm, every leaf that
/// is remembered is remembered twice: for stage 2, and combined with a stage 1 that is off.
#[derive(Debug)]
pub struct Machine {
    mmu: Mmu,
    ram: Ram,
    /// The memory before the store that is being reported.
    mirror: Mirror,
    cpus: Vec<Cpu>,
    policy: Policy,
    random: u64,
    /// Counts barriers and invalidations.
    clock: u64,
    /// First addresses and sizes of what changed entries translate.
    changed: BTreeSet<(u64, u64)>,
    /// Lines of 64 bytes that the host wrote and did not clean.
    dirty_lines: BTreeSet<u64>,
    reports: Vec<Report>,
}

#[derive(Debug, Default)]
struct Cpu {
    /// `None` while the CPU runs no guest.
    root: Option<Root>,
    /// Of the root register, also after it was unloaded.
    regime: Option<Regime>,
    tlb: Tlb,
    /// Invalidations that no barrier has completed.
    pending: Vec<Pending>,
    /// Arm: lines that were cleaned, before the DSB.
    cleaned: Vec<u64>,
    /// Arm: the VMID before a write of VTTBR_EL2 that is not synchronized yet.
    previous_tag: Option<Option<u64>>,
    /// While the CPU is [paused](Machine::pause): what it cannot have seen.
    paused: Option<Unseen>,
}

/// What a CPU that walks nothing has not seen of the tables.
#[derive(Debug, Default)]
struct Unseen {
    /// Entries that were stored since.
    stored: BTreeSet<u64>,
    /// Everything: its root register is new, or what it had seen by it was dropped.
    all: bool,
}

impl Cpu {
    fn regime(&self) -> &Regime {
        self.root.and(self.regime.as_ref()).expect("the CPU has a root register")
    }

    /// Whether the CPU may have fetched the present value of an entry.
    fn sees(&self, hpa: u64) -> bool {
        self.paused.as_ref().is_none_or(|unseen| !unseen.all && !unseen.stored.contains(&hpa))
    }

    /// Whether the CPU cannot have fetched anything from its root that its TLB does not hold.
    fn knows_nothing(&self) -> bool {
        self.paused.as_ref().is_some_and(|unseen| unseen.all)
    }

    fn stored_unseen(&mut self, hpa: u64) {
        if let Some(unseen) = &mut self.paused {
            unseen.stored.insert(hpa);
        }
    }
}

impl Machine {
    /// CPUs without a root register, with empty TLBs.
    #[must_use]
    pub fn new(mmu: Mmu, ram: Ram, cpus: usize, policy: Policy) -> Self {
        let random = match policy {
            Policy::Everything => 1,
            Policy::Seeded(seed) => seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1,
        };
        Self {
            mmu,
            mirror: Mirror::new(&ram),
            ram,
            cpus: (0..cpus).map(|_| Cpu::default()).collect(),
            policy,
            random,
            clock: 1,
            changed: BTreeSet::new(),
            dirty_lines: BTreeSet::new(),
            reports: Vec::new(),
        }
    }

    /// The RAM.
    #[must_use]
    pub fn ram(&self) -> &Ram {
        &self.ram
    }

    /// The number of CPUs.
    #[must_use]
    pub fn cpus(&self) -> usize {
        self.cpus.len()
    }

    /// Writes the root register of a CPU: from now on it may walk this table and prefetch from it. What it could have
    /// fetched by the previous root register stays in its TLB, by tag. Arm: a TLBI takes the VMID of the *previous* value
    /// until an [`Isb`](Instruction::Isb) or an access by the guest. Writing the value that is there changes nothing.
    ///
    /// # Errors
    /// The value is one with which the CPU cannot run a guest; nothing changes then.
    pub fn load_root(&mut self, cpu: usize, root: Root) -> Result<(), InvalidRoot> {
        let regime = Regime::new(&self.mmu, root)?;
        if self.cpus[cpu].root == Some(root) {
            return Ok(());
        }
        self.leave(cpu);
        self.refresh(&regime);
        let state = &mut self.cpus[cpu];
        if matches!(root, Root::Stage2 { .. }) && state.previous_tag.is_none() {
            state.previous_tag = Some(state.regime.as_ref().map(Regime::tag));
        }
        state.root = Some(root);
        state.regime = Some(regime);
        if let Some(unseen) = &mut state.paused {
            *unseen = Unseen { all: true, ..Unseen::default() };
        }
        Ok(())
    }

    /// The CPU walks nothing by its root register, which stays, so that what is stored from now on it does not see. On x86 that is so
    /// outside of its guest (SDM volume 3C, "Creating and Using Cached Translation Information": only while EPT is in use; APM volume 2:
    /// nested paging is of the guest). On RISC-V, where a hart's entries under different VMIDs have nothing to do with each other, it can
    /// be played by a CPU for each VMID, all of which but the one in hgatp are paused. A root register that is loaded meanwhile is
    /// one that the CPU has not used.
    pub fn pause(&mut self, cpu: usize) {
        self.cpus[cpu].paused.get_or_insert_default();
    }

    /// The CPU walks again.
    pub fn resume(&mut self, cpu: usize) {
        self.cpus[cpu].paused = None;
    }

    /// The CPU drops what it has cached under the tag of its root register, as hardware may at any time: where that tag is known
    /// not to be used again before it is flushed, this saves what it costs to remember it.
    pub fn drop_cached(&mut self, cpu: usize) {
        self.drop_current(cpu);
    }

    /// Whether the CPU is [paused](Self::pause).
    #[must_use]
    pub fn is_paused(&self, cpu: usize) -> bool {
        self.cpus[cpu].paused.is_some()
    }

    /// The CPU leaves the guest for good: no walks any more, its TLB stays.
    pub fn unload_root(&mut self, cpu: usize) {
        self.leave(cpu);
        self.cpus[cpu].root = None;
    }

    /// The root register of a CPU.
    #[must_use]
    pub fn root(&self, cpu: usize) -> Option<Root> {
        self.cpus[cpu].root
    }

    /// One access of a guest: takes one of the [possible](Self::possible) results, sets accessed and dirty flags where the
    /// hardware does, and keeps the translation.
    ///
    /// # Errors
    /// The fault that the access ends in.
    ///
    /// # Panics
    /// If the CPU has no root register.
    pub fn access(&mut self, cpu: usize, gpa: u64, access: Access) -> Result<Translation, Fault> {
        self.access_second(cpu, gpa, access, true).map(|found| found.translation)
    }

    /// Every result that the architecture allows an access at this moment, each once. Changes nothing.
    ///
    /// # Panics
    /// If the CPU has no root register.
    #[must_use]
    pub fn possible(&self, cpu: usize, gpa: u64, access: Access) -> Vec<Outcome> {
        let mut outcomes: Vec<Outcome> = Vec::new();
        for candidate in self.candidates(cpu, gpa, access, true) {
            if outcomes.iter().all(|outcome| outcome.result != candidate.outcome.result) {
                outcomes.push(candidate.outcome);
            }
        }
        outcomes
    }

    /// The CPU speculates: it walks for this address, sets accessed flags where the hardware does (never the dirty flag),
    /// and keeps what may be kept.
    ///
    /// # Panics
    /// If the CPU has no root register.
    pub fn prefetch(&mut self, cpu: usize, gpa: u64) {
        self.fetch(cpu, gpa);
    }

    /// Told of each store to memory that may be a table, right after it and before the next one: the CPU that stored, the
    /// address of the 8-byte entry, its new value. What the CPUs may have fetched by the old value, they now keep.
    pub fn stored(&mut self, cpu: usize, hpa: u64, new: u64) {
        self.capture(cpu, hpa, new);
    }

    /// Told that the host wrote to memory through its caches (zeroed a frame, loaded a kernel): on Arm without FWB it needs
    /// cleaning before a guest may read it. Elsewhere, tables that were overwritten so stay cached as they were.
    pub fn host_wrote(&mut self, memory: Range<u64>) {
        if !matches!(self.mmu, Mmu::Stage2(_)) {
            let frames = (memory.start & !0xfff..memory.end).step_by(4096);
            frames.for_each(|frame| self.overwritten(frame));
        }
        if let Mmu::Stage2(crate::mmu::Stage2 { fwb: false, .. }) = self.mmu {
            self.dirty_lines.extend((memory.start / 64..memory.end.div_ceil(64)).map(|line| line * 64));
        }
    }

    /// Executes an instruction on a CPU.
    pub fn execute(&mut self, cpu: usize, instruction: Instruction) {
        self.invalidate(cpu, instruction);
    }

    /// One access of a guest by virtual address: stage 1, each of its own accesses through the second level, then the final
    /// access. Keeps combined entries.
    ///
    /// # Errors
    /// The fault that the access ends in.
    ///
    /// # Panics
    /// If the CPU has no root register, or the stage 1 is of another ISA.
    pub fn access_virtual(
        &mut self,
        cpu: usize,
        gva: u64,
        access: Access,
        stage1: &Stage1,
    ) -> Result<Translation, VirtualFault> {
        self.access_both(cpu, gva, access, stage1)
    }

    /// Every result that the architecture allows such an access at this moment, each once. Changes nothing.
    ///
    /// # Panics
    /// As [`access_virtual`](Self::access_virtual).
    #[must_use]
    pub fn possible_virtual(
        &self,
        cpu: usize,
        gva: u64,
        access: Access,
        stage1: &Stage1,
    ) -> Vec<Result<Translation, VirtualFault>> {
        self.possible_both(cpu, gva, access, stage1)
    }

    /// Whether a CPU could still reach host physical memory in this range, or walk a table there, and how: to be asked for
    /// every frame that goes back to the allocator.
    #[must_use]
    pub fn reaches(&self, memory: Range<u64>) -> Option<(usize, Reach)> {
        (0..self.cpus.len()).find_map(|cpu| Some((cpu, self.reaches_by(cpu, &memory, false, true)?)))
    }

    /// As [`reaches`](Self::reaches), by one CPU with the root register that it has: what it has cached under other tags does
    /// not count.
    #[must_use]
    pub fn reaches_now(&self, cpu: usize, memory: Range<u64>) -> Option<Reach> {
        self.reaches_by(cpu, &memory, true, true)
    }

    /// As [`reaches_now`](Self::reaches_now), by what the TLB holds alone: that is all where no table leads to this memory.
    #[must_use]
    pub fn cached_now(&self, cpu: usize, memory: Range<u64>) -> Option<Reach> {
        self.reaches_by(cpu, &memory, true, false)
    }

    /// How a CPU, with the root register that it has, would walk a table in this memory that the tables do not lead to any more:
    /// to be asked of a frame that went back and may serve another purpose by now.
    #[must_use]
    pub fn dangling(&self, cpu: usize, memory: Range<u64>) -> Option<Reach> {
        self.dangling_by(cpu, &memory)
    }

    /// Every translation that a CPU may still use, with the root register that it has, although a walk of the tables would give
    /// another one or none: to be asked when a change is complete, its invalidation included. That a CPU may still fault where
    /// a walk would succeed is no violation, and not listed. Combined entries of a stage 1 that is on are not looked at.
    /// Cost: the number of cached entries, by the walks of their addresses.
    #[must_use]
    pub fn stale(&self) -> Vec<Stale> {
        (0..self.cpus.len()).flat_map(|cpu| self.stale_within(cpu, 0..u64::MAX)).collect()
    }

    /// As [`stale`](Self::stale), of one CPU, in a range of guest physical addresses: for instance one of
    /// [`take_changes`](Self::take_changes), which costs less.
    #[must_use]
    pub fn stale_within(&self, cpu: usize, gpas: Range<u64>) -> Vec<Stale> {
        self.stale_of(cpu, &gpas)
    }

    /// The guest physical ranges that entries translate which were changed since the last call, where a CPU could have cached
    /// the old one. What becomes stale lies in one of them.
    pub fn take_changes(&mut self) -> Vec<Range<u64>> {
        std::mem::take(&mut self.changed).into_iter().map(|(start, size)| start..start + size).collect()
    }

    /// The violations seen so far, each once, in order.
    #[must_use]
    pub fn reports(&self) -> &[Report] {
        &self.reports
    }

    /// The violations seen so far, which are forgotten.
    pub fn take_reports(&mut self) -> Vec<Report> {
        std::mem::take(&mut self.reports)
    }

    fn report(&mut self, report: Report) {
        if !self.reports.contains(&report) {
            self.reports.push(report);
        }
    }

    /// The next number of Marsaglia's xorshift64.
    fn random(&mut self) -> u64 {
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        self.random
    }
}
