//! `cargo xtask fuzz`: coverage-guided fuzzing of the operation language, the codecs, and dumps for slat-inspect.
//!
//! libFuzzer needs a nightly compiler and cargo-fuzz, both of which are fetched when they are missing. What it finds
//! interesting goes to fuzz/corpus, which `cargo xtask test` replays; what fails goes to fuzz/artifacts.

use crate::process;
use crate::progress::Step;
use crate::workspace::{Workspace, cargo};
use anyhow::{Context, Result, bail};
use std::process::{Command, ExitCode};

const TARGETS: [&str; 3] = ["operations", "codecs", "dumps"];

/// Fuzzes the operation language, the codecs and slat-inspect, and adds what is interesting to fuzz/corpus
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Options {
    /// Seconds for each target
    #[arg(long, value_name = "N", default_value_t = 60, value_parser = clap::value_parser!(u32).range(1..))]
    seconds: u32,

    /// Only this target
    #[arg(value_name = "TARGET", value_parser = TARGETS)]
    target: Option<String>,
}

impl Options {
    /// Every target for so many seconds.
    pub(crate) fn all_targets(seconds: u32) -> Self {
        Self { seconds, target: None }
    }
}

/// Carries out `cargo xtask fuzz`.
pub(crate) fn run(options: &Options) -> Result<ExitCode> {
    let workspace = Workspace::find()?;
    prepare()?;
    let chosen = |target: &&&str| options.target.as_ref().is_none_or(|wanted| wanted == **target);
    for target in TARGETS.iter().filter(chosen) {
        let seconds = format!("-max_total_time={}", options.seconds);
        let mut fuzz = Command::new("rustup");
        fuzz.args(["run", "nightly", "cargo", "fuzz", "run", target, "--", &seconds, "-print_final_stats=1"])
            .env("CARGO_TARGET_DIR", workspace.target.join("fuzz"))
            .current_dir(&workspace.root);
        process::run_visibly(&mut fuzz).with_context(|| format!("fuzzing {target}"))?;
    }
    Ok(ExitCode::SUCCESS)
}

/// Fetches what is missing.
fn prepare() -> Result<()> {
    let there = |command: &mut Command| process::capture(command).is_ok_and(|captured| captured.success);
    let fetch = |what: &str, command: &mut Command| {
        let step = Step::new(what);
        let fetched = process::capture(command)?;
        if !fetched.success {
            bail!("{what}: {}", fetched.complaint());
        }
        step.done("there");
        Ok(())
    };
    if !there(Command::new("rustup").args(["run", "nightly", "rustc", "--version"])) {
        let install = ["toolchain", "install", "nightly", "--profile", "minimal", "--no-self-update"];
        fetch("A nightly compiler", Command::new("rustup").args(install))?;
    }
    if !there(Command::new(cargo()).args(["fuzz", "--version"])) {
        fetch("cargo-fuzz", Command::new(cargo()).args(["install", "cargo-fuzz", "--locked"]))?;
    }
    Ok(())
}
