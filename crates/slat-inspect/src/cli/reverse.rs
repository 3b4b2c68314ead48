//! `reverse`: who maps a frame.

use super::dump::Opener;
use super::input::{Bounds, Input};
use super::output::{Hex, Output, go_on};
use super::runs;
use super::{Finding, number, progress, words};
use crate::{Bytes, Descend, Format, Mapping, Pointer, TypeOnly, Visitor};
use anyhow::{Result, ensure};
use serde::Serialize;
use std::ops::ControlFlow;

/// Find out who maps a frame of physical memory, or uses it as a table
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Options {
    #[command(flatten)]
    input: Input,

    /// Physical address
    #[arg(value_name = "HPA", value_parser = number::parse)]
    address: u64,

    /// Bytes from there on
    #[arg(long, value_name = "N", value_parser = number::parse, default_value = "1")]
    size: u64,

    #[command(flatten)]
    bounds: Bounds,
}

/// One that was found, in JSON.
#[derive(Serialize)]
struct Found {
    kind: &'static str,
    /// What translates to the first byte of the range that is mapped.
    address: Hex,
    output: Hex,
    /// Bytes of the range that are mapped here.
    size: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    permissions: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    memory: Option<String>,
    entry: Hex,
    value: Hex,
    level: u8,
}

#[derive(Serialize)]
struct Head {
    #[serde(flatten)]
    tables: super::list::Head,
    target: Hex,
    size: u64,
}

#[derive(Serialize)]
struct Tail {
    count: u64,
    complete: bool,
}

pub(crate) fn run(options: &Options, opener: Opener, output: &mut Output<'_>) -> Result<Finding> {
    let (dump, tables) = options.input.open(opener)?;
    ensure!(options.size > 0, "--size: it is 0");
    let last = options.address.checked_add(options.size - 1);
    let last = last.ok_or_else(|| anyhow::anyhow!("--size: the range goes beyond the end of memory"))?;
    let range = options.bounds.range()?;
    if output.json {
        let head =
            Head { tables: super::list::Head::of(&tables), target: Hex(options.address), size: options.size };
        output.begin_list(&head, "mappings")?;
    }
    let root = tables.root();
    let mut search = Search {
        format: root.format(),
        first: options.address,
        last,
        output,
        is_table: false,
        count: 0,
        failed: None,
    };
    if root.table() <= last && root.table() + (root.bytes() - 1) >= options.address {
        search.is_table = true;
        if !search.output.json {
            search.output.line(format_args!("{:#x} is the root table", root.table()))?;
        }
    }
    let summary = progress::visit(&tables, &dump, range, options.bounds.limit, &mut search);
    let Search { output, is_table, count, failed, .. } = search;
    if let Some(error) = failed {
        return Err(error);
    }
    if output.json {
        output.end_list(&Tail { count, complete: summary.end == crate::End::Complete })?;
    } else if count == 0 && !is_table {
        output.line(format_args!("nobody maps {:#x}", options.address))?;
    }
    runs::complete(&summary)?;
    Ok(if count > 0 || is_table { Finding::Usual } else { Finding::Noteworthy })
}

struct Search<'a, 'o> {
    format: Format,
    first: u64,
    last: u64,
    output: &'a mut Output<'o>,
    is_table: bool,
    count: u64,
    failed: Option<anyhow::Error>,
}

impl Search<'_, '_> {
    fn print(&mut self, found: &Found) -> ControlFlow<()> {
        self.count += 1;
        let printed = if self.output.json {
            self.output.item(found, self.count == 1)
        } else {
            let what = match (&found.permissions, &found.memory) {
                (Some(permissions), Some(memory)) => format!("{permissions} {memory}"),
                _ => "is a table".to_owned(),
            };
            let line = format!(
                "{:#018x} -> {:#014x} {:>7} {what} (level {}, entry at {}: {:#x})",
                found.address.0,
                found.output.0,
                Bytes(found.size).to_string(),
                found.level,
                found.entry,
                found.value.0
            );
            self.output.line(line).map_err(Into::into)
        };
        go_on(printed, &mut self.failed)
    }
}

impl Visitor for Search<'_, '_> {
    fn leaf(&mut self, mapping: &Mapping) -> ControlFlow<()> {
        let end = mapping.output.saturating_add(mapping.length - 1);
        if mapping.output > self.last || end < self.first {
            return ControlFlow::Continue(());
        }
        let output = mapping.output.max(self.first);
        self.print(&Found {
            kind: "leaf",
            address: Hex(mapping.address.wrapping_add(output - mapping.output)),
            output: Hex(output),
            size: end.min(self.last) - output + 1,
            permissions: Some(words::permissions(self.format, mapping.permissions)),
            memory: Some(TypeOnly(mapping.leaf.memory).to_string()),
            entry: Hex(mapping.at.address()),
            value: Hex(mapping.at.raw),
            level: mapping.at.level,
        })
    }

    fn table(&mut self, pointer: &Pointer) -> ControlFlow<(), Descend> {
        let table = pointer.table.address;
        if table <= self.last && table.saturating_add(4095) >= self.first {
            self.is_table = true;
            let found = Found {
                kind: "table",
                address: Hex(pointer.address),
                output: Hex(table),
                size: 4096,
                permissions: None,
                memory: None,
                entry: Hex(pointer.at.address()),
                value: Hex(pointer.at.raw),
                level: pointer.at.level,
            };
            if self.print(&found).is_break() {
                return ControlFlow::Break(());
            }
        }
        ControlFlow::Continue(Descend::Yes)
    }
}
