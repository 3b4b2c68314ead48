//! Gets what a boot needs: the emulator, a toolchain for the hypervisor, the guest's files. And what counts
//! instructions.
//!
//! Invariant: a machine that cannot get everything by itself is told all that is missing before anything is
//! installed or fetched.

pub(crate) mod apt;
mod unpacked;

use crate::guests::cache::Cache;
use crate::host::{Host, Package};
use crate::missing::{Missing, MissingThings};
use crate::process;
use crate::toolchain::{self, Plan, Toolchain};
use crate::workspace::Workspace;
use anyhow::{Context, Result, bail};
use std::path::{Path, PathBuf};

const EMULATOR: &str = "qemu-system-aarch64";

const EMULATOR_PACKAGE: Package = Package {
    debian: "qemu-system-arm",
    fedora: "qemu-system-aarch64-core",
    arch: "qemu-system-aarch64",
    suse: "qemu-arm",
    brew: "qemu",
};

const COUNTER: &str = "valgrind";

const COUNTER_PACKAGE: Package =
    Package { debian: "valgrind", fedora: "valgrind", arch: "valgrind", suse: "valgrind", brew: "valgrind" };

/// What is wanted.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Needs {
    /// The kernel of this package.
    pub(crate) kernel: Option<&'static str>,
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

/// Gets everything in `needs`.
pub(crate) fn prepare(host: &Host, workspace: &Workspace, needs: &Needs) -> Result<Equipment> {
    let mut cache = Cache::new(&workspace.target);
    let plan = toolchain::plan(host);
    MissingThings::check(out_of_reach(host, &cache, &plan, needs))?;

    let mut missing = Vec::new();
    let emulator = keep(&mut missing, emulator(host, &workspace.target), missing_emulator(host))?;
    let toolchain = keep(&mut missing, toolchain::obtain(host, &plan), toolchain::missing(host))?;
    let kernel = needs.kernel.map(|package| cache.kernel(host, package)).transpose();
    let kernel = keep(&mut missing, kernel, missing_kernel())?;
    let busybox = needs.busybox.then(|| cache.busybox(host)).transpose();
    let busybox = keep(&mut missing, busybox, missing_busybox())?;
    MissingThings::check(missing)?;
    match (emulator, toolchain) {
        (Some(emulator), Some(toolchain)) => {
            Ok(Equipment { emulator, toolchain, kernel: kernel.flatten(), busybox: busybox.flatten() })
        }
        _ => bail!("the set-up is incomplete"),
    }
}

/// What is neither there nor to be had by us.
fn out_of_reach(host: &Host, cache: &Cache, plan: &Plan, needs: &Needs) -> Vec<Missing> {
    let mut missing = Vec::new();
    if host.find(EMULATOR).is_none() && !host.can_install() {
        missing.push(missing_emulator(host));
    }
    if *plan == Plan::Impossible {
        missing.push(toolchain::missing(host));
    }
    if !Cache::can_fetch(host) {
        if needs.kernel.is_some_and(|package| !cache.kernel_path(package).is_file()) {
            missing.push(missing_kernel());
        }
        if needs.busybox && !cache.busybox_path().is_file() {
            missing.push(missing_busybox());
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

/// The emulator: installed, or where that is refused unpacked below `target`.
fn emulator(host: &Host, target: &Path) -> Result<PathBuf> {
    if let (None, Some(unpacked)) = (host.find(EMULATOR), unpacked::find(target, EMULATOR)) {
        return Ok(unpacked);
    }
    program(host, "the emulator", EMULATOR, &EMULATOR_PACKAGE).or_else(|refused| {
        let unpacked = unpacked::obtain(target, EMULATOR_PACKAGE.debian, EMULATOR);
        unpacked.with_context(|| format!("{refused:#}, and it cannot be unpacked either"))
    })
}

/// The path of `name`, a program of `package`, which is installed if it has to be.
fn program(host: &Host, what: &str, name: &str, package: &Package) -> Result<PathBuf> {
    if let Some(path) = host.find(name) {
        return Ok(path);
    }
    apt::install(what, &[package.debian])?;
    host.find(name).with_context(|| format!("{} has no {name}", package.debian))
}

/// Gets a toolchain for the bare-metal programs alone.
pub(crate) fn toolchain(host: &Host) -> Result<Toolchain> {
    let plan = toolchain::plan(host);
    if plan == Plan::Impossible {
        MissingThings::check(vec![toolchain::missing(host)])?;
    }
    toolchain::obtain(host, &plan)
}

/// Gets the program that counts instructions.
pub(crate) fn counter(host: &Host) -> Result<PathBuf> {
    let missing = || Missing::new(COUNTER, host.install_command(&COUNTER_PACKAGE));
    if host.find(COUNTER).is_none() && !host.can_install() {
        MissingThings::check(vec![missing()])?;
    }
    let mut things = Vec::new();
    let counter = program(host, "the counter of instructions", COUNTER, &COUNTER_PACKAGE);
    let counter = keep(&mut things, counter, missing())?;
    MissingThings::check(things)?;
    counter.context("the set-up is incomplete")
}

fn missing_emulator(host: &Host) -> Missing {
    Missing::new(format!("the emulator {EMULATOR}"), host.install_command(&EMULATOR_PACKAGE))
}

fn missing_kernel() -> Missing {
    Missing::new("a guest kernel", "--guest IMAGE (any arm64 Linux Image)")
}

fn missing_busybox() -> Missing {
    Missing::new("a guest user space (busybox)", "--initrd FILE (any initial RAM disk for arm64)")
}

#[cfg(test)]
mod tests;
