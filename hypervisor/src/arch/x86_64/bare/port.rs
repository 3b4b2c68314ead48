//! Ports of the PC that the hypervisor itself uses.

#![expect(unsafe_code, reason = "executes IN and OUT")]

use core::arch::asm;

/// Reads a byte.
pub(super) fn inb(port: u16) -> u8 {
    let value;
    // SAFETY: the ports named in this crate belong to devices that do no DMA.
    unsafe { asm!("in al, dx", in("dx") port, out("al") value, options(nomem, nostack, preserves_flags)) };
    value
}

/// Writes a byte.
pub(super) fn outb(port: u16, value: u8) {
    // SAFETY: the ports named in this crate belong to devices that do no DMA, or end the machine.
    unsafe { asm!("out dx, al", in("dx") port, in("al") value, options(nomem, nostack, preserves_flags)) };
}
