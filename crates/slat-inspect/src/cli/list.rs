//! `list`: what is mapped, in the order of addresses.

use super::dump::{Dump, Opener};
use super::input::{Bounds, Input};
use super::output::{Emphasis, Hex, Output, Text, go_on};
use super::qemu::{Listing, Printer};
use super::runs::{self, Row, Sink, TroubleRow, Troubles};
use super::{Finding, progress, words};
use crate::{End, Format, Mapping, Run, RunLine, Summary, Tables, Trouble, TypeOnly, Visitor};
use anyhow::{Result, ensure};
use serde::Serialize;
use std::io;
use std::ops::ControlFlow;

/// List what is mapped: ranges with permissions, memory type, leaf size, accessed and dirty flags
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Options {
    #[command(flatten)]
    input: Input,

    #[command(flatten)]
    bounds: Bounds,

    /// How to list it
    #[arg(long, value_enum, value_name = "STYLE", default_value_t = Style::Ranges)]
    style: Style,

    /// Also begin a new range where accessed or dirty flags differ
    #[arg(long)]
    marks: bool,
}

/// Styles of a listing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Style {
    /// Ranges of leaves that continue each other.
    Ranges,
    /// Each leaf, with its entry.
    Leaves,
    /// As `info tlb` of QEMU's monitor prints x86-64 tables.
    QemuTlb,
    /// As `info mem` of QEMU's monitor prints x86-64 and RISC-V tables.
    QemuMem,
}

/// The beginning of the JSON object.
#[derive(Serialize)]
pub(crate) struct Head {
    pub(crate) format: Text<Format>,
    pub(crate) root: Hex,
    pub(crate) levels: u8,
    pub(crate) input_bits: u32,
}

impl Head {
    pub(crate) fn of(tables: &Tables) -> Self {
        let root = tables.root();
        Self {
            format: Text(root.format()),
            root: Hex(root.table()),
            levels: root.level() + 1,
            input_bits: root.input_bits(),
        }
    }
}

/// The end of it.
#[derive(Serialize)]
struct Tail {
    troubles: Vec<TroubleRow>,
    trouble_count: u64,
    complete: bool,
    entries_read: u64,
    tables_read: u64,
}

pub(crate) fn run(options: &Options, opener: Opener, output: &mut Output<'_>) -> Result<Finding> {
    let (dump, tables) = options.input.open(opener)?;
    let (range, limit) = (options.bounds.range()?, options.bounds.limit);
    let listing = match options.style {
        Style::Ranges => return ranges(options, &dump, &tables, output),
        Style::Leaves => None,
        Style::QemuTlb => Some(Listing::Tlb),
        Style::QemuMem => Some(Listing::Memory),
    };
    ensure!(listing.is_none() || !output.json, "--style: with --json there are ranges and leaves");
    let printer = listing.map(|listing| Printer::new(listing, &tables, output)).transpose()?;
    if output.json {
        output.begin_list(&Head::of(&tables), "leaves")?;
    }
    let mut leaves =
        Leaves { tables: &tables, printer, output, count: 0, troubles: Troubles::default(), failed: None };
    let summary = progress::visit(&tables, &dump, range, limit, &mut leaves);
    let Leaves { printer, troubles, failed, output, .. } = leaves;
    if let Some(error) = failed {
        return Err(error);
    }
    if let Some(mut printer) = printer {
        printer.finish(output)?;
        ensure!(
            troubles.count == 0,
            "{} entries are malformed or lead nowhere; `list` shows them",
            troubles.count
        );
    } else if output.json {
        output.end_list(&tail(&summary, &troubles))?;
    } else {
        troubles.print(output)?;
    }
    runs::complete(&summary)?;
    Ok(Finding::Usual)
}

fn tail(summary: &Summary, troubles: &Troubles) -> Tail {
    Tail {
        troubles: troubles.rows(),
        trouble_count: troubles.count,
        complete: summary.end == End::Complete,
        entries_read: summary.entries,
        tables_read: summary.tables,
    }
}

/// Prints runs as they come.
struct Printed<'a, 'o> {
    format: Format,
    output: &'a mut Output<'o>,
    count: u64,
    troubles: Troubles,
}

impl Sink for Printed<'_, '_> {
    fn run(&mut self, run: &Run) -> io::Result<()> {
        self.count += 1;
        if self.output.json {
            let row: Row = Row::of(self.format, run);
            return self.output.item(&row, self.count == 1).map_err(io::Error::other);
        }
        self.output.line(RunLine(self.format, run))
    }

    fn trouble(&mut self, trouble: &Trouble) -> io::Result<()> {
        self.troubles.add(trouble);
        if self.output.json || self.troubles.count > self.troubles.first.len() as u64 {
            return Ok(());
        }
        let line = self.output.emphasised(Emphasis::Alarm, trouble);
        self.output.line(line)
    }
}

fn ranges(options: &Options, dump: &Dump, tables: &Tables, output: &mut Output<'_>) -> Result<Finding> {
    if output.json {
        output.begin_list(&Head::of(tables), "ranges")?;
    }
    let format = tables.root().format();
    let mut printed = Printed { format, output, count: 0, troubles: Troubles::default() };
    let bounds = (options.bounds.range()?, options.bounds.limit);
    let summary = runs::visit((dump, tables), bounds.0, bounds.1, options.marks, &mut printed)?;
    let Printed { output, count, troubles, .. } = printed;
    if output.json {
        output.end_list(&tail(&summary, &troubles))?;
    } else {
        let more = troubles.count - troubles.first.len() as u64;
        if more > 0 {
            output.line(format_args!("... and {more} more that are wrong"))?;
        }
        if count == 0 && troubles.count == 0 {
            output.line("nothing is mapped")?;
        }
    }
    runs::complete(&summary)?;
    Ok(Finding::Usual)
}

/// A leaf in JSON.
#[derive(Serialize)]
struct LeafRow {
    first: Hex,
    size: u64,
    output: Hex,
    permissions: String,
    memory: String,
    flags: Vec<&'static str>,
    entry: Hex,
    value: Hex,
}

/// Prints leaves as they come.
struct Leaves<'a, 'o> {
    tables: &'a Tables,
    printer: Option<Printer>,
    output: &'a mut Output<'o>,
    count: u64,
    troubles: Troubles,
    failed: Option<anyhow::Error>,
}

impl Leaves<'_, '_> {
    fn print(&mut self, mapping: &Mapping) -> Result<()> {
        self.count += 1;
        if let Some(printer) = &mut self.printer {
            return Ok(printer.leaf(self.tables.root(), mapping, self.output)?);
        }
        if self.output.json {
            let row = LeafRow {
                first: Hex(mapping.address),
                size: mapping.length,
                output: Hex(mapping.output),
                permissions: words::permissions(self.tables.root().format(), mapping.permissions),
                memory: TypeOnly(mapping.leaf.memory).to_string(),
                flags: mapping.flags.words().collect(),
                entry: Hex(mapping.at.address()),
                value: Hex(mapping.at.raw),
            };
            return self.output.item(&row, self.count == 1);
        }
        Ok(self.output.line(words::mapping(self.tables.root().format(), mapping))?)
    }
}

impl Visitor for Leaves<'_, '_> {
    fn leaf(&mut self, mapping: &Mapping) -> ControlFlow<()> {
        let printed = self.print(mapping);
        go_on(printed, &mut self.failed)
    }

    fn trouble(&mut self, trouble: &Trouble) -> ControlFlow<()> {
        self.troubles.add(trouble);
        ControlFlow::Continue(())
    }
}
