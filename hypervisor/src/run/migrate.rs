//! A guest that moves to another space while it works: pre-copy by the log of what it writes to.

use super::{Machine, Space, map};
use crate::pool::Host;
use alloc::string::{String, ToString};
use alloc::vec::Vec;
use slat::format::Format;
use slat::{GuestPhysAddr, GuestPhysRange, LogUnit, PAGE_SIZE};

impl<'a, H: Host, F: Format> Machine<'a, H, F> {
    /// Begins to move this guest to `place`, a [place](Self::place) that gets `space`, which is empty: from now on what it writes to is
    /// logged, and all that is there is copied. The number of pages of 4 KiB.
    ///
    /// None of the guest's vCPUs is on a hart, here and in the other functions; in between it goes on.
    ///
    /// # Errors
    /// One line.
    pub fn begin_move(&self, place: &Self, mut space: Space<'a, H, F>) -> Result<u64, String> {
        map(&mut space, &place.job, place.ram_options).map_err(|error| error.to_string())?;
        *place.space.write() = Some(space);
        let mut pages = Vec::new();
        {
            let mut own = self.space.write();
            let own = own.as_mut().ok_or("the guest has ended")?;
            let (ram, size) = self.ram();
            own.start_dirty_log(ram, size, LogUnit::Page).map_err(|error| error.to_string())?;
            let all = GuestPhysRange::new(ram, size).map_err(|error| error.to_string())?;
            pages.extend(own.mappings(all).map(|mapping| mapping.range()));
        }
        self.copy(place, &pages, None)
    }

    /// Copies what the guest has written to since [`begin_move`](Self::begin_move) or the last round. The number of pages.
    ///
    /// A mistake on purpose: with `lost`, one page that begins with that text and has changed is not copied.
    ///
    /// # Errors
    /// One line; also if there is no such page.
    pub fn copy_round(&self, place: &Self, lost: Option<&str>) -> Result<u64, String> {
        let mut dirty = Vec::new();
        {
            let mut own = self.space.write();
            let own = own.as_mut().ok_or("the guest has ended")?;
            let (ram, size) = self.ram();
            // What is told may still be written to until this returns.
            own.collect_dirty(ram, size, |range| dirty.push(range)).map_err(|error| error.to_string())?;
        }
        self.copy(place, &dirty, lost)
    }

    /// What is left when all of the memory is copied: the CPUs' power and the serial port. `place` is the guest from now on, once its
    /// vCPUs have been told.
    pub fn end_move(&self, place: &Self) {
        place.take_devices(self);
    }

    /// Gives the memory of a [place](Self::place) back that nobody goes on in.
    pub fn abandon(&self) {
        drop(self.space.write().take());
    }

    fn copy(&self, place: &Self, ranges: &[GuestPhysRange], lost: Option<&str>) -> Result<u64, String> {
        let own = self.space.read();
        let own = own.as_ref().ok_or("the guest has ended")?;
        let other = place.space.read();
        let other = other.as_ref().ok_or("the other guest has ended")?;
        // What comes along with a page, and is not there yet here, is to be what it would be here.
        let to = other.memory_with(|gpa, memory| self.job.content.fill(gpa.as_u64(), memory));
        let copy = |gpa, size| own.memory().copy_to(gpa, &to, gpa, size).map_err(|error| error.to_string());
        let mut left_out = lost.is_none();
        for range in ranges {
            if left_out {
                copy(range.start(), range.size())?;
                continue;
            }
            for gpa in (range.start().as_u64()..range.end().as_u64()).step_by(PAGE_SIZE as usize) {
                let gpa = GuestPhysAddr::new(gpa);
                let (mut page, mut before) = ([0; PAGE_SIZE as usize], [0; PAGE_SIZE as usize]);
                own.read(gpa, &mut page).map_err(|error| error.to_string())?;
                to.read(gpa, &mut before).map_err(|error| error.to_string())?;
                let is_it = lost.is_some_and(|text| page.starts_with(text.as_bytes())) && page != before;
                if is_it && !left_out {
                    left_out = true;
                } else {
                    copy(gpa, PAGE_SIZE)?;
                }
            }
        }
        if !left_out {
            return Err("there is no page to be left out".to_string());
        }
        Ok(ranges.iter().map(|range| range.size() / PAGE_SIZE).sum())
    }

    fn ram(&self) -> (GuestPhysAddr, u64) {
        (GuestPhysAddr::new(self.job.ram), self.job.memory)
    }
}

#[cfg(test)]
mod tests;
