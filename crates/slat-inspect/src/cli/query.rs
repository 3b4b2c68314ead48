//! `query`: each level of the walk for an address, and why it fails.

use super::dump::Opener;
use super::input::Input;
use super::output::{Emphasis, FieldRow, Hex, Output, Text};
use super::{Finding, number, words};
use crate::{Access, AccessKind, Mapping, PhysicalMemory as _, Step, Tables, TypeOnly, Walk, WalkEnd};
use anyhow::Result;
use serde::Serialize;

/// Show each level of the walk for an address, decoded, and why it fails
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Options {
    #[command(flatten)]
    input: Input,

    /// Addresses
    #[arg(value_name = "ADDRESS", value_parser = number::parse, required = true)]
    addresses: Vec<u64>,

    /// Show each entry field by field
    #[arg(long)]
    fields: bool,
}

#[derive(Serialize)]
struct Answers {
    #[serde(flatten)]
    head: super::list::Head,
    queries: Vec<Answer>,
}

#[derive(Serialize)]
struct Answer {
    address: Hex,
    steps: Vec<StepRow>,
    result: &'static str,
    /// The walk in words, its last line.
    text: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    output: Option<Hex>,
    #[serde(skip_serializing_if = "Option::is_none")]
    permissions: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    memory: Option<String>,
    /// What is in memory there: the 8 bytes around the address, little-endian.
    #[serde(skip_serializing_if = "Option::is_none")]
    content: Option<Hex>,
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
    meaning: Text<crate::Entry>,
    fields: Vec<FieldRow>,
}

pub(crate) fn run(options: &Options, opener: Opener, output: &mut Output<'_>) -> Result<Finding> {
    let (dump, tables) = options.input.open(opener)?;
    let mut answers = Answers { head: super::list::Head::of(&tables), queries: Vec::new() };
    let mut all_mapped = true;
    for (index, &address) in options.addresses.iter().enumerate() {
        let walk = tables.walk(&dump, address);
        all_mapped &= walk.mapping().is_some();
        let content = walk.output().and_then(|address| dump.read(address & !7));
        let answer = answer(&tables, &walk, content);
        if output.json {
            answers.queries.push(answer);
            continue;
        }
        if index > 0 {
            output.line("")?;
        }
        print(&answer, &walk, options.fields, output)?;
    }
    if output.json {
        output.json(&answers)?;
    }
    Ok(if all_mapped { Finding::Usual } else { Finding::Noteworthy })
}

fn print(answer: &Answer, walk: &Walk, fields: bool, output: &mut Output<'_>) -> Result<()> {
    let text = walk.to_string();
    let lines: Vec<_> = text.lines().collect();
    for (index, line) in lines.iter().enumerate() {
        if index + 1 < lines.len() {
            output.line(format_args!("  {line}"))?;
        }
        for field in answer.steps.get(index).filter(|_| fields).map_or(&[][..], |step| &step.fields) {
            let line = output.emphasised(Emphasis::Dim, format_args!("      {}", field.text));
            output.line(line)?;
        }
    }
    let emphasis = if walk.mapping().is_some() { Emphasis::Heading } else { Emphasis::Alarm };
    let line = output.emphasised(emphasis, &answer.text);
    output.line(line)?;
    for refused in &answer.refused {
        output.line(format_args!("  {refused}"))?;
    }
    if let (Some(content), Some(address)) = (answer.content, answer.output) {
        output.line(format_args!("  in memory at {:#x}: {:#018x}", address.0 & !7, content.0))?;
    }
    Ok(())
}

fn answer(tables: &Tables, walk: &Walk, content: Option<u64>) -> Answer {
    let format = tables.root().format();
    let mapping = walk.mapping();
    Answer {
        address: Hex(walk.address()),
        steps: walk.steps().map(|step| row(tables, step)).collect(),
        result: match walk.end() {
            WalkEnd::Mapped(_) => "mapped",
            WalkEnd::Absent { .. } => "absent",
            WalkEnd::Malformed { .. } => "malformed",
            WalkEnd::OutOfRange => "out of range",
            WalkEnd::Unreadable { .. } => "unreadable",
        },
        text: walk.to_string().lines().last().unwrap_or_default().to_owned(),
        output: walk.output().map(Hex),
        permissions: mapping.map(|mapping| words::permissions(format, mapping.permissions)),
        memory: mapping.map(|mapping| TypeOnly(mapping.leaf.memory).to_string()),
        content: content.map(Hex),
        refused: mapping.map(|mapping| refused(tables, mapping)).unwrap_or_default(),
    }
}

fn row(tables: &Tables, step: &Step) -> StepRow {
    let at = step.at;
    StepRow {
        level: at.level,
        name: tables.root().format().entry_name(at.level),
        table: Hex(at.table),
        index: at.index,
        entry: Hex(at.address()),
        value: Hex(at.raw),
        meaning: Text(step.entry),
        fields: tables.decoder().fields(at.level, at.raw).map(|field| FieldRow::of(&field)).collect(),
    }
}

/// Which accesses the mapping refuses, and why.
fn refused(tables: &Tables, mapping: &Mapping) -> Vec<String> {
    let mut refused = Vec::new();
    for kind in [AccessKind::Read, AccessKind::Write, AccessKind::Execute] {
        for user in [false, true] {
            let access = Access { kind, user };
            if let Err(denial) = tables.check(mapping, access) {
                refused.push(format!("refused: {access}: {denial}"));
            }
        }
    }
    refused
}
