//! Gets what a boot needs: the emulator, a toolchain for the hypervisor, the guest's files. And what counts
//! instructions.
//!
//! Invariant: a machine that cannot get everything by itself is told all that is missing before anything is
//! installed or fetched.

pub(crate) mod apt;
mod emulators;
mod unpacked;

use crate::guests::cache::{Cache, Kernel};
use crate::host::{Host, Package};
use crate::missing::{Missing, MissingThings};
use crate::platform::Platform;
use crate::process;
use crate::toolchain::{self, Plan, Toolchain};
use crate::workspace::Workspace;
use anyhow::{Context, Result, bail};
use emulators::Emulator;
use std::path::{Path, PathBuf};

const COUNTER: &str = "valgrind";

const COUNTER_PACKAGE: Package =
    Package { debian: "valgrind", fedora: "valgrind", arch: "valgrind", suse: "valgrind", brew: "valgrind" };

/// Names of the browser that draws pages without a screen, the smallest first.
const BROWSERS: [&str; 4] = ["chromium-headless-shell", "chromium", "chromium-browser", "google-chrome"];

const BROWSER_PACKAGE: Package = Package {
    debian: "chromium-headless-shell",
    fedora: "chromium-headless",
    arch: "chromium",
    suse: "chromium",
    brew: "chromium",
};

/// What is wanted.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Needs {
    /// What it is to run on.
    pub(crate) platform: Platform,
    /// A kernel.
    pub(crate) kernel: Option<Kernel>,
    /// The guest's busybox.
    pub(crate) busybox: bool,
}

/// What there is.
#[derive(Clone, Debug)]
pub(crate) struct Equipment {
    /// The emulator.
    pub(crate) emulator: PathBuf,
    /// The toolchain for bare-metal programs.
    pub(crate) toolchain: Toolchain,
    /// The kernel, if one was wanted.
    pub(crate) kernel: Option<PathBuf>,
    /// Busybox, if it was wanted.
    pub(crate) busybox: Option<PathBuf>,
}

/// The part of it that has to do with the guest alone.
#[derive(Clone, Debug)]
pub(crate) struct BareMachine {
    /// The emulator.
    pub(crate) emulator: PathBuf,
    /// The kernel, if one was wanted.
    pub(crate) kernel: Option<PathBuf>,
    /// Busybox, if it was wanted.
    pub(crate) busybox: Option<PathBuf>,
}

/// Gets everything in `needs`.
pub(crate) fn prepare(host: &Host, workspace: &Workspace, needs: &Needs) -> Result<Equipment> {
    let target = needs.platform.target();
    let mut cache = Cache::new(&workspace.target, needs.platform);
    let plan = toolchain::plan(host, target);
    MissingThings::check(out_of_reach(host, &cache, Some(&plan), needs))?;

    let mut missing = Vec::new();
    let machine = machine(host, workspace, &mut cache, needs, &mut missing)?;
    let toolchain =
        keep(&mut missing, toolchain::obtain(host, &plan, target), toolchain::missing(host, target))?;
    MissingThings::check(missing)?;
    match (machine, toolchain) {
        (Some(BareMachine { emulator, kernel, busybox }), Some(toolchain)) => {
            Ok(Equipment { emulator, toolchain, kernel, busybox })
        }
        _ => bail!("the set-up is incomplete"),
    }
}

/// Gets everything in `needs` for a guest that has no hypervisor below it, so that nothing need be built.
pub(crate) fn prepare_bare(host: &Host, workspace: &Workspace, needs: &Needs) -> Result<BareMachine> {
    let mut cache = Cache::new(&workspace.target, needs.platform);
    MissingThings::check(out_of_reach(host, &cache, None, needs))?;
    let mut missing = Vec::new();
    let machine = machine(host, workspace, &mut cache, needs, &mut missing)?;
    MissingThings::check(missing)?;
    machine.context("the set-up is incomplete")
}

/// The emulator and the guest's files; none, and what is `missing`, if there is not everything.
fn machine(
    host: &Host,
    workspace: &Workspace,
    cache: &mut Cache,
    needs: &Needs,
    missing: &mut Vec<Missing>,
) -> Result<Option<BareMachine>> {
    let wanted = Emulator::of(needs.platform);
    let emulator = keep(missing, emulator(host, &workspace.target, wanted), missing_emulator(host, wanted))?;
    let kernel = needs.kernel.map(|kernel| cache.kernel(host, kernel)).transpose();
    let kernel = keep(missing, kernel, missing_kernel(needs))?;
    let busybox = needs.busybox.then(|| cache.busybox(host)).transpose();
    let busybox = keep(missing, busybox, missing_busybox(needs.platform))?;
    let (Some(emulator), Some(kernel), Some(busybox)) = (emulator, kernel, busybox) else { return Ok(None) };
    Ok(Some(BareMachine { emulator, kernel, busybox }))
}

/// What is neither there nor to be had by us.
fn out_of_reach(host: &Host, cache: &Cache, plan: Option<&Plan>, needs: &Needs) -> Vec<Missing> {
    let mut missing = Vec::new();
    let emulator = Emulator::of(needs.platform);
    if find(host, emulator).is_none() && !host.can_install() {
        missing.push(missing_emulator(host, emulator));
    }
    if plan == Some(&Plan::Impossible) {
        missing.push(toolchain::missing(host, needs.platform.target()));
    }
    if !Cache::can_fetch(host) {
        if needs.kernel.is_some_and(|kernel| !cache.kernel_path(kernel).is_file()) {
            missing.push(missing_kernel(needs));
        }
        if needs.busybox && !cache.busybox_path().is_file() {
            missing.push(missing_busybox(needs.platform));
        }
    }
    missing
}

/// Sorts `result` into what there is and what is missing. An interrupt is neither.
fn keep<T>(missing: &mut Vec<Missing>, result: Result<T>, mut thing: Missing) -> Result<Option<T>> {
    match result {
        Ok(value) => Ok(Some(value)),
        Err(error) if process::interrupted() => Err(error),
        Err(error) => {
            let reason = format!("{error:#}").split_whitespace().collect::<Vec<_>>().join(" ");
            thing.what.push_str(&format!(" ({reason})"));
            missing.push(thing);
            Ok(None)
        }
    }
}

/// Where the emulator is installed.
fn find(host: &Host, emulator: &Emulator) -> Option<PathBuf> {
    emulator.programs.iter().find_map(|program| host.find(program))
}

/// The emulator: installed, or where that is refused unpacked below `target`.
fn emulator(host: &Host, target: &Path, emulator: &Emulator) -> Result<PathBuf> {
    if let Some(found) = find(host, emulator).or_else(|| unpacked::find(target, emulator)) {
        return Ok(found);
    }
    program(host, "the emulator", emulator.programs, &emulator.package).or_else(|refused| {
        let unpacked = unpacked::obtain(target, emulator);
        unpacked.with_context(|| format!("{refused:#}, and it cannot be unpacked either"))
    })
}

/// The path of the first of `names` that there is, programs of `package`, which is installed if it has to be.
fn program(host: &Host, what: &str, names: &[&str], package: &Package) -> Result<PathBuf> {
    let find = || names.iter().find_map(|name| host.find(name));
    if let Some(path) = find() {
        return Ok(path);
    }
    apt::install(what, &package.of_debian().collect::<Vec<_>>())?;
    find().with_context(|| format!("{} has no {}", package.debian, names.join(" or ")))
}

/// Gets a toolchain for the bare-metal programs on `target` alone.
pub(crate) fn toolchain(host: &Host, target: &str) -> Result<Toolchain> {
    let plan = toolchain::plan(host, target);
    if plan == Plan::Impossible {
        MissingThings::check(vec![toolchain::missing(host, target)])?;
    }
    toolchain::obtain(host, &plan, target)
}

/// Gets the program that counts instructions.
pub(crate) fn counter(host: &Host) -> Result<PathBuf> {
    alone(host, COUNTER, "the counter of instructions", &[COUNTER], &COUNTER_PACKAGE)
}

/// Gets a browser that draws pages without a screen.
pub(crate) fn browser(host: &Host) -> Result<PathBuf> {
    alone(host, "chromium", "a browser", &BROWSERS, &BROWSER_PACKAGE)
}

/// Gets one program, the first of `names` that there is, and nothing else.
fn alone(host: &Host, title: &str, what: &str, names: &[&str], package: &Package) -> Result<PathBuf> {
    let missing = || Missing::new(title, host.install_command(package));
    if names.iter().all(|name| host.find(name).is_none()) && !host.can_install() {
        MissingThings::check(vec![missing()])?;
    }
    let mut things = Vec::new();
    let program = keep(&mut things, program(host, what, names, package), missing())?;
    MissingThings::check(things)?;
    program.context("the set-up is incomplete")
}

fn missing_emulator(host: &Host, emulator: &Emulator) -> Missing {
    Missing::new(format!("the emulator {}", emulator.name), host.install_command(&emulator.package))
}

fn missing_kernel(needs: &Needs) -> Missing {
    match needs.kernel {
        Some(Kernel::Memtest) => Missing::new("memtest86+", "--guest FILE (memtest86+x64.bin)"),
        Some(Kernel::UBoot) => Missing::new("U-Boot", "leave --guest out (Linux instead)"),
        _ => {
            let format = needs.platform.kernel_format();
            Missing::new("a guest kernel", format!("--guest IMAGE (any {format})"))
        }
    }
}

fn missing_busybox(platform: Platform) -> Missing {
    let architecture = platform.debian_architecture();
    let how = format!("--initrd FILE (any initial RAM disk for {architecture})");
    Missing::new("a guest user space (busybox)", how)
}

#[cfg(test)]
mod tests;
