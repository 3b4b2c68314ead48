//! One small error type per operation. Every error names the argument or the page that is at fault, and leaves the
//! space as it was.

use crate::addr::{GuestPhysAddr, GuestPhysRange, HostPhysAddr, HostPhysRange, RangeError};
use crate::flags::MappingFlags;
use thiserror::Error;

/// What is wrong with a range of guest-physical addresses that was passed in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum BadRange {
    /// Empty or wrapping.
    #[error("guest-physical range at {start:#x}: {reason}")]
    Malformed {
        /// The start that was given.
        start: GuestPhysAddr,
        /// What is wrong.
        reason: RangeError,
    },
    /// The start or the size is not a multiple of 4 KiB.
    #[error("guest-physical range {0} is not 4 KiB aligned")]
    Unaligned(GuestPhysRange),
    /// The range leaves the space.
    #[error("guest-physical range {range} is outside of the space {space}")]
    OutsideSpace {
        /// The range that was given.
        range: GuestPhysRange,
        /// The extent of the space.
        space: GuestPhysRange,
    },
}

/// Flags that the format cannot express on this CPU.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("the format cannot express `{flags}`: {reason}")]
pub struct UnsupportedFlags {
    /// The flags that were given.
    pub flags: MappingFlags,
    /// Why not.
    pub reason: &'static str,
}

/// Why a space could not be made.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum CreateError {
    /// The extent is empty, wraps or is not 4 KiB aligned.
    #[error(transparent)]
    BadRange(#[from] BadRange),
    /// The extent needs addresses that the format cannot translate.
    #[error("guest-physical range {range} needs more than the {gpa_bits} bits that the format translates")]
    TooWide {
        /// The extent that was given.
        range: GuestPhysRange,
        /// Width of a guest-physical address in this format.
        gpa_bits: u32,
    },
    /// The tag (VMID) is wider than the CPU's.
    #[error("VMID {tag} does not fit into the {tag_bits} bits of this CPU")]
    TagTooWide {
        /// The tag that was given.
        tag: u16,
        /// Bits of a tag on this CPU.
        tag_bits: u32,
    },
    /// No frames for the root table.
    #[error("out of memory for the root table")]
    OutOfMemory,
}

/// Why a range could not be mapped.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum MapError {
    /// The guest-physical range is unusable.
    #[error(transparent)]
    BadRange(#[from] BadRange),
    /// The host physical start is not 4 KiB aligned.
    #[error("host physical address {0:#x} is not 4 KiB aligned")]
    UnalignedHost(HostPhysAddr),
    /// The host physical range exceeds the output width of the format.
    #[error("host physical range at {start:#x} does not fit into the {bits} bits of the format")]
    HostTooWide {
        /// The start that was given.
        start: HostPhysAddr,
        /// Width of a host physical address in this format.
        bits: u32,
    },
    /// Some of the host physical range is the host's own ([`Hal::is_protected`](crate::Hal::is_protected)).
    #[error("host physical range {0} is protected by the host")]
    HostProtected(HostPhysRange),
    /// The flags cannot be expressed.
    #[error(transparent)]
    UnsupportedFlags(#[from] UnsupportedFlags),
    /// An offset into a backend is no multiple of 4 KiB.
    #[error("offset {0:#x} is not 4 KiB aligned")]
    UnalignedOffset(u64),
    /// The part of the backend that is to be mapped goes beyond its end.
    #[error("{size:#x} bytes at offset {offset:#x} exceed the {most:#x} bytes that the backend has")]
    BeyondBackend {
        /// The offset that was given.
        offset: u64,
        /// The size that was given.
        size: u64,
        /// The bytes that there are.
        most: u64,
    },
    /// The space's backend has no pager ([`CustomBackend::pager`](crate::CustomBackend::pager)).
    #[error("the backend has no pager")]
    NoPager,
    /// The shared memory was made on another host ([`Hal::is_same_host`](crate::Hal::is_same_host)).
    #[error("the shared memory belongs to another host")]
    OtherHost,
    /// The space maps as many different shared memories as it can.
    #[error("the space maps {most} shared memories, and can have no more")]
    TooManyShared {
        /// The most.
        most: usize,
    },
    /// Part of the range is mapped already.
    #[error("{wanted} overlaps the region {existing}")]
    AlreadyMapped {
        /// The range that was given.
        wanted: GuestPhysRange,
        /// The region in the way.
        existing: GuestPhysRange,
    },
    /// The host has no frame left.
    #[error("out of memory")]
    OutOfMemory,
}

/// Why a range could not be unmapped.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum UnmapError {
    /// The range is unusable.
    #[error(transparent)]
    BadRange(#[from] BadRange),
    /// No region covers this address.
    #[error("guest-physical address {0:#x} is not mapped")]
    NotMapped(GuestPhysAddr),
    /// Something is pinned there: see [`pin`](crate::AddrSpace::pin).
    #[error("{0} is pinned")]
    Pinned(GuestPhysRange),
    /// The host has no frame left for the table or the region that the operation must split.
    #[error("out of memory for splitting")]
    OutOfMemory,
}

/// Why the flags of a range could not be changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum ProtectError {
    /// The range is unusable.
    #[error(transparent)]
    BadRange(#[from] BadRange),
    /// No region covers this address.
    #[error("guest-physical address {0:#x} is not mapped")]
    NotMapped(GuestPhysAddr),
    /// The flags cannot be expressed.
    #[error(transparent)]
    UnsupportedFlags(#[from] UnsupportedFlags),
    /// The host has no frame left for the table or the region that the operation must split.
    #[error("out of memory for splitting")]
    OutOfMemory,
}

/// Why the frames of a range could not be given up.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum DiscardError {
    /// The range is unusable.
    #[error(transparent)]
    BadRange(#[from] BadRange),
    /// No region covers this address.
    #[error("guest-physical address {0:#x} is not mapped")]
    NotMapped(GuestPhysAddr),
    /// The region's frames are neither the space's own nor a custom backend's.
    #[error("the region {0} does not own its frames")]
    NotOwned(GuestPhysRange),
    /// Something is pinned there: see [`pin`](crate::AddrSpace::pin).
    #[error("{0} is pinned")]
    Pinned(GuestPhysRange),
    /// The host has no frame left for the table of a large leaf that must be split.
    #[error("out of memory for splitting")]
    OutOfMemory,
}

/// Why a range could not be paged out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum PageOutError {
    /// The range is unusable.
    #[error(transparent)]
    BadRange(#[from] BadRange),
    /// No region covers this address.
    #[error("guest-physical address {0:#x} is not mapped")]
    NotMapped(GuestPhysAddr),
    /// The region's contents come from no pager.
    #[error("the region {0} is not paged")]
    NotPaged(GuestPhysRange),
    /// Something is pinned there: see [`pin`](crate::AddrSpace::pin).
    #[error("{0} is pinned")]
    Pinned(GuestPhysRange),
}

/// Why a range could not be pinned.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum PinError {
    /// The range is unusable, or its pages cannot be populated.
    #[error(transparent)]
    Populate(#[from] PopulateError),
    /// There is no memory: the region is a device's.
    #[error("the region {0} has no memory")]
    NoMemory(GuestPhysRange),
    /// The page has no frame, and the guest may not have one: the region allows no access.
    #[error("guest-physical address {0:#x} has no frame and allows no access")]
    NoAccess(GuestPhysAddr),
    /// As many pins hold the region as can be counted.
    #[error("the region {0} has as many pins as can be")]
    TooMany(GuestPhysRange),
    /// The host has no frame left.
    #[error("out of memory")]
    OutOfMemory,
}

/// Why a range could not be unpinned.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum UnpinError {
    /// The range is unusable.
    #[error(transparent)]
    BadRange(#[from] BadRange),
    /// Some of it is not pinned, or not mapped at all: the first such address.
    #[error("guest-physical address {0:#x} is not pinned")]
    NotPinned(GuestPhysAddr),
    /// The host has no frame left for the region that must be divided.
    #[error("out of memory for the regions")]
    OutOfMemory,
}

/// Why a space could not be forked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum ForkError {
    /// The tag has more bits than the CPU's VMIDs.
    #[error("tag {tag} does not fit into the {tag_bits} bits that this CPU has")]
    TagTooWide {
        /// The tag.
        tag: u16,
        /// Bits of a tag.
        tag_bits: u32,
    },
    /// The fork's host could not reach the frames of the space ([`Hal::is_same_host`](crate::Hal::is_same_host)).
    #[error("the fork would be on another host")]
    OtherHost,
    /// The host has no frame left.
    #[error("out of memory")]
    OutOfMemory,
}

/// Why a space could not be made what a snapshot is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum ResetError {
    /// Something is pinned: see [`pin`](crate::AddrSpace::pin).
    #[error("{0} is pinned")]
    Pinned(GuestPhysRange),
    /// The snapshot is on another host.
    #[error("the snapshot is on another host")]
    OtherHost,
    /// The snapshot is of a space of another size or format.
    #[error("the snapshot is of a space of another size or format")]
    OtherShape,
    /// The host has no frame left.
    #[error("out of memory")]
    OutOfMemory,
}

/// Why it could not be said whether forks have a range.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum InheritError {
    /// The range is unusable.
    #[error(transparent)]
    BadRange(#[from] BadRange),
    /// No region covers this address.
    #[error("guest-physical address {0:#x} is not mapped")]
    NotMapped(GuestPhysAddr),
    /// The host has no frame left for a split, or for the region that must be divided.
    #[error("out of memory")]
    OutOfMemory,
}

/// The space cannot be emptied.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum ClearError {
    /// Something is pinned: see [`pin`](crate::AddrSpace::pin).
    #[error("{0} is pinned")]
    Pinned(GuestPhysRange),
}

/// Why pages could not be moved to other frames.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum MigrateError {
    /// The range is unusable.
    #[error(transparent)]
    BadRange(#[from] BadRange),
    /// No region covers this address.
    #[error("guest-physical address {0:#x} is not mapped")]
    NotMapped(GuestPhysAddr),
    /// The region's frames are not the space's own, so they cannot be exchanged.
    #[error("the region {0} does not own its frames")]
    NotOwned(GuestPhysRange),
    /// Something is pinned there: see [`pin`](crate::AddrSpace::pin).
    #[error("{0} is pinned")]
    Pinned(GuestPhysRange),
    /// The host has no frame left.
    #[error("out of memory")]
    OutOfMemory,
}

/// Why a range could not be populated.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum PopulateError {
    /// The range is unusable.
    #[error(transparent)]
    BadRange(#[from] BadRange),
    /// No region covers this address.
    #[error("guest-physical address {0:#x} is not mapped")]
    NotMapped(GuestPhysAddr),
    /// The backend gives no frame for this page now.
    #[error("the backend has no frame for guest-physical address {0:#x}")]
    Refused(GuestPhysAddr),
    /// The host has no frame left for this page.
    #[error("out of memory for guest-physical address {0:#x}")]
    OutOfMemory(GuestPhysAddr),
}

/// The host has no frame left to keep ready.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("out of memory for frames to keep ready")]
pub struct TopUpError;

/// Why the leaves of a range could not be joined.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum CollapseError {
    /// The range is unusable.
    #[error(transparent)]
    BadRange(#[from] BadRange),
    /// No region covers this address.
    #[error("guest-physical address {0:#x} is not mapped")]
    NotMapped(GuestPhysAddr),
}

/// Why writes to a range could not be logged.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum StartLogError {
    /// The range is unusable.
    #[error(transparent)]
    BadRange(#[from] BadRange),
    /// No region covers this address.
    #[error("guest-physical address {0:#x} is not mapped")]
    NotMapped(GuestPhysAddr),
    /// Writes to this region are logged already.
    #[error("writes to {0} are logged already")]
    AlreadyLogged(GuestPhysRange),
    /// The host has no frame left for the table or the region that the operation must split.
    #[error("out of memory for splitting")]
    OutOfMemory,
}

/// Why a dirty log could not be collected.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum CollectLogError {
    /// The range is unusable.
    #[error(transparent)]
    BadRange(#[from] BadRange),
    /// No region covers this address.
    #[error("guest-physical address {0:#x} is not mapped")]
    NotMapped(GuestPhysAddr),
    /// Writes to this region are not logged.
    #[error("writes to {0} are not logged")]
    NotLogged(GuestPhysRange),
    /// The host has no frame left for a table that is shared with a fork or a snapshot.
    #[error("out of memory for tables")]
    OutOfMemory,
    /// The bitmap has fewer bits than the range has pages.
    #[error("a bitmap of {given} words for a range that needs {needed}")]
    BitmapTooSmall {
        /// Words that the range needs.
        needed: u64,
        /// Words that were given.
        given: u64,
    },
}

/// Why pages could not be asked whether they are used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum ScanError {
    /// The range is unusable.
    #[error(transparent)]
    BadRange(#[from] BadRange),
    /// There are fewer ages than the range has pages.
    #[error("{given} ages for {needed} pages")]
    AgesTooShort {
        /// Pages of 4 KiB in the range.
        needed: u64,
        /// Ages that were given.
        given: u64,
    },
    /// The host has no frame left for a table that is shared with a fork or a snapshot.
    #[error("out of memory for tables")]
    OutOfMemory,
}

/// Why a dirty log could not be ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum StopLogError {
    /// The range is unusable.
    #[error(transparent)]
    BadRange(#[from] BadRange),
    /// No region covers this address.
    #[error("guest-physical address {0:#x} is not mapped")]
    NotMapped(GuestPhysAddr),
    /// Writes to this region are not logged.
    #[error("writes to {0} are not logged")]
    NotLogged(GuestPhysRange),
    /// The host has no frame left for the region that must be divided.
    #[error("out of memory for the regions")]
    OutOfMemory,
}

/// Why an address has no translation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum QueryError {
    /// Outside of the space, or beyond the width of the format.
    #[error("guest-physical address {gpa:#x} is outside of the space {space}")]
    OutsideSpace {
        /// The address that was given.
        gpa: GuestPhysAddr,
        /// The extent of the space.
        space: GuestPhysRange,
    },
    /// No region covers it.
    #[error("guest-physical address {0:#x} is not mapped")]
    NotMapped(GuestPhysAddr),
    /// A region covers it, but no frame is there yet, or the guest has no access.
    #[error("guest-physical address {gpa:#x} in region {region} is not present")]
    NotPresent {
        /// The address that was given.
        gpa: GuestPhysAddr,
        /// The region around it.
        region: GuestPhysRange,
    },
}

/// Whose fault a guest's access is, when the space cannot answer it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum FaultError {
    /// The guest: the address is outside of the space or too wide for the format.
    #[error("address {gpa:#x} is outside of the space {space}")]
    OutsideSpace {
        /// The address that the guest used.
        gpa: GuestPhysAddr,
        /// The extent of the space.
        space: GuestPhysRange,
    },
    /// The guest: no region is there.
    #[error("address {0:#x} is in no region")]
    NoRegion(GuestPhysAddr),
    /// The guest: the region does not allow this access.
    #[error("access `{access}` to {gpa:#x} is not allowed by region {region} `{allowed}`")]
    Permission {
        /// The address that the guest used.
        gpa: GuestPhysAddr,
        /// What the guest tried.
        access: MappingFlags,
        /// The region.
        region: GuestPhysRange,
        /// What the region allows, and its memory type.
        allowed: MappingFlags,
    },
    /// The custom backend: it has no page there.
    #[error("the backend has no page at address {0:#x}")]
    NoSuchPage(GuestPhysAddr),
    /// The custom backend: it gave a frame that is not 4 KiB aligned, exceeds the format or is the host's own. It got it
    /// back.
    #[error("the backend gave {hpa:#x} for address {gpa:#x}, which no guest can have")]
    BadFrame {
        /// The address that the guest used.
        gpa: GuestPhysAddr,
        /// What the backend gave.
        hpa: HostPhysAddr,
    },
    /// The host: no frame is left. Nothing changed; the same fault can be answered again later.
    #[error("out of memory for address {0:#x}")]
    OutOfMemory(GuestPhysAddr),
}
