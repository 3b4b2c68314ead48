//! The trace of a run: a ring of `slat::trace`, as it lies in the machine's memory, with events of slat-hv's own between those of
//! the library.

/// Code of the event that tells how many frames of the pool are in use: that number first, then how many were taken until
/// then.
pub const FRAMES: u8 = 1;

/// Whenever so many frames more or less are in use than were told last, they are told again.
pub const FRAMES_STEP: u64 = 64;
