//! `cargo xtask audit`: what takes longer than a test run should. How much of the library the tests would notice if it
//! broke, how much of it they execute, the licences, the versions, fuzzing.

mod coverage;
mod licences;
mod listing;
pub(crate) mod mutants;
pub(crate) mod record;
mod scope;
pub(crate) mod tools;
mod worker;

use crate::missing::MissingThings;
use crate::workspace::Workspace;
use crate::{process, task_fuzz};
use anyhow::Result;
use std::process::{Command, ExitCode};
use std::thread;

/// How long each target is fuzzed without `--fuzz`.
const FUZZ_SECONDS: u32 = 600;

/// Audits the library: mutants, coverage, licences, versions, fuzzing. Without options all of them.
///
/// The mutants take about an hour on two cores when nothing is recorded, and minutes after a change: what became of them is
/// recorded in docs/mutants.json by function, and only functions that are not recorded as they are now are tested. The
/// record is written all along, so an interrupted run goes on where it was. Tools that are missing are installed by
/// cargo. Each part ends with one line; the exit code is 0 only if none failed.
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
    let Options { mutants, coverage, licences, semver, fuzz, .. } = *options;
    let all = !(mutants || coverage || licences || semver || fuzz.is_some());
    let choice = mutants::Choice {
        shard: options.shard,
        files: options.file.clone(),
        retest_missed: options.retest_missed,
        jobs: options
            .jobs
            .map_or_else(|| thread::available_parallelism().map_or(1, usize::from), usize::from),
    };
    let mut failed: Vec<(&'static str, anyhow::Error)> = Vec::new();
    let mut part = |wanted: bool, name: &'static str, audit: &dyn Fn() -> Result<String>| -> Result<()> {
        if !(wanted || all) {
            return Ok(());
        }
        match audit() {
            Ok(note) => println!("{name}: {note}"),
            Err(error) if process::interrupted() => return Err(error),
            Err(error) => failed.push((name, error)),
        }
        Ok(())
    };
    part(licences, "licences", &|| self::licences::audit(&workspace))?;
    part(semver, "semver", &|| self::semver(&workspace))?;
    part(coverage, "coverage", &|| self::coverage::audit(&workspace))?;
    part(mutants, "mutants", &|| self::mutants::audit(&workspace, &choice))?;
    part(fuzz.is_some(), "fuzz", &|| {
        let seconds = fuzz.unwrap_or(FUZZ_SECONDS);
        task_fuzz::run(&task_fuzz::Options::all_targets(seconds))?;
        Ok(format!("{seconds} seconds for each target, and nothing failed"))
    })?;
    let Some((name, last)) = failed.pop() else { return Ok(ExitCode::SUCCESS) };
    for (name, error) in failed {
        for thing in error.downcast_ref::<MissingThings>().map(MissingThings::things).unwrap_or_default() {
            eprintln!("{thing}");
        }
        eprintln!("error: {name}: {}", crate::one_line(&format!("{error:#}")));
    }
    Err(last.context(name))
}

/// Compares the interface with that of the last release.
fn semver(workspace: &Workspace) -> Result<String> {
    // A release is a tag; the name of a crate in a registry may be anyone's.
    let arguments = ["tag", "--list", "v[0-9]*", "--sort=-version:refname"];
    let tags = process::output_of(Command::new("git").args(arguments).current_dir(&workspace.root))?;
    let Some(tag) = tags.lines().next() else {
        return Ok("nothing to compare with yet: there is no tag v*".to_owned());
    };
    tools::obtain(&[tools::SEMVER])?;
    let mut command = Command::new(crate::workspace::cargo());
    command.args(["semver-checks", "--package", "slat", "--baseline-rev", tag]).current_dir(&workspace.root);
    process::run_visibly(&mut command)?;
    Ok(format!("nothing broke since {tag}"))
}
