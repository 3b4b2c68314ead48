//! New code: what the hypervisor has put into memory that a guest can execute has to be fetched from there by every hart, and not from
//! its instruction cache, which stores do not reach (unprivileged manual, "Zifencei").
//!
//! A hart that has no table of this guest loaded executes its FENCE.I when it loads one; one that has is told by the firmware, and the
//! page is not mapped before it has done so. **Nobody is missed:** a hart says what it loads and looks then whether there is new code;
//! whoever has new code says so and looks then who has what loaded. All of these are sequentially consistent.

#![expect(unsafe_code, reason = "executes FENCE.I")]

use super::{fail, firmware, this_hart};
use core::arch::asm;
use core::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use slat_hv_protocol::CPUS_MAX;

/// What each hart has in hgatp.
static LOADED: [AtomicU64; CPUS_MAX] = [const { AtomicU64::new(0) }; CPUS_MAX];

/// Whether there is code that each hart may not see yet.
static IS_STALE: [AtomicBool; CPUS_MAX] = [const { AtomicBool::new(false) }; CPUS_MAX];

/// This hart loads `hgatp`, 0 for none.
pub(super) fn load(hgatp: u64) {
    let hart = this_hart();
    if let (Some(loaded), Some(is_stale)) = (LOADED.get(hart), IS_STALE.get(hart)) {
        loaded.store(hgatp, Ordering::SeqCst);
        if hgatp != 0 && is_stale.swap(false, Ordering::SeqCst) {
            fence_i();
        }
    }
}

/// There is new code for the guest that this hart has loaded, and nobody can reach it yet.
pub(super) fn is_new() {
    fence_i();
    let this = this_hart();
    let loaded = |hart: usize| LOADED.get(hart).map_or(0, |loaded| loaded.load(Ordering::SeqCst));
    let mut inside = 0;
    for (hart, is_stale) in IS_STALE.iter().enumerate().filter(|(hart, _)| *hart != this) {
        is_stale.store(true, Ordering::SeqCst);
        if loaded(hart) != 0 && loaded(hart) == loaded(this) {
            inside |= 1 << hart;
        }
    }
    if inside == 0 {
        return;
    }
    if let Err(error) = firmware::remote_fence_i(inside) {
        // Whatever goes on now may execute what was there before.
        fail(format_args!("the firmware does not fence harts {inside:#x}: {error:?}"));
    }
}

fn fence_i() {
    // SAFETY: a fence.
    unsafe { asm!("fence.i", options(nostack)) };
}
