//! The fences of the G-stage, as data.
//!
//! HFENCE.GVMA orders the stores to the table of this hart before its implicit reads that follow, and drops what was
//! derived from them, combined entries included. (RISC-V privileged manual, "Hypervisor Memory-Management Fence
//! Instructions".) It works on the hart that executes it, so a host with several harts sends the same sequence to
//! each, by SBI RFENCE or by an interrupt of its own. An address operand orders leaf entries only.

use crate::tlb::{BY_ADDRESS_LIMIT, Invalidation, Scope};

/// One `HFENCE.GVMA`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fence {
    /// rs1: guest-physical address shifted right by 2; `None` is x0, every address.
    pub address: Option<u64>,
    /// rs2: the VMID; `None` is x0, all of them.
    pub vmid: Option<u16>,
}

/// The fences for `invalidation`, in order.
pub fn fences<'a>(invalidation: &'a Invalidation<'a>) -> impl Iterator<Item = Fence> + 'a {
    // hgatp: VMID in 57:44.
    let vmid = (invalidation.scope != Scope::AllSpaces).then_some((invalidation.root >> 44 & 0x3fff) as u16);
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
