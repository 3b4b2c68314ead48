//! The tests that boot guests in the emulator: Linux in several shapes, under churn, with mistakes made on
//! purpose, and the little guest that misbehaves on request.

use super::linux::{self, Boot};
use super::scenarios;
use super::step::{Board, Outcome, Step};
use super::{Context, flat, monitor, recorded, traced};
use crate::boot::machine::Pace;
use crate::boot::session::{Choices, Ending, Goal, Guest, Observed};
use crate::boot::verdict;
use crate::guests::cache::{Cache, OTHER_KERNEL};
use crate::platform::Platform;
use crate::setup::{self, Needs};
use crate::task_run;
use anyhow::{Context as _, Result, bail, ensure};
use slat_hv_protocol::{Leaf, Mistake, Report};
use std::path::PathBuf;
use std::sync::{Arc, OnceLock};
use std::thread;
use std::time::Duration;
use tempfile::TempDir;

/// A guest that a mistake makes hang is given up after this; a good one takes a third of it.
const MISTAKE_PATIENCE: Duration = Duration::from_secs(10);

/// And after so long without a word; a good one's first comes in a fifth of it.
const MISTAKE_SILENCE: Duration = Duration::from_secs(5);

/// Pages that are mapped before the guest runs: the UART (4 KiB), the GIC's distributor (64 KiB) and its one
/// redistributor (128 KiB).
const DEVICE_PAGES: u64 = 1 + 16 + 32;

/// Seeds of the churn tests; the last one is run twice.
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
    linux: linux::Bench,
    /// The other kernel, or why there is none.
    other_kernel: Result<PathBuf, String>,
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

impl Suite {
    /// What the steps are called.
    pub(crate) fn names(&self) -> Vec<String> {
        self.steps.iter().map(|step| step.name().to_owned()).collect()
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
        boot_step(slot, "boot natively", |bench, output| {
            Ok(format!("{:.1} s to init", bench.linux.natively(output)?))
        }),
        boot_step(slot, "boot with 128M", |bench, output| {
            let mut boot = bench.linux.usual();
            boot.choices.record = true;
            let (seen, report) = bench.linux.good_boot(&boot, output)?;
            ensure!(report.faults.total <= 300, "{} faults are too many", report.faults.total);
            Ok(format!("{} faults; {}", report.faults.total, recorded::is_clean(&seen)?))
        }),
        boot_step(slot, "boot with 4k leaves", |bench, output| {
            let mut boot = bench.linux.usual();
            (boot.choices.leaf, boot.choices.trace) = (Leaf::Size4K, true);
            let (seen, report) = bench.linux.good_boot(&boot, output)?;
            let traced = traced::is_complete(&seen, &report)?;
            let Report { faults, leaves, .. } = report;
            ensure!(faults.spurious == 0, "{} spurious faults", faults.spurious);
            let (populated, pages) = (faults.populated, leaves.size_4k);
            let mapped = populated + DEVICE_PAGES;
            ensure!(
                mapped == pages,
                "{populated} faults and {DEVICE_PAGES} device pages made {pages} leaves"
            );
            ensure!((5_000..=20_000).contains(&populated), "{populated} faults are not what a boot takes");
            Ok(format!("{populated} faults; {traced}"))
        }),
        boot_step(slot, "boot with 48M, stopped for the monitor", |bench, output| {
            let mut boot = bench.linux.usual();
            boot.memory = 48 << 20;
            boot.choices.monitor = Some(monitor::asking(Platform::Arm));
            let seen = bench.linux.good_boot(&boot, output)?.0;
            monitor::answered(Platform::Arm, &seen)
        }),
        boot_step(slot, "boot with 2m leaves", |bench, output| {
            let mut boot = bench.linux.usual();
            boot.choices.leaf = Leaf::Size2M;
            let Report { faults, leaves, .. } = bench.linux.good_boot(&boot, output)?.1;
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
                let boot = Boot { kernel: kernel.clone(), ..bench.linux.usual() };
                Outcome::of(bench.linux.good_boot(&boot, output).map(|_| OTHER_KERNEL.name().to_owned()))
            }
            Err(reason) => Outcome::Impossible(reason.clone()),
        }),
    ];
    for seed in 1..CHURN_SEEDS {
        steps.push(boot_step(slot, &format!("boot under churn, seed {seed}"), move |bench, output| {
            bench.linux.under_churn(1, seed, output)
        }));
    }
    steps.push(boot_step(slot, "boot under churn twice the same", |bench, output| {
        bench.linux.twice_under_churn(CHURN_SEEDS, output)
    }));
    steps.push(boot_step(slot, "boot under churn on two CPUs", |bench, output| {
        bench.linux.under_churn(2, 1, output)
    }));
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
    let equipment = match setup::prepare(host, workspace, &needs) {
        Ok(equipment) => equipment,
        Err(error) => {
            if let Some(missing) = error.downcast_ref::<crate::missing::MissingThings>() {
                missing.things().iter().for_each(|thing| eprintln!("{thing}"));
            }
            return Ok(SetUp::Impossible(error));
        }
    };
    let other_kernel = if with_other_kernel {
        let fetched = Cache::new(&workspace.target, platform).kernel(host, OTHER_KERNEL);
        fetched.map_err(|error| format!("{error:#}"))
    } else {
        Err("not asked for".to_owned())
    };
    let toolchain = &equipment.toolchain;
    let hypervisor = toolchain.build(host, workspace, platform.target(), ("slat-hv", &[]))?;
    let test_guest_elf = toolchain.build(host, workspace, platform.target(), ("slat-test-guest", &[]))?;

    let directory =
        tempfile::Builder::new().prefix("slat-test-").tempdir().context("no temporary directory")?;
    let linux = linux::Bench::new(platform, &equipment, hypervisor, directory.path())?;
    let test_guest = directory.path().join("test-guest");
    let elf = std::fs::read(&test_guest_elf).context("cannot read the test guest")?;
    std::fs::write(&test_guest, flat::flatten(&elf)?).context("cannot write the test guest")?;
    Ok(SetUp::Done(Box::new(Bench { linux, other_kernel, test_guest, _directory: directory })))
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
            results: Vec::new(),
            goal: Goal::PowerOff,
        };
        let machine = self.linux.machine(cpu, cpus, Pace::Usual);
        self.linux.run(&guest, &machine, choices, patience, output)
    }
}

/// Boots on `cpu`, whose stage 2 must have this many levels and at least these features.
fn on_cpu(
    bench: &Bench,
    cpu: &'static str,
    levels: u32,
    features: &[&str],
    output: &mut String,
) -> Result<String> {
    let boot = Boot { cpu, ..bench.linux.usual() };
    let started = bench.linux.good_boot(&boot, output)?.0.started;
    let started = started.context("the hypervisor did not say what it chose")?;
    ensure!(started.levels == levels, "{} levels instead of {levels}", started.levels);
    for feature in features {
        ensure!(started.features.iter().any(|found| found == feature), "{feature} was not found");
    }
    Ok(format!("{levels} levels, {}-bit guest addresses", started.gpa_bits))
}

/// Boots Linux under churn with `mistake`: the control that the churn tests can fail at all.
fn bad_boot(bench: &Bench, mistake: Mistake, output: &mut String) -> Result<String> {
    let (guest, seen) = churned_by_mistake(bench, 1, mistake, output)?;
    if matches!(seen.ending, Ending::Silent(_) | Ending::TimedOut(_)) {
        ensure!(output.contains("CPU#0"), "the machine was ended, and nobody asked where its CPU was");
    }
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
    let churn = Some(task_run::churn(3));
    let silence = Some(MISTAKE_SILENCE);
    let choices = Choices { leaf: Leaf::Size4K, churn, mistake, record: true, silence, ..Choices::default() };
    let boot = Boot { cpus, choices, patience: MISTAKE_PATIENCE, ..bench.linux.usual() };
    let (guest, seen) = bench.linux.boot(&boot, output)?;
    ensure!(seen.started.is_some(), "the guest was not even started");
    Ok((guest, seen))
}
