//! A recorded run, repeated on the model of the hardware, whose TLBs keep everything that they may.
//!
//! The emulator forgets more than the architecture asks for and so hides a missing invalidation; the model does not. It is told of
//! every store and executes every instruction that the hypervisor executed. **What must hold:** when a sequence of maintenance is
//! complete, and when a CPU enters the guest with none of its own changes pending, no CPU can use a translation that differs from what
//! the tables say; no frame comes back that any CPU reaches; every fault that the guest took is one that the tables explain; and
//! the model sees neither a violation of break-before-make nor memory that was not cleaned.
//!
//! On x86 a CPU outside of its guest uses no translation of it, so it may go on remembering what is wrong, until it enters: see
//! [`x86`]. On RISC-V that goes for each VMID: see [`riscv`].

mod arm;
mod riscv;
mod x86;

use crate::recording::{Header, Recording};
use anyhow::{Context, Result, ensure};
use slat_hv_protocol::Mechanism;
use slat_hv_protocol::recording::Event;
use slat_model::{
    Access, BarrierAccess, Dc, Domain, Instruction, Machine, Policy, Ram, Reach, Report, Stale,
};
use std::collections::{BTreeMap, BTreeSet};
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
    /// Instructions of TLB maintenance, barriers included, and entries with a TLB_CONTROL other than 0.
    pub(crate) instructions: u64,
    pub(crate) invalidations: u64,
    pub(crate) entries: u64,
    pub(crate) faults: u64,
    /// Pages in page-modification logs.
    pub(crate) logged: u64,
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
    /// x86 and RISC-V: the invalidations, by the numbers of [`Recording::without_flush`], of which each is the only one that keeps a
    /// CPU from something stale (x86: at its entry).
    pub(crate) needed: Vec<usize>,
}

struct Replay {
    machine: Machine,
    ram: Ram,
    mechanism: Mechanism,
    vtcr: u64,
    first: u64,
    empty: u64,
    taken: Vec<bool>,
    /// Frames with entries of tables, or with what is left of them.
    tables: BTreeSet<u64>,
    arm: Vec<arm::Cpu>,
    x86: Vec<x86::Cpu>,
    riscv: riscv::Harts,
    pointers: x86::Pointers,
    /// Events that load a root while the tag before it is not used again.
    last_uses: BTreeSet<usize>,
    /// The numbers of invalidations, by their events.
    flushes: BTreeMap<usize, usize>,
    outcome: Outcome,
    number: usize,
}

/// Repeats `recording` on the model; `progress` is told of every event.
pub(crate) fn replay(recording: &Recording, mut progress: impl FnMut(usize)) -> Result<Outcome> {
    replay_while(recording, |number, _| {
        progress(number);
        true
    })
}

/// Whether the model finds something stale, or a frame that came back too early: repeats `recording` only until it does.
pub(crate) fn is_stale(recording: &Recording) -> Result<bool> {
    let is_stale = |outcome: &Outcome| outcome.stale > 0 || outcome.reachable > 0;
    replay_while(recording, |_, outcome| !is_stale(outcome)).map(|outcome| is_stale(&outcome))
}

/// Repeats `recording` as long as `goes_on`, which is told of every event and of what was seen until then.
fn replay_while(recording: &Recording, mut goes_on: impl FnMut(usize, &Outcome) -> bool) -> Result<Outcome> {
    let mut replay = Replay::new(recording)?;
    replay.last_uses = x86::last_uses(recording);
    let places = recording.flush_places();
    replay.flushes = places.into_iter().enumerate().map(|(number, place)| (place, number)).collect();
    for (number, (cpu, event)) in recording.events.iter().enumerate() {
        replay.number = number;
        replay.event(*cpu, *event).with_context(|| format!("event {number}, {event:x?}"))?;
        if !goes_on(number, &replay.outcome) {
            break;
        }
    }
    Ok(replay.outcome)
}

impl Replay {
    fn new(recording: &Recording) -> Result<Self> {
        let Header { cpus, pool, started, .. } = &recording.header;
        let mmu = match started.mechanism {
            Mechanism::Stage2 => arm::mmu(started),
            Mechanism::Ept | Mechanism::Npt => x86::mmu(started),
            Mechanism::Gstage => riscv::mmu(started),
        };
        let riscv = riscv::Harts::of(recording);
        let model_cpus = riscv.model_cpus().unwrap_or(*cpus as usize);
        let ram = Ram::new(pool.address, pool.size + 2 * EMPTY);
        let machine = Machine::new(mmu, ram.clone(), model_cpus, Policy::Everything);
        Ok(Self {
            machine,
            ram,
            mechanism: started.mechanism,
            vtcr: started.vtcr,
            first: pool.address,
            empty: (pool.address + pool.size).next_multiple_of(EMPTY),
            taken: vec![false; usize::try_from(pool.size / PAGE)?],
            tables: BTreeSet::new(),
            arm: vec![arm::Cpu::default(); *cpus as usize],
            x86: vec![x86::Cpu::default(); *cpus as usize],
            riscv,
            pointers: x86::Pointers::default(),
            last_uses: BTreeSet::new(),
            flushes: BTreeMap::new(),
            outcome: Outcome::default(),
            number: 0,
        })
    }

    fn event(&mut self, cpu: usize, event: Event) -> Result<()> {
        let arm = self.mechanism == Mechanism::Stage2;
        let riscv = self.mechanism == Mechanism::Gstage;
        match event {
            Event::Store { entry, value } => {
                self.outcome.stores += 1;
                let value = x86::marked(self.mechanism, value);
                let old = self.ram.read(entry).context("the entry lies outside of the pool")?;
                self.pointers.stored(self.mechanism, old, value);
                self.ram.write(entry, value);
                self.tables.insert(entry / PAGE * PAGE);
                self.machine.stored(self.riscv.storing(cpu), entry, value);
                self.arm[cpu].unsettled = true;
            }
            Event::Fault { gpa, access } => {
                self.outcome.faults += 1;
                if let Some(model_cpu) = self.faulting(cpu) {
                    self.fault((cpu, model_cpu), gpa, access);
                }
            }
            Event::Take { start, count } => {
                self.outcome.frames_taken += count;
                self.book(start, count, true)?;
                if !arm {
                    self.clear_tables(start, count)?;
                }
            }
            Event::Return { start, count } => {
                self.outcome.frames_returned += count;
                self.book(start, count, false)?;
                if riscv {
                    self.riscv_returned(start, count);
                } else if !arm {
                    self.returned(start, count);
                } else if let Some((cpu, how)) = self.machine.reaches(start..start + count * PAGE) {
                    self.outcome.reachable += count;
                    self.find(Finding::Reachable { start, cpu, how });
                }
            }
            Event::Zero { start, count } => {
                let end = self.range(start, count)?.end;
                self.clear(start..end);
                self.machine.host_wrote(start..end);
            }
            Event::Clean { start, count } if arm => {
                for hpa in self.range(start, count)?.step_by(LINE as usize) {
                    self.machine.execute(cpu, Instruction::Dc { operation: Dc::Civac, hpa });
                }
                let (domain, access) = (Domain::InnerShareable, BarrierAccess::All);
                self.machine.execute(cpu, Instruction::Dsb { domain, access });
            }
            event if arm => ensure!(self.arm_event(cpu, event), "an event of another architecture"),
            event if riscv => self.riscv_event(cpu, event)?,
            event => self.x86_event(cpu, event)?,
        }
        if riscv {
            self.note_riscv_changes(cpu);
        } else if !arm {
            self.note_changes(cpu);
        }
        for report in self.machine.take_reports() {
            self.find(Finding::Report(report));
        }
        Ok(())
    }

    fn clear(&mut self, range: std::ops::Range<u64>) {
        for word in range.step_by(8) {
            let old = self.ram.read(word).unwrap_or(0);
            if old != 0 {
                self.pointers.stored(self.mechanism, old, 0);
                self.ram.write(word, 0);
            }
        }
    }

    /// Frames that were tables have been taken again. Before one becomes a table once more the library zeroes it, which is not
    /// recorded: nothing points there yet.
    fn clear_tables(&mut self, start: u64, count: u64) -> Result<()> {
        let range = self.range(start, count)?;
        while let Some(frame) = self.tables.range(range.clone()).next().copied() {
            self.tables.remove(&frame);
            self.clear(frame..frame + PAGE);
            self.machine.host_wrote(frame..frame + PAGE);
        }
        Ok(())
    }

    fn find(&mut self, finding: Finding) {
        self.outcome.found += 1;
        if self.outcome.findings.len() < KEPT {
            self.outcome.findings.push((self.number, finding));
        }
    }

    /// The model's CPU that faults, if it can be asked for the reason: with several CPUs another one may have answered the same fault
    /// before this one was recorded.
    fn faulting(&self, cpu: usize) -> Option<usize> {
        let model_cpu = self.riscv.loaded(cpu).unwrap_or(cpu);
        (self.arm.len() == 1 && self.machine.root(model_cpu).is_some()).then_some(model_cpu)
    }

    fn fault(&mut self, (cpu, model_cpu): (usize, usize), gpa: u64, access: u64) {
        let kinds = [(2, Access::WRITE), (4, Access::EXECUTE), (1, Access::READ)];
        let kind = kinds.into_iter().find(|(bit, _)| access & bit != 0).map(|(_, kind)| kind);
        let Some(kind) = kind else { return };
        if !self.machine.possible(model_cpu, gpa, kind).iter().any(|outcome| outcome.result.is_err()) {
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

#[cfg(test)]
mod tests;
