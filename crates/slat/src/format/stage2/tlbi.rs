//! The TLB maintenance of stage 2, as data.
//!
//! A combined TLB entry (virtual to physical) is not found by an intermediate physical address, so every sequence
//! by address has two halves: IPAS2E1IS drops the stage-2 entries, then, once that is complete (DSB), VMALLE1IS
//! drops the combined ones. (Arm ARM, D8.17 "TLB maintenance"; the DSBs order the halves and the table stores.)
//! TTL hints are left 0, "any level": a wrong hint may invalidate nothing, and a removed table has no level.

use crate::addr::PAGE_SIZE;
use crate::tlb::{BY_ADDRESS_LIMIT, Invalidation, Reach, Scope, TlbFeatures};

/// One instruction of a maintenance sequence. Operands are the value of the instruction's register.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Instruction {
    /// `DSB ISHST`: the stores to the table are complete for all PEs.
    DsbIshst,
    /// `DSB ISH`: all before is complete for all PEs.
    DsbIsh,
    /// `DSB NSHST`: the stores to the table are complete for this PE.
    DsbNshst,
    /// `DSB NSH`: all before is complete for this PE.
    DsbNsh,
    /// `ISB`.
    Isb,
    /// `TLBI IPAS2E1IS`: stage-2 entries of one address, all PEs.
    Ipas2e1is(u64),
    /// `TLBI IPAS2E1`: stage-2 entries of one address, this PE.
    Ipas2e1(u64),
    /// `TLBI RIPAS2E1IS`: stage-2 entries of a range, all PEs.
    Ripas2e1is(u64),
    /// `TLBI RIPAS2E1`: stage-2 entries of a range, this PE.
    Ripas2e1(u64),
    /// `TLBI VMALLE1IS`: stage-1 and combined entries of the VMID, all PEs.
    Vmalle1is,
    /// `TLBI VMALLE1`: stage-1 and combined entries of the VMID, this PE.
    Vmalle1,
    /// `TLBI VMALLS12E1IS`: everything of the VMID, all PEs.
    Vmalls12e1is,
    /// `TLBI VMALLS12E1`: everything of the VMID, this PE.
    Vmalls12e1,
    /// `TLBI ALLE1IS`: everything of every VMID, all PEs.
    Alle1is,
    /// `TLBI ALLE1`: everything of every VMID, this PE.
    Alle1,
}

impl Instruction {
    /// The mnemonic in lower case, operand left out.
    #[must_use]
    pub const fn mnemonic(self) -> &'static str {
        match self {
            Self::DsbIshst => "dsb ishst",
            Self::DsbIsh => "dsb ish",
            Self::DsbNshst => "dsb nshst",
            Self::DsbNsh => "dsb nsh",
            Self::Isb => "isb",
            Self::Ipas2e1is(_) => "tlbi ipas2e1is",
            Self::Ipas2e1(_) => "tlbi ipas2e1",
            Self::Ripas2e1is(_) => "tlbi ripas2e1is",
            Self::Ripas2e1(_) => "tlbi ripas2e1",
            Self::Vmalle1is => "tlbi vmalle1is",
            Self::Vmalle1 => "tlbi vmalle1",
            Self::Vmalls12e1is => "tlbi vmalls12e1is",
            Self::Vmalls12e1 => "tlbi vmalls12e1",
            Self::Alle1is => "tlbi alle1is",
            Self::Alle1 => "tlbi alle1",
        }
    }
}

/// Pages that one RIPAS2E1IS can cover: (NUM + 1) << (5 * SCALE + 1) with both at their maximum.
const RANGE_MOST: u64 = 32 << 16;

/// Operand of a TLBI by intermediate physical address: IPA[47:12] in 35:0.
const fn address_operand(page: u64) -> u64 {
    page & ((1 << 36) - 1)
}

/// Operand of a TLBI by range that begins at `page`, and how many pages it covers, at most `pages`; `None` if the
/// rest is a single page, which the range forms cannot express.
fn range_operand(page: u64, pages: u64) -> Option<(u64, u64)> {
    const TG_4K: u64 = 1 << 46;
    // The largest scale whose unit fits; NUM counts units of 2^(5 * SCALE + 1) pages, less one.
    let scale = (0..4).rev().find(|scale| pages >> (5 * scale + 1) != 0)?;
    let units = (pages >> (5 * scale + 1)).min(32);
    Some((TG_4K | scale << 44 | (units - 1) << 39 | address_operand(page), units << (5 * scale + 1)))
}

enum Step<'a> {
    Begin,
    Ranges { index: usize, page: u64 },
    End(&'a [Instruction]),
}

/// The sequence for `invalidation`, one instruction after the other.
///
/// To be executed with the space's root in VTTBR_EL2 and HCR_EL2.TGE = 0: `isa::aarch64::run` sees to that.
pub fn instructions<'a>(invalidation: &'a Invalidation<'a>) -> impl Iterator<Item = Instruction> + 'a {
    use Instruction as I;
    let local = invalidation.reach == Reach::ThisCpu;
    let by_range = invalidation.features.contains(TlbFeatures::RANGE);
    let (begin, by_address, whole): (I, &[I], &[I]) = if local {
        (I::DsbNshst, &[I::DsbNsh, I::Vmalle1, I::DsbNsh, I::Isb], &[I::Vmalls12e1, I::DsbNsh, I::Isb])
    } else {
        (I::DsbIshst, &[I::DsbIsh, I::Vmalle1is, I::DsbIsh, I::Isb], &[I::Vmalls12e1is, I::DsbIsh, I::Isb])
    };
    let whole = match (invalidation.scope, local) {
        (Scope::AllSpaces, true) => &[I::Alle1, I::DsbNsh, I::Isb],
        (Scope::AllSpaces, false) => &[I::Alle1is, I::DsbIsh, I::Isb],
        _ => whole,
    };
    let ranges = match invalidation.scope {
        Scope::Space | Scope::AllSpaces => &[][..],
        Scope::Ranges { ranges, stride } => {
            let count: u64 = ranges.iter().map(|range| range.size().div_ceil(stride.bytes())).sum();
            let pages: u64 = ranges.iter().map(|range| range.size() / PAGE_SIZE).sum();
            let few = if by_range { pages <= RANGE_MOST } else { count <= BY_ADDRESS_LIMIT };
            if few { ranges } else { &[] }
        }
    };
    let mut step = Step::Begin;
    core::iter::from_fn(move || {
        loop {
            match &mut step {
                Step::Begin => {
                    step = match ranges.first() {
                        None => Step::End(whole),
                        Some(first) => Step::Ranges { index: 0, page: first.start().as_u64() / PAGE_SIZE },
                    };
                    return Some(begin);
                }
                Step::Ranges { index, page } => {
                    let Some(range) = ranges.get(*index) else {
                        step = Step::End(by_address);
                        continue;
                    };
                    let end = range.end().as_u64() / PAGE_SIZE;
                    if *page >= end {
                        *index += 1;
                        if let Some(next) = ranges.get(*index) {
                            *page = next.start().as_u64() / PAGE_SIZE;
                        }
                        continue;
                    }
                    if by_range {
                        if let Some((operand, covered)) = range_operand(*page, end - *page) {
                            *page += covered;
                            return Some(if local { I::Ripas2e1(operand) } else { I::Ripas2e1is(operand) });
                        }
                    }
                    let operand = address_operand(*page);
                    *page += match invalidation.scope {
                        Scope::Ranges { stride, .. } => stride.bytes() / PAGE_SIZE,
                        Scope::Space | Scope::AllSpaces => 1,
                    };
                    return Some(if local { I::Ipas2e1(operand) } else { I::Ipas2e1is(operand) });
                }
                Step::End(rest) => {
                    let (first, tail) = rest.split_first()?;
                    let first = *first;
                    *rest = tail;
                    return Some(first);
                }
            }
        }
    })
}
