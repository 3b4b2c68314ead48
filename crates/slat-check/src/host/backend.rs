//! The host as the custom backend of its spaces.

#![expect(unsafe_code, reason = "implements a backend on the model's RAM")]

use super::Host;
use crate::checks::{Check, Violation};
use crate::mistakes::Mistake;
use crate::platform::Platform;
use slat::{BackendError, BackendPage, CustomBackend, Hal, HostPhysAddr, PAGE_SIZE, Pager};

/// Pages of each source.
pub(crate) const PAGES: u64 = 1 << 30;

/// What the first word of a page holds when it is given.
pub(crate) fn contents(source: u16, offset: u64) -> u64 {
    offset.rotate_left(20) ^ u64::from(source) << 4 ^ 0x5eed_0000_0000_000d
}

// SAFETY: frames are those of the host, each given to one page until it comes back.
unsafe impl<P: Platform> CustomBackend for Host<P> {
    fn take(&self, page: &BackendPage) -> Result<HostPhysAddr, BackendError> {
        if page.offset / PAGE_SIZE >= PAGES {
            return Err(BackendError::NoSuchPage);
        }
        let frame = self.alloc_frames(1, 1).ok_or(BackendError::OutOfMemory)?;
        let shift = if self.mistake == Some(Mistake::BackendPageMixedUp) { PAGE_SIZE } else { 0 };
        self.fill(frame.as_u64(), 1, 0);
        self.ram.write(frame.as_u64(), contents(page.source, page.offset + shift));
        self.machine.borrow_mut().host_wrote(frame.as_u64()..frame.as_u64() + PAGE_SIZE);
        let is = (page.source, page.offset, page.gpa.as_u64());
        self.lent.borrow_mut().insert(frame.as_u64(), is);
        Ok(frame)
    }

    fn pager(&self) -> Option<&dyn Pager> {
        Some(self)
    }

    unsafe fn give_back(&self, page: &BackendPage, frame: HostPhysAddr, _written: bool) {
        let is = (page.source, page.offset, page.gpa.as_u64());
        let was = self.lent.borrow_mut().remove(&frame.as_u64());
        if was != Some(is) {
            let detail = format!("{frame:#x} came back as {is:x?}, and was lent as {was:x?}");
            self.report(Violation::new(Check::Allocator, detail));
        }
        // SAFETY: `take` took the frame from this host, and by the contract nothing refers to it.
        unsafe { self.dealloc_frames(frame, 1) };
    }
}

impl<P: Platform> Host<P> {
    /// Frames that are lent.
    pub(crate) fn lent(&self) -> usize {
        self.lent.borrow().len()
    }
}
