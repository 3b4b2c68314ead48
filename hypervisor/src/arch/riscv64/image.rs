//! The header of a RISC-V Linux `Image`, and where it and its companions go in guest RAM.
//!
//! Reference: Linux, `Documentation/arch/riscv/boot-image-header.rst` and `boot.rst`. The kernel lies `text_offset` bytes above
//! a 2 MiB boundary, here the start of RAM; the initial RAM disk at the end of RAM, the device tree just below it. What has
//! no header, such as U-Boot, is taken for a flat binary that wants to lie where the firmware of this machine puts it.

use slat_hv_protocol::MemoryMap;
use thiserror::Error;

const MAGIC: &[u8] = b"RSC\x05";
const MAGIC_OFFSET: usize = 0x38;
const ARM64_MAGIC: &[u8] = b"ARM\x64";
/// Where the firmware of QEMU's `virt` machine starts what comes after it, from the start of RAM.
const FLAT_OFFSET: u64 = 2 << 20;
/// Bytes of the header; no program is shorter.
const HEADER_SIZE: usize = 64;
const PAGE: u64 = 4096;

/// Most bytes of a device tree here.
pub const DEVICE_TREE_MAX: u64 = 64 << 10;

/// What the header says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// Offset of the image from a 2 MiB boundary.
    pub text_offset: u64,
    /// Bytes that the kernel needs from its start on, its zeroed data included.
    pub image_size: u64,
    /// Whether there is none, and the kernel is a flat binary.
    pub is_flat: bool,
}

/// Why a kernel cannot be started.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum ImageError {
    /// Compressed.
    #[error("the kernel is compressed by {0}: unpack it first")]
    Compressed(&'static str),
    /// An ELF file.
    #[error("the kernel is an ELF file, and a RISC-V Image is wanted (vmlinuz, arch/riscv/boot/Image)")]
    Elf,
    /// For another machine.
    #[error("the kernel is for {0}, and a RISC-V Image is wanted")]
    Foreign(&'static str),
    /// Shorter than a header.
    #[error("the kernel is shorter than 64 bytes")]
    TooShort,
    /// The big-endian flag is set.
    #[error("the kernel is big-endian")]
    BigEndian,
    /// There is no `image_size`.
    #[error("the kernel's header has no image_size")]
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
    /// Reads the header at the start of `image`, or makes one up for a flat binary.
    ///
    /// # Errors
    /// [`ImageError`], when this is no kernel that can be started.
    pub fn parse(image: &[u8]) -> Result<Self, ImageError> {
        let magic = image.get(MAGIC_OFFSET..MAGIC_OFFSET + MAGIC.len());
        match image {
            _ if magic == Some(MAGIC) => {}
            _ if magic == Some(ARM64_MAGIC) => return Err(ImageError::Foreign("arm64")),
            [0x1f, 0x8b, ..] => return Err(ImageError::Compressed("gzip")),
            [0xfd, b'7', b'z', b'X', b'Z', ..] => return Err(ImageError::Compressed("xz")),
            [0x28, 0xb5, 0x2f, 0xfd, ..] => return Err(ImageError::Compressed("zstd")),
            [0x7f, b'E', b'L', b'F', ..] => return Err(ImageError::Elf),
            // What begins so and is for RISC-V has the header.
            [b'M', b'Z', ..] => return Err(ImageError::Foreign("another machine")),
            _ if image.len() < HEADER_SIZE => return Err(ImageError::TooShort),
            _ => return Ok(Self { text_offset: FLAT_OFFSET, image_size: image.len() as u64, is_flat: true }),
        }
        let field = |offset: usize| {
            let bytes = image.get(offset..)?.first_chunk::<8>()?;
            Some(u64::from_le_bytes(*bytes))
        };
        let (Some(text_offset), Some(image_size), Some(flags)) = (field(8), field(16), field(24)) else {
            return Err(ImageError::TooShort);
        };
        if image_size == 0 {
            return Err(ImageError::NoImageSize);
        }
        if flags & 1 != 0 {
            return Err(ImageError::BigEndian);
        }
        Ok(Self { text_offset, image_size, is_flat: false })
    }
}

/// Guest-physical addresses of what the guest finds in its RAM.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Layout {
    /// The kernel, which is also its entry point.
    pub kernel: u64,
    /// The device tree.
    pub device_tree: u64,
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
        let kernel_size = header.image_size.max(kernel_bytes);
        let companions = initrd_bytes
            .checked_next_multiple_of(PAGE)
            .and_then(|initrd| Some((initrd, initrd.checked_add(DEVICE_TREE_MAX)?)));
        let needed = header
            .text_offset
            .checked_add(kernel_size)
            .and_then(|end| end.checked_next_multiple_of(PAGE)?.checked_add(companions?.1));
        match (needed, companions) {
            (Some(needed), Some((initrd, both))) if needed <= memory => {
                let ram = MemoryMap::RISCV64.guest_ram;
                let (kernel, end) = (ram + header.text_offset, ram + memory);
                Ok(Self { kernel, device_tree: end - both, initrd: end - initrd })
            }
            _ => Err(ImageError::TooLittleMemory { needed: needed.unwrap_or(u64::MAX), given: memory }),
        }
    }
}

#[cfg(test)]
mod tests;
