//! Why an access stopped, and where.

use crate::addr::GuestPhysAddr;
use crate::error::FaultError;
use thiserror::Error;

/// An access to memory of a guest stopped before its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("access to guest memory stopped at {gpa:#x} after {done} bytes: {reason}")]
pub struct AccessError {
    /// The first address that was not accessed.
    pub gpa: GuestPhysAddr,
    /// Bytes that were accessed before.
    pub done: u64,
    /// Why.
    pub reason: AccessRefusal,
}

/// Why the host did not access memory of a guest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum AccessRefusal {
    /// The guest itself could not access it, or no frame is left.
    #[error(transparent)]
    Fault(#[from] FaultError),
    /// A trap region, or memory of a device: the host does not touch devices for a guest.
    #[error("it is a device")]
    Device,
    /// Linear memory to which the host gives no pointer ([`Hal::linear_to_virt`](crate::Hal::linear_to_virt)).
    #[error("the host does not reach it")]
    Unreachable,
    /// The contents are on their way, or the page is being replaced: the access can be tried again.
    #[error("it is not here yet")]
    NotYet,
    /// The address of an atomic access is not a multiple of its size.
    #[error("the address is not a multiple of the word")]
    Unaligned,
    /// The address and the size together exceed 64 bits; nothing was accessed.
    #[error("it wraps around the end of the address space")]
    Wraps,
    /// An atomic access to memory that the guest does not reach through the caches, where the format says so: it would not
    /// be atomic to the guest.
    #[error("no atomic access goes past the caches")]
    NotCoherent,
    /// Beyond the end of a [`GuestPiece`](crate::GuestPiece).
    #[error("it is beyond the end of the piece")]
    OutsidePiece,
    /// A [`GuestPiece`](crate::GuestPiece) that was not made for such an access.
    #[error("the piece was not made for this access")]
    WrongPiece,
}

/// A copy between guests stopped before its end. `done` is that of both sides.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum CopyError {
    /// At an address of the guest that is copied from.
    #[error("copying from a guest: {0}")]
    From(AccessError),
    /// At an address of the guest that is copied to.
    #[error("copying to a guest: {0}")]
    To(AccessError),
}
