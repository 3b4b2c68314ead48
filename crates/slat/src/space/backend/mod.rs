//! Backends: where the frames of a region come from.
//!
//! The built-in ones are an enumeration; a user's own comes as a type parameter of the space, see [`CustomBackend`].
//! Nothing is ever boxed.

#![expect(unsafe_code, reason = "declares the contract between slat and a user's own backend")]

mod attached;
mod custom;
mod pager;
mod private;
mod shared;

pub(super) use attached::{Attached, MOST as MOST_SHARED};
pub(super) use custom::{Custom, page_of};
pub(super) use pager::{PageIn, paged_page};
pub use pager::{Pager, PagerBackend};
pub(super) use private::PrivateCopy;
pub(super) use shared::{Shared, SharedRun};
pub use shared::{SharedMemory, SharedMemoryError};

use crate::addr::{GuestPhysAddr, HostPhysAddr};
use crate::device::DeviceId;
use crate::flags::{LeafSize, MappingFlags};
use crate::table::Refused;
use thiserror::Error;

pub(super) use super::regions::OFFSET_LIMIT;

/// Where the frames of a region come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Backend {
    /// A run of host physical memory of the caller.
    Linear {
        /// Host physical address of the region's first byte.
        hpa: HostPhysAddr,
    },
    /// Frames taken from the host, at once or on the first access, and given back with the region.
    Alloc {
        /// The largest leaf to use.
        largest_leaf: LeafSize,
        /// What a fault populates, if that is more than a leaf.
        fault_around: LeafSize,
    },
    /// Memory that several spaces have in common; it lives as long as one of them maps it.
    Shared {
        /// Which one, in this space.
        memory: SharedId,
        /// Bytes from its beginning to the region's first byte.
        offset: u64,
    },
    /// Memory that other spaces map too, as long as the guest only reads; a page that it writes to is its own from then on.
    Private {
        /// Which one, in this space.
        memory: SharedId,
        /// Bytes from its beginning to the region's first byte.
        offset: u64,
    },
    /// No memory: accesses are answered by the emulator of a device.
    Trap {
        /// The device.
        device: DeviceId,
        /// Bytes from the device's first address to the region's first byte.
        offset: u64,
    },
    /// Frames that the space's own [`CustomBackend`] gives, each on the first access.
    Custom {
        /// The caller's number for what it maps here.
        source: u16,
        /// Bytes from the beginning of that to the region's first byte.
        offset: u64,
    },
    /// Frames of the host, whose contents come from the space's own [`Pager`], each on the first access, and go back there
    /// when they are paged out.
    Paged {
        /// The caller's number for what it maps here.
        source: u16,
        /// Bytes from the beginning of that to the region's first byte.
        offset: u64,
    },
}

impl Backend {
    /// Whether a write to a page whose frame the space shares gets the space a copy of its own: elsewhere others are meant to
    /// see it.
    pub(super) const fn is_copied_on_write(self) -> bool {
        matches!(self, Self::Alloc { .. } | Self::Paged { .. } | Self::Private { .. })
    }

    /// The backend of what begins `bytes` further on in the same region.
    pub(super) fn advanced(self, bytes: u64) -> Self {
        match self {
            Self::Linear { hpa } => Self::Linear { hpa: HostPhysAddr::new(hpa.as_u64().wrapping_add(bytes)) },
            Self::Alloc { .. } => self,
            Self::Shared { memory, offset } => Self::Shared { memory, offset: offset.wrapping_add(bytes) },
            Self::Private { memory, offset } => Self::Private { memory, offset: offset.wrapping_add(bytes) },
            Self::Trap { device, offset } => Self::Trap { device, offset: offset.wrapping_add(bytes) },
            Self::Custom { source, offset } => Self::Custom { source, offset: offset.wrapping_add(bytes) },
            Self::Paged { source, offset } => Self::Paged { source, offset: offset.wrapping_add(bytes) },
        }
    }
}

/// Stands for a shared memory inside of one space.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SharedId(pub(crate) u16);

/// One page of a region whose frames come from a [`CustomBackend`], or its contents from a [`Pager`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BackendPage {
    /// The caller's number for what is mapped.
    pub source: u16,
    /// Bytes from its beginning; a multiple of 4 KiB.
    pub offset: u64,
    /// Where the guest sees the page; a multiple of 4 KiB.
    pub gpa: GuestPhysAddr,
    /// What the guest may do with it, and its memory type.
    pub flags: MappingFlags,
}

/// Why a backend has no frame or no contents for a page, or does not take them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum BackendError {
    /// No memory is left. The same fault can be answered again later.
    #[error("the backend is out of memory")]
    OutOfMemory,
    /// The contents are on their way: the guest is to try again.
    #[error("the page is not here yet")]
    NotYet,
    /// There is no such page.
    #[error("the backend has no such page")]
    NoSuchPage,
}

impl From<BackendError> for Refused {
    fn from(error: BackendError) -> Self {
        match error {
            BackendError::OutOfMemory => Self::OutOfMemory,
            BackendError::NotYet => Self::NotYet,
            BackendError::NoSuchPage => Self::NoSuchPage,
        }
    }
}

/// A user's own backend: where the frames of [`map_custom`](crate::AddrSpace::map_custom) regions come from and go to.
///
/// # Safety
/// The implementor promises that a frame returned by [`take`](Self::take)
/// 1. is 4 KiB of RAM at a multiple of 4 KiB that the guest may have, and stays so until it is given back;
/// 2. can be reached by [`Hal::phys_to_virt`](crate::Hal::phys_to_virt) of the space's host, as its own frames can.
pub unsafe trait CustomBackend {
    /// The frame of `page`, with the contents that the guest is to see. Called for a fault, on any number of CPUs at
    /// once, also for the same page: each call is answered by one of [`give_back`](Self::give_back), at once if
    /// another CPU was faster, otherwise when the page is unmapped.
    ///
    /// # Errors
    /// [`BackendError`]; nothing was taken.
    fn take(&self, page: &BackendPage) -> Result<HostPhysAddr, BackendError>;

    /// Takes back the frame of a page that no CPU can reach any more. `written` says whether the guest may have
    /// changed it since it was taken; always so where the hardware does not tell.
    ///
    /// # Safety
    /// [`take`](Self::take) of this very backend returned `frame` for this page, and nothing refers to it any more.
    unsafe fn give_back(&self, page: &BackendPage, frame: HostPhysAddr, written: bool);

    /// Where the contents of [`map_paged`](crate::AddrSpace::map_paged) regions come from and go to; the same one each
    /// time. The default is nowhere: nothing can be paged.
    fn pager(&self) -> Option<&dyn Pager> {
        None
    }
}

/// The backend of spaces that have none of their own: it has no page.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct NoBackend;

// SAFETY: no frame is ever returned.
unsafe impl CustomBackend for NoBackend {
    fn take(&self, _page: &BackendPage) -> Result<HostPhysAddr, BackendError> {
        Err(BackendError::NoSuchPage)
    }

    unsafe fn give_back(&self, _page: &BackendPage, _frame: HostPhysAddr, _written: bool) {}
}

// SAFETY: every promise is kept by the backend behind the reference.
unsafe impl<B: CustomBackend + ?Sized> CustomBackend for &B {
    fn take(&self, page: &BackendPage) -> Result<HostPhysAddr, BackendError> {
        (**self).take(page)
    }

    unsafe fn give_back(&self, page: &BackendPage, frame: HostPhysAddr, written: bool) {
        // SAFETY: the same contract.
        unsafe { (**self).give_back(page, frame, written) }
    }

    fn pager(&self) -> Option<&dyn Pager> {
        (**self).pager()
    }
}
