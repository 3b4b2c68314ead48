//! Runs of a dump: given one by one, or kept; and as JSON.

use super::dump::Dump;
use super::output::{Hex, Output, go_on};
use super::{progress, words};
use crate::{End, Format, Mapping, Run, Runs, Summary, Tables, Trouble, TroubleKind, TypeOnly, Visitor};
use anyhow::{Result, bail, ensure};
use serde::Serialize;
use std::io;
use std::ops::{ControlFlow, RangeInclusive};

/// Runs that a command keeps at most, where it has to keep them all; what it takes is some hundred MiB.
pub(crate) const MOST_KEPT: usize = 1 << 21;

/// Troubles that are described one by one.
const MOST_TROUBLES: usize = 100;

/// A run in JSON.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Row {
    first: Hex,
    last: Hex,
    size: u64,
    output: Hex,
    permissions: String,
    memory: String,
    leaf_size: u64,
    accessed: &'static str,
    dirty: &'static str,
    flags: Vec<&'static str>,
}

impl Row {
    pub(crate) fn of(format: Format, run: &Run) -> Self {
        Self {
            first: Hex(run.address),
            last: Hex(run.last),
            size: run.size(),
            output: Hex(run.output),
            permissions: words::permissions(format, run.permissions),
            memory: TypeOnly(run.memory).to_string(),
            leaf_size: run.leaf_size,
            accessed: words::mark(run.accessed),
            dirty: words::mark(run.dirty),
            flags: run.flags.words().collect(),
        }
    }
}

/// What becomes of runs.
pub(crate) trait Sink {
    /// A run that is complete.
    fn run(&mut self, run: &Run) -> io::Result<()>;

    /// What is wrong in between.
    fn trouble(&mut self, trouble: &Trouble) -> io::Result<()> {
        let _ = trouble;
        Ok(())
    }
}

/// What troubles there were.
#[derive(Clone, Debug, Default)]
pub(crate) struct Troubles {
    /// The first ones.
    pub(crate) first: Vec<Trouble>,
    /// How many in all.
    pub(crate) count: u64,
}

impl Troubles {
    /// Takes one in.
    pub(crate) fn add(&mut self, trouble: &Trouble) {
        self.count += 1;
        if self.first.len() < MOST_TROUBLES {
            self.first.push(*trouble);
        }
    }

    /// Tells people of them.
    pub(crate) fn print(&self, output: &mut Output<'_>) -> io::Result<()> {
        use super::output::Emphasis::Alarm;
        for trouble in &self.first {
            let line = output.emphasised(Alarm, trouble);
            output.line(line)?;
        }
        let more = self.count - self.first.len() as u64;
        if more > 0 { output.line(format_args!("... and {more} more that are wrong")) } else { Ok(()) }
    }

    /// As JSON.
    pub(crate) fn rows(&self) -> Vec<TroubleRow> {
        self.first.iter().map(TroubleRow::of).collect()
    }
}

/// A trouble in JSON.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct TroubleRow {
    kind: &'static str,
    first: Hex,
    size: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    entry: Option<Hex>,
    #[serde(skip_serializing_if = "Option::is_none")]
    value: Option<Hex>,
    text: String,
}

impl TroubleRow {
    pub(crate) fn of(trouble: &Trouble) -> Self {
        Self {
            kind: match trouble.kind {
                TroubleKind::Malformed(_) => "malformed",
                TroubleKind::Unreadable { .. } => "unreadable",
                TroubleKind::Cycle { .. } => "cycle",
            },
            first: Hex(trouble.address),
            size: trouble.length,
            entry: trouble.at.map(|at| Hex(at.address())),
            value: trouble.at.map(|at| Hex(at.raw)),
            text: trouble.to_string(),
        }
    }
}

/// Gives all runs of `range` to `sink`, in order; by marks also where only those differ.
pub(crate) fn visit(
    (dump, tables): (&Dump, &Tables),
    range: RangeInclusive<u64>,
    limit: u64,
    by_marks: bool,
    sink: &mut impl Sink,
) -> Result<Summary> {
    let mut merger = Merger { sink, runs: Runs::new(by_marks), failed: None };
    let summary = progress::visit(tables, dump, range, limit, &mut merger);
    let Merger { sink, mut runs, failed } = merger;
    if let Some(error) = failed {
        return Err(error.into());
    }
    if let Some(run) = runs.finish() {
        sink.run(&run)?;
    }
    Ok(summary)
}

/// All runs of `range`, if they are not too many, and what is wrong.
pub(crate) fn collect(
    input: (&Dump, &Tables),
    range: RangeInclusive<u64>,
    limit: u64,
    by_marks: bool,
) -> Result<(Vec<Run>, Troubles)> {
    struct Kept(Vec<Run>, Troubles);
    impl Sink for Kept {
        fn run(&mut self, run: &Run) -> io::Result<()> {
            if self.0.len() == MOST_KEPT {
                return Err(io::Error::other(format!(
                    "there are more than {MOST_KEPT} ranges; --from and --to take a part of them"
                )));
            }
            self.0.push(*run);
            Ok(())
        }

        fn trouble(&mut self, trouble: &Trouble) -> io::Result<()> {
            self.1.add(trouble);
            Ok(())
        }
    }
    let mut kept = Kept(Vec::new(), Troubles::default());
    let summary = visit(input, range, limit, by_marks, &mut kept)?;
    complete(&summary)?;
    Ok((kept.0, kept.1))
}

/// Refuses what was not visited to its end.
pub(crate) fn complete(summary: &Summary) -> Result<()> {
    if let End::Truncated { address } = summary.end {
        bail!(
            "{} entries were read, and nothing is known from {address:#x} on; --limit reads more",
            summary.entries
        );
    }
    ensure!(summary.end == End::Complete, "the listing was broken off");
    Ok(())
}

struct Merger<'a, S> {
    sink: &'a mut S,
    runs: Runs,
    failed: Option<io::Error>,
}

impl<S: Sink> Merger<'_, S> {
    /// Tells of a run that is complete, then of what stands behind it.
    fn tell(&mut self, complete: Option<Run>, trouble: Option<&Trouble>) -> ControlFlow<()> {
        let told = complete.map_or(Ok(()), |run| self.sink.run(&run));
        let told = told.and_then(|()| trouble.map_or(Ok(()), |trouble| self.sink.trouble(trouble)));
        go_on(told, &mut self.failed)
    }
}

impl<S: Sink> Visitor for Merger<'_, S> {
    fn leaf(&mut self, mapping: &Mapping) -> ControlFlow<()> {
        match self.runs.push(mapping) {
            None => ControlFlow::Continue(()),
            complete => self.tell(complete, None),
        }
    }

    fn trouble(&mut self, trouble: &Trouble) -> ControlFlow<()> {
        let complete = self.runs.finish();
        self.tell(complete, Some(trouble))
    }
}
