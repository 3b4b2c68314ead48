//! RAM, CPUs and their TLBs.

use std::ops::Range;

use crate::access::{Access, Fault, Outcome, Translation};
use crate::instruction::Instruction;
use crate::mmu::{InvalidRoot, Mmu, Root};
use crate::ram::Ram;
use crate::report::{Reach, Report};
use crate::stage1::{Stage1, VirtualFault};

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
/// store.
#[derive(Debug)]
pub struct Machine {
    _ram: Ram,
}

#[expect(unused_variables, reason = "the interface first")]
impl Machine {
    /// CPUs without a root register, with empty TLBs.
    #[must_use]
    pub fn new(mmu: Mmu, ram: Ram, cpus: usize, policy: Policy) -> Self {
        todo!()
    }

    /// The RAM.
    #[must_use]
    pub fn ram(&self) -> &Ram {
        todo!()
    }

    /// The number of CPUs.
    #[must_use]
    pub fn cpus(&self) -> usize {
        todo!()
    }

    /// Writes the root register of a CPU: from now on it may walk this table and prefetch from it. What it could have
    /// fetched by the previous root register stays in its TLB, by tag. Arm: a TLBI takes the VMID of the *previous* value
    /// until an [`Isb`](Instruction::Isb) or an access by the guest.
    ///
    /// # Errors
    /// The value is one with which the CPU cannot run a guest; nothing changes then.
    pub fn load_root(&mut self, cpu: usize, root: Root) -> Result<(), InvalidRoot> {
        todo!()
    }

    /// The CPU leaves the guest for good: no walks any more, its TLB stays.
    pub fn unload_root(&mut self, cpu: usize) {
        todo!()
    }

    /// The root register of a CPU.
    #[must_use]
    pub fn root(&self, cpu: usize) -> Option<Root> {
        todo!()
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
        todo!()
    }

    /// Every result that the architecture allows an access at this moment, each once. Changes nothing.
    ///
    /// # Panics
    /// If the CPU has no root register.
    #[must_use]
    pub fn possible(&self, cpu: usize, gpa: u64, access: Access) -> Vec<Outcome> {
        todo!()
    }

    /// The CPU speculates: it walks for this address, sets accessed flags where the hardware does (never the dirty flag),
    /// and keeps what may be kept.
    ///
    /// # Panics
    /// If the CPU has no root register.
    pub fn prefetch(&mut self, cpu: usize, gpa: u64) {
        todo!()
    }

    /// Told of each store to memory that may be a table, right after it and before the next one: the CPU that stored, the
    /// address of the 8-byte entry, its new value. What the CPUs may have fetched by the old value, they now keep.
    pub fn stored(&mut self, cpu: usize, hpa: u64, new: u64) {
        todo!()
    }

    /// Told that the host wrote to memory through its caches (zeroed a frame, loaded a kernel): on Arm without FWB it needs
    /// cleaning before a guest may read it.
    pub fn host_wrote(&mut self, memory: Range<u64>) {
        todo!()
    }

    /// Executes an instruction on a CPU.
    pub fn execute(&mut self, cpu: usize, instruction: Instruction) {
        todo!()
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
        todo!()
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
        todo!()
    }

    /// Whether a CPU could still reach host physical memory in this range, or walk a table there, and how: to be asked for
    /// every frame that goes back to the allocator.
    #[must_use]
    pub fn reaches(&self, memory: Range<u64>) -> Option<(usize, Reach)> {
        todo!()
    }

    /// The violations seen so far, each once, in order.
    #[must_use]
    pub fn reports(&self) -> &[Report] {
        todo!()
    }

    /// The violations seen so far, which are forgotten.
    pub fn take_reports(&mut self) -> Vec<Report> {
        todo!()
    }
}
