//! One run from beginning to end.

use crate::checks::Checks;
use crate::cpu::{self, Cpu};
use crate::guest::{self, CONSOLE, EMULATED, MOST_CPUS, Map, Memory, Plan};
use crate::host::{self, FIRST_FRAME, Hardware};
use crate::turn::{Thread, World, let_others_go_on};
use crate::vcpu::{Config, ModelVcpu};
use crate::world::{MemoryTypes, State};
use slat::format::Geometry;
use slat::{AddrSpace, GuestPhysAddr, MappingFlags};
use slat_check::platform::{Platform, memory};
use slat_hv::cpus::{Cpus, Entry};
use slat_hv::guest::Content;
use slat_hv::pool::Pool;
use slat_hv::run::{Job, Left, Machine};
use slat_hv::vcpu::Vcpu;
use slat_hv_protocol::{Churn, End, FaultPolicy, Leaf, Mistake, Report, Started};
use slat_model::{Policy, Root};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread;

/// The tag under which the TLBs keep the guest's translations.
const TAG: u16 = 1;

/// A byte that no part of a table or of the guest begins with: what is in RAM before anybody uses it.
const LEFT_BEHIND: u64 = 0xa5a5_a5a5_a5a5_a5a5;

/// What is to be run.
#[derive(Clone, Copy, Debug)]
pub struct Settings {
    /// CPUs of the machine and of the guest, 1 to [`MOST_CPUS`].
    pub cpus: usize,
    /// Bytes of guest RAM: a multiple of 2 MiB between [`guest::LEAST_MEMORY`] and [`guest::MOST_MEMORY`].
    pub memory: u64,
    /// The largest leaf of guest RAM.
    pub leaf: Leaf,
    /// Churn, if wanted.
    pub churn: Option<Churn>,
    /// A mistake to make in TLB maintenance. Those that only Arm has are no maintenance at all elsewhere.
    pub mistake: Mistake,
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
    /// What the guest printed.
    pub console: Vec<u8>,
    /// Stores of the guest in the serial port that the hypervisor emulates.
    pub emulated_stores: u64,
    /// Seconds until the guest had booted, if it did.
    pub seconds_to_up: Option<f64>,
    /// The guest's image as it was loaded.
    pub image: Vec<u8>,
    /// The same as the guest read it.
    pub image_read: Vec<u8>,
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
    let Settings { cpus: count, memory: guest_memory, leaf, churn, mistake, seed, policy } = settings;
    if !(1..=MOST_CPUS).contains(&count) {
        return Err(format!("the number of CPUs must be 1 to {MOST_CPUS}"));
    }
    if !(guest::LEAST_MEMORY..=guest::MOST_MEMORY).contains(&guest_memory) || guest_memory % (2 << 20) != 0 {
        return Err("the guest's memory must be a multiple of 2 MiB that the model can hold".to_owned());
    }
    let map = Map::new(guest_memory, count);
    let (device_tree, image) =
        (guest::image(&map.device_tree, seed ^ 1), guest::image(&map.kernel, seed ^ 2));
    let loaded = [(map.device_tree.start, device_tree.as_slice()), (map.kernel.start, image.as_slice())];
    let mut content = Content::default();
    loaded.iter().for_each(|(gpa, bytes)| content.add(*gpa, bytes));

    let (ram, pool) = host::ram(guest_memory);
    let frames = ((pool.address + pool.size - FIRST_FRAME) / 8) as usize;
    ram.words()[..frames].iter().for_each(|word| word.store(LEFT_BEHIND, Ordering::Relaxed));
    let rules = platform.rules();
    let rw = MappingFlags::READ | MappingFlags::WRITE;
    let types = MemoryTypes { ram: memory(&rules, rw), device: memory(&rules, rw | MappingFlags::DEVICE) };
    let plan = Plan::new(map.clone(), count, seed);
    let account = Memory::new(&map, &loaded);
    let machine = slat_model::Machine::new(platform.mmu(), ram.clone(), count, policy);
    let world = Arc::new(World::new(State::new(machine, types, plan, account, seed, count)));

    let host = Hardware::pool(platform, world.clone(), ram, pool, count, mistake);
    let size = 1 << platform.geometry().gpa_bits;
    let space = AddrSpace::with_format(&host, platform, GuestPhysAddr::new(0), size, TAG)
        .map_err(|error| error.to_string())?;
    let root = platform.root(space.root_register(), TAG);
    // A CPU comes up when it is its turn.
    let cpus = Cpus::new(count, map.ram.clone(), |_| true);
    let devices = [CONSOLE];
    let job = Job {
        ram: map.ram.start,
        memory: guest_memory,
        content,
        devices: &devices,
        leaf,
        large_leaves_suit: false,
        on_fault: FaultPolicy::Stop,
        churn,
        uart: Some(EMULATED),
        screen: None,
        skip_copies: false,
    };
    let machine = Machine::new(space, &cpus, job).map_err(|error| error.to_string())?;
    let config = Config { world: world.clone(), platform, cpus: &cpus };
    let shared = Shared { machine, pool: &host, root, config, entry: map.kernel.start };

    let report = thread::scope(|scope| {
        let threads: Vec<_> = (0..count)
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
    let report = report.unwrap_or_else(|| Err("no CPU ended the run".to_owned()));
    let Geometry { levels, gpa_bits, root_tables } = platform.geometry();
    Ok(world.with(|state| {
        state.take_reports();
        Observed {
            started: Started {
                gpa_bits,
                levels: levels.into(),
                root_tables: root_tables.into(),
                ..Started::default()
            },
            report,
            checks: state.checks.clone(),
            console: std::mem::take(&mut state.console),
            emulated_stores: state.emulated_stores,
            seconds_to_up: state.seconds_to_up,
            image_read: std::mem::take(&mut state.image),
            image: image.clone(),
        }
    }))
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
