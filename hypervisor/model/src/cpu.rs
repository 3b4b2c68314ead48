//! The CPUs that can be had, one for each format.

use slat::format::ept::{self, Ept};
use slat::format::gstage::{self, Gstage};
use slat::format::npt::{self, Npt};
use slat::format::stage2::{Features, Stage2};

/// A CPU of the model with the second-level translation of its architecture.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cpu {
    /// Arm, stage 2.
    Arm,
    /// Intel, EPT.
    Intel,
    /// AMD, NPT.
    Amd,
    /// RISC-V, G-stage.
    Riscv,
}

impl Cpu {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Arm, Self::Intel, Self::Amd, Self::Riscv];

    /// The name of its second-level format on the command line.
    #[must_use]
    pub const fn format(self) -> &'static str {
        match self {
            Self::Arm => "stage2",
            Self::Intel => "ept",
            Self::Amd => "npt",
            Self::Riscv => "gstage",
        }
    }

    /// The same as its manual writes it.
    #[must_use]
    pub const fn format_title(self) -> &'static str {
        match self {
            Self::Arm => "stage 2",
            Self::Intel => "EPT",
            Self::Amd => "NPT",
            Self::Riscv => "G-stage",
        }
    }

    /// The architecture, as targets are named.
    #[must_use]
    pub const fn architecture(self) -> &'static str {
        match self {
            Self::Arm => "aarch64",
            Self::Intel | Self::Amd => "x86_64",
            Self::Riscv => "riscv64",
        }
    }

    /// What it is, in words.
    #[must_use]
    pub const fn description(self) -> &'static str {
        match self {
            Self::Arm => "model of an Armv8 CPU",
            Self::Intel => "model of an Intel CPU",
            Self::Amd => "model of an AMD CPU",
            Self::Riscv => "model of a RISC-V hart",
        }
    }
}

/// 40-bit addresses: three levels and two tables side by side as the root. Without FWB, so that caches are maintained.
///
/// # Errors
/// None on this CPU.
pub fn stage2() -> Result<Stage2, String> {
    let features = Features { pa_bits: 48, vmid_bits: 16, ..Features::BASELINE };
    Stage2::new(features, Some(40)).map_err(|error| error.to_string())
}

/// Four levels, leaves of every size (bits 6, 14, 16, 17), and INVEPT of both types (bits 20, 25, 26).
pub(crate) fn ept() -> Result<Ept, String> {
    let ept_vpid_cap = 1 << 6 | 1 << 14 | 1 << 16 | 1 << 17 | 1 << 20 | 1 << 25 | 1 << 26;
    let capabilities = ept::Capabilities {
        ept_vpid_cap,
        physical_bits: 46,
        mode_based_execute: false,
        accessed_dirty: false,
    };
    Ept::new(capabilities, 4).map_err(|error| error.to_string())
}

/// Four levels, and leaves of 1 GiB.
pub(crate) fn npt() -> Result<Npt, String> {
    let capabilities = npt::Capabilities {
        physical_bits: 48,
        leaf_1g: true,
        no_execute: true,
        asids: 64,
        accessed_dirty: false,
    };
    Npt::new(capabilities, 4).map_err(|error| error.to_string())
}

/// Sv39x4 with Svpbmt.
///
/// # Errors
/// None on this CPU.
pub fn gstage() -> Result<Gstage, String> {
    let capabilities = gstage::Capabilities {
        vmid_bits: 14,
        extensions: gstage::Extensions::SVPBMT,
        ..gstage::Capabilities::BASELINE
    };
    Gstage::new(gstage::Mode::Sv39x4, capabilities).map_err(|error| error.to_string())
}
