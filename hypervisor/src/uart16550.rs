//! A serial port that the hypervisor emulates: National Semiconductor's 16550.
//!
//! Reference: PC16550D data sheet, "Registers". What is sent is gone at once, and what is received waits as long as it takes, however
//! much it is. No modem is there, and there is no interrupt line, so a driver polls. The FIFOs can be turned on and make no
//! difference, but that what was received can be cleared by them. That there is room to send is told as long as that is asked for.
//!
//! **Bus.** The registers are bytes side by side; every other access is a [`BusError`]: none of it reaches a register.

use crate::pl011::BusError;
use alloc::collections::VecDeque;
use alloc::vec::Vec;
use slat::device::AccessWidth;

/// Bytes that the registers take.
pub const SIZE: u64 = 8;

/// Offsets of the registers.
mod offset {
    /// Received byte, byte to send, or the low half of the divisor.
    pub(super) const DATA: u64 = 0;
    /// Or the high half of the divisor.
    pub(super) const INTERRUPT_ENABLE: u64 = 1;
    /// Read: which interrupt; written: control of the FIFOs.
    pub(super) const INTERRUPT_AND_FIFO: u64 = 2;
    pub(super) const LINE_CONTROL: u64 = 3;
    pub(super) const MODEM_CONTROL: u64 = 4;
    pub(super) const LINE_STATUS: u64 = 5;
    pub(super) const SCRATCH: u64 = 7;
}

/// Line control: the first two registers are the divisor.
const DLAB: u8 = 1 << 7;
/// Line status: a byte was received.
const DATA_READY: u8 = 1;
/// Line status: room to send, and all sent.
const THRE_TEMT: u8 = 1 << 6 | 1 << 5;
/// Interrupt enable: for what was received, and for room to send.
const ON_RECEIVED: u8 = 1;
const ON_ROOM: u8 = 1 << 1;
/// Interrupt identification: none is pending, a byte was received, there is room to send.
const NO_INTERRUPT: u8 = 1;
const RECEIVED: u8 = 0b100;
const ROOM: u8 = 0b010;
/// Control of the FIFOs: what was received is dropped; the bit does not stay.
const CLEAR_RECEIVED: u8 = 1 << 1;
/// The same: both FIFOs are on, as the control of them says by its lowest bit.
const FIFOS_ON: u8 = 0b11 << 6;

/// The port.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Uart16550 {
    interrupt_enable: u8,
    fifo_control: u8,
    line_control: u8,
    modem_control: u8,
    scratch: u8,
    divisor: [u8; 2],
    received: VecDeque<u8>,
}

impl Uart16550 {
    /// The state of the port: its registers, and what was received and not read.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        let Self { interrupt_enable, fifo_control, line_control, modem_control, scratch, divisor, received } =
            self;
        let [low, high] = *divisor;
        let registers =
            [*interrupt_enable, *fifo_control, *line_control, *modem_control, *scratch, low, high];
        registers.into_iter().chain(received.iter().copied()).collect()
    }

    /// The port that [`to_bytes`](Self::to_bytes) was called for; `None` if there is none.
    #[must_use]
    pub fn from_bytes(state: &[u8]) -> Option<Self> {
        let (registers, received) = state.split_first_chunk()?;
        let [interrupt_enable, fifo_control, line_control, modem_control, scratch, low, high] = *registers;
        let (divisor, received) = ([low, high], received.iter().copied().collect());
        Some(Self { interrupt_enable, fifo_control, line_control, modem_control, scratch, divisor, received })
    }

    /// `bytes` arrive behind those that have not been read yet.
    pub fn receive(&mut self, bytes: &[u8]) {
        self.received.extend(bytes);
    }

    /// Answers a load of `width` at `offset` bytes from the first register.
    ///
    /// # Errors
    /// [`BusError`] if that is not one register.
    pub fn read(&mut self, offset: u64, width: AccessWidth) -> Result<u64, BusError> {
        let [low, high] = self.divisor;
        let value = match register(offset, width)? {
            offset::DATA if self.is_divisor() => low,
            offset::DATA => self.received.pop_front().unwrap_or(0),
            offset::INTERRUPT_ENABLE if self.is_divisor() => high,
            offset::INTERRUPT_ENABLE => self.interrupt_enable,
            offset::INTERRUPT_AND_FIFO if self.fifo_control & 1 != 0 => self.interrupt() | FIFOS_ON,
            offset::INTERRUPT_AND_FIFO => self.interrupt(),
            offset::LINE_CONTROL => self.line_control,
            offset::MODEM_CONTROL => self.modem_control,
            offset::LINE_STATUS if self.received.is_empty() => THRE_TEMT,
            offset::LINE_STATUS => THRE_TEMT | DATA_READY,
            offset::SCRATCH => self.scratch,
            // Nobody is at the other end.
            _ => 0,
        };
        Ok(value.into())
    }

    /// Carries out a store of `value`, in `width`, at `offset` bytes from the first register; the byte that is sent, if one is.
    ///
    /// # Errors
    /// [`BusError`] if that is not one register.
    pub fn write(&mut self, offset: u64, width: AccessWidth, value: u64) -> Result<Option<u8>, BusError> {
        let value = value as u8;
        match register(offset, width)? {
            offset::DATA if self.is_divisor() => self.divisor[0] = value,
            offset::DATA => return Ok(Some(value)),
            offset::INTERRUPT_ENABLE if self.is_divisor() => self.divisor[1] = value,
            offset::INTERRUPT_ENABLE => self.interrupt_enable = value & 0xf,
            offset::INTERRUPT_AND_FIFO => {
                self.fifo_control = value;
                if value & CLEAR_RECEIVED != 0 {
                    self.received.clear();
                }
            }
            offset::LINE_CONTROL => self.line_control = value,
            offset::MODEM_CONTROL => self.modem_control = value & 0x1f,
            offset::SCRATCH => self.scratch = value,
            // Both status registers stay as they are.
            _ => {}
        }
        Ok(None)
    }

    /// The interrupt that would be pending, the most urgent one first.
    fn interrupt(&self) -> u8 {
        match self.interrupt_enable {
            enabled if enabled & ON_RECEIVED != 0 && !self.received.is_empty() => RECEIVED,
            enabled if enabled & ON_ROOM != 0 => ROOM,
            _ => NO_INTERRUPT,
        }
    }

    fn is_divisor(&self) -> bool {
        self.line_control & DLAB != 0
    }
}

/// The offset of the register that an access is for.
fn register(offset: u64, width: AccessWidth) -> Result<u64, BusError> {
    if offset < SIZE && width == AccessWidth::Byte { Ok(offset) } else { Err(BusError) }
}

#[cfg(test)]
mod tests;
