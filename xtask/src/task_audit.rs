//! `cargo xtask audit`: what takes longer than a test run should. How much of the library the tests would notice if it
//! broke, how much of it they execute, the licences, known vulnerabilities, the versions, the oldest Rust, fuzzing.
//!
//! Protocol: each part prints one line; what failed is told on stderr; the last line is `N passed, N failed, N skipped`. A part for
//! which there is nothing to look at is skipped, and said so; so is one whose tool cannot be had, but in CI that has failed.

mod advisories;
mod coverage;
mod licences;
mod listing;
pub(crate) mod mutants;
pub(crate) mod record;
mod scope;
pub(crate) mod tools;
mod worker;

use crate::missing::MissingThings;
use crate::task_test::Tally;
use crate::task_test::workspace_steps::PUBLISHED;
use crate::workspace::Workspace;
use crate::{process, task_fuzz, toolchain};
use anyhow::Result;
use std::process::{Command, ExitCode};
use std::thread;

/// How long each target is fuzzed without `--fuzz`.
const FUZZ_SECONDS: u32 = 600;

/// What a part has come to, if it has not failed.
enum Finding {
    /// All is well; with a few words.
    Fine(String),
    /// There was nothing to look at, and this is why.
    Skipped(String),
}

impl From<String> for Finding {
    fn from(note: String) -> Self {
        Self::Fine(note)
    }
}

/// Audits the library: mutants, coverage, licences, advisories, versions, the oldest Rust, fuzzing. Without options all of them.
///
/// The mutants take about an hour on two cores when nothing is recorded, and minutes after a change: what became of them is
/// recorded in docs/mutants.json by function, and only functions that are not recorded as they are now are tested. The
/// record is written all along, so an interrupted run goes on where it was. Tools that are missing are installed by
/// cargo. Each part ends with one line, and the last line gives the counts; the exit code is 0 only if none failed. A part
/// for which there is nothing to look at is counted as skipped; one whose tool cannot be had too, or as failed where the environment
/// says CI=true.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Options {
    /// Break each function in every way that cargo-mutants knows: the tests must notice 90 %
    #[arg(long)]
    mutants: bool,

    /// Lines that the library's own tests execute, by cargo-llvm-cov: they must be 95 %
    #[arg(long)]
    coverage: bool,

    /// Licences of all dependencies of the crates that may be published
    #[arg(long)]
    licences: bool,

    /// Known vulnerabilities of all dependencies, by cargo-audit; SLAT_ADVISORY_DB may name a copy of its database
    #[arg(long)]
    advisories: bool,

    /// The published crates with the oldest Rust that they promise
    #[arg(long)]
    msrv: bool,

    /// The interface against the last release, by cargo-semver-checks
    #[arg(long)]
    semver: bool,

    /// Fuzz each target for so long (`cargo xtask fuzz`)
    #[arg(long, value_name = "SECONDS", value_parser = clap::value_parser!(u32).range(1..))]
    fuzz: Option<u32>,

    /// Only part K of N of the mutants
    #[arg(long, value_name = "K/N", requires = "mutants")]
    shard: Option<mutants::Shard>,

    /// Only the mutants of these files, such as 'crates/slat/src/table/*.rs'
    #[arg(long, value_name = "GLOB", requires = "mutants")]
    file: Vec<String>,

    /// Also test again the recorded survivors that nobody has explained, after tests have been added
    #[arg(long, requires = "mutants")]
    retest_missed: bool,

    /// How many mutants are tested at a time; one for each CPU by default
    #[arg(long, value_name = "N", requires = "mutants", value_parser = clap::value_parser!(u16).range(1..))]
    jobs: Option<u16>,
}

/// Carries out `cargo xtask audit`.
pub(crate) fn run(options: &Options) -> Result<ExitCode> {
    let workspace = Workspace::find()?;
    let Options { mutants, coverage, licences, advisories, msrv, semver, fuzz, .. } = *options;
    let all = !(mutants || coverage || licences || advisories || msrv || semver || fuzz.is_some());
    let choice = mutants::Choice {
        shard: options.shard,
        files: options.file.clone(),
        retest_missed: options.retest_missed,
        jobs: options
            .jobs
            .map_or_else(|| thread::available_parallelism().map_or(1, usize::from), usize::from),
    };
    let mut tally = Tally::default();
    let ci = std::env::var_os("CI").is_some_and(|value| value == "true" || value == "1");
    let mut part = |wanted: bool, name: &str, audit: &dyn Fn() -> Result<Finding>| -> Result<()> {
        if !(wanted || all) {
            return Ok(());
        }
        let found = audit();
        if process::interrupted() {
            return found.map(drop);
        }
        count(name, found, ci, &mut tally);
        Ok(())
    };
    part(licences, "licences", &|| self::licences::audit(&workspace).map(Finding::from))?;
    part(advisories, "advisories", &|| self::advisories::audit(&workspace))?;
    part(semver, "semver", &|| self::semver(&workspace))?;
    part(msrv, "oldest Rust", &|| oldest_rust(&workspace))?;
    part(coverage, "coverage", &|| self::coverage::audit(&workspace).map(Finding::from))?;
    part(mutants, "mutants", &|| self::mutants::audit(&workspace, &choice).map(Finding::from))?;
    part(fuzz.is_some(), "fuzz", &|| {
        let seconds = fuzz.unwrap_or(FUZZ_SECONDS);
        task_fuzz::run(&task_fuzz::Options::all_targets(seconds))?;
        Ok(Finding::Fine(format!("{seconds} seconds for each target, and nothing failed")))
    })?;
    println!("{tally}");
    Ok(if tally.failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Tells and counts what a part has come to.
fn count(name: &str, found: Result<Finding>, ci: bool, tally: &mut Tally) {
    match found {
        Ok(Finding::Fine(note)) => {
            tally.passed += 1;
            println!("{name}: {note}");
        }
        Ok(Finding::Skipped(reason)) => {
            tally.skipped += 1;
            println!("{name}: skipped: {reason}");
        }
        Err(error) => {
            let missing = error.downcast_ref::<MissingThings>();
            for thing in missing.map(MissingThings::things).unwrap_or_default() {
                eprintln!("{thing}");
            }
            if missing.is_some() && !ci {
                tally.skipped += 1;
                println!("{name}: skipped: something is missing");
            } else {
                tally.failed += 1;
                eprintln!("error: {name}: {}", crate::one_line(&format!("{error:#}")));
            }
        }
    }
}

/// Checks what is published with the compiler that its manifests promise.
fn oldest_rust(workspace: &Workspace) -> Result<Finding> {
    let release = toolchain::OLDEST_RELEASE;
    let Some(mut command) = toolchain::oldest(workspace, &PUBLISHED) else {
        return Ok(Finding::Skipped(format!("rustup has no {release} here")));
    };
    process::run_visibly(&mut command)?;
    Ok(Finding::Fine(format!("{} build with Rust {release}", PUBLISHED.join(", "))))
}

/// Compares the interface with that of the last release.
fn semver(workspace: &Workspace) -> Result<Finding> {
    // A release is a tag; the name of a crate in a registry may be anyone's.
    let arguments = ["tag", "--list", "v[0-9]*", "--sort=-version:refname"];
    let tags = process::output_of(Command::new("git").args(arguments).current_dir(&workspace.root))?;
    let Some(tag) = tags.lines().next() else {
        return Ok(Finding::Skipped("nothing to compare with yet: there is no tag v*".to_owned()));
    };
    tools::obtain(&[tools::SEMVER])?;
    let mut command = Command::new(crate::workspace::cargo());
    command.args(["semver-checks", "--package", "slat", "--baseline-rev", tag]).current_dir(&workspace.root);
    process::run_visibly(&mut command)?;
    Ok(Finding::Fine(format!("nothing broke since {tag}")))
}

#[cfg(test)]
mod tests;
