//! The steps that need cargo and nothing else: style, lints, documentation, host tests, the package.

use super::Context;
use super::step::{Outcome, Step, Tally};
use crate::process::{self, Captured};
use crate::toolchain::{self, Plan};
use crate::workspace::cargo;
use anyhow::Result;
use std::process::Command;

/// The bare-metal programs on Arm, and the library as they see it.
const ARM_PACKAGES: [&str; 3] = ["slat", "slat-hv", "slat-test-guest"];

/// The same on x86.
const X86_PACKAGES: [&str; 3] = ["slat", "slat-x86", "slat-hv"];

/// The same on RISC-V.
const RISCV_PACKAGES: [&str; 2] = ["slat", "slat-hv"];

/// What others can depend on.
pub(crate) const PUBLISHED: [&str; 4] = ["slat", "slat-x86", "slat-model", "slat-inspect"];

/// Those that look at the code. They may add parts to the toolchain, so they come one after the other.
pub(crate) fn lints() -> Vec<Step> {
    vec![
        Step::new("format", |context, output| {
            tool(context, output, "rustfmt", "fmt", &["--all", "--check"], &[])
        }),
        Step::new("clippy for the host", |context, output| {
            let arguments = ["--workspace", "--all-targets", "--", "-D", "warnings"];
            tool(context, output, "clippy", "clippy", &arguments, &[])
        }),
        Step::new("clippy for bare metal, Arm", |context, output| {
            bare_clippy((toolchain::AARCH64, &ARM_PACKAGES, ""), context, output)
        }),
        Step::new("clippy for bare metal, x86-64", |context, output| {
            bare_clippy((toolchain::X86_64, &X86_PACKAGES, "slat-hv/unit-guests"), context, output)
        }),
        Step::new("clippy for bare metal, RISC-V", |context, output| {
            bare_clippy((toolchain::RISCV64, &RISCV_PACKAGES, "slat-hv/unit-guests"), context, output)
        }),
        Step::new("the libraries and the model with the oldest Rust", oldest_rust),
        Step::new("documentation", |context, output| {
            let arguments = ["doc", "--workspace", "--no-deps"];
            simple(&mut cargo_command(context, &arguments, &[("RUSTDOCFLAGS", "-D warnings")]), output)
        }),
    ]
}

/// What is run afterwards: tests, examples, tools.
pub(crate) fn builds() -> Vec<Step> {
    vec![Step::new("tests, examples and tools are built", |context, output| {
        simple(&mut cargo_command(context, &["test", "--workspace", "--no-run"], &[]), output)
    })]
}

/// Those that run it.
pub(crate) fn tests() -> Vec<Step> {
    vec![
        Step::new("host tests", host_tests),
        Step::new("every interleaving of the lock-free paths", interleavings),
        Step::new("package", package),
    ]
}

fn cargo_command(context: &Context, arguments: &[&str], environment: &[(&str, &str)]) -> Command {
    let mut command = Command::new(cargo());
    command.args(arguments).envs(environment.iter().copied()).current_dir(&context.workspace.root);
    command
}

/// Runs a command of which only the exit code matters.
fn simple(command: &mut Command, output: &mut String) -> Outcome {
    match capture_into(command, output) {
        Ok(Captured { success: true, .. }) => Outcome::Passed(String::new()),
        Ok(captured) => Outcome::Failed(captured.complaint()),
        Err(error) => Outcome::Failed(format!("{error:#}")),
    }
}

fn capture_into(command: &mut Command, output: &mut String) -> Result<Captured> {
    let captured = process::capture(command)?;
    output.push_str(&captured.stdout);
    output.push_str(&captured.stderr);
    Ok(captured)
}

/// Runs a tool that is a component of its own and may have to be added first.
fn tool(
    context: &Context,
    output: &mut String,
    component: &str,
    subcommand: &str,
    arguments: &[&str],
    environment: &[(&str, &str)],
) -> Outcome {
    let is_there = || {
        let captured = process::capture(&mut cargo_command(context, &[subcommand, "--version"], &[]));
        captured.is_ok_and(|captured| captured.success)
    };
    if !is_there() {
        // Where rustup is missing or fails, the second look tells.
        let _ = process::capture(Command::new("rustup").args(["component", "add", component]));
        if !is_there() {
            return Outcome::Impossible(format!("missing: rustup component add {component}"));
        }
    }
    simple(cargo_command(context, &[subcommand], environment).args(arguments), output)
}

/// The bare-metal programs for this target, these packages with this feature.
fn bare_clippy(
    (target, packages, feature): (&str, &[&str], &str),
    context: &Context,
    output: &mut String,
) -> Outcome {
    let plan = toolchain::plan(&context.host, target);
    if plan == Plan::Impossible {
        return Outcome::Impossible(toolchain::missing(&context.host, target).to_string());
    }
    match toolchain::obtain(&context.host, &plan, target) {
        Ok(toolchain) => match toolchain.clippy(&context.workspace, target, packages, feature) {
            Some(mut command) => simple(&mut command, output),
            None => Outcome::Skipped("the distribution's toolchain has no clippy for it".to_owned()),
        },
        Err(error) => Outcome::Impossible(format!("{error:#}")),
    }
}

/// The libraries and the model with the compiler that their manifests promise.
fn oldest_rust(context: &Context, output: &mut String) -> Outcome {
    let Some(mut command) = toolchain::oldest(&context.workspace, &PUBLISHED) else {
        return Outcome::Skipped(format!("rustup has no {} here", toolchain::OLDEST_RELEASE));
    };
    simple(&mut command, output)
}

/// Unit tests, integration tests and documentation tests; each counts.
fn host_tests(context: &Context, output: &mut String) -> Outcome {
    counted(cargo_command(context, &["test", "--workspace", "--no-fail-fast"], &[]), output)
}

/// The tests of the libraries that loom drives, which are not there in any other build.
fn interleavings(context: &Context, output: &mut String) -> Outcome {
    let packages = ["--package", "slat", "--package", "slat-x86"];
    let arguments =
        [&["test"], &packages[..], &["--release", "--lib", "loom_tests", "--target-dir"]].concat();
    let mut command = cargo_command(context, &arguments, &[("RUSTFLAGS", "--cfg loom")]);
    command.arg(context.workspace.target.join("loom"));
    counted(command, output)
}

/// Runs tests; each counts.
fn counted(mut command: Command, output: &mut String) -> Outcome {
    match capture_into(&mut command, output) {
        Ok(captured) => {
            let mut tally = count(&captured.stdout);
            // A test that does not compile has no result line, and no test at all proves nothing.
            if (!captured.success || tally.passed == 0) && tally.failed == 0 {
                tally.failed = 1;
            }
            Outcome::Counted(tally)
        }
        Err(error) => Outcome::Failed(format!("{error:#}")),
    }
}

/// Sums the lines `test result: ok. 5 passed; 0 failed; 1 ignored; …`.
fn count(output: &str) -> Tally {
    let mut tally = Tally::default();
    for line in output.lines().filter_map(|line| line.trim().strip_prefix("test result:")) {
        let number = |word: &str| -> u64 {
            let part = line.split(['.', ';']).find_map(|part| part.trim().strip_suffix(word));
            part.and_then(|number| number.trim().parse().ok()).unwrap_or(0)
        };
        tally.passed += number("passed");
        tally.failed += number("failed");
        tally.skipped += number("ignored");
    }
    tally
}

/// Builds the libraries and the model from their packages as a stranger would get them.
fn package(context: &Context, output: &mut String) -> Outcome {
    let command = || {
        let mut command = cargo_command(context, &["package", "--allow-dirty"], &[]);
        command.args(PUBLISHED.iter().flat_map(|package| ["--package", package]));
        // A package has no profile of the workspace's, and nobody runs what is built here.
        command.envs([("CARGO_PROFILE_DEV_DEBUG", "0"), ("CARGO_INCREMENTAL", "0")]);
        command
    };
    let offline = process::capture(command().arg("--offline"));
    if offline.is_ok_and(|captured| captured.success) {
        return Outcome::Passed(String::new());
    }
    simple(&mut command(), output)
}

#[cfg(test)]
mod tests;
