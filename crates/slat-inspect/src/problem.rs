//! What is wrong with an entry, precisely.

use crate::format::Format;
use core::fmt;

/// What is wrong with an entry, and where.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Problem {
    /// Whose rule is broken.
    pub format: Format,
    /// What is wrong.
    pub kind: ProblemKind,
    /// The bits of the entry that make it so.
    pub bits: u64,
}

/// What can be wrong with an entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum ProblemKind {
    /// Bits that have to be zero.
    ReservedBits,
    /// The address is wider than the CPU's physical addresses.
    AddressTooWide,
    /// The address of a large page is not a multiple of its size.
    Misaligned,
    /// Writable, but not readable.
    WriteWithoutRead,
    /// EPT: executable, but not readable, on a CPU without execute-only pages.
    ExecuteWithoutRead,
    /// A reserved memory type.
    MemoryType,
    /// A page of this size on a CPU that has none.
    LargePage,
    /// x86: bit 63 without EFER.NXE.
    NoExecute,
    /// RISC-V: a pointer to a table with A, D, U, PBMT or N.
    PointerWithLeafBits,
    /// RISC-V: a pointer to a table where no level is left.
    PointerAtLastLevel,
    /// Arm: 0b01 where there are no blocks.
    DescriptorType,
    /// Arm: SH is 0b01.
    Shareability,
    /// Arm: XN\[0\] without FEAT_XNX.
    ExecuteNever,
    /// RISC-V: N without Svnapot, or another size than 64 KiB.
    Napot,
    /// RISC-V: a memory type without Svpbmt.
    NoSvpbmt,
}

/// What the hardware does with a malformed entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Effect {
    /// Intel: exit reason 49.
    EptMisconfiguration,
    /// x86: \#PF or \#NPF with RSV set.
    ReservedBitFault,
    /// RISC-V: a page fault, or guest-page fault, as for an entry that is not valid.
    PageFault,
    /// Arm: a translation fault, as for an entry that is not valid.
    TranslationFault,
    /// Arm: an address size fault.
    AddressSizeFault,
    /// Arm: CONSTRAINED UNPREDICTABLE or reserved; a CPU may ignore it, and a later one may not.
    Unpredictable,
}

impl Problem {
    /// What the hardware does with the entry.
    #[must_use]
    pub const fn effect(&self) -> Effect {
        match (self.format, self.kind) {
            (Format::Ept, _) => Effect::EptMisconfiguration,
            (Format::Npt | Format::X86_64, _) => Effect::ReservedBitFault,
            (Format::Stage2, ProblemKind::DescriptorType) => Effect::TranslationFault,
            (Format::Stage2, ProblemKind::AddressTooWide) => Effect::AddressSizeFault,
            (Format::Stage2, _) => Effect::Unpredictable,
            _ => Effect::PageFault,
        }
    }

    /// What is wrong, in a few words.
    #[must_use]
    pub const fn reason(&self) -> &'static str {
        match self.kind {
            ProblemKind::ReservedBits => "reserved bits are set",
            ProblemKind::AddressTooWide => "the address is wider than the CPU's physical addresses",
            ProblemKind::Misaligned => "the address is not a multiple of the page's size",
            ProblemKind::WriteWithoutRead => "writable, but not readable",
            ProblemKind::ExecuteWithoutRead => {
                "executable, but not readable, and the CPU has no execute-only pages"
            }
            ProblemKind::MemoryType => "the memory type is reserved",
            ProblemKind::LargePage => "the CPU has no pages of this size",
            ProblemKind::NoExecute => "no-execute is set, but EFER.NXE is not",
            ProblemKind::PointerWithLeafBits => "a pointer to a table with bits that only a leaf may have",
            ProblemKind::PointerAtLastLevel => "a pointer to a table (R, W and X clear) at the last level",
            ProblemKind::DescriptorType => "a block (0b01) at a level that has none",
            ProblemKind::Shareability => "the shareability 0b01 is reserved",
            ProblemKind::ExecuteNever => "XN[0] is set, but the CPU has no FEAT_XNX",
            ProblemKind::Napot => "N is set, but this is no entry of 64 KiB (Svnapot)",
            ProblemKind::NoSvpbmt => "a memory type is set, but Svpbmt is off",
        }
    }

    /// The section of the manual that has the rule.
    #[must_use]
    pub const fn section(&self) -> &'static str {
        match (self.format, self.kind) {
            (Format::Ept, _) => "Intel SDM vol. 3C, \"EPT Misconfigurations\"",
            (Format::Npt, _) => "AMD APM vol. 2, \"Nested Table Walk\" and \"Long-Mode Page Translation\"",
            (Format::X86_64, _) => "Intel SDM vol. 3A, \"4-Level Paging and 5-Level Paging\"",
            (Format::Stage2, ProblemKind::MemoryType) => {
                "Arm ARM D8, \"Stage 2 memory type and Cacheability attributes\""
            }
            (Format::Stage2, ProblemKind::Shareability) => "Arm ARM D8, \"Stage 2 Shareability\"",
            (Format::Stage2, ProblemKind::ExecuteNever) => "Arm ARM D8, \"Stage 2 execute permissions\"",
            (Format::Stage2, ProblemKind::AddressTooWide) => "Arm ARM D8, \"Output address size\"",
            (Format::Stage2, _) => "Arm ARM D8, \"VMSAv8-64 descriptor formats\"",
            (_, ProblemKind::Napot) => "RISC-V Privileged ISA, \"Svnapot\"",
            (_, ProblemKind::NoSvpbmt | ProblemKind::MemoryType) => "RISC-V Privileged ISA, \"Svpbmt\"",
            (Format::Sv39 | Format::Sv48 | Format::Sv57, _) => {
                "RISC-V Privileged ISA, \"Virtual Address Translation Process\""
            }
            _ => "RISC-V Privileged ISA, \"Guest Physical Address Translation\"",
        }
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({}): {} ({})", self.reason(), Bits(self.bits), self.effect(), self.section())
    }
}

impl fmt::Display for Effect {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::EptMisconfiguration => "EPT misconfiguration",
            Self::ReservedBitFault => "page fault with RSV set",
            Self::PageFault => "page fault",
            Self::TranslationFault => "translation fault",
            Self::AddressSizeFault => "address size fault",
            Self::Unpredictable => "unpredictable",
        })
    }
}

/// The numbers of the bits that are set in a value, as `bit 7` or `bits 63, 14:12`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bits(pub u64);

impl fmt::Display for Bits {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.0.is_power_of_two() { "bit " } else { "bits " })?;
        let (mut rest, mut separator) = (self.0, "");
        if rest == 0 {
            return f.write_str("none");
        }
        while rest != 0 {
            let high = 63 - rest.leading_zeros();
            // The ones in a row from there down.
            let ones = (rest << (63 - high)).leading_ones();
            let low = high + 1 - ones;
            match ones {
                1 => write!(f, "{separator}{high}")?,
                _ => write!(f, "{separator}{high}:{low}")?,
            }
            rest &= !(u64::MAX >> (63 - high) & u64::MAX << low);
            separator = ", ";
        }
        Ok(())
    }
}
