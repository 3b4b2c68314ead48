//! The serial port, which the guest shares, and the way out of the machine.

#![expect(unsafe_code, reason = "drives the PL011 and calls the firmware")]

use crate::arch::aarch64::platform::UART;
use core::arch::asm;
use core::fmt;

// Offsets of the PL011's registers (Arm DDI 0183, "Summary of registers").
const DATA: u64 = 0x000;
const FLAGS: u64 = 0x018;
const CONTROL: u64 = 0x030;

const FLAG_BUSY: u32 = 1 << 3;
const FLAG_TRANSMIT_FULL: u32 = 1 << 5;
/// Enabled, transmitter and receiver on, no loop-back.
const CONTROL_ON: u32 = 1 << 9 | 1 << 8 | 1;
/// Polls of the flags before the port is taken for dead: seconds on any machine.
const PATIENCE: u32 = 10_000_000;

/// PSCI SYSTEM_OFF.
const SYSTEM_OFF: u64 = 0x8400_0008;

/// The hypervisor's end of the serial port.
pub(super) struct Console;

impl Console {
    /// Takes the port over from the guest, whatever that made of it.
    pub(super) fn claim() -> Self {
        let mut console = Self;
        console.wait_while(FLAG_BUSY);
        write(CONTROL, CONTROL_ON);
        console
    }

    fn wait_while(&mut self, flag: u32) {
        for _ in 0..PATIENCE {
            if read(FLAGS) & flag == 0 {
                return;
            }
        }
    }
}

impl fmt::Write for Console {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        for byte in text.bytes() {
            self.wait_while(FLAG_TRANSMIT_FULL);
            write(DATA, byte.into());
        }
        Ok(())
    }
}

fn read(offset: u64) -> u32 {
    // SAFETY: a register of the PL011, which the identity table maps as device memory; reading these has no effect.
    unsafe { ((UART.address + offset) as *const u32).read_volatile() }
}

fn write(offset: u64, value: u32) {
    // SAFETY: a register of the PL011, which the identity table maps as device memory; it does no DMA.
    unsafe { ((UART.address + offset) as *mut u32).write_volatile(value) }
}

/// Sends what is still in the serial port, then ends the machine.
pub(super) fn power_off() -> ! {
    Console.wait_while(FLAG_BUSY);
    // SAFETY: SYSTEM_OFF has no effect on memory; if it returned, the loop below would not be left.
    unsafe { asm!("dsb sy", "smc #0", in("x0") SYSTEM_OFF, clobber_abi("C"), options(nomem, nostack)) };
    loop {
        // SAFETY: waits; changes nothing.
        unsafe { asm!("wfi", options(nomem, nostack, preserves_flags)) };
    }
}
