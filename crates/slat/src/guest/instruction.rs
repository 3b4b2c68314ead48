//! The bytes of an instruction, for whoever has to emulate it.

use super::fault::GuestWalkError;
use crate::addr::{GuestPhysAddr, GuestVirtAddr, PAGE_SIZE};
use core::fmt;
use thiserror::Error;

/// The bytes at a guest's program counter: at least 1 and at most 15, as many as an x86 instruction has at the most.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct InstructionBytes {
    bytes: [u8; Self::MOST],
    length: u8,
}

impl InstructionBytes {
    /// The most bytes of an instruction.
    pub const MOST: usize = 15;

    pub(crate) const fn new() -> Self {
        Self { bytes: [0; Self::MOST], length: 0 }
    }

    /// The bytes that a CPU has kept of an instruction (AMD's decode assists); `None` for none and for more than 15.
    #[must_use]
    pub fn from_slice(bytes: &[u8]) -> Option<Self> {
        let mut found = Self::new();
        found.bytes.get_mut(..bytes.len())?.copy_from_slice(bytes);
        found.length = bytes.len() as u8;
        (!bytes.is_empty()).then_some(found)
    }

    /// Appends bytes from `pc` on, as many as its page has and as there is room for: `read` writes them.
    pub(crate) fn append_from_page<E>(
        &mut self,
        pc: GuestVirtAddr,
        read: impl FnOnce(&mut [u8]) -> Result<(), E>,
    ) -> Result<(), E> {
        let room = self.bytes.get_mut(usize::from(self.length)..).unwrap_or_default();
        let inside = (PAGE_SIZE - pc.page_offset()).min(room.len() as u64);
        read(room.get_mut(..inside as usize).unwrap_or_default())?;
        self.length += inside as u8;
        Ok(())
    }

    /// The bytes, the one at the program counter first.
    #[must_use]
    pub fn as_slice(&self) -> &[u8] {
        self.bytes.get(..self.len()).unwrap_or_default()
    }

    /// How many bytes there are.
    #[must_use]
    pub fn len(&self) -> usize {
        usize::from(self.length)
    }

    /// Whether there is none, which never comes back from [`fetch_instruction`](crate::AddrSpace::fetch_instruction).
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.length == 0
    }
}

impl fmt::Debug for InstructionBytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "InstructionBytes({:02x?})", self.as_slice())
    }
}

/// Why there are no bytes of an instruction.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum FetchError {
    /// The program counter has no translation for a fetch.
    #[error(transparent)]
    Walk(#[from] GuestWalkError),
    /// It leads to this address, where the host reads nothing: device memory, linear memory that the host has no pointer to,
    /// or memory that can be executed and not be read.
    #[error("the host reads nothing at {0:#x}")]
    NotReadable(GuestPhysAddr),
}
