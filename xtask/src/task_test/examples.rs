//! The steps that run the examples. Each has in its header what it prints, in a block of ```text```, and how to run it; it is short;
//! and what it prints now must be that, to the letter.

use super::Context;
use super::step::{Outcome, Step};
use crate::process;
use crate::workspace::cargo;
use anyhow::{Context as _, Result, bail, ensure};
use std::path::Path;
use std::process::Command;

/// The longest example, in lines.
const LONGEST: usize = 150;

/// One step for each file in `examples/`.
pub(crate) fn steps(root: &Path) -> Vec<Step> {
    match names(root) {
        Ok(names) => names.into_iter().map(step).collect(),
        Err(error) => vec![Step::new("examples", move |_, _| Outcome::Failed(format!("{error:#}")))],
    }
}

/// The examples by their names, in order.
pub(super) fn names(root: &Path) -> Result<Vec<String>> {
    let directory = root.join("examples");
    let mut names = Vec::new();
    for entry in directory.read_dir().with_context(|| format!("cannot read {}", directory.display()))? {
        let path = entry?.path();
        if path.extension().is_some_and(|extension| extension == "rs") {
            names.extend(path.file_stem().map(|stem| stem.to_string_lossy().into_owned()));
        }
    }
    names.sort();
    ensure!(!names.is_empty(), "{} has no example", directory.display());
    Ok(names)
}

/// How a reader runs it.
pub(super) fn command_line(name: &str) -> String {
    format!("cargo run --example {name}")
}

fn step(name: String) -> Step {
    Step::new(format!("example {name}"), move |context, output| Outcome::of(run(&name, context, output)))
}

fn run(name: &str, context: &Context, output: &mut String) -> Result<String> {
    let path = context.workspace.root.join("examples").join(name).with_extension("rs");
    let text = std::fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
    let promised = promise(name, &text)?;
    let mut command = Command::new(cargo());
    command.args(["run", "--quiet", "--example", name]);
    let captured = process::capture(command.current_dir(&context.workspace.root))?;
    output.push_str(&captured.stdout);
    output.push_str(&captured.stderr);
    ensure!(captured.success, "{}", captured.complaint());
    compare(&promised, &captured.stdout)?;
    Ok(format!("{} lines, as it says", promised.lines().count()))
}

/// What the header of an example says that it prints.
fn promise(name: &str, text: &str) -> Result<String> {
    let lines = text.lines().count();
    ensure!(lines <= LONGEST, "{lines} lines; at most {LONGEST}");
    let mut header = text
        .lines()
        .map_while(|line| line.strip_prefix("//!"))
        .map(|line| line.strip_prefix(' ').unwrap_or(line));
    let command = format!("`{}`", command_line(name));
    ensure!(
        header.by_ref().any(|line| line == command),
        "its header does not say {command} before it says what that prints"
    );
    ensure!(header.by_ref().any(|line| line == "```text"), "its header does not say what it prints");
    let mut printed = String::new();
    for line in header {
        if line == "```" {
            ensure!(!printed.is_empty(), "its header says that it prints nothing");
            return Ok(printed);
        }
        printed.push_str(line);
        printed.push('\n');
    }
    bail!("what its header says has no end")
}

/// The first line in which the two differ is the complaint.
fn compare(promised: &str, printed: &str) -> Result<()> {
    let (mut promised, mut printed) = (promised.lines(), printed.lines());
    loop {
        match (promised.next(), printed.next()) {
            (None, None) => return Ok(()),
            (one, other) if one == other => {}
            (Some(one), Some(other)) => bail!("it prints {other:?} where its header says {one:?}"),
            (Some(one), None) => bail!("it does not print {one:?}"),
            (None, Some(other)) => bail!("its header does not say that it prints {other:?}"),
        }
    }
}

#[cfg(test)]
mod tests;
