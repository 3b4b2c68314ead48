//! One run from beginning to end.

use crate::checks::Checks;
use crate::cpu::{self, Cpu};
use crate::guest::{self, CONSOLE, EMULATED, MOST_CPUS, Map, Memory, Plan};
use crate::guests;
use crate::host::{self, FIRST_FRAME, Hardware};
use crate::turn::{Thread, World, let_others_go_on};
use crate::vcpu::{Config, ModelVcpu};
use crate::world::{Guest, MemoryTypes, State};
use slat::format::Geometry;
use slat::{GuestPhysAddr, MappingFlags};
use slat_check::platform::{Platform, memory};
use slat_hv::cpus::{Cpus, Entry};
use slat_hv::guest::Content;
use slat_hv::pool::Pool;
use slat_hv::run::{Job, Left, Machine, Space};
use slat_hv::store::Swap;
use slat_hv::vcpu::Vcpu;
use slat_hv_protocol::{Churn, End, FaultPolicy, GUESTS_MAX, Leaf, Mistake, Report, Started};
use slat_model::{Policy, Root};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread;

/// The tag under which the TLBs keep the guest's translations.
const TAG: u16 = 1;

/// Words of a trace: 131,072 events.
const TRACE_WORDS: usize = 8 * ((1 << 17) + 1);

/// The model knows no time. What happens counts as a millionth of a second, be it a step of a guest or of the hypervisor.
const TICKS_PER_SECOND: u64 = 1_000_000;

/// A byte that no part of a table or of the guest begins with: what is in RAM before anybody uses it.
const LEFT_BEHIND: u64 = 0xa5a5_a5a5_a5a5_a5a5;

/// What is to be run.
#[derive(Clone, Copy, Debug)]
pub struct Settings {
    /// CPUs of each guest, 1 to [`MOST_CPUS`]; of the machine too unless `harts` has another number.
    pub cpus: usize,
    /// Guests at once, 1 to [`GUESTS_MAX`]. Several share the CPUs in slices of time, and so few tags that these change hands.
    pub guests: usize,
    /// CPUs of the machine, where guests share them in slices of time.
    pub harts: Option<usize>,
    /// Bytes of the pool of frames, where that is not as much as all guests can need.
    pub pool: Option<u64>,
    /// Bytes of RAM of each guest: a multiple of 2 MiB between [`guest::LEAST_MEMORY`] and [`guest::MOST_MEMORY`].
    pub memory: u64,
    /// The largest leaf of guest RAM.
    pub leaf: Leaf,
    /// Churn, if wanted.
    pub churn: Option<Churn>,
    /// A mistake to make in TLB maintenance. Those that only Arm has are no maintenance at all elsewhere.
    pub mistake: Mistake,
    /// A mistake too: when tags get new owners no CPU drops what it knows.
    pub keeps_old_tags: bool,
    /// Whether faults, operations and invalidations are traced.
    pub trace: bool,
    /// Seed of what the guest does, and of whose turn it is.
    pub seed: u64,
    /// What TLBs keep, and which of several results an access gets.
    pub policy: Policy,
}

/// All that was seen of one run.
#[derive(Clone, Debug)]
pub struct Observed {
    /// What the hypervisor found and chose.
    pub started: Started,
    /// What it reports, unless it failed.
    pub report: Result<Report, String>,
    /// What the checks found.
    pub checks: Checks,
    /// What the guest printed; several have a number before each line.
    pub console: Vec<u8>,
    /// Stores of the guest in the serial port that the hypervisor emulates.
    pub emulated_stores: u64,
    /// Seconds until the guest had booted, if it did.
    pub seconds_to_up: Option<f64>,
    /// The guest's image as it was loaded; of several guests the first one's.
    pub image: Vec<u8>,
    /// The same as the guest read it.
    pub image_read: Vec<u8>,
    /// For each guest whether it read its own image, which is like nobody else's, from end to end.
    pub images_right: Vec<bool>,
    /// The words of the trace, a ring of `slat::trace`; none if it was not wanted.
    pub trace: Vec<u64>,
}

/// Runs the guest on a CPU of this kind.
///
/// # Errors
/// One line if the run could not begin.
///
/// # Panics
/// If slat or the model does.
pub fn run(cpu: Cpu, settings: Settings) -> Result<Observed, String> {
    match cpu {
        Cpu::Arm => {
            let format = cpu::stage2()?;
            let mut observed = run_on(format, settings)?;
            observed.started.vtcr = format.vtcr_el2();
            Ok(observed)
        }
        Cpu::Intel => run_on(cpu::ept()?, settings),
        Cpu::Amd => run_on(cpu::npt()?, settings),
        Cpu::Riscv => run_on(cpu::gstage()?, settings),
    }
}

/// Runs the guest in tables of this format.
///
/// # Errors
/// As [`run`].
///
/// # Panics
/// As [`run`].
pub fn run_on<P: Platform>(platform: P, settings: Settings) -> Result<Observed, String> {
    check(&settings)?;
    let Settings { cpus: count, memory: guest_memory, mistake, seed, policy, .. } = settings;
    let several = settings.guests > 1;
    let in_slices = several || settings.harts.is_some();
    let harts = settings.harts.unwrap_or(count);
    let map = Map::new(guest_memory, count);
    let images: Vec<_> = (0..settings.guests as u64)
        .map(|number| {
            let seed = seed ^ number << 32;
            Loaded {
                device_tree: guest::image(&map.device_tree, seed ^ 1),
                kernel: guest::image(&map.kernel, seed ^ 2),
            }
        })
        .collect();

    let (ram, pool) = host::ram(guest_memory * settings.guests as u64, settings.pool);
    let frames = ((pool.address + pool.size - FIRST_FRAME) / 8) as usize;
    ram.words()[..frames].iter().for_each(|word| word.store(LEFT_BEHIND, Ordering::Relaxed));
    let rules = platform.rules();
    let rw = MappingFlags::READ | MappingFlags::WRITE;
    let types = MemoryTypes { ram: memory(&rules, rw), device: memory(&rules, rw | MappingFlags::DEVICE) };
    let guests = images.iter().enumerate().map(|(number, image)| {
        let plan = Plan::new(map.clone(), count, seed ^ (number as u64) << 40);
        Guest::new(plan, Memory::new(&map, &image.pieces(&map)), several.then_some(number as u32))
    });
    let machine = slat_model::Machine::new(platform.mmu(), ram.clone(), harts, policy);
    let state = State::new(machine, types, guests.collect(), count, seed, harts, in_slices);
    let world = Arc::new(World::new(state));
    let mistakes = (mistake, settings.keeps_old_tags);
    let trace = if settings.trace { TRACE_WORDS } else { 0 };
    let host = Hardware::pool(platform, world.clone(), ram, pool, harts, mistakes, trace);
    let scene = Scene { platform, world: world.clone(), host: &host, map, images: &images, settings, harts };

    let report = if in_slices { guests::run(&scene)? } else { run_pinned(&scene)? };
    let Geometry { levels, gpa_bits, root_tables } = platform.geometry();
    Ok(world.with(|state| {
        state.take_reports();
        let images_right = state.guests.iter().zip(&images).map(|(guest, image)| guest.image == image.kernel);
        let images_right = images_right.collect();
        Observed {
            started: Started {
                gpa_bits,
                levels: levels.into(),
                root_tables: root_tables.into(),
                ticks_per_second: TICKS_PER_SECOND,
                ..Started::default()
            },
            report,
            checks: state.checks.clone(),
            console: std::mem::take(&mut state.console),
            emulated_stores: state.emulated_stores,
            seconds_to_up: state.seconds_to_up,
            images_right,
            trace: host.maintenance().trace(),
            image_read: std::mem::take(&mut state.guests[0].image),
            image: images[0].kernel.clone(),
        }
    }))
}

fn check(settings: &Settings) -> Result<(), String> {
    let Settings { cpus, guests, harts, pool, memory, .. } = *settings;
    if !(1..=MOST_CPUS).contains(&cpus) || !(1..=MOST_CPUS).contains(&harts.unwrap_or(cpus)) {
        return Err(format!("the number of CPUs must be 1 to {MOST_CPUS}"));
    }
    if !(1..=GUESTS_MAX).contains(&guests) {
        return Err(format!("the number of guests must be 1 to {GUESTS_MAX}"));
    }
    let fits = memory.checked_mul(guests as u64).is_some_and(|all| all <= guest::MOST_MEMORY);
    if memory < guest::LEAST_MEMORY || !fits || memory % (2 << 20) != 0 {
        return Err("the guest's memory must be a multiple of 2 MiB that the model can hold".to_owned());
    }
    if pool.is_some_and(|pool| !(1 << 20..=2 * guest::MOST_MEMORY).contains(&pool)) {
        return Err("the pool must have 1 MiB or more, and as much as the model can hold".to_owned());
    }
    Ok(())
}

/// What is loaded for a guest.
pub(crate) struct Loaded {
    device_tree: Vec<u8>,
    kernel: Vec<u8>,
}

impl Loaded {
    fn pieces(&self, map: &Map) -> [(u64, &[u8]); 2] {
        [(map.device_tree.start, self.device_tree.as_slice()), (map.kernel.start, self.kernel.as_slice())]
    }
}

/// Everything that a run begins with.
pub(crate) struct Scene<'a, P: Platform> {
    pub(crate) platform: P,
    pub(crate) world: Arc<World>,
    pub(crate) host: &'a Pool<Hardware<P>>,
    pub(crate) map: Map,
    images: &'a [Loaded],
    pub(crate) settings: Settings,
    /// CPUs of the machine.
    pub(crate) harts: usize,
}

impl<'a, P: Platform> Scene<'a, P> {
    /// A space under this tag, in which nothing is mapped.
    pub(crate) fn space(&self, tag: u16) -> Result<Space<'a, &'a Pool<Hardware<P>>, P>, String> {
        let size = 1 << self.platform.geometry().gpa_bits;
        slat_hv::run::space(self.host, self.platform, size, tag, Swap::default())
            .map_err(|error| error.to_string())
    }

    /// What guest `number` is.
    pub(crate) fn job(&self, number: usize) -> Job<'a> {
        let mut content = Content::default();
        self.images[number].pieces(&self.map).iter().for_each(|(gpa, bytes)| content.add(*gpa, bytes));
        Job {
            ram: self.map.ram.start,
            memory: self.settings.memory,
            content,
            devices: &[CONSOLE],
            leaf: self.settings.leaf,
            large_leaves_suit: false,
            on_fault: FaultPolicy::Stop,
            churn: self.settings.churn,
            uart: Some(EMULATED),
            screen: None,
            shared_port: None,
            terminal: None,
            skip_copies: false,
            paging: None,
        }
    }
}

/// Runs one guest whose CPUs are the machine's.
fn run_pinned<P: Platform>(scene: &Scene<'_, P>) -> Result<Result<Report, String>, String> {
    let Scene { platform, world, host, map, harts, .. } = scene;
    let space = scene.space(TAG)?;
    let root = platform.root(space.root_register(), TAG);
    // A CPU comes up when it is its turn.
    let cpus = Cpus::new(*harts, map.ram.clone(), |_| true);
    let machine = Machine::new(space, &cpus, scene.job(0)).map_err(|error| error.to_string())?;
    let config = Config { world: world.clone(), platform: *platform, cpus: &cpus, first: 0 };
    let shared = Shared { machine, pool: host, root, config, entry: map.kernel.start };
    let report = thread::scope(|scope| {
        let threads: Vec<_> = (0..*harts)
            .map(|cpu| {
                scope.spawn({
                    let shared = &shared;
                    move || shared.cpu(cpu)
                })
            })
            .collect();
        let ended: Vec<_> = threads.into_iter().map(thread::ScopedJoinHandle::join).collect();
        let ended =
            ended.into_iter().map(|joined| joined.unwrap_or_else(|panic| std::panic::resume_unwind(panic)));
        ended.flatten().next()
    });
    Ok(report.unwrap_or_else(|| Err("no CPU ended the run".to_owned())))
}

/// What the CPUs' threads share.
struct Shared<'a, P: Platform> {
    machine: Machine<'a, &'a Pool<Hardware<P>>, P>,
    pool: &'a Pool<Hardware<P>>,
    root: Root,
    config: Config<'a, P>,
    entry: u64,
}

impl<P: Platform> Shared<'_, P> {
    /// The life of one CPU; the report if it is the one that ends the run.
    fn cpu(&self, cpu: usize) -> Option<Result<Report, String>> {
        let Config { world, cpus, .. } = &self.config;
        let _thread = Thread::new(world.clone(), cpu);
        let mut entry = (cpu == 0).then_some(Entry { address: self.entry, argument: 0 });
        loop {
            if entry.is_none() {
                if !world.await_power(cpu) {
                    return None;
                }
                entry = cpus.begin(cpu);
            }
            let left = entry.take().map(|entry| {
                let mut vcpu = ModelVcpu::new(cpu, self.config.clone());
                vcpu.setup(self.root, GuestPhysAddr::new(entry.address), entry.argument);
                self.machine.run(cpu, &mut vcpu)
            });
            if let Some(Left::Ended(end)) = left {
                let report = self.close(end);
                world.finish();
                return Some(report);
            }
            world.leave(cpu);
        }
    }

    /// Ends the run on all CPUs and gives everything back.
    fn close(&self, end: End) -> Result<Report, String> {
        // Taking the guest's memory away is what gets the other CPUs out of it: no mistake may be made in that.
        self.pool.maintenance().make_no_more_mistakes();
        let outcome = self.machine.close(end, let_others_go_on)?;
        Ok(outcome.report(self.pool, self.pool.maintenance().instructions()))
    }
}
