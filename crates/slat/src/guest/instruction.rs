//! The bytes of an instruction, for whoever has to emulate it.

use super::fault::GuestWalkError;
use crate::addr::GuestPhysAddr;
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

    /// Appends a byte; nothing happens if there is no room.
    pub(crate) fn push(&mut self, byte: u8) {
        if let Some(place) = self.bytes.get_mut(usize::from(self.length)) {
            *place = byte;
            self.length += 1;
        }
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
    /// It leads to `gpa`, which is in no memory: device memory, or memory of the caller's that slat cannot reach.
    #[error("the instruction at {0:#x} is in no memory")]
    NotMemory(GuestPhysAddr),
}
