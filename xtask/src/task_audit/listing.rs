//! What cargo-mutants would break, by function: read from its `--list --json`.
//!
//! A unit is a function with its mutants, or the constants of a file. Its hash is that of its text without comments and
//! indentation, so that a unit that only moved, or is only described better, is the same unit.

use anyhow::{Context, Result};
use serde::Deserialize;
use sha2::{Digest, Sha256};
use std::collections::BTreeMap;

/// The name of the unit that holds what is outside of functions.
const CONSTANTS: &str = "constants";

#[derive(Clone, Debug, Deserialize)]
struct Position {
    line: usize,
    column: usize,
}

#[derive(Clone, Debug, Deserialize)]
struct Span {
    start: Position,
    end: Position,
}

#[derive(Clone, Debug, Deserialize)]
struct Function {
    function_name: String,
    span: Span,
}

/// A mutant as cargo-mutants lists it.
#[derive(Clone, Debug, Deserialize)]
struct Listed {
    name: String,
    file: String,
    function: Option<Function>,
    span: Span,
}

/// One mutant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Mutant {
    /// What cargo-mutants calls it: with line and column, so it changes when something above does.
    pub(crate) name: String,
    /// What the record calls it: by the text of its line.
    pub(crate) key: String,
}

/// A function, or the constants of a file, with its mutants.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Unit {
    pub(crate) file: String,
    pub(crate) function: String,
    pub(crate) hash: String,
    pub(crate) mutants: Vec<Mutant>,
}

/// The hash of a text without its comments, empty lines and indentation.
pub(crate) fn hash(text: &str) -> String {
    let mut digest = Sha256::new();
    for line in text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with("//")) {
        digest.update(line);
        digest.update("\n");
    }
    // 64 bits, for lines that one can read: nobody attacks these.
    digest.finalize().iter().take(8).map(|byte| format!("{byte:02x}")).collect()
}

/// The units in `json`, the output of `cargo mutants --list --json`, by file and in the order of their text. `read`
/// returns the text of a file.
pub(crate) fn units(json: &str, mut read: impl FnMut(&str) -> Result<String>) -> Result<Vec<Unit>> {
    let listed: Vec<Listed> = serde_json::from_str(json).context("cannot read the list of cargo-mutants")?;
    let mut files: BTreeMap<&str, Vec<&Listed>> = BTreeMap::new();
    for mutant in &listed {
        files.entry(&mutant.file).or_default().push(mutant);
    }
    let mut units = Vec::new();
    for (file, mutants) in files {
        let text = read(file)?;
        let lines: Vec<&str> = text.lines().collect();
        units.extend(units_of_file(file, &lines, &mutants));
    }
    Ok(units)
}

fn units_of_file(file: &str, lines: &[&str], mutants: &[&Listed]) -> Vec<Unit> {
    // Functions by where they begin, so that two of one name stay apart; the constants come first.
    let mut groups: BTreeMap<(usize, usize), Vec<&Listed>> = BTreeMap::new();
    for mutant in mutants {
        let start = mutant.function.as_ref().map_or((0, 0), |f| (f.span.start.line, f.span.start.column));
        groups.entry(start).or_default().push(mutant);
    }
    let mut names = BTreeMap::new();
    let mut units = Vec::new();
    for group in groups.into_values() {
        let (name, text) = match &group[0].function {
            Some(function) => (function.function_name.as_str(), text_of(lines, &function.span)),
            None => {
                let mut spans: Vec<_> =
                    group.iter().map(|mutant| (mutant.span.start.line, mutant.span.end.line)).collect();
                spans.sort_unstable();
                spans.dedup();
                let text: Vec<_> =
                    spans.into_iter().map(|(first, last)| whole_lines(lines, first, last)).collect();
                (CONSTANTS, text.join("\n"))
            }
        };
        let mut keys = BTreeMap::new();
        let mutants = group
            .iter()
            .map(|mutant| Mutant { name: mutant.name.clone(), key: numbered(&mut keys, key(mutant, lines)) });
        units.push(Unit {
            file: file.to_owned(),
            hash: hash(&text),
            mutants: mutants.collect(),
            function: numbered(&mut names, name.to_owned()),
        });
    }
    units
}

/// `name`, and from its second time on with a number.
fn numbered(seen: &mut BTreeMap<String, usize>, name: String) -> String {
    let times = seen.entry(name.clone()).or_default();
    *times += 1;
    if *times == 1 { name } else { format!("{name} ({times})") }
}

/// What happens, and to which line; the column is counted in the text of the line.
fn key(mutant: &Listed, lines: &[&str]) -> String {
    let line = lines.get(mutant.span.start.line - 1).copied().unwrap_or_default();
    let indentation = line.len() - line.trim_start().len();
    let name = mutant.name.splitn(4, ':').last().unwrap_or_default().trim();
    let name = match &mutant.function {
        Some(function) => {
            let inside = format!(" in {}", function.function_name);
            name.strip_suffix(&inside).unwrap_or(name).replace(&format!("{} ", function.function_name), "")
        }
        None => name.to_owned(),
    };
    format!("{name} @{} `{}`", mutant.span.start.column.saturating_sub(indentation), line.trim())
}

fn whole_lines(lines: &[&str], first: usize, last: usize) -> String {
    lines.get(first - 1..last.min(lines.len())).unwrap_or_default().join("\n")
}

/// The text in a span, whose lines and columns count from 1 and whose end is not part of it.
fn text_of(lines: &[&str], span: &Span) -> String {
    // Attributes and what else is on the first and the last line are no harm: rustfmt keeps functions on lines of
    // their own.
    whole_lines(lines, span.start.line, span.end.line)
}

#[cfg(test)]
mod tests;
