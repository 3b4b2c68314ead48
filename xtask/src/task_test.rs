//! `cargo xtask test`: everything that can be tested, here and in CI.
//!
//! Protocol: each step prints one line with its outcome and time, its output only when it failed (or with
//! `--verbose`); the last line is `N passed, N failed, N skipped`. A step that this machine cannot do is counted
//! as skipped, in CI as failed.

mod command_line;
mod emulator;
mod flat;
mod instructions;
mod linux;
mod mutants;
mod on_model;
mod oracle;
mod recorded;
mod riscv;
mod scenarios;
mod step;
mod tidy;
mod traced;
mod workspace_steps;
mod x86;

use crate::host::Host;
use crate::process;
use crate::workspace::Workspace;
use anyhow::{Result, bail};
use std::process::ExitCode;
use step::{Board, Step};

/// Runs every test: style, lints, documentation, host tests, slat beside a model of the hardware, guests on that
/// model, mutants of what has changed, instruction counts, and guests in the emulator.
///
/// The emulator, the bare-metal toolchain and the guests' files are set up as by `cargo xtask run`. What this
/// machine cannot do is counted as skipped, or as failed where the environment says CI=true. The last line
/// gives the counts; the exit code is 0 only if nothing failed.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Options {
    /// Only the steps whose name contains this
    #[arg(long, value_name = "TEXT", default_value = "", hide_default_value = true)]
    filter: String,

    /// Leave out everything that needs the emulator
    #[arg(long)]
    no_emulator: bool,

    /// Show the output of every step, not only of failed ones
    #[arg(long)]
    verbose: bool,
}

/// What every step may use.
pub(crate) struct Context {
    pub(crate) host: Host,
    pub(crate) workspace: Workspace,
}

/// Carries out `cargo xtask test`.
pub(crate) fn run(options: &Options) -> Result<ExitCode> {
    let ci = std::env::var_os("CI").is_some_and(|value| value == "true" || value == "1");
    let context = Context { host: Host::detect(), workspace: Workspace::find()? };
    let mut board = Board::new(options.verbose, ci, Box::new(std::io::stdout()));

    let wanted = |steps: Vec<Step>| -> Vec<Step> {
        steps.into_iter().filter(|step| step.name().contains(&options.filter)).collect()
    };
    board.run(wanted(tidy::steps()), &context, 1);
    board.run(wanted(workspace_steps::lints()), &context, 1);
    // None of these depends on how long it takes; while one builds or has a single thread left, another one runs. The
    // longest come first.
    let busy = [
        workspace_steps::tests(),
        oracle::steps(),
        on_model::steps(),
        traced::steps(),
        mutants::steps(),
        instructions::steps(),
    ];
    board.run(wanted(busy.into_iter().flatten().collect()), &context, 2);
    board.run(wanted(command_line::steps()), &context, 1);
    if !options.no_emulator {
        emulator::run(&mut board, &context, emulator::suite(&options.filter));
        riscv::run(&mut board, &context, riscv::suite(&options.filter));
        x86::run(&mut board, &context, x86::suite(&options.filter));
    }
    let nothing_failed = board.finish();
    if process::interrupted() {
        bail!("interrupted");
    }
    Ok(if nothing_failed { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
