//! Several operations with one invalidation.

use super::{AddrSpace, CustomBackend, NoBackend};
use crate::addr::GuestPhysAddr;
use crate::error::{ProtectError, UnmapError};
use crate::flags::MappingFlags;
use crate::format::Format;
use crate::hal::Hal;
use crate::operation::Operation;

/// The invalidation that a batch of operations owes.
///
/// The operations take effect in the table at once, but CPUs may go on using what they cached, and frames go back
/// to the host only when the debt is discharged: by [`discharge`](Self::discharge), or when this is dropped. (Even
/// a debt that is forgotten is not lost: the space remembers it and discharges it with its next operation.)
///
/// Where the format asks for break-before-make (Arm), a large leaf that was split is not present until then: a guest that
/// touches the rest of it meanwhile faults, and finds it when its fault is answered.
///
/// ```
/// # use slat::{AddrSpace, GuestPhysAddr, MappingFlags, test_util::HeapHal};
/// # let mut space = AddrSpace::<HeapHal>::new_empty(GuestPhysAddr::new(0), 1 << 30)?;
/// let (a, b) = (GuestPhysAddr::new(0x1000), GuestPhysAddr::new(0x9000));
/// space.map_alloc(GuestPhysAddr::new(0), 0x10000, MappingFlags::READ | MappingFlags::WRITE, true)?;
/// let mut debt = space.defer();
/// debt.unmap(a, 0x1000)?;
/// debt.protect(b, 0x1000, MappingFlags::READ)?;
/// debt.discharge(); // one invalidation for both
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[must_use = "until it is discharged, CPUs may use stale translations"]
pub struct Debt<'s, H: Hal, F: Format, B: CustomBackend = NoBackend> {
    space: &'s mut AddrSpace<H, F, B>,
}

impl<'s, H: Hal, F: Format, B: CustomBackend> Debt<'s, H, F, B> {
    pub(super) fn new(space: &'s mut AddrSpace<H, F, B>) -> Self {
        Self { space }
    }

    /// As [`AddrSpace::unmap`], the invalidation deferred, unless some of it is shared memory or a custom backend's: then
    /// all of the debt is discharged at once, because what was lent goes back.
    ///
    /// # Errors
    /// As [`AddrSpace::unmap`]; what the batch did before stays done.
    pub fn unmap(&mut self, gpa: GuestPhysAddr, size: u64) -> Result<(), UnmapError> {
        self.space.observed(Operation::Unmap, (gpa, size), |space| space.unmap_deferred(gpa, size))
    }

    /// As [`AddrSpace::protect`], the invalidation deferred (unless the memory type changes: break-before-make
    /// cannot wait).
    ///
    /// # Errors
    /// As [`AddrSpace::protect`]; what the batch did before stays done.
    pub fn protect(
        &mut self,
        gpa: GuestPhysAddr,
        size: u64,
        flags: MappingFlags,
    ) -> Result<(), ProtectError> {
        self.space.observed(Operation::Protect, (gpa, size), |space| space.protect_deferred(gpa, size, flags))
    }

    /// As [`unmap`](Self::unmap), all of the batch, which is part of an operation.
    #[inline(always)]
    pub(super) fn unmap_unobserved(self, gpa: GuestPhysAddr, size: u64) -> Result<(), UnmapError> {
        self.space.unmap_deferred(gpa, size)
    }

    /// As [`protect`](Self::protect), all of the batch, which is part of an operation.
    #[inline(always)]
    pub(super) fn protect_unobserved(
        self,
        gpa: GuestPhysAddr,
        size: u64,
        flags: MappingFlags,
    ) -> Result<(), ProtectError> {
        self.space.protect_deferred(gpa, size, flags)
    }

    /// Invalidates on every CPU what the batch changed, then gives back the frames that it freed.
    pub fn discharge(self) {}
}

impl<H: Hal, F: Format, B: CustomBackend> Drop for Debt<'_, H, F, B> {
    fn drop(&mut self) {
        self.space.table.settle(&mut self.space.pending);
    }
}
