//! A development host: no second-level translation is in use.

#![expect(unsafe_code, reason = "zeroes memory")]

use crate::hal::CacheActions;
use crate::tlb::Invalidation;

pub(crate) fn invalidate(_invalidation: &Invalidation<'_>) {}

pub(crate) fn publish() {}

pub(crate) fn maintain_cache(_start: *mut u8, _bytes: usize, _actions: CacheActions) {}

/// Zeroes `bytes` bytes from `start` on.
///
/// # Safety
/// The memory is valid for writes and nobody else uses it.
pub(crate) unsafe fn zero(start: *mut u8, bytes: usize) {
    // SAFETY: the caller's promise.
    unsafe { core::ptr::write_bytes(start, 0, bytes) };
}
