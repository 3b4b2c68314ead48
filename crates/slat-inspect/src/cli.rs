//! The command `slat-inspect`: dumps, listings, pictures. What tables mean is the library's business.
//!
//! Invariants: every failure is one line `error: ...` on stderr and exit code 2; a reader that goes away ends the program quietly;
//! colours and the progress bar are for terminals. Whatever the dump says, time is bounded by the entries that may be read
//! (`--limit`) and memory by the ranges that are kept (`runs::MOST_KEPT`).

mod decode;
mod diff;
mod draw;
mod dump;
mod fuzz;
mod input;
mod lint;
mod list;
mod number;
mod output;
mod progress;
mod qemu;
mod query;
mod reverse;
mod root;
mod runs;
mod stats;
mod words;

use anyhow::Result;
use clap::{Parser, Subcommand};
pub use dump::{Bytes, Opener};
pub use fuzz::fuzz;
use output::Output;
use std::ffi::OsString;
use std::io;
use std::process::ExitCode;

/// Reads the page tables of any hypervisor or OS out of a dump of its memory.
///
/// DUMP is FILE, FILE@ADDRESS or several of these with commas between them. A file is an ELF core of QEMU's dump-guest-memory
/// (addresses and CR3 are found in it) or raw memory from ADDRESS (or --base, or 0) on, as pmemsave writes it.
///
/// Exit codes: 0; 1 when `diff` finds a difference, `lint` a finding, `reverse` nothing, or `query` an address that does not
/// translate; 2 for an error.
#[derive(Parser)]
#[command(name = "slat-inspect", version, max_term_width = 100)]
struct Arguments {
    /// Print one JSON object and nothing else
    #[arg(long, global = true)]
    json: bool,

    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    List(list::Options),
    Query(query::Options),
    Reverse(reverse::Options),
    Diff(diff::Options),
    Stats(stats::Options),
    Lint(lint::Options),
    Draw(draw::Options),
    Root(root::Options),
    Decode(decode::Options),
}

/// What a command found, for the exit code.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Finding {
    /// What was asked for.
    Usual,
    /// What the exit code 1 is for.
    Noteworthy,
}

/// Runs the command line `arguments`, with files made readable by `opener`, and prints to `out`. Errors have been printed.
pub fn run(
    arguments: impl IntoIterator<Item = OsString>,
    opener: Opener,
    out: &mut dyn io::Write,
    is_terminal: bool,
) -> ExitCode {
    let arguments = match Arguments::try_parse_from(arguments) {
        Ok(arguments) => arguments,
        Err(error) => return refuse(&error),
    };
    let mut output = Output::new(out, arguments.json, is_terminal);
    let done = execute(arguments.command, opener, &mut output);
    // What was printed before an error is part of the answer.
    let flushed = output.finish();
    match done.and_then(|finding| flushed.map(|()| finding).map_err(Into::into)) {
        Ok(Finding::Usual) => ExitCode::SUCCESS,
        Ok(Finding::Noteworthy) => ExitCode::from(1),
        Err(error) if is_broken_pipe(&error) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {}", one_line(&format!("{error:#}")));
            ExitCode::from(2)
        }
    }
}

fn execute(command: Command, opener: Opener, output: &mut Output<'_>) -> Result<Finding> {
    match command {
        Command::List(options) => list::run(&options, opener, output),
        Command::Query(options) => query::run(&options, opener, output),
        Command::Reverse(options) => reverse::run(&options, opener, output),
        Command::Diff(options) => diff::run(&options, opener, output),
        Command::Stats(options) => stats::run(&options, opener, output),
        Command::Lint(options) => lint::run(&options, opener, output),
        Command::Draw(options) => draw::run(&options, opener, output),
        Command::Root(options) => root::run(&options, output),
        Command::Decode(options) => decode::run(&options, output),
    }
}

fn is_broken_pipe(error: &anyhow::Error) -> bool {
    let kinds = error.chain().filter_map(|cause| cause.downcast_ref::<io::Error>().map(io::Error::kind));
    let mut kinds = kinds.chain(error.chain().filter_map(|cause| {
        cause.downcast_ref::<serde_json::Error>().and_then(serde_json::Error::io_error_kind)
    }));
    kinds.any(|kind| kind == io::ErrorKind::BrokenPipe)
}

/// Prints help as it is, and what is wrong with the command line as one line.
fn refuse(error: &clap::Error) -> ExitCode {
    use clap::error::ErrorKind::{DisplayHelp, DisplayHelpOnMissingArgumentOrSubcommand, DisplayVersion};
    match error.kind() {
        DisplayHelp | DisplayVersion => {
            // A reader that has gone away has seen enough.
            let _ = error.print();
            ExitCode::SUCCESS
        }
        DisplayHelpOnMissingArgumentOrSubcommand => {
            let _ = error.print();
            ExitCode::from(2)
        }
        _ => {
            // The paragraphs that follow the first are about usage in general.
            let text = error.to_string();
            eprintln!("{}", one_line(text.split("\n\n").next().unwrap_or_default()));
            ExitCode::from(2)
        }
    }
}

/// `text` without line breaks, so that an error stays one line wherever it came from.
fn one_line(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}
