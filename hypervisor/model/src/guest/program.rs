//! What each CPU does, action by action.

use super::{AREA, Action, MIB2, Map, RING, STACK};
use slat::PAGE_SIZE;
use slat_check::random::Random;
use slat_model::{Access, AccessKind};
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// The actions of one CPU, in order.
pub(crate) type Program = Box<dyn Iterator<Item = Action> + Send>;

/// Pages of the heap that all CPUs work on.
const SHARED_PAGES: u64 = 192;

/// Steps of work of each CPU but the last, which never stops.
const STEPS: u64 = 4000;

/// Steps of a CPU that is started again.
const MORE_STEPS: u64 = 500;

/// Slots of a ring: one word in every line of 64 bytes.
const SLOTS: u64 = RING / 64;

/// What the CPUs of one guest share, apart from its memory.
#[derive(Clone)]
pub(crate) struct Plan {
    map: Arc<Map>,
    cpus: usize,
    seed: u64,
    /// Pages of the heap that all CPUs use.
    pages: Arc<[u64]>,
    /// Words written to the ring of each CPU.
    written: Arc<[AtomicU64]>,
    /// CPUs that have done their work and gone off, by now.
    gone: Arc<AtomicU64>,
}

impl Plan {
    pub(crate) fn new(map: Map, cpus: usize, seed: u64) -> Self {
        let mut random = Random::new(seed ^ 0x9a9e);
        let count = (map.heap.end - map.heap.start) / PAGE_SIZE;
        let pages =
            (0..SHARED_PAGES.min(count)).map(|_| map.heap.start + random.below(count) * PAGE_SIZE).collect();
        let written = (0..cpus).map(|_| AtomicU64::new(0)).collect();
        Self { map: Arc::new(map), cpus, seed, pages, written, gone: Arc::default() }
    }

    /// Where a CPU other than the first begins.
    pub(crate) fn second_entry(&self) -> u64 {
        self.map.kernel.start + PAGE_SIZE
    }

    /// CPU 0 from its entry on.
    pub(crate) fn boot(&self) -> Program {
        let map = &self.map;
        let kernel = map.kernel.clone();
        let memory = (map.ram.end - map.ram.start) >> 20;
        let seconds = (1..self.cpus).map(Action::Start);
        let stops = self.cpus.saturating_sub(2) as u64;
        Box::new(
            std::iter::once(fetch(kernel.start))
                .chain(pages(&map.device_tree).map(read))
                .chain(say(format!("synthetic guest, {memory} MiB, {} CPUs\n", self.cpus)))
                .chain(pages(&kernel).flat_map(|page| [fetch(page), Action::Load(page)]))
                .chain(say(format!("its image of {} KiB is read\n", (kernel.end - kernel.start) >> 10)))
                .chain(words(&map.bss, 512).map(|gpa| write(gpa, 0)))
                .chain(words(&map.tables, 64).map(|gpa| write(gpa, gpa | 0x3)))
                .chain(words(&map.tables, 512).map(walk))
                .chain(words(&map.heap, MIB2).flat_map(|gpa| [write(gpa, gpa), read(gpa)]))
                // Turns the emulated port on; what is sent there is for the hypervisor's report.
                .chain([Action::Store(0x30, 0x101)])
                .chain("emulated\n".bytes().map(|byte| Action::Store(0, byte.into())))
                .chain(say("its memory is touched from end to end\n".to_owned()))
                .chain([Action::Up])
                .chain(seconds)
                .chain(self.work(0, Some(STEPS)))
                .chain(self.wait_for(stops))
                .chain(if stops > 0 { vec![Action::Start(1)] } else { vec![] })
                .chain(self.work(0, Some(MORE_STEPS)))
                .chain(self.wait_for(stops + u64::from(stops > 0)))
                .chain(self.everything())
                .chain(say("it has read everything again, and goes off\n".to_owned()))
                .chain([Action::PowerOff]),
        )
    }

    /// Another CPU from its entry on; `again` if it was on before.
    pub(crate) fn second(&self, cpu: usize, again: bool) -> Program {
        let entry = std::iter::once(fetch(self.second_entry()));
        if cpu + 1 == self.cpus {
            return Box::new(entry.chain(self.work(cpu, None)));
        }
        let gone = self.gone.clone();
        let off = std::iter::once_with(move || {
            gone.fetch_add(1, Ordering::Relaxed);
            Action::Off
        });
        let steps = if again { MORE_STEPS } else { STEPS };
        Box::new(entry.chain(self.work(cpu, Some(steps))).chain(off))
    }

    /// Sleeps until so many CPUs have gone off.
    fn wait_for(&self, cpus: u64) -> impl Iterator<Item = Action> + Send + use<> {
        let gone = self.gone.clone();
        std::iter::from_fn(move || (gone.load(Ordering::Relaxed) < cpus).then_some(Action::Wait))
    }

    /// Every page that was ever written.
    fn everything(&self) -> impl Iterator<Item = Action> + Send + use<> {
        let map = &self.map;
        let shared: Vec<u64> = self.pages.to_vec();
        pages(&map.device_tree)
            .chain(pages(&(map.kernel.start..map.heap.start)))
            .chain(words(&map.heap, MIB2))
            .chain(shared)
            .map(read)
    }

    /// Ordinary work: without end, or so many steps of it.
    fn work(&self, cpu: usize, steps: Option<u64>) -> impl Iterator<Item = Action> + Send + use<> {
        let mut worker = Worker {
            plan: self.clone(),
            cpu,
            random: Random::new(self.seed ^ (cpu as u64 + 1) << 32 ^ steps.unwrap_or(0)),
            depth: 0,
            seen: 0,
        };
        (0..steps.unwrap_or(u64::MAX)).flat_map(move |_| worker.step())
    }
}

struct Worker {
    plan: Plan,
    cpu: usize,
    random: Random,
    /// Bytes on the stack.
    depth: u64,
    /// Words read from the ring of the CPU before.
    seen: u64,
}

impl Worker {
    fn step(&mut self) -> Vec<Action> {
        let map = self.plan.map.clone();
        let value = self.random.number();
        let own = |range: &Range<u64>, bytes: u64| range.start + self.cpu as u64 * bytes;
        let (area, stack, ring) = (own(&map.areas, AREA), own(&map.stacks, STACK), own(&map.rings, RING));
        match self.random.below(256) {
            0..60 => {
                let push = self.depth == 0 || (self.depth + 64 < STACK && value & 0x100 == 0);
                self.depth = if push { self.depth + 64 } else { self.depth - 64 };
                let top = stack + STACK - 8 - self.depth;
                if push { vec![write(top, value)] } else { vec![read(top)] }
            }
            60..90 => vec![modify(area + value % (AREA / 8) * 8, self.random.number())],
            90..120 => {
                let slot = self.plan.written[self.cpu].fetch_add(1, Ordering::Relaxed) % SLOTS;
                vec![write(ring + 64 * slot, value)]
            }
            120..150 => self.receive(&map),
            150..190 => {
                let kernel = (map.kernel.end - map.kernel.start) / 8;
                vec![self.table(&map), fetch(map.kernel.start + value % kernel * 8)]
            }
            190..244 => {
                let gpa = self.random.choose(&self.plan.pages) + value % (PAGE_SIZE / 8) * 8;
                let next = self.random.number();
                let access = match next % 4 {
                    0 => write(gpa, next),
                    1 => modify(gpa, next),
                    _ => read(gpa),
                };
                vec![self.table(&map), access]
            }
            244 => vec![modify(map.bss.start, value)],
            245 => vec![Action::Store(0, b'.'.into())],
            246 => vec![Action::Print(0)],
            247 if value % 8 == 0 => vec![Action::Wait],
            _ => vec![Action::Call],
        }
    }

    /// The next word of the ring that the CPU before this one writes, if there is one.
    fn receive(&mut self, map: &Map) -> Vec<Action> {
        let from = (self.cpu + self.plan.cpus - 1) % self.plan.cpus;
        let written = self.plan.written[from].load(Ordering::Relaxed);
        if self.seen >= written {
            return vec![];
        }
        // What was overwritten meanwhile is lost, as in any ring.
        self.seen = self.seen.max(written.saturating_sub(SLOTS)) + 1;
        vec![read(map.rings.start + from as u64 * RING + 64 * ((self.seen - 1) % SLOTS))]
    }

    /// The walk of the guest's own page tables that comes before an access.
    fn table(&mut self, map: &Map) -> Action {
        walk(map.tables.start + self.random.below((map.tables.end - map.tables.start) / 8) * 8)
    }
}

const fn touch(gpa: u64, access: Access, value: u64) -> Action {
    Action::Touch { gpa, access, value }
}

const fn read(gpa: u64) -> Action {
    touch(gpa, Access::READ, 0)
}

const fn fetch(gpa: u64) -> Action {
    touch(gpa, Access::EXECUTE, 0)
}

const fn write(gpa: u64, value: u64) -> Action {
    touch(gpa, Access::WRITE, value)
}

/// An atomic read-modify-write.
const fn modify(gpa: u64, value: u64) -> Action {
    touch(gpa, Access::new(AccessKind::ReadWrite), value)
}

/// The page walk of a load.
const fn walk(gpa: u64) -> Action {
    touch(gpa, Access::READ.of_walk(AccessKind::Read), 0)
}

/// A word in every `stride` bytes.
fn words(range: &Range<u64>, stride: u64) -> impl Iterator<Item = u64> + Send + use<> {
    range.clone().step_by(stride as usize)
}

fn pages(range: &Range<u64>) -> impl Iterator<Item = u64> + Send + use<> {
    words(range, PAGE_SIZE)
}

fn say(text: String) -> impl Iterator<Item = Action> + Send {
    text.into_bytes().into_iter().map(Action::Print)
}
