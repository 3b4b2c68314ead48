//! What a CPU's ID registers say about stage 2.
//!
//! Plain integers in, plain values out, so that every CPU ever built can be tested on any host. The registers are
//! read by `isa::aarch64::id_registers`.

/// The ID registers that matter to stage 2, as read at EL2 (on a big.LITTLE machine: the common denominator).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct IdRegisters {
    /// ID_AA64MMFR0_EL1.
    pub mmfr0: u64,
    /// ID_AA64MMFR1_EL1.
    pub mmfr1: u64,
    /// ID_AA64MMFR2_EL1.
    pub mmfr2: u64,
    /// ID_AA64ISAR0_EL1.
    pub isar0: u64,
    /// CTR_EL0.
    pub ctr: u64,
}

/// What of stage 2 a CPU offers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Features {
    /// Physical address range in bits: 32 to 52.
    pub pa_bits: u32,
    /// Bits of a VMID: 8 or 16.
    pub vmid_bits: u32,
    /// Whether stage 2 has the 4 KiB granule.
    pub granule_4k: bool,
    /// FEAT_S2FWB: stage 2 can force write-back, and the caches need no maintenance.
    pub fwb: bool,
    /// FEAT_XNX: execution at EL0 and EL1 is separate.
    pub xnx: bool,
    /// FEAT_TLBIRANGE: one TLBI for a range.
    pub range_tlbi: bool,
    /// CTR_EL0.IDC: the data cache needs no clean for instructions.
    pub idc: bool,
    /// CTR_EL0.DIC: the instruction cache needs no invalidation.
    pub dic: bool,
}

const fn field(register: u64, low: u32) -> u64 {
    register >> low & 0xf
}

impl Features {
    /// The least that an Armv8.0 CPU with 40-bit physical addresses offers.
    pub const BASELINE: Self = Self {
        pa_bits: 40,
        vmid_bits: 8,
        granule_4k: true,
        fwb: false,
        xnx: false,
        range_tlbi: false,
        idc: false,
        dic: false,
    };

    /// Decodes the ID registers (Arm ARM, D19.2, one page per register).
    #[must_use]
    pub const fn from_id_registers(ids: &IdRegisters) -> Self {
        let granule_4k = match field(ids.mmfr0, 40) {
            // TGran4_2 = 0 defers to TGran4, in which only 0xf means "not implemented".
            0 => field(ids.mmfr0, 28) != 0xf,
            1 => false,
            _ => true,
        };
        Self {
            pa_bits: match field(ids.mmfr0, 0) {
                0 => 32,
                1 => 36,
                2 => 40,
                3 => 42,
                4 => 44,
                5 => 48,
                // 52 bits need FEAT_LPA2 with 4 KiB pages; reserved values are at least that.
                _ => 52,
            },
            vmid_bits: if field(ids.mmfr1, 4) == 2 { 16 } else { 8 },
            granule_4k,
            fwb: field(ids.mmfr2, 40) != 0,
            xnx: field(ids.mmfr1, 28) != 0,
            range_tlbi: field(ids.isar0, 56) >= 2,
            idc: ids.ctr >> 28 & 1 == 1,
            dic: ids.ctr >> 29 & 1 == 1,
        }
    }
}

/// The encoding of VTCR_EL2.PS for this many bits of physical address, at most 48.
pub(super) const fn pa_range_field(pa_bits: u32) -> u32 {
    match pa_bits {
        0..36 => 0,
        36..40 => 1,
        40..42 => 2,
        42..44 => 3,
        44..48 => 4,
        _ => 5,
    }
}
