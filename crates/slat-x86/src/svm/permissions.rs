//! The I/O and MSR permission maps: which ports and registers lead to an exit (APM vol. 2, "I/O Permissions Map" and "MSR
//! Permissions Map").

use crate::frame::Frames;
use crate::msr;
use crate::port::Intercepted;
use slat::{Hal, HostPhysAddr};

/// A bit for each port, port 0 first, and behind the last one those of an access that goes beyond it.
const IOPM_BYTES: usize = 0x3000;
const PORT_BYTES: usize = 0x2000;
const FRAMES: usize = 5;

/// The first register of each part of the MSR map; each has 0x2000 registers in 0x800 bytes.
const PARTS: [u32; 3] = [0, 0xc000_0000, 0xc001_0000];
const PART_BYTES: usize = 0x800;

/// Both maps, in five frames that follow each other.
#[derive(Debug)]
pub(super) struct PermissionMaps<H: Hal> {
    frames: Frames<H>,
}

impl<H: Hal> PermissionMaps<H> {
    /// The maps for these ports and for the registers of [`msr::passes`]; `None` if the host has no five frames in a row.
    pub(super) fn new(hal: H, ports: &Intercepted) -> Option<Self> {
        let mut frames = Frames::zeroed(hal, FRAMES)?;
        for index in 0..PORT_BYTES {
            frames.write(index, &[ports.byte(index as u16)]);
        }
        frames.write(PORT_BYTES, &[0xff; IOPM_BYTES - PORT_BYTES]);
        let mut maps = Self { frames };
        maps.write_registers();
        Some(maps)
    }

    fn write_registers(&mut self) {
        let map = self.frames.bytes() - IOPM_BYTES;
        for index in 0..map {
            self.frames.write(IOPM_BYTES + index, &[msr_byte(index)]);
        }
    }

    pub(super) fn io(&self) -> HostPhysAddr {
        self.frames.address()
    }

    /// In the frame behind the other map: 4 KiB-aligned as that one is.
    pub(super) fn msr(&self) -> u64 {
        self.frames.address().as_u64() + IOPM_BYTES as u64
    }
}

/// Byte `index` of the MSR map: four registers, for each the bit for reads and then the one for writes. What belongs to no
/// register is set.
fn msr_byte(index: usize) -> u8 {
    let Some(first) = PARTS.get(index / PART_BYTES) else { return 0xff };
    let register = first + (index % PART_BYTES) as u32 * 4;
    if !msr::may_pass(register, 4) {
        return 0xff;
    }
    (0..4).fold(0, |byte, number| {
        let read = u8::from(!msr::passes(register + number, false));
        let write = u8::from(!msr::passes(register + number, true));
        byte | (read | write << 1) << (2 * number)
    })
}

#[cfg(all(test, not(loom)))]
mod tests;
