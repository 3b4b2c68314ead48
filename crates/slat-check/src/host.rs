//! The host of the spaces under test: frames in the model's RAM, the invalidation of a correct hypervisor, and a check
//! after every single store.

#![expect(unsafe_code, reason = "implements Hal on the model's RAM")]

use crate::checks::{Check, Violation};
use crate::ledger::Ledger;
use crate::maintenance;
use crate::mistakes::Mistake;
use crate::platform::Platform;
use crate::random::Random;
use crate::specification::Rules;
use crate::watch::Watch;
use slat::{
    CacheMaintenance, Counters, Hal, HostPhysAddr, HostPhysRange, Invalidation, PAGE_SIZE, Reach, TableKind,
};
use slat_model::{BarrierAccess, Domain, Instruction, Machine, Policy, Ram};
use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;

/// Host physical address of the first frame.
pub const FIRST_FRAME: u64 = 0x8000_0000;
/// Host memory from zero up to here is the host's own.
pub(crate) const PROTECTED_END: u64 = 0x10_0000;
/// What a frame holds when it is handed out: what its previous owner left behind.
const LEFT_BEHIND: u64 = 0x5a5a_5a5a_5a5a_5a5a;
/// What a frame is filled with when it comes back. As an entry it is present in every format.
const POISON: u64 = 0xa5a5_a5a5_a5a5_a5a7;
/// Words of a frame.
const WORDS: u64 = PAGE_SIZE / 8;

mod backend;
mod guests;
mod pager;
mod spare;
mod tables;

pub(crate) use backend::contents;
pub(crate) use pager::{Pages, initial};

/// What is known of a frame.
#[derive(Clone, Copy, Debug, Default)]
struct FrameState {
    taken: bool,
    /// The operation in which it was taken.
    born: u64,
    /// Level and first guest-physical address, if it is a table that was linked.
    table: Option<(u8, u64)>,
}

/// What the allocator knows and is told to do.
#[derive(Debug)]
struct Allocator {
    frames: Vec<FrameState>,
    taken: usize,
    /// No frame below this index is free.
    first_free: usize,
    /// Every frame that was ever taken lies below this index.
    most: usize,
    /// Allocations until one is refused.
    fail_after: Option<u64>,
    refused: u64,
    /// Frames that came back in this operation.
    returned: Vec<(u64, u64)>,
}

/// The host.
pub struct Host<P: Platform> {
    platform: P,
    rules: Rules,
    mistake: Option<Mistake>,
    ram: Ram,
    /// The CPUs.
    pub machine: RefCell<Machine>,
    allocator: RefCell<Allocator>,
    /// What may be seen at this moment.
    pub watch: RefCell<Watch>,
    /// The other spaces that CPUs run, by number, each with what may be seen of it.
    pub(crate) bystanders: RefCell<Vec<(usize, Watch)>>,
    violation: RefCell<Option<Violation>>,
    /// The CPU on which slat runs.
    pub(crate) cpu: Cell<usize>,
    operation: Cell<u64>,
    /// An invalidation of all CPUs was executed in this operation.
    invalidated: Cell<bool>,
    /// Invalidations that a mistake holds back.
    delayed: RefCell<Vec<(usize, Instruction)>>,
    /// A table without entries, for invalidating under a tag whose table is gone.
    empty_root: u64,
    random: RefCell<Random>,
    pub(crate) ledger: Ledger,
    /// Frames that are out as those of the custom backend, and for which page: source, offset, guest-physical address.
    lent: RefCell<BTreeMap<u64, (u16, u64, u64)>>,
    /// What the pager keeps.
    pub(crate) pager: pager::State,
    /// The guest only reads meanwhile.
    reads_only: Cell<bool>,
    /// What guests wrote in this operation.
    guest_words: RefCell<Vec<u64>>,
    /// What is going on, for mistakes that are made then only.
    pub(crate) moment: Cell<Moment>,
    stores: Cell<u64>,
    looks: Cell<u64>,
}

/// What slat was asked for at this moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Moment {
    /// A fork or a snapshot.
    Fork,
    /// The answer to a fault.
    Fault,
    /// The beginning of a log of writes, or a collection.
    Log,
    /// A scan for idle pages.
    Scan,
    /// Anything else.
    Other,
}

impl<P: Platform> Host<P> {
    /// A host with `frames` frames and `cpus` CPUs.
    #[must_use]
    pub fn new(platform: P, frames: usize, cpus: usize, mistake: Option<Mistake>, seed: u64) -> Self {
        // Sixteen frames for the empty root, as large as any format's.
        let ram = spare::take((frames as u64 + 16) * PAGE_SIZE);
        let machine = Machine::new(platform.mmu(), ram.clone(), cpus, Policy::Everything);
        let allocator = Allocator {
            frames: vec![FrameState::default(); frames],
            taken: 0,
            first_free: 0,
            most: 0,
            fail_after: None,
            refused: 0,
            returned: vec![],
        };
        Self {
            platform,
            rules: platform.rules(),
            mistake,
            empty_root: (FIRST_FRAME + frames as u64 * PAGE_SIZE) & !(16 * PAGE_SIZE - 1),
            ram,
            machine: RefCell::new(machine),
            allocator: RefCell::new(allocator),
            watch: RefCell::default(),
            bystanders: RefCell::default(),
            violation: RefCell::default(),
            cpu: Cell::new(0),
            operation: Cell::new(0),
            invalidated: Cell::new(false),
            delayed: RefCell::default(),
            random: RefCell::new(Random::new(seed)),
            ledger: Ledger::default(),
            lent: RefCell::default(),
            pager: pager::State::default(),
            reads_only: Cell::new(false),
            guest_words: RefCell::default(),
            moment: Cell::new(Moment::Other),
            stores: Cell::new(0),
            looks: Cell::new(0),
        }
    }

    /// The format and its CPU.
    pub fn platform(&self) -> &P {
        &self.platform
    }

    /// What can be expressed.
    pub fn rules(&self) -> &Rules {
        &self.rules
    }

    /// The mistake that is made on purpose.
    pub fn mistake(&self) -> Option<Mistake> {
        self.mistake
    }

    /// The RAM.
    pub fn ram(&self) -> &Ram {
        &self.ram
    }

    /// Seeds what the guest does meanwhile.
    pub fn reseed(&self, seed: u64) {
        *self.random.borrow_mut() = Random::new(seed ^ 0x5eed);
    }

    /// Begins an operation on a CPU.
    pub fn begin(&self, cpu: usize) {
        let before = self.cpu.replace(cpu);
        if before != cpu && P::TABLE == TableKind::Stage2 {
            // The space changes hands, by a lock or because its thread moves: what the one CPU stored comes before what
            // the other one does. The model knows no locks, only barriers.
            let domain = Domain::InnerShareable;
            self.execute(before, Instruction::Dsb { domain, access: BarrierAccess::All });
        }
        self.operation.set(self.operation.get() + 1);
        self.invalidated.set(false);
        self.guest_words.borrow_mut().clear();
        let mut allocator = self.allocator.borrow_mut();
        allocator.refused = 0;
        allocator.returned.clear();
    }

    /// Whether the guest only reads meanwhile, because the host writes to its memory.
    pub fn read_only(&self, only: bool) {
        self.reads_only.set(only);
    }

    /// Whether the guest only reads, because the host writes.
    pub fn is_read_only(&self) -> bool {
        self.reads_only.get()
    }

    /// Ends an operation: what waited is executed, and what came back is out of every CPU's reach.
    pub fn end(&self) {
        let delayed = std::mem::take(&mut *self.delayed.borrow_mut());
        for (cpu, instruction) in delayed {
            self.machine.borrow_mut().execute(cpu, instruction);
        }
    }

    /// The operation that is going on.
    pub fn operation(&self) -> u64 {
        self.operation.get()
    }

    /// Whether all CPUs were invalidated in this operation.
    pub fn invalidated(&self) -> bool {
        self.invalidated.get()
    }

    /// The end of the frames that can be taken.
    pub(crate) fn end_of_frames(&self) -> u64 {
        FIRST_FRAME + self.allocator.borrow().frames.len() as u64 * PAGE_SIZE
    }

    /// Allocations refused in this operation.
    pub fn refused(&self) -> u64 {
        self.allocator.borrow().refused
    }

    /// Refuses one allocation after the next `successes` ones.
    pub fn fail_after(&self, successes: Option<u64>) {
        self.allocator.borrow_mut().fail_after = successes;
    }

    /// Whether the failure that was asked for has come about.
    pub(crate) fn has_injected(&self) -> bool {
        self.allocator.borrow().fail_after.is_none()
    }

    /// Frames that are taken.
    pub fn taken(&self) -> usize {
        self.allocator.borrow().taken
    }

    /// Tables that are linked, below the roots.
    pub fn linked_tables(&self) -> usize {
        let allocator = self.allocator.borrow();
        allocator.frames.iter().filter(|frame| frame.taken && frame.table.is_some()).count()
    }

    /// Stores to tables, and pages looked at after them.
    pub fn counts(&self) -> (u64, u64) {
        (self.stores.get(), self.looks.get())
    }

    /// Remembers a violation; the first one counts.
    pub fn report(&self, violation: Violation) {
        self.violation.borrow_mut().get_or_insert(violation);
    }

    /// The first violation, if there was one.
    pub fn violation(&self) -> Option<Violation> {
        self.violation.borrow().clone()
    }

    /// Whether a frame is taken, and the operation in which it was.
    pub fn born(&self, hpa: u64) -> Option<u64> {
        let index = frame_index(hpa)?;
        self.allocator.borrow().frames.get(index).filter(|frame| frame.taken).map(|frame| frame.born)
    }

    /// Whether a frame is a table that was linked.
    pub fn is_table(&self, hpa: u64) -> bool {
        let index = frame_index(hpa);
        let allocator = self.allocator.borrow();
        index.and_then(|index| allocator.frames.get(index)).is_some_and(|frame| frame.table.is_some())
    }

    /// Names the root of a space, so that stores to it and to what hangs below are looked at.
    pub fn watch_root(&self, hpa: u64) {
        let geometry = self.platform.geometry();
        let mut allocator = self.allocator.borrow_mut();
        for table in 0..u64::from(geometry.root_tables) {
            let base = table << (12 + 9 * u32::from(geometry.levels));
            if let Some(frame) =
                frame_index(hpa + table * PAGE_SIZE).and_then(|index| allocator.frames.get_mut(index))
            {
                frame.table = Some((geometry.levels - 1, base));
            }
        }
    }

    /// A number that stands for everything in the frames that are taken.
    pub fn fingerprint(&self) -> u64 {
        let allocator = self.allocator.borrow();
        let words = self.ram.words();
        let mut hash = 0xcbf2_9ce4_8422_2325_u64;
        for (index, _) in allocator.frames.iter().enumerate().filter(|(_, frame)| frame.taken) {
            hash = (hash ^ index as u64).wrapping_mul(0x100_0000_01b3);
            for word in &words[index * WORDS as usize..(index + 1) * WORDS as usize] {
                let word = word.load(std::sync::atomic::Ordering::Relaxed);
                hash = (hash ^ word).wrapping_mul(0x100_0000_01b3).rotate_left(7);
            }
        }
        hash
    }

    /// Executes an instruction on a CPU.
    pub fn execute(&self, cpu: usize, instruction: Instruction) {
        self.machine.borrow_mut().execute(cpu, instruction);
    }

    fn fill(&self, start: u64, count: usize, value: u64) {
        let first = ((start - FIRST_FRAME) / 8) as usize;
        for word in &self.ram.words()[first..first + count * WORDS as usize] {
            word.store(value, std::sync::atomic::Ordering::Relaxed);
        }
    }

    /// Executes what `plan` says, under the tag of the space with this root register.
    fn carry_out(&self, root: u64, plan: &[(usize, Instruction)]) {
        let mut machine = self.machine.borrow_mut();
        let roots = (root, self.empty_root);
        if let Err(invalid) =
            maintenance::carry_out(&self.platform, &mut machine, self.cpu.get(), roots, plan)
        {
            self.report(Violation::new(Check::Root, format!("{invalid}")));
        }
    }
}

fn frame_index(hpa: u64) -> Option<usize> {
    Some((hpa.checked_sub(FIRST_FRAME)? / PAGE_SIZE) as usize)
}

// SAFETY: frames are parts of the model's RAM, handed out once and aligned as asked; their pointers stay valid as long as
// the host keeps the RAM; `invalidate` executes the native sequence on each CPU, unless a mistake is made on purpose,
// which leads the model's CPUs astray and no real one.
unsafe impl<P: Platform> Hal for Host<P> {
    fn alloc_frames(&self, count: usize, align: usize) -> Option<HostPhysAddr> {
        let mut allocator = self.allocator.borrow_mut();
        let allocator = &mut *allocator;
        let injected = match &mut allocator.fail_after {
            Some(0) => {
                allocator.fail_after = None;
                true
            }
            Some(left) => {
                *left -= 1;
                false
            }
            None => false,
        };
        let align = if self.mistake == Some(Mistake::AlignmentIgnored) && count > 1 { 1 } else { align };
        let free = |start: &usize| {
            let run = allocator.frames.get(*start..start + count);
            run.is_some_and(|run| run.iter().all(|frame| !frame.taken))
        };
        let mut start = allocator.first_free.next_multiple_of(align);
        if self.mistake == Some(Mistake::AlignmentIgnored) && count > 1 {
            // The first frame of the RAM is aligned to everything.
            start = start.max(1) | 1;
        }
        while !injected && start + count <= allocator.frames.len() && !free(&start) {
            start += align;
        }
        if injected || start + count > allocator.frames.len() {
            allocator.refused += 1;
            return None;
        }
        for frame in &mut allocator.frames[start..start + count] {
            *frame = FrameState { taken: true, born: self.operation.get(), table: None };
        }
        if count == 1 && align == 1 {
            allocator.first_free = start + 1;
        }
        allocator.taken += count;
        allocator.most = allocator.most.max(start + count);
        let hpa = FIRST_FRAME + start as u64 * PAGE_SIZE;
        self.fill(hpa, count, LEFT_BEHIND);
        self.machine.borrow_mut().host_wrote(hpa..hpa + count as u64 * PAGE_SIZE);
        Some(HostPhysAddr::new(hpa))
    }

    unsafe fn dealloc_frames(&self, start: HostPhysAddr, count: usize) {
        let start = start.as_u64();
        if self.mistake == Some(Mistake::FrameLeaked) && self.operation.get() % 7 == 0 {
            return;
        }
        let range = start..start + count as u64 * PAGE_SIZE;
        if let Some((cpu, reach)) = self.machine.borrow().reaches(range.clone()) {
            let detail = format!("frames {range:x?} go back while CPU {cpu} reaches them: {reach:x?}");
            self.report(Violation::new(Check::Freed, detail));
        }
        let mut allocator = self.allocator.borrow_mut();
        let first = frame_index(start).unwrap_or(usize::MAX);
        for index in first..first.saturating_add(count) {
            match allocator.frames.get_mut(index) {
                Some(frame) if frame.taken => *frame = FrameState::default(),
                _ => {
                    let detail = format!("{start:#x}, {count} frames: not taken");
                    self.report(Violation::new(Check::Allocator, detail));
                    return;
                }
            }
        }
        allocator.taken -= count;
        allocator.first_free = allocator.first_free.min(first);
        allocator.returned.push((range.start, range.end));
        self.fill(start, count, POISON);
    }

    fn phys_to_virt(&self, hpa: HostPhysAddr) -> *mut u8 {
        let hpa = hpa.as_u64();
        if self.born(hpa).is_none() {
            self.report(Violation::new(Check::Allocator, format!("{hpa:#x} is used and not taken")));
        }
        let offset = hpa.wrapping_sub(FIRST_FRAME);
        let offset = if offset < self.ram.bytes() { offset as usize } else { 0 };
        self.ram.words().as_ptr().cast_mut().cast::<u8>().wrapping_add(offset)
    }

    fn invalidate(&self, invalidation: &Invalidation<'_>) {
        let cpus = self.machine.borrow().cpus();
        let here = self.cpu.get();
        self.ledger.invalidated(here, invalidation.scope, invalidation.reach);
        let mut plan = maintenance::plan(&self.platform, invalidation, here, cpus);
        if let Some(mistake) = self.mistake {
            plan = mistake.at(self.moment.get()).distort(&self.platform, invalidation, here, cpus, plan);
            if mistake == Mistake::FreedBeforeInvalidation {
                self.delayed.borrow_mut().append(&mut plan);
            }
        }
        let other = self.mistake == Some(Mistake::WrongSpace) && P::TABLE == TableKind::Stage2;
        if self.mistake == Some(Mistake::PageOutUninvalidated) && self.pager.at_work.get() {
            plan.clear();
        }
        self.carry_out(if other { invalidation.root ^ 3 << 48 } else { invalidation.root }, &plan);
        if invalidation.reach == Reach::AllCpus {
            self.invalidated.set(true);
        }
        self.interleave();
    }

    fn counters(&self) -> Option<&Counters> {
        let counters = self.ledger.counters(self.cpu.get());
        let missing = self.mistake == Some(Mistake::CountMissing) && self.ledger.asked() % 5 == 0;
        (!missing).then_some(counters)
    }

    fn is_protected(&self, range: HostPhysRange) -> bool {
        range.start().as_u64() < PROTECTED_END && self.mistake != Some(Mistake::ProtectionMissing)
    }

    fn maintain_cache(&self, maintenance: &CacheMaintenance) {
        if self.mistake != Some(Mistake::CachesNotCleaned) {
            maintenance::clean(&mut self.machine.borrow_mut(), self.cpu.get(), maintenance);
        }
    }

    fn publish(&self) {
        for instruction in self.platform.publication() {
            self.execute(self.cpu.get(), *instruction);
        }
        self.interleave();
    }

    fn table_stored(&self, entry: HostPhysAddr, value: u64) {
        let entry = entry.as_u64();
        self.stores.set(self.stores.get() + 1);
        self.machine.borrow_mut().stored(self.cpu.get(), entry, value);
        if let Some((start, size)) = self.linked(entry, value) {
            self.look(start, size);
            self.interleave();
            if self.mistake == Some(Mistake::CleanedByPlainStore) && self.moment.get() == Moment::Log {
                // What stood there was read before the guest went on.
                self.ram.write(entry, value);
            }
        }
    }

    unsafe fn zero_frames(&self, start: HostPhysAddr, count: usize) {
        if self.mistake == Some(Mistake::NotZeroed) {
            return;
        }
        let start = start.as_u64();
        self.fill(start, count, 0);
        self.machine.borrow_mut().host_wrote(start..start + count as u64 * PAGE_SIZE);
    }
}

impl<P: Platform> Drop for Host<P> {
    fn drop(&mut self) {
        // What a mistake has written is not known.
        if self.mistake.is_none() && self.violation.get_mut().is_none() {
            spare::put(self.ram.clone(), self.allocator.get_mut().most);
        }
    }
}
