//! The serial port COM1, which the guest shares.
//!
//! Invariant: while a CPU has claimed it no other one writes, so that a line is never cut by another line of the
//! hypervisor's. What the guest had set in the line control register is there again when the claim ends.

use super::port::{inb, outb};
use crate::arch::x86_64::platform::COM1;
use crate::monitor::terminal::Terminal;
use alloc::string::ToString;
use core::fmt;
use core::sync::atomic::{AtomicBool, Ordering};
use slat_hv_protocol::Message;
use slat_hv_protocol::monitor::{ESCAPE, Told};
use spin::{Mutex, MutexGuard};

// Registers of a 16550 (PC16550D data sheet, "Registers"), as distances from the first port.
const DATA: u16 = 0;
const INTERRUPT_ENABLE: u16 = 1;
const FIFO_CONTROL: u16 = 2;
const LINE_CONTROL: u16 = 3;
const MODEM_CONTROL: u16 = 4;
const LINE_STATUS: u16 = 5;

/// 8 data bits, no parity, one stop bit; the divisor is not accessible.
const LINE_8N1: u8 = 3;
/// The divisor takes the place of the first two registers.
const LINE_DIVISOR: u8 = 1 << 7;
/// 115,200 baud.
const DIVISOR: [u8; 2] = [1, 0];
/// FIFOs on and empty.
const FIFOS: u8 = 7;
/// DTR and RTS.
const READY: u8 = 3;
/// A byte was received.
const STATUS_RECEIVED: u8 = 1;
/// The interrupt for that.
const ON_RECEIVED: u8 = 1;
/// There is room for a byte.
const STATUS_ROOM: u8 = 1 << 5;
/// Everything is sent.
const STATUS_EMPTY: u8 = 1 << 6;
/// Polls of the status before the port is taken for dead: seconds on any machine.
const PATIENCE: u32 = 10_000_000;

/// The guest has read [`ESCAPE`], and was given a zero instead.
static CALLED: AtomicBool = AtomicBool::new(false);

/// Held by the CPU that writes.
static CLAIMED: Mutex<()> = Mutex::new(());

/// The hypervisor's end of the serial port.
pub(super) struct Console {
    /// `None` if the one that had claimed it never let it go: then it has failed, perhaps on this very CPU.
    _claim: Option<MutexGuard<'static, ()>>,
    /// The guest's line control register.
    line_control: u8,
}

/// Sets the port up, before anybody has used it.
pub(super) fn set_up() {
    let [low, high] = DIVISOR;
    let values = [
        (LINE_CONTROL, LINE_DIVISOR | LINE_8N1),
        (DATA, low),
        (INTERRUPT_ENABLE, high),
        (LINE_CONTROL, LINE_8N1),
        (INTERRUPT_ENABLE, 0),
        (FIFO_CONTROL, FIFOS),
        (MODEM_CONTROL, READY),
    ];
    for (register, value) in values {
        outb(COM1 + register, value);
    }
}

/// The port as the monitor uses it. While the guest has asked for an interrupt when something comes, it is the one that reads it, and
/// [`ESCAPE`] is found there.
pub(super) struct Keys;

impl Terminal for Keys {
    fn poll(&self) -> Option<u8> {
        if CALLED.swap(false, Ordering::AcqRel) {
            return Some(ESCAPE);
        }
        // The guest may be about to set the divisor, on another CPU too: nothing is changed about that.
        let guests =
            inb(COM1 + LINE_CONTROL) & LINE_DIVISOR != 0 || inb(COM1 + INTERRUPT_ENABLE) & ON_RECEIVED != 0;
        if guests { None } else { received() }
    }

    fn take(&self) -> Option<u8> {
        let _console = Console::claim();
        received()
    }

    fn tell(&self, text: &str, open: bool) {
        super::say(&Message::Monitor(Told { text: text.to_string(), open }));
    }
}

/// The next byte that was received. The divisor is not accessible.
fn received() -> Option<u8> {
    (inb(COM1 + LINE_STATUS) & STATUS_RECEIVED != 0).then(|| inb(COM1 + DATA))
}

/// What a guest gets that reads `value` from `port`, which is intercepted.
pub(super) fn seen(port: u16, value: u32) -> u32 {
    // Where the divisor is, no byte is read.
    let is_data = port == COM1 + DATA && inb(COM1 + LINE_CONTROL) & LINE_DIVISOR == 0;
    if is_data && value == u32::from(ESCAPE) {
        CALLED.store(true, Ordering::Release);
        return 0;
    }
    value
}

impl Console {
    /// Takes the port over from the guest, whatever that made of it.
    pub(super) fn claim() -> Self {
        let claim = (0..PATIENCE).find_map(|_| CLAIMED.try_lock());
        let console = Self { _claim: claim, line_control: inb(COM1 + LINE_CONTROL) };
        outb(COM1 + LINE_CONTROL, LINE_8N1);
        console
    }

    fn wait_for(&mut self, status: u8) {
        for _ in 0..PATIENCE {
            if inb(COM1 + LINE_STATUS) & status != 0 {
                return;
            }
        }
    }

    /// Waits until all that was written is sent.
    pub(super) fn drain(&mut self) {
        self.wait_for(STATUS_EMPTY);
    }
}

impl Drop for Console {
    fn drop(&mut self) {
        outb(COM1 + LINE_CONTROL, self.line_control);
    }
}

impl fmt::Write for Console {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        for byte in text.bytes() {
            self.wait_for(STATUS_ROOM);
            outb(COM1 + DATA, byte);
        }
        Ok(())
    }
}
