//! Listings as QEMU's monitor prints them, so that the two can be compared line for line, with what is peculiar about those:
//!
//! - `info tlb` (x86): each leaf with its own flags, not combined with those above it. Bits 51:50 of addresses are left out. Bit 7
//!   is shown for large pages alone (`P`).
//! - `info mem` (x86): runs of addresses with the same U/S and R/W of all levels together, whatever they map to and whether they
//!   can be executed. The end of a run is sign-extended as an address, so that one at the very end of the address space ends at
//!   `0001000000000000`; so is its size.
//!   On five levels QEMU's own (7.2 and later) lists nothing, because it takes entries that are present for those that are not.
//! - `info mem` (RISC-V): runs of leaves with the same low eight bits whose addresses and outputs go on. A run ends with its table:
//!   QEMU 7.1 and later keep the address of the last leaf for each table. The output is all of the entry from bit 10 up.
//!
//! What is malformed QEMU shows as if it were not; here it is left out, and the listing ends with an error.

use super::output::Output;
use crate::{Format, Mapping, Permissions, Root, Tables};
use anyhow::{Result, bail};
use std::io;

/// Which listing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Listing {
    /// `info tlb`.
    Tlb,
    /// `info mem`.
    Memory,
}

/// Prints one of the listings, leaf by leaf.
pub(crate) enum Printer {
    Tlb { shift: u32 },
    X86(X86Runs),
    Riscv(RiscvRuns),
}

impl Printer {
    /// A printer for the leaves of `tables`.
    pub(crate) fn new(listing: Listing, tables: &Tables, output: &mut Output<'_>) -> Result<Self> {
        let root = tables.root();
        Ok(match (listing, root.format()) {
            (Listing::Tlb, Format::X86_64 | Format::Npt) => Self::Tlb { shift: 64 - root.input_bits() },
            (Listing::Memory, Format::X86_64 | Format::Npt) => {
                Self::X86(X86Runs { bits: root.input_bits(), run: None })
            }
            (Listing::Memory, Format::Sv39 | Format::Sv48 | Format::Sv57) => {
                output.line("vaddr            paddr            size             attr")?;
                output.line("---------------- ---------------- ---------------- -------")?;
                Self::Riscv(RiscvRuns { run: None })
            }
            (_, format) => bail!("--style: QEMU has no such listing of {format} tables"),
        })
    }

    /// Takes a leaf, and prints what is complete.
    pub(crate) fn leaf(&mut self, root: &Root, mapping: &Mapping, output: &mut Output<'_>) -> io::Result<()> {
        match self {
            Self::Tlb { shift } => output.line(tlb_line(mapping, *shift)),
            Self::X86(runs) => runs.leaf(root, mapping, output),
            Self::Riscv(runs) => runs.leaf(mapping, output),
        }
    }

    /// Prints what is left.
    pub(crate) fn finish(&mut self, output: &mut Output<'_>) -> io::Result<()> {
        match self {
            Self::Tlb { .. } => Ok(()),
            Self::X86(runs) => runs.flush(output),
            Self::Riscv(runs) => runs.flush(output),
        }
    }
}

fn tlb_line(mapping: &Mapping, shift: u32) -> String {
    const ADDRESS: u64 = 0x3_ffff_ffff_f000;
    const LARGE: u64 = 1 << 7;
    let raw = if mapping.at.level == 0 { mapping.at.raw & !LARGE } else { mapping.at.raw };
    let letters = [(63, 'X'), (8, 'G'), (7, 'P'), (6, 'D'), (5, 'A'), (4, 'C'), (3, 'T'), (2, 'U'), (1, 'W')];
    let flags: String =
        letters.map(|(bit, letter)| if raw >> bit & 1 == 1 { letter } else { '-' }).iter().collect();
    let address = sign_extend(mapping.address, shift);
    format!("{address:016x}: {:016x} {flags}", raw & ADDRESS & !(mapping.length - 1))
}

const fn sign_extend(address: u64, shift: u32) -> u64 {
    ((address << shift) as i64 >> shift) as u64
}

/// Runs of `info mem` on x86.
pub(crate) struct X86Runs {
    bits: u32,
    /// First offset into the address space, the one behind the last, U/S and R/W.
    run: Option<(u64, u64, [bool; 2])>,
}

impl X86Runs {
    fn leaf(&mut self, root: &Root, mapping: &Mapping, output: &mut Output<'_>) -> io::Result<()> {
        let offset = root.offset(mapping.address).unwrap_or(mapping.address);
        let allows = |permission| mapping.permissions.contains(permission);
        let protection = [allows(Permissions::USER), allows(Permissions::WRITE)];
        match &mut self.run {
            Some((_, end, same)) if *end == offset && *same == protection => *end += mapping.length,
            _ => {
                self.flush(output)?;
                self.run = Some((offset, offset + mapping.length, protection));
            }
        }
        Ok(())
    }

    fn flush(&mut self, output: &mut Output<'_>) -> io::Result<()> {
        let Some((first, end, [user, write])) = self.run.take() else { return Ok(()) };
        // Only bits above the sign are set: one at the end of the address space, whose sign is clear, stays as it is.
        let canonical = |offset: u64| {
            if offset >> (self.bits - 1) & 1 == 1 { offset | u64::MAX << self.bits } else { offset }
        };
        let (user, write) = (if user { 'u' } else { '-' }, if write { 'w' } else { '-' });
        output.line(format_args!(
            "{:016x}-{:016x} {:016x} {user}r{write}",
            canonical(first),
            canonical(end),
            canonical(end - first)
        ))
    }
}

/// Runs of `info mem` on RISC-V.
pub(crate) struct RiscvRuns {
    run: Option<RiscvRun>,
}

struct RiscvRun {
    address: u64,
    output: u64,
    attributes: u8,
    /// Of the last leaf: its table, and where the next one would have to begin.
    table: u64,
    next_address: u64,
    next_output: u64,
}

impl RiscvRuns {
    fn leaf(&mut self, mapping: &Mapping, output: &mut Output<'_>) -> io::Result<()> {
        let raw = mapping.at.raw;
        let (attributes, target) = (raw as u8, raw >> 10 << 12);
        let (next_address, next_output) =
            (mapping.address.wrapping_add(mapping.length), target.wrapping_add(mapping.length));
        match &mut self.run {
            Some(run)
                if run.attributes == attributes
                    && run.table == mapping.at.table
                    && run.next_address == mapping.address
                    && run.next_output == target =>
            {
                (run.next_address, run.next_output) = (next_address, next_output);
            }
            _ => {
                self.flush(output)?;
                let (address, table) = (mapping.address, mapping.at.table);
                self.run =
                    Some(RiscvRun { address, output: target, attributes, table, next_address, next_output });
            }
        }
        Ok(())
    }

    fn flush(&mut self, output: &mut Output<'_>) -> io::Result<()> {
        let Some(run) = self.run.take() else { return Ok(()) };
        let letters = [(1, 'r'), (2, 'w'), (3, 'x'), (4, 'u'), (5, 'g'), (6, 'a'), (7, 'd')];
        let letters = letters.map(|(bit, letter)| if run.attributes >> bit & 1 == 1 { letter } else { '-' });
        let attributes: String = letters.iter().collect();
        let size = run.next_output.wrapping_sub(run.output);
        output.line(format_args!("{:016x} {:016x} {size:016x} {attributes}", run.address, run.output))
    }
}

#[cfg(test)]
mod tests;
