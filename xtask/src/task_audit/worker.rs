//! A copy of the repository in which cargo-mutants breaks the library, one mutant after the other.
//!
//! Protocol: the copy and its target directory stay where they are, so that a mutant takes an incremental build of one
//! crate and no copying. A run that was interrupted may have left a mutant behind; the next one copies the original
//! over it. The tests go through cargo-nextest: each in a process of its own, those that are near the mutant first and
//! the heavy ones last, and none after the first failure.

use super::record::Outcome;
use crate::process::{self, Captured};
use crate::workspace::{Workspace, cargo};
use anyhow::{Context, Result, bail, ensure};
use serde::Deserialize;
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// The package whose code is broken.
const PACKAGE: &str = "slat";

/// Its manifest.
const MANIFEST: &str = "crates/slat/Cargo.toml";

/// The profile of the builds.
const PROFILE: &str = "mutants";

/// Percent of the usual number of cases that tests of random ones go through.
const PERCENT: &str = "10";

/// After how long a single test hangs; the slowest takes a tenth of it on an idle machine.
const HANGS: &str = "30s";

/// Seconds after which cargo-mutants gives all tests of a mutant up, where nextest did not.
const TIMEOUT: &str = "300";

/// KiB of address space for each process: a mutant that takes memory without end is to fail before the machine does.
const ADDRESS_SPACE: &str = "8000000";

/// Tests that take most of the time, and find little that the others do not find: they go last.
const HEAVY: &str = "test(random_) | test(may_fail) | test(populating_falls_back) | test(mark_is_lost) | \
    test(a_region_takes) | test(side_by_side) | test(come_and_go) | test(activate_at_once) | test(software_entries) | \
    test(a_reservation_fails)";

/// Those of them that are about the tree of regions and nothing else, and about tags and nothing else.
const OF_REGIONS: &str =
    "test(random_changes) | test(a_region_takes) | test(come_and_go) | test(a_reservation_fails)";
const OF_TAGS: &str = "test(activate_at_once)";

/// One copy of the repository.
#[derive(Debug)]
pub(super) struct Worker {
    /// The copy.
    pub(super) tree: PathBuf,
    directory: PathBuf,
}

impl Worker {
    /// The copy with this number, made equal to the workspace: what is in its working tree, committed or not.
    pub(super) fn new(workspace: &Workspace, number: usize) -> Result<Self> {
        let directory = workspace.target.join("audit").join(format!("worker-{number}"));
        let tree = directory.join("tree");
        let listed = ["ls-files", "-z", "--cached", "--others", "--exclude-standard"];
        let listed = process::output_of(Command::new("git").args(listed).current_dir(&workspace.root))
            .context("the audit copies what git knows of")?;
        let wanted: BTreeSet<&str> = listed
            .split('\0')
            .filter(|file| !file.is_empty() && workspace.root.join(file).is_file())
            .collect();
        remove_others(&tree, "", &wanted)?;
        for file in wanted {
            let from = workspace.root.join(file);
            let mut text = fs::read(&from).with_context(|| format!("cannot read {file}"))?;
            if file == MANIFEST {
                text = without_itself(&String::from_utf8_lossy(&text))?.into_bytes();
            }
            put(&tree.join(file), &text).with_context(|| format!("cannot copy {file}"))?;
        }
        Ok(Self { tree, directory })
    }

    /// What cargo-mutants would break, as JSON.
    pub(super) fn list(&self) -> Result<String> {
        process::output_of(self.command().args(["mutants", "--list", "--json", "--package", PACKAGE]))
    }

    /// Runs all tests without any mutant: what fails anyway catches nothing.
    pub(super) fn check_baseline(&self) -> Result<()> {
        let mut command = self.limited();
        command.args(["nextest", "run", "--cargo-profile", PROFILE, "--package", PACKAGE, "--lib"]);
        command.args(self.test_arguments("")?);
        let captured = process::capture(&mut command)?;
        ensure!(captured.success, "the tests fail without any mutant: {}", first_failure(&captured));
        Ok(())
    }

    /// Tests the mutants with these names, all of `file`; what became of each. `tick` is called meanwhile with the number of
    /// those that are done.
    pub(super) fn test(
        &self,
        file: &str,
        names: &[&str],
        mut tick: impl FnMut(usize),
    ) -> Result<BTreeMap<String, Outcome>> {
        let output = self.directory.join("output");
        if output.exists() {
            fs::remove_dir_all(&output).context("cannot remove the output of an earlier run")?;
        }
        fs::create_dir_all(&output).context("cannot make a directory for the output")?;
        let mut command = self.limited();
        command.args(["mutants", "--in-place", "--baseline", "skip", "--package", PACKAGE, "--file", file]);
        command.args([
            "--profile",
            PROFILE,
            "--cargo-arg=--lib",
            "--test-tool",
            "nextest",
            "--timeout",
            TIMEOUT,
        ]);
        command
            .args(["--build-timeout", TIMEOUT, "--no-times", "--colors", "never", "--output"])
            .arg(&output);
        for name in names {
            command.arg("--re").arg(format!("^{}$", escaped(name)));
        }
        command.arg("--").args(self.test_arguments(file)?);
        let results = output.join("mutants.out");
        let lists =
            ["caught.txt", "missed.txt", "timeout.txt", "unviable.txt"].map(|list| results.join(list));
        let lines = |list| fs::read_to_string(list).map_or(0, |text| text.lines().count());
        let captured = process::capture_with(&mut command, || tick(lists.iter().map(lines).sum()))?;
        let Ok(json) = fs::read_to_string(results.join("outcomes.json")) else {
            bail!("cargo-mutants failed: {}", captured.complaint());
        };
        let outcomes = outcomes(&json, |log| fs::read_to_string(results.join(log)).unwrap_or_default())?;
        if let Some(lost) = names.iter().find(|name| !outcomes.contains_key(**name)) {
            bail!("cargo-mutants says nothing about {lost}: {}", captured.complaint());
        }
        Ok(outcomes)
    }

    /// A cargo that works in the copy.
    fn command(&self) -> Command {
        let mut command = Command::new(cargo());
        self.set_up(&mut command);
        command
    }

    /// The same, with a limit on the memory of all that it starts, where the shell can set one.
    fn limited(&self) -> Command {
        let mut command = Command::new("sh");
        let limit = format!("ulimit -v {ADDRESS_SPACE} 2>/dev/null; exec \"$@\"");
        command.args(["-c", &limit, "sh"]).arg(cargo());
        self.set_up(&mut command);
        command
    }

    fn set_up(&self, command: &mut Command) {
        command.current_dir(&self.tree).env("CARGO_TARGET_DIR", self.directory.join("target"));
        command.env("SLAT_TEST_PERCENT", PERCENT).env("RUST_BACKTRACE", "0").env("CARGO_TERM_COLOR", "never");
        // There is one of them for each CPU already.
        command.env("CARGO_BUILD_JOBS", "1");
        // Blocks of 2 MiB come and go: with these the C library keeps them instead of asking the kernel each time.
        command.env("MALLOC_MMAP_THRESHOLD_", "1073741824").env("MALLOC_TRIM_THRESHOLD_", "4294967296");
        command.env("MALLOC_TOP_PAD_", "67108864");
        // What started us is another package.
        for name in ["CARGO_MANIFEST_DIR", "CARGO_MANIFEST_PATH", "CARGO_PKG_NAME", "NEXTEST_PROFILE"] {
            command.env_remove(name);
        }
        // A mutant may leave something unused, which is no reason not to build it.
        command.env("RUSTFLAGS", "--cap-lints=allow");
    }

    /// What nextest is told; `file` is where the mutants are.
    fn test_arguments(&self, file: &str) -> Result<Vec<String>> {
        let path = self.directory.join("nextest.toml");
        let (near, own) = (near(file), own(file));
        let text = format!(
            "[profile.default]\nfail-fast = true\nslow-timeout = {{ period = \"{HANGS}\", terminate-after = 1 }}\n\n\
             [[profile.default.overrides]]\nfilter = '{HEAVY}'\npriority = -50\n\n\
             [[profile.default.overrides]]\nfilter = 'test(/naive/)'\npriority = -40\n\n\
             [[profile.default.overrides]]\nfilter = 'test(/^space::tests::({own})::/)'\npriority = 60\n\n\
             [[profile.default.overrides]]\nfilter = 'test(/^({near})::/)'\npriority = 50\n"
        );
        fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))?;
        let path = path.to_string_lossy().into_owned();
        Ok(["--config-file", &path, "--test-threads", "1", "-E", &reaching(file)].map(str::to_owned).to_vec())
    }
}

/// The tests, as nextest selects them, that may reach `file`: all but heavy ones of which it is plain that they do not.
fn reaching(file: &str) -> String {
    let is_in = |part: &str| file.contains(part) || file.is_empty();
    match (is_in("/space/regions/"), is_in("/tlb/tags")) {
        (true, true) => "all()".to_owned(),
        (true, false) => format!("not ({OF_TAGS})"),
        (false, true) => format!("not ({OF_REGIONS})"),
        (false, false) => format!("not ({OF_REGIONS} | {OF_TAGS})"),
    }
}

/// The modules, as a regular expression, whose tests are the likeliest to catch a mutant in `file`.
fn near(file: &str) -> String {
    let path = file.trim_start_matches(super::scope::SOURCES).trim_start_matches('/').trim_end_matches(".rs");
    let names: Vec<_> = path.split('/').filter(|name| *name != "mod").collect();
    match names[..] {
        ["space", "regions", ..] => "space::regions".to_owned(),
        ["table" | "space" | "frame" | "hal", ..] => {
            "table|space::tests::(lifetimes|operations|faults|errors|edges)".to_owned()
        }
        ["format", format, ..] => format!("format::{format}"),
        [module, ..] => module.to_owned(),
        [] => String::new(),
    }
}

/// The modules of `space::tests`, as a regular expression, that are about what `file` does; there need not be any.
fn own(file: &str) -> &str {
    let path = file.trim_end_matches("/mod.rs").trim_end_matches(".rs");
    let name = path.rsplit('/').next().unwrap_or(path);
    match name {
        "fork" | "version" | "writable" | "cow" => "fork",
        "group" => "groups",
        "shared" if file.contains("/table/") => "fork",
        "page_out" | "pager" => "paged|evict",
        "lend" | "backend" => "custom|shared|private|traps",
        "attached" => "shared|private",
        "pinned" => "pins|fork",
        _ => name,
    }
}

/// What became of each mutant in `json`, the outcomes.json of cargo-mutants; `log` reads one of its logs.
fn outcomes(json: &str, log: impl Fn(&str) -> String) -> Result<BTreeMap<String, Outcome>> {
    #[derive(Deserialize)]
    struct Mutant {
        name: String,
    }
    #[derive(Deserialize)]
    enum Scenario {
        Baseline,
        Mutant(Mutant),
    }
    #[derive(Deserialize)]
    struct Tested {
        scenario: Scenario,
        summary: String,
        log_path: String,
    }
    #[derive(Deserialize)]
    struct All {
        outcomes: Vec<Tested>,
    }
    let all: All = serde_json::from_str(json).context("cannot read the outcomes of cargo-mutants")?;
    let mut outcomes = BTreeMap::new();
    for tested in all.outcomes {
        let Scenario::Mutant(mutant) = tested.scenario else { continue };
        let outcome = match tested.summary.as_str() {
            // nextest ends a test that hangs, and for cargo-mutants it has failed.
            "CaughtMutant" if log(&tested.log_path).contains(" TIMEOUT [") => Outcome::Timeout,
            "CaughtMutant" => Outcome::Caught,
            "MissedMutant" => Outcome::Missed,
            "Timeout" => Outcome::Timeout,
            "Unviable" => Outcome::Unviable,
            other => bail!("cargo-mutants says {other} of {}", mutant.name),
        };
        outcomes.insert(mutant.name, outcome);
    }
    Ok(outcomes)
}

/// `text` as a regular expression that matches nothing else.
fn escaped(text: &str) -> String {
    let mut escaped = String::new();
    for character in text.chars() {
        if "\\.+*?()|[]{}^$#&-~".contains(character) {
            escaped.push('\\');
        }
        escaped.push(character);
    }
    escaped
}

/// The name of the first test that failed, or what else went wrong.
fn first_failure(captured: &Captured) -> String {
    let mut lines = captured.stderr.lines().map(str::trim);
    let failed = lines.find(|line| line.starts_with("FAIL [") || line.starts_with("TIMEOUT ["));
    failed.map_or_else(|| captured.complaint(), str::to_owned)
}

/// Removes what is below `directory` and not in `wanted`; `below` is its path in the copy.
fn remove_others(tree: &Path, below: &str, wanted: &BTreeSet<&str>) -> Result<()> {
    let directory = tree.join(below);
    let Ok(entries) = fs::read_dir(&directory) else { return Ok(()) };
    for entry in entries {
        let entry = entry.with_context(|| format!("cannot list {}", directory.display()))?;
        let name = entry.file_name().to_string_lossy().into_owned();
        let path = if below.is_empty() { name } else { format!("{below}/{name}") };
        let failed = || format!("cannot remove {}", entry.path().display());
        if entry.file_type().with_context(failed)?.is_dir() {
            remove_others(tree, &path, wanted)?;
        } else if !wanted.contains(path.as_str()) {
            fs::remove_file(entry.path()).with_context(failed)?;
        }
    }
    Ok(())
}

/// The library's manifest without its dependency on itself: the unit tests do not use it, and cargo would build the library
/// twice for each mutant. The features that it asks for, in which they are tested, are there by default instead.
fn without_itself(manifest: &str) -> Result<String> {
    const ITSELF: &str = "[dev-dependencies]\nslat = { path = \".\", features = [\"std\", \"tracing\"] }\n";
    const FEATURES: &str = "[features]\n";
    for section in [ITSELF, FEATURES] {
        let once = manifest.matches(section).count() == 1;
        ensure!(once, "{MANIFEST} does not say `{}`", section.trim().replace('\n', " "));
    }
    let alone = manifest.replace(ITSELF, "");
    Ok(alone.replace(FEATURES, "[features]\ndefault = [\"std\", \"tracing\"]\n"))
}

/// Writes a file unless it is the same already: cargo looks at the times.
fn put(to: &Path, text: &[u8]) -> Result<()> {
    if fs::read(to).is_ok_and(|old| old == text) {
        return Ok(());
    }
    if let Some(directory) = to.parent() {
        fs::create_dir_all(directory)?;
    }
    fs::write(to, text)?;
    Ok(())
}

#[cfg(test)]
mod tests;
