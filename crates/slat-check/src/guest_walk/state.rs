//! The paging registers of a guest, for slat and for the model, and mistakes in handing them to slat.

use super::tables::Memory;
use crate::platform::Platform;
use crate::random::Random;
use slat::TableKind;
use slat::guest::{ArmPaging, GuestPageWalkInfo, GuestPaging, RiscvPaging, X86Paging};
use slat_model::{ArmFeatures, Stage1, X86Features};

/// The registers as numbers, by ISA.
#[derive(Clone, Copy, Debug)]
pub(super) enum State {
    X86 {
        cr0: u64,
        cr3: u64,
        cr4: u64,
        efer: u64,
        ac: bool,
        features: X86Features,
        /// Intel: the PDPTEs are registers.
        intel: bool,
        pdptes: Option<[u64; 4]>,
    },
    Arm {
        sctlr: u64,
        tcr: u64,
        ttbr: [u64; 2],
        pan: bool,
        features: ArmFeatures,
    },
    Riscv {
        vsatp: u64,
        flags: [bool; 5],
    },
}

/// `bit`, `often` times in 8.
fn maybe(random: &mut Random, bit: u32, often: u64) -> u64 {
    if random.below(8) < often { 1 << bit } else { 0 }
}

/// A table that is mostly one of those that there are.
fn root(random: &mut Random) -> u64 {
    let page = if random.one_in(16) { random.below(24) } else { random.below(8) };
    page << 12
}

impl State {
    pub(super) fn random(table: TableKind, random: &mut Random) -> Self {
        match table {
            TableKind::Ept | TableKind::Npt => Self::random_x86(table == TableKind::Ept, random),
            TableKind::Stage2 => Self::random_arm(random),
            TableKind::Gstage => {
                let mode = if random.one_in(32) { 0 } else { random.choose(&[8, 8, 9, 10]) };
                let ppn = root(random) >> 12
                    | if random.one_in(64) { random.number() & 0xfff_ffff_ffff } else { 0 };
                let flags = [(); 5].map(|()| random.one_in(2));
                Self::Riscv { vsatp: mode << 60 | 1 << 44 | ppn, flags }
            }
        }
    }

    fn random_x86(intel: bool, random: &mut Random) -> Self {
        let cr0 = maybe(random, 16, 4) | if random.one_in(32) { 0 } else { 1 << 31 };
        // 32-bit, PAE, four and five levels.
        let (pae, long, five) = random.choose(&[(0, 0, 0), (1, 0, 0), (1, 1, 0), (1, 1, 1)]);
        let mut cr4 = pae << 5 | five << 12 | maybe(random, 4, 6);
        cr4 |= maybe(random, 20, 4) | maybe(random, 21, 4) | maybe(random, 7, 4);
        let efer = long << 10 | maybe(random, 11, 6);
        let mut cr3 = root(random);
        if pae == 1 && long == 0 {
            cr3 |= random.below(128) << 5;
        } else if random.one_in(32) && long == 1 {
            cr3 |= random.number() & 0x000f_ffff_0000_0000;
        } else {
            cr3 |= random.below(0x1000); // a PCID, PWT and PCD
        }
        let features = X86Features {
            physical_bits: random.choose(&[36, 40, 46, 52]),
            page_1g: !random.one_in(4),
            pse36: !random.one_in(4),
        };
        Self::X86 { cr0, cr3, cr4, efer, ac: random.one_in(2), features, intel, pdptes: None }
    }

    fn random_arm(random: &mut Random) -> Self {
        let sctlr = maybe(random, 19, 2) | maybe(random, 57, 4) | if random.one_in(32) { 0 } else { 1 };
        // T0SZ, T1SZ, TG1.
        let size = |random: &mut Random| {
            if random.one_in(8) { random.below(64) } else { random.choose(&[16, 25, 25, 34, 39]) }
        };
        let mut tcr = size(random) | size(random) << 16 | 2 << 30;
        tcr |= if random.one_in(4) { random.below(8) } else { 5 } << 32;
        for (bit, often) in
            [(7, 1), (23, 1), (37, 4), (38, 4), (39, 4), (40, 5), (41, 1), (42, 1), (51, 4), (52, 4)]
        {
            if often != 1 || random.one_in(3) {
                tcr |= maybe(random, bit, often);
            }
        }
        let ttbr = [(); 2].map(|()| {
            let wide = if random.one_in(32) { random.number() & 0xffff_0000_0000 } else { 0 };
            root(random) | wide | 1 << 48
        });
        let features = ArmFeatures {
            physical_bits: random.choose(&[36, 40, 48]),
            hafdbs: random.below(3) as u8,
            hpds: !random.one_in(4),
            pan3: !random.one_in(4),
            ttst: random.one_in(2),
        };
        Self::Arm { sctlr, tcr, ttbr, pan: random.one_in(2), features }
    }

    /// As the CPU is once its registers are loaded: Intel's reads the PDPTEs then.
    pub(super) fn with_registers_of<P: Platform>(mut self, memory: &Memory<'_, P>) -> Self {
        if let Self::X86 { cr3, intel: true, pdptes, .. } = &mut self {
            let first = *cr3 & 0xffff_ffe0;
            *pdptes = Some([0, 8, 16, 24].map(|offset| memory.read(first + offset).unwrap_or(0)));
        }
        self
    }

    /// For slat.
    pub(super) fn info(&self) -> GuestPageWalkInfo {
        match *self {
            Self::X86 { cr0, cr3, cr4, efer, ac, features, pdptes, .. } => {
                let new = X86Paging::new(cr0, cr3, cr4, efer, u64::from(ac) << 18);
                let X86Features { physical_bits, page_1g, pse36 } = features;
                let paging = X86Paging { physical_bits: physical_bits as u8, page_1g, pse36, pdptes, ..new };
                GuestPageWalkInfo { paging: GuestPaging::X86(paging), set_marks: true }
            }
            Self::Arm { sctlr, tcr, ttbr: [ttbr0, ttbr1], pan, features } => {
                let new = ArmPaging::new(sctlr, tcr, ttbr0, ttbr1, u64::from(pan) << 22);
                let ArmFeatures { physical_bits, hafdbs, hpds, pan3, ttst } = features;
                let physical_bits = physical_bits as u8;
                let paging = ArmPaging { physical_bits, hafdbs, hpds, pan3, ttst, ..new };
                GuestPageWalkInfo { paging: GuestPaging::Arm(paging), set_marks: true }
            }
            Self::Riscv { vsatp, flags: [sum, mxr, adue, pbmte, svnapot] } => {
                let vsstatus = u64::from(sum) << 18 | u64::from(mxr) << 19;
                let henvcfg = u64::from(adue) << 61 | u64::from(pbmte) << 62;
                let paging = RiscvPaging { svnapot, ..RiscvPaging::new(vsatp, vsstatus, henvcfg) };
                GuestPageWalkInfo { paging: GuestPaging::Riscv(paging), set_marks: true }
            }
        }
    }

    /// For the model.
    pub(super) fn stage1(&self) -> Stage1 {
        match *self {
            Self::X86 { cr0, cr3, cr4, efer, ac, features, pdptes, .. } => {
                Stage1::X86 { cr0, cr3, cr4, efer, ac, pdptes, features }
            }
            Self::Arm { sctlr, tcr, ttbr: [ttbr0, ttbr1], pan, features } => {
                Stage1::Arm { sctlr, tcr, ttbr0, ttbr1, pan, features }
            }
            Self::Riscv { vsatp, flags: [sum, mxr, adue, pbmte, svnapot] } => {
                Stage1::Riscv { vsatp, sum, mxr, adue, pbmte, svnapot }
            }
        }
    }
}

/// A mistake in what slat is told, as a mistake in its walk would look.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Distortion {
    /// x86: supervisor mode executes user pages.
    SmepIgnored,
    /// x86: supervisor mode reads user pages.
    SmapIgnored,
    /// x86: supervisor mode writes read-only pages.
    WpIgnored,
    /// x86: bit 63 of an entry is honoured where it is reserved.
    NxeAssumed,
    /// x86: address bits that the CPU does not have are not reserved.
    WidthIgnored,
    /// x86: bit 7 of a directory always makes a large page.
    PseAssumed,
    /// Arm: what tables forbid is allowed.
    HierarchyIgnored,
    /// Arm: EL1 reaches data of EL0.
    PanIgnored,
    /// Arm: what is writable is executed.
    WxnIgnored,
    /// Arm: the top byte is part of the address.
    TagsCount,
    /// Arm: any output address is taken.
    OutputSizeIgnored,
    /// RISC-V: execute-only pages are never read.
    MxrIgnored,
    /// RISC-V: VS-mode reaches data of user mode.
    SumAssumed,
    /// RISC-V: A and D are set where their absence faults.
    AdueAssumed,
    /// RISC-V: N is taken where there is no Svnapot.
    NapotAssumed,
    /// Every ISA: no marks are left.
    MarksForgotten,
}

impl Distortion {
    /// All of them.
    pub const ALL: [Self; 16] = [
        Self::SmepIgnored,
        Self::SmapIgnored,
        Self::WpIgnored,
        Self::NxeAssumed,
        Self::WidthIgnored,
        Self::PseAssumed,
        Self::HierarchyIgnored,
        Self::PanIgnored,
        Self::WxnIgnored,
        Self::TagsCount,
        Self::OutputSizeIgnored,
        Self::MxrIgnored,
        Self::SumAssumed,
        Self::AdueAssumed,
        Self::NapotAssumed,
        Self::MarksForgotten,
    ];

    /// Whether it is a mistake on guests behind these tables.
    #[must_use]
    pub fn concerns(self, table: TableKind) -> bool {
        use Distortion as D;
        match self {
            D::SmepIgnored
            | D::SmapIgnored
            | D::WpIgnored
            | D::NxeAssumed
            | D::WidthIgnored
            | D::PseAssumed => {
                matches!(table, TableKind::Ept | TableKind::Npt)
            }
            D::HierarchyIgnored | D::PanIgnored | D::WxnIgnored | D::TagsCount | D::OutputSizeIgnored => {
                table == TableKind::Stage2
            }
            D::MxrIgnored | D::SumAssumed | D::AdueAssumed | D::NapotAssumed => table == TableKind::Gstage,
            D::MarksForgotten => true,
        }
    }

    pub(super) fn apply(self, info: &mut GuestPageWalkInfo) {
        match (self, &mut info.paging) {
            (Self::SmepIgnored, GuestPaging::X86(paging)) => paging.cr4 &= !(1 << 20),
            (Self::SmapIgnored, GuestPaging::X86(paging)) => paging.cr4 &= !(1 << 21),
            (Self::WpIgnored, GuestPaging::X86(paging)) => paging.cr0 &= !(1 << 16),
            (Self::NxeAssumed, GuestPaging::X86(paging)) => paging.efer |= 1 << 11,
            (Self::WidthIgnored, GuestPaging::X86(paging)) => paging.physical_bits = 52,
            (Self::PseAssumed, GuestPaging::X86(paging)) => paging.cr4 |= 1 << 4,
            (Self::HierarchyIgnored, GuestPaging::Arm(paging)) => {
                paging.hpds = true;
                paging.tcr |= 3 << 41;
            }
            (Self::PanIgnored, GuestPaging::Arm(paging)) => paging.pan = false,
            (Self::WxnIgnored, GuestPaging::Arm(paging)) => paging.sctlr &= !(1 << 19),
            (Self::TagsCount, GuestPaging::Arm(paging)) => paging.tcr &= !(3 << 37),
            (Self::OutputSizeIgnored, GuestPaging::Arm(paging)) => {
                paging.physical_bits = 48;
                paging.tcr |= 5 << 32;
            }
            (Self::MxrIgnored, GuestPaging::Riscv(paging)) => paging.mxr = false,
            (Self::SumAssumed, GuestPaging::Riscv(paging)) => paging.sum = true,
            (Self::AdueAssumed, GuestPaging::Riscv(paging)) => paging.adue = true,
            (Self::NapotAssumed, GuestPaging::Riscv(paging)) => paging.svnapot = true,
            (Self::MarksForgotten, _) => info.set_marks = false,
            _ => {}
        }
    }
}
