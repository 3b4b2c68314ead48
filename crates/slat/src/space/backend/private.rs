//! Copies of shared memory: what a write to a privately mapped page that is not there yet gets.

#![expect(unsafe_code, reason = "copies frames")]

use super::Shared;
use crate::addr::HostPhysAddr;
use crate::format::{CacheEvent, Format};
use crate::frame::OwnedFrames;
use crate::hal::Hal;
use crate::table::{Refused, Supplier};

/// A frame of the space's own with what the page of the shared memory holds.
pub(in crate::space) struct PrivateCopy<'s, H: Hal, F: Format>(pub(in crate::space) Shared<'s, H, F>);

impl<'s, H: Hal, F: Format> Supplier for PrivateCopy<'s, H, F> {
    const OWNED: bool = true;
    type Frames = OwnedFrames<'s, H>;

    fn take(&mut self, _most: u8) -> Result<(u8, Self::Frames), Refused> {
        let Self(shared) = self;
        let (table, flags) = (shared.table, shared.region.flags);
        let source = shared.frame()?;
        let mut copy = OwnedFrames::alloc_leaf(table.hal(), 0).ok_or(Refused::OutOfMemory)?;
        table.maintain(0, source, &[CacheEvent::FromGuest(flags.memory_type())]);
        // SAFETY: the shared memory, which the space holds, keeps the frame, of the same host.
        unsafe { copy.copy_from_live(source) };
        table.maintain(0, copy.start(), &[CacheEvent::ToGuest(flags)]);
        Ok((0, copy))
    }

    fn start(frames: &Self::Frames) -> HostPhysAddr {
        frames.start()
    }

    fn keep(frames: Self::Frames) {
        frames.into_raw();
    }
}
