//! What the guest finds in its physical address space.

use alloc::vec::Vec;

/// A device that the guest drives by itself: its registers are mapped one to one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Device {
    /// Name, for messages.
    pub name: &'static str,
    /// First address, guest-physical and host physical.
    pub address: u64,
    /// Length in bytes.
    pub size: u64,
}

/// What lies in guest RAM when the guest begins: pieces of bytes at guest-physical addresses, zeroes elsewhere.
#[derive(Clone, Debug, Default)]
pub struct Content<'a> {
    pieces: Vec<(u64, &'a [u8])>,
}

impl<'a> Content<'a> {
    /// Adds `bytes` at `gpa`. Where pieces overlap, the later one wins.
    pub fn add(&mut self, gpa: u64, bytes: &'a [u8]) {
        self.pieces.push((gpa, bytes));
    }

    /// Copies whatever lies at `gpa` and behind it into `memory`, which is zeroed.
    pub fn fill(&self, gpa: u64, memory: &mut [u8]) {
        for &(start, bytes) in &self.pieces {
            // The distance from the one start to the other, whichever comes first, is skipped in the earlier one.
            let skip = |from: u64, to: u64| usize::try_from(to.saturating_sub(from)).unwrap_or(usize::MAX);
            let source = bytes.get(skip(start, gpa)..).unwrap_or_default();
            let target = memory.get_mut(skip(gpa, start)..).unwrap_or_default();
            let length = target.len().min(source.len());
            if let (Some(target), Some(source)) = (target.get_mut(..length), source.get(..length)) {
                target.copy_from_slice(source);
            }
        }
    }
}

#[cfg(test)]
mod tests;
