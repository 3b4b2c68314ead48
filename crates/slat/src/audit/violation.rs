//! What an audit finds.

use crate::addr::{GuestPhysRange, HostPhysRange};
use core::fmt;
use thiserror::Error;

/// Where a guest reaches host memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AuditSite {
    /// The index of the space in [`Audit::spaces`](super::Audit::spaces).
    pub space: usize,
    /// The guest-physical addresses, all of them consecutive.
    pub gpa: GuestPhysRange,
    /// The host physical addresses, as many.
    pub hpa: HostPhysRange,
}

impl fmt::Display for AuditSite {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "space {} at {} -> {}", self.space, self.gpa, self.hpa)
    }
}

/// Something that must not be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AuditViolation {
    /// A guest reaches memory that is reserved for the host.
    Reserved(AuditSite),
    /// Two spaces can write to memory that is not declared as shared.
    TwoWriters {
        /// The one.
        first: AuditSite,
        /// The other, at the same host physical addresses.
        second: AuditSite,
    },
    /// A guest can write to a frame that a space owns by two addresses: it was handed out twice.
    Aliased {
        /// The one.
        first: AuditSite,
        /// The other, in the same space and at the same host physical addresses.
        second: AuditSite,
    },
    /// A guest reaches a frame that a space keeps for itself: the root, a table, regions, or one kept ready.
    TableReachable {
        /// Where.
        site: AuditSite,
        /// The index of the space whose frame it is.
        owner: usize,
    },
    /// A guest can write to and execute the same page, in a space where that was to be excluded.
    WriteAndExecute(AuditSite),
    /// A debt was forgotten: TLBs may hold what the tables no longer say, so what the audit finds may not be all.
    Unsettled {
        /// The index of the space.
        space: usize,
        /// Where something is still to be invalidated.
        gpa: GuestPhysRange,
    },
}

impl fmt::Display for AuditViolation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Reserved(site) => write!(f, "{site} reaches memory that is reserved for the host"),
            Self::TwoWriters { first, second } => {
                write!(f, "{first} and {second} are both writable, and not declared as shared")
            }
            Self::Aliased { first, second } => {
                write!(f, "{first} and {second} are two ways to write to an owned frame")
            }
            Self::TableReachable { site, owner } => {
                write!(f, "{site} reaches frames that space {owner} keeps for itself")
            }
            Self::WriteAndExecute(site) => write!(f, "{site} is both writable and executable"),
            Self::Unsettled { space, gpa } => write!(f, "space {space} at {gpa} waits for an invalidation"),
        }
    }
}

/// Why an audit could not be made.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum AuditError {
    /// There is not enough room.
    #[error("{given} records were lent, {needed} are needed")]
    TooFewRecords {
        /// The number of records that were lent.
        given: usize,
        /// The number that is needed.
        needed: usize,
    },
}
