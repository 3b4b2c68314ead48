//! The x86 side of a replay: every CPU invalidates for itself, and one that is outside of its guest when it next enters.
//!
//! **What must hold** for each CPU and each tag (EPTP's address of the root, ASID): while the CPU is inside, whatever was
//! changed by operations that are complete, and no frame that went back, can be reached by what it remembers; what changes
//! while it is outside it has to have dropped when it enters, by INVEPT, by the TLB_CONTROL of that very entry, or by another
//! tag. A CPU that enters with a root or tag that it has just loaded is searched for everything.
//!
//! Accessed and dirty flags are left out: hardware may set them in any present entry at any time, and remembers what is marked.
//! So the CPUs of the replay do without them (Intel), or find all of them set (AMD, RISC-V), and whatever is present may be remembered.

use super::{Finding, PAGE, Replay};
use crate::recording::Recording;
use anyhow::{Result, bail, ensure};
use slat_hv_protocol::recording::Event;
use slat_hv_protocol::{Mechanism, Started};
use slat_model::{Ept, Instruction, Mmu, Npt, Root};
use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;

/// Accessed and dirty flags, of the EPTP.
const ACCESSED_DIRTY: u64 = 1 << 6;

/// Present; accessed and dirty, of an entry of AMD's.
const PRESENT: u64 = 1;
const MARKS: u64 = 3 << 5;

/// RISC-V: what tells a leaf from a pointer, and its marks.
const PERMISSIONS: u64 = 7 << 1;
const RISCV_MARKS: u64 = 3 << 6;

/// The address in EPTP, nCR3 and entries.
const ADDRESS: u64 = 0x000f_ffff_ffff_f000;

/// A CPU, as far as the model does not know it.
#[derive(Clone, Debug, Default)]
pub(super) struct Cpu {
    /// Between an entry and an exit.
    inside: bool,
    /// The root register and tag of its entries.
    loaded: Option<(u64, u32)>,
    /// Guest physical ranges that it changed, in an operation that may not be complete.
    unsettled: BTreeSet<(u64, u64)>,
    /// Invalidations since its last entry, and whether there was something to drop.
    flushes: Vec<(usize, bool)>,
    /// What it is to be searched for, by what its TLB tells entries apart by.
    owed: BTreeMap<u64, Owed>,
}

/// What a CPU must not use any more when it is inside with some tag.
#[derive(Clone, Debug, Default)]
pub(super) struct Owed {
    /// Guest physical ranges that changed.
    pub(super) changed: BTreeSet<(u64, u64)>,
    /// Frames that went back.
    returned: Vec<Range<u64>>,
    /// Anything may have changed.
    pub(super) everything: bool,
}

impl Owed {
    /// Frames went back.
    pub(super) fn return_frames(&mut self, frames: &Range<u64>) {
        match self.returned.last_mut() {
            Some(last) if last.end == frames.start => last.end = frames.end,
            _ => self.returned.push(frames.clone()),
        }
    }

    /// Takes all of it: the guest physical ranges, and the frames.
    pub(super) fn take(&mut self) -> (BTreeSet<(u64, u64)>, Vec<Range<u64>>) {
        let Self { changed, returned, everything } = std::mem::take(self);
        (if everything { BTreeSet::from([(0, u64::MAX)]) } else { changed }, returned)
    }
}

/// What the CPUs of the machine are.
pub(super) fn mmu(started: &Started) -> Mmu {
    let max_phys_addr = started.physical_bits;
    if started.mechanism == Mechanism::Ept {
        let capabilities = started.ept_vpid_cap;
        return Mmu::Ept(Ept { max_phys_addr, capabilities, mode_based_execute: false });
    }
    let flush_by_asid = started.features.iter().any(|found| found == "FlushByAsid");
    Mmu::Npt(Npt { max_phys_addr, host_la57: started.levels == 5, flush_by_asid, ..Npt::default() })
}

/// The loads by which a CPU leaves a tag that it does not enter again before it drops everything: a hypervisor that has no other
/// way to flush uses up ASIDs by the hundred, and what is under them need not be remembered.
pub(super) fn last_uses(recording: &Recording) -> BTreeSet<usize> {
    /// Of one CPU, with the events after the one at hand.
    #[derive(Clone, Default)]
    struct Later {
        /// The next load of each tag that is entered without dropping everything, and the next entry that drops everything.
        loads: BTreeMap<u32, usize>,
        flush: Option<usize>,
        /// TLB_CONTROL of the next entry.
        control: u8,
        /// The next load, and the entry after it that drops everything.
        load: Option<(usize, Option<usize>)>,
    }
    let mut found = BTreeSet::new();
    if recording.header.started.mechanism != Mechanism::Npt {
        return found;
    }
    let mut cpus = vec![Later::default(); recording.header.cpus as usize];
    for (number, (cpu, event)) in recording.events.iter().enumerate().rev() {
        let Some(later) = cpus.get_mut(*cpu) else { continue };
        match *event {
            Event::Vmrun { tlb_control } => {
                later.control = tlb_control;
                if tlb_control == 1 {
                    later.flush = Some(number);
                }
            }
            Event::LoadTagged { tag, .. } => {
                if let Some((next, flush)) = later.load {
                    let again =
                        later.loads.get(&tag).is_some_and(|load| flush.is_none_or(|flush| *load < flush));
                    if !again {
                        found.insert(next);
                    }
                }
                if later.control != 1 {
                    later.loads.insert(tag, number);
                }
                later.load = Some((number, later.flush));
            }
            _ => {}
        }
    }
    found
}

/// An entry as the hardware may have marked it.
pub(super) fn marked(mechanism: Mechanism, entry: u64) -> u64 {
    let marks = match mechanism {
        Mechanism::Npt => MARKS,
        Mechanism::Gstage if entry & PERMISSIONS != 0 => RISCV_MARKS,
        _ => 0,
    };
    if entry & PRESENT != 0 { entry | marks } else { entry }
}

/// How many entries of tables point to an address. So that the tables need not be searched for a frame to which none does; an
/// entry counts also while no CPU can walk to it.
#[derive(Clone, Debug, Default)]
pub(super) struct Pointers(BTreeMap<u64, u32>);

impl Pointers {
    /// An entry changes.
    pub(super) fn stored(&mut self, mechanism: Mechanism, old: u64, new: u64) {
        let target = |entry: u64| {
            let present = if mechanism == Mechanism::Ept { entry & 7 } else { entry & PRESENT };
            let address = match mechanism {
                // The lowest bits of the address say how many pages an entry with N stands for.
                Mechanism::Gstage if entry >> 63 == 1 => entry << 2 & ADDRESS & !0xffff,
                Mechanism::Gstage => entry << 2 & ADDRESS,
                _ => entry & ADDRESS,
            };
            (present != 0).then_some(address)
        };
        if let Some(target) = target(new) {
            *self.0.entry(target).or_default() += 1;
        }
        if let Some(count) = target(old).and_then(|target| self.0.get_mut(&target)) {
            *count = count.saturating_sub(1);
        }
    }

    /// Whether an entry may point to one of these frames, by itself or as part of a large leaf.
    fn may_reach(&self, frames: &Range<u64>) -> bool {
        let some = |count: &u32| *count != 0;
        // Bit 12 of a large leaf of AMD's is not of the address.
        let large = [16, 21, 30].map(|bits| frames.start >> bits << bits);
        let inside = self.0.range(frames.clone()).any(|(_, count)| some(count));
        inside
            || large
                .iter()
                .any(|start| [0, PAGE].iter().any(|pat| self.0.get(&(start + pat)).is_some_and(some)))
    }
}

impl Replay {
    pub(super) fn x86_event(&mut self, cpu: usize, event: Event) -> Result<()> {
        if let Some(number) = self.flushes.get(&self.number).copied() {
            let needed = self.would_be_stale(cpu);
            self.x86[cpu].flushes.push((number, needed));
        }
        let inside = self.x86[cpu].inside;
        let outside = || match inside {
            true => bail!("the CPU is inside of the guest"),
            false => Ok(()),
        };
        match event {
            Event::LoadTagged { root, tag } => {
                outside()?;
                self.load_tagged(cpu, root, tag);
            }
            Event::Unload => {
                outside()?;
                self.machine.unload_root(cpu);
                self.x86[cpu].loaded = None;
            }
            Event::Invept { kind, eptp } => {
                outside()?;
                self.maintain(cpu, Instruction::Invept { kind: kind.into(), eptp });
            }
            Event::Invvpid { kind, vpid, linear } => {
                outside()?;
                self.maintain(cpu, Instruction::Invvpid { kind: kind.into(), vpid, linear });
            }
            Event::Enter => {
                outside()?;
                ensure!(self.mechanism == Mechanism::Ept, "a VM entry on AMD");
                self.go_inside(cpu, Instruction::VmEntry)?;
            }
            Event::Vmrun { tlb_control } => {
                outside()?;
                ensure!(self.mechanism == Mechanism::Npt, "a VMRUN on Intel");
                self.outcome.instructions += u64::from(tlb_control != 0);
                self.go_inside(cpu, Instruction::Vmrun { tlb_control })?;
            }
            Event::Exit => {
                ensure!(inside, "the CPU is not inside of the guest");
                self.x86[cpu].inside = false;
                self.machine.pause(cpu);
                if self.mechanism == Mechanism::Ept {
                    self.machine.execute(cpu, Instruction::VmExit);
                }
            }
            Event::Invalidate { .. } => {}
            Event::Invalidated => {
                self.outcome.invalidations += 1;
                self.settle(cpu);
            }
            Event::Logged { .. } => self.outcome.logged += 1,
            _ => bail!("an event of another architecture"),
        }
        Ok(())
    }

    /// Takes down what an event of this CPU has changed.
    pub(super) fn note_changes(&mut self, cpu: usize) {
        let changes = self.machine.take_changes();
        self.x86[cpu].unsettled.extend(changes.into_iter().map(|gpas| (gpas.start, gpas.end)));
    }

    fn maintain(&mut self, cpu: usize, instruction: Instruction) {
        self.outcome.instructions += 1;
        self.machine.execute(cpu, instruction);
    }

    fn load_tagged(&mut self, cpu: usize, register: u64, tag: u32) {
        let root = match self.mechanism {
            Mechanism::Ept => match u16::try_from(tag) {
                Ok(vpid) => Root::Ept { eptp: register & !ACCESSED_DIRTY, vpid },
                Err(_) => return self.find(Finding::Root(format!("VPID {tag:#x} is wider than 16 bits"))),
            },
            _ => Root::Npt { ncr3: register, asid: tag },
        };
        self.machine.pause(cpu);
        if self.last_uses.contains(&self.number) {
            self.machine.drop_cached(cpu);
            if let Some((_, left)) = self.x86[cpu].loaded {
                self.x86[cpu].owed.remove(&u64::from(left));
            }
        }
        if let Err(invalid) = self.machine.load_root(cpu, root) {
            return self.find(Finding::Root(invalid.to_string()));
        }
        let told_apart_by = self.told_apart_by(register, tag);
        let state = &mut self.x86[cpu];
        if state.loaded.replace((register, tag)) != Some((register, tag)) {
            state.owed.entry(told_apart_by).or_default().everything = true;
        }
    }

    /// What the TLB tells entries apart by.
    fn told_apart_by(&self, register: u64, tag: u32) -> u64 {
        if self.mechanism == Mechanism::Ept { register & ADDRESS } else { tag.into() }
    }

    /// The entry executes this.
    fn go_inside(&mut self, cpu: usize, instruction: Instruction) -> Result<()> {
        ensure!(self.machine.root(cpu).is_some(), "the CPU has loaded no root");
        self.outcome.entries += 1;
        if let [(number, true)] = std::mem::take(&mut self.x86[cpu].flushes)[..] {
            self.outcome.needed.push(number);
        }
        self.machine.execute(cpu, instruction);
        self.machine.resume(cpu);
        self.x86[cpu].inside = true;
        // A CPU that goes on with the guest has done with its operations, invalidation or not.
        if self.x86[cpu].unsettled.is_empty() {
            self.search(cpu)
        } else {
            self.settle(cpu)
        }
        Ok(())
    }

    /// What this CPU has changed is what everybody has to go by: those that are inside at once.
    fn settle(&mut self, cpu: usize) {
        let changes = std::mem::take(&mut self.x86[cpu].unsettled);
        for owed in self.x86.iter_mut().flat_map(|state| state.owed.values_mut()) {
            owed.changed.extend(&changes);
        }
        for cpu in 0..self.x86.len() {
            if self.x86[cpu].inside {
                self.search(cpu);
            }
        }
    }

    /// Frames went back: none of them may be reached by who is inside, nor by the others when they enter.
    pub(super) fn returned(&mut self, start: u64, count: u64) {
        let frames = start..start + count * PAGE;
        let ept = self.mechanism == Mechanism::Ept;
        for (told_apart_by, owed) in self.x86.iter_mut().flat_map(|state| &mut state.owed) {
            owed.everything |= ept && frames.contains(told_apart_by);
            owed.return_frames(&frames);
        }
        for cpu in 0..self.x86.len() {
            if self.x86[cpu].inside {
                self.search(cpu);
            }
        }
    }

    /// Whether a CPU that is outside would use what it must not if it entered as it is.
    fn would_be_stale(&self, cpu: usize) -> bool {
        let Cpu { loaded: Some((register, tag)), unsettled, owed, .. } = &self.x86[cpu] else { return false };
        let owed = owed.get(&self.told_apart_by(*register, *tag));
        let everything = owed.filter(|owed| owed.everything).map(|_| &(0, u64::MAX));
        let changed = owed.map(|owed| &owed.changed).into_iter().flatten().chain(unsettled).chain(everything);
        changed.copied().any(|(start, end)| !self.machine.stale_within(cpu, start..end).is_empty())
    }

    /// Looks for what a CPU that is inside must not use any more.
    fn search(&mut self, cpu: usize) {
        let Some((register, tag)) = self.x86[cpu].loaded else { return };
        let told_apart_by = self.told_apart_by(register, tag);
        let Some(owed) = self.x86[cpu].owed.get_mut(&told_apart_by) else { return };
        let (changed, returned) = owed.take();
        if changed.is_empty() && returned.is_empty() {
            return;
        }
        self.outcome.checks += 1;
        for (start, end) in changed {
            for stale in self.machine.stale_within(cpu, start..end) {
                // Whoever is still at it invalidates later.
                let others = self.x86.iter().enumerate().filter(|(other, _)| *other != cpu);
                let mut changing = others.flat_map(|(_, state)| &state.unsettled);
                if !changing.any(|(start, end)| (*start..*end).contains(&stale.gpa)) {
                    self.outcome.stale += 1;
                    self.find(Finding::Stale(stale));
                }
            }
        }
        for frames in returned {
            self.search_returned((cpu, cpu), frames);
        }
    }

    /// Frames that are free must not be reached at all; those that were taken again, not as the tables that they were. A CPU of the
    /// machine's is played by one of the model's.
    pub(super) fn search_returned(&mut self, (model_cpu, cpu): (usize, usize), frames: Range<u64>) {
        let index = |hpa: u64| ((hpa - self.first) / PAGE) as usize;
        let taken = &self.taken[index(frames.start)..index(frames.end)];
        let mut runs: Vec<(bool, Range<u64>)> = Vec::new();
        for (frame, taken) in frames.clone().step_by(PAGE as usize).zip(taken) {
            match runs.last_mut() {
                Some((same, run)) if same == taken => run.end += PAGE,
                _ => runs.push((*taken, frame..frame + PAGE)),
            }
        }
        for (taken, run) in runs {
            let Range { start, end } = run.clone();
            let how = match (taken, self.pointers.may_reach(&run)) {
                (true, _) => self.machine.dangling(model_cpu, run),
                (false, true) => self.machine.reaches_now(model_cpu, run),
                (false, false) => self.machine.cached_now(model_cpu, run),
            };
            if let Some(how) = how {
                self.outcome.reachable += (end - start) / PAGE;
                self.find(Finding::Reachable { start, cpu, how });
            }
        }
    }
}

#[cfg(test)]
mod tests;
