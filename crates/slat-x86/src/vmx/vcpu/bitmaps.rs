//! The bitmaps that say which accesses exit: a set bit exits (SDM vol. 3C, "I/O-Bitmap Addresses", "MSR-Bitmap Address").

use crate::frame::Frames;
use crate::msr;
use crate::port::Intercepted;
use slat::Hal;

/// Registers of each half of the MSR bitmap, from 0 and from C000_0000H on. All others always exit.
const HALF: u32 = 0x2000;

/// Fills the page of the MSR bitmap: reads of the lower half, reads of the upper, writes of the lower, writes of the upper, 1
/// KiB each.
pub(super) fn fill_msrs<H: Hal>(page: &mut Frames<H>, passes: impl Fn(u32, bool) -> bool) {
    let parts = [(0, false), (0xc000_0000, false), (0, true), (0xc000_0000, true)];
    for (part, (first, write)) in parts.into_iter().enumerate() {
        for word in 0..HALF / 64 {
            let index = first + word * 64;
            let bits = if msr::may_pass(index, 64) {
                (0..64).fold(0u64, |bits, bit| bits | u64::from(!passes(index + bit, write)) << bit)
            } else {
                u64::MAX
            };
            page.set_word(part * 1024 + word as usize * 8, bits);
        }
    }
}

/// Fills the two pages of the I/O bitmaps, one bit for each port.
pub(super) fn fill_ports<H: Hal>(pages: &mut Frames<H>, ports: &Intercepted) {
    for word in 0..0x2000u16 / 8 {
        let bytes = core::array::from_fn(|byte| ports.byte(word * 8 + byte as u16));
        pages.set_word(usize::from(word) * 8, u64::from_le_bytes(bytes));
    }
}
