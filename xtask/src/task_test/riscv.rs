//! The tests that boot guests on RISC-V, in QEMU: the unit guests, the guest that misbehaves, Linux alone and several times at once,
//! U-Boot.

mod boots;
mod paged;
mod several;
mod stopped;
mod test_guest;
mod units;

use super::Context;
use super::step::{Board, Outcome, Step};
use super::{flat, linux};
use crate::boot::machine::Pace;
use crate::boot::session::{self, Choices, Observed};
use crate::guests::cache::{Cache, Kernel};
use crate::missing::MissingThings;
use crate::platform::Platform;
use crate::setup::{self, Equipment, Needs};
use anyhow::{Context as _, Result};
use std::fs;
use std::path::PathBuf;
use std::sync::{Arc, OnceLock};
use std::thread;
use tempfile::TempDir;

const PLATFORM: Platform = Platform::Riscv;

/// What all boots share, put together once.
struct Bench {
    linux: linux::Bench,
    /// The hypervisor with its unit guests.
    with_units: PathBuf,
    u_boot: PathBuf,
    /// The flat binary of the guest that misbehaves.
    test_guest: PathBuf,
    /// Holds the files that were made.
    _directory: TempDir,
}

/// Why there is no bench: the repository's fault, or the machine lacks something.
#[derive(Clone)]
enum NoBench {
    Failed(String),
    Impossible(String),
}

/// The bench, empty until the set-up is done. The steps own it together, so its files go with the last of them.
type Slot = Arc<OnceLock<Result<Bench, NoBench>>>;

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
    let mut steps = units::steps(&slot);
    steps.extend(boots::steps(&slot));
    steps.extend(several::steps(&slot));
    steps.extend(stopped::steps(&slot));
    steps.extend(paged::steps(&slot));
    steps.extend(test_guest::steps(&slot));
    steps.retain(|step| step.name().contains(filter));
    Suite { slot, steps }
}

/// Sets everything up and runs the steps, two at a time where there are two processors.
pub(crate) fn run(board: &mut Board, context: &Context, suite: Suite) {
    if suite.steps.is_empty() {
        return;
    }
    let _ = suite.slot.set(set_up(context));
    let threads = thread::available_parallelism().map_or(1, |count| count.get().min(2));
    board.run(suite.steps, context, threads);
}

fn set_up(context: &Context) -> Result<Bench, NoBench> {
    let Context { host, workspace, .. } = context;
    let needs = Needs { platform: PLATFORM, kernel: Some(PLATFORM.default_kernel()), busybox: true };
    let equipment = setup::prepare(host, workspace, &needs).map_err(|error| {
        if let Some(missing) = error.downcast_ref::<MissingThings>() {
            missing.things().iter().for_each(|thing| eprintln!("{thing}"));
        }
        NoBench::Impossible(format!("{error:#}"))
    })?;
    let u_boot = Cache::new(&workspace.target, PLATFORM).kernel(host, Kernel::UBoot);
    let u_boot = u_boot.map_err(|error| NoBench::Impossible(format!("{error:#}")))?;
    build(context, &equipment, u_boot).map_err(|error| NoBench::Failed(format!("{error:#}")))
}

/// Builds what the boots need. An error here is the repository's fault.
fn build(context: &Context, equipment: &Equipment, u_boot: PathBuf) -> Result<Bench> {
    let Context { host, workspace, .. } = context;
    let directory =
        tempfile::Builder::new().prefix("slat-test-").tempdir().context("no temporary directory")?;
    let build = |features: &[&str], name: &str| -> Result<PathBuf> {
        let package = ("slat-hv", features);
        let built = equipment.toolchain.build(host, workspace, PLATFORM.target(), package)?;
        let kept = directory.path().join(name);
        // The next build, with other features, takes its place.
        fs::copy(built, &kept).context("cannot copy the hypervisor")?;
        Ok(kept)
    };
    let with_units = build(&["unit-guests"], "slat-hv-with-units")?;
    let hypervisor = build(&[], "slat-hv")?;
    let package = ("slat-test-guest", &[][..]);
    let elf = equipment.toolchain.build(host, workspace, PLATFORM.target(), package)?;
    let elf = fs::read(elf).context("cannot read the test guest")?;
    let test_guest = directory.path().join("test-guest");
    fs::write(&test_guest, flat::flatten(&elf)?).context("cannot write the test guest")?;
    let linux = linux::Bench::new(PLATFORM, equipment, hypervisor, directory.path())?;
    Ok(Bench { linux, with_units, u_boot, test_guest, _directory: directory })
}

/// A step that needs the bench.
fn step(
    slot: &Slot,
    name: &str,
    work: impl FnOnce(&Bench, &mut String) -> Result<String> + Send + 'static,
) -> Step {
    optional_step(slot, name, |bench, output| Outcome::of(work(bench, output)))
}

/// As [`step`], for something that an emulator may lack.
fn optional_step(
    slot: &Slot,
    name: &str,
    work: impl FnOnce(&Bench, &mut String) -> Outcome + Send + 'static,
) -> Step {
    let slot = Arc::clone(slot);
    Step::new(format!("RISC-V: {name}"), move |_, output| match slot.get() {
        Some(Ok(bench)) => work(bench, output),
        Some(Err(NoBench::Failed(reason))) => Outcome::Failed(reason.clone()),
        Some(Err(NoBench::Impossible(reason))) => Outcome::Impossible(reason.clone()),
        None => Outcome::Failed("the set-up is missing".to_owned()),
    })
}

impl Bench {
    /// Runs the unit guests with these names on a machine with two harts.
    fn units(&self, cpu: &str, names: &[&str], choices: &Choices, output: &mut String) -> Result<Observed> {
        let machine = self.linux.machine(cpu, 2, Pace::Usual);
        let mut screen = Vec::new();
        let seen =
            session::unit_guests(&machine, &self.with_units, names, choices, units::PATIENCE, &mut screen);
        output.push_str(&String::from_utf8_lossy(&screen));
        let seen = seen?;
        for (seconds, unit) in &seen.units {
            output.push_str(&format!("{seconds:.1} s: {unit:?}\n"));
        }
        Ok(seen)
    }
}
