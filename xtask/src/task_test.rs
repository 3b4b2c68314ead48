//! `cargo xtask test`: everything that can be tested, here and in CI.
//!
//! Protocol: each step prints one line with its outcome and time, its output only when it failed (or with
//! `--verbose`); the last line is `N passed, N failed, N skipped`. A step that this machine cannot do is counted
//! as skipped, in CI as failed.

mod command_line;
mod commands;
mod documents;
mod emulator;
mod examples;
mod flat;
mod inspect;
mod instructions;
mod linux;
mod matrix;
mod monitor;
mod mutants;
mod on_model;
mod oracle;
mod recorded;
mod riscv;
mod scenarios;
mod step;
mod tidy;
mod traced;
pub(crate) mod workspace_steps;
mod x86;

use crate::host::Host;
use crate::process;
use crate::workspace::Workspace;
use anyhow::{Result, bail};
use std::collections::BTreeSet;
use std::path::Path;
use std::process::ExitCode;
pub(crate) use step::Tally;
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

/// All steps that need no emulator, in the order of their groups.
struct Plan {
    looks: Vec<Step>,
    lints: Vec<Step>,
    /// What the busy ones run; by itself, for it keeps all processors busy, and the others would wait for it.
    builds: Vec<Step>,
    /// None of these depends on how long it takes; while one builds or has a single thread left, another one runs. The
    /// longest come first.
    busy: Vec<Step>,
    command_line: Vec<Step>,
    /// Commands of the documents that need an emulator.
    emulated: Vec<Step>,
}

impl Plan {
    fn new(root: &Path) -> Self {
        let busy = [
            workspace_steps::tests(),
            instructions::steps(),
            oracle::steps(),
            on_model::steps(),
            traced::steps(),
            mutants::steps(),
            examples::steps(root),
            commands::steps(),
        ];
        let busy = busy.into_iter().flatten().collect();
        let (looks, mut lints) = (tidy::steps(), workspace_steps::lints());
        lints.extend(matrix::steps(&workspace_steps::PUBLISHED));
        let builds = workspace_steps::builds();
        let (command_line, emulated) = (command_line::steps(), commands::emulated());
        let mut plan = Self { looks, lints, builds, busy, command_line, emulated };
        let names = plan.names();
        plan.looks.push(commands::list(names.clone()));
        plan.looks.extend(documents::steps(names));
        plan
    }

    /// What all steps are called, those with an emulator among them.
    fn names(&self) -> BTreeSet<String> {
        let groups = [&self.looks, &self.lints, &self.builds, &self.busy, &self.command_line, &self.emulated];
        let here = groups.into_iter().flatten().map(|step| step.name().to_owned());
        let emulated = [
            inspect::suite("", true).names(),
            emulator::suite("").names(),
            riscv::suite("").names(),
            x86::suite("").names(),
        ];
        here.chain(emulated.into_iter().flatten()).collect()
    }
}

/// Carries out `cargo xtask test`.
pub(crate) fn run(options: &Options) -> Result<ExitCode> {
    let ci = std::env::var_os("CI").is_some_and(|value| value == "true" || value == "1");
    let context = Context { host: Host::detect(), workspace: Workspace::find()? };
    let mut board = Board::new(options.verbose, ci, Box::new(std::io::stdout()));

    let wanted = |steps: Vec<Step>| -> Vec<Step> {
        steps.into_iter().filter(|step| step.name().contains(&options.filter)).collect()
    };
    let plan = Plan::new(&context.workspace.root);
    board.run(wanted(plan.looks), &context, 1);
    board.run(wanted(plan.lints), &context, 1);
    board.run(wanted(plan.builds), &context, 1);
    board.run(wanted(plan.busy), &context, 2);
    board.run(wanted(plan.command_line), &context, 1);
    inspect::run(&mut board, &context, inspect::suite(&options.filter, !options.no_emulator));
    if !options.no_emulator {
        emulator::run(&mut board, &context, emulator::suite(&options.filter));
        riscv::run(&mut board, &context, riscv::suite(&options.filter));
        x86::run(&mut board, &context, x86::suite(&options.filter));
        board.run(wanted(plan.emulated), &context, 2);
    }
    let nothing_failed = board.finish();
    if process::interrupted() {
        bail!("interrupted");
    }
    Ok(if nothing_failed { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
