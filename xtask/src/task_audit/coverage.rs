//! `cargo xtask audit --coverage`: which lines of the library the host tests execute, by cargo-llvm-cov.
//!
//! Counted are the audited files (see `scope`) under the library's own unit and integration tests. slat-check would add to
//! it, and takes many times as long: what only runs beside the model is not what a change of the library breaks first.

use super::{scope, tools};
use crate::process;
use crate::progress::Step;
use crate::workspace::{Workspace, cargo};
use anyhow::{Context, Result, bail, ensure};
use serde::Deserialize;
use std::path::Path;
use std::process::Command;

/// The least part of the lines that must be executed, in percent.
const LEAST: f64 = 95.0;

/// Lines of one file, or of all.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
struct Lines {
    count: u64,
    covered: u64,
}

impl Lines {
    fn percent(self) -> f64 {
        if self.count == 0 { 100.0 } else { 100.0 * self.covered as f64 / self.count as f64 }
    }
}

/// Measures the coverage and prints it; an error if it is too low.
pub(crate) fn audit(workspace: &Workspace) -> Result<String> {
    tools::obtain(&[tools::COVERAGE])?;
    add_profiler()?;
    let step = Step::new("tests with coverage");
    let mut command = Command::new(cargo());
    command.args(["llvm-cov", "test", "--package", "slat", "--lib", "--tests"]);
    command.args(["--json", "--summary-only"]).current_dir(&workspace.root);
    command.env("CARGO_TARGET_DIR", workspace.target.join("coverage"));
    let json = process::output_of(&mut command)?;
    step.done("done");
    let files = read(&json, &workspace.root)?;
    for (file, lines) in &files {
        println!(
            "{:>46}  {:5.1} % of {} lines",
            file.trim_start_matches("crates/slat/src/"),
            lines.percent(),
            lines.count
        );
    }
    verdict(&files)
}

/// LLVM's tools come with the toolchain in use.
fn add_profiler() -> Result<()> {
    let added = process::capture(Command::new("rustup").args(["component", "add", "llvm-tools"]));
    match added {
        Ok(captured) if captured.success => Ok(()),
        // A distribution's toolchain has them elsewhere, which cargo-llvm-cov is told by these.
        _ if std::env::var_os("LLVM_COV").is_some() && std::env::var_os("LLVM_PROFDATA").is_some() => Ok(()),
        _ => bail!("missing: rustup component add llvm-tools"),
    }
}

/// The audited files in the export of llvm-cov.
fn read(json: &str, root: &Path) -> Result<Vec<(String, Lines)>> {
    #[derive(Deserialize)]
    struct Summary {
        lines: Lines,
    }
    #[derive(Deserialize)]
    struct File {
        filename: String,
        summary: Summary,
    }
    #[derive(Deserialize)]
    struct Part {
        files: Vec<File>,
    }
    #[derive(Deserialize)]
    struct Export {
        data: Vec<Part>,
    }
    let export: Export = serde_json::from_str(json).context("cannot read the export of cargo-llvm-cov")?;
    let mut files = Vec::new();
    for file in export.data.into_iter().flat_map(|part| part.files) {
        let path = Path::new(&file.filename).strip_prefix(root).unwrap_or(Path::new(&file.filename));
        let path = path.to_string_lossy().replace('\\', "/");
        if scope::contains(&path) {
            files.push((path, file.summary.lines));
        }
    }
    ensure!(!files.is_empty(), "cargo-llvm-cov says nothing about {}", scope::SOURCES);
    files.sort_by(|a, b| a.0.cmp(&b.0));
    Ok(files)
}

fn verdict(files: &[(String, Lines)]) -> Result<String> {
    let total = files.iter().fold(Lines::default(), |total, (_, lines)| Lines {
        count: total.count + lines.count,
        covered: total.covered + lines.covered,
    });
    let text = format!("{:.1} % of {} lines are executed", total.percent(), total.count);
    ensure!(total.percent() >= LEAST, "{text}, at least {LEAST} % must be");
    Ok(text)
}

#[cfg(test)]
mod tests;
