//! `stats`: how much is mapped, and how.

use super::dump::Opener;
use super::input::{Bounds, Input};
use super::number::Size;
use super::output::{Emphasis, Output};
use super::runs::{self, TroubleRow, Troubles};
use super::{Finding, progress, words};
use crate::{
    Bytes, Descend, End, LeafFlags, Mapping, MemoryType, Permissions, Pointer, Trouble, TypeOnly, Visitor,
};
use anyhow::Result;
use serde::Serialize;
use std::collections::{BTreeMap, HashSet};
use std::fmt;
use std::io;
use std::ops::ControlFlow;

/// Tables that are told apart at most: beyond that they are counted as if no two were the same.
const MOST_TABLES: usize = 1 << 22;

/// Count what is mapped: leaf sizes, permissions, memory types, accessed and dirty flags, tables
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Options {
    #[command(flatten)]
    input: Input,

    #[command(flatten)]
    bounds: Bounds,
}

/// Leaves of one kind.
#[derive(Clone, Copy, Debug, Default, Serialize)]
struct Amount {
    leaves: u64,
    bytes: u128,
}

impl Amount {
    fn add(&mut self, mapping: &Mapping) {
        self.leaves += 1;
        self.bytes += u128::from(mapping.length);
    }
}

#[derive(Default)]
struct Counted {
    all: Amount,
    sizes: BTreeMap<u64, Amount>,
    permissions: BTreeMap<Permissions, Amount>,
    memory: BTreeMap<MemoryType, Amount>,
    accessed: Amount,
    dirty: Amount,
    global: Amount,
    /// By level of their entries.
    tables: BTreeMap<u8, u64>,
    different: HashSet<u64>,
    uncounted: u64,
    troubles: Troubles,
}

impl Visitor for Counted {
    fn leaf(&mut self, mapping: &Mapping) -> ControlFlow<()> {
        self.all.add(mapping);
        self.sizes.entry(mapping.leaf.size).or_default().add(mapping);
        self.permissions.entry(mapping.permissions).or_default().add(mapping);
        self.memory.entry(mapping.leaf.memory).or_default().add(mapping);
        let flags = [
            (LeafFlags::ACCESSED, &mut self.accessed),
            (LeafFlags::DIRTY, &mut self.dirty),
            (LeafFlags::GLOBAL, &mut self.global),
        ];
        for (flag, amount) in flags {
            if mapping.flags.contains(flag) {
                amount.add(mapping);
            }
        }
        ControlFlow::Continue(())
    }

    fn table(&mut self, pointer: &Pointer) -> ControlFlow<(), Descend> {
        *self.tables.entry(pointer.at.level.saturating_sub(1)).or_default() += 1;
        if self.different.len() < MOST_TABLES {
            self.different.insert(pointer.table.address);
        } else {
            self.uncounted += 1;
        }
        ControlFlow::Continue(Descend::Yes)
    }

    fn trouble(&mut self, trouble: &Trouble) -> ControlFlow<()> {
        self.troubles.add(trouble);
        ControlFlow::Continue(())
    }
}

#[derive(Serialize)]
struct Report {
    #[serde(flatten)]
    head: super::list::Head,
    mapped: Amount,
    by_leaf_size: BTreeMap<String, Amount>,
    by_permissions: BTreeMap<String, Amount>,
    by_memory_type: BTreeMap<String, Amount>,
    accessed: Amount,
    dirty: Amount,
    global: Amount,
    /// Tables by level of their entries, counted from the leaf; one that is pointed to twice counts twice.
    tables_by_level: BTreeMap<u8, u64>,
    /// Frames that tables lie in, the root's among them.
    table_frames: u64,
    entries_read: u64,
    troubles: Vec<TroubleRow>,
    trouble_count: u64,
    complete: bool,
}

pub(crate) fn run(options: &Options, opener: Opener, output: &mut Output<'_>) -> Result<Finding> {
    let (dump, tables) = options.input.open(opener)?;
    let mut counted = Counted::default();
    let (range, limit) = (options.bounds.range()?, options.bounds.limit);
    let summary = progress::visit(&tables, &dump, range, limit, &mut counted);
    let root = tables.root();
    *counted.tables.entry(root.level()).or_default() += 1;
    let root_frames = root.bytes().div_ceil(4096);
    let text = |value: &dyn fmt::Display| value.to_string();
    let report = Report {
        head: super::list::Head::of(&tables),
        mapped: counted.all,
        by_leaf_size: counted
            .sizes
            .iter()
            .map(|(size, &amount)| (text(&Size((*size).into())), amount))
            .collect(),
        by_permissions: counted
            .permissions
            .iter()
            .map(|(&permissions, &amount)| (words::permissions(root.format(), permissions), amount))
            .collect(),
        by_memory_type: sum(counted
            .memory
            .iter()
            .map(|(&memory, &amount)| (TypeOnly(memory).to_string(), amount))),
        accessed: counted.accessed,
        dirty: counted.dirty,
        global: counted.global,
        tables_by_level: counted.tables,
        table_frames: counted.different.len() as u64 + counted.uncounted + root_frames,
        entries_read: summary.entries,
        troubles: counted.troubles.rows(),
        trouble_count: counted.troubles.count,
        complete: summary.end == End::Complete,
    };
    if output.json {
        output.json(&report)?;
    } else {
        print(&report, dump_line(&dump), output)?;
        counted.troubles.print(output)?;
    }
    runs::complete(&summary)?;
    Ok(Finding::Usual)
}

fn dump_line(dump: &super::dump::Dump) -> String {
    let count = dump.ranges().count();
    let cpus = if dump.cpus.is_empty() { String::new() } else { format!(", {} CPUs", dump.cpus.len()) };
    let ranges = if count == 1 { "one range".to_owned() } else { format!("{count} ranges") };
    format!("{} in {ranges}{cpus}", Bytes(dump.size()))
}

/// Several keys may have the same name.
fn sum(amounts: impl Iterator<Item = (String, Amount)>) -> BTreeMap<String, Amount> {
    let mut sums = BTreeMap::<String, Amount>::new();
    for (name, Amount { leaves, bytes }) in amounts {
        let sum = sums.entry(name).or_default();
        sum.leaves += leaves;
        sum.bytes += bytes;
    }
    sums
}

fn print(report: &Report, dump: String, output: &mut Output<'_>) -> io::Result<()> {
    let head = &report.head;
    output.line(format_args!("dump    {dump}"))?;
    output.line(format_args!(
        "tables  {}, {} levels, {} bits, root at {}; {} frames ({})",
        head.format.0,
        head.levels,
        head.input_bits,
        head.root,
        report.table_frames,
        Size(u128::from(report.table_frames) * 4096)
    ))?;
    for (level, count) in report.tables_by_level.iter().rev() {
        output.line(format_args!("        {count:>10} of level {level}"))?;
    }
    let mut part = |title: &str, amounts: Vec<(String, Amount)>| -> io::Result<()> {
        let title = output.emphasised(Emphasis::Heading, title);
        output.line(title)?;
        for (name, amount) in amounts {
            output.line(format_args!(
                "        {name:<10} {:>10} leaves {:>12}",
                amount.leaves,
                Size(amount.bytes)
            ))?;
        }
        Ok(())
    };
    let named = |amounts: &BTreeMap<String, Amount>| -> Vec<_> {
        amounts.iter().map(|(name, amount)| (name.clone(), *amount)).collect()
    };
    part("mapped", vec![("all".to_owned(), report.mapped)])?;
    part("leaf size", named(&report.by_leaf_size))?;
    part("permissions", named(&report.by_permissions))?;
    part("memory type", named(&report.by_memory_type))?;
    part(
        "flags",
        vec![
            ("accessed".to_owned(), report.accessed),
            ("dirty".to_owned(), report.dirty),
            ("global".to_owned(), report.global),
        ],
    )
}
