//! The atomics of the library. Built with `--cfg loom` they are loom's, and its tests (`loom_tests.rs`) go through all
//! interleavings of the lock-free paths, weak memory included.
//!
//! A loom atomic is larger than a word, so memory of the host that holds words is only ever reached as an array of
//! [`AtomicU64`], and made one by [`make_words`].

#![expect(unsafe_code, reason = "makes memory of the host into words")]

#[cfg(not(loom))]
pub(crate) use core::hint::spin_loop;
#[cfg(not(loom))]
pub(crate) use core::sync::atomic::{AtomicBool, AtomicU64, Ordering, fence};
#[cfg(loom)]
pub(crate) use loom::hint::spin_loop;
#[cfg(loom)]
pub(crate) use loom::sync::atomic::{AtomicBool, AtomicU64, Ordering, fence};

/// Makes `count` words of zero from `start` on.
///
/// # Safety
/// The memory is valid for writes, aligned, and nobody else uses it.
pub(crate) unsafe fn make_words(start: *mut AtomicU64, count: usize) {
    #[cfg(not(loom))]
    // SAFETY: the caller's promise; zeroes are atomics with the value 0.
    unsafe {
        start.write_bytes(0, count);
    }
    #[cfg(loom)]
    for index in 0..count {
        let word = start.wrapping_add(index);
        // SAFETY: inside the memory of the caller's promise.
        unsafe { word.write(AtomicU64::new(0)) };
    }
}
