//! The formats of kernels: their headers, and a good guess at what a file is that is something else.
//!
//! Formats: kernel documentation, `arch/arm64/booting`: a 64-byte header with the magic number `ARM\x64` at 56,
//! `text_offset` at 8, `image_size` at 16 and `flags` at 24; `arch/riscv/boot-image-header`: the same fields in the same places,
//! the magic number `RSC\x05` at 56; `arch/x86/boot`: see [`bzimage`]. All little-endian.

mod bzimage;

use crate::platform::Platform;
use anyhow::{Context, Result, bail};
use std::fs;
use std::path::Path;

/// What the header of a kernel says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Image {
    /// What it is.
    pub(crate) program: Program,
    /// Bytes of memory that the kernel takes from the start of RAM on.
    pub(crate) memory: u64,
    /// The longest command line that it takes, in bytes.
    pub(crate) bootargs_max: usize,
    /// The kernel's release, such as `6.1.0-50-cloud-arm64`, when the image tells.
    pub(crate) release: Option<String>,
}

/// What a kernel is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Program {
    /// Linux, or something that behaves like it.
    #[default]
    Linux,
    /// memtest86+, which has no user space and no end.
    Memtest,
    /// U-Boot, which in the end waits for somebody to type.
    UBoot,
}

impl Image {
    /// What a report calls it, if the image tells.
    pub(crate) fn title(&self) -> Option<String> {
        let program = match self.program {
            Program::Linux => "Linux",
            Program::Memtest => "Memtest86+",
            Program::UBoot => "U-Boot",
        };
        self.release.as_ref().map(|release| format!("{program} {release}"))
    }
}

/// Reads and checks the kernel for `platform` in `file`.
pub(crate) fn check_file(file: &Path, platform: Platform) -> Result<Image> {
    let bytes = fs::read(file).with_context(|| format!("cannot read the guest kernel {}", file.display()))?;
    check(&bytes, platform).with_context(|| format!("{} cannot be a guest kernel", file.display()))
}

/// Checks the bytes of a kernel for `platform`.
pub(crate) fn check(bytes: &[u8], platform: Platform) -> Result<Image> {
    match platform {
        Platform::Arm => arm64(bytes),
        Platform::Intel | Platform::Amd => bzimage::check(bytes),
        Platform::Riscv => riscv(bytes),
    }
}

/// Reads and checks U-Boot in `file`: a flat binary without a header.
pub(crate) fn check_u_boot(file: &Path) -> Result<Image> {
    let bytes = fs::read(file).with_context(|| format!("cannot read the guest kernel {}", file.display()))?;
    u_boot(&bytes).with_context(|| format!("{} cannot be a guest kernel", file.display()))
}

/// Checks U-Boot. It moves itself to the end of RAM when it has begun.
fn u_boot(bytes: &[u8]) -> Result<Image> {
    let release = release_after(bytes, b"U-Boot ");
    let release = release.with_context(|| format!("it is not U-Boot: {}", guess(bytes)))?;
    let memory = RISCV_TEXT + 2 * bytes.len() as u64;
    Ok(Image { program: Program::UBoot, memory, bootargs_max: 2047, release: Some(release) })
}

/// Where kernels for RISC-V begin, in bytes from the start of RAM: firmware takes what is below.
const RISCV_TEXT: u64 = 2 << 20;

/// Checks a RISC-V `Image`.
fn riscv(bytes: &[u8]) -> Result<Image> {
    if bytes.get(56..60) != Some(b"RSC\x05") {
        bail!("it is not a RISC-V Linux Image: {}", guess(bytes));
    }
    let (text_offset, image_size, flags) = (word(bytes, 8), word(bytes, 16), word(bytes, 24));
    if flags & 1 != 0 {
        bail!("it is a big-endian RISC-V Image; the guest must be little-endian");
    }
    if text_offset != RISCV_TEXT {
        bail!("it begins {text_offset:#x} bytes above the start of RAM; a 64-bit kernel begins at 2 MiB");
    }
    let memory = text_offset.saturating_add(image_size.max(bytes.len() as u64));
    // The kernel has room for 1024 bytes, `COMMAND_LINE_SIZE`, unless it was built with another.
    Ok(Image { program: Program::Linux, memory, bootargs_max: 1023, release: release(bytes) })
}

/// The little-endian word at `offset`, 0 beyond the end.
fn word(bytes: &[u8], offset: usize) -> u64 {
    let word = bytes.get(offset..offset + 8).and_then(|bytes| bytes.try_into().ok());
    word.map_or(0, u64::from_le_bytes)
}

/// Checks an arm64 `Image`.
fn arm64(bytes: &[u8]) -> Result<Image> {
    if bytes.get(56..60) != Some(b"ARM\x64") {
        bail!("it is not an arm64 Linux Image: {}", guess(bytes));
    }
    let flags = word(bytes, 24);
    if flags & 1 != 0 {
        bail!("it is a big-endian arm64 Image; the guest must be little-endian");
    }
    match (flags >> 1) & 3 {
        0 | 1 => {}
        2 => bail!("it uses pages of 16 KiB; the guest must use 4 KiB"),
        _ => bail!("it uses pages of 64 KiB; the guest must use 4 KiB"),
    }
    // Kernels before 3.17 leave the size 0: then at least the file itself must fit.
    let memory = word(bytes, 8).saturating_add(word(bytes, 16).max(bytes.len() as u64));
    // The kernel has room for 2048 bytes and cuts the rest off without a word.
    Ok(Image { program: Program::Linux, memory, bootargs_max: 2047, release: release(bytes) })
}

/// What a file that is not the kernel that was wanted is, as far as its first bytes tell, and what to do about it.
fn guess(bytes: &[u8]) -> String {
    let at = |offset: usize, magic: &[u8]| bytes.get(offset..offset + magic.len()) == Some(magic);
    let found = if bytes.is_empty() {
        "the file is empty"
    } else if at(0, b"\x1f\x8b") {
        "it is gzip-compressed: gunzip it first"
    } else if at(0, b"\xfd7zXZ") {
        "it is xz-compressed: unxz it first"
    } else if at(0, b"\x28\xb5\x2f\xfd") {
        "it is zstd-compressed: unzstd it first"
    } else if at(0, b"!<arch>\n") {
        "it is an archive (a .deb?): take boot/vmlinuz-* out of it"
    } else if at(0, b"MZ") && at(4, b"zimg") {
        "it is an EFI zboot image, which unpacks itself: take the Image inside it"
    } else if at(0x202, b"HdrS") {
        "it is an x86 bzImage"
    } else if at(56, b"ARM\x64") {
        "it is an arm64 Image"
    } else if at(48, b"RISCV") || at(56, b"RSC\x05") {
        "it is a RISC-V Image"
    } else if at(0x24, b"\x18\x28\x6f\x01") {
        "it is a 32-bit Arm zImage"
    } else if at(0, b"\x7fELF") {
        return format!("it is an ELF file for {}; what boots is the flat binary", elf_machine(bytes));
    } else if at(0, b"\x27\x05\x19\x56") {
        "it is a U-Boot uImage"
    } else {
        "the magic number of one is missing"
    };
    found.to_owned()
}

fn elf_machine(bytes: &[u8]) -> String {
    let big_endian = bytes.get(5) == Some(&2);
    let machine = match (bytes.get(18), bytes.get(19)) {
        (Some(&high), Some(&low)) if big_endian => u16::from_be_bytes([high, low]),
        (Some(&low), Some(&high)) => u16::from_le_bytes([low, high]),
        _ => 0,
    };
    match machine {
        3 => "i386".to_owned(),
        21 => "ppc64".to_owned(),
        22 => "s390".to_owned(),
        40 => "32-bit Arm".to_owned(),
        62 => "x86-64".to_owned(),
        183 => "arm64".to_owned(),
        243 => "RISC-V".to_owned(),
        258 => "LoongArch".to_owned(),
        other => format!("machine {other}"),
    }
}

/// The release in the kernel's own banner, `Linux version RELEASE (…`.
fn release(bytes: &[u8]) -> Option<String> {
    release_after(bytes, b"Linux version ")
}

/// What follows `banner` up to a blank, if it begins with a digit.
fn release_after(bytes: &[u8], banner: &[u8]) -> Option<String> {
    let first = *banner.first()?;
    let mut rest = bytes;
    // The banner's first byte is rare enough in code to make this a fast search.
    while let Some(start) = rest.iter().position(|&byte| byte == first) {
        rest = &rest[start..];
        if let Some(text) = rest.strip_prefix(banner) {
            let end = text.iter().take(100).position(|&byte| byte == b' ');
            let name = end.and_then(|end| std::str::from_utf8(&text[..end]).ok());
            if let Some(name) = name.filter(|name| name.starts_with(|first: char| first.is_ascii_digit())) {
                return Some(name.to_owned());
            }
        }
        rest = &rest[1..];
    }
    None
}

#[cfg(test)]
mod tests;
