//! Where a walk begins: a root table, given plainly or by the register that points the hardware to it.

mod register;

use crate::decode::{mask, shift};
use crate::format::Format;

pub use register::Register;

/// A root table, and how much it translates.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Root {
    format: Format,
    table: u64,
    level: u8,
    input_bits: u32,
}

/// Why something is no root.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RootError {
    /// The address of the table is not aligned to its size.
    #[error("root table {table:#x}: not a multiple of {alignment:#x}, the size of the table")]
    Alignment {
        /// The address.
        table: u64,
        /// What it has to be a multiple of.
        alignment: u64,
    },
    /// The address of the table has more than 56 bits (RISC-V) or 52.
    #[error("root table {table:#x}: wider than physical addresses can be")]
    Address {
        /// The address.
        table: u64,
    },
    /// The format has no root table of this level.
    #[error("root level {level} (counted from the leaf): {format} has none such")]
    Level {
        /// The format.
        format: Format,
        /// The level, counted from the leaf.
        level: u8,
    },
    /// A table of this level cannot translate that many bits.
    #[error(
        "input size {bits} bits: a {format} root table of level {level} (counted from the leaf) cannot translate it"
    )]
    InputBits {
        /// The format.
        format: Format,
        /// The level, counted from the leaf.
        level: u8,
        /// The bits.
        bits: u32,
    },
    /// A field of a register has a value that the hardware refuses.
    #[error("{register}.{field} = {value:#x}: {reason} ({section})")]
    Field {
        /// The register.
        register: &'static str,
        /// The field of it.
        field: &'static str,
        /// The value of the field.
        value: u64,
        /// What is wrong.
        reason: &'static str,
        /// Where the manual says so.
        section: &'static str,
    },
    /// The register says that nothing is translated.
    #[error("{register}: the mode is Bare, addresses are not translated")]
    Bare {
        /// The register.
        register: &'static str,
    },
}

impl Root {
    /// A root table of the format's usual number of levels: four for EPT, NPT and x86-64; for Arm a single table of lookup level 1,
    /// which translates 39 bits.
    ///
    /// # Errors
    /// [`RootError::Alignment`] and [`RootError::Address`] for a table where none can be.
    pub fn new(format: Format, table: u64) -> Result<Self, RootError> {
        Self::with_level(format, table, format.default_root_level())
    }

    /// A root table whose entries have this level, counted from the leaf (of five levels: 4), as wide as they are usually.
    ///
    /// # Errors
    /// Those of [`with_input_bits`](Self::with_input_bits).
    pub fn with_level(format: Format, table: u64, level: u8) -> Result<Self, RootError> {
        let index_bits = match format {
            Format::Sv39x4 | Format::Sv48x4 | Format::Sv57x4 => 11,
            _ => 9,
        };
        Self::with_input_bits(format, table, level, shift(level.min(4)) + index_bits)
    }

    /// A root table whose entries have this level, counted from the leaf, and that translates addresses of this many bits: less than a
    /// whole table, or up to sixteen concatenated ones, is possible for Arm alone.
    ///
    /// # Errors
    /// - [`RootError::Level`]: the format has no such root table.
    /// - [`RootError::InputBits`]: a root table of this level cannot translate that many bits.
    /// - [`RootError::Alignment`]: the address is not a multiple of 4096, or of the size of the concatenated tables.
    /// - [`RootError::Address`]: the address is wider than those of the format can be.
    pub fn with_input_bits(
        format: Format,
        table: u64,
        level: u8,
        input_bits: u32,
    ) -> Result<Self, RootError> {
        let levels = match format {
            Format::Ept | Format::Npt | Format::X86_64 => 3..=4,
            Format::Stage2 => 0..=3,
            Format::Sv39x4 | Format::Sv39 => 2..=2,
            Format::Sv48x4 | Format::Sv48 => 3..=3,
            Format::Sv57x4 | Format::Sv57 => 4..=4,
        };
        if !levels.contains(&level) {
            return Err(RootError::Level { format, level });
        }
        let index_bits = match format {
            // At lookup level 0 there is no concatenation.
            Format::Stage2 if level == 3 => 1..=9,
            Format::Stage2 => 1..=13,
            Format::Sv39x4 | Format::Sv48x4 | Format::Sv57x4 => 11..=11,
            _ => 9..=9,
        };
        if !index_bits.contains(&input_bits.saturating_sub(shift(level))) {
            return Err(RootError::InputBits { format, level, bits: input_bits });
        }
        let root = Self { format, table, level, input_bits };
        // Tables of less than 64 bytes are not told from those that have as much.
        let alignment = if format == Format::Stage2 { root.bytes().max(64) } else { root.bytes() };
        if table % alignment != 0 {
            return Err(RootError::Alignment { table, alignment });
        }
        if table & !mask(if format.is_riscv() { 55 } else { 51 }, 0) != 0 {
            return Err(RootError::Address { table });
        }
        Ok(root)
    }

    /// The format.
    #[must_use]
    pub const fn format(&self) -> Format {
        self.format
    }

    /// The physical address of the table.
    #[must_use]
    pub const fn table(&self) -> u64 {
        self.table
    }

    /// The level of its entries, counted from the leaf.
    #[must_use]
    pub const fn level(&self) -> u8 {
        self.level
    }

    /// How many bits of an address it translates (the upper half of them sign-extended, in single-stage formats).
    #[must_use]
    pub const fn input_bits(&self) -> u32 {
        self.input_bits
    }

    /// The number of its entries.
    #[must_use]
    pub const fn entries(&self) -> u64 {
        1 << (self.input_bits - shift(self.level))
    }

    /// Its size in bytes.
    #[must_use]
    pub const fn bytes(&self) -> u64 {
        8 * self.entries()
    }

    /// By how many bits an offset into the address space is shifted up and down again to be an address.
    pub(crate) const fn sign_shift(&self) -> u32 {
        if self.format.is_sign_extended() { 64 - self.input_bits } else { 0 }
    }

    /// The address at an offset into what the tables translate.
    pub(crate) const fn address(&self, offset: u64) -> u64 {
        let shift = self.sign_shift();
        ((offset << shift) as i64 >> shift) as u64
    }

    /// The offset of an address, if it is one that the tables translate.
    #[must_use]
    pub const fn offset(&self, address: u64) -> Option<u64> {
        let offset = address & (u64::MAX >> (64 - self.input_bits));
        let canonical = if self.format.is_sign_extended() { self.address(offset) } else { offset };
        if canonical == address { Some(offset) } else { None }
    }
}
