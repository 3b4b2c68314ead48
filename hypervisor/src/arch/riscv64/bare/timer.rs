//! The hart's own timer and software interrupt, which make it leave a guest or end a wait. They are never taken in
//! HS-mode, where sstatus.SIE is off.

#![expect(unsafe_code, reason = "clears a bit of sip")]

use super::registers::{probe_register, read_register, write_register};
use super::{firmware, this_hart};
use crate::arch::riscv64::registers::interrupt;
use core::arch::asm;
use core::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use slat_hv_protocol::CPUS_MAX;

/// A time that never comes.
pub(super) const NEVER: u64 = u64::MAX;

/// Whether the timer is a register (Sstc) that the firmware lets this program use.
static HAS_REGISTER: AtomicBool = AtomicBool::new(false);

/// When the slice of time that each hart gives is over.
static SLICES: [AtomicU64; CPUS_MAX] = [const { AtomicU64::new(NEVER) }; CPUS_MAX];

/// Looks what there is; to be called before anything else here. Whether a guest may have a timer register too.
pub(super) fn find() -> bool {
    let found = probe_register!("stimecmp").is_some();
    HAS_REGISTER.store(found, Ordering::Relaxed);
    found
}

/// Both interrupts of this hart may end a wait from now on, and come out of guests.
pub(super) fn enable() {
    set(NEVER);
    write_register!("sie", interrupt::SOFTWARE | interrupt::TIMER);
}

/// What time it is.
pub(super) fn now() -> u64 {
    read_register!("time")
}

/// The timer fires at `time`, and not before; it is not pending until then.
pub(super) fn set(time: u64) {
    if HAS_REGISTER.load(Ordering::Relaxed) {
        write_register!("stimecmp", time);
    } else {
        // Firmware without a timer does not exist: SBI 0.2 has one, and before there was no HSM either.
        let _ = firmware::set_timer(time);
    }
}

/// The slice of time that this hart gives is over at `time`, when the timer fires.
pub(super) fn preempt_at(time: u64) {
    if let Some(slice) = SLICES.get(this_hart()) {
        slice.store(time, Ordering::Relaxed);
    }
    set(time);
}

/// The timer fires at `time` or when the slice is over, whatever comes first.
pub(super) fn set_within_slice(time: u64) {
    set(time.min(slice()));
}

/// Whether the slice is over.
pub(super) fn is_slice_over() -> bool {
    now() >= slice()
}

fn slice() -> u64 {
    SLICES.get(this_hart()).map_or(NEVER, |slice| slice.load(Ordering::Relaxed))
}

/// The software interrupt is not pending any more.
pub(super) fn acknowledge_software() {
    // SAFETY: clears the pending bit of an interrupt that only this program looks at.
    unsafe { asm!("csrc sip, {}", in(reg) interrupt::SOFTWARE, options(nostack)) };
}
