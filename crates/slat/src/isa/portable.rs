//! Zeroing where the machine has no special way.

#![expect(unsafe_code, reason = "zeroes memory")]

/// Zeroes `bytes` bytes from `start` on.
///
/// # Safety
/// The memory is valid for writes and nobody else uses it.
pub unsafe fn zero(start: *mut u8, bytes: usize) {
    // SAFETY: the caller's promise.
    unsafe { core::ptr::write_bytes(start, 0, bytes) };
}
