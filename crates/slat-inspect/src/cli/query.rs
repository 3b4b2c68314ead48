//! `query`: each level of the walk for an address, and why it fails.

use super::dump::Opener;
use super::input::Input;
use super::output::{Emphasis, Hex, Output};
use super::{Finding, number, words};
use crate::{Access, AccessKind, Entry, PhysicalMemory as _, Step, Tables, Walk, WalkEnd};
use anyhow::Result;
use serde::Serialize;
use std::io;

/// Show each level of the walk for an address, decoded, and why it fails
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Options {
    #[command(flatten)]
    input: Input,

    /// Addresses
    #[arg(value_name = "ADDRESS", value_parser = number::parse, required = true)]
    addresses: Vec<u64>,
}

#[derive(Serialize)]
struct Answer {
    address: Hex,
    steps: Vec<StepRow>,
    result: &'static str,
    text: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    output: Option<Hex>,
    #[serde(skip_serializing_if = "Option::is_none")]
    permissions: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    memory: Option<String>,
    /// Accesses that are refused, and why.
    refused: Vec<String>,
}

#[derive(Serialize)]
struct StepRow {
    level: u8,
    name: &'static str,
    table: Hex,
    index: u16,
    entry: Hex,
    value: Hex,
    meaning: String,
}

#[derive(Serialize)]
struct Answers {
    #[serde(flatten)]
    head: super::list::Head,
    queries: Vec<Answer>,
}

pub(crate) fn run(options: &Options, opener: Opener, output: &mut Output<'_>) -> Result<Finding> {
    let (dump, tables) = options.input.open(opener)?;
    let walks: Vec<_> = options.addresses.iter().map(|&address| tables.walk(&dump, address)).collect();
    let all_mapped = walks.iter().all(|walk| walk.output().is_some());
    let queries: Vec<_> = walks.iter().map(|walk| answer(&tables, walk)).collect();
    if output.json {
        output.json(&Answers { head: super::list::Head::of(&tables), queries })?;
    } else {
        for (index, (query, walk)) in queries.iter().zip(&walks).enumerate() {
            if index > 0 {
                output.line("")?;
            }
            print(query, output)?;
            if let Some(word) = walk.output().and_then(|address| dump.read(address & !7)) {
                let address = walk.output().unwrap_or_default() & !7;
                output.line(format_args!("  memory at {address:#x}: {word:#018x}"))?;
            }
        }
    }
    Ok(if all_mapped { Finding::Usual } else { Finding::Noteworthy })
}

fn print(query: &Answer, output: &mut Output<'_>) -> io::Result<()> {
    let heading = output.emphasised(Emphasis::Heading, query.address);
    output.line(heading)?;
    for step in &query.steps {
        output.line(format_args!(
            "  {:<18} {:>4} of {}: {:#018x}  {}",
            step.name, step.index, step.table, step.value.0, step.meaning
        ))?;
    }
    let emphasis = if query.result == "mapped" { Emphasis::Heading } else { Emphasis::Alarm };
    let line = output.emphasised(emphasis, format_args!("  {}", query.text));
    output.line(line)?;
    for refused in &query.refused {
        output.line(format_args!("  {refused}"))?;
    }
    Ok(())
}

fn answer(tables: &Tables, walk: &Walk) -> Answer {
    let root = tables.root();
    let format = root.format();
    let (result, text) = match walk.end() {
        WalkEnd::Mapped(mapping) => {
            let target = walk.output().unwrap_or(mapping.output);
            let what = format!(
                "{} {:#x} -> {target:#x}: {} {}, a leaf of {}",
                format.address_name(),
                walk.address(),
                words::permissions(mapping.permissions),
                words::memory(mapping.leaf.memory),
                words::size(mapping.leaf.size)
            );
            ("mapped", what)
        }
        WalkEnd::Absent { level } => {
            ("absent", format!("not mapped: the {} is not present", format.entry_name(*level)))
        }
        WalkEnd::Malformed { level, problem } => {
            ("malformed", format!("not translated: the {}: {problem}", format.entry_name(*level)))
        }
        WalkEnd::OutOfRange => {
            let kind = if format.is_sign_extended() { "sign-extended " } else { "" };
            ("out of range", format!("not translated: it is no {kind}address of {} bits", root.input_bits()))
        }
        WalkEnd::Unreadable { address } => {
            ("unreadable", format!("unknown: the entry at {address:#x} is not in the dump"))
        }
    };
    let mapping = walk.mapping();
    Answer {
        address: Hex(walk.address()),
        steps: walk.steps().map(|step| row(tables, step)).collect(),
        result,
        text,
        output: walk.output().map(Hex),
        permissions: mapping.map(|mapping| words::permissions(mapping.permissions)),
        memory: mapping.map(|mapping| words::memory(mapping.leaf.memory)),
        refused: mapping.map(|mapping| refused(tables, mapping)).unwrap_or_default(),
    }
}

fn row(tables: &Tables, step: &Step) -> StepRow {
    let at = step.at;
    let meaning = match step.entry {
        Entry::Absent => "not present".to_owned(),
        Entry::Table(table) => {
            format!("table at {:#x}, at most {}", table.address, words::permissions(step.permissions))
        }
        Entry::Leaf(leaf) => format!(
            "leaf of {} at {:#x}, {} {} {}",
            words::size(leaf.size),
            leaf.address,
            words::permissions(leaf.permissions),
            words::memory(leaf.memory),
            words::flags(leaf.flags).join(" ")
        ),
        Entry::Malformed(problem) => format!("malformed: {problem}"),
    };
    StepRow {
        level: at.level,
        name: tables.root().format().entry_name(at.level),
        table: Hex(at.table),
        index: at.index,
        entry: Hex(at.address()),
        value: Hex(at.raw),
        meaning,
    }
}

/// Which accesses the mapping refuses.
fn refused(tables: &Tables, mapping: &crate::Mapping) -> Vec<String> {
    let mut refused = Vec::new();
    for (kind, name) in
        [(AccessKind::Read, "read"), (AccessKind::Write, "write"), (AccessKind::Execute, "fetch")]
    {
        let mut why = [false, true].map(|user| tables.check(mapping, Access { kind, user }).err());
        let who = match &mut why {
            [None, None] => continue,
            [Some(_), None] => "by the supervisor",
            [None, Some(_)] => "by user mode",
            [Some(supervisor), Some(user)] if supervisor == user => "",
            [Some(_), Some(_)] => "by anybody",
        };
        let why: Vec<_> = why.into_iter().flatten().map(|denial| format!("{denial:?}")).collect();
        refused.push(
            format!("a {name} {who} faults: {}", why.first().map_or("", String::as_str)).replace("  ", " "),
        );
    }
    refused
}
