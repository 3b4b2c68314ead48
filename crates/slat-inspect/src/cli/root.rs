//! `root`: what a root register says.

use super::Finding;
use super::input::TableOptions;
use super::list::Head;
use super::output::Output;
use crate::{Cpu, Tables};
use anyhow::{Context, Result};

/// Decode a root register (EPTP, nCR3, CR3, VTTBR_EL2 and VTCR_EL2, hgatp, satp) field by field
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Options {
    #[command(flatten)]
    tables: TableOptions,
}

pub(crate) fn run(options: &Options, output: &mut Output<'_>) -> Result<Finding> {
    let register = options.tables.register()?;
    let register = register
        .context("a register is needed: --cr3, --ncr3, --eptp, --vttbr and --vtcr, --hgatp or --satp")?;
    let root = register.root()?;
    let tables = Tables::new(root, Cpu::permissive(root.format()));
    if output.json {
        output.json(&Head::of(&tables))?;
    } else {
        output.line(format_args!(
            "{} tables of {} levels, {} bits, root table at {:#x}",
            root.format(),
            root.level() + 1,
            root.input_bits(),
            root.table()
        ))?;
    }
    Ok(Finding::Usual)
}
