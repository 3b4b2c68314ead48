//! A recorded run, repeated on the model of the hardware, whose TLBs keep everything that they may.
//!
//! The emulator forgets more than the architecture asks for and so hides a missing invalidation; the model does not. It is told of
//! every store and executes every instruction that the hypervisor executed. **What must hold:** when a sequence of maintenance is
//! complete, and when a CPU enters the guest with none of its own changes pending, no CPU can use a translation that differs from what
//! the tables say; no frame comes back that any CPU reaches; every fault that the guest took is one that the tables explain; and
//! the model sees neither a violation of break-before-make nor memory that was not cleaned.

use crate::recording::{Header, Recording};
use anyhow::{Context, Result, ensure};
use slat_hv_protocol::recording::{Event, Operation};
use slat_model::{
    Access, BarrierAccess, Dc, Domain, Instruction, Machine, Mmu, Policy, Ram, Reach, Report, Root, Stage2,
    Stale, Tlbi,
};
use std::collections::BTreeSet;
use std::fmt;

/// Bytes of a page, and of a line of the data cache.
const PAGE: u64 = 4096;
const LINE: u64 = 64;

/// Memory for a table without entries: as large as a root may be, and as much again for its alignment.
const EMPTY: u64 = 16 * PAGE;

/// Findings that are kept; all are counted.
const KEPT: usize = 20;

/// What is wrong.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Finding {
    /// A CPU may still use an old translation.
    Stale(Stale),
    /// A frame came back that a CPU reaches.
    Reachable { start: u64, cpu: usize, how: Reach },
    /// A frame came back that was not taken, or was taken twice.
    Books { start: u64 },
    /// The guest faulted where neither the tables nor a TLB gives a fault.
    Unexplained { cpu: usize, gpa: u64 },
    /// The model's own complaint.
    Report(Report),
    /// A root register that the CPU refuses.
    Root(String),
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Stale(stale) => write!(f, "{stale}"),
            Self::Reachable { start, cpu, how } => {
                write!(f, "the frame {start:#x} came back although CPU {cpu} reaches it: {how:x?}")
            }
            Self::Books { start } => write!(f, "the frame {start:#x} was taken or came back twice"),
            Self::Unexplained { cpu, gpa } => {
                write!(f, "CPU {cpu} faulted at GPA {gpa:#x}, which is mapped")
            }
            Self::Report(report) => write!(f, "{report:x?}"),
            Self::Root(reason) => f.write_str(reason),
        }
    }
}

/// What a replay has seen.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Outcome {
    pub(crate) stores: u64,
    /// TLBIs and barriers.
    pub(crate) instructions: u64,
    pub(crate) invalidations: u64,
    pub(crate) entries: u64,
    pub(crate) faults: u64,
    pub(crate) frames_taken: u64,
    pub(crate) frames_returned: u64,
    /// Moments at which all CPUs were searched for stale translations.
    pub(crate) checks: u64,
    /// Stale translations found, with repetition.
    pub(crate) stale: u64,
    /// Frames that came back although they were reachable.
    pub(crate) reachable: u64,
    /// All findings.
    pub(crate) found: u64,
    /// The first of them, with the number of the event.
    pub(crate) findings: Vec<(usize, Finding)>,
}

/// A CPU, as far as the model does not know it.
#[derive(Clone, Debug, Default)]
struct Cpu {
    /// It has stored and not entered the guest since.
    unsettled: bool,
    /// What it had loaded before the sequence of maintenance that goes on.
    before: Option<Option<Root>>,
    /// Guest physical ranges that changed since it was last searched.
    changed: BTreeSet<(u64, u64)>,
}

struct Replay {
    machine: Machine,
    ram: Ram,
    vtcr: u64,
    first: u64,
    empty: u64,
    taken: Vec<bool>,
    cpus: Vec<Cpu>,
    outcome: Outcome,
    number: usize,
}

/// Repeats `recording` on the model; `progress` is told of every event.
pub(crate) fn replay(recording: &Recording, mut progress: impl FnMut(usize)) -> Result<Outcome> {
    let mut replay = Replay::new(&recording.header)?;
    for (number, (cpu, event)) in recording.events.iter().enumerate() {
        replay.number = number;
        replay.event(*cpu, *event).with_context(|| format!("event {number}, {event:x?}"))?;
        progress(number);
    }
    Ok(replay.outcome)
}

impl Replay {
    fn new(header: &Header) -> Result<Self> {
        let Header { cpus, pool, started, .. } = header;
        let has = |feature: &str| started.features.iter().any(|found| found == feature);
        // VTCR_EL2: PS in 18:16, HA and HD in 22:21, VS in 19.
        let physical_bits = [32, 36, 40, 42, 44, 48, 52, 56][(started.vtcr >> 16 & 7) as usize];
        let mmu = Mmu::Stage2(Stage2 {
            physical_bits,
            fwb: has("FEAT_S2FWB"),
            xnx: has("FEAT_XNX"),
            hafdbs: if started.vtcr >> 21 & 3 == 0 { 0 } else { 2 },
            vmid16: started.vtcr >> 19 & 1 == 1,
            ..Stage2::default()
        });
        let ram = Ram::new(pool.address, pool.size + 2 * EMPTY);
        let machine = Machine::new(mmu, ram.clone(), *cpus as usize, Policy::Everything);
        Ok(Self {
            machine,
            ram,
            vtcr: started.vtcr,
            first: pool.address,
            empty: (pool.address + pool.size).next_multiple_of(EMPTY),
            taken: vec![false; usize::try_from(pool.size / PAGE)?],
            cpus: vec![Cpu::default(); *cpus as usize],
            outcome: Outcome::default(),
            number: 0,
        })
    }

    fn event(&mut self, cpu: usize, event: Event) -> Result<()> {
        match event {
            Event::Store { entry, value } => {
                self.outcome.stores += 1;
                ensure!(self.ram.write(entry, value), "the entry lies outside of the pool");
                self.machine.stored(cpu, entry, value);
                self.cpus[cpu].unsettled = true;
            }
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
            Event::Fault { gpa, access } => self.fault(cpu, gpa, access),
            Event::Take { start, count } => {
                self.outcome.frames_taken += count;
                self.book(start, count, true)?;
            }
            Event::Return { start, count } => {
                self.outcome.frames_returned += count;
                self.book(start, count, false)?;
                if let Some((cpu, how)) = self.machine.reaches(start..start + count * PAGE) {
                    self.outcome.reachable += count;
                    self.find(Finding::Reachable { start, cpu, how });
                }
            }
            Event::Zero { start, count } => {
                let end = self.range(start, count)?.end;
                for word in (start..end).step_by(8) {
                    self.ram.write(word, 0);
                }
                self.machine.host_wrote(start..end);
            }
            Event::Clean { start, count } => {
                for hpa in self.range(start, count)?.step_by(LINE as usize) {
                    self.machine.execute(cpu, Instruction::Dc { operation: Dc::Civac, hpa });
                }
                let (domain, access) = (Domain::InnerShareable, BarrierAccess::All);
                self.machine.execute(cpu, Instruction::Dsb { domain, access });
            }
        }
        for report in self.machine.take_reports() {
            self.find(Finding::Report(report));
        }
        Ok(())
    }

    fn find(&mut self, finding: Finding) {
        self.outcome.found += 1;
        if self.outcome.findings.len() < KEPT {
            self.outcome.findings.push((self.number, finding));
        }
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
            self.cpus[cpu].before = Some(before);
            self.load(cpu, vttbr & 0xffff << 48 | self.empty);
            self.machine.execute(cpu, Instruction::Isb);
        }
    }

    fn end(&mut self, cpu: usize) {
        self.outcome.invalidations += 1;
        match self.cpus[cpu].before.take() {
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
        let others = self.cpus.iter().enumerate().any(|(other, state)| other != cpu && busy(state));
        if (self.cpus[cpu].unsettled || !self.cpus[cpu].changed.is_empty()) && !others {
            self.look();
        }
        self.cpus[cpu].unsettled &= others;
    }

    /// Looks for what is stale.
    fn look(&mut self) {
        self.outcome.checks += 1;
        let changes = self.machine.take_changes();
        for cpu in 0..self.cpus.len() {
            self.cpus[cpu].changed.extend(changes.iter().map(|gpas| (gpas.start, gpas.end)));
            // One that runs no guest is searched when it does so again.
            if self.machine.root(cpu).is_some() {
                for (start, end) in std::mem::take(&mut self.cpus[cpu].changed) {
                    for stale in self.machine.stale_within(cpu, start..end) {
                        self.outcome.stale += 1;
                        self.find(Finding::Stale(stale));
                    }
                }
            }
        }
    }

    /// With several CPUs another one may have answered the same fault before this one was recorded.
    fn fault(&mut self, cpu: usize, gpa: u64, access: u64) {
        self.outcome.faults += 1;
        let kinds = [(2, Access::WRITE), (4, Access::EXECUTE), (1, Access::READ)];
        let kind = kinds.into_iter().find(|(bit, _)| access & bit != 0).map(|(_, kind)| kind);
        let Some(kind) = kind.filter(|_| self.cpus.len() == 1 && self.machine.root(cpu).is_some()) else {
            return;
        };
        if !self.machine.possible(cpu, gpa, kind).iter().any(|outcome| outcome.result.is_err()) {
            self.find(Finding::Unexplained { cpu, gpa });
        }
    }

    /// The host physical addresses of frames.
    fn range(&self, start: u64, count: u64) -> Result<std::ops::Range<u64>> {
        let inside =
            start.checked_sub(self.first).filter(|offset| offset % PAGE == 0).map(|offset| offset / PAGE);
        let end = inside.and_then(|first| first.checked_add(count));
        ensure!(end.is_some_and(|end| end <= self.taken.len() as u64), "frames outside of the pool");
        Ok(start..start + count * PAGE)
    }

    fn book(&mut self, start: u64, count: u64, taken: bool) -> Result<()> {
        let range = self.range(start, count)?;
        let index = |hpa: u64| ((hpa - self.first) / PAGE) as usize;
        let frames = index(range.start)..index(range.end);
        if self.taken[frames.clone()].contains(&taken) {
            self.find(Finding::Books { start });
        }
        self.taken[frames].fill(taken);
        Ok(())
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
        Operation::Vae2is => None,
    }
}

#[cfg(test)]
mod tests;
