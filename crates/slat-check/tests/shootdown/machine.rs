//! CPUs of the model that run one space by slat-x86's protocol, and the host of that space.
//!
//! All in one thread: whatever slat does is done by the CPU that is `here`; between its stores, and while it waits for those
//! that it has kicked, the other CPUs enter the guest, use its pages and leave, as a seed has it.

use slat::format::Format;
use slat::{
    CacheMaintenance, GuestPhysAddr, Hal, HostPhysAddr, Invalidation, PAGE_SIZE, Reach, Scope, TableKind,
};
use slat_check::platform::Platform;
use slat_check::random::Random;
use slat_model::{Access, Instruction, Machine, Policy, Ram};
use slat_x86::SpaceCpus;
use std::cell::{Cell, RefCell};
use std::ops::Range;

pub(crate) const CPUS: usize = 3;

/// Host physical address of the first frame, and how many there are.
const FIRST_FRAME: u64 = 0x8000_0000;
const FRAMES: usize = 3000;

/// What is done wrong, on purpose.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mistake {
    /// Who is inside is not kicked, and taken for outside.
    NoKick,
    /// Who is inside is kicked and not waited for: it leaves when the operation is over.
    NoWait,
    /// Who is inside is kicked, but the generation stays as it is.
    NoGeneration,
    /// A CPU is told that it has to flush, and enters without.
    NoFlush,
    /// Intel: INVEPT with another root.
    WrongRoot,
    /// Intel: INVVPID instead of INVEPT.
    Invvpid,
    /// AMD: a flush by ASID on a CPU that has none.
    NoFlushByAsid,
    /// AMD: two ASIDs of one space on a CPU, of which that of the entry is flushed.
    OneAsidOfTwo,
}

impl Mistake {
    pub(crate) const ALL: [Self; 8] = [
        Self::NoKick,
        Self::NoWait,
        Self::NoGeneration,
        Self::NoFlush,
        Self::WrongRoot,
        Self::Invvpid,
        Self::NoFlushByAsid,
        Self::OneAsidOfTwo,
    ];

    /// Whether it can be made with this kind of table.
    pub(crate) fn suits(self, table: TableKind) -> bool {
        match self {
            Self::WrongRoot | Self::Invvpid => table == TableKind::Ept,
            Self::NoFlushByAsid | Self::OneAsidOfTwo => table == TableKind::Npt,
            _ => true,
        }
    }
}

/// How a run is to be.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Settings {
    pub(crate) seed: u64,
    pub(crate) mistake: Option<Mistake>,
    /// Each CPU runs two vCPUs of the space by turns, with a tag for each.
    pub(crate) two_tags: bool,
}

/// A CPU, as far as the model does not know it.
#[derive(Clone, Debug, Default)]
struct Cpu {
    inside: bool,
    /// It was kicked, and nobody waits for it.
    kicked: bool,
    /// AMD: what this CPU alone has to drop at its next VMRUN.
    flush: bool,
    /// Frames that went back since its last entry.
    returned: Vec<Range<u64>>,
}

pub(crate) struct Host<P: Platform> {
    platform: P,
    settings: Settings,
    ram: Ram,
    machine: RefCell<Machine>,
    space: SpaceCpus<CPUS>,
    cpus: RefCell<[Cpu; CPUS]>,
    taken: RefCell<Vec<bool>>,
    /// The CPU that slat runs on.
    here: Cell<usize>,
    /// An operation is going on.
    busy: Cell<bool>,
    /// The space's root register, once there is one.
    register: Cell<Option<u64>>,
    pub(crate) random: RefCell<Random>,
    /// Pages that the guest uses.
    pages: Vec<u64>,
    complaint: RefCell<Option<String>>,
    pub(crate) entries: Cell<u64>,
    pub(crate) flushes: Cell<u64>,
    pub(crate) kicks: Cell<u64>,
}

impl<P: Platform> Host<P> {
    pub(crate) fn new(platform: P, settings: Settings, pages: Vec<u64>) -> Self {
        let mut mmu = platform.mmu();
        if let (slat_model::Mmu::Npt(npt), Some(Mistake::NoFlushByAsid)) = (&mut mmu, settings.mistake) {
            npt.flush_by_asid = false;
        }
        let ram = Ram::new(FIRST_FRAME, FRAMES as u64 * PAGE_SIZE);
        let machine = Machine::new(mmu, ram.clone(), CPUS, Policy::Everything);
        Self {
            platform,
            settings,
            ram,
            machine: RefCell::new(machine),
            space: SpaceCpus::new(),
            cpus: RefCell::default(),
            taken: RefCell::new(vec![false; FRAMES]),
            here: Cell::new(0),
            busy: Cell::new(false),
            register: Cell::new(None),
            random: RefCell::new(Random::new(settings.seed)),
            pages,
            complaint: RefCell::default(),
            entries: Cell::new(0),
            flushes: Cell::new(0),
            kicks: Cell::new(0),
        }
    }

    /// From now on CPUs may run the space with this root register.
    pub(crate) fn open(&self, register: u64) {
        self.register.set(Some(register));
    }

    /// Nobody runs the space any more.
    pub(crate) fn close(&self) {
        (0..CPUS).for_each(|cpu| self.exit(cpu));
        self.register.set(None);
        (0..CPUS).for_each(|cpu| self.machine.borrow_mut().unload_root(cpu));
    }

    /// Frames that are taken.
    pub(crate) fn in_use(&self) -> usize {
        self.taken.borrow().iter().filter(|taken| **taken).count()
    }

    pub(crate) fn invalidations(&self) -> u64 {
        self.space.invalidations()
    }

    /// The first thing that was wrong.
    pub(crate) fn complaint(&self) -> Option<String> {
        self.complaint.borrow().clone()
    }

    fn complain(&self, what: impl FnOnce() -> String) {
        self.complaint.borrow_mut().get_or_insert_with(what);
    }

    fn draw(&self, bound: u64) -> u64 {
        self.random.borrow_mut().below(bound)
    }

    /// Slat's operation on this CPU, which leaves the guest for it; afterwards nobody may use what was before.
    pub(crate) fn operate<R>(&self, cpu: usize, operation: impl FnOnce() -> R) -> R {
        self.exit(cpu);
        self.here.set(cpu);
        self.busy.set(true);
        let result = operation();
        self.busy.set(false);
        for cpu in 0..CPUS {
            if self.cpus.borrow()[cpu].inside {
                self.search(cpu);
            }
        }
        // Whoever was kicked and not waited for is gone at last.
        for cpu in 0..CPUS {
            if std::mem::take(&mut self.cpus.borrow_mut()[cpu].kicked) {
                self.exit(cpu);
            }
        }
        result
    }

    /// A CPU does something: it enters, leaves, or uses a page, of which the answer may be a fault that it cannot have answered
    /// while an operation goes on. The address and the access of such a fault.
    pub(crate) fn step(&self, cpu: usize) -> Option<(u64, Access)> {
        if !self.cpus.borrow()[cpu].inside {
            self.enter(cpu);
            return None;
        }
        if self.draw(6) == 0 {
            self.exit(cpu);
            return None;
        }
        let gpa = self.pages[self.draw(self.pages.len() as u64) as usize];
        let access = [Access::READ, Access::WRITE, Access::EXECUTE][self.draw(3) as usize];
        let result = self.machine.borrow_mut().access(cpu, gpa, access);
        match result {
            Ok(found) => {
                let taken = self.taken.borrow()[frame(found.hpa)];
                if !taken {
                    self.complain(|| {
                        format!("CPU {cpu} uses frame {:#x} at {gpa:#x}, which is free", found.hpa)
                    });
                }
                None
            }
            Err(_) => {
                self.exit(cpu);
                Some((gpa, access))
            }
        }
    }

    /// Others go on.
    fn interleave(&self, steps: u64) {
        for _ in 0..steps {
            let cpu = self.draw(CPUS as u64) as usize;
            if cpu != self.here.get() && self.register.get().is_some() {
                let _ = self.step(cpu);
            }
        }
    }

    fn enter(&self, cpu: usize) {
        let Some(register) = self.register.get() else { return };
        let mistake = self.settings.mistake;
        let told = self.space.enter(cpu).expect("the CPU exists").flush && mistake != Some(Mistake::NoFlush);
        let own = std::mem::take(&mut self.cpus.borrow_mut()[cpu].flush);
        let tag = if self.settings.two_tags { 1 + self.draw(2) as u16 } else { 1 };
        let mut machine = self.machine.borrow_mut();
        machine.pause(cpu);
        machine.load_root(cpu, self.platform.root(register, tag)).expect("a good root");
        self.entries.set(self.entries.get() + 1);
        self.flushes.set(self.flushes.get() + u64::from(told));
        if P::TABLE == TableKind::Ept {
            let flush = match mistake {
                Some(Mistake::WrongRoot) => Instruction::Invept { kind: 1, eptp: register + PAGE_SIZE },
                Some(Mistake::Invvpid) => Instruction::Invvpid { kind: 2, vpid: 0, linear: 0 },
                _ => Instruction::Invept { kind: 1, eptp: register },
            };
            if told || own {
                machine.execute(cpu, flush);
            }
            machine.execute(cpu, Instruction::VmEntry);
        } else {
            // All ASIDs, where the space has several on a CPU.
            let all = self.settings.two_tags && mistake != Some(Mistake::OneAsidOfTwo);
            let tlb_control = match (told || own, all) {
                (false, _) => 0,
                (true, false) => 3,
                (true, true) => 1,
            };
            machine.execute(cpu, Instruction::Vmrun { tlb_control });
        }
        machine.resume(cpu);
        drop(machine);
        self.cpus.borrow_mut()[cpu].inside = true;
        if !self.busy.get() {
            self.search(cpu);
        }
    }

    fn exit(&self, cpu: usize) {
        if !std::mem::take(&mut self.cpus.borrow_mut()[cpu].inside) {
            return;
        }
        let mut machine = self.machine.borrow_mut();
        machine.pause(cpu);
        if P::TABLE == TableKind::Ept {
            machine.execute(cpu, Instruction::VmExit);
        }
        self.space.leave(cpu).expect("the CPU exists");
    }

    /// While no operation goes on: what a CPU inside could use must be what the table says.
    fn search(&self, cpu: usize) {
        let returned = std::mem::take(&mut self.cpus.borrow_mut()[cpu].returned);
        let machine = self.machine.borrow();
        if let Some(stale) = machine.stale_within(cpu, 0..u64::MAX).first() {
            self.complain(|| stale.to_string());
        }
        for frames in returned {
            let free = !self.taken.borrow()[frame(frames.start)];
            let reach = if free {
                machine.reaches_now(cpu, frames.clone())
            } else {
                machine.dangling(cpu, frames.clone())
            };
            if let Some(reach) = reach {
                self.complain(|| {
                    format!("CPU {cpu} enters and reaches {frames:x?}, which went back: {reach:x?}")
                });
            }
        }
        if self.settings.mistake.is_none() {
            if let Some(report) = machine.reports().first() {
                self.complain(|| format!("{report:x?}"));
            }
        }
    }

    /// Another CPU is to leave its guest; until it has, everybody goes on.
    fn kick(&self, cpu: usize) {
        self.kicks.set(self.kicks.get() + 1);
        match self.settings.mistake {
            Some(Mistake::NoKick) => self.space.leave(cpu).expect("the CPU exists"),
            Some(Mistake::NoWait) => {
                self.cpus.borrow_mut()[cpu].kicked = true;
                self.space.leave(cpu).expect("the CPU exists");
            }
            _ => {
                self.interleave(self.draw(4));
                self.exit(cpu);
                self.interleave(self.draw(4));
            }
        }
    }

    fn fill(&self, start: u64, count: usize, value: u64) {
        for hpa in (start..start + count as u64 * PAGE_SIZE).step_by(8) {
            self.ram.write(hpa, value);
        }
        self.machine.borrow_mut().host_wrote(start..start + count as u64 * PAGE_SIZE);
    }
}

fn frame(hpa: u64) -> usize {
    ((hpa - FIRST_FRAME) / PAGE_SIZE) as usize
}

// SAFETY: frames are parts of the model's RAM, handed out once and aligned as asked; their pointers stay valid as long as the
// host keeps the RAM; what a mistake on purpose does not invalidate leads the model's CPUs astray and no real one.
unsafe impl<P: Platform + Format> Hal for Host<P> {
    fn alloc_frames(&self, count: usize, align: usize) -> Option<HostPhysAddr> {
        let mut taken = self.taken.borrow_mut();
        let free = |start: &usize| !taken[*start..*start + count].contains(&true);
        let start = (0..=FRAMES - count).step_by(align).find(free)?;
        taken[start..start + count].fill(true);
        Some(HostPhysAddr::new(FIRST_FRAME + start as u64 * PAGE_SIZE))
    }

    unsafe fn dealloc_frames(&self, start: HostPhysAddr, count: usize) {
        let frames = start.as_u64()..start.as_u64() + count as u64 * PAGE_SIZE;
        let first = frame(frames.start);
        self.taken.borrow_mut()[first..first + count].fill(false);
        let machine = self.machine.borrow();
        for (cpu, state) in self.cpus.borrow_mut().iter_mut().enumerate() {
            state.returned.push(frames.clone());
            if let Some(reach) = state.inside.then(|| machine.reaches_now(cpu, frames.clone())).flatten() {
                self.complain(|| {
                    format!("{frames:x?} go back while CPU {cpu} inside reaches them: {reach:x?}")
                });
            }
        }
    }

    fn phys_to_virt(&self, hpa: HostPhysAddr) -> *mut u8 {
        let offset = hpa.as_u64() - FIRST_FRAME;
        assert!(offset < self.ram.bytes(), "frames of this host only");
        self.ram.words().as_ptr().cast_mut().cast::<u8>().wrapping_add(offset as usize)
    }

    fn invalidate(&self, invalidation: &Invalidation<'_>) {
        assert!(invalidation.scope != Scope::AllSpaces, "there is one space");
        let here = self.here.get();
        if invalidation.reach == Reach::ThisCpu {
            // Its next entry.
            self.cpus.borrow_mut()[here].flush = true;
            return;
        }
        if self.settings.mistake == Some(Mistake::NoGeneration) {
            (0..CPUS).filter(|cpu| *cpu != here).for_each(|cpu| self.exit(cpu));
            return;
        }
        self.space.invalidate(here, |cpu| self.kick(cpu)).expect("the CPU exists");
    }

    fn maintain_cache(&self, _maintenance: &CacheMaintenance) {}

    fn publish(&self) {}

    fn table_stored(&self, entry: HostPhysAddr, value: u64) {
        self.machine.borrow_mut().stored(self.here.get(), entry.as_u64(), value);
        self.interleave(u64::from(self.draw(3) == 0));
    }

    unsafe fn zero_frames(&self, start: HostPhysAddr, count: usize) {
        self.fill(start.as_u64(), count, 0);
    }
}

/// A guest-physical address.
pub(crate) fn gpa(address: u64) -> GuestPhysAddr {
    GuestPhysAddr::new(address)
}
