//! Frames that a user's own backend gives for a fault.

#![expect(unsafe_code, reason = "gives frames back to the backend")]

use super::{BackendPage, CustomBackend};
use crate::addr::{GuestPhysAddr, HostPhysAddr, HostPhysRange, PAGE_SIZE};
use crate::format::{CacheEvent, Format};
use crate::hal::Hal;
use crate::space::{Backend, Region};
use crate::table::{Refused, Supplier, Table};

/// The page of a custom region around `gpa`, which lies in it.
pub(in crate::space) fn page_of(region: &Region, gpa: GuestPhysAddr) -> Option<BackendPage> {
    let gpa = gpa.align_down(PAGE_SIZE);
    let inside = gpa.checked_offset_from(region.range.start())?;
    let Backend::Custom { source, offset } = region.backend else { return None };
    Some(BackendPage { source, offset: offset + inside, gpa, flags: region.flags })
}

/// The pages of a custom backend as a source of frames.
pub(in crate::space) struct Custom<'s, H: Hal, F: Format, B: CustomBackend> {
    pub(in crate::space) table: &'s Table<H, F>,
    pub(in crate::space) backend: &'s B,
    pub(in crate::space) page: BackendPage,
}

/// A frame that the backend gave, and gets back if no leaf comes of it.
pub(in crate::space) struct Given<'s, B: CustomBackend> {
    backend: &'s B,
    page: BackendPage,
    frame: HostPhysAddr,
}

impl<B: CustomBackend> Drop for Given<'_, B> {
    fn drop(&mut self) {
        // SAFETY: `take` of this backend returned the frame for this page, and no table ever named it.
        unsafe { self.backend.give_back(&self.page, self.frame, false) };
    }
}

impl<'s, H: Hal, F: Format, B: CustomBackend> Supplier for Custom<'s, H, F, B> {
    const OWNED: bool = false;
    type Frames = Given<'s, B>;

    fn take(&mut self, _most: u8) -> Result<(u8, Self::Frames), Refused> {
        let frame = self.backend.take(&self.page)?;
        let given = Given { backend: self.backend, page: self.page, frame };
        let bits = self.table.format().hpa_bits();
        let possible = HostPhysRange::new(frame, PAGE_SIZE).is_ok_and(|range| {
            range.is_aligned(PAGE_SIZE)
                && frame.as_u64() >> bits == 0
                && !self.table.hal().is_protected(range)
        });
        if !possible {
            return Err(Refused::BadFrame(frame));
        }
        self.table.maintain(0, frame, &[CacheEvent::ToGuest(self.page.flags)]);
        Ok((0, given))
    }

    fn start(frames: &Self::Frames) -> HostPhysAddr {
        frames.frame
    }

    fn keep(frames: Self::Frames) {
        core::mem::forget(frames);
    }
}
