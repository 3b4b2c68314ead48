//! The page-modification log: the CPU notes each page whose dirty flag it sets (SDM vol. 3C, "Page-Modification Logging").

use super::super::controls::secondary;
use super::super::field::{self, read, write};
use super::super::instructions::{Instructions, VmxError};
use super::{VmxVcpu, failed};
use crate::frame::Frames;
use crate::vcpu::RunError;
use slat::{GuestPhysAddr, Hal};
use thiserror::Error;

/// Entries of the log; the CPU begins with the last one.
const ENTRIES: u16 = 512;

/// Why there is no log.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum LogError {
    /// The CPU offers none ([`Capabilities::modification_log`](super::Capabilities::modification_log)).
    #[error("the CPU logs no modified pages")]
    NotOffered,
    /// The host has no frame left.
    #[error("out of memory for the page-modification log")]
    OutOfMemory,
    /// The vCPU is bound to another CPU, or the CPU refused a field.
    #[error(transparent)]
    Run(#[from] RunError),
}

/// The pages that the log had, the latest first.
#[derive(Debug)]
pub struct ModificationLog<'a, H: Hal> {
    log: Option<&'a Frames<H>>,
    /// The entry that is told next.
    next: u16,
}

impl<H: Hal> Iterator for ModificationLog<'_, H> {
    type Item = GuestPhysAddr;

    fn next(&mut self) -> Option<GuestPhysAddr> {
        let log = self.log.filter(|_| self.next < ENTRIES)?;
        let entry = log.word(usize::from(self.next) * 8);
        self.next += 1;
        Some(GuestPhysAddr::new(entry).align_down(slat::PAGE_SIZE))
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        let left = if self.log.is_some() { usize::from(ENTRIES.saturating_sub(self.next)) } else { 0 };
        (left, Some(left))
    }
}

impl<H: Hal> ExactSizeIterator for ModificationLog<'_, H> {}

/// The first entry that was written, if the next one would be `index`. After the last one the index wraps to FFFFH.
pub(super) const fn first_written(index: u16) -> u16 {
    let first = index.wrapping_add(1);
    if first > ENTRIES { ENTRIES } else { first }
}

impl<H: Hal, P: Instructions> VmxVcpu<H, P> {
    /// Lets the CPU note each page whose dirty flag it sets; takes a frame. The tables have to have such flags (slat's
    /// `accessed_dirty`). When the log is full the guest exits with [`Exit::ModificationLogFull`](crate::Exit::ModificationLogFull).
    ///
    /// # Errors
    /// [`LogError`]; nothing has changed then.
    pub fn enable_log(&mut self, hal: H) -> Result<(), LogError> {
        if !self.capabilities.modification_log() {
            return Err(LogError::NotOffered);
        }
        if self.bound.is_some() {
            self.here()?;
        }
        if self.log.is_none() {
            self.log = Some(Frames::zeroed(hal, 1).ok_or(LogError::OutOfMemory)?);
        }
        self.controls.secondary |= secondary::PML;
        if self.bound.is_some() {
            self.write_log().map_err(failed)?;
        }
        Ok(())
    }

    pub(super) fn write_log(&self) -> Result<(), VmxError> {
        let Some(log) = &self.log else { return Ok(()) };
        write(&self.cpu, field::PML_ADDRESS, log.address().as_u64())?;
        write(&self.cpu, field::PML_INDEX, ENTRIES - 1)?;
        write(&self.cpu, field::SECONDARY_CONTROLS, self.controls.secondary)
    }

    /// What the log has, and empties it. A page is in it once for each time that its dirty flag was set: whoever wants to hear
    /// of it again clears the flag, and invalidates. Addresses are aligned to 4 KiB, also those of larger leaves. Without a log it is
    /// empty.
    ///
    /// # Errors
    /// [`RunError::NotBound`], [`RunError::Instruction`].
    pub fn drain_log(&mut self) -> Result<ModificationLog<'_, H>, RunError> {
        if self.log.is_none() {
            return Ok(ModificationLog { log: None, next: ENTRIES });
        }
        self.here()?;
        let index = read(&self.cpu, field::PML_INDEX).map_err(failed)?;
        write(&self.cpu, field::PML_INDEX, ENTRIES - 1).map_err(failed)?;
        Ok(ModificationLog { log: self.log.as_ref(), next: first_written(index) })
    }
}
