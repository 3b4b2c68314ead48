//! The ten formats, and what a CPU adds to each.

use core::fmt;
use core::str::FromStr;

/// A format of page tables.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Format {
    /// Intel extended page tables, four or five levels.
    Ept,
    /// AMD nested page tables, four or five levels.
    Npt,
    /// Arm stage 2, 4 KiB granule.
    Stage2,
    /// RISC-V G-stage, 41-bit guest physical addresses.
    Sv39x4,
    /// RISC-V G-stage, 50-bit guest physical addresses.
    Sv48x4,
    /// RISC-V G-stage, 59-bit guest physical addresses.
    Sv57x4,
    /// RISC-V, 39-bit virtual addresses.
    Sv39,
    /// RISC-V, 48-bit virtual addresses.
    Sv48,
    /// RISC-V, 57-bit virtual addresses.
    Sv57,
    /// x86 long mode, four or five levels.
    X86_64,
}

impl Format {
    /// All of them.
    pub const ALL: [Self; 10] = [
        Self::Ept,
        Self::Npt,
        Self::Stage2,
        Self::Sv39x4,
        Self::Sv48x4,
        Self::Sv57x4,
        Self::Sv39,
        Self::Sv48,
        Self::Sv57,
        Self::X86_64,
    ];

    /// As it is written on a command line: `ept`, `npt`, `stage2`, `sv39x4`, ..., `x86-64`.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Ept => "ept",
            Self::Npt => "npt",
            Self::Stage2 => "stage2",
            Self::Sv39x4 => "sv39x4",
            Self::Sv48x4 => "sv48x4",
            Self::Sv57x4 => "sv57x4",
            Self::Sv39 => "sv39",
            Self::Sv48 => "sv48",
            Self::Sv57 => "sv57",
            Self::X86_64 => "x86-64",
        }
    }

    /// Whether it translates guest physical addresses, and not virtual ones.
    #[must_use]
    pub const fn is_second_stage(self) -> bool {
        !matches!(self, Self::Sv39 | Self::Sv48 | Self::Sv57 | Self::X86_64)
    }

    /// Whether it is one of RISC-V's.
    #[must_use]
    pub const fn is_riscv(self) -> bool {
        !matches!(self, Self::Ept | Self::Npt | Self::Stage2 | Self::X86_64)
    }

    /// Whether addresses are sign-extended: the upper half of the tables translates the top of the address space.
    #[must_use]
    pub const fn is_sign_extended(self) -> bool {
        !self.is_second_stage()
    }

    /// What it translates: `GPA`, `IPA` or `VA`.
    #[must_use]
    pub const fn address_name(self) -> &'static str {
        match self {
            Self::Stage2 => "IPA",
            format if format.is_second_stage() => "GPA",
            _ => "VA",
        }
    }

    /// The level of the root table's entries, counted from the leaf, where nothing else is said: of four levels that is 3.
    #[must_use]
    pub const fn default_root_level(self) -> u8 {
        match self {
            Self::Sv39x4 | Self::Sv39 | Self::Stage2 => 2,
            Self::Sv57x4 | Self::Sv57 => 4,
            _ => 3,
        }
    }

    /// What the manual calls an entry of this level (counted from the leaf).
    #[must_use]
    pub const fn entry_name(self, level: u8) -> &'static str {
        match (self, level) {
            (Self::Ept | Self::Npt | Self::X86_64, 0) => "PTE",
            (Self::Ept | Self::Npt | Self::X86_64, 1) => "PDE",
            (Self::Ept | Self::Npt | Self::X86_64, 2) => "PDPTE",
            (Self::Ept | Self::Npt | Self::X86_64, 3) => "PML4E",
            (Self::Ept | Self::Npt | Self::X86_64, _) => "PML5E",
            (Self::Stage2, 0) => "level 3 descriptor",
            (Self::Stage2, 1) => "level 2 descriptor",
            (Self::Stage2, 2) => "level 1 descriptor",
            (Self::Stage2, _) => "level 0 descriptor",
            (_, 0) => "level 0 PTE",
            (_, 1) => "level 1 PTE",
            (_, 2) => "level 2 PTE",
            (_, 3) => "level 3 PTE",
            (_, _) => "level 4 PTE",
        }
    }
}

impl fmt::Display for Format {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// Not the name of a format.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not a format: ept, npt, stage2, sv39x4, sv48x4, sv57x4, sv39, sv48, sv57 or x86-64 is expected")]
pub struct UnknownFormat;

impl FromStr for Format {
    type Err = UnknownFormat;

    fn from_str(name: &str) -> Result<Self, UnknownFormat> {
        Self::ALL.into_iter().find(|format| format.name().eq_ignore_ascii_case(name)).ok_or(UnknownFormat)
    }
}

/// What of a CPU decides about the meaning of an entry. A feature that is off makes bits reserved, or without meaning.
///
/// [`Cpu::permissive`] has everything on that makes bits legal: with it, what is called a problem is one on every CPU.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cpu {
    /// The width of physical addresses in bits: x86 MAXPHYADDR, Arm PARange. RISC-V entries have 56, of which none is reserved.
    pub physical_bits: u32,
    /// x86: pages of 2 MiB (EPT: IA32_VMX_EPT_VPID_CAP bit 16).
    pub page_2m: bool,
    /// x86: pages of 1 GiB (EPT: IA32_VMX_EPT_VPID_CAP bit 17).
    pub page_1g: bool,
    /// EPT: execute-only pages (IA32_VMX_EPT_VPID_CAP bit 0).
    pub execute_only: bool,
    /// EPT: the VM-execution control "mode-based execute control", which gives bit 10 its meaning.
    pub mode_based_execute: bool,
    /// NPT and x86-64: EFER.NXE (for NPT the host's), without which bit 63 is reserved.
    pub no_execute: bool,
    /// NPT: guest mode execute trap (VMCB 090h bit 3).
    pub guest_mode_execute_trap: bool,
    /// NPT and x86-64: IA32_PAT (for NPT the host's). The default is the one after reset.
    pub pat: u64,
    /// Arm: HCR_EL2.FWB.
    pub force_write_back: bool,
    /// Arm: FEAT_XNX.
    pub execute_never_per_level: bool,
    /// Arm: ID_AA64MMFR2_EL1.BBM is 1 or more, which gives bit 16 of a block (nT) its meaning.
    pub block_nt: bool,
    /// RISC-V: Svnapot.
    pub svnapot: bool,
    /// RISC-V: Svpbmt, switched on by PBMTE.
    pub svpbmt: bool,
    /// RISC-V: Svrsw60t59b, bits 60:59 are software's.
    pub svrsw60t59b: bool,
    /// RISC-V: the MXR that counts (for the G-stage the hypervisor's own), loads from executable pages.
    pub make_executable_readable: bool,
    /// The hardware sets accessed flags: EPTP bit 6, VTCR_EL2.HA, RISC-V ADUE. Without it a leaf whose flag is clear faults (Arm, RISC-V).
    pub sets_accessed: bool,
    /// The hardware sets dirty flags: EPTP bit 6, VTCR_EL2.HD, RISC-V ADUE.
    pub sets_dirty: bool,
}

impl Cpu {
    /// Everything on that makes bits legal; no mode-based execute control, GMET, FWB or MXR; the hardware sets flags.
    #[must_use]
    pub const fn permissive(format: Format) -> Self {
        Self {
            physical_bits: match format {
                Format::Ept | Format::Npt | Format::X86_64 => 52,
                Format::Stage2 => 48,
                _ => 56,
            },
            page_2m: true,
            page_1g: true,
            execute_only: true,
            mode_based_execute: false,
            no_execute: true,
            guest_mode_execute_trap: false,
            pat: 0x0007_0406_0007_0406,
            force_write_back: false,
            execute_never_per_level: true,
            block_nt: true,
            svnapot: true,
            svpbmt: true,
            svrsw60t59b: true,
            make_executable_readable: false,
            sets_accessed: true,
            sets_dirty: true,
        }
    }
}
