//! The RISC-V side of a replay: every hart fences for itself, or is fenced by the firmware, and runs several guests in turn.
//!
//! What a hart remembers under one VMID has nothing to do with what it remembers under another, so a hart is played by as many CPUs of
//! the model as there are VMIDs in the recording: the one whose VMID is in hgatp may walk at any time, the others are paused.
//! **What must hold** for the one in hgatp: whatever was changed by operations that are complete cannot be reached by what it
//! remembers, nor can frames that went back; the others have to have dropped that when the hart enters the guest again. One that is
//! loaded with another root than the last time, because the VMID has a new owner, is searched for everything. A hart that has
//! written hgatp and not entered yet may still fence.
//!
//! Accessed and dirty flags are taken as set, see [`x86`](super::x86).

use super::x86::Owed;
use super::{Finding, PAGE, Replay};
use crate::recording::Recording;
use anyhow::{Context as _, Result, bail, ensure};
use slat_hv_protocol::recording::{Event, FenceKind, Operation};
use slat_hv_protocol::{Mechanism, Started};
use slat_model::{Gstage, Instruction, Mmu, Root};
use std::collections::BTreeSet;
use std::ops::Range;

/// hgatp: MODE in 63:60, VMID in 57:44, PPN in 43:0.
const MODE_SHIFT: u32 = 60;
const VMID_SHIFT: u32 = 44;
const VMID_MASK: u64 = 0x3fff;
const PPN_MASK: u64 = (1 << VMID_SHIFT) - 1;

/// Bytes of a root.
const ROOT: u64 = 4 * PAGE;

/// The harts of the machine.
#[derive(Clone, Debug, Default)]
pub(super) struct Harts {
    /// Those that are loaded in the recording.
    vmids: Vec<u64>,
    harts: Vec<Hart>,
    /// The model's CPUs: for hart n, one for each VMID, from n times their number on.
    slots: Vec<Slot>,
}

/// A hart, as far as the model does not know it.
#[derive(Clone, Debug, Default)]
struct Hart {
    /// The slot whose VMID is in hgatp.
    loaded: Option<usize>,
    /// Between an entry and an exit.
    inside: bool,
    /// It has entered a guest since it wrote hgatp: until then it may still fence.
    entered: bool,
    /// Guest physical ranges that it changed, in an operation that may not be complete.
    unsettled: BTreeSet<(u64, u64)>,
}

/// What a hart has under one VMID.
#[derive(Clone, Debug, Default)]
struct Slot {
    /// hgatp when it was last loaded, unless that table has gone.
    root: Option<u64>,
    owed: Owed,
}

impl Slot {
    fn table(&self) -> Option<u64> {
        Some((self.root? & PPN_MASK) * PAGE)
    }
}

impl Harts {
    /// The harts of a recording; none if it is of another architecture.
    pub(super) fn of(recording: &Recording) -> Self {
        if recording.header.started.mechanism != Mechanism::Gstage {
            return Self::default();
        }
        let mut vmids = Vec::new();
        for (_, event) in &recording.events {
            if let Event::Load { root } = *event {
                let vmid = vmid(root);
                if !vmids.contains(&vmid) {
                    vmids.push(vmid);
                }
            }
        }
        let harts = vec![Hart::default(); recording.header.cpus as usize];
        let slots = vec![Slot::default(); harts.len() * vmids.len()];
        Self { vmids, harts, slots }
    }

    /// How many CPUs the model needs; `None` if there is one for each of the machine.
    pub(super) fn model_cpus(&self) -> Option<usize> {
        (!self.harts.is_empty()).then_some(self.slots.len())
    }

    /// The model's CPU that stores what a hart stores.
    pub(super) fn storing(&self, hart: usize) -> usize {
        if self.harts.is_empty() { hart } else { hart * self.vmids.len() }
    }

    /// The model's CPU whose VMID a hart has in hgatp.
    pub(super) fn loaded(&self, hart: usize) -> Option<usize> {
        self.harts.get(hart)?.loaded
    }

    fn slots_of(&self, hart: usize) -> Range<usize> {
        hart * self.vmids.len()..(hart + 1) * self.vmids.len()
    }

    fn slot(&self, hart: usize, root: u64) -> Option<usize> {
        let place = self.vmids.iter().position(|known| *known == vmid(root))?;
        Some(hart * self.vmids.len() + place)
    }
}

/// What the harts of the machine are.
pub(super) fn mmu(started: &Started) -> Mmu {
    let has = |feature: &str| started.features.iter().any(|found| found.eq_ignore_ascii_case(feature));
    Mmu::Gstage(Gstage { pbmte: has("Svpbmt"), svnapot: has("Svnapot"), ..Gstage::default() })
}

fn vmid(hgatp: u64) -> u64 {
    hgatp >> VMID_SHIFT & VMID_MASK
}

impl Replay {
    pub(super) fn riscv_event(&mut self, hart: usize, event: Event) -> Result<()> {
        match event {
            Event::Load { root } => {
                self.leave_table(hart)?;
                self.load_hgatp(hart, root)?;
            }
            Event::Unload => self.leave_table(hart)?,
            Event::Enter => {
                let state = &mut self.riscv.harts[hart];
                ensure!(!state.inside, "the hart is inside of the guest");
                ensure!(state.loaded.is_some(), "the hart has loaded no root");
                state.inside = true;
                state.entered = true;
                self.outcome.entries += 1;
                // A hart that goes on with a guest has done with its operations, fences or not.
                self.settle_riscv(hart);
            }
            Event::Exit => {
                let inside = std::mem::take(&mut self.riscv.harts[hart].inside);
                ensure!(inside, "the hart is not inside of the guest");
            }
            Event::Fence { kind, address, vmid } => {
                let vmid = vmid.map(u64::from);
                let instruction = match kind {
                    FenceKind::HfenceGvma => Instruction::HfenceGvma { address, vmid },
                    FenceKind::HinvalGvma => Instruction::HinvalGvma { address, vmid },
                };
                self.fence(hart, 1 << hart, &[instruction]);
            }
            Event::Maintenance { operation, .. } => {
                let instruction = match operation {
                    Operation::SfenceWInval => Instruction::SfenceWInval,
                    Operation::SfenceInvalIr => Instruction::SfenceInvalIr,
                    _ => bail!("an instruction of another architecture"),
                };
                self.outcome.instructions += 1;
                self.on_all_slots(hart, instruction);
            }
            Event::RemoteFence { harts, vmid, start, size } => {
                ensure!(harts >> self.riscv.harts.len() == 0, "a hart that does not exist");
                let instructions = remote(vmid.map(u64::from), start, size)?;
                self.fence(hart, harts, &instructions);
            }
            Event::Invalidate { .. } => {}
            Event::Invalidated => {
                self.outcome.invalidations += 1;
                self.settle_riscv(hart);
            }
            _ => bail!("an event of another architecture"),
        }
        Ok(())
    }

    /// Takes down what an event of this hart has changed.
    pub(super) fn note_riscv_changes(&mut self, hart: usize) {
        let changes = self.machine.take_changes();
        let ranges = changes.into_iter().map(|gpas| (gpas.start, gpas.end));
        self.riscv.harts[hart].unsettled.extend(ranges);
    }

    /// The hart has another table in hgatp from now on, or none.
    fn leave_table(&mut self, hart: usize) -> Result<()> {
        ensure!(!self.riscv.harts[hart].inside, "the hart is inside of the guest");
        if let Some(slot) = self.riscv.harts[hart].loaded.take() {
            self.machine.pause(slot);
        }
        Ok(())
    }

    fn load_hgatp(&mut self, hart: usize, root: u64) -> Result<()> {
        // MODE Bare: no table at all.
        if root >> MODE_SHIFT == 0 {
            return Ok(());
        }
        let slot = self.riscv.slot(hart, root).context("a VMID that was not there before")?;
        self.machine.pause(slot);
        if let Err(invalid) = self.machine.load_root(slot, Root::Gstage { hgatp: root }) {
            self.find(Finding::Root(invalid.to_string()));
            return Ok(());
        }
        self.machine.resume(slot);
        let state = &mut self.riscv.slots[slot];
        state.owed.everything |= state.root.replace(root) != Some(root);
        let hart = &mut self.riscv.harts[hart];
        (hart.loaded, hart.entered) = (Some(slot), false);
        Ok(())
    }

    fn on_all_slots(&mut self, hart: usize, instruction: Instruction) {
        for slot in self.riscv.slots_of(hart) {
            self.machine.execute(slot, instruction);
        }
    }

    /// Hart `by` has `harts` (bit n for hart n) execute these.
    fn fence(&mut self, by: usize, harts: u8, instructions: &[Instruction]) {
        self.outcome.instructions += instructions.len() as u64;
        let number = self.flushes.get(&self.number).copied();
        let chosen: Vec<usize> = (0..self.riscv.harts.len()).filter(|hart| harts >> hart & 1 == 1).collect();
        let before = number.map_or(0, |_| self.stale_after(by, &chosen));
        for &hart in &chosen {
            for &instruction in instructions {
                self.on_all_slots(hart, instruction);
            }
        }
        if let Some(number) = number.filter(|_| before > 0) {
            if self.stale_after(by, &chosen) < before {
                self.outcome.needed.push(number);
            }
        }
    }

    /// How much of what hart `by` has changed some `harts` would still use, with what they have in hgatp.
    fn stale_after(&self, by: usize, harts: &[usize]) -> usize {
        let loaded = harts.iter().filter_map(|&hart| self.riscv.loaded(hart));
        let changed = &self.riscv.harts[by].unsettled;
        let stale =
            |slot| changed.iter().map(move |&(start, end)| self.machine.stale_within(slot, start..end).len());
        loaded.flat_map(stale).sum()
    }

    /// What this hart has changed is what everybody has to go by: those that have it in hgatp at once.
    fn settle_riscv(&mut self, hart: usize) {
        let changes = std::mem::take(&mut self.riscv.harts[hart].unsettled);
        for slot in &mut self.riscv.slots {
            slot.owed.changed.extend(&changes);
        }
        self.search_loaded();
    }

    fn search_loaded(&mut self) {
        for hart in 0..self.riscv.harts.len() {
            if let Some(slot) = self.riscv.loaded(hart).filter(|_| self.riscv.harts[hart].entered) {
                self.search_slot(hart, slot);
            }
        }
    }

    /// Frames went back: none of them may be reached by what is in hgatp, nor by the other VMIDs when they are entered.
    pub(super) fn riscv_returned(&mut self, start: u64, count: u64) {
        let frames = start..start + count * PAGE;
        for slot in 0..self.riscv.slots.len() {
            let state = &mut self.riscv.slots[slot];
            state.owed.return_frames(&frames);
            let gone = state.table().is_some_and(|root| root < frames.end && frames.start < root + ROOT);
            if gone && self.machine.is_paused(slot) {
                // It walks from there no more, and keeps what it had.
                state.root = None;
                self.machine.unload_root(slot);
            }
        }
        self.search_loaded();
    }

    /// Looks for what a hart must not use any more under the VMID that it has in hgatp.
    fn search_slot(&mut self, hart: usize, slot: usize) {
        let (changed, returned) = self.riscv.slots[slot].owed.take();
        if changed.is_empty() && returned.is_empty() {
            return;
        }
        self.outcome.checks += 1;
        for (start, end) in changed {
            for stale in self.machine.stale_within(slot, start..end) {
                // Whoever is still at it fences later.
                let others = self.riscv.harts.iter().enumerate().filter(|(other, _)| *other != hart);
                let mut changing = others.flat_map(|(_, state)| &state.unsettled);
                if !changing.any(|(start, end)| (*start..*end).contains(&stale.gpa)) {
                    self.outcome.stale += 1;
                    self.find(Finding::Stale(slat_model::Stale { cpu: hart, ..stale }));
                }
            }
        }
        for frames in returned {
            self.search_returned((slot, hart), frames);
        }
    }
}

/// What the firmware has other harts execute (SBI specification, "RFENCE Extension": a start and a size of 0, or a size of
/// 2^XLEN - 1, stand for everything).
fn remote(vmid: Option<u64>, start: u64, size: u64) -> Result<Vec<Instruction>> {
    if (start, size) == (0, 0) || size == u64::MAX {
        return Ok(vec![Instruction::HfenceGvma { address: None, vmid }]);
    }
    let end = start.checked_add(size).context("a remote fence wraps around")?;
    let pages = (start & !(PAGE - 1)..end).step_by(PAGE as usize);
    Ok(pages.map(|gpa| Instruction::HfenceGvma { address: Some(gpa >> 2), vmid }).collect())
}

#[cfg(test)]
mod tests;
