//! The fences of a change, on this hart and on others, with a mistake in them on request.
//!
//! The negative controls of the tests: each [`Mistake`] is one that hypervisors have really made. With
//! [`Mistake::None`] the library's sequence passes through unchanged.

use slat::format::gstage::{Fence, fences};
use slat::{Invalidation, Reach, Scope};
use slat_hv_protocol::Mistake;

/// One thing to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// HFENCE.GVMA on this hart.
    Here(Fence),
    /// HFENCE.GVMA on the other harts that have run the space, by the firmware.
    There(RemoteFence),
}

/// What other harts have to fence (SBI specification, "RFENCE Extension").
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RemoteFence {
    /// The first guest-physical address, not shifted.
    pub start: u64,
    /// Bytes from there on; 0, with a start of 0, stands for everything.
    pub size: u64,
    /// The VMID; `None` for all of them.
    pub vmid: Option<u16>,
}

impl Step {
    /// What it is counted as.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Here(_) => "hfence.gvma",
            Self::There(_) => "sbi remote_hfence_gvma",
        }
    }
}

/// How far away the wrong address lies: far enough to be another leaf of any size in any small guest.
const ASTRAY: u64 = 1 << 40;

/// The steps of `invalidation`, with `mistake`: this hart comes first.
pub fn steps<'a>(invalidation: &'a Invalidation<'a>, mistake: Mistake) -> impl Iterator<Item = Step> + 'a {
    let here = fences(invalidation).map(Step::Here);
    let elsewhere = invalidation.reach == Reach::AllCpus && mistake != Mistake::LocalTlbi;
    let there = elsewhere.then(|| remote_fences(invalidation)).into_iter().flatten().map(Step::There);
    let steps = here.chain(there).filter(move |_| mistake != Mistake::NoTlbi);
    steps.map(move |step| if mistake == Mistake::WrongAddress { astray(step) } else { step })
}

/// The VMID in a value of hgatp ("Hypervisor Guest Address Translation and Protection Register").
#[must_use]
pub const fn vmid(hgatp: u64) -> u16 {
    (hgatp >> 44 & 0x3fff) as u16
}

fn remote_fences<'a>(invalidation: &'a Invalidation<'a>) -> impl Iterator<Item = RemoteFence> + 'a {
    let vmid = (invalidation.scope != Scope::AllSpaces).then_some(vmid(invalidation.root));
    let ranges = match invalidation.scope {
        Scope::Space | Scope::AllSpaces => &[][..],
        Scope::Ranges { ranges, .. } => ranges,
    };
    let by_address = ranges.iter().map(move |range| {
        let (start, size) = (range.start().as_u64(), range.size());
        RemoteFence { start, size, vmid }
    });
    let everything = ranges.is_empty().then_some(RemoteFence { start: 0, size: 0, vmid });
    by_address.chain(everything)
}

/// The same at another address; what has none stays as it is.
fn astray(step: Step) -> Step {
    match step {
        Step::Here(fence) => {
            Step::Here(Fence { address: fence.address.map(|address| address ^ ASTRAY >> 2), ..fence })
        }
        Step::There(fence) if fence.size != 0 => {
            Step::There(RemoteFence { start: fence.start ^ ASTRAY, ..fence })
        }
        everything => everything,
    }
}

#[cfg(test)]
mod tests;
