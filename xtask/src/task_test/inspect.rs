//! The tests of `slat-inspect` as a user has it: installed by `cargo install`, beside QEMU's own listings of a Linux that was
//! stopped in the middle of its work, on a dump of 64 GiB, and its page in a browser.

mod browser;
mod documented;
mod listings;
mod sparse;

use super::Context;
use super::step::{Board, Outcome, Step};
use crate::process::{self, Captured};
use crate::workspace::cargo;
use anyhow::{Context as _, Result, ensure};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Arc, OnceLock};
use std::thread;
use tempfile::TempDir;

/// The step that executes the commands of the documents.
pub(crate) const README: &str = "slat-inspect: what the documents show";

/// The installed tool.
struct Tool {
    program: PathBuf,
    /// Holds it.
    _directory: TempDir,
}

/// The tool, empty until it is installed. The steps own it together, so that it goes with the last of them.
type Slot = Arc<OnceLock<Result<Tool, String>>>;

/// The steps, and the place where they look for the tool.
pub(crate) struct Suite {
    slot: Slot,
    steps: Vec<Step>,
}

impl Suite {
    /// What its steps are called.
    pub(crate) fn names(&self) -> Vec<String> {
        self.steps.iter().map(|step| step.name().to_owned()).collect()
    }
}

/// All steps whose name contains `filter`; those that need an emulator only if they are wanted.
pub(crate) fn suite(filter: &str, emulator: bool) -> Suite {
    let slot = Slot::default();
    let mut steps = vec![step(&slot, "cargo install", |tool, _, output| {
        let version = tool.run(&["--version"], output)?;
        ensure!(version.stdout.starts_with("slat-inspect "), "it says: {}", version.stdout);
        Ok(version.stdout.trim().to_owned())
    })];
    steps.push(step(&slot, "a sparse dump of 64 GiB", sparse::listed));
    steps.push(step(&slot, "what the documents show", documented::executed));
    steps.extend(browser::steps(&slot));
    if emulator {
        steps.extend(listings::steps(&slot));
    }
    steps.retain(|step| step.name().contains(filter));
    Suite { slot, steps }
}

/// Installs the tool and runs the steps, two at a time where there are two processors.
pub(crate) fn run(board: &mut Board, context: &Context, suite: Suite) {
    if suite.steps.is_empty() {
        return;
    }
    let _ = suite.slot.set(install(context).map_err(|error| format!("{error:#}")));
    let threads = thread::available_parallelism().map_or(1, |count| count.get().min(2));
    board.run(suite.steps, context, threads);
}

/// Installs it as anybody would, but for the profile: that of development has it optimised, and what it is made of is built already.
fn install(context: &Context) -> Result<Tool> {
    let directory =
        tempfile::Builder::new().prefix("slat-inspect-").tempdir().context("no temporary directory")?;
    let mut command = Command::new(cargo());
    command.args(["install", "--path", "crates/slat-inspect", "--locked", "--debug", "--root"]);
    command.arg(directory.path()).current_dir(&context.workspace.root);
    // The tests' own settings are not the user's.
    command.env_remove("RUSTFLAGS");
    process::output_of(&mut command)?;
    let program = directory.path().join("bin/slat-inspect");
    Ok(Tool { program, _directory: directory })
}

/// A step that needs the tool.
fn step(
    slot: &Slot,
    name: &str,
    work: impl FnOnce(&Tool, &Context, &mut String) -> Result<String> + Send + 'static,
) -> Step {
    optional_step(slot, name, |tool, context, output| Outcome::of(work(tool, context, output)))
}

/// As [`step`], for something that a machine may lack.
fn optional_step(
    slot: &Slot,
    name: &str,
    work: impl FnOnce(&Tool, &Context, &mut String) -> Outcome + Send + 'static,
) -> Step {
    let slot = Arc::clone(slot);
    Step::new(format!("slat-inspect: {name}"), move |context, output| match slot.get() {
        Some(Ok(tool)) => work(tool, context, output),
        Some(Err(reason)) => Outcome::Failed(reason.clone()),
        None => Outcome::Failed("the tool was not installed".to_owned()),
    })
}

impl Tool {
    /// Runs it, whatever comes of it; the step's output gets what it complains about.
    fn captured(&self, arguments: &[&str], output: &mut String) -> Result<Captured> {
        let captured = process::capture(Command::new(&self.program).args(arguments))?;
        output.push_str(&format!("slat-inspect {}\n{}", arguments.join(" "), captured.stderr));
        Ok(captured)
    }

    /// Runs it; it must succeed.
    fn run(&self, arguments: &[&str], output: &mut String) -> Result<Captured> {
        let captured = self.captured(arguments, output)?;
        ensure!(captured.success, "slat-inspect {}: {}", arguments.join(" "), captured.complaint());
        Ok(captured)
    }
}

/// A path as an argument.
fn text(path: &Path) -> Result<&str> {
    path.to_str().context("a temporary directory has a name that is no text")
}
