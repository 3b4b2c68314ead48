//! The x86 image as a ROM, for machines that start at a reset vector and have no other firmware.
//!
//! The image begins with [`CODE_SIZE`] bytes of code that belong at the end of a ROM, just below 4 GiB: a header, and the
//! way from the reset vector to the image's entry. [`make_rom`] puts the image at the beginning of a ROM and that code,
//! its header filled in, at the end. The same image starts without a ROM where the machine loads it itself.

use alloc::vec;
use alloc::vec::Vec;
use core::fmt;

/// Bytes of the code at the end of the ROM, the header included.
pub const CODE_SIZE: usize = 256;
/// Bytes of the header: the [magic number](MAGIC), five fields of 32 bits, 4 bytes that are zero.
pub const HEADER_SIZE: usize = 32;
/// The first 8 bytes of the image, little-endian: "slat-rom".
pub const MAGIC: u64 = u64::from_le_bytes(*b"slat-rom");

/// Offset of the field: where in physical memory the image lies in the ROM.
pub const SOURCE: usize = 8;
/// Offset of the field: where it belongs.
pub const TARGET: usize = 12;
/// Offset of the field: how many words of 32 bits it has.
pub const WORDS: usize = 16;
/// Offset of the field: its entry, for 32-bit protected mode without paging.
pub const ENTRY: usize = 20;
/// Offset of the field: the end of what the machine loads behind the image (parameters and blobs), whose memory is
/// touched in order before any other.
pub const PAYLOAD_END: usize = 24;

/// Fewest and most bytes of a ROM that Bochs takes.
const SIZES: (usize, usize) = (128 << 10, 2 << 20);

/// The ROM of the hypervisor's `elf` file; `payload` is the length in bytes of what the machine loads at
/// [`params`](crate::MemoryMap::params).
///
/// # Errors
/// [`RomError`]: the file is not one of slat-hv for x86, or too large.
pub fn build(elf: &[u8], payload: u64) -> Result<Vec<u8>, RomError> {
    let (segments, entry) = parse(elf).ok_or(RomError::NoElf)?;
    make_rom(&segments, entry, payload)
}

/// The loadable segments and the entry of a little-endian 64-bit ELF file. (System V ABI, "Object Files", "Program Header".)
fn parse(elf: &[u8]) -> Option<(Vec<Segment<'_>>, u64)> {
    const LOADABLE: u64 = 1;
    // Magic number, 64 bits, little-endian.
    elf.starts_with(b"\x7fELF\x02\x01").then_some(())?;
    let [entry, headers] = [24, 32].map(|offset| number(elf, offset, 8));
    let [size, count] = [54, 56].map(|offset| number(elf, offset, 2));
    let (headers, size) = (usize::try_from(headers?).ok()?, usize::try_from(size?).ok()?);
    let mut segments = Vec::new();
    for index in 0..usize::try_from(count?).ok()? {
        let header = elf.get(headers.checked_add(index.checked_mul(size)?)?..)?.get(..size)?;
        if number(header, 0, 4)? != LOADABLE {
            continue;
        }
        let [offset, address, length] = [8, 24, 32].map(|offset| number(header, offset, 8));
        let (offset, length) = (usize::try_from(offset?).ok()?, usize::try_from(length?).ok()?);
        segments.push(Segment { address: address?, bytes: elf.get(offset..offset.checked_add(length)?)? });
    }
    Some((segments, entry?))
}

/// The little-endian number of so many bytes at `offset`.
fn number(bytes: &[u8], offset: usize, length: usize) -> Option<u64> {
    let bytes = bytes.get(offset..)?.get(..length)?;
    Some(bytes.iter().rev().fold(0, |number, byte| number << 8 | u64::from(*byte)))
}

/// A piece of an image, from its file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Segment<'a> {
    /// Host physical address at which it belongs.
    pub address: u64,
    /// Its bytes, without what is zero at the beginning and in no file.
    pub bytes: &'a [u8],
}

/// Why no ROM can be made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RomError {
    /// It is no 64-bit ELF file, or a broken one.
    NoElf,
    /// There are no bytes.
    Empty,
    /// The image does not begin with the code for the end of a ROM.
    NoCode,
    /// The image, so many bytes with the code at the end, is larger than a ROM can be.
    TooLarge(u64),
    /// An address is beyond 4 GiB.
    Address(u64),
}

impl fmt::Display for RomError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoElf => f.write_str("the image is not a whole 64-bit ELF file"),
            Self::Empty => f.write_str("the image has no bytes to load"),
            Self::NoCode => f.write_str("the image does not begin with the code for a ROM"),
            Self::TooLarge(size) => write!(f, "the image needs a ROM of {size} bytes, more than {}", SIZES.1),
            Self::Address(address) => write!(f, "the image's address {address:#x} lies beyond 4 GiB"),
        }
    }
}

impl core::error::Error for RomError {}

/// The ROM of an image that consists of `segments`, in any order, and is entered at `entry` in 32-bit protected mode;
/// `payload` is the length in bytes of what the machine loads at [`params`](crate::MemoryMap::params).
///
/// # Errors
/// [`RomError`]: the image is not one of slat-hv for x86, or too large.
pub fn make_rom(segments: &[Segment<'_>], entry: u64, payload: u64) -> Result<Vec<u8>, RomError> {
    let used = || segments.iter().filter(|segment| !segment.bytes.is_empty());
    let first = used().map(|segment| segment.address).min().ok_or(RomError::Empty)?;
    let end = |segment: &Segment<'_>| segment.address.saturating_add(segment.bytes.len() as u64);
    let length = used().map(end).max().unwrap_or(first) - first;
    let length = length.checked_next_multiple_of(4).unwrap_or(length);
    let needed = length.saturating_add(CODE_SIZE as u64);
    let fits = usize::try_from(needed).ok().filter(|needed| *needed <= SIZES.1);
    let size = fits.ok_or(RomError::TooLarge(needed))?.next_power_of_two().max(SIZES.0);

    let mut rom = vec![0; size];
    for segment in used() {
        let start = (segment.address - first) as usize;
        rom[start..start + segment.bytes.len()].copy_from_slice(segment.bytes);
    }
    if rom[..8] != MAGIC.to_le_bytes() {
        return Err(RomError::NoCode);
    }
    let code = size - CODE_SIZE;
    rom.copy_within(..CODE_SIZE, code);
    let payload_end = crate::MemoryMap::X86_64.params.saturating_add(payload);
    let source = (1 << 32) - size as u64;
    let fields =
        [(SOURCE, source), (TARGET, first), (WORDS, length / 4), (ENTRY, entry), (PAYLOAD_END, payload_end)];
    for (offset, value) in fields {
        let value = u32::try_from(value).map_err(|_| RomError::Address(value))?;
        rom[code + offset..][..4].copy_from_slice(&value.to_le_bytes());
    }
    Ok(rom)
}

#[cfg(test)]
mod tests;
