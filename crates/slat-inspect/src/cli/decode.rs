//! `decode`: what fault registers and entries say, in a sentence and field by field.

use super::output::{FieldRow, Hex, Output};
use super::{Finding, number};
use crate::{Cpu, Decoder, FaultRegisters, Format};
use anyhow::Result;
use clap::Subcommand;
use serde::Serialize;

/// Decode what the hardware reports of a fault, or an entry, into a sentence and field by field
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Options {
    #[command(subcommand)]
    what: What,
}

#[derive(Clone, Debug, Subcommand)]
enum What {
    /// Intel: exit qualification and guest-physical address of an EPT violation (exit reason 48)
    EptViolation {
        /// Exit qualification
        #[arg(value_parser = number::parse)]
        qualification: u64,
        /// Guest-physical address
        #[arg(value_parser = number::parse)]
        gpa: u64,
        /// Guest-linear address
        #[arg(long, value_parser = number::parse)]
        linear: Option<u64>,
    },
    /// Intel: guest-physical address of an EPT misconfiguration (exit reason 49)
    EptMisconfiguration {
        /// Guest-physical address
        #[arg(value_parser = number::parse)]
        gpa: u64,
    },
    /// AMD: EXITINFO1 and EXITINFO2 of a nested page fault (exit code 400h)
    Npf {
        /// EXITINFO1
        #[arg(value_parser = number::parse)]
        exitinfo1: u64,
        /// EXITINFO2
        #[arg(value_parser = number::parse)]
        exitinfo2: u64,
    },
    /// x86: error code of a page fault, and CR2
    PageFault {
        /// Error code
        #[arg(value_parser = number::parse)]
        error_code: u64,
        /// CR2
        #[arg(value_parser = number::parse)]
        cr2: u64,
    },
    /// Arm: ESR_EL2 of an abort
    Esr {
        /// ESR_EL2
        #[arg(value_parser = number::parse)]
        esr: u64,
        /// FAR_EL2
        #[arg(long, value_parser = number::parse)]
        far: Option<u64>,
        /// HPFAR_EL2
        #[arg(long, value_parser = number::parse)]
        hpfar: Option<u64>,
    },
    /// RISC-V: scause of a trap
    Scause {
        /// scause
        #[arg(value_parser = number::parse)]
        scause: u64,
        /// stval
        #[arg(long, value_parser = number::parse, default_value = "0")]
        stval: u64,
        /// htval
        #[arg(long, value_parser = number::parse, default_value = "0")]
        htval: u64,
        /// htinst
        #[arg(long, value_parser = number::parse, default_value = "0")]
        htinst: u64,
    },
    /// An entry of a table
    Entry {
        /// Format of the table
        format: Format,
        /// Level of the table, counted from the leaf: entries of level 0 map 4 KiB
        #[arg(value_parser = clap::value_parser!(u8).range(0..5))]
        level: u8,
        /// The entry
        #[arg(value_parser = number::parse)]
        value: u64,
    },
}

#[derive(Serialize)]
struct Report {
    text: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    address: Option<Hex>,
    #[serde(skip_serializing_if = "Option::is_none")]
    access: Option<String>,
    /// Whether the access was the guest's page walk.
    #[serde(skip_serializing_if = "Option::is_none")]
    of_walk: Option<bool>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    problems: Vec<String>,
    fields: Vec<FieldRow>,
}

pub(crate) fn run(options: &Options, output: &mut Output<'_>) -> Result<Finding> {
    let report = match options.what {
        What::EptViolation { qualification, gpa, linear } => {
            fault(FaultRegisters::EptViolation { qualification, gpa, linear })
        }
        What::EptMisconfiguration { gpa } => fault(FaultRegisters::EptMisconfiguration { gpa }),
        What::Npf { exitinfo1, exitinfo2 } => fault(FaultRegisters::NestedPageFault { exitinfo1, exitinfo2 }),
        What::PageFault { error_code, cr2 } => fault(FaultRegisters::PageFault { error_code, cr2 }),
        What::Esr { esr, far, hpfar } => fault(FaultRegisters::Abort { esr, far, hpfar }),
        What::Scause { scause, stval, htval, htinst } => {
            fault(FaultRegisters::Trap { scause, stval, htval, htinst })
        }
        What::Entry { format, level, value } => entry(format, level, value),
    };
    if output.json {
        output.json(&report)?;
        return Ok(Finding::Usual);
    }
    output.line(&report.text)?;
    // The first one is in the sentence.
    for problem in report.problems.iter().skip(1) {
        output.line(format_args!("  also: {problem}"))?;
    }
    for field in &report.fields {
        output.line(format_args!("  {}", field.text))?;
    }
    Ok(Finding::Usual)
}

fn fault(registers: FaultRegisters) -> Report {
    Report {
        text: registers.to_string(),
        address: registers.address().map(Hex),
        access: registers.access().map(|access| access.to_string()),
        of_walk: Some(registers.is_of_walk()),
        problems: Vec::new(),
        fields: registers.fields().map(|field| FieldRow::of(&field)).collect(),
    }
}

fn entry(format: Format, level: u8, value: u64) -> Report {
    let decoder = Decoder::new(format, Cpu::permissive(format));
    let mut problems = Vec::new();
    decoder.problems(level, value, &mut |problem| problems.push(problem.to_string()));
    Report {
        text: format!("{}: {}", format.entry_name(level), decoder.decode(level, value)),
        address: None,
        access: None,
        of_walk: None,
        problems,
        fields: decoder.fields(level, value).map(|field| FieldRow::of(&field)).collect(),
    }
}
