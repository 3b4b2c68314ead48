//! Entries, format by format. What depends on the CPU is computed once, as masks for each level; an entry that offends
//! none of them costs a few instructions, and only one that does is taken apart.

mod ept;
mod long;
mod names;
mod riscv;
mod stage2;

use crate::access::{Access, AccessKind, Denial};
use crate::entry::{Entry, LeafFlags, Permissions};
use crate::format::{Cpu, Format};
use crate::problem::{Problem, ProblemKind};

/// The most levels that any format has.
pub(crate) const LEVELS: usize = 5;

/// What entries of one format mean to one CPU.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Decoder {
    format: Format,
    cpu: Cpu,
    levels: [Masks; LEVELS],
}

/// What of the entries of one level has to be zero, and where the addresses are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Masks {
    /// Whether there are large pages of this level.
    large: bool,
    leaf_reserved: u64,
    table_reserved: u64,
    leaf_address: u64,
    table_address: u64,
}

impl Decoder {
    /// Entries of `format` as `cpu` understands them.
    #[must_use]
    pub fn new(format: Format, cpu: Cpu) -> Self {
        let levels = core::array::from_fn(|level| {
            let level = level as u8;
            match format {
                Format::Ept => ept::masks(&cpu, level),
                Format::Npt | Format::X86_64 => long::masks(&cpu, format, level),
                Format::Stage2 => stage2::masks(&cpu, level),
                _ => riscv::masks(&cpu, level),
            }
        });
        Self { format, cpu, levels }
    }

    /// The format.
    #[must_use]
    pub const fn format(&self) -> Format {
        self.format
    }

    /// The CPU.
    #[must_use]
    pub const fn cpu(&self) -> &Cpu {
        &self.cpu
    }

    /// What an entry of `level` means, counted from the leaf: 0 maps 4 KiB. A level above 4 is taken for 4.
    #[must_use]
    #[inline]
    pub fn decode(&self, level: u8, raw: u64) -> Entry {
        let level = level.min(LEVELS as u8 - 1);
        match self.format {
            Format::Ept => ept::decode(self, level, raw),
            Format::Npt | Format::X86_64 => long::decode(self, level, raw),
            Format::Stage2 => stage2::decode(self, level, raw),
            _ => riscv::decode(self, level, raw),
        }
    }

    /// Everything that is wrong with an entry, one call of `report` for each. None for an entry that is absent.
    pub fn problems(&self, level: u8, raw: u64, report: &mut dyn FnMut(Problem)) {
        let level = level.min(LEVELS as u8 - 1);
        let format = self.format;
        let mut report = |kind, bits: u64| {
            if bits != 0 {
                report(Problem { format, kind, bits });
            }
        };
        match format {
            Format::Ept => ept::problems(self, level, raw, &mut report),
            Format::Npt | Format::X86_64 => long::problems(self, level, raw, &mut report),
            Format::Stage2 => stage2::problems(self, level, raw, &mut report),
            _ => riscv::problems(self, level, raw, &mut report),
        }
    }

    /// The first problem of an entry that has one.
    #[cold]
    fn malformed(&self, level: u8, raw: u64) -> Entry {
        let mut first = None;
        self.problems(level, raw, &mut |problem| {
            first.get_or_insert(problem);
        });
        let unexplained = Problem { format: self.format, kind: ProblemKind::ReservedBits, bits: raw };
        Entry::Malformed(first.unwrap_or(unexplained))
    }

    /// Whether permissions and flags, those of all levels together, allow an access.
    ///
    /// # Errors
    /// Why not: what the hardware would report as a permission fault (Arm and RISC-V: or as an access flag that is missing).
    pub fn check(&self, permissions: Permissions, flags: LeafFlags, access: Access) -> Result<(), Denial> {
        let denial = match self.format {
            Format::Ept => None,
            Format::Npt => long::nested_denial(&self.cpu, permissions, access),
            Format::X86_64 => long::denial(permissions, access),
            Format::Stage2 => stage2::denial(&self.cpu, flags),
            _ => riscv::denial(self.format, permissions, access),
        };
        if let Some(denial) = denial {
            return Err(denial);
        }
        let (needed, denial) = match access.kind {
            AccessKind::Read => (Permissions::READ, Denial::NotReadable),
            AccessKind::Write => (Permissions::WRITE, Denial::NotWritable),
            AccessKind::Execute if access.user => (Permissions::EXECUTE_USER, Denial::NotExecutable),
            AccessKind::Execute => (Permissions::EXECUTE, Denial::NotExecutable),
        };
        if !permissions.contains(needed) {
            return Err(denial);
        }
        if self.format.is_riscv() {
            return riscv::check_flags(&self.cpu, flags, access);
        }
        Ok(())
    }
}

/// By how many bits an address is shifted down at a level.
pub(crate) const fn shift(level: u8) -> u32 {
    12 + 9 * level as u32
}

/// A mask of bits `high:low`; of none if they are the other way round.
pub(crate) const fn mask(high: u32, low: u32) -> u64 {
    if low > high || low > 63 {
        return 0;
    }
    (u64::MAX >> (63 - if high > 63 { 63 } else { high })) & (u64::MAX << low)
}

/// Bits `high:low` of a value, shifted down.
pub(crate) const fn field(value: u64, high: u32, low: u32) -> u64 {
    (value & mask(high, low)) >> low
}

/// Bit `n` of a value.
pub(crate) const fn bit(value: u64, n: u32) -> bool {
    value >> n & 1 != 0
}
