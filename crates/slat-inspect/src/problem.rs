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
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?} (bits {:#x})", self.kind, self.bits)
    }
}
