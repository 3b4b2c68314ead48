//! Stage 1, which belongs to the guest: its registers, and its walks, whose every access goes through the second level.

mod arm;
mod riscv;
#[cfg(test)]
mod tests;
mod x86;

use crate::access::{Access, Fault, Permissions};
use crate::walk::{bit, field};

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

/// What stage 1 does next.
#[derive(Clone, Debug)]
pub(crate) enum Progress {
    /// It needs the entry at this guest physical address.
    Read(Walk),
    Done(FirstLeaf),
    Fault(VirtualFault),
}

/// A stage 1 walk that waits for an entry.
#[derive(Clone, Debug)]
pub(crate) struct Walk {
    /// Guest physical address of the entry.
    pub(crate) entry: u64,
    /// Counted from the leaf.
    pub(crate) level: u8,
    /// Entries above allow stores.
    pub(crate) write: bool,
    /// Entries above allow fetches by the kernel, and by user mode.
    pub(crate) execute: [bool; 2],
    /// Entries above allow user mode.
    pub(crate) user: bool,
    pub(crate) global: bool,
    pub(crate) updates: Vec<Update>,
}

impl Walk {
    fn new(entry: u64, level: u8) -> Self {
        Self { entry, level, write: true, execute: [true; 2], user: true, global: false, updates: Vec::new() }
    }

    fn fault(&self, gva: u64, present: bool) -> Progress {
        Progress::Fault(VirtualFault::Guest { gva, level: self.level, present })
    }

    /// Goes to the entry for `gva` in a table of 512 entries.
    fn descend(mut self, table: u64, gva: u64) -> Progress {
        self.level -= 1;
        self.entry = table + 8 * (gva >> (12 + 9 * u32::from(self.level)) & 0x1ff);
        Progress::Read(self)
    }
}

/// A flag that the hardware has to set in a guest's entry.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Update {
    /// Guest physical address.
    pub(crate) entry: u64,
    pub(crate) old: u64,
    pub(crate) new: u64,
}

/// Where stage 1 leads.
#[derive(Clone, Debug)]
pub(crate) struct FirstLeaf {
    /// Of the byte.
    pub(crate) gpa: u64,
    pub(crate) size: u64,
    /// For the privilege of the access.
    pub(crate) permissions: Permissions,
    /// The page is one of user mode.
    pub(crate) user: bool,
    pub(crate) global: bool,
    pub(crate) asid: u64,
    /// Stores need no flag to be set.
    pub(crate) dirty: bool,
    pub(crate) updates: Vec<Update>,
}

impl FirstLeaf {
    /// Stage 1 is off.
    fn flat(gva: u64, asid: u64) -> Self {
        Self {
            gpa: gva,
            size: 1 << 12,
            permissions: Permissions::ALL,
            user: true,
            global: false,
            asid,
            dirty: true,
            updates: Vec::new(),
        }
    }
}

impl Stage1 {
    /// Whether it translates.
    pub(crate) fn is_on(&self) -> bool {
        match *self {
            Self::X86 { cr0, .. } => bit(cr0, 31),
            Self::Arm { sctlr, .. } => bit(sctlr, 0),
            Self::Riscv { vsatp, .. } => vsatp >> 60 != 0,
        }
    }

    /// PCID or ASID that an access by this address runs with.
    pub(crate) fn asid(&self) -> u64 {
        match *self {
            Self::X86 { cr3, cr4, .. } => {
                if bit(cr4, 17) {
                    cr3 & 0xfff
                } else {
                    0
                }
            }
            Self::Arm { tcr, ttbr0, ttbr1, .. } => arm::asid(tcr, ttbr0, ttbr1),
            Self::Riscv { vsatp, .. } => field(vsatp, 59, 44),
        }
    }

    pub(crate) fn start(&self, gva: u64) -> Progress {
        if !self.is_on() {
            return Progress::Done(FirstLeaf::flat(gva, self.asid()));
        }
        match *self {
            Self::X86 { cr3, cr4, .. } => x86::start(cr3, cr4, gva),
            Self::Arm { tcr, ttbr0, ttbr1, .. } => arm::start(tcr, ttbr0, ttbr1, gva),
            Self::Riscv { vsatp, .. } => riscv::start(vsatp, gva),
        }
    }

    /// The walk has its entry.
    pub(crate) fn resume(&self, walk: Walk, raw: u64, gva: u64, access: Access) -> Progress {
        match self {
            Self::X86 { .. } => x86::resume(self, walk, raw, gva, access),
            Self::Arm { .. } => arm::resume(self, walk, raw, gva, access),
            Self::Riscv { .. } => riscv::resume(self, walk, raw, gva, access),
        }
    }
}
