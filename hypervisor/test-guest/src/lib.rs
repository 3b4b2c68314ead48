//! The part of the test guest that needs no machine: what it reads in its device tree, and its random numbers.

#![no_std]

/// Guest-physical address of the first byte of RAM on AArch64.
pub const RAM: u64 = 0x4000_0000;

/// The same on RISC-V.
pub const RISCV_RAM: u64 = 0x8000_0000;

/// A magic number, then the size of the whole: the first 8 bytes of a device tree.
const DEVICE_TREE_MAGIC: [u8; 4] = [0xd0, 0x0d, 0xfe, 0xed];

/// Bytes of the device tree whose first bytes are `head`, or `None` if that is not one.
#[must_use]
pub fn device_tree_size(head: &[u8; 8]) -> Option<usize> {
    let [a, b, c, d, size @ ..] = *head;
    ([a, b, c, d] == DEVICE_TREE_MAGIC).then(|| u32::from_be_bytes(size) as usize)
}

/// The word after `key` in the command line, which is found by looking for `key` in all of the device tree.
#[must_use]
pub fn word_after<'a>(device_tree: &'a [u8], key: &[u8]) -> Option<&'a str> {
    let at = device_tree.windows(key.len()).position(|window| window == key)?;
    let rest = device_tree.get(at + key.len()..)?;
    let end = rest.iter().position(|&byte| byte == 0 || byte == b' ')?;
    core::str::from_utf8(rest.get(..end)?).ok()
}

/// Bytes of RAM, which begins at `ram`: the number that follows this address in the memory node.
#[must_use]
pub fn memory_size(device_tree: &[u8], ram: u64) -> Option<u64> {
    // Cells of a device tree are big-endian and aligned to 4 bytes.
    device_tree.windows(16).step_by(4).find_map(|window| {
        let (address, rest) = window.split_first_chunk::<8>()?;
        let size = u64::from_be_bytes(*rest.first_chunk::<8>()?);
        (u64::from_be_bytes(*address) == ram && size != 0).then_some(size)
    })
}

/// Sebastiano Vigna's SplitMix64.
#[derive(Clone, Debug)]
pub struct Random(pub u64);

impl Random {
    /// The next number.
    pub fn next_u64(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ z >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ z >> 31
    }
}

#[cfg(test)]
mod tests;
