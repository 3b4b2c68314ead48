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

macro_rules! access {
    ($input:ident, $output:ident, $register:literal) => {
        /// Reads on behalf of a guest.
        pub(super) fn $input(port: u16) -> u32 {
            let value;
            // SAFETY: the port is one that the hypervisor leaves to its guest. What devices do to memory by DMA nobody limits: a
            // guest that drives devices by itself is trusted with them.
            unsafe {
                asm!(concat!("in ", $register, ", dx"), in("dx") port, inout("eax") 0_u32 => value,
                    options(nostack, preserves_flags));
            }
            value
        }

        /// Writes on behalf of a guest.
        pub(super) fn $output(port: u16, value: u32) {
            // SAFETY: as above.
            unsafe {
                asm!(concat!("out dx, ", $register), in("dx") port, in("eax") value,
                    options(nostack, preserves_flags));
            }
        }
    };
}
access!(input_8, output_8, "al");
access!(input_16, output_16, "ax");
access!(input_32, output_32, "eax");
