//! What became of every mutant, as it is recorded in the tree: docs/mutants.json, and docs/mutants.md for readers.
//!
//! Invariant: what is recorded of a unit belongs to the text with its hash. One line per function and one per survivor,
//! in a fixed order, so that a change shows as the lines that it concerns.

use super::listing::Unit;
use anyhow::{Context, Result, bail};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fmt::{self, Write};
use std::fs;
use std::path::Path;

/// The record.
pub(crate) const FILE: &str = "docs/mutants.json";
/// Its survivors for readers.
pub(crate) const RENDERED: &str = "docs/mutants.md";

/// The least part of the mutants that can be built which must be caught, in percent.
pub(crate) const LEAST: f64 = 90.0;

/// What became of one mutant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    Caught,
    Timeout,
    Missed,
    Unviable,
}

/// A function, or the constants of a file.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Function {
    hash: String,
    #[serde(default, skip_serializing_if = "is_zero")]
    caught: usize,
    #[serde(default, skip_serializing_if = "is_zero")]
    timeout: usize,
    #[serde(default, skip_serializing_if = "is_zero")]
    unviable: usize,
    /// Why each survivor may live; empty where nobody has looked yet.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    missed: BTreeMap<String, String>,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde asks for it")]
fn is_zero(number: &usize) -> bool {
    *number == 0
}

/// A source file.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
struct File {
    /// The hash of the text for which everything is recorded; empty while something is missing.
    hash: String,
    functions: BTreeMap<String, Function>,
}

/// All source files.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub(crate) struct Record(BTreeMap<String, File>);

/// Mutants by what became of them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Score {
    pub(crate) caught: usize,
    pub(crate) timeout: usize,
    pub(crate) missed: usize,
    pub(crate) unviable: usize,
}

impl Score {
    /// Percent of the mutants that could be built which were caught; what could not be waited for counts as caught.
    pub(crate) fn percent(&self) -> f64 {
        let caught = self.caught + self.timeout;
        match caught + self.missed {
            0 => 100.0,
            viable => 100.0 * caught as f64 / viable as f64,
        }
    }

    fn add(&mut self, function: &Function) {
        self.caught += function.caught;
        self.timeout += function.timeout;
        self.missed += function.missed.len();
        self.unviable += function.unviable;
    }
}

impl fmt::Display for Score {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { caught, timeout, missed, unviable } = self;
        write!(f, "{:.1} %", self.percent())?;
        write!(f, " ({caught} caught, {missed} missed, {timeout} timeouts, {unviable} unviable)")
    }
}

impl Record {
    /// The record in the tree; an empty one where there is none yet.
    pub(crate) fn read(root: &Path) -> Result<Self> {
        let path = root.join(FILE);
        if !path.exists() {
            return Ok(Self::default());
        }
        let text = fs::read_to_string(&path).with_context(|| format!("cannot read {FILE}"))?;
        serde_json::from_str(&text).with_context(|| format!("{FILE} is no record of mutants"))
    }

    /// Whether the readers' page in the tree is that of this record.
    pub(crate) fn check_rendered(&self, root: &Path) -> Result<()> {
        let text =
            fs::read_to_string(root.join(RENDERED)).with_context(|| format!("cannot read {RENDERED}"))?;
        if text != self.rendered() {
            bail!("{RENDERED} is not what {FILE} says: cargo xtask audit --mutants");
        }
        Ok(())
    }

    /// Puts the record and what is rendered of it into the tree. An interrupt leaves the old one or the new one.
    pub(crate) fn write(&self, root: &Path) -> Result<()> {
        for (file, text) in [(FILE, self.json()), (RENDERED, self.rendered())] {
            let path = root.join(file);
            let new = path.with_extension("new");
            let written = fs::write(&new, text).and_then(|()| fs::rename(&new, &path));
            written.with_context(|| format!("cannot write {file}"))?;
        }
        Ok(())
    }

    /// Whether the file with this text is recorded whole.
    pub(crate) fn holds(&self, file: &str, hash: &str) -> bool {
        self.0.get(file).is_some_and(|recorded| recorded.hash == hash)
    }

    fn function(&self, unit: &Unit) -> Option<&Function> {
        let function = self.0.get(&unit.file)?.functions.get(&unit.function)?;
        (function.hash == unit.hash).then_some(function)
    }

    /// Whether everything about `unit` is recorded.
    pub(crate) fn knows(&self, unit: &Unit) -> bool {
        self.function(unit).is_some()
    }

    /// The survivors of `unit` that nobody has explained, by their keys, if it is recorded.
    pub(crate) fn unexplained(&self, unit: &Unit) -> Vec<String> {
        let missed = self.function(unit).map(|function| function.missed.iter()).into_iter().flatten();
        missed.filter(|(_, why)| why.trim().is_empty()).map(|(key, _)| key.clone()).collect()
    }

    /// Takes down what became of mutants of `unit`: of all if the unit was not known, else of some that had survived.
    pub(crate) fn add(&mut self, unit: &Unit, outcomes: &[(String, Outcome)]) {
        let functions = &mut self.0.entry(unit.file.clone()).or_default().functions;
        let old = functions.remove(&unit.function).unwrap_or_default();
        let mut new = Function { hash: unit.hash.clone(), ..Function::default() };
        if old.hash == unit.hash {
            new = old.clone();
            new.missed.retain(|key, _| !outcomes.iter().any(|(tested, _)| tested == key));
        }
        for (key, outcome) in outcomes {
            match outcome {
                Outcome::Caught => new.caught += 1,
                Outcome::Timeout => new.timeout += 1,
                Outcome::Unviable => new.unviable += 1,
                Outcome::Missed => {
                    // An explanation stays with its line for as long as the line stays.
                    let why = old.missed.get(key).cloned().unwrap_or_default();
                    new.missed.insert(key.clone(), why);
                }
            }
        }
        functions.insert(unit.function.clone(), new);
    }

    /// Drops what is no longer there, and marks the files of which everything is recorded. `files` are all audited
    /// files with their hashes, `units` all their units.
    pub(crate) fn settle(&mut self, files: &BTreeMap<String, String>, units: &[Unit]) {
        self.0.retain(|file, _| files.contains_key(file));
        for (file, hash) in files {
            let mut whole = true;
            let recorded = self.0.entry(file.clone()).or_default();
            let of_file = || units.iter().filter(|unit| unit.file == *file);
            recorded.functions.retain(|name, _| of_file().any(|unit| unit.function == *name));
            for unit in of_file() {
                whole &=
                    recorded.functions.get(&unit.function).is_some_and(|function| function.hash == unit.hash);
            }
            recorded.hash = if whole { hash.clone() } else { String::new() };
        }
    }

    /// The score of each file that has mutants, and of all.
    pub(crate) fn scores(&self) -> (Vec<(&str, Score)>, Score) {
        let (mut files, mut total) = (Vec::new(), Score::default());
        for (name, file) in &self.0 {
            let mut score = Score::default();
            file.functions.values().for_each(|function| score.add(function));
            file.functions.values().for_each(|function| total.add(function));
            if score != Score::default() {
                files.push((name.as_str(), score));
            }
        }
        (files, total)
    }

    /// All survivors: file, function, mutant, why.
    pub(crate) fn missed(&self) -> impl Iterator<Item = (&str, &str, &str, &str)> {
        self.0.iter().flat_map(|(file, recorded)| {
            recorded.functions.iter().flat_map(move |(name, function)| {
                let survivors = function.missed.iter();
                survivors.map(move |(key, why)| (file.as_str(), name.as_str(), key.as_str(), why.as_str()))
            })
        })
    }

    /// The total if enough mutants are caught and every survivor is explained.
    pub(crate) fn verdict(&self) -> Result<Score> {
        let (_, total) = self.scores();
        if total == Score::default() {
            bail!("{FILE} records no mutants: cargo xtask audit --mutants");
        }
        if total.percent() < LEAST {
            bail!("{total} of the mutants are caught, at least {LEAST} % must be");
        }
        let mut unexplained = self.missed().filter(|(.., why)| why.trim().is_empty());
        if let Some((file, function, key, _)) = unexplained.next() {
            let more = unexplained.count();
            bail!("{FILE} does not say why {file}: {function}: {key} may survive (and {more} more)");
        }
        Ok(total)
    }

    fn json(&self) -> String {
        // JSON of a string or of a flat structure cannot fail.
        fn json(value: &impl Serialize) -> String {
            serde_json::to_string(value).unwrap_or_default()
        }
        let lists = |open: &str, items: Vec<String>, close: &str| match items.is_empty() {
            true => format!("{open}{}", close.trim_start()),
            false => format!("{open}\n{}\n{close}", items.join(",\n")),
        };
        let function = |(name, function): (&String, &Function)| {
            let head = json(&Function { missed: BTreeMap::new(), ..function.clone() });
            let mut text = format!("    {}: {head}", json(name));
            if !function.missed.is_empty() {
                text.pop();
                let missed =
                    function.missed.iter().map(|(key, why)| format!("      {}: {}", json(key), json(why)));
                text.push_str(&format!(",\"missed\":{}}}", lists("{", missed.collect(), "    }")));
            }
            text
        };
        let file = |(name, file): (&String, &File)| {
            let functions = lists("{", file.functions.iter().map(function).collect(), "  }");
            format!("  {}: {{\"hash\":{},\"functions\":{functions}}}", json(name), json(&file.hash))
        };
        lists("{", self.0.iter().map(file).collect(), "}") + "\n"
    }

    /// The survivors for readers, by why they may live.
    pub(crate) fn rendered(&self) -> String {
        let (files, total) = self.scores();
        let mut text = format!(
            "# Mutants\n\nWritten by `cargo xtask audit --mutants` from [mutants.json](mutants.json), where the explanations \
             are.\n\nAll of `{}` but its instructions: {total}.\n\n| file | caught | score |\n|---|---|---|\n",
            super::scope::SOURCES
        );
        let mut line = |line: fmt::Arguments<'_>| text.write_fmt(line).expect("a string takes everything");
        let short =
            |file: &str| file.trim_start_matches(super::scope::SOURCES).trim_start_matches('/').to_owned();
        for (file, score) in files {
            let caught = score.caught + score.timeout;
            let viable = caught + score.missed;
            line(format_args!("| {} | {caught} of {viable} | {:.1} % |\n", short(file), score.percent()));
        }
        let mut reasons: BTreeMap<&str, Vec<String>> = BTreeMap::new();
        for (file, function, key, why) in self.missed() {
            let why = if why.trim().is_empty() { "Not explained yet" } else { why };
            reasons.entry(why).or_default().push(format!("- {}, `{function}`: {key}\n", short(file)));
        }
        line(format_args!("\n## What survives, and why it may\n"));
        for (why, survivors) in reasons {
            line(format_args!("\n**{why}** ({})\n\n{}", survivors.len(), survivors.concat()));
        }
        text
    }
}

#[cfg(test)]
mod tests;
