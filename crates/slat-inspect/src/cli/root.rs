//! `root`: what a root register says.

use super::Finding;
use super::input::TableOptions;
use super::list::Head;
use super::output::{FieldRow, Output};
use crate::{Cpu, Tables};
use anyhow::{Context, Result};
use serde::Serialize;

/// Decode a root register (EPTP, nCR3, CR3, VTTBR_EL2 and VTCR_EL2, hgatp, satp) field by field
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Options {
    #[command(flatten)]
    tables: TableOptions,
}

#[derive(Serialize)]
struct Report {
    #[serde(flatten)]
    head: Option<Head>,
    fields: Vec<FieldRow>,
    #[serde(skip_serializing_if = "Option::is_none")]
    refused: Option<String>,
}

pub(crate) fn run(options: &Options, output: &mut Output<'_>) -> Result<Finding> {
    let register = options.tables.register()?;
    let register = register
        .context("a register is needed: --cr3, --ncr3, --eptp, --vttbr and --vtcr, --hgatp or --satp")?;
    let root = register.root();
    // The fields of a register that is refused are of interest as well.
    let report = Report {
        head: root.ok().map(|root| Head::of(&Tables::new(root, Cpu::permissive(root.format())))),
        fields: register.fields().map(|field| FieldRow::of(&field)).collect(),
        refused: root.err().map(|error| error.to_string()),
    };
    if output.json {
        output.json(&report)?;
    } else {
        for field in &report.fields {
            output.line(&field.text)?;
        }
        if let Ok(root) = &root {
            output.line(format_args!(
                "{} tables of {} levels, {} bits, root table at {:#x}",
                root.format(),
                root.level() + 1,
                root.input_bits(),
                root.table()
            ))?;
        }
    }
    root?;
    Ok(Finding::Usual)
}
