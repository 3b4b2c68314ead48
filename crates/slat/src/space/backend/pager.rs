//! Pagers: where the contents of paged regions come from and go to, in frames of the space's own.

#![expect(unsafe_code, reason = "a backend that is nothing but a pager gives no frames")]

use super::{BackendError, BackendPage, CustomBackend};
use crate::addr::{GuestPhysAddr, HostPhysAddr, PAGE_SIZE};
use crate::format::{CacheEvent, Format};
use crate::frame::OwnedFrames;
use crate::hal::Hal;
use crate::space::{Backend, Region};
use crate::table::{Refused, Supplier, Table};

/// Where the contents of [`map_paged`](crate::AddrSpace::map_paged) regions come from and go to: a file, a compressed
/// store, the host that a guest is moving away from (post-copy migration). The frames are the space's own; a pager only
/// copies.
///
/// A space's [`CustomBackend`] names its pager; one that is nothing but a pager is a [`PagerBackend`].
///
/// ```
/// use slat::{BackendError, BackendPage, PAGE_SIZE, Pager};
/// use std::{collections::HashMap, sync::Mutex};
///
/// /// Pages that are not in use, by their offset.
/// #[derive(Default)]
/// struct Swap(Mutex<HashMap<u64, Vec<u8>>>);
///
/// impl Pager for Swap {
///     fn page_in(&self, page: &BackendPage, bytes: &mut [u8]) -> Result<(), BackendError> {
///         if let Some(contents) = self.0.lock().unwrap().get(&page.offset) {
///             bytes.copy_from_slice(contents); // and kept: a page that nobody has written to does not come again
///         }
///         Ok(()) // zeroes, where there is nothing yet
///     }
///
///     fn page_out(&self, page: &BackendPage, bytes: &[u8]) -> Result<(), BackendError> {
///         self.0.lock().unwrap().insert(page.offset, bytes.to_vec());
///         Ok(())
///     }
/// }
/// ```
pub trait Pager {
    /// Writes what the guest is to see in `page` to `bytes`, 4 KiB of zeroes in a frame that no CPU can see yet.
    ///
    /// Called for faults and accesses of the host, on any number of CPUs at once, also for the same page: only one of
    /// those frames becomes the guest's. So to be asked changes nothing; and as a page that the guest has not written to
    /// is given up without a [`page_out`](Self::page_out), what was once read can be asked for again.
    ///
    /// # Errors
    /// [`BackendError`]. [`BackendError::NotYet`] makes the fault end in
    /// [`FaultOutcome::Wait`](crate::FaultOutcome::Wait): let something else run until the contents are here.
    fn page_in(&self, page: &BackendPage, bytes: &mut [u8]) -> Result<(), BackendError>;

    /// Keeps the contents of `page`, `bytes` of 4 KiB, which no CPU can change any more: its frame goes back to the host.
    /// The next [`page_in`](Self::page_in) of the page is to find them.
    ///
    /// # Errors
    /// [`BackendError`]: the page stays where it is.
    fn page_out(&self, page: &BackendPage, bytes: &[u8]) -> Result<(), BackendError>;
}

impl<P: Pager + ?Sized> Pager for &P {
    fn page_in(&self, page: &BackendPage, bytes: &mut [u8]) -> Result<(), BackendError> {
        (**self).page_in(page, bytes)
    }

    fn page_out(&self, page: &BackendPage, bytes: &[u8]) -> Result<(), BackendError> {
        (**self).page_out(page, bytes)
    }
}

/// The backend of spaces that need a pager and no frames of somebody else's.
#[derive(Clone, Copy, Debug, Default)]
pub struct PagerBackend<P>(
    /// The pager.
    pub P,
);

// SAFETY: no frame is ever returned.
unsafe impl<P: Pager> CustomBackend for PagerBackend<P> {
    fn take(&self, _page: &BackendPage) -> Result<HostPhysAddr, BackendError> {
        Err(BackendError::NoSuchPage)
    }

    unsafe fn give_back(&self, _page: &BackendPage, _frame: HostPhysAddr, _written: bool) {}

    fn pager(&self) -> Option<&dyn Pager> {
        Some(&self.0)
    }
}

/// The page of a paged region around `gpa`, which lies in it.
pub(in crate::space) fn paged_page(region: &Region, gpa: GuestPhysAddr) -> Option<BackendPage> {
    let Backend::Paged { source, offset } = region.backend else { return None };
    let gpa = gpa.align_down(PAGE_SIZE);
    let inside = gpa.checked_offset_from(region.range.start())?;
    Some(BackendPage { source, offset: offset + inside, gpa, flags: region.flags })
}

/// A page of a paged region that a fault needs.
pub(in crate::space) struct PageIn<'s, H: Hal, F: Format> {
    pub(in crate::space) table: &'s Table<H, F>,
    pub(in crate::space) pager: &'s dyn Pager,
    pub(in crate::space) page: BackendPage,
}

impl<'s, H: Hal, F: Format> Supplier for PageIn<'s, H, F> {
    const OWNED: bool = true;
    type Frames = OwnedFrames<'s, H>;

    fn take(&mut self, _most: u8) -> Result<(u8, Self::Frames), Refused> {
        let mut frame = OwnedFrames::alloc_leaf(self.table.hal(), 0).ok_or(Refused::OutOfMemory)?;
        frame.zero();
        self.pager.page_in(&self.page, frame.as_mut_slice())?;
        self.table.maintain(0, frame.start(), &[CacheEvent::ToGuest(self.page.flags)]);
        Ok((0, frame))
    }

    fn start(frames: &Self::Frames) -> HostPhysAddr {
        frames.start()
    }

    fn keep(frames: Self::Frames) {
        frames.into_raw();
    }
}
