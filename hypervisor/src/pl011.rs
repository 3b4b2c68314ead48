//! A serial port that the hypervisor emulates: Arm's PL011, the transmitting half.
//!
//! Reference: Arm DDI 0183, "Programmers Model". What is sent is gone at once, and ends up in a [`Transcript`]; nothing
//! is ever received, and there is no interrupt line, so a driver polls (Linux's does, as long as there is room to
//! send). Modem lines, loopback, infrared and DMA are not modelled: their bits can be written and read back.
//!
//! **Bus.** A register is accessed as a whole, in 1, 2 or 4 bytes from its first one on; a write fills it up with zeroes.
//! Every other access is a [`BusError`]: none of it reaches a register.

use crate::transcript::Transcript;
use slat::device::AccessWidth;

/// Bytes that the registers take.
pub const SIZE: u64 = 0x1000;

/// Offsets of the registers.
mod offset {
    pub(super) const DATA: u64 = 0x000;
    pub(super) const RECEIVE_STATUS: u64 = 0x004;
    pub(super) const FLAGS: u64 = 0x018;
    pub(super) const LOW_POWER: u64 = 0x020;
    pub(super) const INTEGER_BAUD: u64 = 0x024;
    pub(super) const FRACTIONAL_BAUD: u64 = 0x028;
    pub(super) const LINE_CONTROL: u64 = 0x02c;
    pub(super) const CONTROL: u64 = 0x030;
    pub(super) const FIFO_LEVELS: u64 = 0x034;
    pub(super) const INTERRUPT_MASK: u64 = 0x038;
    pub(super) const RAW_INTERRUPTS: u64 = 0x03c;
    pub(super) const MASKED_INTERRUPTS: u64 = 0x040;
    pub(super) const INTERRUPT_CLEAR: u64 = 0x044;
    pub(super) const DMA_CONTROL: u64 = 0x048;
    pub(super) const IDENTIFICATION: u64 = 0xfe0;
}

// Flags: receive FIFO empty, transmit FIFO full, transmit FIFO empty.
const RXFE: u16 = 1 << 4;
const TXFF: u16 = 1 << 5;
const TXFE: u16 = 1 << 7;

// Control: enabled, and enabled to transmit.
const UARTEN: u16 = 1 << 0;
const TXE: u16 = 1 << 8;

/// FIFOs enabled, in the line control register.
const FEN: u16 = 1 << 4;

/// The transmit interrupt.
const TX_INTERRUPT: u16 = 1 << 5;

/// UARTPeriphID0 to 3, then UARTPCellID0 to 3, of revision r1p5.
const IDENTIFICATION: [u8; 8] = [0x11, 0x10, 0x34, 0x00, 0x0d, 0xf0, 0x05, 0xb1];

/// Bytes of the transmit FIFO of that revision.
const FIFO: usize = 32;

/// The device does not take this access.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BusError;

/// The port.
#[derive(Clone, Debug)]
pub struct Pl011 {
    low_power: u16,
    integer_baud: u16,
    fractional_baud: u16,
    line_control: u16,
    control: u16,
    fifo_levels: u16,
    interrupt_mask: u16,
    interrupts: u16,
    dma_control: u16,
    /// What waits to be sent while the port is off.
    waiting: [u8; FIFO],
    waits: usize,
    sent: Transcript,
}

impl Default for Pl011 {
    /// As after a reset.
    fn default() -> Self {
        Self {
            low_power: 0,
            integer_baud: 0,
            fractional_baud: 0,
            line_control: 0,
            control: 0x300,
            fifo_levels: 0x12,
            interrupt_mask: 0,
            interrupts: 0,
            dma_control: 0,
            waiting: [0; FIFO],
            waits: 0,
            sent: Transcript::default(),
        }
    }
}

impl Pl011 {
    /// What was sent.
    #[must_use]
    pub fn sent(&self) -> &Transcript {
        &self.sent
    }

    /// Answers a load of `width` at `offset` bytes from the first register.
    ///
    /// # Errors
    /// [`BusError`] if that is not one register.
    pub fn read(&self, offset: u64, width: AccessWidth) -> Result<u64, BusError> {
        let register = register(offset, width)?;
        let value = match register {
            offset::FLAGS => self.flags(),
            offset::LOW_POWER => self.low_power,
            offset::INTEGER_BAUD => self.integer_baud,
            offset::FRACTIONAL_BAUD => self.fractional_baud,
            offset::LINE_CONTROL => self.line_control,
            offset::CONTROL => self.control,
            offset::FIFO_LEVELS => self.fifo_levels,
            offset::INTERRUPT_MASK => self.interrupt_mask,
            offset::RAW_INTERRUPTS => self.interrupts,
            offset::MASKED_INTERRUPTS => self.interrupts & self.interrupt_mask,
            offset::DMA_CONTROL => self.dma_control,
            offset::IDENTIFICATION.. => {
                let index = (register - offset::IDENTIFICATION) / 4;
                IDENTIFICATION.get(index as usize).copied().unwrap_or(0).into()
            }
            // Nothing was received, nothing went wrong, and what is reserved reads as zero.
            _ => 0,
        };
        Ok(u64::from(value) & width.mask())
    }

    /// Carries out a store of `value`, in `width`, at `offset` bytes from the first register.
    ///
    /// # Errors
    /// [`BusError`] if that is not one register.
    pub fn write(&mut self, offset: u64, width: AccessWidth, value: u64) -> Result<(), BusError> {
        let register = register(offset, width)?;
        let value = (value & width.mask()) as u16;
        match register {
            offset::DATA => self.transmit(value as u8),
            // Clears errors of reception.
            offset::RECEIVE_STATUS => {}
            offset::LOW_POWER => self.low_power = value & 0xff,
            offset::INTEGER_BAUD => self.integer_baud = value,
            offset::FRACTIONAL_BAUD => self.fractional_baud = value & 0x3f,
            offset::LINE_CONTROL => self.line_control = value & 0xff,
            offset::CONTROL => {
                self.control = value & 0xff87;
                self.drain();
            }
            offset::FIFO_LEVELS => self.fifo_levels = value & 0x3f,
            offset::INTERRUPT_MASK => self.interrupt_mask = value & 0x7ff,
            offset::INTERRUPT_CLEAR => self.interrupts &= !value,
            offset::DMA_CONTROL => self.dma_control = value & 7,
            // Read-only and reserved registers stay as they are.
            _ => {}
        }
        Ok(())
    }

    fn flags(&self) -> u16 {
        let empty = if self.waits == 0 { TXFE } else { 0 };
        let full = if self.waits >= self.depth() { TXFF } else { 0 };
        RXFE | empty | full
    }

    /// Bytes that can wait: without its FIFOs the port has one holding register.
    fn depth(&self) -> usize {
        if self.line_control & FEN != 0 { FIFO } else { 1 }
    }

    /// Takes a byte; one that there is no room for is lost.
    fn transmit(&mut self, byte: u8) {
        if self.waits < self.depth() {
            self.waiting[self.waits] = byte;
            self.waits += 1;
        }
        self.drain();
    }

    /// Sends all that waits, if the port is on.
    fn drain(&mut self) {
        if self.control & (UARTEN | TXE) == UARTEN | TXE && self.waits > 0 {
            self.sent.add(&self.waiting[..self.waits]);
            self.waits = 0;
            self.interrupts |= TX_INTERRUPT;
        }
    }
}

/// The offset of the register that an access is for.
fn register(offset: u64, width: AccessWidth) -> Result<u64, BusError> {
    let whole = offset % 4 == 0 && offset < SIZE && width != AccessWidth::Qword;
    if whole { Ok(offset) } else { Err(BusError) }
}

#[cfg(test)]
mod tests;
