//! Invalidation: what a CPU has to forget, and who still owes it.
//!
//! **Invariant:** a frame or a table goes back to the host only after every CPU that may cache a translation through
//! it was told to forget it. Entries that were taken out keep their address in the table until then (see
//! `table/soft.rs`), so the debt needs no memory of its own and cannot be lost.

mod harts;
mod pending;
mod tags;

pub use harts::{HartSet, NoSuchHart};
pub(crate) use pending::Pending;
pub use tags::{Activation, Tag, TagError, TagPool};

use crate::addr::GuestPhysRange;
use crate::flags::LeafSize;
use bitflags::bitflags;

/// More invalidations by address than this, and dropping the whole space is cheaper: on Arm each one is a broadcast
/// that every CPU must answer.
pub(crate) const BY_ADDRESS_LIMIT: u64 = 64;

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
    /// Every translation of every guest, whatever its tag: the tags get new owners.
    AllSpaces,
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
    /// What kind of table it is, and so which instructions do it.
    pub table: TableKind,
    /// What this CPU's instructions can do beyond the least.
    pub features: TlbFeatures,
}

/// The kinds of second-level tables.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TableKind {
    /// Arm stage 2.
    Stage2,
    /// Intel EPT.
    Ept,
    /// AMD nested page tables.
    Npt,
    /// RISC-V G-stage.
    Gstage,
}

bitflags! {
    /// What the invalidation instructions of a CPU can do beyond the least.
    #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
    pub struct TlbFeatures: u8 {
        /// One instruction drops a range (Arm: FEAT_TLBIRANGE).
        const RANGE = 1 << 0;
        /// One instruction drops a single space (Intel: single-context INVEPT).
        const SINGLE_CONTEXT = 1 << 1;
        /// Invalidations can be ordered apart from each other, all at once (RISC-V: Svinval).
        const ORDERED_APART = 1 << 2;
    }
}
