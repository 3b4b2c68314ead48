//! Which extensions of the architecture the guest may use, and the EL2 registers that let it.
//!
//! The guest reads the CPU's own ID registers, so it is given what they promise: SVE, SME, pointer authentication,
//! memory tagging. None of it has state that the hypervisor uses, and there is one guest, so nothing is saved.

use super::exception::PstateFeatures;

/// CPTR_EL2 (without host extensions): the bits that are one, which trap SVE (TZ) and SME (TSM). Floating point is not
/// trapped.
const CPTR: u64 = 0x33ff;
const CPTR_TZ: u64 = 1 << 8;
const CPTR_TSM: u64 = 1 << 12;

/// Bits of HCR_EL2.
mod hcr {
    /// Set/way invalidation cleans too.
    pub(super) const SWIO: u64 = 1 << 1;
    /// SErrors go to EL2.
    pub(super) const AMO: u64 = 1 << 5;
    /// WFI is trapped.
    pub(super) const TWI: u64 = 1 << 13;
    /// SMC is trapped.
    pub(super) const TSC: u64 = 1 << 19;
    /// Implementation-defined registers are trapped.
    pub(super) const TIDCP: u64 = 1 << 20;
    /// ACTLR_EL1 is trapped.
    pub(super) const TACR: u64 = 1 << 21;
    /// EL1 is AArch64.
    pub(super) const RW: u64 = 1 << 31;
    /// Keys of pointer authentication are not trapped.
    pub(super) const APK: u64 = 1 << 40;
    /// Instructions of pointer authentication are not trapped.
    pub(super) const API: u64 = 1 << 41;
    /// Allocation tags are accessible.
    pub(super) const ATA: u64 = 1 << 56;
}

/// HCR_EL2 of the host, between guests.
pub const HCR_HOST: u64 = hcr::RW;

/// ID registers that name extensions.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct IdRegisters {
    /// ID_AA64PFR0_EL1.
    pub pfr0: u64,
    /// ID_AA64PFR1_EL1.
    pub pfr1: u64,
    /// ID_AA64ISAR1_EL1.
    pub isar1: u64,
    /// ID_AA64ISAR2_EL1.
    pub isar2: u64,
    /// ID_AA64MMFR0_EL1.
    pub mmfr0: u64,
    /// ID_AA64MMFR1_EL1.
    pub mmfr1: u64,
    /// ID_AA64DFR0_EL1.
    pub dfr0: u64,
}

/// What a CPU has beyond Armv8.0, as far as EL2 has to know.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Extensions {
    /// FEAT_SVE.
    pub sve: bool,
    /// FEAT_SME.
    pub sme: bool,
    /// FEAT_PAuth.
    pub pointer_authentication: bool,
    /// FEAT_MTE2.
    pub tags: bool,
    /// FEAT_FGT.
    pub fine_grained_traps: bool,
    /// FEAT_HCX.
    pub extended_hcr: bool,
    /// A PMU of the architecture's version.
    pub pmu: bool,
    /// The GIC's CPU interface as system registers.
    pub gic_registers: bool,
    /// FEAT_PAN.
    pub pan: bool,
    /// FEAT_SSBS.
    pub ssbs: bool,
}

impl Extensions {
    /// Decodes the ID registers.
    #[must_use]
    pub const fn from_id_registers(ids: &IdRegisters) -> Self {
        const fn field(register: u64, low: u32) -> u64 {
            register >> low & 0xf
        }
        Self {
            sve: field(ids.pfr0, 32) != 0,
            sme: field(ids.pfr1, 24) != 0,
            // APA, API and, in ISAR2, APA3: one of three algorithms.
            pointer_authentication: ids.isar1 & 0xff0 != 0 || field(ids.isar2, 12) != 0,
            tags: field(ids.pfr1, 8) >= 2,
            fine_grained_traps: field(ids.mmfr0, 56) != 0,
            extended_hcr: field(ids.mmfr1, 40) != 0,
            // 0xf: a PMU of another kind.
            pmu: !matches!(field(ids.dfr0, 8), 0 | 0xf),
            gic_registers: field(ids.pfr0, 24) != 0,
            pan: field(ids.mmfr1, 20) != 0,
            ssbs: field(ids.pfr1, 4) != 0,
        }
    }

    /// What an exception at EL1 changes in PSTATE.
    #[must_use]
    pub const fn pstate(self) -> PstateFeatures {
        PstateFeatures { pan: self.pan, ssbs: self.ssbs, mte: self.tags }
    }

    /// CPTR_EL2.
    #[must_use]
    pub const fn cptr(self) -> u64 {
        let sve = if self.sve { CPTR_TZ } else { 0 };
        let sme = if self.sme { CPTR_TSM } else { 0 };
        CPTR & !(sve | sme)
    }

    /// HCR_EL2 while the guest is bound, without what the stage-2 format adds. Interrupts are the guest's; SErrors come
    /// to EL2, so that one that the guest provoked is attributed to it, also when it arrives late; SMC is trapped,
    /// or the guest would reach the machine's own firmware.
    #[must_use]
    pub const fn hcr(self, trap_wait: bool) -> u64 {
        let mut bits = hcr::RW | hcr::SWIO | hcr::AMO | hcr::TSC | hcr::TIDCP | hcr::TACR;
        if trap_wait {
            bits |= hcr::TWI;
        }
        if self.pointer_authentication {
            bits |= hcr::APK | hcr::API;
        }
        if self.tags {
            bits |= hcr::ATA;
        }
        bits
    }

    /// HFGRTR_EL2 and HFGWTR_EL2: nothing is trapped. Two of SME's registers are trapped by a zero.
    #[must_use]
    pub const fn register_traps(self) -> u64 {
        const NOT_SMPRI_EL1: u64 = 1 << 54;
        const NOT_TPIDR2_EL0: u64 = 1 << 55;
        if self.sme { NOT_SMPRI_EL1 | NOT_TPIDR2_EL0 } else { 0 }
    }
}

#[cfg(test)]
mod tests;
