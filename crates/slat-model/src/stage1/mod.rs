//! Stage 1, which belongs to the guest: its registers, and its walks, whose every access goes through the second level.

mod arm;
mod riscv;
#[cfg(test)]
mod tests;
mod x86;

use crate::access::{Access, Fault, Permissions};
use crate::walk::{bit, field};

/// What of an x86 CPU decides about a walk of its guest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct X86Features {
    /// MAXPHYADDR, 32 to 52.
    pub physical_bits: u32,
    /// 1 GiB pages.
    pub page_1g: bool,
    /// PSE-36: pages of 4 MiB in the first TiB.
    pub pse36: bool,
}

impl Default for X86Features {
    /// 52 bits and all features.
    fn default() -> Self {
        Self { physical_bits: 52, page_1g: true, pse36: true }
    }
}

/// What of an Arm CPU decides about a walk of its guest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ArmFeatures {
    /// The physical address size, 32 to 48.
    pub physical_bits: u32,
    /// FEAT_HAFDBS: 0 nothing, 1 the access flag, 2 the dirty state too.
    pub hafdbs: u8,
    /// FEAT_HPDS.
    pub hpds: bool,
    /// FEAT_PAN3.
    pub pan3: bool,
    /// FEAT_TTST.
    pub ttst: bool,
}

impl Default for ArmFeatures {
    /// 48 bits and all features.
    fn default() -> Self {
        Self { physical_bits: 48, hafdbs: 2, hpds: true, pan3: true, ttst: true }
    }
}

/// The guest's paging registers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Stage1 {
    /// x86 paging in all modes, or none (CR0.PG clear).
    X86 {
        /// CR0: PG and WP count.
        cr0: u64,
        /// CR3.
        cr3: u64,
        /// CR4: PSE, PAE, PGE, PCIDE, LA57, SMEP and SMAP count.
        cr4: u64,
        /// EFER: LMA and NXE count.
        efer: u64,
        /// RFLAGS.AC, which lifts SMAP.
        ac: bool,
        /// PAE paging: the PDPTEs where the CPU has them in registers (Intel). `None`: it reads them in each walk (AMD).
        pdptes: Option<[u64; 4]>,
        /// The CPU.
        features: X86Features,
    },
    /// Arm EL1&0, 4 KiB granule.
    Arm {
        /// SCTLR_EL1: M, WXN and EPAN count.
        sctlr: u64,
        /// TCR_EL1: T0SZ, T1SZ, EPDn, A1, AS, IPS, TBIn, TBIDn, HA, HD and HPDn count.
        tcr: u64,
        /// TTBR0_EL1.
        ttbr0: u64,
        /// TTBR1_EL1.
        ttbr1: u64,
        /// PSTATE.PAN.
        pan: bool,
        /// The CPU.
        features: ArmFeatures,
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
        /// henvcfg.PBMTE.
        pbmte: bool,
        /// Svnapot.
        svnapot: bool,
    },
}

/// The registers in which a guest finds its own page fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum GuestSyndrome {
    /// \#PF.
    X86 {
        /// The error code.
        error_code: u32,
        /// CR2.
        cr2: u64,
    },
    /// \#GP or \#SS, for an address that is not canonical.
    X86NonCanonical,
    /// A data or instruction abort.
    Arm {
        /// ESR_EL1; ISV and what depends on it are zero.
        esr: u64,
        /// FAR_EL1.
        far: u64,
    },
    /// A page fault.
    Riscv {
        /// vscause.
        scause: u64,
        /// vstval.
        stval: u64,
    },
}

/// Why stage 1 refuses an access.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Refusal {
    NotPresent,
    NotCanonical,
    Reserved,
    Permission,
    AccessFlag,
    AddressSize,
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
        /// As the guest finds it.
        syndrome: GuestSyndrome,
    },
    /// The second level refused, in the guest's page walk or at the final access.
    Second(Fault),
}

impl std::fmt::Display for VirtualFault {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Guest { gva, level, present, .. } => {
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
    /// Entries have 4 bytes, and tables 1024 of them.
    pub(crate) short: bool,
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
        Self {
            entry,
            level,
            short: false,
            write: true,
            execute: [true; 2],
            user: true,
            global: false,
            updates: Vec::new(),
        }
    }

    /// By how many bits an address is shifted down at this level.
    fn shift(&self) -> u32 {
        12 + if self.short { 10 } else { 9 } * u32::from(self.level)
    }

    /// Goes to the entry for `gva` in a table.
    fn descend(mut self, table: u64, gva: u64) -> Progress {
        self.level -= 1;
        let index = gva >> self.shift();
        self.entry = table + if self.short { 4 * (index & 0x3ff) } else { 8 * (index & 0x1ff) };
        Progress::Read(self)
    }

    /// The entry at which the walk is has to be changed.
    fn update(&mut self, old: u64, new: u64) {
        self.updates.push(Update { entry: self.entry, short: self.short, old, new });
    }
}

/// A flag that the hardware has to set in a guest's entry.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Update {
    /// Guest physical address.
    pub(crate) entry: u64,
    /// It has 4 bytes.
    pub(crate) short: bool,
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
    /// An x86 guest on a CPU with all features, its PDPTEs in memory.
    #[must_use]
    pub fn x86(cr0: u64, cr3: u64, cr4: u64, efer: u64, ac: bool) -> Self {
        Self::X86 { cr0, cr3, cr4, efer, ac, pdptes: None, features: X86Features::default() }
    }

    /// An Arm guest on a CPU with all features, PAN off.
    #[must_use]
    pub fn arm(sctlr: u64, tcr: u64, ttbr0: u64, ttbr1: u64) -> Self {
        Self::Arm { sctlr, tcr, ttbr0, ttbr1, pan: false, features: ArmFeatures::default() }
    }

    /// A RISC-V guest with this vsatp, all else off.
    #[must_use]
    pub fn riscv(vsatp: u64) -> Self {
        Self::Riscv { vsatp, sum: false, mxr: false, adue: false, pbmte: false, svnapot: false }
    }

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

    pub(crate) fn start(&self, gva: u64, access: Access) -> Progress {
        match (self.is_on(), self) {
            (true, Self::X86 { .. }) => x86::start(self, gva, access),
            (true, Self::Arm { .. }) => arm::start(self, gva, access),
            (true, Self::Riscv { .. }) => riscv::start(self, gva, access),
            (false, Self::Arm { .. }) => arm::flat(self, gva, access),
            (false, _) => Progress::Done(FirstLeaf::flat(gva, self.asid())),
        }
    }

    /// Stage 1 refuses at an entry of `level`; the leaf, if it is one, allows this much.
    fn refuse(
        &self,
        gva: u64,
        level: u8,
        access: Access,
        refusal: Refusal,
        allowed: Permissions,
    ) -> Progress {
        let present = !matches!(refusal, Refusal::NotPresent | Refusal::NotCanonical);
        let syndrome = match self {
            Self::X86 { .. } => x86::syndrome(self, gva, access, refusal),
            Self::Arm { .. } => arm::syndrome(gva, level, access, refusal, allowed),
            Self::Riscv { .. } => riscv::syndrome(gva, access),
        };
        Progress::Fault(VirtualFault::Guest { gva, level, present, syndrome })
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
