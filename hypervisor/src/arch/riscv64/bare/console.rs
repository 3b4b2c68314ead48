//! The serial port, which the firmware set up.
//!
//! The guest has none of it: what is typed comes to the hypervisor.
//!
//! Invariant: while a hart has claimed it no other one writes, so that a line is never cut by another line of the
//! hypervisor's, nor, with several guests, by one of another guest.

#![expect(unsafe_code, reason = "drives the 16550")]

use crate::arch::riscv64::platform::UART;
use crate::monitor::terminal::Terminal;
use alloc::string::ToString;
use core::fmt;
use slat_hv_protocol::Message;
use slat_hv_protocol::monitor::Told;
use spin::{Mutex, MutexGuard};

// Offsets of the 16550's registers, and bits of its line status.
const TRANSMIT: u64 = 0;
const RECEIVED: u64 = 0;
const LINE_STATUS: u64 = 5;
const DATA_READY: u8 = 1;
const TRANSMIT_READY: u8 = 1 << 5;
const TRANSMIT_EMPTY: u8 = 1 << 6;

/// Looks at the status before the port is taken for dead: seconds on any machine.
const PATIENCE: u32 = 10_000_000;

/// Held by the hart that writes.
static CLAIMED: Mutex<()> = Mutex::new(());

/// The hypervisor's end of the serial port.
pub(super) struct Console {
    /// `None` if the one that had claimed it never let it go: then it has failed, perhaps on this very hart.
    _claim: Option<MutexGuard<'static, ()>>,
}

impl Console {
    /// Takes the port.
    pub(super) fn claim() -> Self {
        Self { _claim: (0..PATIENCE).find_map(|_| CLAIMED.try_lock()) }
    }

    fn wait_for(&mut self, flag: u8) {
        for _ in 0..PATIENCE {
            if read(LINE_STATUS) & flag != 0 {
                return;
            }
        }
    }

    /// Waits until all that was written is sent.
    pub(super) fn drain(&mut self) {
        self.wait_for(TRANSMIT_EMPTY);
    }

    /// Writes `bytes` as they are.
    pub(super) fn send(&mut self, bytes: &[u8]) {
        for &byte in bytes {
            self.wait_for(TRANSMIT_READY);
            write(TRANSMIT, byte);
        }
    }
}

impl fmt::Write for Console {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        self.send(text.as_bytes());
        Ok(())
    }
}

/// The port as the monitor uses it.
pub(super) struct Keys;

impl Terminal for Keys {
    fn poll(&self) -> Option<u8> {
        self.take()
    }

    fn take(&self) -> Option<u8> {
        (read(LINE_STATUS) & DATA_READY != 0).then(|| read(RECEIVED))
    }

    fn tell(&self, text: &str, open: bool) {
        super::say(&Message::Monitor(Told { text: text.to_string(), open }));
    }
}

fn read(offset: u64) -> u8 {
    // SAFETY: a register of the 16550, which lies outside of all memory; reading one of these has no effect but that a received byte is
    // taken out.
    unsafe { ((UART + offset) as *const u8).read_volatile() }
}

fn write(offset: u64, value: u8) {
    // SAFETY: a register of the 16550, which lies outside of all memory; it does no DMA.
    unsafe { ((UART + offset) as *mut u8).write_volatile(value) }
}
