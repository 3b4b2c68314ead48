//! `cargo xtask bench`: slat side by side with the crates that a user would pick instead.
//!
//! The benchmark is a workspace of its own; this only starts it, so that its options are its own too. What only
//! concerns slat itself is here: recording its instruction counts, and the size of its code.

use crate::code_size;
use crate::host::Host;
use crate::instructions::{self, Setting};
use crate::platform::Platform;
use crate::process;
use crate::progress::Step;
use crate::setup;
use crate::workspace::{Workspace, cargo};
use anyhow::{Context, Result};
use std::ffi::OsString;
use std::process::{Command, ExitCode};

/// Measures slat beside its peers and a raw-loop floor: `cargo xtask bench --quick`, `--only WORK`, `--json FILE`
///
/// All other options are those of bench/ itself: `cargo xtask bench --help` shows them. x86-64 hosts only.
#[derive(Clone, Debug, clap::Args)]
#[command(disable_help_flag = true)]
pub(crate) struct Options {
    /// Count slat's instructions and write them to bench/instructions.json, against which `cargo xtask test` holds them
    #[arg(long, conflicts_with = "arguments")]
    record_instructions: bool,

    /// Say how many bytes of code slat takes in the hypervisor for aarch64
    #[arg(long, conflicts_with_all = ["record_instructions", "arguments"])]
    code_size: bool,

    /// Options of the benchmark
    #[arg(value_name = "OPTION", trailing_var_arg = true, allow_hyphen_values = true)]
    arguments: Vec<OsString>,
}

/// Carries out `cargo xtask bench`.
pub(crate) fn run(options: &Options) -> Result<ExitCode> {
    let workspace = Workspace::find()?;
    if options.record_instructions {
        return record_instructions(&workspace);
    }
    if options.code_size {
        return code_size(&workspace);
    }
    let counts = |argument: &OsString| argument.to_string_lossy().starts_with("--instructions");
    if options.arguments.iter().any(counts) {
        setup::counter(&Host::detect())?;
    }
    let directory = workspace.root.join("bench");
    let here = std::env::current_dir().context("the current directory is gone")?;
    // Built where its configuration is found, run where the user stands: file names are the user's.
    let mut build = Command::new(cargo());
    build
        .args(["build", "--release", "--target-dir"])
        .arg(workspace.target.join("bench"))
        .current_dir(&directory);
    process::run_visibly(&mut build).context("the benchmark does not build")?;
    let mut bench = Command::new(workspace.target.join("bench/release/slat-bench"));
    bench.args(&options.arguments).current_dir(here);
    let status = bench.status().context("the benchmark cannot be started")?;
    Ok(if status.success() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Puts today's counts into the tree.
fn record_instructions(workspace: &Workspace) -> Result<ExitCode> {
    setup::counter(&Host::detect())?;
    let setting = Setting::here(workspace)?;
    let mut step = None;
    let build = |command: &mut Command| {
        process::run_visibly(command)?;
        step = Some(Step::new("Counting instructions"));
        Ok(())
    };
    let (record, text) = instructions::measure(workspace, setting, build)?;
    let path = record.write(workspace)?;
    if let Some(step) = step {
        step.done(&format!("written to {}", path.display()));
    }
    print!("{text}");
    Ok(ExitCode::SUCCESS)
}

/// Builds the hypervisor and says how much of it is slat.
fn code_size(workspace: &Workspace) -> Result<ExitCode> {
    let host = Host::detect();
    let target = Platform::Arm.target();
    let toolchain = setup::toolchain(&host, target)?;
    let program = toolchain.build(&host, workspace, target, ("slat-hv", &[]))?;
    let elf = std::fs::read(&program).with_context(|| format!("cannot read {}", program.display()))?;
    println!("slat in slat-hv for aarch64: {}", code_size::of_crate(&elf, "slat")?);
    println!(
        "Counted are functions that slat defines, instances of its generics too; inlined code counts where it is."
    );
    Ok(ExitCode::SUCCESS)
}
