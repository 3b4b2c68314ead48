//! Invalidation: what a CPU has to forget, and who still owes it.
//!
//! **Invariant:** a frame or a table goes back to the host only after every CPU that may cache a translation through
//! it was told to forget it. Entries that were taken out keep their address in the table until then (see
//! `table/soft.rs`), so the debt needs no memory of its own and cannot be lost.

mod pending;

pub(crate) use pending::Pending;

use crate::addr::GuestPhysRange;
use crate::flags::LeafSize;

/// Which CPUs an invalidation must reach.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reach {
    /// Every CPU that may have used the space.
    AllCpus,
    /// Only the CPU that executes it.
    ThisCpu,
}

/// What an invalidation must drop.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scope<'a> {
    /// Every translation of the space.
    Space,
    /// The translations of these ranges (and the walks through tables that were removed in them).
    Ranges {
        /// The ranges, each aligned to 4 KiB.
        ranges: &'a [GuestPhysRange],
        /// The smallest leaf that was changed in them.
        stride: LeafSize,
    },
}

/// One invalidation, to be carried out by [`Hal::invalidate`](crate::Hal::invalidate).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Invalidation<'a> {
    /// The space's root register, its tag included (Arm: VTTBR_EL2).
    pub root: u64,
    /// What to drop.
    pub scope: Scope<'a>,
    /// Which CPUs must drop it.
    pub reach: Reach,
    /// Whether the CPU has instructions that drop a range at once.
    pub has_range_instructions: bool,
}
