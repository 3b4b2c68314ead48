//! Entry into an exception at EL1, as the CPU does it: how the hypervisor delivers one to its guest.
//!
//! Reference: Arm ARM, "Exception entry" and the SPSR_EL1, ESR_EL1 pages.

use super::exit::exception_class;
use slat::format::stage2::Syndrome;

/// Bits of PSTATE as SPSR_ELx holds them.
mod pstate {
    pub(super) const MODE: u64 = 0xf;
    pub(super) const EL1H: u64 = 0x5;
    pub(super) const EL1T: u64 = 0x4;
    pub(super) const AARCH32: u64 = 1 << 4;
    pub(super) const DAIF: u64 = 0xf << 6;
    pub(super) const BTYPE: u64 = 0b11 << 10;
    pub(super) const SSBS: u64 = 1 << 12;
    pub(super) const SS: u64 = 1 << 21;
    pub(super) const PAN: u64 = 1 << 22;
    pub(super) const DIT: u64 = 1 << 24;
    pub(super) const DIT_AARCH32: u64 = 1 << 21;
    pub(super) const TCO: u64 = 1 << 25;
    pub(super) const NZCV: u64 = 0xf << 28;
}

const SCTLR_SPAN: u64 = 1 << 23;
const SCTLR_DSSBS: u64 = 1 << 44;
/// Bit 25 of an ESR: the instruction is 32 bits long.
const ESR_IL: u64 = 1 << 25;
/// Write, not read: bit 6 of the syndrome of a data abort.
const ESR_WNR: u64 = 1 << 6;
/// Fault status: synchronous external abort, not on a table walk.
const STATUS_EXTERNAL: u64 = 0x10;

/// Extensions of PSTATE that this CPU has.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PstateFeatures {
    /// FEAT_PAN.
    pub pan: bool,
    /// FEAT_SSBS.
    pub ssbs: bool,
    /// FEAT_MTE2, which adds PSTATE.TCO.
    pub mte: bool,
}

/// The guest's state on which the entry depends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Before {
    /// Program counter.
    pub pc: u64,
    /// PSTATE, from SPSR_EL2.
    pub pstate: u64,
    /// VBAR_EL1.
    pub vbar: u64,
    /// SCTLR_EL1.
    pub sctlr: u64,
}

/// What delivering the exception changes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Program counter: the guest's vector.
    pub pc: u64,
    /// PSTATE.
    pub pstate: u64,
    /// ELR_EL1.
    pub elr: u64,
    /// SPSR_EL1.
    pub spsr: u64,
    /// ESR_EL1.
    pub esr: u64,
    /// FAR_EL1, if the exception sets it.
    pub far: Option<u64>,
}

/// A synchronous exception for the guest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exception {
    /// The instruction does not exist.
    Undefined,
    /// The bus answered an access with an error.
    ExternalAbort {
        /// Virtual address of the access.
        address: u64,
        /// An instruction fetch.
        fetch: bool,
        /// A write.
        write: bool,
    },
}

impl Exception {
    /// The external abort that answers the data or instruction abort with this syndrome.
    #[must_use]
    pub fn external_abort(syndrome: &Syndrome) -> Self {
        Self::ExternalAbort {
            address: syndrome.far,
            fetch: exception_class(syndrome.esr) == 0x20,
            write: syndrome.esr & ESR_WNR != 0,
        }
    }
}

/// Program counter and PSTATE after the trapped instruction at `pc` was answered and is skipped.
#[must_use]
pub fn skip(pc: u64, pstate: u64, esr: u64) -> (u64, u64) {
    let length = if esr & ESR_IL != 0 { 4 } else { 2 };
    // In AArch32 these bits mean other things; there the guest's EL0 can be trapped, but not single-stepped by us.
    let done = if pstate & pstate::AARCH32 == 0 { pstate::BTYPE | pstate::SS } else { 0 };
    (pc.wrapping_add(length), pstate & !done)
}

/// What the CPU would do if it took `exception` to EL1.
#[must_use]
pub fn enter(before: Before, features: PstateFeatures, exception: Exception) -> Entry {
    let Before { pc, pstate, vbar, sctlr } = before;
    let from_el1 =
        pstate & pstate::AARCH32 == 0 && matches!(pstate & pstate::MODE, pstate::EL1T | pstate::EL1H);
    let (esr, far) = match exception {
        Exception::Undefined => (ESR_IL, None),
        Exception::ExternalAbort { address, fetch, write } => {
            let class = match (fetch, from_el1) {
                (true, false) => 0x20,
                (true, true) => 0x21,
                (false, false) => 0x24,
                (false, true) => 0x25,
            };
            let wnr = if write && !fetch { ESR_WNR } else { 0 };
            (class << 26 | ESR_IL | wnr | STATUS_EXTERNAL, Some(address))
        }
    };
    let offset = if pstate & pstate::AARCH32 != 0 {
        0x600
    } else {
        match pstate & pstate::MODE {
            pstate::EL1T => 0,
            pstate::EL1H => 0x200,
            _ => 0x400,
        }
    };
    Entry {
        // The low 11 bits of VBAR_EL1 are RES0.
        pc: (vbar & !0x7ff) | offset,
        pstate: pstate_at_el1(pstate, sctlr, features),
        elr: pc,
        spsr: pstate,
        esr,
        far,
    }
}

fn pstate_at_el1(old: u64, sctlr: u64, features: PstateFeatures) -> u64 {
    let mut new = pstate::EL1H | pstate::DAIF | (old & pstate::NZCV);
    let dit = if old & pstate::AARCH32 == 0 { pstate::DIT } else { pstate::DIT_AARCH32 };
    if old & dit != 0 {
        new |= pstate::DIT;
    }
    if features.pan && (old & pstate::PAN != 0 || sctlr & SCTLR_SPAN == 0) {
        new |= pstate::PAN;
    }
    if features.ssbs && sctlr & SCTLR_DSSBS != 0 {
        new |= pstate::SSBS;
    }
    if features.mte {
        new |= pstate::TCO;
    }
    new
}

#[cfg(test)]
mod tests;
