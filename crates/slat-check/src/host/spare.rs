//! RAM that a host has done with, for the next one of this thread: short sequences would spend most of their time on
//! getting theirs. **Invariant:** it is zeroed, as new RAM is.

use super::FIRST_FRAME;
use slat::PAGE_SIZE;
use slat_model::Ram;
use std::cell::RefCell;
use std::sync::atomic::Ordering;

thread_local! {
    static SPARE: RefCell<Option<Ram>> = const { RefCell::new(None) };
}

/// Zeroed RAM of so many bytes at [`FIRST_FRAME`].
pub(super) fn take(bytes: u64) -> Ram {
    let spare = SPARE.take().filter(|ram| ram.bytes() == bytes);
    spare.unwrap_or_else(|| Ram::new(FIRST_FRAME, bytes))
}

/// Keeps RAM of which the first `used` frames may have been written.
pub(super) fn put(ram: Ram, used: usize) {
    for word in &ram.words()[..used * (PAGE_SIZE / 8) as usize] {
        word.store(0, Ordering::Relaxed);
    }
    SPARE.set(Some(ram));
}
