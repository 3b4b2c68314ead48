//! TLB maintenance with a mistake in it, on request.
//!
//! The negative controls of the tests: each [`Mistake`] is one that hypervisors have really made. With
//! [`Mistake::None`] the library's sequence passes through unchanged.

use slat::format::stage2::{Instruction, instructions};
use slat::{Invalidation, Reach};
use slat_hv_protocol::Mistake;
use slat_hv_protocol::recording::Operation;

/// What is carried out instead of `invalidation`: with [`Mistake::LocalTlbi`] only what this CPU remembers is dropped,
/// by the library's own sequence for that.
#[must_use]
pub fn narrowed(invalidation: Invalidation<'_>, mistake: Mistake) -> Invalidation<'_> {
    match mistake {
        Mistake::LocalTlbi => Invalidation { reach: Reach::ThisCpu, ..invalidation },
        _ => invalidation,
    }
}

/// One instruction to execute.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// One of the library's.
    Native(Instruction),
    /// `TLBI VAE2IS`, which drops a translation of the hypervisor and none of the guest.
    Vae2is(u64),
}

impl Step {
    /// The mnemonic.
    #[must_use]
    pub const fn mnemonic(self) -> &'static str {
        match self {
            Self::Native(instruction) => instruction.mnemonic(),
            Self::Vae2is(_) => "tlbi vae2is",
        }
    }

    /// Its name and operand in a recording.
    #[must_use]
    pub const fn recorded(self) -> (Operation, u64) {
        match self {
            Self::Native(Instruction::DsbIshst) => (Operation::DsbIshst, 0),
            Self::Native(Instruction::DsbIsh) => (Operation::DsbIsh, 0),
            Self::Native(Instruction::DsbNshst) => (Operation::DsbNshst, 0),
            Self::Native(Instruction::DsbNsh) => (Operation::DsbNsh, 0),
            Self::Native(Instruction::Isb) => (Operation::Isb, 0),
            Self::Native(Instruction::Ipas2e1is(operand)) => (Operation::Ipas2e1is, operand),
            Self::Native(Instruction::Ipas2e1(operand)) => (Operation::Ipas2e1, operand),
            Self::Native(Instruction::Ripas2e1is(operand)) => (Operation::Ripas2e1is, operand),
            Self::Native(Instruction::Ripas2e1(operand)) => (Operation::Ripas2e1, operand),
            Self::Native(Instruction::Vmalle1is) => (Operation::Vmalle1is, 0),
            Self::Native(Instruction::Vmalle1) => (Operation::Vmalle1, 0),
            Self::Native(Instruction::Vmalls12e1is) => (Operation::Vmalls12e1is, 0),
            Self::Native(Instruction::Vmalls12e1) => (Operation::Vmalls12e1, 0),
            Self::Native(Instruction::Alle1is) => (Operation::Alle1is, 0),
            Self::Native(Instruction::Alle1) => (Operation::Alle1, 0),
            Self::Vae2is(operand) => (Operation::Vae2is, operand),
        }
    }

    /// Whether it is a barrier.
    #[must_use]
    pub const fn is_barrier(self) -> bool {
        use Instruction::{DsbIsh, DsbIshst, DsbNsh, DsbNshst, Isb};
        matches!(self, Self::Native(DsbIshst | DsbIsh | DsbNshst | DsbNsh | Isb))
    }
}

/// The library's sequence for `invalidation`, with `mistake`.
pub fn steps<'a>(invalidation: &'a Invalidation<'a>, mistake: Mistake) -> impl Iterator<Item = Step> + 'a {
    instructions(invalidation).filter_map(move |instruction| spoil(instruction, mistake))
}

/// How far away the wrong address lies, in pages: far enough to be another leaf of any size in any small guest.
const ASTRAY: u64 = 1 << 30 >> 12;

fn spoil(instruction: Instruction, mistake: Mistake) -> Option<Step> {
    use Instruction as I;
    let unchanged = Some(Step::Native(instruction));
    match (mistake, instruction) {
        (_, I::DsbIshst | I::DsbIsh | I::DsbNshst | I::DsbNsh | I::Isb) => unchanged,
        (Mistake::None | Mistake::LocalTlbi, _) => unchanged,
        // These are of x86, of several guests, of one that moves, and of one whose memory is paged.
        (
            Mistake::NoKick
            | Mistake::NoRedelivery
            | Mistake::SkippedCopies
            | Mistake::SharedFrame
            | Mistake::LostDirtyPage
            | Mistake::LostPageOut
            | Mistake::DamagedPageOut,
            _,
        ) => unchanged,
        (Mistake::NoTlbi, _) => None,
        (Mistake::Ipas2Alone, I::Vmalle1is | I::Vmalle1) => None,
        (Mistake::Vmalle1Alone, I::Ipas2e1is(_) | I::Ipas2e1(_) | I::Ripas2e1is(_) | I::Ripas2e1(_)) => None,
        (Mistake::WrongAddress, I::Ipas2e1is(operand)) => Some(Step::Native(I::Ipas2e1is(operand ^ ASTRAY))),
        (Mistake::WrongAddress, I::Ipas2e1(operand)) => Some(Step::Native(I::Ipas2e1(operand ^ ASTRAY))),
        (Mistake::WrongAddress, I::Ripas2e1is(operand)) => {
            Some(Step::Native(I::Ripas2e1is(operand ^ ASTRAY)))
        }
        (Mistake::WrongAddress, I::Ripas2e1(operand)) => Some(Step::Native(I::Ripas2e1(operand ^ ASTRAY))),
        (
            Mistake::El2Instruction,
            I::Ipas2e1is(operand) | I::Ipas2e1(operand) | I::Ripas2e1is(operand) | I::Ripas2e1(operand),
        ) => Some(Step::Vae2is(operand & ((1 << 36) - 1))),
        (Mistake::El2Instruction, I::Vmalle1is | I::Vmalle1) => None,
        (
            Mistake::Ipas2Alone | Mistake::Vmalle1Alone | Mistake::WrongAddress | Mistake::El2Instruction,
            _,
        ) => unchanged,
    }
}

#[cfg(test)]
mod tests;
