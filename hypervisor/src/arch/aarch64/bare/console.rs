//! The serial port, which the guest shares.
//!
//! Invariant: while a CPU has claimed it no other one writes, so that a line is never cut by another line of the
//! hypervisor's.

#![expect(unsafe_code, reason = "drives the PL011")]

use crate::arch::aarch64::platform::UART;
use core::fmt;
use spin::{Mutex, MutexGuard};

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

/// Held by the CPU that writes.
static CLAIMED: Mutex<()> = Mutex::new(());

/// The hypervisor's end of the serial port.
pub(super) struct Console {
    /// `None` if the one that had claimed it never let it go: then it has failed, perhaps on this very CPU.
    _claim: Option<MutexGuard<'static, ()>>,
}

impl Console {
    /// Takes the port over from the guest, whatever that made of it.
    pub(super) fn claim() -> Self {
        let mut console = Self { _claim: (0..PATIENCE).find_map(|_| CLAIMED.try_lock()) };
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

    /// Waits until all that was written is sent.
    pub(super) fn drain(&mut self) {
        self.wait_while(FLAG_BUSY);
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
