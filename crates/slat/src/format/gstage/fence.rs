//! The fences of the G-stage, as data.
//!
//! HFENCE.GVMA orders the stores to the table of this hart before its implicit reads that follow, and drops what was
//! derived from them, combined entries included. (RISC-V privileged manual, "Hypervisor Memory-Management Fence
//! Instructions".) It works on the hart that executes it, so a host with several harts sends the same sequence to
//! each, by SBI RFENCE ([`remote_fences`](super::remote_fences)) or by an interrupt of its own.
//!
//! An address operand orders leaf entries only: a table that was unlinked, or a leaf that took the place of one, takes x0.
//! So does a change of hgatp.MODE for a VMID, also from and to Bare, and a VMID that gets a new owner: that is
//! [`Scope::AllSpaces`], or [`Scope::Space`] for the VMID alone. A write of hgatp itself orders nothing.

use super::hgatp::vmid;
use crate::tlb::{BY_ADDRESS_LIMIT, Invalidation, Scope, TlbFeatures};

/// One `HFENCE.GVMA`, or one `HINVAL.GVMA`, which has the same operands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fence {
    /// rs1: guest-physical address shifted right by 2; `None` is x0, every address.
    pub address: Option<u64>,
    /// rs2: the VMID; `None` is x0, all of them.
    pub vmid: Option<u16>,
}

/// One instruction of the maintenance of the G-stage.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Instruction {
    /// HFENCE.GVMA: ordered by itself.
    HfenceGvma(Fence),
    /// SFENCE.W.INVAL: stores before it are seen by what the HINVALs after it let the hart read (Svinval).
    SfenceWInval,
    /// HINVAL.GVMA: drops, ordered by the two around it (Svinval).
    HinvalGvma(Fence),
    /// SFENCE.INVAL.IR: what the HINVALs before it dropped is not used after it (Svinval).
    SfenceInvalIr,
}

/// The VMID of the space, or `None` for all.
pub(super) fn vmid_of(invalidation: &Invalidation<'_>) -> Option<u16> {
    (invalidation.scope != Scope::AllSpaces).then_some(vmid(invalidation.root))
}

/// The fences for `invalidation`, in order: what every hart with a G-stage has. Beyond 64 of them, one for all of the space.
pub fn fences<'a>(invalidation: &'a Invalidation<'a>) -> impl Iterator<Item = Fence> + 'a {
    let vmid = vmid_of(invalidation);
    let (ranges, step) = match invalidation.scope {
        Scope::Space | Scope::AllSpaces => (&[][..], 1),
        Scope::Ranges { ranges, stride } => {
            let count: u64 = ranges.iter().map(|range| range.size().div_ceil(stride.bytes())).sum();
            if count <= BY_ADDRESS_LIMIT { (ranges, stride.bytes()) } else { (&[][..], 1) }
        }
    };
    let by_address = ranges.iter().flat_map(move |range| {
        let addresses = (range.start().as_u64()..range.end().as_u64()).step_by(step as usize);
        addresses.map(move |address| Fence { address: Some(address >> 2), vmid })
    });
    let whole = ranges.is_empty().then_some(Fence { address: None, vmid });
    by_address.chain(whole)
}

/// The instructions for `invalidation` on the hart that executes them, in order: the [`fences`], or with Svinval and more
/// than one of them the invalidations alone between the two that order them all at once. (Supervisor chapter,
/// "Svinval".)
pub fn instructions<'a>(invalidation: &'a Invalidation<'a>) -> impl Iterator<Item = Instruction> + 'a {
    let apart =
        invalidation.features.contains(TlbFeatures::ORDERED_APART) && fences(invalidation).nth(1).is_some();
    let one =
        move |fence| if apart { Instruction::HinvalGvma(fence) } else { Instruction::HfenceGvma(fence) };
    let before = apart.then_some(Instruction::SfenceWInval);
    let after = apart.then_some(Instruction::SfenceInvalIr);
    before.into_iter().chain(fences(invalidation).map(one)).chain(after)
}

#[cfg(all(test, not(loom)))]
mod tests;
