//! The machine and the guests on it: what one access does, and all that is checked about it.
//!
//! A CPU of the machine runs one vCPU at a time: always the same one, or with several guests the one that it was given last.

use crate::checks::Checks;
use crate::guest::{Action, CONSOLE, EMULATED, Memory, Plan, Program};
use slat::PAGE_SIZE;
use slat_check::random::Random;
use slat_hv::console::Lines;
use slat_model::{
    Access, BarrierAccess, Domain, Fault, Instruction, Machine, Memory as MemoryType, Ram, Root, Source,
    Translation,
};
use std::ops::Range;
use std::time::Instant;

/// Why a CPU left the guest.
#[derive(Clone, Debug)]
pub(crate) enum Trap {
    /// Its slice of time is over.
    Timer,
    /// Another CPU kicked it.
    Kick,
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

/// A CPU of the machine.
pub(crate) struct HostCpu {
    pub(crate) status: Status,
    /// The vCPU that it runs.
    pub(crate) vcpu: usize,
    /// Why it has left the guest, until its own thread takes notice.
    pub(crate) trap: Option<Trap>,
    /// It was kicked and has not noticed yet.
    pub(crate) kicked: bool,
}

/// A CPU of a guest.
struct GuestCpu {
    guest: usize,
    /// Its number in the guest.
    number: usize,
    /// It was started before.
    again: bool,
    program: Program,
    /// What it is about to do.
    next: Option<Action>,
}

/// A guest: what it does, and what it should find in its memory.
pub(crate) struct Guest {
    plan: Plan,
    memory: Memory,
    /// The bytes of its image as it read them.
    pub(crate) image: Vec<u8>,
    lines: Lines,
    up: bool,
}

impl Guest {
    /// One that has not begun; with a number if there are several.
    pub(crate) fn new(plan: Plan, memory: Memory, number: Option<u32>) -> Self {
        Self { plan, memory, image: Vec::new(), lines: Lines::new(number), up: false }
    }
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
    pub(crate) guests: Vec<Guest>,
    vcpus: Vec<GuestCpu>,
    pub(crate) cpus: Vec<HostCpu>,
    /// vCPUs are not pinned: they run in slices of time.
    pub(crate) in_slices: bool,
    /// The CPU that runs.
    pub(crate) turn: Option<usize>,
    /// The CPU that was in the hypervisor last.
    last: usize,
    pub(crate) random: Random,
    pub(crate) checks: Checks,
    pub(crate) console: Vec<u8>,
    /// Stores that the hypervisor carried out in the emulated serial port.
    pub(crate) emulated_stores: u64,
    begin: Instant,
    pub(crate) seconds_to_up: Option<f64>,
    /// The run is over, well or with a panic.
    pub(crate) finished: bool,
    pub(crate) panicked: bool,
    /// What has happened until now, of the guests and to the machine: the clock of the trace.
    pub(crate) time: u64,
}

impl State {
    /// `each` vCPUs of each guest on so many CPUs: CPU 0 in the hypervisor, and the others off, or in slices about to begin.
    pub(crate) fn new(
        machine: Machine,
        types: MemoryTypes,
        guests: Vec<Guest>,
        each: usize,
        seed: u64,
        cpus: usize,
        in_slices: bool,
    ) -> Self {
        let vcpu = |id: usize| GuestCpu {
            guest: id / each,
            number: id % each,
            again: false,
            program: Box::new(std::iter::empty()),
            next: None,
        };
        let status = if in_slices { Status::Starting } else { Status::Off };
        let cpu = |vcpu| HostCpu { status, vcpu, trap: None, kicked: false };
        let mut state = Self {
            ram: machine.ram().clone(),
            orders_by_barrier: matches!(types.ram, MemoryType::Stage2 { .. }),
            machine,
            types,
            vcpus: (0..guests.len() * each).map(vcpu).collect(),
            guests,
            cpus: (0..cpus).map(cpu).collect(),
            in_slices,
            turn: Some(0),
            last: 0,
            random: Random::new(seed),
            checks: Checks::default(),
            console: Vec::new(),
            emulated_stores: 0,
            begin: Instant::now(),
            seconds_to_up: None,
            finished: false,
            time: 0,
            panicked: false,
        };
        state.cpus[0].status = Status::Hypervisor;
        state
    }

    /// A vCPU that comes up finds its program at its entry.
    pub(crate) fn enter_program(&mut self, vcpu: usize) {
        let GuestCpu { guest, number, again, program, next } = &mut self.vcpus[vcpu];
        let plan = &self.guests[*guest].plan;
        *program = if *number == 0 { plan.boot() } else { plan.second(*number, *again) };
        *next = None;
        *again = true;
    }

    /// Where the other CPUs of a vCPU's guest begin.
    pub(crate) fn second_entry(&self, vcpu: usize) -> u64 {
        self.guests[self.vcpus[vcpu].guest].plan.second_entry()
    }

    /// The guest of the vCPU that a CPU runs.
    fn guest(&mut self, cpu: usize) -> &mut Guest {
        let guest = self.vcpus[self.cpus[cpu].vcpu].guest;
        &mut self.guests[guest]
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
            let frame_and = frame..frame + PAGE_SIZE;
            // What a CPU remembers under a tag of an earlier generation it drops before it enters anybody.
            let reached = match self.in_slices {
                true => (0..self.cpus.len())
                    .find_map(|cpu| Some((cpu, self.machine.cached_now(cpu, frame_and.clone())?))),
                false => self.machine.reaches(frame_and),
            };
            if let Some((cpu, reach)) = reached {
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
        let HostCpu { status, trap, .. } = &self.cpus[cpu];
        if cpu != here && *status == Status::Guest && trap.is_none() {
            self.step(cpu, false);
        }
    }

    /// The next action of a CPU in the guest; it may end in a trap. `settled`: the hypervisor is in the middle of nothing.
    pub(crate) fn step(&mut self, cpu: usize, settled: bool) {
        self.time += 1;
        let vcpu = self.cpus[cpu].vcpu;
        let GuestCpu { next, program, .. } = &mut self.vcpus[vcpu];
        let action = next.take().or_else(|| program.next()).unwrap_or(Action::Wait);
        let (gpa, access) = match action {
            Action::Touch { gpa, access, .. } => (gpa, access),
            Action::Load(gpa) => (gpa, Access::READ),
            Action::Print(_) => (CONSOLE.address, Access::WRITE),
            Action::Store(offset, _) => (EMULATED.address + offset, Access::WRITE),
            Action::Up => {
                self.guest(cpu).up = true;
                if self.guests.iter().all(|guest| guest.up) {
                    self.seconds_to_up.get_or_insert(self.begin.elapsed().as_secs_f64());
                }
                return;
            }
            call => {
                self.cpus[cpu].trap = Some(Trap::Call(call));
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
                self.vcpus[vcpu].next = Some(action);
                self.cpus[cpu].trap = Some(Trap::Fault(Box::new(fault), gpa));
            }
        }
    }

    /// What the vCPU is about to store in the emulated serial port, if that is what it is about to do.
    pub(crate) fn about_to_store(&self, vcpu: usize) -> Option<u16> {
        match self.vcpus[vcpu].next {
            Some(Action::Store(_, value)) => Some(value),
            _ => None,
        }
    }

    /// Its store in the emulated serial port was carried out for it.
    pub(crate) fn stored(&mut self, vcpu: usize) {
        self.vcpus[vcpu].next = None;
        self.emulated_stores += 1;
    }

    /// It has to try again later.
    pub(crate) fn repeat(&mut self, vcpu: usize, action: Action) {
        self.vcpus[vcpu].next = Some(action);
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
            self.guest(cpu).memory.write(gpa, value);
        }
    }

    fn check_contents(
        &mut self,
        cpu: usize,
        (gpa, access): (u64, Access),
        translation: &Translation,
    ) -> bool {
        let guest = &self.guests[self.vcpus[self.cpus[cpu].vcpu].guest];
        let same = guest.memory.is_in(gpa, &self.ram, translation.hpa);
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
        let bytes: Vec<u8> = bytes.collect();
        self.guest(cpu).image.extend(bytes);
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
            let Self { guests, vcpus, cpus, console, .. } = self;
            let lines = &mut guests[vcpus[cpus[cpu].vcpu].guest].lines;
            lines.add(&[character], |bytes| console.extend_from_slice(bytes));
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
