//! `diff`: what two dumps map differently.

use super::dump::{Dump, Opener};
use super::input::{Bounds, CpuOptions, DumpOptions, TableOptions};
use super::output::{Emphasis, Output};
use super::runs::{self, Row};
use super::{Finding, number};
use crate::{Run, RunLine, Tables};
use anyhow::{Context, Result, ensure};
use serde::Serialize;

/// Show what two dumps map differently
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Options {
    /// The first dump
    #[arg(value_name = "A")]
    first: String,

    /// The second dump
    #[arg(value_name = "B")]
    second: String,

    #[command(flatten)]
    dump_options: DumpOptions,

    #[command(flatten)]
    tables: TableOptions,

    #[command(flatten)]
    cpu: CpuOptions,

    /// Physical address of the root table in B, where it is another one
    #[arg(long, value_name = "ADDRESS", value_parser = number::parse)]
    root_b: Option<u64>,

    #[command(flatten)]
    bounds: Bounds,

    /// Also compare accessed and dirty flags
    #[arg(long)]
    marks: bool,

    /// Do not compare the frames that addresses are mapped to
    #[arg(long)]
    ignore_frames: bool,
}

/// A range that differs, in JSON.
#[derive(Serialize)]
struct Change {
    kind: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    a: Option<Row>,
    #[serde(skip_serializing_if = "Option::is_none")]
    b: Option<Row>,
}

#[derive(Serialize)]
struct Head {
    a: super::list::Head,
    b: super::list::Head,
}

#[derive(Serialize)]
struct Tail {
    differences: u64,
    bytes_added: u128,
    bytes_removed: u128,
    bytes_changed: u128,
    troubles_a: u64,
    troubles_b: u64,
}

pub(crate) fn run(options: &Options, opener: Opener, output: &mut Output<'_>) -> Result<Finding> {
    let open = |text: &str| -> Result<(Dump, Tables)> {
        let dump = options.dump_options.open(text, opener)?;
        let tables = options.tables.tables(&dump, &options.cpu).with_context(|| text.to_owned())?;
        Ok((dump, tables))
    };
    let (dump_a, tables_a) = open(&options.first)?;
    let (dump_b, tables_b) = match options.root_b {
        None => open(&options.second)?,
        Some(root) => {
            let dump = options.dump_options.open(&options.second, opener)?;
            let like = tables_a.root();
            let root = crate::Root::with_input_bits(like.format(), root, like.level(), like.input_bits())?;
            (dump, Tables::new(root, tables_a.decoder().cpu().clone()))
        }
    };
    ensure!(
        tables_a.root().format() == tables_b.root().format(),
        "one has {} tables, the other {}",
        tables_a.root().format(),
        tables_b.root().format()
    );
    let (range, limit) = (options.bounds.range()?, options.bounds.limit);
    let (runs_a, troubles_a) = runs::collect((&dump_a, &tables_a), range.clone(), limit, options.marks)?;
    let (runs_b, troubles_b) = runs::collect((&dump_b, &tables_b), range, limit, options.marks)?;

    let mut tail = Tail {
        differences: 0,
        bytes_added: 0,
        bytes_removed: 0,
        bytes_changed: 0,
        troubles_a: troubles_a.count,
        troubles_b: troubles_b.count,
    };
    if output.json {
        let head = Head { a: super::list::Head::of(&tables_a), b: super::list::Head::of(&tables_b) };
        output.begin_list(&head, "changes")?;
    }
    let format = tables_a.root().format();
    let how = How { marks: options.marks, frames: !options.ignore_frames };
    for (a, b) in differences(&runs_a, &runs_b, how) {
        tail.differences += 1;
        let size = a.or(b).map_or(0, |run| u128::from(run.size()));
        let (kind, bytes) = match (a, b) {
            (None, _) => ("added", &mut tail.bytes_added),
            (_, None) => ("removed", &mut tail.bytes_removed),
            _ => ("changed", &mut tail.bytes_changed),
        };
        *bytes += size;
        if output.json {
            let change =
                Change { kind, a: a.map(|run| Row::of(format, &run)), b: b.map(|run| Row::of(format, &run)) };
            output.item(&change, tail.differences == 1)?;
            continue;
        }
        if let Some(run) = a {
            let line = output.emphasised(Emphasis::Alarm, format_args!("- {}", RunLine(format, &run)));
            output.line(line)?;
        }
        if let Some(run) = b {
            let line = output.emphasised(Emphasis::Heading, format_args!("+ {}", RunLine(format, &run)));
            output.line(line)?;
        }
    }
    if output.json {
        output.end_list(&tail)?;
    } else if tail.differences == 0 {
        output.line("both map the same")?;
    }
    Ok(if tail.differences > 0 { Finding::Noteworthy } else { Finding::Usual })
}

/// What counts as a difference.
#[derive(Clone, Copy, Debug)]
struct How {
    marks: bool,
    frames: bool,
}

impl How {
    fn is_same(self, a: &Run, b: &Run) -> bool {
        a.is_alike(b)
            && (!self.frames || a.output == b.output)
            && (!self.marks || (a.accessed, a.dirty) == (b.accessed, b.dirty))
    }
}

/// The ranges that differ, in order: what each side maps there. Neighbours that differ in the same way are one.
fn differences(a: &[Run], b: &[Run], how: How) -> Vec<(Option<Run>, Option<Run>)> {
    let mut found: Vec<(Option<Run>, Option<Run>)> = Vec::new();
    let (mut a, mut b) = (Rest::new(a), Rest::new(b));
    loop {
        // As far as both are the same all along: one run, or a hole, on either side.
        let pair = match (a.next, b.next) {
            (None, None) => break,
            (Some(_), None) => (a.take_all(), None),
            (None, Some(_)) => (None, b.take_all()),
            (Some(left), Some(right)) if left.address < right.address => {
                (a.take_to(left.last.min(right.address - 1)), None)
            }
            (Some(left), Some(right)) if right.address < left.address => {
                (None, b.take_to(right.last.min(left.address - 1)))
            }
            (Some(left), Some(right)) => {
                let last = left.last.min(right.last);
                (a.take_to(last), b.take_to(last))
            }
        };
        if let (Some(left), Some(right)) = pair {
            if how.is_same(&left, &right) {
                continue;
            }
        }
        let joined = found.last().and_then(|before| Some((join(before.0, pair.0)?, join(before.1, pair.1)?)));
        match (found.last_mut(), joined) {
            (Some(before), Some(joined)) => *before = joined,
            _ => found.push(pair),
        }
    }
    found
}

/// Both as one, if the second continues the first; `Some(None)` if there is neither.
fn join(before: Option<Run>, next: Option<Run>) -> Option<Option<Run>> {
    match (before, next) {
        (None, None) => Some(None),
        (Some(before), Some(next)) => {
            let same_marks = (before.accessed, before.dirty) == (next.accessed, next.dirty);
            let continues = before.last.wrapping_add(1) == next.address
                && before.output.wrapping_add(before.size()) == next.output;
            (continues && same_marks && before.is_alike(&next))
                .then_some(Some(Run { last: next.last, ..before }))
        }
        _ => None,
    }
}

/// What is left of a list of runs: the next one may have lost its beginning.
struct Rest<'a> {
    next: Option<Run>,
    runs: std::slice::Iter<'a, Run>,
}

impl<'a> Rest<'a> {
    fn new(runs: &'a [Run]) -> Self {
        let mut runs = runs.iter();
        Self { next: runs.next().copied(), runs }
    }

    fn take_all(&mut self) -> Option<Run> {
        std::mem::replace(&mut self.next, self.runs.next().copied())
    }

    /// Takes the next one as far as `last`, which is in it.
    fn take_to(&mut self, last: u64) -> Option<Run> {
        let run = self.next?;
        if last >= run.last {
            return self.take_all();
        }
        let taken = Run { last, ..run };
        self.next = Some(Run { address: last + 1, output: run.output.wrapping_add(taken.size()), ..run });
        Some(taken)
    }
}

#[cfg(test)]
mod tests;
