//! Instructions per unit of each work: what is recorded in the tree, what the tree takes now, and whether it has grown.
//!
//! Invariant: only figures of the same compiler, target and profile are compared, and both come from bench/ built
//! without its peers, so that nothing foreign has to be compiled for a test.

use crate::process;
use crate::workspace::{Workspace, cargo, rustc};
use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;
use std::process::Command;

/// How much a figure may grow, as a part of the recorded one.
const TOLERANCE: f64 = 0.05;

/// How to record, as the user types it.
const RECORD: &str = "cargo xtask bench --record-instructions";

/// What all figures depend on besides the code.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Setting {
    /// The first line of `rustc --version`.
    pub(crate) compiler: String,
    /// The target that was built for, which is the host.
    pub(crate) target: String,
    /// The profile's lines in the manifest.
    pub(crate) profile: String,
}

/// Contender, work, instructions per unit.
pub(crate) type Figures = BTreeMap<String, BTreeMap<String, f64>>;

/// The file in the tree.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Record {
    #[serde(flatten)]
    pub(crate) setting: Setting,
    pub(crate) instructions: Figures,
}

/// What a comparison says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// No figure has grown; with a few words.
    Held(String),
    /// One line for each figure that has grown, is missing or is not recorded.
    Failed(Vec<String>),
}

impl Record {
    fn path(workspace: &Workspace) -> PathBuf {
        workspace.root.join("bench/instructions.json")
    }

    /// The recorded figures.
    pub(crate) fn read(workspace: &Workspace) -> Result<Self> {
        let path = Self::path(workspace);
        let text = fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
        serde_json::from_str(&text).with_context(|| format!("{} is no record: {RECORD}", path.display()))
    }

    /// Puts the figures into the tree, rounded; where they are.
    pub(crate) fn write(mut self, workspace: &Workspace) -> Result<PathBuf> {
        for figure in self.instructions.values_mut().flat_map(BTreeMap::values_mut) {
            *figure = rounded(*figure);
        }
        let path = Self::path(workspace);
        let text = serde_json::to_string_pretty(&self).context("the record cannot be written as JSON")?;
        fs::write(&path, text + "\n").with_context(|| format!("cannot write {}", path.display()))?;
        Ok(path)
    }

    /// Compares this record with what was measured in `setting`.
    pub(crate) fn compare(&self, now: &Self) -> Verdict {
        let mut complaints = Vec::new();
        if self.setting.profile != now.setting.profile {
            let (then, now) = (&self.setting.profile, &now.setting.profile);
            complaints.push(format!("recorded with the profile {then}, now it is {now}: {RECORD}"));
        }
        let (mut held, mut lower) = (0, Vec::new());
        for (contender, work, before) in each(&self.instructions) {
            let Some(after) = now.instructions.get(contender).and_then(|works| works.get(work)) else {
                complaints.push(format!("{work} on {contender} is recorded and was not measured: {RECORD}"));
                continue;
            };
            let change = after / before - 1.0;
            let figures = format!("{work} on {contender}: {} instead of {before}", rounded(*after));
            // A recorded zero holds nothing.
            if before > 0.0 && change <= TOLERANCE {
                held += 1;
                if change < -TOLERANCE {
                    lower.push(figures);
                }
            } else {
                complaints.push(format!("{figures} instructions ({:+.1} %)", 100.0 * change));
            }
        }
        for (contender, work, _) in each(&now.instructions) {
            if !self.instructions.get(contender).is_some_and(|works| works.contains_key(work)) {
                complaints.push(format!("{work} on {contender} is not recorded: {RECORD}"));
            }
        }
        if !complaints.is_empty() {
            return Verdict::Failed(complaints);
        }
        if lower.is_empty() {
            return Verdict::Held(format!("{held} figures"));
        }
        Verdict::Held(format!("{held} figures; lower, so {RECORD}:\n{}", lower.join("\n")))
    }
}

fn each(figures: &Figures) -> impl Iterator<Item = (&String, &String, f64)> {
    figures.iter().flat_map(|(contender, works)| {
        works.iter().map(move |(work, &instructions)| (contender, work, instructions))
    })
}

/// Two decimals; six where that would leave too little of a figure.
fn rounded(value: f64) -> f64 {
    let unit = if value >= 1.0 { 1e2 } else { 1e6 };
    (value * unit).round() / unit
}

impl Setting {
    /// What would be measured here.
    pub(crate) fn here(workspace: &Workspace) -> Result<Self> {
        let directory = workspace.root.join("bench");
        let version = process::output_of(Command::new(rustc()).arg("-vV").current_dir(&directory))?;
        let compiler = version.lines().next().unwrap_or_default().to_owned();
        let target = version.lines().find_map(|line| line.strip_prefix("host: ")).unwrap_or_default();
        let manifest =
            fs::read_to_string(directory.join("Cargo.toml")).context("cannot read the manifest of bench/")?;
        Ok(Self { compiler, target: target.to_owned(), profile: release_profile(&manifest) })
    }

    /// Why figures of `self` say nothing about those of `here`, if that is so.
    pub(crate) fn differs(&self, here: &Self) -> Option<String> {
        let pairs = [(&self.compiler, &here.compiler), (&self.target, &here.target)];
        let (then, now) = pairs.into_iter().find(|(then, now)| then != now)?;
        Some(format!("the counts in the tree are those of {then}, this is {now}"))
    }
}

/// The settings of the release profile in `manifest`, in one line.
fn release_profile(manifest: &str) -> String {
    let lines = manifest.lines().map(str::trim).skip_while(|line| *line != "[profile.release]").skip(1);
    let settings = lines.take_while(|line| !line.starts_with('['));
    let settings: Vec<_> = settings.filter(|line| !line.is_empty() && !line.starts_with('#')).collect();
    format!("release ({})", settings.join(", "))
}

/// Builds the benchmark without its peers by `build`, and lets it count; with what it said.
pub(crate) fn measure(
    workspace: &Workspace,
    setting: Setting,
    build: impl FnOnce(&mut Command) -> Result<()>,
) -> Result<(Record, String)> {
    // A directory of its own: the program of `cargo xtask bench` has the same name.
    let target = workspace.target.join("bench").join("slat");
    let mut command = Command::new(cargo());
    command.args(["build", "--release", "--locked", "--no-default-features", "--target-dir"]);
    command.arg(&target).current_dir(workspace.root.join("bench"));
    // What somebody has set for all builds, such as a CPU, is not what was recorded.
    command.env("CARGO_ENCODED_RUSTFLAGS", "");
    build(&mut command).context("the benchmark does not build")?;

    let directory = tempfile::tempdir().context("no temporary directory")?;
    let file = directory.path().join("instructions.json");
    let mut command = Command::new(target.join("release/slat-bench"));
    command.arg("--instructions-only").arg(&file);
    let text = process::output_of(&mut command)?;
    #[derive(Deserialize)]
    struct Counted {
        work: String,
        contender: String,
        instructions: f64,
    }
    let counts = fs::read_to_string(&file).context("the benchmark has written nothing")?;
    let counts: Vec<Counted> = serde_json::from_str(&counts).context("the benchmark wrote no counts")?;
    let mut instructions = Figures::new();
    for Counted { work, contender, instructions: count } in counts {
        instructions.entry(contender).or_default().insert(work, count);
    }
    Ok((Record { setting, instructions }, text))
}

#[cfg(test)]
mod tests;
