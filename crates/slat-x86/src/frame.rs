//! Frames of the host that give themselves back: VMXON regions, VMCSs, VMCBs, bitmaps, logs.

#![expect(unsafe_code, reason = "gives frames back to the host, and reaches their memory")]

use slat::{Hal, HostPhysAddr, HostPhysRange, PAGE_SIZE};

/// A run of frames that belongs to whoever holds this; dropping it gives the frames back.
#[derive(Debug)]
pub(crate) struct Frames<H: Hal> {
    hal: H,
    start: HostPhysAddr,
    count: usize,
}

impl<H: Hal> Frames<H> {
    /// Takes `count` contiguous frames (at least 1) and zeroes them; `None` if the host has none, or only such as it
    /// protects.
    pub(crate) fn zeroed(hal: H, count: usize) -> Option<Self> {
        let start = hal.alloc_frames(count, 1)?;
        let frames = Self { hal, start, count };
        let range = HostPhysRange::new(start, count as u64 * PAGE_SIZE).ok()?;
        if frames.hal.is_protected(range) {
            return None;
        }
        // SAFETY: the run was just taken (promise 1 of `Hal`), so the pointer is good for all of it (promise 2).
        unsafe { frames.hal.phys_to_virt(start).write_bytes(0, frames.bytes()) };
        Some(frames)
    }

    /// Where the hardware finds it.
    pub(crate) fn address(&self) -> HostPhysAddr {
        self.start
    }

    /// Where the host reaches it: valid for reads and writes of [`bytes`](Self::bytes) as long as this lives. The CPU may
    /// write there too, so no reference is to be made of it.
    pub(crate) fn pointer(&self) -> *mut u8 {
        self.hal.phys_to_virt(self.start)
    }

    /// Length in bytes.
    pub(crate) fn bytes(&self) -> usize {
        self.count * PAGE_SIZE as usize
    }

    /// Copies `bytes` to `offset`. What would end up behind the run is left out.
    pub(crate) fn write(&mut self, offset: usize, bytes: &[u8]) {
        let room = self.bytes().saturating_sub(offset);
        let length = bytes.len().min(room);
        if length == 0 {
            return;
        }
        // SAFETY: `length` bytes from `offset` on lie in the run, see above.
        let target = unsafe { self.pointer().add(offset) };
        // SAFETY: the run is ours alone, and `bytes` is no part of it.
        unsafe { target.copy_from_nonoverlapping(bytes.as_ptr(), length) };
    }

    /// The little-endian word at `offset`, a multiple of 8; 0 behind the run.
    pub(crate) fn word(&self, offset: usize) -> u64 {
        if offset % 8 != 0 || offset + 8 > self.bytes() {
            return 0;
        }
        // SAFETY: inside the run, see above.
        let word = unsafe { self.pointer().add(offset) }.cast::<u64>();
        // SAFETY: aligned, for frames are; volatile, for the CPU may write there.
        unsafe { word.read_volatile() }
    }

    /// Writes the word at `offset`, a multiple of 8; nothing behind the run.
    pub(crate) fn set_word(&mut self, offset: usize, value: u64) {
        if offset % 8 != 0 || offset + 8 > self.bytes() {
            return;
        }
        // SAFETY: inside the run, see above.
        let word = unsafe { self.pointer().add(offset) }.cast::<u64>();
        // SAFETY: aligned, for frames are; volatile, for the CPU may read there.
        unsafe { word.write_volatile(value) };
    }
}

impl<H: Hal> Drop for Frames<H> {
    fn drop(&mut self) {
        // SAFETY: taken from this very host in `zeroed`; whoever held this told the hardware to leave it alone.
        unsafe { self.hal.dealloc_frames(self.start, self.count) };
    }
}

#[cfg(all(test, not(loom)))]
mod tests;
