//! The serial port, which the guest shares.
//!
//! Invariant: while a CPU has claimed it no other one writes, so that a line is never cut by another line of the
//! hypervisor's.

#![expect(unsafe_code, reason = "drives the PL011")]

use crate::arch::aarch64::platform::UART;
use crate::monitor::terminal::Terminal;
use crate::run::SharedRegisters;
use alloc::string::ToString;
use core::fmt;
use core::sync::atomic::{AtomicBool, Ordering};
use slat::device::AccessWidth;
use slat_hv_protocol::Message;
use slat_hv_protocol::monitor::{ESCAPE, Told};
use spin::{Mutex, MutexGuard};

// Offsets of the PL011's registers (Arm DDI 0183, "Summary of registers").
const DATA: u64 = 0x000;
const FLAGS: u64 = 0x018;
const CONTROL: u64 = 0x030;

/// Interrupt mask.
const INTERRUPTS: u64 = 0x038;

/// Nothing was received.
const FLAG_EMPTY: u32 = 1 << 4;
const FLAG_BUSY: u32 = 1 << 3;
const FLAG_TRANSMIT_FULL: u32 = 1 << 5;
/// Enabled, transmitter and receiver on, no loop-back.
const CONTROL_ON: u32 = 1 << 9 | 1 << 8 | 1;
/// The interrupts for what was received: at a level of the FIFO, and after a time.
const ON_RECEIVED: u32 = 1 << 6 | 1 << 4;
/// Polls of the flags before the port is taken for dead: seconds on any machine.
const PATIENCE: u32 = 10_000_000;

/// The guest has read [`ESCAPE`], and was given a zero instead.
static CALLED: AtomicBool = AtomicBool::new(false);

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

/// The port as the monitor and its guest use it. While the guest has asked for an interrupt when something comes, it is the one that
/// reads it, and [`ESCAPE`] is found there.
pub(super) struct Keys;

impl Terminal for Keys {
    fn poll(&self) -> Option<u8> {
        if CALLED.swap(false, Ordering::AcqRel) {
            return Some(ESCAPE);
        }
        if read(INTERRUPTS) & ON_RECEIVED != 0 { None } else { self.take() }
    }

    fn take(&self) -> Option<u8> {
        // Above the byte are the errors of the line.
        (read(FLAGS) & FLAG_EMPTY == 0).then(|| read(DATA) as u8)
    }

    fn tell(&self, text: &str, open: bool) {
        super::say(&Message::Monitor(Told { text: text.to_string(), open }));
    }
}

impl SharedRegisters for Keys {
    fn read(&self, offset: u64, width: AccessWidth) -> u64 {
        // The registers are words, of which a narrower access has a part.
        let value = u64::from(read(offset & !3)) >> (8 * (offset & 3)) & width.mask();
        if offset == DATA && value as u8 == ESCAPE {
            CALLED.store(true, Ordering::Release);
            return 0;
        }
        value
    }

    fn write(&self, offset: u64, width: AccessWidth, value: u64) {
        // No register of the PL011 is written in parts.
        if offset % 4 == 0 {
            write(offset, (value & width.mask()) as u32);
        }
    }
}

fn read(offset: u64) -> u32 {
    // SAFETY: a register of the PL011, which the identity table maps as device memory; reading one has no
    // effect on memory.
    unsafe { ((UART.address + offset) as *const u32).read_volatile() }
}

fn write(offset: u64, value: u32) {
    // SAFETY: a register of the PL011, which the identity table maps as device memory; it does no DMA.
    unsafe { ((UART.address + offset) as *mut u32).write_volatile(value) }
}
