//! Stage 1, which belongs to the guest: its registers, and its walks, whose every access goes through the second level.

use crate::access::Fault;

/// The guest's paging registers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Stage1 {
    /// x86, 4-level or 5-level paging in IA-32e mode, or none (CR0.PG clear).
    X86 {
        /// CR0: PG and WP count.
        cr0: u64,
        /// CR3.
        cr3: u64,
        /// CR4: PGE, PCIDE, LA57, SMEP and SMAP count.
        cr4: u64,
        /// EFER: NXE counts.
        efer: u64,
        /// RFLAGS.AC, which lifts SMAP.
        ac: bool,
    },
    /// Arm EL1&0, 4 KiB granule.
    Arm {
        /// SCTLR_EL1: M and WXN count.
        sctlr: u64,
        /// TCR_EL1: T0SZ, T1SZ, EPD0, EPD1, A1, AS, HA and HD count.
        tcr: u64,
        /// TTBR0_EL1.
        ttbr0: u64,
        /// TTBR1_EL1.
        ttbr1: u64,
    },
    /// RISC-V VS-stage.
    Riscv {
        /// vsatp.
        vsatp: u64,
        /// vsstatus.SUM.
        sum: bool,
        /// vsstatus.MXR.
        mxr: bool,
        /// henvcfg.ADUE.
        adue: bool,
    },
}

/// A fault of an access by guest virtual address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum VirtualFault {
    /// Stage 1 refused: the guest's own page fault.
    Guest {
        /// The guest virtual address.
        gva: u64,
        /// The level of the entry, counted from the leaf.
        level: u8,
        /// The entry was present (or valid), but not good enough.
        present: bool,
    },
    /// The second level refused, in the guest's page walk or at the final access.
    Second(Fault),
}

impl std::fmt::Display for VirtualFault {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Guest { gva, level, present } => {
                write!(f, "stage 1 refused {gva:#x} at level {level} (present: {present})")
            }
            Self::Second(fault) => fault.fmt(f),
        }
    }
}

impl std::error::Error for VirtualFault {}
