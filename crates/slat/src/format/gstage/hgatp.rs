//! The register hgatp: its value, and what a hart has of it. (Privileged manual, "Hypervisor Guest Address Translation and
//! Protection Register".)
//!
//! hgatp is WARL: a MODE that the hart does not have is **not** ignored as in satp, but turned into another one, and the
//! VMID is cut to the bits that exist. So both are found out by writing and reading back.

use super::capabilities::{Mode, Modes};
use crate::addr::HostPhysAddr;
use thiserror::Error;

const MODE_MASK: u64 = 0xf << 60;
const VMID_SHIFT: u32 = 44;
/// VMID: bits 57:44.
pub(super) const VMID_MASK: u64 = 0x3fff << VMID_SHIFT;
/// The root has four tables side by side.
const ROOT_BYTES: u64 = 4 * crate::PAGE_SIZE;
/// PPN, bits 43:0, holds address bits 55:12.
const ROOT_BITS: u32 = 56;

/// Why there is no value of hgatp.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum HgatpError {
    /// The root is no multiple of 16 KiB: the lowest two bits of PPN read as 0.
    #[error("the root {0:#x} is not 16 KiB aligned")]
    UnalignedRoot(HostPhysAddr),
    /// The root does not fit into PPN.
    #[error("the root {0:#x} is beyond 56 bits")]
    RootTooWide(HostPhysAddr),
    /// The hart would cut the VMID.
    #[error("VMID {vmid} does not fit into the {vmid_bits} bits of this hart")]
    VmidTooWide {
        /// The VMID that was given.
        vmid: u16,
        /// VMIDLEN.
        vmid_bits: u32,
    },
}

/// The VMID in `hgatp`, a value of that register: bits 57:44.
#[must_use]
pub const fn vmid(hgatp: u64) -> u16 {
    ((hgatp & VMID_MASK) >> VMID_SHIFT) as u16
}

/// MODE in its place.
pub(super) const fn mode_field(mode: Mode) -> u64 {
    let number = match mode {
        Mode::Sv39x4 => 8,
        Mode::Sv48x4 => 9,
        Mode::Sv57x4 => 10,
    };
    number << 60
}

/// MODE in bits 63:60, VMID in 57:44, PPN in 43:0; what does not fit is cut.
pub(super) const fn value(mode: Mode, vmid: u16, root: HostPhysAddr) -> u64 {
    mode_field(mode) | (vmid as u64) << VMID_SHIFT & VMID_MASK | root.as_u64() >> 12
}

/// As [`value`], of what fits.
pub(super) fn checked_value(
    mode: Mode,
    vmid_bits: u32,
    vmid: u16,
    root: HostPhysAddr,
) -> Result<u64, HgatpError> {
    if !root.is_aligned(ROOT_BYTES) {
        return Err(HgatpError::UnalignedRoot(root));
    }
    if root.as_u64() >> ROOT_BITS != 0 {
        return Err(HgatpError::RootTooWide(root));
    }
    if u32::from(vmid) >> vmid_bits != 0 {
        return Err(HgatpError::VmidTooWide { vmid, vmid_bits });
    }
    Ok(value(mode, vmid, root))
}

/// What a hart has of hgatp.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct HgatpProbe {
    /// The modes that it holds.
    pub modes: Modes,
    /// VMIDLEN: how many bits of VMID it holds, 0 to 14.
    pub vmid_bits: u32,
}

impl HgatpProbe {
    /// Finds out by `exchange`, which writes a value to hgatp and reads back what became of it.
    ///
    /// The caller keeps the old value and restores it afterwards, and then drops everything that the hart may have
    /// fetched meanwhile by what was written: HFENCE.GVMA with x0 and x0. Nothing enters a guest in between. On the
    /// machine itself `isa::riscv64::probe_hgatp` does all of that.
    ///
    /// ```
    /// use slat::format::gstage::{HgatpProbe, Modes};
    ///
    /// // A hart with Sv39x4 and 7 bits of VMID: other modes become Bare.
    /// let probe = HgatpProbe::probe(|value| if value >> 60 == 8 { value & (8 << 60 | 0x7f << 44) } else { 0 });
    /// assert_eq!(probe, HgatpProbe { modes: Modes::SV39X4, vmid_bits: 7 });
    /// ```
    pub fn probe(mut exchange: impl FnMut(u64) -> u64) -> Self {
        let mut found = Self::default();
        for mode in Mode::ALL {
            let back = exchange(mode_field(mode) | VMID_MASK);
            if back & MODE_MASK != mode_field(mode) {
                continue;
            }
            // The lowest bits come first.
            let vmid_bits = (back & VMID_MASK).wrapping_shr(VMID_SHIFT).trailing_ones();
            found.vmid_bits = if found.modes.is_empty() { vmid_bits } else { found.vmid_bits.min(vmid_bits) };
            found.modes.insert(mode.only());
        }
        found
    }
}

/// The bits of henvcfg that can be set, found out by `exchange`, which writes a value to henvcfg and reads back what became
/// of it; the caller keeps the old value and restores it. Of what guests get, only what M-mode has turned on in menvcfg
/// can be set. On the machine itself `isa::riscv64::probe_henvcfg` does this.
pub fn probe_henvcfg(exchange: impl FnOnce(u64) -> u64) -> u64 {
    // STCE, PBMTE, ADUE: what has an effect on guests alone.
    const ASKED: u64 = 7 << 61;
    exchange(ASKED) & ASKED
}

#[cfg(all(test, not(loom)))]
mod tests;
