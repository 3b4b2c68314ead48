//! What a command works on, from the command line: a dump, where its tables begin, and the CPU that walks them.

use super::dump::{Dump, Opener, Source, Tolerance};
use super::number;
use crate::{Cpu, Format, Register, Root, Tables};
use anyhow::{Context, Result, bail, ensure};
use std::ops::RangeInclusive;

/// Entries that are read at most, unless `--limit` says something else: what a machine reads in a few seconds.
const USUAL_LIMIT: u64 = 1 << 28;

/// The dump of a command.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct DumpOptions {
    /// Physical address of the first byte of a raw dump
    #[arg(long, value_name = "ADDRESS", value_parser = number::parse, help_heading = "The dump")]
    base: Option<u64>,

    /// Take a core file that is cut off for what there is of it
    #[arg(long, help_heading = "The dump")]
    truncated: bool,
}

impl DumpOptions {
    /// Opens the dump that `text` names.
    pub(crate) fn open(&self, text: &str, opener: Opener) -> Result<Dump> {
        let sources = Source::parse(text, self.base)?;
        Dump::open(&sources, Tolerance { truncated: self.truncated }, opener)
    }
}

/// Where the tables begin: a root register, or a format and a table.
#[derive(Clone, Debug, Default, clap::Args)]
#[command(next_help_heading = "The tables")]
pub(crate) struct TableOptions {
    /// Format of the tables: ept, npt, stage2, sv39x4, sv48x4, sv57x4, sv39, sv48, sv57, x86-64
    #[arg(long, value_name = "FORMAT")]
    format: Option<Format>,

    /// Physical address of the root table
    #[arg(long, value_name = "ADDRESS", value_parser = number::parse)]
    root: Option<u64>,

    /// Levels of tables, with --root (ept, npt, x86-64: 4 or 5; stage2: 1 to 4)
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u8).range(1..=5))]
    levels: Option<u8>,

    /// Bits of an address that are translated, with --root (stage2: 64 - T0SZ)
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=64))]
    input_bits: Option<u32>,

    /// CR3 of x86-64, raw
    #[arg(long, value_name = "VALUE", value_parser = number::parse)]
    cr3: Option<u64>,

    /// CR4.LA57 is set: five levels, with --cr3 and --ncr3
    #[arg(long)]
    la57: bool,

    /// nCR3 of AMD, raw
    #[arg(long, value_name = "VALUE", value_parser = number::parse)]
    ncr3: Option<u64>,

    /// EPT pointer of Intel, raw
    #[arg(long, value_name = "VALUE", value_parser = number::parse)]
    eptp: Option<u64>,

    /// VTTBR_EL2 of Arm, raw
    #[arg(long, value_name = "VALUE", value_parser = number::parse, requires = "vtcr")]
    vttbr: Option<u64>,

    /// VTCR_EL2 of Arm, raw
    #[arg(long, value_name = "VALUE", value_parser = number::parse, requires = "vttbr")]
    vtcr: Option<u64>,

    /// hgatp of RISC-V, raw
    #[arg(long, value_name = "VALUE", value_parser = number::parse)]
    hgatp: Option<u64>,

    /// satp (or vsatp) of RISC-V, raw
    #[arg(long, value_name = "VALUE", value_parser = number::parse)]
    satp: Option<u64>,

    /// The CPU of the core file whose CR3 is taken, counted from 0
    #[arg(long, value_name = "N")]
    cpu: Option<usize>,
}

/// What else decides about the meaning of entries, and how many of them are read.
#[derive(Clone, Debug, Default, clap::Args)]
#[command(next_help_heading = "The CPU")]
pub(crate) struct CpuOptions {
    /// Width of physical addresses
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(32..=56))]
    physical_bits: Option<u32>,

    /// A feature that the CPU lacks: page-1g, execute-only, no-execute, xnx, svnapot, svpbmt (can be given several times)
    #[arg(long, value_name = "FEATURE")]
    without: Vec<Feature>,

    /// A feature that is switched on: mode-based-execute, gmet, fwb, mxr (can be given several times)
    #[arg(long, value_name = "FEATURE")]
    with: Vec<Switch>,
}

/// Features that every CPU is taken to have.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Feature {
    #[value(name = "page-1g")]
    Page1G,
    ExecuteOnly,
    NoExecute,
    Xnx,
    Svnapot,
    Svpbmt,
}

/// Features that are taken to be off.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Switch {
    ModeBasedExecute,
    Gmet,
    Fwb,
    Mxr,
}

/// Bounds of a visit.
#[derive(Clone, Debug, clap::Args)]
#[command(next_help_heading = "Bounds")]
pub(crate) struct Bounds {
    /// First address that is of interest
    #[arg(long, value_name = "ADDRESS", value_parser = number::parse)]
    from: Option<u64>,

    /// Last address that is of interest
    #[arg(long, value_name = "ADDRESS", value_parser = number::parse)]
    to: Option<u64>,

    /// Entries that are read at most
    #[arg(long, value_name = "N", value_parser = number::parse, default_value_t = USUAL_LIMIT, hide_default_value = true)]
    pub(crate) limit: u64,
}

impl Bounds {
    /// The addresses.
    pub(crate) fn range(&self) -> Result<RangeInclusive<u64>> {
        let (from, to) = (self.from.unwrap_or(0), self.to.unwrap_or(u64::MAX));
        ensure!(from <= to, "--from: {from:#x} is behind --to {to:#x}");
        Ok(from..=to)
    }
}

impl TableOptions {
    /// The register that is given, if one is.
    pub(crate) fn register(&self) -> Result<Option<Register>> {
        let la57 = self.la57;
        let given = [
            self.cr3.map(|cr3| Register::Cr3 { cr3, la57 }),
            self.ncr3.map(|ncr3| Register::Ncr3 { ncr3, la57 }),
            self.eptp.map(Register::Eptp),
            self.vttbr.zip(self.vtcr).map(|(vttbr, vtcr)| Register::Stage2 { vttbr, vtcr }),
            self.hgatp.map(Register::Hgatp),
            self.satp.map(Register::Satp),
        ];
        let given: Vec<_> = given.into_iter().flatten().collect();
        ensure!(given.len() <= 1, "only one of --cr3, --ncr3, --eptp, --vttbr, --hgatp, --satp can be given");
        let register = given.first().copied();
        let takes_la57 = matches!(register, Some(Register::Cr3 { .. } | Register::Ncr3 { .. }));
        ensure!(!la57 || takes_la57, "--la57: it goes with --cr3 and --ncr3");
        Ok(register)
    }

    /// The tables of `dump`, as `cpu` walks them.
    pub(crate) fn tables(&self, dump: &Dump, options: &CpuOptions) -> Result<Tables> {
        let register = match (self.register()?, self.root) {
            (Some(_), Some(_)) => bail!("--root: the register says where the root table is"),
            (Some(register), None) => Some(register),
            (None, Some(_)) => None,
            (None, None) => Some(self.of_core_file(dump)?),
        };
        let (root, mut cpu) = match register {
            Some(register) => {
                ensure!(
                    self.levels.is_none() && self.input_bits.is_none(),
                    "--levels, --input-bits: the register says that; they go with --root"
                );
                let root = register.root()?;
                let mut cpu = Cpu::permissive(root.format());
                register.apply_to(&mut cpu);
                (root, cpu)
            }
            None => {
                let root = self.plain_root()?;
                (root, Cpu::permissive(root.format()))
            }
        };
        if let Some(format) = self.format.filter(|format| *format != root.format()) {
            // Both are what an x86 CPU walks, and only the permissions' meaning differs.
            ensure!(
                format == Format::Npt && root.format() == Format::X86_64,
                "--format {format}: the register says that it is {}",
                root.format()
            );
            let root = Root::with_level(format, root.table(), root.level())?;
            options.apply_to(&mut cpu);
            return Ok(Tables::new(root, cpu));
        }
        options.apply_to(&mut cpu);
        Ok(Tables::new(root, cpu))
    }

    fn of_core_file(&self, dump: &Dump) -> Result<Register> {
        if let Some(format) = self.format {
            ensure!(
                matches!(format, Format::X86_64 | Format::Npt),
                "--root or a root register is needed: a dump does not say where {format} tables begin"
            );
        }
        let index = self.cpu.unwrap_or(0);
        let cpu = dump.cpus.get(index).with_context(|| match dump.cpus.len() {
            0 => {
                "--format and --root, or a root register, are needed: no CPU's CR3 is in the dump".to_owned()
            }
            count => format!("--cpu {index}: the dump has {count} CPUs, counted from 0"),
        })?;
        ensure!(cpu.cr0 >> 31 & 1 == 1, "--cpu {index}: its paging was off");
        ensure!(cpu.cr4 >> 5 & 1 == 1, "--cpu {index}: it was not in 64-bit mode (CR4.PAE is clear)");
        Ok(Register::Cr3 { cr3: cpu.cr3, la57: cpu.cr4 >> 12 & 1 == 1 })
    }

    fn plain_root(&self) -> Result<Root> {
        let table = self.root.context("--root is needed")?;
        let format = self.format.context("--format is needed with --root")?;
        let level = match self.levels {
            Some(levels) => levels - 1,
            None => format.default_root_level(),
        };
        let root = match self.input_bits {
            Some(bits) => Root::with_input_bits(format, table, level, bits)?,
            None => Root::with_level(format, table, level)?,
        };
        Ok(root)
    }
}

impl CpuOptions {
    pub(crate) fn apply_to(&self, cpu: &mut Cpu) {
        if let Some(bits) = self.physical_bits {
            cpu.physical_bits = bits;
        }
        for feature in &self.without {
            match feature {
                Feature::Page1G => cpu.page_1g = false,
                Feature::ExecuteOnly => cpu.execute_only = false,
                Feature::NoExecute => cpu.no_execute = false,
                Feature::Xnx => cpu.execute_never_per_level = false,
                Feature::Svnapot => cpu.svnapot = false,
                Feature::Svpbmt => cpu.svpbmt = false,
            }
        }
        for switch in &self.with {
            match switch {
                Switch::ModeBasedExecute => cpu.mode_based_execute = true,
                Switch::Gmet => cpu.guest_mode_execute_trap = true,
                Switch::Fwb => cpu.force_write_back = true,
                Switch::Mxr => cpu.make_executable_readable = true,
            }
        }
    }
}

/// A dump and its tables: what most commands work on.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Input {
    /// The dump: FILE, FILE@ADDRESS, or several with commas between them
    #[arg(value_name = "DUMP")]
    dump: String,

    #[command(flatten)]
    dump_options: DumpOptions,

    #[command(flatten)]
    tables: TableOptions,

    #[command(flatten)]
    cpu: CpuOptions,
}

impl Input {
    /// Opens the dump and finds the tables.
    pub(crate) fn open(&self, opener: Opener) -> Result<(Dump, Tables)> {
        let dump = self.dump_options.open(&self.dump, opener)?;
        let tables = self.tables.tables(&dump, &self.cpu)?;
        Ok((dump, tables))
    }

    /// How the dump was named.
    pub(crate) fn name(&self) -> &str {
        &self.dump
    }
}
