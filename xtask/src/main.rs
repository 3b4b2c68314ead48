//! The tasks of this workspace: `cargo xtask run` boots a Linux guest under slat, `cargo xtask test` checks
//! everything, `cargo xtask bench` measures slat beside other crates, `cargo xtask fuzz` looks for what nobody thought of,
//! `cargo xtask audit` for what the tests would not notice, `cargo xtask replay` repeats a recorded run on the model of the hardware.
//!
//! Invariant: every failure ends as one line `error: …` on stderr and a non-zero exit code; things that the
//! machine lacks come before it, one line `missing: …` each, and a `hint: …` where something can be done without them.

mod boot;
mod code_size;
mod guests;
mod host;
mod instructions;
mod missing;
mod platform;
mod process;
mod progress;
mod random;
mod recording;
mod replay;
mod setup;
mod task_audit;
mod task_bench;
mod task_fuzz;
mod task_replay;
mod task_run;
mod task_test;
mod toolchain;
mod trace;
mod workspace;

use clap::{Parser, Subcommand};
use std::process::ExitCode;

/// The tasks of the slat workspace.
///
/// `cargo xtask run` shows an unmodified Linux under slat; `cargo xtask test` runs every test there is; `cargo xtask
/// bench` measures slat beside its peers; `cargo xtask fuzz` fuzzes it; `cargo xtask audit` looks at the tests themselves; `cargo
/// xtask replay` repeats a recorded run on the model of the hardware.
#[derive(Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask", version, max_term_width = 100)]
struct Arguments {
    #[command(subcommand)]
    task: Task,
}

#[derive(Subcommand)]
enum Task {
    Run(Box<task_run::Options>),
    Test(task_test::Options),
    Bench(task_bench::Options),
    Fuzz(task_fuzz::Options),
    Replay(task_replay::Options),
    Audit(task_audit::Options),
}

/// Whether these are arguments that a task takes.
fn parse(arguments: &[&str]) -> anyhow::Result<()> {
    use clap::error::ErrorKind::DisplayHelp;
    match Arguments::try_parse_from(std::iter::once(&"xtask").chain(arguments)) {
        Err(error) if error.kind() != DisplayHelp => Err(anyhow::anyhow!(one_line(&error.to_string()))),
        _ => Ok(()),
    }
}

fn main() -> ExitCode {
    let arguments = match Arguments::try_parse() {
        Ok(arguments) => arguments,
        Err(error) => return refuse(&error),
    };
    if let Err(error) = process::catch_interrupts() {
        return fail(&error);
    }
    let done = match arguments.task {
        Task::Run(options) => task_run::run(&options),
        Task::Test(options) => task_test::run(&options),
        Task::Bench(options) => task_bench::run(&options),
        Task::Fuzz(options) => task_fuzz::run(&options),
        Task::Replay(options) => task_replay::run(&options),
        Task::Audit(options) => task_audit::run(&options),
    };
    match done {
        Ok(code) => code,
        Err(error) => fail(&error),
    }
}

/// Prints help as it is, and what is wrong with the command line as one line.
fn refuse(error: &clap::Error) -> ExitCode {
    use clap::error::ErrorKind::{DisplayHelp, DisplayHelpOnMissingArgumentOrSubcommand, DisplayVersion};
    match error.kind() {
        DisplayHelp | DisplayVersion | DisplayHelpOnMissingArgumentOrSubcommand => error.exit(),
        _ => {
            // The paragraphs that follow the first are about usage in general.
            let text = error.to_string();
            eprintln!("{}", one_line(text.split("\n\n").next().unwrap_or_default()));
            ExitCode::from(2)
        }
    }
}

/// Prints `error` as its one line, after the lines of what is missing.
fn fail(error: &anyhow::Error) -> ExitCode {
    if let Some(missing) = error.downcast_ref::<missing::MissingThings>() {
        for thing in missing.things() {
            eprintln!("{thing}");
        }
        if let Some(hint) = missing.hint_line() {
            eprintln!("{hint}");
        }
    }
    eprintln!("error: {}", one_line(&format!("{error:#}")));
    ExitCode::FAILURE
}

/// `text` without line breaks, so that an error stays one line whatever program it came from.
fn one_line(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}
