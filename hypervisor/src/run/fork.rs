//! Guests that begin as forks of another one.

use super::uart::Uart;
use super::{Books, Machine};
use crate::cpus::Cpus;
use crate::pool::Host;
use alloc::string::{String, ToString};
use slat::format::Format;
use slat::{Census, GuestPhysAddr, PAGE_SIZE};
use slat_hv_protocol::pause::OwnFrames;
use spin::{Mutex, RwLock};

impl<'a, H: Host, F: Format> Machine<'a, H, F> {
    /// A place for a fork of this guest, whose CPUs are to be `cpus`: a machine without memory, which nobody may run until it
    /// [has some](Self::fork_into).
    pub fn place(&self, cpus: &'a Cpus) -> Self {
        Self {
            space: RwLock::new(None),
            cpus,
            job: self.job.clone(),
            ram_options: self.ram_options,
            churn: None,
            paging: None,
            books: Books::new(cpus.count()),
            uart: Mutex::default(),
            calls: Mutex::default(),
            reclaim: self.reclaim,
            number: None,
            end: Mutex::new(None),
            faults: Mutex::default(),
            monitor: Mutex::default(),
        }
    }

    /// Makes `child`, a [place](Self::place), a fork of this guest, none of whose vCPUs is on a hart: with its memory, the states of
    /// its CPUs and of its serial port. How long the library took for the space, by `clock`.
    ///
    /// # Errors
    /// One line; nothing has changed then.
    pub fn fork_into(&self, child: &Self, clock: impl Fn() -> u64) -> Result<u64, String>
    where
        H: Clone,
    {
        let took = {
            let mut space = self.space.write();
            let space = space.as_mut().ok_or("the guest has ended")?;
            let begin = clock();
            // The tag is given when a hart first enters the space.
            let fork = space.fork(0).map_err(|error| error.to_string())?;
            let took = clock().saturating_sub(begin);
            *child.space.write() = Some(fork);
            took
        };
        child.take_devices(self);
        Ok(took)
    }

    /// The serial port and the power of the CPUs become those of `original`.
    pub(super) fn take_devices(&self, original: &Self) {
        *self.uart.lock() = Uart::new(original.uart.lock().port().clone());
        self.cpus.take_after(original.cpus);
    }

    /// Types `text` on the guest's serial port, where that can receive anything.
    pub fn type_in(&self, text: &str) {
        self.uart.lock().type_in(text.as_bytes());
    }

    /// The first page of the guest's RAM, of those that are there, that begins with `text`.
    pub fn page_with(&self, text: &str) -> Option<GuestPhysAddr> {
        let space = self.space.read();
        let space = space.as_ref()?;
        let mut begin = alloc::vec![0; text.len()];
        let mut pages = (0..self.job.memory).step_by(PAGE_SIZE as usize);
        let ram = GuestPhysAddr::new(self.job.ram);
        pages.find_map(|offset| {
            let page = ram.checked_add(offset).filter(|page| space.translate(*page).is_some())?;
            space.read(page, &mut begin).ok().filter(|()| begin == text.as_bytes()).map(|()| page)
        })
    }

    /// The mistake of [`Mistake::SharedFrame`](slat_hv_protocol::Mistake::SharedFrame) in a fork: what both write to the page that
    /// begins with `text` is in one frame.
    ///
    /// # Errors
    /// One line, also if there is no such page.
    pub fn share_with_fork(&self, fork: &Self, text: &str) -> Result<(), String> {
        let page = self.page_with(text).ok_or("there is no page to be shared")?;
        {
            let space = self.space.read();
            let space = space.as_ref().ok_or("the guest has ended")?;
            // What is written to becomes this one's own.
            let mut byte = [0];
            let written = space.read(page, &mut byte).and_then(|()| space.write(page, &byte));
            written.map_err(|error| error.to_string())?;
        }
        self.share_page_with(fork, page.as_u64())
    }

    /// What is this guest's alone now.
    pub fn own_frames(&self) -> OwnFrames {
        self.space.read().as_ref().map_or(OwnFrames::default(), |space| own(&space.stats().table))
    }
}

/// What is one guest's alone, of a table with these counts.
fn own(table: &Census) -> OwnFrames {
    OwnFrames { tables: table.table_frames, memory: table.owned_frames }
}

#[cfg(test)]
mod tests;
