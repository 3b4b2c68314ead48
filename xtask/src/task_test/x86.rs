//! The tests that boot guests on x86: the unit guests, Linux and memtest86+, on Bochs (VMX, EPT) and on QEMU (SVM, NPT).

mod boots;
mod two_cpus;
mod units;

use super::Context;
use super::step::{Board, Outcome, Step};
use crate::boot::machine::{Machine, Pace};
use crate::boot::session::{self, Choices, Guest, Observed};
use crate::guests::cache::{Cache, Kernel};
use crate::guests::image::{self, Program};
use crate::missing::MissingThings;
use crate::platform::Platform;
use crate::setup::{self, Equipment, Needs};
use crate::task_run;
use anyhow::{Context as _, Result};
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};
use std::thread;
use std::time::Duration;
use tempfile::TempDir;

/// What all boots of one platform share, put together once.
struct Bench {
    platform: Platform,
    emulator: PathBuf,
    hypervisor: PathBuf,
    /// The hypervisor with its unit guests.
    with_units: PathBuf,
    kernel: PathBuf,
    memtest: PathBuf,
    initrd: PathBuf,
    sha256: String,
    /// Holds the files that were made.
    _directory: TempDir,
}

/// Why there is no bench: the repository's fault, or the machine lacks something.
#[derive(Clone)]
enum NoBench {
    Failed(String),
    Impossible(String),
}

/// The bench of one platform, empty until the set-up is done. The steps own it together, so its files go with the last.
#[derive(Clone)]
struct Slot {
    platform: Platform,
    bench: Arc<OnceLock<Result<Bench, NoBench>>>,
}

/// The steps, and the places where they look for their benches.
pub(crate) struct Suite {
    slots: Vec<Slot>,
    steps: Vec<Step>,
}

impl Suite {
    /// What the steps are called.
    pub(crate) fn names(&self) -> Vec<String> {
        self.steps.iter().map(|step| step.name().to_owned()).collect()
    }
}

/// All steps whose name contains `filter`.
pub(crate) fn suite(filter: &str) -> Suite {
    let (mut slots, mut all) = (Vec::new(), Vec::new());
    for platform in [Platform::Intel, Platform::Amd] {
        let slot = Slot { platform, bench: Arc::default() };
        let mut steps = units::steps(&slot);
        steps.extend(boots::steps(&slot));
        steps.extend(two_cpus::steps(&slot));
        steps.retain(|step| step.name().contains(filter));
        if !steps.is_empty() {
            slots.push(slot);
        }
        all.extend(steps);
    }
    Suite { slots, steps: all }
}

/// Sets everything up and runs the steps, two at a time where there are two processors.
pub(crate) fn run(board: &mut Board, context: &Context, suite: Suite) {
    for slot in &suite.slots {
        let _ = slot.bench.set(set_up(context, slot.platform));
    }
    let threads = thread::available_parallelism().map_or(1, |count| count.get().min(2));
    board.run(suite.steps, context, threads);
}

fn set_up(context: &Context, platform: Platform) -> Result<Bench, NoBench> {
    let Context { host, workspace, .. } = context;
    let needs = Needs { platform, kernel: Some(platform.default_kernel()), busybox: true };
    let equipment = setup::prepare(host, workspace, &needs).map_err(|error| {
        if let Some(missing) = error.downcast_ref::<MissingThings>() {
            missing.things().iter().for_each(|thing| eprintln!("{thing}"));
        }
        NoBench::Impossible(format!("{error:#}"))
    })?;
    let memtest = Cache::new(&workspace.target, platform).kernel(host, Kernel::Memtest);
    let memtest = memtest.map_err(|error| NoBench::Impossible(format!("{error:#}")))?;
    build(context, platform, equipment, memtest).map_err(|error| NoBench::Failed(format!("{error:#}")))
}

/// Builds what the boots need. An error here is the repository's fault.
fn build(context: &Context, platform: Platform, equipment: Equipment, memtest: PathBuf) -> Result<Bench> {
    let Context { host, workspace, .. } = context;
    let Equipment { emulator, toolchain, kernel, busybox } = equipment;
    let kernel = kernel.context("there is no kernel")?;
    let busybox = busybox.context("there is no busybox")?;
    let directory =
        tempfile::Builder::new().prefix("slat-test-").tempdir().context("no temporary directory")?;
    let build = |features: &[&str], name: &str| -> Result<PathBuf> {
        let built = toolchain.build(host, workspace, platform.target(), ("slat-hv", features))?;
        let kept = directory.path().join(name);
        // The next build, with other features, takes its place.
        fs::copy(built, &kept).context("cannot copy the hypervisor")?;
        Ok(kept)
    };
    let with_units = build(&["unit-guests"], "slat-hv-with-units")?;
    let hypervisor = build(&[], "slat-hv")?;
    let initrd = directory.path().join("initramfs.cpio");
    let sha256 = task_run::write_initramfs(&busybox, platform, &initrd)?;
    Ok(Bench {
        platform,
        emulator,
        hypervisor,
        with_units,
        kernel,
        memtest,
        initrd,
        sha256,
        _directory: directory,
    })
}

impl Slot {
    /// A step that needs the bench.
    fn step(&self, name: &str, work: impl FnOnce(&Bench, &mut String) -> Outcome + Send + 'static) -> Step {
        let slot = self.clone();
        let name = format!("{}: {name}", self.platform.emulator_title());
        Step::new(format!("x86 on {name}"), move |_, output| match slot.bench.get() {
            Some(Ok(bench)) => work(bench, output),
            Some(Err(NoBench::Failed(reason))) => Outcome::Failed(reason.clone()),
            Some(Err(NoBench::Impossible(reason))) => Outcome::Impossible(reason.clone()),
            None => Outcome::Failed("the set-up is missing".to_owned()),
        })
    }
}

impl Bench {
    fn machine(&self, cpu: &str, cpus: u32, pace: Pace) -> Machine {
        let (platform, emulator) = (self.platform, self.emulator.clone());
        Machine { platform, emulator, cpu: cpu.to_owned(), cpus, pace }
    }

    /// Linux with our own user space, on one CPU.
    fn linux(&self, memory: u64) -> Result<Guest> {
        self.linux_on(1, memory)
    }

    /// Linux that looks for so many CPUs.
    fn linux_on(&self, cpus: u32, memory: u64) -> Result<Guest> {
        self.guest(&self.kernel, memory, cpus, Some((&self.initrd, &self.sha256)))
    }

    /// memtest86+.
    fn memtest(&self, memory: u64) -> Result<Guest> {
        self.guest(&self.memtest, memory, 1, None)
    }

    fn guest(
        &self,
        kernel: &Path,
        memory: u64,
        cpus: u32,
        user_space: Option<(&PathBuf, &String)>,
    ) -> Result<Guest> {
        let image = image::check_file(kernel, self.platform)?;
        Ok(Guest {
            kernel: kernel.to_owned(),
            initrd: user_space.map(|(initrd, _)| initrd.clone()),
            bootargs: task_run::bootargs::of(self.platform, &image, memory, cpus, "")?,
            memory,
            sha256: user_space.map(|(_, sha256)| sha256.clone()),
            results: Vec::new(),
            goal: task_run::goal(self.platform, image.program),
        })
    }

    /// Boots `guest`; its console is the step's output.
    fn boot(
        &self,
        guest: &Guest,
        (cpu, cpus): (&str, u32),
        choices: &Choices,
        patience: Duration,
        output: &mut String,
    ) -> Result<Observed> {
        let program = if guest.sha256.is_some() { Program::Linux } else { Program::Memtest };
        let machine = self.machine(cpu, cpus, task_run::pace(program));
        let mut screen = Vec::new();
        let seen = session::under_slat(&machine, &self.hypervisor, guest, choices, patience, &mut screen);
        take_down(seen, &screen, output)
    }

    /// Runs the unit guests with these names.
    fn units(
        &self,
        (cpu, cpus): (&str, u32),
        names: &[&str],
        choices: &Choices,
        patience: Duration,
        output: &mut String,
    ) -> Result<Observed> {
        // In QEMU time goes by instructions only where one CPU waits for the other.
        let pace = if self.platform == Platform::Intel { Pace::Waiting } else { Pace::Usual };
        let machine = self.machine(cpu, cpus, pace);
        let mut screen = Vec::new();
        let seen = session::unit_guests(&machine, &self.with_units, names, choices, patience, &mut screen);
        take_down(seen, &screen, output)
    }
}

fn take_down(seen: Result<Observed>, screen: &[u8], output: &mut String) -> Result<Observed> {
    output.push_str(&String::from_utf8_lossy(screen));
    let seen = seen?;
    for (seconds, unit) in &seen.units {
        output.push_str(&format!("{seconds:.1} s: {unit:?}\n"));
    }
    if let Some(report) = &seen.report {
        output.push_str(&format!("\n{report:?}\n"));
    }
    Ok(seen)
}
