//! The tables of a space as `slat-inspect` reads them: out of the host's memory, by the manual, knowing nothing of slat.

use crate::pool::Host;
use core::fmt;
use core::ops::ControlFlow;
use slat::format::{Format, Geometry};
use slat::{AddrSpace, CustomBackend, GuestPhysAddr, HostPhysAddr, MappingFlags, TableKind};
use slat_inspect::{
    Cpu, Descend, End, Format as TableFormat, Letters, Mapping, PhysicalMemory, Pointer, Root, RootError,
    Run, RunLine, Runs, Tables, Trouble, Visitor,
};

/// Entries that one answer reads at most: those of all tables of 2 GiB in 4 KiB leaves.
const BUDGET: u64 = 1 << 19;

/// The host's memory, as far as it is the pool's. Tables lie nowhere else.
struct HostMemory<'h, H>(&'h H);

impl<H: Host> PhysicalMemory for HostMemory<'_, H> {
    fn read(&self, address: u64) -> Option<u64> {
        self.0.word(address)
    }
}

/// The tables of `space`, with what its format knows of the CPU.
///
/// # Errors
/// That the root is none, by the manual: then slat has made a mistake.
pub fn tables<H: Host, F: Format, B: CustomBackend>(space: &AddrSpace<H, F, B>) -> Result<Tables, RootError> {
    let format = space.format();
    let geometry = format.geometry();
    let name = table_format(F::TABLE, geometry);
    let root = Root::with_input_bits(name, space.root().as_u64(), geometry.root_level(), geometry.gpa_bits)?;
    let mut cpu = Cpu::permissive(name);
    cpu.physical_bits = cpu.physical_bits.min(format.hpa_bits());
    cpu.sets_accessed = format.accessed_bit() != 0 && !format.marks_by_fault();
    cpu.sets_dirty = format.dirty_bit() != 0 && !format.marks_by_fault();
    cpu.force_write_back = forces_write_back(format);
    Ok(Tables::new(root, cpu))
}

const fn table_format(kind: TableKind, geometry: Geometry) -> TableFormat {
    match (kind, geometry.levels) {
        (TableKind::Stage2, _) => TableFormat::Stage2,
        (TableKind::Ept, _) => TableFormat::Ept,
        (TableKind::Npt, _) => TableFormat::Npt,
        (TableKind::Gstage, 3) => TableFormat::Sv39x4,
        (TableKind::Gstage, 4) => TableFormat::Sv48x4,
        (TableKind::Gstage, _) => TableFormat::Sv57x4,
    }
}

/// Whether a leaf of the format's ordinary memory has the MemAttr that means something with HCR_EL2.FWB alone (Arm ARM, "Stage 2
/// memory type and Cacheability attributes when FEAT_S2FWB is enabled").
fn forces_write_back<F: Format>(format: &F) -> bool {
    const FORCED: u64 = 0b0110;
    let leaf = format.leaf(0, HostPhysAddr::new(0), MappingFlags::READ);
    F::TABLE == TableKind::Stage2 && leaf >> 2 & 0xf == FORCED
}

/// Writes each level of the walk for `gpa`, and why it ends: what `slat-inspect query` prints for the same memory.
///
/// # Errors
/// Those of `out`.
pub fn write_query<H: Host, F: Format, B: CustomBackend>(
    space: &AddrSpace<H, F, B>,
    gpa: GuestPhysAddr,
    out: &mut dyn fmt::Write,
) -> fmt::Result {
    match tables(space) {
        Ok(tables) => writeln!(out, "{}", tables.walk(&HostMemory(space.hal()), gpa.as_u64())),
        Err(error) => writeln!(out, "{error}"),
    }
}

/// Writes the tables of `space`: each with the addresses that it translates, and the runs of leaves in it.
///
/// # Errors
/// Those of `out`.
pub fn write_tables<H: Host, F: Format, B: CustomBackend>(
    space: &AddrSpace<H, F, B>,
    out: &mut dyn fmt::Write,
) -> fmt::Result {
    let tables = match tables(space) {
        Ok(tables) => tables,
        Err(error) => return writeln!(out, "{error}"),
    };
    let root = tables.root();
    let format = root.format();
    writeln!(
        out,
        "{format} root table at {:#x}, level {} ({} bytes)",
        root.table(),
        root.level(),
        root.bytes()
    )?;
    let mut tree = Tree { out, format, root_level: root.level(), runs: Runs::new(false) };
    let summary = tables.visit(&HostMemory(space.hal()), 0..=u64::MAX, BUDGET, &mut tree);
    let rest = tree.runs.finish();
    if summary.end == End::Stopped || tree.run(rest).is_break() {
        return Err(fmt::Error);
    }
    let Tree { out, .. } = tree;
    match summary.end {
        End::Truncated { address } => {
            writeln!(out, "{BUDGET} entries are read; what begins at {address:#x} is left out")
        }
        End::Complete | End::Stopped => {
            writeln!(out, "{} tables, {} entries", summary.tables, summary.entries)
        }
    }
}

/// Prints tables as they come, each run of leaves below its table.
struct Tree<'o> {
    out: &'o mut dyn fmt::Write,
    format: TableFormat,
    root_level: u8,
    runs: Runs,
}

impl Tree<'_> {
    /// The column of what stands in a table of `level`.
    fn column(&self, level: u8) -> usize {
        2 * (usize::from(self.root_level.saturating_sub(level)) + 1)
    }

    /// Prints a run that is complete, if there is one.
    fn run(&mut self, run: Option<Run>) -> ControlFlow<()> {
        let Some(run) = run else { return ControlFlow::Continue(()) };
        let column = self.column(run.leaf_size.ilog2().saturating_sub(12) as u8 / 9);
        flow(writeln!(self.out, "{:column$}{}", "", RunLine(self.format, &run)))
    }
}

impl Visitor for Tree<'_> {
    fn leaf(&mut self, mapping: &Mapping) -> ControlFlow<()> {
        let complete = self.runs.push(mapping);
        self.run(complete)
    }

    fn table(&mut self, pointer: &Pointer) -> ControlFlow<(), Descend> {
        let complete = self.runs.finish();
        if self.run(complete).is_break() {
            return ControlFlow::Break(());
        }
        let Pointer { address, length, at, table, permissions } = pointer;
        let last = address.wrapping_add(length.wrapping_sub(1));
        let column = self.column(at.level);
        let line = writeln!(
            self.out,
            "{:column$}{address:#018x}-{last:#018x} table at {:#x} {}",
            "",
            table.address,
            Letters(self.format, *permissions),
        );
        match line {
            Ok(()) => ControlFlow::Continue(Descend::Yes),
            Err(_) => ControlFlow::Break(()),
        }
    }

    fn trouble(&mut self, trouble: &Trouble) -> ControlFlow<()> {
        let complete = self.runs.finish();
        self.run(complete)?;
        flow(writeln!(self.out, "  {trouble}"))
    }
}

/// Goes on as long as there is room for the text.
fn flow(written: fmt::Result) -> ControlFlow<()> {
    match written {
        Ok(()) => ControlFlow::Continue(()),
        Err(_) => ControlFlow::Break(()),
    }
}

#[cfg(test)]
mod tests;
