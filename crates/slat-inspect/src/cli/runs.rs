//! Runs: neighbouring leaves that continue each other, as one.

use super::dump::Dump;
use super::output::{Hex, Output};
use super::{progress, words};
use crate::{
    Bytes, End, Format, LeafFlags, Letters, Mapping, MemoryType, Permissions, Summary, Tables, Trouble,
    TroubleKind, Visitor,
};
use anyhow::{Result, bail, ensure};
use serde::Serialize;
use std::fmt;
use std::io;
use std::ops::{ControlFlow, RangeInclusive};

/// Runs that a command keeps at most, where it has to keep them all; what it takes is some hundred MiB.
pub(crate) const MOST_KEPT: usize = 1 << 21;

/// Troubles that are described one by one.
const MOST_TROUBLES: usize = 100;

/// Marks of the hardware.
const MARKS: LeafFlags = LeafFlags::ACCESSED.union(LeafFlags::DIRTY);

/// How many of the leaves of a run have a mark.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Mark {
    None,
    Some,
    All,
}

impl Mark {
    fn of(is_set: bool) -> Self {
        if is_set { Self::All } else { Self::None }
    }

    fn with(self, other: Self) -> Self {
        if self == other { self } else { Self::Some }
    }

    /// A letter for it: capital for all, small for some.
    pub(crate) fn letter(self, letter: char) -> char {
        match self {
            Self::None => '-',
            Self::Some => letter.to_ascii_lowercase(),
            Self::All => letter,
        }
    }
}

/// Leaves in a row that map memory in a row in the same way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Run {
    /// The first address.
    pub(crate) address: u64,
    /// The last one.
    pub(crate) last: u64,
    /// The physical address that the first one is translated to.
    pub(crate) output: u64,
    /// The size of each leaf in bytes.
    pub(crate) leaf_size: u64,
    /// What all entries down to the leaves allow together.
    pub(crate) permissions: Permissions,
    /// The memory type.
    pub(crate) memory: MemoryType,
    /// Flags but for the marks.
    pub(crate) flags: LeafFlags,
    /// Accessed.
    pub(crate) accessed: Mark,
    /// Dirty.
    pub(crate) dirty: Mark,
}

impl Run {
    fn of(mapping: &Mapping) -> Self {
        Self {
            address: mapping.address,
            last: mapping.address.wrapping_add(mapping.length - 1),
            output: mapping.output,
            leaf_size: mapping.leaf.size,
            permissions: mapping.permissions,
            memory: mapping.leaf.memory,
            flags: mapping.flags.difference(MARKS),
            accessed: Mark::of(mapping.flags.contains(LeafFlags::ACCESSED)),
            dirty: Mark::of(mapping.flags.contains(LeafFlags::DIRTY)),
        }
    }

    /// Bytes; less than 2^64, because no format translates 64 bits.
    pub(crate) fn size(&self) -> u64 {
        self.last.wrapping_sub(self.address).wrapping_add(1)
    }

    /// Whether everything but the place and the marks is the same.
    pub(crate) fn is_alike(&self, other: &Self) -> bool {
        (self.leaf_size, self.permissions, self.memory, self.flags)
            == (other.leaf_size, other.permissions, other.memory, other.flags)
    }

    fn continues(&self, next: &Self, by_marks: bool) -> bool {
        self.last.wrapping_add(1) == next.address
            && self.output.wrapping_add(self.size()) == next.output
            && self.is_alike(next)
            && (!by_marks || (self.accessed, self.dirty) == (next.accessed, next.dirty))
    }

    fn extend(&mut self, next: &Self) {
        self.last = next.last;
        self.join_marks(next);
    }

    /// Takes in what marks another one has.
    pub(crate) fn join_marks(&mut self, other: &Self) {
        self.accessed = self.accessed.with(other.accessed);
        self.dirty = self.dirty.with(other.dirty);
    }

    /// As a line of a listing.
    pub(crate) fn line(&self, format: Format) -> impl fmt::Display + use<> {
        Line(format, *self)
    }

    /// As JSON.
    pub(crate) fn row(&self, format: Format) -> Row {
        Row {
            first: Hex(self.address),
            last: Hex(self.last),
            size: self.size(),
            output: Hex(self.output),
            permissions: words::permissions(format, self.permissions),
            memory: words::memory(self.memory),
            leaf_size: self.leaf_size,
            accessed: self.accessed,
            dirty: self.dirty,
            flags: words::flags(self.flags),
        }
    }
}

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
    accessed: Mark,
    dirty: Mark,
    flags: Vec<&'static str>,
}

/// A run as a line: addresses, size, output, permissions, memory type, leaf size, marks, flags.
struct Line(Format, Run);

impl fmt::Display for Line {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self(format, run) = self;
        write!(
            f,
            "{:#018x}-{:#018x} {:>11} -> {:#014x} {} {:<6} {:>7} {}{}",
            run.address,
            run.last,
            Bytes(run.size()).to_string(),
            run.output,
            Letters(*format, run.permissions),
            words::memory(run.memory),
            Bytes(run.leaf_size).to_string(),
            run.accessed.letter('A'),
            run.dirty.letter('D')
        )?;
        words::flags(run.flags).iter().try_for_each(|flag| write!(f, " {flag}"))
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
    let mut merger = Merger { sink, by_marks, run: None, failed: None };
    let summary = progress::visit(tables, dump, range, limit, &mut merger);
    let Merger { sink, run, failed, .. } = merger;
    if let Some(error) = failed {
        return Err(error.into());
    }
    if let Some(run) = run {
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
    by_marks: bool,
    run: Option<Run>,
    failed: Option<io::Error>,
}

impl<S: Sink> Merger<'_, S> {
    fn go_on(&mut self, result: io::Result<()>) -> ControlFlow<()> {
        match result {
            Ok(()) => ControlFlow::Continue(()),
            Err(error) => {
                self.failed = Some(error);
                ControlFlow::Break(())
            }
        }
    }
}

impl<S: Sink> Visitor for Merger<'_, S> {
    fn leaf(&mut self, mapping: &Mapping) -> ControlFlow<()> {
        let next = Run::of(mapping);
        match &mut self.run {
            Some(run) if run.continues(&next, self.by_marks) => {
                run.extend(&next);
                ControlFlow::Continue(())
            }
            run => {
                let complete = run.replace(next);
                let told = complete.map_or(Ok(()), |complete| self.sink.run(&complete));
                self.go_on(told)
            }
        }
    }

    fn trouble(&mut self, trouble: &Trouble) -> ControlFlow<()> {
        // In order: first what comes before it.
        let complete = self.run.take();
        let told = complete.map_or(Ok(()), |complete| self.sink.run(&complete));
        let told = told.and_then(|()| self.sink.trouble(trouble));
        self.go_on(told)
    }
}
