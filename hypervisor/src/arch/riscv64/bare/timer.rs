//! The hart's own timer and software interrupt, which make it leave a guest or end a wait. They are never taken in
//! HS-mode, where sstatus.SIE is off.

#![expect(unsafe_code, reason = "clears a bit of sip")]

use super::firmware;
use super::registers::{probe_register, write_register};
use crate::arch::riscv64::registers::interrupt;
use core::arch::asm;
use core::sync::atomic::{AtomicBool, Ordering};

/// Whether the timer is a register (Sstc) that the firmware lets this program use.
static HAS_REGISTER: AtomicBool = AtomicBool::new(false);

/// Looks what there is; to be called before anything else here. Whether a guest may have a timer register too.
pub(super) fn find() -> bool {
    let found = probe_register!("stimecmp").is_some();
    HAS_REGISTER.store(found, Ordering::Relaxed);
    found
}

/// Both interrupts of this hart may end a wait from now on, and come out of guests.
pub(super) fn enable() {
    stop();
    write_register!("sie", interrupt::SOFTWARE | interrupt::TIMER);
}

/// The timer fires at `time`, and not before.
pub(super) fn set(time: u64) {
    if HAS_REGISTER.load(Ordering::Relaxed) {
        write_register!("stimecmp", time);
    } else {
        // Firmware without a timer does not exist: SBI 0.2 has one, and before there was no HSM either.
        let _ = firmware::set_timer(time);
    }
}

/// The timer does not fire any more, and is not pending.
pub(super) fn stop() {
    set(u64::MAX);
}

/// The software interrupt is not pending any more.
pub(super) fn acknowledge_software() {
    // SAFETY: clears the pending bit of an interrupt that only this program looks at.
    unsafe { asm!("csrc sip, {}", in(reg) interrupt::SOFTWARE, options(nostack)) };
}
