//! `cargo xtask audit --mutants`: breaks the library on purpose, in every way that cargo-mutants knows, and records what the
//! tests notice.
//!
//! Invariant: a unit is recorded once all of its mutants are tested, and the record is written after each batch; so a run
//! that is interrupted, or does a shard, has done the more for the next one.

use super::listing::{self, Unit};
use super::record::{LEAST, Outcome, Record, Score};
use super::worker::Worker;
use super::{scope, tools};
use crate::process;
use crate::workspace::Workspace;
use anyhow::{Context, Result, bail};
use indicatif::{ProgressBar, ProgressStyle};
use std::collections::{BTreeMap, VecDeque};
use std::fs;
use std::io::IsTerminal;
use std::path::Path;
use std::str::FromStr;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread;

/// How many mutants go to one run of cargo-mutants; a function is never divided.
const BATCH: usize = 40;

/// Part K of N.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Shard {
    number: usize,
    of: usize,
}

impl FromStr for Shard {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let numbers =
            text.split_once('/').and_then(|(number, of)| Some((number.parse().ok()?, of.parse().ok()?)));
        match numbers {
            Some((number, of)) if (1..=of).contains(&number) => Ok(Self { number, of }),
            _ => Err("K/N with K from 1 to N is wanted, such as 2/4".to_owned()),
        }
    }
}

/// What is to be tested.
#[derive(Clone, Debug, Default)]
pub(crate) struct Choice {
    pub(crate) shard: Option<Shard>,
    pub(crate) files: Vec<String>,
    pub(crate) retest_missed: bool,
    pub(crate) jobs: usize,
}

/// Mutants of one file that are tested together: the units, and of each the mutants that are tested.
type Batch = Vec<(Unit, Vec<listing::Mutant>)>;

/// The library as it is now.
struct Snapshot {
    /// The hash of each audited file.
    files: BTreeMap<String, String>,
    units: Vec<Unit>,
}

impl Snapshot {
    /// Looks at the copy of a worker: nobody edits that one meanwhile.
    fn of(worker: &Worker) -> Result<Self> {
        let units = listing::units(&worker.list()?, |file| read(&worker.tree, file))?;
        if let Some(unit) = units.iter().find(|unit| !scope::contains(&unit.file)) {
            bail!("cargo-mutants lists {}, which .cargo/mutants.toml should exclude", unit.file);
        }
        Ok(Self { files: hashes(&worker.tree)?, units })
    }
}

fn read(root: &Path, file: &str) -> Result<String> {
    fs::read_to_string(root.join(file)).with_context(|| format!("cannot read {file}"))
}

fn hashes(root: &Path) -> Result<BTreeMap<String, String>> {
    let files = scope::files(root)?.into_iter();
    files.map(|file| Ok((file.clone(), listing::hash(&read(root, &file)?)))).collect()
}

/// The audited files whose text is not the recorded one.
pub(crate) fn changed_files(root: &Path, record: &Record) -> Result<Vec<String>> {
    let changed = hashes(root)?.into_iter().filter(|(file, hash)| !record.holds(file, hash));
    Ok(changed.map(|(file, _)| file).collect())
}

/// Tests what is not recorded, records it, prints the score; an error if that is too low.
pub(crate) fn audit(workspace: &Workspace, choice: &Choice) -> Result<String> {
    tools::obtain(&[tools::MUTANTS, tools::NEXTEST])?;
    let mut record = Record::read(&workspace.root)?;
    let first = Worker::new(workspace, 0)?;
    let snapshot = Snapshot::of(&first)?;
    let batches = batches(&record, &snapshot.units, choice);
    record.settle(&snapshot.files, &snapshot.units);
    let record = test(workspace, first, batches, choice.jobs, record, |record| {
        record.settle(&snapshot.files, &snapshot.units);
        record.write(&workspace.root)
    })?;
    record.write(&workspace.root)?;
    print!("{}", table(&record));
    let left = snapshot.units.iter().filter(|unit| !record.knows(unit)).count();
    if left > 0 {
        println!("{left} functions are not recorded yet");
    }
    record.verdict().map(|score| score.to_string())
}

/// What became of the mutants of changed functions; nothing is recorded.
pub(crate) enum Changes {
    /// There are none.
    None,
    /// There are so many, more than a test run can bear.
    TooMany(usize),
    /// The score, and the survivors.
    Tested(Score, Vec<String>),
}

/// Tests the mutants of functions that are not recorded as they are, if they are at most `most`.
pub(crate) fn test_changes(workspace: &Workspace, record: &Record, most: usize) -> Result<Changes> {
    let first = Worker::new(workspace, 0)?;
    let snapshot = Snapshot::of(&first)?;
    let batches = batches(record, &snapshot.units, &Choice::default());
    let count = count(&batches);
    if count == 0 {
        return Ok(Changes::None);
    }
    if count > most {
        return Ok(Changes::TooMany(count));
    }
    let tested = test(workspace, first, batches, 1, Record::default(), |_| Ok(()))?;
    let survivors = tested.missed().map(|(file, function, key, _)| format!("{file}: {function}: {key}"));
    Ok(Changes::Tested(tested.scores().1, survivors.collect()))
}

fn count(batches: &[Batch]) -> usize {
    batches.iter().flatten().map(|(_, mutants)| mutants.len()).sum()
}

/// What is to be tested of `units`, in batches of one file each.
fn batches(record: &Record, units: &[Unit], choice: &Choice) -> Vec<Batch> {
    let mut batches: Vec<Batch> = Vec::new();
    let of_shard = |index: usize| choice.shard.is_none_or(|shard| index % shard.of + 1 == shard.number);
    let of_file = |unit: &Unit| {
        choice.files.is_empty() || choice.files.iter().any(|glob| scope::matches(glob, &unit.file))
    };
    for (_, unit) in units.iter().enumerate().filter(|(index, unit)| of_shard(*index) && of_file(unit)) {
        let mutants = if !record.knows(unit) {
            unit.mutants.clone()
        } else if choice.retest_missed {
            let survivors = record.unexplained(unit);
            unit.mutants.iter().filter(|mutant| survivors.contains(&mutant.key)).cloned().collect()
        } else {
            continue;
        };
        if mutants.is_empty() {
            continue;
        }
        let part = (unit.clone(), mutants);
        match batches.last_mut() {
            Some(batch)
                if batch[0].0.file == unit.file
                    && count(std::slice::from_ref(batch)) + part.1.len() <= BATCH =>
            {
                batch.push(part);
            }
            _ => batches.push(vec![part]),
        }
    }
    batches
}

/// What the threads share.
struct Shared<'a> {
    queue: VecDeque<Batch>,
    record: Record,
    save: &'a mut (dyn FnMut(&mut Record) -> Result<()> + Send),
    done: usize,
    missed: usize,
    /// How many of its batch each worker has done.
    running: Vec<usize>,
    failure: Option<anyhow::Error>,
}

/// Tests `batches` on so many threads, adds the outcomes to `record` and calls `save` after each of them.
fn test(
    workspace: &Workspace,
    first: Worker,
    batches: Vec<Batch>,
    jobs: usize,
    record: Record,
    mut save: impl FnMut(&mut Record) -> Result<()> + Send,
) -> Result<Record> {
    let total = count(&batches);
    if total == 0 {
        return Ok(record);
    }
    let jobs = jobs.clamp(1, batches.len());
    let mut workers = vec![first];
    for number in 1..jobs {
        workers.push(Worker::new(workspace, number)?);
    }
    let bar = bar(total);
    let shared = Mutex::new(Shared {
        queue: batches.into(),
        record,
        save: &mut save,
        done: 0,
        missed: 0,
        running: vec![0; jobs],
        failure: None,
    });
    thread::scope(|scope| {
        for (number, worker) in workers.iter().enumerate() {
            let (shared, bar) = (&shared, bar.as_ref());
            scope.spawn(move || {
                if let Err(error) = work(shared, worker, number, total, bar) {
                    let mut shared = lock(shared);
                    shared.queue.clear();
                    shared.failure.get_or_insert(error);
                }
            });
        }
    });
    if let Some(bar) = bar {
        bar.finish_and_clear();
    }
    let shared = shared.into_inner().unwrap_or_else(PoisonError::into_inner);
    match shared.failure {
        Some(error) => Err(error),
        None => Ok(shared.record),
    }
}

fn lock<'m, 'a>(shared: &'m Mutex<Shared<'a>>) -> MutexGuard<'m, Shared<'a>> {
    shared.lock().unwrap_or_else(PoisonError::into_inner)
}

/// One thread: tests batches until there are no more.
fn work(
    shared: &Mutex<Shared<'_>>,
    worker: &Worker,
    number: usize,
    total: usize,
    bar: Option<&ProgressBar>,
) -> Result<()> {
    if bar.is_none() {
        eprintln!("worker {number}: the tests without any mutant …");
    }
    worker.check_baseline()?;
    loop {
        let Some(batch) = lock(shared).queue.pop_front() else { return Ok(()) };
        let file = batch[0].0.file.clone();
        let names: Vec<&str> =
            batch.iter().flat_map(|(_, mutants)| mutants).map(|mutant| mutant.name.as_str()).collect();
        let outcomes = worker.test(&file, &names, |done| {
            let mut shared = lock(shared);
            shared.running[number] = done;
            if let Some(bar) = bar {
                bar.set_position((shared.done + shared.running.iter().sum::<usize>()) as u64);
                bar.set_message(format!("{} missed, in {file}", shared.missed));
            }
        })?;
        let mut shared = lock(shared);
        for (unit, mutants) in &batch {
            let of_unit: Vec<(String, Outcome)> = mutants
                .iter()
                .filter_map(|mutant| Some((mutant.key.clone(), *outcomes.get(&mutant.name)?)))
                .collect();
            shared.missed += of_unit.iter().filter(|(_, outcome)| *outcome == Outcome::Missed).count();
            shared.record.add(unit, &of_unit);
        }
        shared.running[number] = 0;
        shared.done += names.len();
        let Shared { record, save, .. } = &mut *shared;
        save(record)?;
        if bar.is_none() {
            eprintln!("{} of {total} mutants, {} missed: {file}", shared.done, shared.missed);
        }
        if process::interrupted() {
            bail!("interrupted");
        }
    }
}

fn bar(total: usize) -> Option<ProgressBar> {
    std::io::stderr().is_terminal().then(|| {
        let bar = ProgressBar::new(total as u64);
        if let Ok(style) =
            ProgressStyle::with_template("[{bar:30}] {pos}/{len} mutants, {elapsed}, {eta} left: {wide_msg}")
        {
            bar.set_style(style.progress_chars("━╸ "));
        }
        bar
    })
}

/// The scores as the user sees them.
fn table(record: &Record) -> String {
    let (files, total) = record.scores();
    let lines = files.into_iter().chain([("all", total)]);
    let line = |(name, score): (&str, Score)| {
        let mark = if score.percent() < LEAST { "  below the least for all" } else { "" };
        format!("{:>46}  {score}{mark}\n", name.trim_start_matches("crates/slat/src/"))
    };
    lines.map(line).collect()
}

#[cfg(test)]
mod tests;
