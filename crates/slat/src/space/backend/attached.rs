//! The shared memories that one space maps, in a frame that is taken with the first and given back with the last.

#![expect(unsafe_code, reason = "keeps its entries in a frame of the host, and holds counted memory")]

use super::SharedId;
use super::shared::{Inner, SharedMemory};
use crate::addr::{HostPhysAddr, PAGE_SIZE};
use crate::frame::OwnedFrames;
use crate::hal::Hal;
use crate::table::OutOfMemory;
use core::ptr::NonNull;

/// Most shared memories of one space.
pub(in crate::space) const MOST: usize = PAGE_SIZE as usize / size_of::<Entry<u8>>();

/// A shared memory, and how many 4 KiB pages of it are mapped; zeroes are a free entry.
#[repr(C)]
struct Entry<I> {
    memory: Option<NonNull<I>>,
    pages: u64,
}

/// All entries of a space.
type Entries<H> = [Entry<Inner<H>>; MOST];

/// The shared memories of a space. Each entry with pages holds its memory.
pub(in crate::space) struct Attached<H: Hal> {
    frame: Option<(HostPhysAddr, NonNull<Entries<H>>)>,
    used: usize,
}

// SAFETY: as for `SharedMemory`, of which this holds any number; the frame is the space's alone.
unsafe impl<H: Hal + Send + Sync> Send for Attached<H> {}
// SAFETY: as above.
unsafe impl<H: Hal + Send + Sync> Sync for Attached<H> {}

impl<H: Hal> Attached<H> {
    pub(in crate::space) const fn new() -> Self {
        Self { frame: None, used: 0 }
    }

    /// Frames of 4 KiB that it takes: 0 or 1.
    pub(in crate::space) fn frames(&self) -> usize {
        usize::from(self.frame.is_some())
    }

    /// Calls `visit` for all frames that are for the host alone: this one, and those in which the memories keep what they
    /// know of themselves.
    pub(in crate::space) fn visit_frames(&self, visit: &mut dyn FnMut(HostPhysAddr, usize)) {
        if let Some((frame, _)) = self.frame {
            visit(frame, 1);
        }
        let memories = (0..=u16::MAX).take(self.entries().len()).filter_map(|id| self.get(SharedId(id)));
        memories.for_each(|memory| memory.visit_own_frames(visit));
    }

    fn entries(&self) -> &[Entry<Inner<H>>] {
        match &self.frame {
            // SAFETY: the frame is the space's alone, and was zeroed, which every entry can be; `&self`.
            Some((_, entries)) => unsafe { entries.as_ref() },
            None => &[],
        }
    }

    fn entries_mut(&mut self) -> &mut [Entry<Inner<H>>] {
        match &mut self.frame {
            // SAFETY: as above; `&mut self`.
            Some((_, entries)) => unsafe { entries.as_mut() },
            None => &mut [],
        }
    }

    /// The memory with this number, which some region names.
    pub(in crate::space) fn get(&self, id: SharedId) -> Option<&Inner<H>> {
        let memory = self.entries().get(usize::from(id.0))?.memory?;
        // SAFETY: an entry that is in use holds its memory, and is changed by `&mut self` only.
        Some(unsafe { memory.as_ref() })
    }

    /// Makes sure that one more memory has its place.
    pub(in crate::space) fn reserve(&mut self, hal: &H) -> Result<(), OutOfMemory> {
        if self.frame.is_none() {
            let mut frame = OwnedFrames::alloc(hal, 1, 1).ok_or(OutOfMemory)?;
            frame.zero_table();
            let start = frame.into_raw();
            let Some(entries) = NonNull::new(hal.phys_to_virt(start).cast()) else {
                unreachable!("a frame has a pointer that is not null")
            };
            self.frame = Some((start, entries));
        }
        Ok(())
    }

    /// Takes over all entries of `other`, each of which holds its memory once more. A place for them was reserved, and nothing is
    /// in it.
    pub(in crate::space) fn copy_from(&mut self, other: &Self) {
        let mut used = 0;
        for (entry, from) in self.entries_mut().iter_mut().zip(other.entries()) {
            if let Some(memory) = from.memory {
                // SAFETY: the other entry holds it.
                unsafe { memory.as_ref() }.hold();
                *entry = Entry { memory: Some(memory), pages: from.pages };
                used += 1;
            }
        }
        self.used += used;
    }

    /// Gives the frame back if nothing is in it.
    pub(in crate::space) fn trim(&mut self, hal: &H) {
        if self.used == 0 {
            if let Some((frame, _)) = self.frame.take() {
                // SAFETY: `reserve` took it from this host, and nothing in it is in use.
                unsafe { hal.dealloc_frames(frame, 1) };
            }
        }
    }

    /// The number of `memory`, or the one that it can have; `None` if all are taken. A place was reserved.
    pub(in crate::space) fn number(&self, memory: &SharedMemory<H>) -> Option<SharedId> {
        let pointer = Some(memory.inner_pointer());
        let entries = self.entries();
        let index = entries.iter().position(|entry| entry.memory == pointer);
        let index = index.or_else(|| entries.iter().position(|entry| entry.memory.is_none()))?;
        u16::try_from(index).ok().map(SharedId)
    }

    /// Counts `pages` more pages of `memory`, whose [`number`](Self::number) is `id`.
    pub(in crate::space) fn add(&mut self, id: SharedId, memory: &SharedMemory<H>, pages: u64) {
        let Some(entry) = self.entries_mut().get_mut(usize::from(id.0)) else { return };
        let fresh = entry.memory.is_none();
        if fresh {
            let pointer = memory.inner_pointer();
            // SAFETY: the handle holds it.
            unsafe { pointer.as_ref() }.hold();
            entry.memory = Some(pointer);
        }
        entry.pages += pages;
        self.used += usize::from(fresh);
    }

    /// Counts `pages` pages less, which no CPU can reach any more; with the last one the memory is let go.
    pub(in crate::space) fn remove(&mut self, id: SharedId, pages: u64) {
        let Some(entry) = self.entries_mut().get_mut(usize::from(id.0)) else { return };
        entry.pages -= pages;
        if entry.pages > 0 {
            return;
        }
        if let Some(memory) = entry.memory.take() {
            self.used -= 1;
            // SAFETY: the entry held it and is free now; by the caller no CPU can reach a frame through this space.
            unsafe { Inner::let_go(memory) };
        }
    }
}
