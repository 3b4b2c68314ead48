//! The header of an arm64 Linux `Image`, and where it and its companions go in guest RAM.
//!
//! Reference: Linux, `Documentation/arm64/booting.rst`. The kernel lies `text_offset` bytes above a 2 MiB boundary,
//! the device tree (at most 2 MiB) at the start of RAM, the initial RAM disk at its end.

use slat_hv_protocol::MemoryMap;
use thiserror::Error;

const MAGIC: &[u8] = b"ARM\x64";
const MAGIC_OFFSET: usize = 0x38;
const TWO_MIB: u64 = 2 << 20;
const PAGE: u64 = 4096;

/// Most bytes of a device tree, by the boot protocol.
pub const DEVICE_TREE_MAX: u64 = TWO_MIB;

/// What the header says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// Offset of the image from a 2 MiB boundary.
    pub text_offset: u64,
    /// Bytes that the kernel needs from its start on, its zeroed data included.
    pub image_size: u64,
}

/// Why a kernel cannot be started.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum ImageError {
    /// No header.
    #[error("the kernel is not an arm64 Image: the magic number is missing (is it compressed?)")]
    NoMagic,
    /// The big-endian flag is set.
    #[error("the kernel is big-endian")]
    BigEndian,
    /// The kernel predates `image_size`.
    #[error("the kernel's header has no image_size (Linux before 3.17)")]
    NoImageSize,
    /// Kernel, initrd and device tree need more.
    #[error("{needed} bytes of guest memory are needed for kernel and initrd, and there are {given}")]
    TooLittleMemory {
        /// Bytes needed.
        needed: u64,
        /// Bytes given.
        given: u64,
    },
}

impl Header {
    /// Reads the header at the start of `image`.
    ///
    /// # Errors
    /// [`ImageError`], when this is no kernel that can be started.
    pub fn parse(image: &[u8]) -> Result<Self, ImageError> {
        if image.get(MAGIC_OFFSET..MAGIC_OFFSET + MAGIC.len()) != Some(MAGIC) {
            return Err(ImageError::NoMagic);
        }
        let field = |offset: usize| {
            let bytes = image.get(offset..)?.first_chunk::<8>()?;
            Some(u64::from_le_bytes(*bytes))
        };
        let (Some(text_offset), Some(image_size), Some(flags)) = (field(8), field(16), field(24)) else {
            return Err(ImageError::NoMagic);
        };
        if image_size == 0 {
            return Err(ImageError::NoImageSize);
        }
        if flags & 1 != 0 {
            return Err(ImageError::BigEndian);
        }
        Ok(Self { text_offset, image_size })
    }
}

/// Guest-physical addresses of what the guest finds in its RAM.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Layout {
    /// The device tree.
    pub device_tree: u64,
    /// The kernel, which is also its entry point.
    pub kernel: u64,
    /// The initial RAM disk, or the end of RAM if there is none.
    pub initrd: u64,
}

impl Layout {
    /// Places a kernel of `kernel_bytes` in the file and an initrd of `initrd_bytes` in `memory` bytes of RAM.
    ///
    /// # Errors
    /// [`ImageError::TooLittleMemory`].
    pub fn new(
        header: Header,
        kernel_bytes: u64,
        initrd_bytes: u64,
        memory: u64,
    ) -> Result<Self, ImageError> {
        // All four numbers are untrusted: sums are checked, and one that overflows fits nowhere.
        let too_little = |needed: Option<u64>| ImageError::TooLittleMemory {
            needed: needed.unwrap_or(u64::MAX),
            given: memory,
        };
        let kernel_offset = DEVICE_TREE_MAX.checked_add(header.text_offset);
        let kernel_size = header.image_size.max(kernel_bytes);
        let initrd_size = initrd_bytes.checked_next_multiple_of(PAGE);
        let needed = kernel_offset
            .and_then(|offset| offset.checked_add(kernel_size)?.checked_next_multiple_of(PAGE))
            .and_then(|end| end.checked_add(initrd_size?));
        match (needed, kernel_offset, initrd_size) {
            (Some(needed), Some(kernel_offset), Some(initrd_size)) if needed <= memory => Ok(Self {
                device_tree: MemoryMap::AARCH64.guest_ram,
                kernel: MemoryMap::AARCH64.guest_ram + kernel_offset,
                initrd: MemoryMap::AARCH64.guest_ram + (memory - initrd_size),
            }),
            _ => Err(too_little(needed)),
        }
    }
}

#[cfg(test)]
mod tests;
