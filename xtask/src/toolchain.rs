//! The toolchain for the bare-metal programs: which one this machine has, and how each is called.
//!
//! Protocol: the target's library comes, in this order, from the toolchain in use, from the distribution's own
//! toolchain with its library source (built by `-Zbuild-std`), from `rustup target add`, from the
//! distribution's packages. Rust 1.85 or later in every case.

use crate::host::{Host, Package};
use crate::missing::Missing;
use crate::process;
use crate::progress::Step;
use crate::setup::apt;
use crate::workspace::{Workspace, cargo, rustc};
use anyhow::{Context, Result};
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::Command;

/// The bare-metal target for Arm: without floating point, so that the guest's registers are never touched.
pub(crate) const AARCH64: &str = "aarch64-unknown-none-softfloat";

/// The one for x86, which is without floating point and vectors by itself.
pub(crate) const X86_64: &str = "x86_64-unknown-none";

/// The one for RISC-V without floating point.
pub(crate) const RISCV64: &str = "riscv64imac-unknown-none-elf";

/// Set to `distribution`, this passes over the toolchain in use and rustup.
const CHOICE: &str = "SLAT_BARE_TOOLCHAIN";

/// The oldest minor version of Rust 1 that builds the workspace.
const OLDEST: u32 = 85;

/// A release of it, as rustup calls it.
pub(crate) const OLDEST_RELEASE: &str = "1.85.0";

const RUSTC: &str = "/usr/bin/rustc";
const CARGO: &str = "/usr/bin/cargo";

const LLD: Package = Package { debian: "lld", fedora: "lld", arch: "lld", suse: "lld", brew: "lld" };

/// A toolchain that can build for a bare-metal target.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Toolchain {
    /// The one in use has the target's library.
    InUse,
    /// The distribution's, which builds the library first.
    Distribution,
}

/// How a machine without a ready toolchain can get one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Plan {
    /// Nothing to do.
    Ready(Toolchain),
    /// By rustup; by the distribution's packages where rustup fails and packages can be installed.
    Rustup {
        /// Whether packages can be installed.
        else_packages: bool,
    },
    /// By the distribution's packages.
    Packages,
    /// Not by us.
    Impossible,
}

/// Finds out what this machine has for `target`; changes nothing.
pub(crate) fn plan(host: &Host, target: &str) -> Plan {
    let forced = std::env::var_os(CHOICE).is_some_and(|choice| choice == "distribution");
    if !forced && has_target(target) {
        return Plan::Ready(Toolchain::InUse);
    }
    if distribution_is_complete(host) {
        return Plan::Ready(Toolchain::Distribution);
    }
    decide(!forced && host.find("rustup").is_some(), host.can_install())
}

fn decide(rustup: bool, packages: bool) -> Plan {
    match (rustup, packages) {
        (true, else_packages) => Plan::Rustup { else_packages },
        (false, true) => Plan::Packages,
        (false, false) => Plan::Impossible,
    }
}

/// Carries out `plan`, which is for `target`.
pub(crate) fn obtain(host: &Host, plan: &Plan, target: &str) -> Result<Toolchain> {
    match plan {
        Plan::Ready(toolchain) => Ok(toolchain.clone()),
        Plan::Rustup { else_packages } => match add_target(target) {
            Err(error) if *else_packages && !process::interrupted() => {
                eprintln!("{error:#}; trying the distribution's own toolchain");
                install_distribution(host)
            }
            added => added,
        },
        Plan::Packages => install_distribution(host),
        Plan::Impossible => anyhow::bail!("no Rust toolchain for {target}"),
    }
}

/// What to print where nothing can be done.
pub(crate) fn missing(host: &Host, target: &str) -> Missing {
    let how = if host.is_debian_like() && host.find("rustup").is_none() {
        host.install_command(&Package { debian: "rustc cargo rust-src lld", ..LLD })
    } else {
        format!("rustup target add {target}")
    };
    Missing::new(format!("Rust target {target}"), how)
}

impl Toolchain {
    /// Builds `package` for `target` in release mode; the path of its ELF file.
    pub(crate) fn build(
        &self,
        host: &Host,
        workspace: &Workspace,
        target: &str,
        (package, features): (&str, &[&str]),
    ) -> Result<PathBuf> {
        let directory = self.target_directory(workspace);
        let mut command = self.cargo(host, target, "build");
        command.args(["--release", "--package", package, "--features", &features.join(",")]);
        command.args(["--target", target, "--target-dir"]);
        command.arg(&directory).current_dir(&workspace.root);
        // It is about code of dependencies that nobody calls here, and would greet every user.
        command.env("CARGO_FUTURE_INCOMPAT_REPORT_FREQUENCY", "never");
        process::run_visibly(&mut command).with_context(|| format!("{package} does not build"))?;
        Ok(directory.join(target).join("release").join(package))
    }

    /// `cargo clippy` for `target` with `feature`, where the toolchain has it.
    pub(crate) fn clippy(
        &self,
        workspace: &Workspace,
        target: &str,
        packages: &[&str],
        feature: &str,
    ) -> Option<Command> {
        if *self == Self::Distribution {
            return None;
        }
        let mut command = Command::new(cargo());
        command.args(["clippy", "--release", "--target", target, "--target-dir"]);
        command.arg(self.target_directory(workspace)).current_dir(&workspace.root);
        for package in packages {
            command.args(["--package", package]);
        }
        command.args(["--features", feature, "--", "-D", "warnings"]);
        Some(command)
    }

    /// One directory for each toolchain, so that they do not throw away each other's work.
    fn target_directory(&self, workspace: &Workspace) -> PathBuf {
        match self {
            Self::InUse => workspace.target.join("bare"),
            Self::Distribution => workspace.target.join("bare").join("distribution"),
        }
    }

    fn cargo(&self, host: &Host, target: &str, subcommand: &str) -> Command {
        match self {
            Self::InUse => {
                let mut command = Command::new(cargo());
                command.arg(subcommand);
                command
            }
            Self::Distribution => {
                let mut command = Command::new(CARGO);
                command.args([subcommand, "-Zbuild-std=core,alloc"]);
                // `-Z` and the library's own unstable features are for nightly compilers otherwise.
                command.env("RUSTC", RUSTC).env("RUSTC_BOOTSTRAP", "1");
                // What the cargo that started us set is about another toolchain.
                for name in
                    ["RUSTC_WRAPPER", "RUSTC_WORKSPACE_WRAPPER", "RUSTDOC", "CARGO", "LD_LIBRARY_PATH"]
                {
                    command.env_remove(name);
                }
                let linker = linker(host).unwrap_or_else(|| "ld.lld".into());
                let variable = format!("CARGO_TARGET_{}_LINKER", target.to_uppercase().replace('-', "_"));
                command.env(variable, linker);
                command
            }
        }
    }
}

/// Checks `packages` with the compiler that their manifests promise (`rust-version`); `None` where rustup cannot have it.
pub(crate) fn oldest(workspace: &Workspace, packages: &[&str]) -> Option<Command> {
    let install = ["toolchain", "install", OLDEST_RELEASE, "--profile", "minimal", "--no-self-update"];
    let installed = process::capture(Command::new("rustup").args(install));
    if !installed.is_ok_and(|captured| captured.success) {
        return None;
    }
    let mut command = Command::new("rustup");
    command
        .args(["run", OLDEST_RELEASE, "cargo", "check"])
        .args(packages.iter().flat_map(|package| ["--package", package]))
        .arg("--target-dir");
    command.arg(workspace.target.join("oldest")).current_dir(&workspace.root);
    Some(command)
}

/// Whether the toolchain in use has the library of `target`.
fn has_target(target: &str) -> bool {
    let output =
        process::output_of(Command::new(rustc()).args(["--print", "target-libdir", "--target", target]));
    output.is_ok_and(|directory| Path::new(directory.trim()).is_dir())
}

fn add_target(target: &str) -> Result<Toolchain> {
    let step = Step::new(format!("Rust target {target}: rustup target add"));
    process::output_of(Command::new("rustup").args(["target", "add", target]))?;
    step.done("added");
    Ok(Toolchain::InUse)
}

/// Whether the distribution's compiler, library source and a linker are all there.
fn distribution_is_complete(host: &Host) -> bool {
    let output = |argument: &[&str]| {
        process::output_of(Command::new(RUSTC).args(argument).env_remove("LD_LIBRARY_PATH"))
    };
    let new_enough = Path::new(RUSTC).is_file()
        && output(&["--version"])
            .is_ok_and(|version| minor_version(&version).is_some_and(|minor| minor >= OLDEST));
    new_enough
        && Path::new(CARGO).is_file()
        && linker(host).is_some()
        && output(&["--print", "sysroot"]).is_ok_and(|sysroot| {
            Path::new(sysroot.trim()).join("lib/rustlib/src/rust/library/core/Cargo.toml").is_file()
        })
}

fn linker(host: &Host) -> Option<OsString> {
    ["ld.lld", "rust-lld"].iter().find_map(|name| host.find(name)).map(PathBuf::into_os_string)
}

fn install_distribution(host: &Host) -> Result<Toolchain> {
    // A fresh machine has no index, and without one there is no telling which packages it has.
    apt::update_once()?;
    let candidate =
        process::output_of(Command::new("apt-cache").args(["policy", "rustc"]).env("LC_ALL", "C"))?;
    let candidate =
        candidate.lines().find_map(|line| line.trim().strip_prefix("Candidate:")).unwrap_or_default();
    let new_enough =
        minor_version(&format!("rustc {}", candidate.trim())).is_some_and(|minor| minor >= OLDEST);
    let packages = if new_enough {
        ["rustc", "cargo", "rust-src", "lld"]
    } else {
        // Debian bookworm keeps a current compiler beside its own, for building web browsers.
        ["rustc-web", "cargo-web", "rust-web-src", "lld"]
    };
    apt::install("the bare-metal toolchain", &packages)?;
    anyhow::ensure!(
        distribution_is_complete(host),
        "the distribution's toolchain is older than Rust 1.{OLDEST}"
    );
    Ok(Toolchain::Distribution)
}

/// The minor version in `rustc 1.96.0 (…)`.
fn minor_version(version: &str) -> Option<u32> {
    version.split_whitespace().nth(1)?.strip_prefix("1.")?.split('.').next()?.parse().ok()
}

#[cfg(test)]
mod tests;
