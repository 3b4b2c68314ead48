//! The tests that boot guests in the emulator: Linux in several shapes, under churn, with mistakes made on
//! purpose, and the little guest that misbehaves on request.

use super::scenarios;
use super::step::{Board, Outcome, Step};
use super::{Context, flat, recorded};
use crate::boot::machine::{Machine, Pace};
use crate::boot::session::{self, Choices, Goal, Guest, Observed};
use crate::boot::verdict;
use crate::guests::cache::{Cache, OTHER_KERNEL};
use crate::guests::image;
use crate::guests::initramfs::TO_UART;
use crate::platform::Platform;
use crate::setup::{self, Equipment, Needs};
use crate::task_run;
use anyhow::{Context as _, Result, bail, ensure};
use slat_hv_protocol::{Leaf, Mistake, Report};
use std::path::PathBuf;
use std::sync::{Arc, OnceLock};
use std::thread;
use std::time::Duration;
use tempfile::TempDir;

/// Long enough for the slowest guest on a loaded machine.
const PATIENCE: Duration = Duration::from_secs(60);

/// A guest that a mistake makes hang is given up after this; a good one takes a third of it.
const MISTAKE_PATIENCE: Duration = Duration::from_secs(15);

/// Pages that are mapped before the guest runs: the UART (4 KiB), the GIC's distributor (64 KiB) and its one
/// redistributor (128 KiB).
const DEVICE_PAGES: u64 = 1 + 16 + 32;

/// Seeds of the churn tests.
const CHURN_SEEDS: u64 = 10;

const MISTAKES: [Mistake; 5] = [
    Mistake::NoTlbi,
    Mistake::Ipas2Alone,
    Mistake::Vmalle1Alone,
    Mistake::WrongAddress,
    Mistake::El2Instruction,
];

/// What all boots share, put together once.
pub(crate) struct Bench {
    emulator: PathBuf,
    hypervisor: PathBuf,
    kernel: PathBuf,
    /// The other kernel, or why there is none.
    other_kernel: Result<PathBuf, String>,
    initrd: PathBuf,
    sha256: String,
    /// The flat binary of the guest that misbehaves.
    test_guest: PathBuf,
    /// Holds the files that were made.
    _directory: TempDir,
}

/// The bench, empty until the set-up is done. The steps own it together, so its files go with the last of them.
type Slot = Arc<OnceLock<Bench>>;

/// The steps, and the place where they look for their bench.
pub(crate) struct Suite {
    slot: Slot,
    steps: Vec<Step>,
}

/// One boot.
struct Boot {
    kernel: PathBuf,
    memory: u64,
    cpu: &'static str,
    cpus: u32,
    choices: Choices,
    patience: Duration,
}

impl Boot {
    fn new(kernel: PathBuf) -> Self {
        Self {
            kernel,
            memory: 128 << 20,
            cpu: "cortex-a72",
            cpus: 1,
            choices: Choices::default(),
            patience: PATIENCE,
        }
    }
}

/// All steps whose name contains `filter`.
pub(crate) fn suite(filter: &str) -> Suite {
    let slot = Slot::default();
    let mut steps = steps(&slot);
    steps.retain(|step| step.name().contains(filter));
    Suite { slot, steps }
}

fn steps(slot: &Slot) -> Vec<Step> {
    let mut steps = vec![
        boot_step(slot, "boot natively", natively),
        boot_step(slot, "boot with 128M", |bench, output| {
            let mut boot = Boot::new(bench.kernel.clone());
            boot.choices.record = true;
            let (seen, report) = good_boot(bench, boot, output)?;
            ensure!(report.faults.total <= 300, "{} faults are too many", report.faults.total);
            Ok(format!("{} faults; {}", report.faults.total, recorded::is_clean(&seen)?))
        }),
        boot_step(slot, "boot with 4k leaves", |bench, output| {
            let mut boot = Boot::new(bench.kernel.clone());
            boot.choices.leaf = Leaf::Size4K;
            let Report { faults, leaves, .. } = good_boot(bench, boot, output)?.1;
            ensure!(faults.spurious == 0, "{} spurious faults", faults.spurious);
            let (populated, pages) = (faults.populated, leaves.size_4k);
            let mapped = populated + DEVICE_PAGES;
            ensure!(
                mapped == pages,
                "{populated} faults and {DEVICE_PAGES} device pages made {pages} leaves"
            );
            ensure!((5_000..=20_000).contains(&populated), "{populated} faults are not what a boot takes");
            Ok(format!("{populated} faults"))
        }),
        boot_step(slot, "boot with 48M", |bench, output| {
            let mut boot = Boot::new(bench.kernel.clone());
            boot.memory = 48 << 20;
            good_boot(bench, boot, output)?;
            Ok(String::new())
        }),
        boot_step(slot, "boot with 2m leaves", |bench, output| {
            let mut boot = Boot::new(bench.kernel.clone());
            boot.choices.leaf = Leaf::Size2M;
            let Report { faults, leaves, .. } = good_boot(bench, boot, output)?.1;
            ensure!(leaves.size_2m == faults.populated, "{} large leaves", leaves.size_2m);
            ensure!(leaves.size_4k == DEVICE_PAGES, "{} small leaves", leaves.size_4k);
            Ok(format!("{} leaves of 2 MiB", leaves.size_2m))
        }),
        // 44 bits take four levels, 40 bits three and two root tables.
        boot_step(slot, "boot on a cortex-a72", |bench, output| on_cpu(bench, "cortex-a72", 4, &[], output)),
        boot_step(slot, "boot on a cortex-a53", |bench, output| on_cpu(bench, "cortex-a53", 3, &[], output)),
        boot_step(slot, "boot on a CPU with everything", |bench, output| {
            on_cpu(bench, "max,pauth-impdef=on", 4, &["FEAT_S2FWB", "FEAT_XNX", "FEAT_TLBIRANGE"], output)
        }),
        optional_boot_step(slot, "boot another kernel", |bench, output| match &bench.other_kernel {
            Ok(kernel) => {
                let boot = Boot::new(kernel.clone());
                Outcome::of(good_boot(bench, boot, output).map(|_| OTHER_KERNEL.name().to_owned()))
            }
            Err(reason) => Outcome::Impossible(reason.clone()),
        }),
    ];
    for seed in 1..=CHURN_SEEDS {
        steps.push(boot_step(slot, &format!("boot under churn, seed {seed}"), move |bench, output| {
            churn(bench, 1, seed, output)
        }));
    }
    steps.push(boot_step(slot, "boot under churn on two CPUs", |bench, output| churn(bench, 2, 1, output)));
    steps.push(boot_step(slot, "mistake is seen on the model: LocalTlbi on two CPUs", |bench, output| {
        let seen = churned_by_mistake(bench, 2, Mistake::LocalTlbi, output)?.1;
        recorded::is_stale(&seen)
    }));
    for mistake in MISTAKES {
        steps.push(boot_step(slot, &format!("mistake is seen: {mistake:?}"), move |bench, output| {
            bad_boot(bench, mistake, output)
        }));
    }
    for scenario in scenarios::SCENARIOS {
        steps.push(boot_step(slot, &format!("test guest: {}", scenario.title), move |bench, output| {
            scenarios::run(bench, scenario, output)
        }));
    }
    steps
}

/// Sets everything up and runs the steps, two at a time where there are two processors.
pub(crate) fn run(board: &mut Board, context: &Context, suite: Suite) {
    let Suite { slot, steps } = suite;
    if steps.is_empty() {
        return;
    }
    let others = steps.iter().any(|step| step.name().contains("another kernel"));
    let set_up = match set_up(context, others) {
        Ok(SetUp::Done(bench)) => {
            let _ = slot.set(*bench);
            None
        }
        Ok(SetUp::Impossible(error)) => Some((false, format!("{error:#}"))),
        Err(error) => Some((true, format!("{error:#}"))),
    };
    let Some((failed, reason)) = set_up else {
        let threads = thread::available_parallelism().map_or(1, |count| count.get().min(2));
        board.run(steps, context, threads);
        return;
    };
    let steps = steps.into_iter().map(|step| {
        let reason = reason.clone();
        Step::new(
            step.name(),
            move |_, _| {
                if failed { Outcome::Failed(reason) } else { Outcome::Impossible(reason) }
            },
        )
    });
    board.run(steps.collect(), context, 1);
}

enum SetUp {
    Done(Box<Bench>),
    /// The machine lacks something.
    Impossible(anyhow::Error),
}

/// Gets and builds what the boots need. An error here is a failure of the repository, not of the machine.
fn set_up(context: &Context, with_other_kernel: bool) -> Result<SetUp> {
    let Context { host, workspace, .. } = context;
    let platform = Platform::Arm;
    let needs = Needs { platform, kernel: Some(platform.default_kernel()), busybox: true };
    let Equipment { emulator, toolchain, kernel, busybox } = match setup::prepare(host, workspace, &needs) {
        Ok(equipment) => equipment,
        Err(error) => {
            if let Some(missing) = error.downcast_ref::<crate::missing::MissingThings>() {
                missing.things().iter().for_each(|thing| eprintln!("{thing}"));
            }
            return Ok(SetUp::Impossible(error));
        }
    };
    let (Some(kernel), Some(busybox)) = (kernel, busybox) else { bail!("the set-up is incomplete") };
    let other_kernel = if with_other_kernel {
        let fetched = Cache::new(&workspace.target, platform).kernel(host, OTHER_KERNEL);
        fetched.map_err(|error| format!("{error:#}"))
    } else {
        Err("not asked for".to_owned())
    };
    let hypervisor = toolchain.build(host, workspace, platform.target(), ("slat-hv", &[]))?;
    let test_guest_elf = toolchain.build(host, workspace, platform.target(), ("slat-test-guest", &[]))?;

    let directory =
        tempfile::Builder::new().prefix("slat-test-").tempdir().context("no temporary directory")?;
    let initrd = directory.path().join("initramfs.cpio");
    let sha256 = task_run::write_initramfs(&busybox, platform, &initrd)?;
    let test_guest = directory.path().join("test-guest");
    let elf = std::fs::read(&test_guest_elf).context("cannot read the test guest")?;
    std::fs::write(&test_guest, flat::flatten(&elf)?).context("cannot write the test guest")?;
    Ok(SetUp::Done(Box::new(Bench {
        emulator,
        hypervisor,
        kernel,
        other_kernel,
        initrd,
        sha256,
        test_guest,
        _directory: directory,
    })))
}

/// A step that boots something; the guest's console is its output.
fn boot_step(
    slot: &Slot,
    name: &str,
    work: impl FnOnce(&Bench, &mut String) -> Result<String> + Send + 'static,
) -> Step {
    optional_boot_step(slot, name, |bench, output| Outcome::of(work(bench, output)))
}

/// As [`boot_step`], for something that a machine may lack.
fn optional_boot_step(
    slot: &Slot,
    name: &str,
    work: impl FnOnce(&Bench, &mut String) -> Outcome + Send + 'static,
) -> Step {
    let slot = Arc::clone(slot);
    Step::new(name, move |_, output| match slot.get() {
        Some(bench) => work(bench, output),
        None => Outcome::Failed("the set-up is missing".to_owned()),
    })
}

impl Bench {
    fn machine(&self, cpu: &str, cpus: u32) -> Machine {
        let (emulator, cpu) = (self.emulator.clone(), cpu.to_owned());
        Machine { platform: Platform::Arm, emulator, cpu, cpus, pace: Pace::Usual }
    }

    fn linux(&self, kernel: PathBuf, memory: u64) -> Result<Guest> {
        let image = image::check_file(&kernel, Platform::Arm)?;
        let bootargs = task_run::bootargs::of(Platform::Arm, &image, memory, 1, "")?;
        Ok(Guest {
            goal: Goal::PowerOff,
            kernel,
            initrd: Some(self.initrd.clone()),
            bootargs,
            memory,
            sha256: Some(self.sha256.clone()),
        })
    }

    /// Boots the guest that misbehaves on so many CPUs of this kind, with `bootargs` to say how.
    pub(crate) fn boot_test_guest(
        &self,
        bootargs: &str,
        (cpu, cpus): (&str, u32),
        choices: &Choices,
        patience: Duration,
        output: &mut String,
    ) -> Result<Observed> {
        let kernel = self.test_guest.clone();
        let guest = Guest {
            kernel,
            initrd: None,
            bootargs: bootargs.to_owned(),
            memory: scenarios::MEMORY,
            sha256: None,
            goal: Goal::PowerOff,
        };
        self.boot(&guest, &self.machine(cpu, cpus), choices, patience, output)
    }

    fn boot(
        &self,
        guest: &Guest,
        machine: &Machine,
        choices: &Choices,
        patience: Duration,
        output: &mut String,
    ) -> Result<Observed> {
        let mut screen = Vec::new();
        let seen = session::under_slat(machine, &self.hypervisor, guest, choices, patience, &mut screen);
        output.push_str(&String::from_utf8_lossy(&screen));
        let seen = seen?;
        if let Some(report) = &seen.report {
            output.push_str(&format!("\n{report:?}\n"));
        }
        Ok(seen)
    }
}

/// Boots Linux, which must reach its end with everything in order.
fn good_boot(bench: &Bench, boot: Boot, output: &mut String) -> Result<(Observed, Report)> {
    let guest = bench.linux(boot.kernel, boot.memory)?;
    let seen =
        bench.boot(&guest, &bench.machine(boot.cpu, boot.cpus), &boot.choices, boot.patience, output)?;
    verdict::under_slat(&guest, &seen).map_err(anyhow::Error::msg)?;
    let report = seen.report.clone().context("there is no report")?;
    let sent = &report.uart.text;
    ensure!(sent.contains(TO_UART), "the emulated serial port got {sent:?} instead of {TO_UART:?}");
    ensure!(report.frames.taken > 0, "no frame was taken");
    Ok((seen, report))
}

/// Boots on `cpu`, whose stage 2 must have this many levels and at least these features.
fn on_cpu(
    bench: &Bench,
    cpu: &'static str,
    levels: u32,
    features: &[&str],
    output: &mut String,
) -> Result<String> {
    let boot = Boot { cpu, ..Boot::new(bench.kernel.clone()) };
    let started = good_boot(bench, boot, output)?.0.started;
    let started = started.context("the hypervisor did not say what it chose")?;
    ensure!(started.levels == levels, "{} levels instead of {levels}", started.levels);
    for feature in features {
        ensure!(started.features.iter().any(|found| found == feature), "{feature} was not found");
    }
    Ok(format!("{levels} levels, {}-bit guest addresses", started.gpa_bits))
}

/// Control of the whole arrangement: the same guest, nothing below it.
fn natively(bench: &Bench, output: &mut String) -> Result<String> {
    let guest = bench.linux(bench.kernel.clone(), 128 << 20)?;
    let mut screen = Vec::new();
    let seen = session::natively(&bench.machine("cortex-a72", 1), &guest, PATIENCE, &mut screen);
    output.push_str(&String::from_utf8_lossy(&screen));
    let seen = seen?;
    verdict::natively(&guest, &seen).map_err(anyhow::Error::msg)?;
    Ok(format!("{:.1} s to init", seen.seconds_to_init().unwrap_or_default()))
}

fn churn(bench: &Bench, cpus: u32, seed: u64, output: &mut String) -> Result<String> {
    let mut boot = Boot { cpus, ..Boot::new(bench.kernel.clone()) };
    boot.choices.churn = Some(task_run::churn(seed));
    boot.choices.record = seed == 1;
    // Page by page, with a window around each fault, and in large leaves, which churn then has to split.
    boot.choices.leaf = [Leaf::Size4K, Leaf::Auto, Leaf::Size2M][seed as usize % 3];
    let (seen, report) = good_boot(bench, boot, output)?;
    if cpus > 1 {
        let console = String::from_utf8_lossy(&seen.console);
        ensure!(console.contains(&format!("{cpus} CPUs")), "the kernel did not bring up {cpus} CPUs");
        let least = report.exits_by_cpu.iter().min().copied().unwrap_or_default();
        ensure!(least > 500, "one of the CPUs left the guest {least} times only");
    }
    let counts = report.churn.context("churn did not report")?;
    let counts = [counts.unmapped, counts.moved, counts.write_protected];
    let [unmapped, moved, write_protected] = counts;
    let note = format!("{unmapped} pages unmapped, {moved} moved, {write_protected} write-protected");
    ensure!(
        counts.iter().all(|&count| count > 300) && counts.iter().sum::<u64>() > 2000,
        "too little churn: {note}"
    );
    match &seen.recording {
        Some(_) => Ok(format!("{note}; {}", recorded::is_clean(&seen)?)),
        None => Ok(note),
    }
}

/// Boots Linux under churn with `mistake`: the control that the churn tests can fail at all.
fn bad_boot(bench: &Bench, mistake: Mistake, output: &mut String) -> Result<String> {
    let (guest, seen) = churned_by_mistake(bench, 1, mistake, output)?;
    match verdict::under_slat(&guest, &seen) {
        Err(reason) => Ok(format!("{reason}; {}", recorded::is_stale(&seen)?)),
        Ok(()) => bail!("the guest reached its end all the same"),
    }
}

/// The very run that passes as `boot under churn, seed 3`, but for the mistake.
fn churned_by_mistake(
    bench: &Bench,
    cpus: u32,
    mistake: Mistake,
    output: &mut String,
) -> Result<(Guest, Observed)> {
    let guest = bench.linux(bench.kernel.clone(), 128 << 20)?;
    let churn = Some(task_run::churn(3));
    let choices = Choices { leaf: Leaf::Size4K, churn, mistake, record: true, ..Choices::default() };
    let seen = bench.boot(&guest, &bench.machine("cortex-a72", cpus), &choices, MISTAKE_PATIENCE, output)?;
    ensure!(seen.started.is_some(), "the guest was not even started");
    Ok((guest, seen))
}
