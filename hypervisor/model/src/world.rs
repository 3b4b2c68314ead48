//! The machine and the guest on it: what one access does, and all that is checked about it.

use crate::checks::Checks;
use crate::guest::{Action, CONSOLE, EMULATED, Memory, Plan, Program};
use slat::PAGE_SIZE;
use slat_check::random::Random;
use slat_model::{
    Access, BarrierAccess, Domain, Fault, Instruction, Machine, Memory as MemoryType, Ram, Root, Source,
    Translation,
};
use std::ops::Range;
use std::time::Instant;

/// Why a CPU left the guest.
#[derive(Clone, Debug)]
pub(crate) enum Trap {
    /// A fault at the second level, of the access to this address.
    Fault(Box<Fault>, u64),
    /// Something that only the hypervisor can do.
    Call(Action),
}

/// What a CPU is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Status {
    /// Off, or not started yet.
    Off,
    /// Told to begin.
    Starting,
    /// In the guest, or about to leave it.
    Guest,
    /// In the hypervisor.
    Hypervisor,
    /// It waits for an interrupt, or for other CPUs.
    Asleep,
}

/// A CPU of the guest.
pub(crate) struct GuestCpu {
    pub(crate) status: Status,
    /// It was started before.
    pub(crate) again: bool,
    program: Program,
    /// What it is about to do.
    next: Option<Action>,
    /// Why it has left the guest, until its own thread takes notice.
    pub(crate) trap: Option<Trap>,
}

/// What memory is like to the guest, by the format's manual.
#[derive(Clone, Copy, Debug)]
pub(crate) struct MemoryTypes {
    pub(crate) ram: MemoryType,
    pub(crate) device: MemoryType,
}

/// Everything that CPUs share.
pub(crate) struct State {
    pub(crate) machine: Machine,
    ram: Ram,
    types: MemoryTypes,
    /// Arm, where one CPU's stores are ordered before another's by barriers, which the model knows, or locks, which it does not.
    orders_by_barrier: bool,
    plan: Plan,
    memory: Memory,
    pub(crate) cpus: Vec<GuestCpu>,
    /// The CPU that runs.
    pub(crate) turn: Option<usize>,
    /// The CPU that was in the hypervisor last.
    last: usize,
    pub(crate) random: Random,
    pub(crate) checks: Checks,
    pub(crate) console: Vec<u8>,
    /// Stores that the hypervisor carried out in the emulated serial port.
    pub(crate) emulated_stores: u64,
    /// The bytes of the guest's image as it read them.
    pub(crate) image: Vec<u8>,
    begin: Instant,
    pub(crate) seconds_to_up: Option<f64>,
    /// The run is over, well or with a panic.
    pub(crate) finished: bool,
    pub(crate) panicked: bool,
}

impl State {
    /// CPU 0 in the hypervisor, the others off.
    pub(crate) fn new(
        machine: Machine,
        types: MemoryTypes,
        plan: Plan,
        memory: Memory,
        seed: u64,
        cpus: usize,
    ) -> Self {
        let off = |_| GuestCpu {
            status: Status::Off,
            again: false,
            program: Box::new(std::iter::empty()),
            next: None,
            trap: None,
        };
        let mut state = Self {
            ram: machine.ram().clone(),
            orders_by_barrier: matches!(types.ram, MemoryType::Stage2 { .. }),
            machine,
            types,
            plan,
            memory,
            cpus: (0..cpus).map(off).collect(),
            turn: Some(0),
            last: 0,
            random: Random::new(seed),
            checks: Checks::default(),
            console: Vec::new(),
            emulated_stores: 0,
            image: Vec::new(),
            begin: Instant::now(),
            seconds_to_up: None,
            finished: false,
            panicked: false,
        };
        state.cpus[0].status = Status::Hypervisor;
        state
    }

    /// A CPU that comes up finds its program at its entry.
    pub(crate) fn enter_program(&mut self, cpu: usize) {
        let GuestCpu { again, program, next, .. } = &mut self.cpus[cpu];
        *program = if cpu == 0 { self.plan.boot() } else { self.plan.second(cpu, *again) };
        *next = None;
        *again = true;
    }

    /// Where the guest's other CPUs begin.
    pub(crate) fn second_entry(&self) -> u64 {
        self.plan.second_entry()
    }

    /// The CPU loads this table, or none.
    pub(crate) fn load(&mut self, cpu: usize, root: Option<Root>) {
        match root {
            Some(root) => {
                if let Err(invalid) = self.machine.load_root(cpu, root) {
                    self.checks.note(|checks| &mut checks.rules_broken, || invalid.to_string());
                }
            }
            None => self.machine.unload_root(cpu),
        }
        if self.orders_by_barrier {
            self.machine.execute(cpu, Instruction::Isb);
        }
    }

    /// The CPU goes from the guest to the hypervisor, and takes over from the one that was there before.
    pub(crate) fn enter_hypervisor(&mut self, cpu: usize) {
        self.cpus[cpu].status = Status::Hypervisor;
        let last = std::mem::replace(&mut self.last, cpu);
        if last != cpu && self.orders_by_barrier {
            // Whatever the one stored comes before what the other one does, as by a lock.
            let order = Instruction::Dsb { domain: Domain::InnerShareable, access: BarrierAccess::Stores };
            self.machine.execute(last, order);
        }
    }

    /// Frames go back: no CPU may reach them any more.
    pub(crate) fn returned(&mut self, frames: Range<u64>) {
        for frame in frames.step_by(PAGE_SIZE as usize) {
            if let Some((cpu, reach)) = self.machine.reaches(frame..frame + PAGE_SIZE) {
                self.checks.note(
                    |checks| &mut checks.reachable_frames,
                    || format!("CPU {cpu} reaches frame {frame:#x}, which went back: {reach:x?}"),
                );
            }
        }
    }

    /// The hypervisor has done what it had to do, so of what it changed no CPU may use the old any more.
    pub(crate) fn check_changes(&mut self) {
        for changed in self.machine.take_changes() {
            for cpu in 0..self.cpus.len() {
                for stale in self.machine.stale_within(cpu, changed.clone()) {
                    self.checks.note(|checks| &mut checks.stale_translations, || stale.to_string());
                }
            }
        }
    }

    /// Takes down what the model has to say about rules that were broken.
    pub(crate) fn take_reports(&mut self) {
        for report in self.machine.take_reports() {
            self.checks.note(|checks| &mut checks.rules_broken, || format!("{report:x?}"));
        }
    }

    /// Another CPU than `here` that is in the guest goes on a little, between two stores of the hypervisor.
    pub(crate) fn go_on_elsewhere(&mut self, here: usize) {
        if self.cpus.len() == 1 || !self.random.one_in(4) {
            return;
        }
        let cpu = self.random.below(self.cpus.len() as u64) as usize;
        let GuestCpu { status, trap, .. } = &self.cpus[cpu];
        if cpu != here && *status == Status::Guest && trap.is_none() {
            self.step(cpu, false);
        }
    }

    /// The next action of a CPU in the guest; it may end in a trap. `settled`: the hypervisor is in the middle of nothing.
    pub(crate) fn step(&mut self, cpu: usize, settled: bool) {
        let guest = &mut self.cpus[cpu];
        let action = guest.next.take().or_else(|| guest.program.next()).unwrap_or(Action::Wait);
        let (gpa, access) = match action {
            Action::Touch { gpa, access, .. } => (gpa, access),
            Action::Load(gpa) => (gpa, Access::READ),
            Action::Print(_) => (CONSOLE.address, Access::WRITE),
            Action::Store(offset, _) => (EMULATED.address + offset, Access::WRITE),
            Action::Up => {
                self.seconds_to_up.get_or_insert(self.begin.elapsed().as_secs_f64());
                return;
            }
            call => {
                guest.trap = Some(Trap::Call(call));
                return;
            }
        };
        match self.machine.access(cpu, gpa, access) {
            Ok(translation) => {
                if settled {
                    self.check_source(cpu, (gpa, access), &translation);
                }
                match action {
                    Action::Touch { value, .. } => self.touched(cpu, (gpa, access), &translation, value),
                    Action::Load(_) => self.loaded(cpu, gpa, &translation),
                    Action::Store(..) => self.checks.note(
                        |checks| &mut checks.rules_broken,
                        || format!("CPU {cpu}: the emulated port is mapped, to {:#x}", translation.hpa),
                    ),
                    _ => self.printed(cpu, action, &translation),
                }
            }
            Err(fault) => {
                // It will do the same again.
                guest.next = Some(action);
                guest.trap = Some(Trap::Fault(Box::new(fault), gpa));
            }
        }
    }

    /// What the CPU is about to store in the emulated serial port, if that is what it is about to do.
    pub(crate) fn about_to_store(&self, cpu: usize) -> Option<u16> {
        match self.cpus[cpu].next {
            Some(Action::Store(_, value)) => Some(value),
            _ => None,
        }
    }

    /// Its store in the emulated serial port was carried out for it.
    pub(crate) fn stored(&mut self, cpu: usize) {
        self.cpus[cpu].next = None;
        self.emulated_stores += 1;
    }

    /// It has to try again later.
    pub(crate) fn repeat(&mut self, cpu: usize, action: Action) {
        self.cpus[cpu].next = Some(action);
    }

    /// While no change is going on, every way that the access can take must be the one that the tables have.
    fn check_source(&mut self, cpu: usize, (gpa, access): (u64, Access), translation: &Translation) {
        let outcomes = self.machine.possible(cpu, gpa, access);
        let stale = outcomes.iter().find(|outcome| match outcome.result {
            Ok(other) => other != *translation,
            // RISC-V may remember for a while that there was nothing.
            Err(_) => !matches!(outcome.source, Source::CachedInvalid(_)),
        });
        if let Some(stale) = stale {
            self.checks.note(
                |checks| &mut checks.stale_translations,
                || {
                    format!(
                        "CPU {cpu}, {:?} of GPA {gpa:#x}: {translation:x?}, but also {stale:x?}",
                        access.kind
                    )
                },
            );
        }
    }

    fn touched(&mut self, cpu: usize, (gpa, access): (u64, Access), translation: &Translation, value: u64) {
        use slat_model::AccessKind::{ReadWrite, Write};
        self.check_type(cpu, gpa, translation, self.types.ram);
        // A write to a page that is not the guest's would do harm; that it would have is enough to know.
        if self.check_contents(cpu, (gpa, access), translation)
            && matches!(access.kind, Write | ReadWrite)
            && self.ram.write(translation.hpa, value)
        {
            self.memory.write(gpa, value);
        }
    }

    fn check_contents(
        &mut self,
        cpu: usize,
        (gpa, access): (u64, Access),
        translation: &Translation,
    ) -> bool {
        let same = self.memory.is_in(gpa, &self.ram, translation.hpa);
        if !same {
            self.checks.note(
                |checks| &mut checks.stale_reads,
                || {
                    let found = self.ram.read(translation.hpa);
                    format!(
                        "CPU {cpu}, {:?} of GPA {gpa:#x}: frame {:#x} does not hold the guest's page ({found:x?} is there)",
                        access.kind, translation.hpa
                    )
                },
            );
        }
        same
    }

    fn loaded(&mut self, cpu: usize, gpa: u64, translation: &Translation) {
        self.check_type(cpu, gpa, translation, self.types.ram);
        self.check_contents(cpu, (gpa, Access::READ), translation);
        let found = crate::guest::frame(&self.ram, translation.hpa).unwrap_or_default();
        let bytes =
            found.iter().flat_map(|word| word.load(std::sync::atomic::Ordering::Relaxed).to_le_bytes());
        self.image.extend(bytes);
    }

    fn printed(&mut self, cpu: usize, action: Action, translation: &Translation) {
        self.check_type(cpu, CONSOLE.address, translation, self.types.device);
        if translation.hpa != CONSOLE.address {
            self.checks.note(
                |checks| &mut checks.stale_translations,
                || {
                    format!(
                        "CPU {cpu}: the console is {:#x} instead of {:#x}",
                        translation.hpa, CONSOLE.address
                    )
                },
            );
        }
        if let Action::Print(character @ 1..) = action {
            self.console.push(character);
        }
    }

    fn check_type(&mut self, cpu: usize, gpa: u64, translation: &Translation, expected: MemoryType) {
        if translation.memory != expected {
            self.checks.note(
                |checks| &mut checks.rules_broken,
                || format!("CPU {cpu}: GPA {gpa:#x} has {:?} instead of {expected:?}", translation.memory),
            );
        }
    }
}
