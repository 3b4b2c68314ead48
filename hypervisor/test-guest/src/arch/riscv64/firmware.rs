//! Calls of the firmware (SBI), and the console, which is one of them.

use core::arch::asm;
use core::fmt;

/// Extensions.
pub(super) const BASE: u64 = 0x10;
pub(super) const TIME: u64 = 0x5449_4d45;
pub(super) const IPI: u64 = 0x0073_5049;
pub(super) const RFENCE: u64 = 0x5246_4e43;
pub(super) const HSM: u64 = 0x0048_534d;
pub(super) const DBCN: u64 = 0x4442_434e;
const SRST: u64 = 0x5352_5354;

/// Types of a system reset.
pub(super) const SHUTDOWN: u64 = 0;
pub(super) const COLD_REBOOT: u64 = 1;

/// Errors.
pub(super) const NOT_SUPPORTED: i64 = -2;

/// Calls the firmware; what it returns in a0 and a1.
pub(super) fn call(extension: u64, function: u64, arguments: [u64; 5]) -> (i64, u64) {
    let [a0, a1, a2, a3, a4] = arguments;
    let (error, value): (i64, u64);
    // SAFETY: the firmware changes no registers but a0 and a1 and, apart from what a call is for, no memory.
    unsafe {
        asm!("ecall", inlateout("a0") a0 => error, inlateout("a1") a1 => value, in("a2") a2, in("a3") a3,
             in("a4") a4, in("a6") function, in("a7") extension, options(nostack));
    }
    (error, value)
}

/// Ends the machine.
pub(super) fn system_reset(kind: u64) -> ! {
    call(SRST, 0, [kind, 0, 0, 0, 0]);
    loop {
        // SAFETY: waits; changes nothing.
        unsafe { asm!("wfi", options(nostack)) };
    }
}

/// The firmware's console.
pub(super) struct Console;

impl fmt::Write for Console {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        let mut rest = text.as_bytes();
        while !rest.is_empty() {
            // Addresses are physical: translation is off.
            let (error, written) = call(DBCN, 0, [rest.len() as u64, rest.as_ptr() as u64, 0, 0, 0]);
            rest = rest.get(written as usize..).unwrap_or_default();
            if error != 0 || written == 0 {
                return Err(fmt::Error);
            }
        }
        Ok(())
    }
}
