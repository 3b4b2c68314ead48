//! `lint`: what is wrong or suspicious. Most of it the library finds; frames that are mapped more than once are found here, with
//! memory that the library does not have.

use super::Finding as Found;
use super::dump::{Dump, Opener};
use super::input::{Bounds, Input};
use super::output::{Emphasis, Hex, Output, Text, go_on};
use super::runs;
use super::{number, progress};
use crate::{
    Descend, End, Finding, FindingKind, Lint, LintOptions, Mapping, Permissions, Pointer, Run, Severity,
    Tables, TroubleKind, Visitor,
};
use anyhow::{Result, bail};
use serde::Serialize;
use std::ops::{ControlFlow, RangeInclusive};

/// Tables that are kept at most, to find leaves that map them.
const MOST_TABLES: usize = 1 << 24;

/// Look for reserved bits, misconfigurations, write without read, write and execute, cached devices, mapped tables, aliases, small leaves
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Options {
    #[command(flatten)]
    input: Input,

    #[command(flatten)]
    bounds: Bounds,

    /// Physical addresses of a device, START-END (its end left out) or START+SIZE: nothing there should be cached
    #[arg(long, value_name = "RANGE", value_parser = number::parse_range)]
    device: Vec<(u64, u64)>,

    /// Leave out what is less severe
    #[arg(long, value_enum, value_name = "SEVERITY", default_value_t = Least::Note)]
    least: Least,

    /// Do not look for frames that are mapped more than once
    #[arg(long)]
    no_aliases: bool,
}

/// Severities on the command line.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Least {
    /// Usual, but worth to know.
    Note,
    /// Often a mistake.
    Warning,
    /// The hardware faults, or isolation is broken.
    Error,
}

/// A finding, in JSON.
#[derive(Serialize)]
struct Row {
    severity: Text<Severity>,
    kind: &'static str,
    first: Hex,
    size: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    entry: Option<Hex>,
    #[serde(skip_serializing_if = "Option::is_none")]
    value: Option<Hex>,
    text: String,
}

#[derive(Serialize)]
struct Tail {
    notes: u64,
    warnings: u64,
    errors: u64,
    complete: bool,
}

const fn kind(kind: &FindingKind) -> &'static str {
    match kind {
        FindingKind::Trouble(TroubleKind::Malformed(_)) => "malformed",
        FindingKind::Trouble(TroubleKind::Unreadable { .. }) => "unreadable",
        FindingKind::Trouble(TroubleKind::Cycle { .. }) => "cycle",
        FindingKind::Unusable => "unusable",
        FindingKind::WriteOnly => "write-only",
        FindingKind::WritableAndExecutable => "writable-and-executable",
        FindingKind::CacheableDevice(_) => "cacheable-device",
        FindingKind::MapsTables { .. } => "maps-tables",
        FindingKind::SmallLeaves(_) => "small-leaves",
    }
}

pub(crate) fn run(options: &Options, opener: Opener, output: &mut Output<'_>) -> Result<Found> {
    let (dump, tables) = options.input.open(opener)?;
    let (range, limit) = (options.bounds.range()?, options.bounds.limit);
    let devices: Vec<_> = options.device.iter().map(|&(first, last)| first..=last).collect();
    // All of them, whatever part is looked at: a leaf may map any.
    let addresses = table_addresses(&dump, &tables, limit)?;
    if output.json {
        output.begin_list(&super::list::Head::of(&tables), "findings")?;
    }
    let least = match options.least {
        Least::Note => Severity::Note,
        Least::Warning => Severity::Warning,
        Least::Error => Severity::Error,
    };
    let mut report = Report { output, least, counts: [0; 3], failed: None };
    let lint_options = LintOptions { devices: &devices, tables: &addresses };
    let mut lint = Lint::new(&tables, lint_options, |finding| report.library(finding));
    let summary = progress::visit(&tables, &dump, range.clone(), limit, &mut lint);
    // One that breaks off has said why.
    let _ = lint.finish();
    if report.failed.is_none() && summary.end == End::Complete && !options.no_aliases {
        aliases((&dump, &tables), range, limit, &mut report)?;
    }
    let Report { output, counts: [notes, warnings, errors], failed, .. } = report;
    if let Some(error) = failed {
        return Err(error);
    }
    let found = notes + warnings + errors > 0;
    if output.json {
        let complete = summary.end == End::Complete;
        output.end_list(&Tail { notes, warnings, errors, complete })?;
    } else {
        output.line(format_args!("{errors} errors, {warnings} warnings, {notes} notes"))?;
    }
    runs::complete(&summary)?;
    Ok(if found { Found::Noteworthy } else { Found::Usual })
}

/// Prints and counts.
struct Report<'a, 'o> {
    output: &'a mut Output<'o>,
    least: Severity,
    counts: [u64; 3],
    failed: Option<anyhow::Error>,
}

impl Report<'_, '_> {
    fn library(&mut self, finding: &Finding) -> ControlFlow<()> {
        let row = Row {
            severity: Text(finding.severity),
            kind: kind(&finding.kind),
            first: Hex(finding.address),
            size: finding.length,
            entry: finding.at.map(|at| Hex(at.address())),
            value: finding.at.map(|at| Hex(at.raw)),
            text: finding.to_string(),
        };
        self.add(&row)
    }

    fn add(&mut self, row: &Row) -> ControlFlow<()> {
        let severity = row.severity.0;
        if severity < self.least {
            return ControlFlow::Continue(());
        }
        let is_first = self.counts.iter().sum::<u64>() == 0;
        self.counts[severity as usize] += 1;
        let printed = if self.output.json {
            self.output.item(row, is_first)
        } else {
            let emphasis = match severity {
                Severity::Note => Emphasis::Dim,
                Severity::Warning => Emphasis::Heading,
                Severity::Error => Emphasis::Alarm,
            };
            let line = self.output.emphasised(emphasis, &row.text);
            self.output.line(line).map_err(Into::into)
        };
        go_on(printed, &mut self.failed)
    }
}

/// The addresses of all frames that tables lie in, in order.
fn table_addresses(dump: &Dump, tables: &Tables, limit: u64) -> Result<Vec<u64>> {
    struct Addresses(Vec<u64>, bool);
    impl Visitor for Addresses {
        fn leaf(&mut self, _: &Mapping) -> ControlFlow<()> {
            ControlFlow::Continue(())
        }

        fn table(&mut self, pointer: &Pointer) -> ControlFlow<(), Descend> {
            if self.0.len() == MOST_TABLES {
                self.0.sort_unstable();
                self.0.dedup();
                // Half of them twice: that was worth it, and this need not happen at every table.
                if self.0.len() > MOST_TABLES / 2 {
                    self.1 = true;
                    return ControlFlow::Break(());
                }
            }
            self.0.push(pointer.table.address);
            // The tables of the last level have none below.
            ControlFlow::Continue(if pointer.at.level > 1 { Descend::Yes } else { Descend::Skip })
        }
    }
    let root = tables.root();
    let frames = (0..root.bytes().div_ceil(4096)).map(|frame| root.table() + 4096 * frame);
    let mut addresses = Addresses(frames.collect(), false);
    progress::visit(tables, dump, 0..=u64::MAX, limit, &mut addresses);
    if addresses.1 {
        bail!("there are more than {} tables", MOST_TABLES / 2);
    }
    addresses.0.sort_unstable();
    addresses.0.dedup();
    Ok(addresses.0)
}

/// Frames that are mapped more than once: one finding for frames in a row that overlap.
fn aliases(
    input: (&Dump, &Tables),
    range: RangeInclusive<u64>,
    limit: u64,
    report: &mut Report<'_, '_>,
) -> Result<()> {
    let tables = input.1;
    let (mut runs, _) = runs::collect(input, range, limit, false)?;
    runs.sort_unstable_by_key(|run| (run.output, run.address));
    // An operating system maps a frame for a process and for itself; a hypervisor has little reason to.
    let severity = if tables.root().format().is_second_stage() { Severity::Warning } else { Severity::Note };
    let mut rest = &runs[..];
    while let Some(first) = rest.first() {
        let mut end = end(first);
        let count = rest.iter().skip(1).take_while(|run| overlaps(&mut end, run)).count() + 1;
        let (group, others) = rest.split_at(count);
        rest = others;
        if group.len() == 1 {
            continue;
        }
        if report.add(&alias(severity, group)).is_break() {
            break;
        }
    }
    Ok(())
}

/// The last frame's last address.
fn end(run: &Run) -> u64 {
    run.output.saturating_add(run.size() - 1)
}

/// Whether the run's frames begin before `last` ends, which then ends with the later of both.
fn overlaps(last: &mut u64, run: &Run) -> bool {
    let overlaps = run.output <= *last;
    if overlaps {
        *last = (*last).max(end(run));
    }
    overlaps
}

/// What is said of at least two runs whose frames overlap.
fn alias(severity: Severity, group: &[Run]) -> Row {
    let (first, second) = (&group[0], &group[1]);
    let (frames, last) = (second.output, end(first).min(end(second)));
    let address = first.address.wrapping_add(frames - first.output);
    let writable = group.iter().filter(|run| run.permissions.contains(Permissions::WRITE)).count();
    let more =
        if group.len() > 2 { format!(", and more in {} ranges", group.len() - 2) } else { String::new() };
    let size = last - frames + 1;
    let text = format!(
        "{severity}: {address:#018x}-{:#018x}: memory at {frames:#x} is also mapped at {:#x}{more}; {writable} of {} can write",
        address.wrapping_add(size - 1),
        second.address,
        group.len()
    );
    Row {
        severity: Text(severity),
        kind: "aliases",
        first: Hex(address),
        size,
        entry: None,
        value: None,
        text,
    }
}
