//! The recording of a run, if there is to be one.

#![expect(unsafe_code, reason = "takes over memory that the parameters describe")]

use super::this_hart;
use core::sync::atomic::AtomicU64;
use slat_hv_protocol::Span;
use slat_hv_protocol::recording::{Event, Recorder};
use spin::Once;

static RECORDER: Once<Recorder<'static>> = Once::new();

/// From now on everything is recorded in `memory`.
///
/// # Safety
/// `memory` is zeroed RAM, aligned to words, mapped one to one, and nothing else ever uses it.
pub(super) unsafe fn start(memory: Span) {
    let first = core::ptr::with_exposed_provenance::<AtomicU64>(memory.address as usize);
    // SAFETY: the caller's promise; atomic words may be shared.
    let words = unsafe { core::slice::from_raw_parts(first, memory.size as usize / 8) };
    RECORDER.call_once(|| Recorder::new(words));
}

/// Records an event of this hart.
pub(super) fn record(event: Event) {
    if let Some(recorder) = RECORDER.get() {
        recorder.record(this_hart(), event);
    }
}
