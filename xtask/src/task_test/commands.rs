//! The commands that the documents show: every line of their blocks of ```sh``` is executed, or stands for a step that does just that.
//!
//! A new command in a document wants a line in [`COMMANDS`]; one that is there and that no document shows wants to go. Examples need
//! none: `cargo run --example NAME` is the step `example NAME`. Nor do those of `slat-inspect`: one step executes all.

use super::step::{Outcome, Step};
use super::{Context, examples, inspect, tidy};
use crate::process;
use anyhow::{Context as _, Result, bail, ensure};
use std::collections::BTreeSet;
use std::process::Command;

/// How it is shown that a command works.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Shown {
    /// It is executed as it stands, and has to end well.
    Here,
    /// The same, where there are emulators.
    Emulated,
    /// A shorter one is executed in its place.
    Short(&'static str),
    /// The step of this name does just this.
    By(&'static str),
    /// It takes minutes or hours, and no test should: the step of this name shows most of it. Here its options are looked at.
    Long(&'static str),
    /// It is this very test, or a part of it. Here its options are looked at, and whether there is a step for its filter.
    Itself,
}

/// The same program, built as the benchmark is and counting instructions.
const BENCH: Shown = Shown::Long("instruction counts have not grown");

/// Every command of the documents, without what is behind `#`; those between `&&` are one.
const COMMANDS: &[(&str, Shown)] = &[
    ("cargo install --path crates/slat-inspect", Shown::By("slat-inspect: cargo install")),
    ("cargo run --bin slat-check -- --hostile", Shown::By("a million hostile accesses")),
    (
        "cargo run --bin slat-check -- --hostile --accesses 5000000",
        Shown::Short("cargo run --bin slat-check -- --hostile --accesses 50000"),
    ),
    (
        "cargo run --bin slat-check -- --seed 7 --operations 200000",
        Shown::Short("cargo run --bin slat-check -- --seed 7 --operations 4000"),
    ),
    (
        "SLAT_CHECK_WALKS=10000000 cargo test --test guest_walk",
        Shown::Short("SLAT_CHECK_WALKS=100000 cargo test --test guest_walk"),
    ),
    ("cargo test", Shown::By("host tests")),
    ("cargo xtask audit", Shown::Short("cargo xtask audit --licences")),
    ("cargo xtask audit --advisories --licences --msrv --semver", Shown::Here),
    ("cargo xtask audit --coverage", Shown::Long("host tests")),
    ("cargo xtask audit --mutants", Shown::Long("mutants of what has changed")),
    ("cargo xtask bench", BENCH),
    ("cargo xtask bench --bytes", BENCH),
    ("cargo xtask bench --code-size", Shown::Emulated),
    ("cargo xtask bench --json figures.json --svg figures.svg", BENCH),
    ("cargo xtask bench --only map-4k --instructions", BENCH),
    ("cargo xtask bench --only map-4k --only fault", BENCH),
    ("cargo xtask bench --quick", BENCH),
    ("cargo xtask bench --sharing", BENCH),
    ("cargo xtask fuzz --seconds 600", Shown::Long("host tests")),
    ("cargo xtask run", Shown::Emulated),
    ("cargo xtask run --arch riscv64", Shown::By("RISC-V: Linux, and the same natively")),
    ("cargo xtask run --arch riscv64 --fork 3", Shown::By("RISC-V: a guest is forked three times")),
    ("cargo xtask run --arch riscv64 --guest u-boot", Shown::By("RISC-V: U-Boot")),
    ("cargo xtask run --arch riscv64 --guests 3", Shown::By("RISC-V: three guests at once")),
    ("cargo xtask run --arch riscv64 --migrate", Shown::By("RISC-V: a guest moves while it works")),
    (
        "cargo xtask run --arch riscv64 --monitor-commands \"regs; map; query 0x80200000; stats; faults; audit\"",
        Shown::By("RISC-V: Linux with 4k leaves, stopped for the monitor"),
    ),
    (
        "cargo xtask run --arch riscv64 --page-out --pool 40M",
        Shown::By("RISC-V: paging: a guest that uses more than there is goes on"),
    ),
    (
        "cargo xtask run --arch riscv64 --snapshot linux.slat && cargo xtask run --arch riscv64 --restore linux.slat",
        Shown::Emulated,
    ),
    ("cargo xtask run --arch x86_64", Shown::By("x86 on Bochs: Linux on corei7_haswell_4770")),
    ("cargo xtask run --churn --cpus 2 --record boot.slat && cargo xtask replay boot.slat", Shown::Emulated),
    ("cargo xtask run --cpus 2", Shown::By("boot under churn on two CPUs")),
    ("cargo xtask run --help", Shown::Here),
    ("cargo xtask run --machine model --format ept --cpus 4 --churn", Shown::Here),
    (
        "cargo xtask run --machine model --format ept --report boot.html --trace boot.json",
        Shown::By("a trace and its story in a browser: ept"),
    ),
    ("cargo xtask run --report boot.html --trace boot.json", Shown::By("boot with 4k leaves")),
    ("cargo xtask run --vendor amd", Shown::By("x86 on QEMU: Linux on EPYC, stopped for the monitor")),
    ("cargo xtask test", Shown::Itself),
    ("cargo xtask test --filter \"RISC-V\"", Shown::Itself),
    ("cargo xtask test --filter \"x86 on\"", Shown::Itself),
    ("cargo xtask test --filter churn", Shown::Itself),
    ("cargo xtask test --no-emulator --filter example", Shown::Itself),
];

/// What the rest of the steps' names begins with.
const PREFIX: &str = "documented: ";

/// The step that holds documents and list against each other.
pub(crate) const LIST: &str = "documents: every command is executed";

/// That step; `names` are those of all others.
pub(crate) fn list(names: BTreeSet<String>) -> Step {
    Step::new(LIST, move |context, _| {
        Outcome::of(documented(context).and_then(|shown| {
            let complaints = judge(COMMANDS, &shown, &names);
            ensure!(complaints.is_empty(), "{}", complaints.join("\n"));
            Ok(format!("{} commands", shown.len()))
        }))
    })
}

/// The steps that execute commands without an emulator.
pub(crate) fn steps() -> Vec<Step> {
    executed(|shown| matches!(shown, Shown::Here | Shown::Short(_)))
}

/// Those that execute commands with one, behind all others: what they need is set up by then.
pub(crate) fn emulated() -> Vec<Step> {
    executed(|shown| shown == Shown::Emulated)
}

fn executed(wanted: impl Fn(Shown) -> bool) -> Vec<Step> {
    let commands = COMMANDS.iter().copied().filter(|(_, shown)| wanted(*shown));
    let step = |(command, shown)| {
        let line = if let Shown::Short(line) = shown { line } else { command };
        Step::new(format!("{PREFIX}{line}"), move |context, output| {
            execute(line, context, output).unwrap_or_else(|error| Outcome::Failed(format!("{error:#}")))
        })
    };
    commands.map(step).collect()
}

/// The commands of all documents, each once, and where it was seen first.
fn documented(context: &Context) -> Result<Vec<(String, String)>> {
    let root = &context.workspace.root;
    let mut found: Vec<(String, String)> = Vec::new();
    for path in tidy::files(context)?.iter().filter(|path| path.ends_with(".md")) {
        if root.join(path).is_symlink() {
            continue;
        }
        let text = std::fs::read_to_string(root.join(path)).with_context(|| format!("cannot read {path}"))?;
        for command in commands_of(&text) {
            if found.iter().all(|(known, _)| *known != command) {
                found.push((command, path.clone()));
            }
        }
    }
    ensure!(!found.is_empty(), "no document shows a command");
    Ok(found)
}

/// The lines of the blocks of sh in a document, without their comments.
pub(super) fn commands_of(text: &str) -> Vec<String> {
    let (mut commands, mut inside) = (Vec::new(), false);
    for line in text.lines() {
        if line.starts_with("```") {
            inside = line == "```sh";
        } else if inside {
            let command = line.split(" #").next().unwrap_or_default().trim();
            if !command.is_empty() && !command.starts_with('#') {
                commands.push(command.to_owned());
            }
        }
    }
    commands
}

/// Complaints about commands of which nobody knows whether they work.
fn judge(list: &[(&str, Shown)], shown: &[(String, String)], names: &BTreeSet<String>) -> Vec<String> {
    let mut complaints = Vec::new();
    let mut step_exists = |command: &str, step: &str| {
        if !names.contains(step) {
            complaints.push(format!("`{command}`: there is no step `{step}`"));
        }
    };
    let mut unknown = Vec::new();
    for (command, path) in shown {
        let example = command.strip_prefix(&examples::command_line("")).map(|name| format!("example {name}"));
        let example =
            example.or_else(|| command.starts_with("slat-inspect ").then(|| inspect::README.to_owned()));
        match (list.iter().find(|(known, _)| known == command), example) {
            (Some((_, Shown::By(step) | Shown::Long(step))), _) => step_exists(command, step),
            (Some(_), _) => {}
            (None, Some(step)) => step_exists(command, &step),
            (None, None) => {
                unknown.push(format!("{path}: `{command}` is executed by no step (see {})", file!()))
            }
        }
    }
    complaints.extend(unknown);
    for (command, how) in list {
        if shown.iter().all(|(known, _)| known != command) {
            complaints.push(format!("`{command}` is in no document any more"));
        }
        if let Err(error) = options_exist(command, *how, names) {
            complaints.push(format!("`{command}`: {error:#}"));
        }
    }
    complaints
}

/// Whether each part of a command that is a task of ours has options that the task takes.
fn options_exist(command: &str, how: Shown, names: &BTreeSet<String>) -> Result<()> {
    for part in command.split(" && ") {
        let words = words(part)?;
        let Some((["cargo", "xtask"], arguments)) = split(&words) else { continue };
        crate::parse(arguments)?;
        let filter =
            arguments.iter().position(|word| *word == "--filter").and_then(|at| arguments.get(at + 1));
        if let (Shown::Itself, Some(filter)) = (how, filter) {
            ensure!(names.iter().any(|name| name.contains(filter)), "no step has {filter:?} in its name");
        }
    }
    Ok(())
}

fn split<'w>(words: &'w [&'w str]) -> Option<([&'w str; 2], &'w [&'w str])> {
    let (first, rest) = words.split_first_chunk()?;
    Some((*first, rest))
}

/// The words of a command. What only a shell can do is refused, but for quotes around one word.
pub(super) fn words(command: &str) -> Result<Vec<&str>> {
    let mut words = Vec::new();
    let mut rest = command.trim();
    while !rest.is_empty() {
        let (word, after) = match rest.strip_prefix('"') {
            Some(quoted) => {
                quoted.split_once('"').with_context(|| format!("a quote without an end: {command}"))?
            }
            None => rest.split_once(' ').unwrap_or((rest, "")),
        };
        if rest.starts_with(['|', '<', '>', '\'', '(', '$', ';', '&']) || word.ends_with([';', '\\']) {
            bail!("only a shell could execute this: {command}");
        }
        words.push(word);
        rest = after.trim_start();
    }
    Ok(words)
}

/// Executes a command, each of its parts where that before has ended well. Files that it names without a directory are in one that is
/// removed afterwards, where the command is a task of ours.
fn execute(command: &str, context: &Context, output: &mut String) -> Result<Outcome> {
    let directory = tempfile::tempdir().context("no temporary directory")?;
    for part in command.split(" && ") {
        let mut words = words(part)?;
        let assigned = words.iter().take_while(|word| word.contains('=')).count();
        let environment: Vec<_> = words.drain(..assigned).filter_map(|word| word.split_once('=')).collect();
        let mut child = match split(&words) {
            Some((["cargo", "xtask"], arguments)) => {
                // What cargo would build and start is this program.
                let mut child = Command::new(std::env::current_exe().context("this program has no path")?);
                child.args(arguments.iter().map(|word| match word.ends_with(".slat") {
                    true => directory.path().join(word).into_os_string(),
                    false => word.into(),
                }));
                child
            }
            Some((["cargo", task], arguments)) => {
                let mut child = Command::new(crate::workspace::cargo());
                child.arg(task).args(arguments);
                child
            }
            _ => bail!("no command of cargo: {part}"),
        };
        child.envs(environment).current_dir(&context.workspace.root);
        let captured = process::capture(&mut child)?;
        output.push_str(&captured.stdout);
        output.push_str(&captured.stderr);
        if let Some(missing) = captured.stderr.lines().find(|line| line.starts_with("missing: ")) {
            return Ok(Outcome::Impossible(missing.to_owned()));
        }
        ensure!(captured.success, "{}", captured.complaint());
    }
    Ok(Outcome::Passed(String::new()))
}

#[cfg(test)]
mod tests;
