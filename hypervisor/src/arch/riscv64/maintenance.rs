//! The fences of a change, on this hart and on others, with a mistake in them on request.
//!
//! The negative controls of the tests: each [`Mistake`] is one that hypervisors have really made. With
//! [`Mistake::None`] the library's sequence passes through unchanged.

use slat::format::gstage::{Fence, Instruction, RemoteFence, instructions, remote_fences};
use slat::{Invalidation, Reach};
use slat_hv_protocol::Mistake;
use slat_hv_protocol::recording::{Event, FenceKind, Operation};

/// One thing to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// An instruction on this hart.
    Here(Instruction),
    /// HFENCE.GVMA on the other harts that have run the space, by the firmware.
    There(RemoteFence),
}

impl Step {
    /// What it is counted as.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Here(Instruction::HfenceGvma(_)) => "hfence.gvma",
            Self::Here(Instruction::HinvalGvma(_)) => "hinval.gvma",
            Self::Here(Instruction::SfenceWInval) => "sfence.w.inval",
            Self::Here(Instruction::SfenceInvalIr) => "sfence.inval.ir",
            Self::There(_) => "sbi remote_hfence_gvma",
        }
    }
}

/// The event of an instruction on this hart, and whether it is recorded before it is executed: what completes others comes after
/// itself.
#[must_use]
pub const fn recorded(instruction: Instruction) -> (Event, bool) {
    match instruction {
        Instruction::HfenceGvma(operands) => (fence_event(FenceKind::HfenceGvma, operands), true),
        Instruction::HinvalGvma(operands) => (fence_event(FenceKind::HinvalGvma, operands), true),
        Instruction::SfenceWInval => (barrier_event(Operation::SfenceWInval), true),
        Instruction::SfenceInvalIr => (barrier_event(Operation::SfenceInvalIr), false),
    }
}

const fn fence_event(kind: FenceKind, Fence { address, vmid }: Fence) -> Event {
    Event::Fence { kind, address, vmid }
}

const fn barrier_event(operation: Operation) -> Event {
    Event::Maintenance { operation, operand: 0 }
}

/// How far away the wrong address lies: far enough to be another leaf of any size in any small guest.
const ASTRAY: u64 = 1 << 40;

/// The steps of `invalidation`, with `mistake`: this hart comes first.
pub fn steps<'a>(invalidation: &'a Invalidation<'a>, mistake: Mistake) -> impl Iterator<Item = Step> + 'a {
    let here = instructions(invalidation).map(Step::Here);
    let elsewhere = invalidation.reach == Reach::AllCpus && mistake != Mistake::LocalTlbi;
    let there = elsewhere.then(|| remote_fences(invalidation)).into_iter().flatten().map(Step::There);
    let steps = here.chain(there).filter(move |_| mistake != Mistake::NoTlbi);
    steps.map(move |step| if mistake == Mistake::WrongAddress { astray(step) } else { step })
}

/// The same at another address; what has none stays as it is.
fn astray(step: Step) -> Step {
    match step {
        Step::Here(Instruction::HfenceGvma(fence)) => Step::Here(Instruction::HfenceGvma(elsewhere(fence))),
        Step::Here(Instruction::HinvalGvma(fence)) => Step::Here(Instruction::HinvalGvma(elsewhere(fence))),
        Step::There(fence) if fence.size != 0 => {
            Step::There(RemoteFence { start: fence.start ^ ASTRAY, ..fence })
        }
        other => other,
    }
}

fn elsewhere(fence: Fence) -> Fence {
    Fence { address: fence.address.map(|address| address ^ ASTRAY >> 2), ..fence }
}

#[cfg(test)]
mod tests;
