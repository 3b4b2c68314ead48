//! The registers that point the hardware to a root table.

use super::{Root, RootError};
use crate::decode::{bit, field, mask};
use crate::fields::{Fields, How, Spec, flag, spec};
use crate::format::{Cpu, Format};

/// A root register, raw.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Register {
    /// Intel: the EPT pointer of a VMCS.
    Eptp(u64),
    /// AMD: nCR3 of a VMCB, and whether the host runs with CR4.LA57.
    Ncr3 {
        /// The value.
        ncr3: u64,
        /// Five levels.
        la57: bool,
    },
    /// x86: CR3, and CR4.LA57.
    Cr3 {
        /// The value.
        cr3: u64,
        /// Five levels.
        la57: bool,
    },
    /// Arm: VTTBR_EL2 and VTCR_EL2.
    Stage2 {
        /// VTTBR_EL2.
        vttbr: u64,
        /// VTCR_EL2.
        vtcr: u64,
    },
    /// RISC-V: hgatp.
    Hgatp(u64),
    /// RISC-V: satp, or vsatp.
    Satp(u64),
}

const EPTP_SECTION: &str = "Intel SDM vol. 3C, \"Extended-Page-Table Pointer (EPTP)\"";
const CR3_SECTION: &str = "Intel SDM vol. 3A, \"Use of CR3 with 4-Level Paging and 5-Level Paging\"";
const NCR3_SECTION: &str = "AMD APM vol. 2, \"Nested Paging\"";
const VTCR_SECTION: &str = "Arm ARM, \"VTCR_EL2\"";
const HGATP_SECTION: &str =
    "RISC-V Privileged ISA, \"Hypervisor Guest Address Translation and Protection Register\"";
const SATP_SECTION: &str =
    "RISC-V Privileged ISA, \"Supervisor Address Translation and Protection Register\"";

impl Register {
    /// The root table.
    ///
    /// ```
    /// use slat_inspect::{Register, RootError};
    ///
    /// let root = Register::Eptp(0x10_005e).root()?;
    /// assert_eq!((root.table(), root.level()), (0x10_0000, 3));
    /// let error = Register::Eptp(0x10_005a).root().unwrap_err();
    /// assert!(error.to_string().starts_with("EPTP.memory type = 0x2: has to be 0 (UC) or 6 (WB) (Intel SDM"));
    /// # Ok::<(), RootError>(())
    /// ```
    ///
    /// # Errors
    /// [`RootError::Field`] names the field that the hardware refuses, or that says what is not read here (other granules than
    /// 4 KiB, FEAT_LPA2); [`RootError::Bare`]: nothing is translated; else those of [`Root::with_input_bits`].
    pub fn root(&self) -> Result<Root, RootError> {
        match *self {
            Self::Eptp(eptp) => eptp_root(eptp),
            Self::Ncr3 { ncr3, la57 } => {
                let checked = Checked { register: "nCR3", section: NCR3_SECTION, raw: ncr3 };
                checked.field("reserved", (63, 52), "has to be 0", is_zero)?;
                Root::with_level(Format::Npt, ncr3 & mask(51, 12), if la57 { 4 } else { 3 })
            }
            Self::Cr3 { cr3, la57 } => {
                let checked = Checked { register: "CR3", section: CR3_SECTION, raw: cr3 };
                checked.field("reserved", (60, 52), "has to be 0", is_zero)?;
                Root::with_level(Format::X86_64, cr3 & mask(51, 12), if la57 { 4 } else { 3 })
            }
            Self::Stage2 { vttbr, vtcr } => stage2_root(vttbr, vtcr),
            Self::Hgatp(hgatp) => {
                let checked = Checked { register: "hgatp", section: HGATP_SECTION, raw: hgatp };
                let formats = [Format::Sv39x4, Format::Sv48x4, Format::Sv57x4];
                let Some(format) = mode(&formats, hgatp) else {
                    checked.field("MODE", (63, 60), "reserved", is_zero)?;
                    return Err(RootError::Bare { register: "hgatp" });
                };
                checked.field("reserved", (59, 58), "has to be 0", is_zero)?;
                checked.field("PPN[1:0]", (1, 0), "the root table has 16 KiB", is_zero)?;
                Root::new(format, field(hgatp, 43, 0) << 12)
            }
            Self::Satp(satp) => {
                let checked = Checked { register: "satp", section: SATP_SECTION, raw: satp };
                let Some(format) = mode(&[Format::Sv39, Format::Sv48, Format::Sv57], satp) else {
                    checked.field("MODE", (63, 60), "reserved", is_zero)?;
                    return Err(RootError::Bare { register: "satp" });
                };
                Root::new(format, field(satp, 43, 0) << 12)
            }
        }
    }

    /// What the register says about the meaning of entries: EPTP bit 6; VTCR_EL2.PS, HA and HD.
    pub fn apply_to(&self, cpu: &mut Cpu) {
        match *self {
            Self::Eptp(eptp) => {
                cpu.sets_accessed = bit(eptp, 6);
                cpu.sets_dirty = bit(eptp, 6);
            }
            Self::Stage2 { vtcr, .. } => {
                cpu.sets_accessed = bit(vtcr, 21);
                cpu.sets_dirty = bit(vtcr, 21) && bit(vtcr, 22);
                if let Some(&bits) = PHYSICAL_SIZES.get(field(vtcr, 18, 16) as usize) {
                    cpu.physical_bits = cpu.physical_bits.min(bits as u32);
                }
            }
            _ => {}
        }
    }

    /// The register, or registers, field by field.
    ///
    /// ```
    /// use slat_inspect::Register;
    ///
    /// let mut fields = Register::Hgatp(8 << 60 | 3 << 44 | 0x8_0000).fields();
    /// assert_eq!(fields.next().unwrap().to_string(), "PPN[43:0] = 0x80000: 0x80000000");
    /// ```
    #[must_use]
    pub fn fields(&self) -> Fields<'static> {
        let (specs, raws) = match *self {
            Self::Eptp(eptp) => ([EPTP, &[]], [eptp, 0]),
            Self::Ncr3 { ncr3, .. } => ([NCR3, &[]], [ncr3, 0]),
            Self::Cr3 { cr3, .. } => ([CR3, &[]], [cr3, 0]),
            Self::Stage2 { vttbr, vtcr } => ([VTTBR, VTCR], [vttbr, vtcr]),
            Self::Hgatp(hgatp) => ([HGATP, &[]], [hgatp, 0]),
            Self::Satp(satp) => ([SATP, &[]], [satp, 0]),
        };
        Fields::of_registers(specs, raws)
    }
}

/// A register whose fields are checked one after the other.
struct Checked {
    register: &'static str,
    section: &'static str,
    raw: u64,
}

impl Checked {
    /// Refuses the register for the reason if the field does not pass.
    fn field(
        &self,
        name: &'static str,
        (high, low): (u32, u32),
        reason: &'static str,
        passes: impl Fn(u64) -> bool,
    ) -> Result<(), RootError> {
        let value = field(self.raw, high, low);
        if passes(value) {
            return Ok(());
        }
        let Self { register, section, .. } = *self;
        Err(RootError::Field { register, field: name, value, reason, section })
    }
}

fn is_zero(value: u64) -> bool {
    value == 0
}

fn eptp_root(eptp: u64) -> Result<Root, RootError> {
    let checked = Checked { register: "EPTP", section: EPTP_SECTION, raw: eptp };
    checked.field("memory type", (2, 0), "has to be 0 (UC) or 6 (WB)", |value| matches!(value, 0 | 6))?;
    let length = "has to be 3 (four levels) or 4 (five)";
    checked.field("page-walk length minus 1", (5, 3), length, |value| matches!(value, 3 | 4))?;
    checked.field("reserved", (11, 8), "has to be 0", is_zero)?;
    checked.field("reserved", (63, 52), "has to be 0", is_zero)?;
    Root::with_level(Format::Ept, eptp & mask(51, 12), field(eptp, 5, 3) as u8)
}

fn stage2_root(vttbr: u64, vtcr: u64) -> Result<Root, RootError> {
    let checked = Checked { register: "VTCR_EL2", section: VTCR_SECTION, raw: vtcr };
    checked.field("TG0", (15, 14), "only the 4 KiB granule is read here", is_zero)?;
    checked.field("DS", (32, 32), "FEAT_LPA2 is not read here", is_zero)?;
    checked.field("PS", (18, 16), "reserved, or 52 bits, which need FEAT_LPA2", |value| value <= 5)?;
    checked.field("T0SZ", (5, 0), "the input size has to be 16 to 48 bits", |value| {
        (16..=48).contains(&value)
    })?;
    let level = [1, 2, 3, 0][field(vtcr, 7, 6) as usize];
    let bits = 64 - field(vtcr, 5, 0) as u32;
    let root = Root::with_input_bits(Format::Stage2, vttbr & mask(47, 1), level, bits);
    if let Err(RootError::InputBits { .. }) = root {
        let reason = "does not fit T0SZ: every walk ends in a level 0 translation fault";
        checked.field("SL0", (7, 6), reason, |_| false)?;
    }
    root
}

/// The format that MODE selects, of those from 8 on.
fn mode(formats: &[Format; 3], register: u64) -> Option<Format> {
    formats.get((field(register, 63, 60) as usize).checked_sub(8)?).copied()
}

const PHYSICAL_SIZES: [u64; 6] = [32, 36, 40, 42, 44, 48];

const EPTP: &[Spec] = &[
    spec("memory type", 2, 0, How::Names(&["UC", "", "", "", "", "", "WB"])),
    spec("page-walk length minus 1", 5, 3, How::Names(&["", "", "", "four levels", "five levels"])),
    flag("accessed and dirty flags", 6, "off", "on"),
    flag("supervisor shadow-stack control", 7, "off", "on"),
    spec("reserved", 11, 8, How::Flag("", "has to be 0")),
    spec("root table", 51, 12, How::Address(0)),
    spec("reserved", 63, 52, How::Flag("", "has to be 0")),
];
const NCR3: &[Spec] = &[
    flag("PWT", 3, "", "page-level write-through"),
    flag("PCD", 4, "", "page-level cache disable"),
    spec("root table", 51, 12, How::Address(0)),
    spec("reserved", 63, 52, How::Flag("", "has to be 0")),
];
const CR3: &[Spec] = &[
    spec("PCID (or PWT, PCD)", 11, 0, How::Number),
    spec("root table", 51, 12, How::Address(0)),
    spec("reserved", 60, 52, How::Flag("", "has to be 0")),
    flag("LAM_U57", 61, "", "bits 62:57 of user addresses are free"),
    flag("LAM_U48", 62, "", "bits 62:48 of user addresses are free"),
];
const VTTBR: &[Spec] = &[
    flag("VTTBR_EL2.CnP", 0, "", "the PEs of the domain have the same tables"),
    spec("VTTBR_EL2.BADDR", 47, 1, How::Address(0)),
    spec("VTTBR_EL2.VMID", 63, 48, How::Number),
];
const VTCR: &[Spec] = &[
    spec("VTCR_EL2.T0SZ", 5, 0, How::BitsBelow(64)),
    spec(
        "VTCR_EL2.SL0",
        7,
        6,
        How::Names(&[
            "starts at lookup level 2",
            "starts at lookup level 1",
            "starts at lookup level 0",
            "starts at lookup level 3",
        ]),
    ),
    spec("VTCR_EL2.IRGN0", 9, 8, How::Names(&WALK_CACHES)),
    spec("VTCR_EL2.ORGN0", 11, 10, How::Names(&WALK_CACHES)),
    spec(
        "VTCR_EL2.SH0",
        13,
        12,
        How::Names(&["non-shareable", "reserved", "outer shareable", "inner shareable"]),
    ),
    spec("VTCR_EL2.TG0", 15, 14, How::Names(&["4 KiB", "64 KiB", "16 KiB"])),
    spec("VTCR_EL2.PS", 18, 16, How::BitsOf(&[32, 36, 40, 42, 44, 48, 52])),
    flag("VTCR_EL2.VS", 19, "8-bit VMIDs", "16-bit VMIDs"),
    flag("VTCR_EL2.HA", 21, "software sets access flags", "the hardware sets access flags"),
    flag("VTCR_EL2.HD", 22, "software marks pages dirty", "the hardware marks pages with DBM dirty"),
    spec("VTCR_EL2.HWU", 28, 25, How::Number),
    flag("VTCR_EL2.NSW", 29, "", ""),
    flag("VTCR_EL2.NSA", 30, "", ""),
    flag("VTCR_EL2.RES1", 31, "has to be 1", ""),
    flag("VTCR_EL2.DS", 32, "", "FEAT_LPA2: 52-bit addresses"),
];
const WALK_CACHES: [&str; 4] = [
    "walks are not cached",
    "walks are cached write-back, with write allocation",
    "walks are cached write-through",
    "walks are cached write-back",
];
const HGATP: &[Spec] = &[
    spec("PPN", 43, 0, How::Address(12)),
    spec("VMID", 57, 44, How::Number),
    spec("reserved", 59, 58, How::Flag("", "has to be 0")),
    spec("MODE", 63, 60, How::Names(&["Bare", "", "", "", "", "", "", "", "Sv39x4", "Sv48x4", "Sv57x4"])),
];
const SATP: &[Spec] = &[
    spec("PPN", 43, 0, How::Address(12)),
    spec("ASID", 59, 44, How::Number),
    spec("MODE", 63, 60, How::Names(&["Bare", "", "", "", "", "", "", "", "Sv39", "Sv48", "Sv57"])),
];
