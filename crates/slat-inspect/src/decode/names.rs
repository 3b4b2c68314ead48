//! The names of the fields of entries.

use super::{Decoder, shift};
use crate::entry::Entry;
use crate::fields::{Edge, Fields, How, Spec, flag, ignored, spec};
use crate::format::{Cpu, Format};

impl Decoder {
    /// The fields of an entry, from bit 0 up. A malformed one is shown as what it would be without its faults.
    #[must_use]
    pub fn fields(&self, level: u8, raw: u64) -> Fields<'_> {
        let level = level.min(4);
        let specs: &'static [Spec] = match (self.format, self.shape(level, raw)) {
            (Format::Ept, Shape::Absent) => EPT_ABSENT,
            (Format::Ept, Shape::Table) => EPT_TABLE,
            (Format::Ept, Shape::Page) => EPT_PAGE,
            (Format::Ept, Shape::LargePage) => EPT_LARGE,
            (Format::Npt | Format::X86_64, Shape::Absent) => LONG_ABSENT,
            (Format::Npt | Format::X86_64, Shape::Table) => LONG_TABLE,
            (Format::Npt | Format::X86_64, Shape::Page) => LONG_PAGE,
            (Format::Npt | Format::X86_64, Shape::LargePage) => LONG_LARGE,
            (Format::Stage2, Shape::Absent) => STAGE2_ABSENT,
            (Format::Stage2, Shape::Table) => STAGE2_TABLE,
            (Format::Stage2, Shape::Page) => STAGE2_PAGE,
            (Format::Stage2, Shape::LargePage) => STAGE2_BLOCK,
            (_, Shape::Absent) => RISCV_ABSENT,
            (_, Shape::Table) => RISCV_TABLE,
            (_, _) => RISCV_LEAF,
        };
        Fields::of_entry(specs, raw, shift(level), &self.cpu)
    }

    fn shape(&self, level: u8, raw: u64) -> Shape {
        let leaf = if level == 0 { Shape::Page } else { Shape::LargePage };
        match self.decode(level, raw) {
            Entry::Absent => Shape::Absent,
            Entry::Table(_) => Shape::Table,
            Entry::Leaf(_) => leaf,
            Entry::Malformed(_) => {
                let is_leaf = match self.format {
                    Format::Stage2 => raw & 3 == 1 || level == 0,
                    format if format.is_riscv() => raw & 0xe != 0,
                    _ => level == 0 || (level <= 2 && raw >> 7 & 1 != 0),
                };
                if is_leaf { leaf } else { Shape::Table }
            }
        }
    }
}

enum Shape {
    Absent,
    Table,
    Page,
    LargePage,
}

const fn address(high: u32, left: u32) -> Spec {
    Spec { name: "address", high: Edge::At(high), low: Edge::Page(0), how: How::Address(left) }
}

const fn low(name: &'static str, from: u32) -> Spec {
    Spec { name, high: Edge::Page(-1), low: Edge::At(from), how: How::Flag("", "has to be 0") }
}

const NO_AD: &str = "ignored: EPTP bit 6 is clear";

fn accessed_dirty(cpu: &Cpu) -> bool {
    cpu.sets_accessed
}

fn by_mode(cpu: &Cpu) -> bool {
    cpu.mode_based_execute
}

const EPT_R: Spec = flag("R", 0, "not readable", "readable");
const EPT_W: Spec = flag("W", 1, "not writable", "writable");
const EPT_X: Spec = spec(
    "X",
    2,
    2,
    How::Flag("not executable", "executable (by the supervisor, with mode-based execute control)"),
);
const EPT_A: Spec = spec("A", 8, 8, How::Optional(accessed_dirty, "not accessed", "accessed", NO_AD));
const EPT_D: Spec = spec("D", 9, 9, How::Optional(accessed_dirty, "clean", "dirty", NO_AD));
const EPT_XU: Spec = spec(
    "XU",
    10,
    10,
    How::Optional(
        by_mode,
        "not executable in user mode",
        "executable in user mode",
        "ignored: no mode-based execute control",
    ),
);
const EPT_MT: Spec = spec(
    "memory type",
    5,
    3,
    How::Names(&["UC", "WC", "reserved", "reserved", "WT", "WP", "WB", "reserved"]),
);
const EPT_IPAT: Spec = flag("IPAT", 6, "combined with the guest's PAT", "the guest's PAT is ignored");
const EPT_VE: Spec = flag("suppress #VE", 63, "a violation may be a #VE", "a violation is an exit");
const TABLE_ADDRESS: Spec = spec("address", 51, 12, How::Address(0));

const EPT_ABSENT: &[Spec] = &[EPT_R, EPT_W, EPT_X, ignored(62, 3), EPT_VE];
const EPT_TABLE: &[Spec] = &[
    EPT_R,
    EPT_W,
    EPT_X,
    spec(
        "reserved",
        7,
        3,
        How::Flag("", "has to be 0 (bit 7 in a PML4E or PML5E only, else: no large page)"),
    ),
    EPT_A,
    ignored(9, 9),
    EPT_XU,
    ignored(11, 11),
    TABLE_ADDRESS,
    ignored(63, 52),
];
const EPT_VGP: Spec = flag("verify guest paging", 57, "", "guest-paging verification");
const EPT_PW: Spec = flag("paging-write access", 58, "", "the guest's page walks may write");
const EPT_SSS: Spec = flag("supervisor shadow stack", 60, "", "supervisor shadow-stack accesses are allowed");
const EPT_PAGE: &[Spec] = &[
    EPT_R,
    EPT_W,
    EPT_X,
    EPT_MT,
    EPT_IPAT,
    ignored(7, 7),
    EPT_A,
    EPT_D,
    EPT_XU,
    ignored(11, 11),
    address(51, 0),
    ignored(56, 52),
    EPT_VGP,
    EPT_PW,
    ignored(59, 59),
    EPT_SSS,
    flag("sub-page write permissions", 61, "", "checked for sub-page write permissions"),
    ignored(62, 62),
    EPT_VE,
];
const LARGE: Spec = flag("large page", 7, "a pointer to a table", "a page");
const EPT_LARGE: &[Spec] = &[
    EPT_R,
    EPT_W,
    EPT_X,
    EPT_MT,
    EPT_IPAT,
    LARGE,
    EPT_A,
    EPT_D,
    EPT_XU,
    ignored(11, 11),
    low("reserved", 12),
    address(51, 0),
    ignored(56, 52),
    EPT_VGP,
    EPT_PW,
    ignored(59, 59),
    EPT_SSS,
    ignored(62, 61),
    EPT_VE,
];

const P: Spec = flag("P", 0, "not present", "present");
const RW: Spec = flag("R/W", 1, "read-only", "writable");
const US: Spec = flag("U/S", 2, "supervisor", "user");
const PWT: Spec = flag("PWT", 3, "", "page-level write-through");
const PCD: Spec = flag("PCD", 4, "", "page-level cache disable");
const A: Spec = flag("A", 5, "not accessed", "accessed");
const D: Spec = flag("D", 6, "clean", "dirty");
const GLOBAL: Spec = flag("G", 8, "", "global (single stage)");
const PROTECTION_KEY: Spec = spec("protection key", 62, 59, How::Number);
const XD: Spec = flag("NX", 63, "executable", "not executable");
const LONG_ABSENT: &[Spec] = &[P, ignored(63, 1)];
const LONG_TABLE: &[Spec] = &[
    P,
    RW,
    US,
    PWT,
    PCD,
    A,
    ignored(6, 6),
    flag("PS", 7, "a pointer to a table", "reserved above the PDPTE"),
    ignored(11, 8),
    TABLE_ADDRESS,
    ignored(62, 52),
    XD,
];
const LONG_PAGE: &[Spec] = &[
    P,
    RW,
    US,
    PWT,
    PCD,
    A,
    D,
    flag("PAT", 7, "", "PAT entries 4 to 7"),
    GLOBAL,
    ignored(11, 9),
    address(51, 0),
    ignored(58, 52),
    PROTECTION_KEY,
    XD,
];
const LONG_LARGE: &[Spec] = &[
    P,
    RW,
    US,
    PWT,
    PCD,
    A,
    D,
    flag("PS", 7, "a pointer to a table", "a page"),
    GLOBAL,
    ignored(11, 9),
    flag("PAT", 12, "", "PAT entries 4 to 7"),
    low("reserved", 13),
    address(51, 0),
    ignored(58, 52),
    PROTECTION_KEY,
    XD,
];

const VALID: Spec = flag("valid", 0, "invalid", "valid");
const STAGE2_ABSENT: &[Spec] = &[VALID, ignored(63, 1)];
const STAGE2_TABLE: &[Spec] = &[
    VALID,
    flag("table", 1, "a block", "a table"),
    ignored(11, 2),
    spec("address", 47, 12, How::Address(0)),
    spec("RES0", 50, 48, How::Flag("", "has to be 0 without FEAT_LPA2")),
    ignored(58, 51),
    spec("RES0", 63, 59, How::Flag("", "has to be 0")),
];
const MEM_ATTR: Spec = spec("MemAttr", 5, 2, How::MemAttr);
const S2AP: Spec =
    spec("S2AP", 7, 6, How::Names(&["no access", "read-only", "write-only", "read and write"]));
const SH: Spec =
    spec("SH", 9, 8, How::Names(&["non-shareable", "reserved", "outer shareable", "inner shareable"]));
const AF: Spec = flag("AF", 10, "not accessed", "accessed");
const RES0_HIGH: Spec = spec("RES0", 50, 48, How::Flag("", "has to be 0 without FEAT_LPA2"));
const DBM: Spec = flag("DBM", 51, "", "the hardware may make it writable (VTCR_EL2.HD)");
const CONTIGUOUS: Spec = flag("Contiguous", 52, "", "one of sixteen that may share a TLB entry");
const XN: Spec = spec(
    "XN",
    54,
    53,
    How::Names(&["executable", "executable at EL0 only", "not executable", "executable at EL1 only"]),
);
const NS: Spec = spec("NS", 55, 55, How::Flag("", "software's; in the Realm state: non-secure"));
const STAGE2_PAGE: &[Spec] = &[
    VALID,
    flag("page", 1, "reserved", "a page"),
    MEM_ATTR,
    S2AP,
    SH,
    AF,
    flag("FnXS", 11, "", "XS is 0 (FEAT_XS)"),
    address(47, 0),
    RES0_HIGH,
    DBM,
    CONTIGUOUS,
    XN,
    NS,
    ignored(63, 56),
];
const STAGE2_BLOCK: &[Spec] = &[
    VALID,
    flag("table", 1, "a block", "a table"),
    MEM_ATTR,
    S2AP,
    SH,
    AF,
    flag("FnXS", 11, "", "XS is 0 (FEAT_XS)"),
    spec("RES0", 15, 12, How::Flag("", "has to be 0")),
    flag("nT", 16, "", "no TLB entry may be kept (FEAT_BBM)"),
    low("RES0", 17),
    address(47, 0),
    RES0_HIGH,
    DBM,
    CONTIGUOUS,
    XN,
    NS,
    ignored(63, 56),
];

const V: Spec = flag("V", 0, "invalid", "valid");
const RISCV_PERMISSIONS: How = How::Names(&[
    "a pointer to a table",
    "read",
    "reserved",
    "read, write",
    "execute",
    "read, execute",
    "reserved",
    "read, write, execute",
]);
const XWR: Spec = spec("XWR", 3, 1, RISCV_PERMISSIONS);
const RSW: Spec = spec("RSW", 9, 8, How::Flag("", "free for software"));
const G: Spec = flag("G", 5, "", "global (in the G-stage without meaning)");
const RISCV_RESERVED: Spec = spec("reserved", 58, 54, How::Flag("", "has to be 0"));
const RSW60: Spec = spec(
    "reserved",
    60,
    59,
    How::Optional(|cpu| cpu.svrsw60t59b, "", "free for software (Svrsw60t59b)", "has to be 0"),
);
const PBMT: Spec = spec("PBMT", 62, 61, How::Names(&["PMA", "NC", "IO", "reserved"]));
const RISCV_ABSENT: &[Spec] = &[V, ignored(63, 1)];
const RISCV_TABLE: &[Spec] = &[
    V,
    XWR,
    flag("U", 4, "", "has to be 0 in a pointer"),
    G,
    flag("A", 6, "", "has to be 0 in a pointer"),
    flag("D", 7, "", "has to be 0 in a pointer"),
    RSW,
    spec("PPN", 53, 10, How::Address(2)),
    RISCV_RESERVED,
    RSW60,
    spec("PBMT", 62, 61, How::Flag("", "has to be 0 in a pointer")),
    flag("N", 63, "", "has to be 0 in a pointer"),
];
const RISCV_LEAF: &[Spec] = &[
    V,
    XWR,
    flag("U", 4, "supervisor", "user"),
    G,
    flag("A", 6, "not accessed", "accessed"),
    flag("D", 7, "clean", "dirty"),
    RSW,
    spec("PPN", 53, 10, How::Address(2)),
    RISCV_RESERVED,
    RSW60,
    PBMT,
    flag("N", 63, "", "one of sixteen of 64 KiB (Svnapot)"),
];
