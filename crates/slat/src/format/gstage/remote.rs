//! The fences of other harts: calls of the SBI, as data. (RISC-V SBI specification, "RFENCE Extension".)
//!
//! HFENCE.GVMA reaches the hart that executes it alone. The SBI implementation carries it out on the others, and returns
//! when all have: what one of these calls names is gone when it comes back. Which harts are to be named, a
//! [`HartSet`](crate::tlb::HartSet) knows.

use super::fence::vmid_of;
use crate::tlb::{Invalidation, Scope};

/// The number of the extension in a7: "RFNC".
pub const RFENCE: u64 = 0x5246_4e43;

/// The function (a6) that lets other harts execute FENCE.I: what it takes is the [`HartMask`] alone, in a0 and a1. For
/// [`CacheActions::INVALIDATE_INSTRUCTIONS`](crate::CacheActions::INVALIDATE_INSTRUCTIONS).
pub const REMOTE_FENCE_I: u64 = 0;

/// Function numbers, in a6.
const REMOTE_HFENCE_GVMA_VMID: u64 = 3;
const REMOTE_HFENCE_GVMA: u64 = 4;

/// Harts by number, as the SBI takes them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HartMask {
    /// hart_mask: bit n is the hart `base + n`.
    pub mask: u64,
    /// hart_mask_base; `u64::MAX` is every hart there is, whatever the mask.
    pub base: u64,
}

impl HartMask {
    /// Every hart that the supervisor has.
    pub const ALL: Self = Self { mask: 0, base: u64::MAX };
}

/// One call that lets other harts execute HFENCE.GVMA.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RemoteFence {
    /// First guest-physical address, **not** shifted; 0 with the size 0 for all of them.
    pub start: u64,
    /// Bytes from there on; 0 with the start 0 for all.
    pub size: u64,
    /// The VMID; `None` for all of them.
    pub vmid: Option<u16>,
}

impl RemoteFence {
    /// Function number, for a6: 3 (remote_hfence_gvma_vmid) or 4 (remote_hfence_gvma).
    #[must_use]
    pub const fn function(&self) -> u64 {
        if self.vmid.is_some() { REMOTE_HFENCE_GVMA_VMID } else { REMOTE_HFENCE_GVMA }
    }

    /// The arguments, for a0 to a4: hart_mask, hart_mask_base, start_addr, size, and vmid, which function 4 does not look
    /// at.
    #[must_use]
    pub const fn arguments(&self, harts: HartMask) -> [u64; 5] {
        let vmid = match self.vmid {
            Some(vmid) => vmid as u64,
            None => 0,
        };
        [harts.mask, harts.base, self.start, self.size, vmid]
    }
}

/// The calls that do on other harts what [`fences`](super::fences) does on this one: one for each range, and a single one
/// for a whole space or all spaces. No more than there are ranges, 8 at the most.
///
/// ```
/// use slat::format::gstage::{HartMask, RFENCE, remote_fences};
/// use slat::tlb::HartSet;
/// use slat::{Invalidation, Reach};
///
/// fn sbi_call(extension: u64, function: u64, arguments: [u64; 5]) {
///     // yours: a7, a6 and a0 to a4, then ECALL
/// }
///
/// /// What `Hal::invalidate` of a host with several harts does; `here` is the ID of the hart that it runs on.
/// fn invalidate(invalidation: &Invalidation<'_>, harts: &HartSet, here: usize) {
///     // This hart by the default, `isa::riscv64::execute` of each of `instructions(invalidation)`; then the others.
///     if invalidation.reach == Reach::ThisCpu {
///         return;
///     }
///     for (first, bits) in harts.harts() {
///         let own = if here / 64 == first / 64 { 1 << (here % 64) } else { 0 };
///         let harts = HartMask { mask: bits & !own, base: first as u64 };
///         for call in remote_fences(invalidation).filter(|_| harts.mask != 0) {
///             sbi_call(RFENCE, call.function(), call.arguments(harts));
///         }
///     }
/// }
/// ```
pub fn remote_fences<'a>(invalidation: &'a Invalidation<'a>) -> impl Iterator<Item = RemoteFence> + 'a {
    let vmid = vmid_of(invalidation);
    let ranges = match invalidation.scope {
        Scope::Space | Scope::AllSpaces => &[][..],
        Scope::Ranges { ranges, .. } => ranges,
    };
    let by_address = ranges.iter().map(move |range| RemoteFence {
        start: range.start().as_u64(),
        size: range.size(),
        vmid,
    });
    let whole = ranges.is_empty().then_some(RemoteFence { start: 0, size: 0, vmid });
    by_address.chain(whole)
}

#[cfg(all(test, not(loom)))]
mod tests;
