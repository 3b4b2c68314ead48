//! The Arm side of a replay: barriers order, TLBIs are broadcast, and the VMID of a sequence is that of VTTBR_EL2.

use super::{Finding, Replay};
use slat_hv_protocol::Started;
use slat_hv_protocol::recording::{Event, Operation};
use slat_model::{BarrierAccess, Domain, Instruction, Mmu, Root, Stage2, Tlbi};
use std::collections::BTreeSet;

/// A CPU, as far as the model does not know it.
#[derive(Clone, Debug, Default)]
pub(super) struct Cpu {
    /// It has stored and not entered the guest since.
    pub(super) unsettled: bool,
    /// What it had loaded before the sequence of maintenance that goes on.
    before: Option<Option<Root>>,
    /// Guest physical ranges that changed since it was last searched.
    changed: BTreeSet<(u64, u64)>,
}

/// What the CPUs of the machine are.
pub(super) fn mmu(started: &Started) -> Mmu {
    let has = |feature: &str| started.features.iter().any(|found| found == feature);
    // VTCR_EL2: PS in 18:16, HA and HD in 22:21, VS in 19.
    let physical_bits = [32, 36, 40, 42, 44, 48, 52, 56][(started.vtcr >> 16 & 7) as usize];
    Mmu::Stage2(Stage2 {
        physical_bits,
        fwb: has("FEAT_S2FWB"),
        xnx: has("FEAT_XNX"),
        hafdbs: if started.vtcr >> 21 & 3 == 0 { 0 } else { 2 },
        vmid16: started.vtcr >> 19 & 1 == 1,
        ..Stage2::default()
    })
}

impl Replay {
    /// An event that another architecture has not; `false` if it is none of Arm's.
    pub(super) fn arm_event(&mut self, cpu: usize, event: Event) -> bool {
        match event {
            Event::Maintenance { operation, operand } => {
                self.outcome.instructions += 1;
                // The hypervisor's own translations are not the model's concern.
                if let Some(instruction) = instruction(operation, operand) {
                    self.machine.execute(cpu, instruction);
                }
            }
            Event::Load { root } => self.load(cpu, root),
            Event::Unload => self.machine.unload_root(cpu),
            Event::Invalidate { root } => self.begin(cpu, root),
            Event::Invalidated => self.end(cpu),
            Event::Enter => self.enter(cpu),
            _ => return false,
        }
        true
    }

    fn load(&mut self, cpu: usize, vttbr: u64) {
        let root = Root::Stage2 { vtcr: self.vtcr, vttbr };
        if let Err(invalid) = self.machine.load_root(cpu, root) {
            self.find(Finding::Root(invalid.to_string()));
        }
    }

    /// The instructions that follow take the VMID from VTTBR_EL2. Where that is not this root, it is for their time; stage 2
    /// is off then, so that a table without entries stands for it.
    fn begin(&mut self, cpu: usize, vttbr: u64) {
        let before = self.machine.root(cpu);
        if before != Some(Root::Stage2 { vtcr: self.vtcr, vttbr }) {
            self.arm[cpu].before = Some(before);
            self.load(cpu, vttbr & 0xffff << 48 | self.empty);
            self.machine.execute(cpu, Instruction::Isb);
        }
    }

    fn end(&mut self, cpu: usize) {
        self.outcome.invalidations += 1;
        match self.arm[cpu].before.take() {
            Some(Some(Root::Stage2 { vttbr, .. })) => {
                self.load(cpu, vttbr);
                self.machine.execute(cpu, Instruction::Isb);
            }
            Some(_) => self.machine.unload_root(cpu),
            None => {}
        }
        self.look();
    }

    fn enter(&mut self, cpu: usize) {
        self.outcome.entries += 1;
        let busy = |other: &Cpu| other.unsettled || other.before.is_some();
        let others = self.arm.iter().enumerate().any(|(other, state)| other != cpu && busy(state));
        if (self.arm[cpu].unsettled || !self.arm[cpu].changed.is_empty()) && !others {
            self.look();
        }
        self.arm[cpu].unsettled &= others;
    }

    /// Looks for what is stale.
    fn look(&mut self) {
        self.outcome.checks += 1;
        let changes = self.machine.take_changes();
        for cpu in 0..self.arm.len() {
            self.arm[cpu].changed.extend(changes.iter().map(|gpas| (gpas.start, gpas.end)));
            // One that runs no guest is searched when it does so again.
            if self.machine.root(cpu).is_some() {
                for (start, end) in std::mem::take(&mut self.arm[cpu].changed) {
                    for stale in self.machine.stale_within(cpu, start..end) {
                        self.outcome.stale += 1;
                        self.find(Finding::Stale(stale));
                    }
                }
            }
        }
    }
}

/// What the model executes for an operation; `None` where it is the hypervisor's own translation.
fn instruction(operation: Operation, operand: u64) -> Option<Instruction> {
    let dsb = |domain, access| Some(Instruction::Dsb { domain, access });
    let tlbi = |operation, broadcast| Some(Instruction::Tlbi { operation, broadcast, operand });
    match operation {
        Operation::DsbIshst => dsb(Domain::InnerShareable, BarrierAccess::Stores),
        Operation::DsbIsh => dsb(Domain::InnerShareable, BarrierAccess::All),
        Operation::DsbNshst => dsb(Domain::NonShareable, BarrierAccess::Stores),
        Operation::DsbNsh => dsb(Domain::NonShareable, BarrierAccess::All),
        Operation::Isb => Some(Instruction::Isb),
        Operation::Ipas2e1is => tlbi(Tlbi::Ipas2e1, true),
        Operation::Ipas2e1 => tlbi(Tlbi::Ipas2e1, false),
        Operation::Ripas2e1is => tlbi(Tlbi::Ripas2e1, true),
        Operation::Ripas2e1 => tlbi(Tlbi::Ripas2e1, false),
        Operation::Vmalle1is => tlbi(Tlbi::Vmalle1, true),
        Operation::Vmalle1 => tlbi(Tlbi::Vmalle1, false),
        Operation::Vmalls12e1is => tlbi(Tlbi::Vmalls12e1, true),
        Operation::Vmalls12e1 => tlbi(Tlbi::Vmalls12e1, false),
        Operation::Alle1is => tlbi(Tlbi::Alle1, true),
        Operation::Alle1 => tlbi(Tlbi::Alle1, false),
        // The last two are of RISC-V, and do nothing here.
        Operation::Vae2is | Operation::SfenceWInval | Operation::SfenceInvalIr => None,
    }
}
