//! The header of a Linux bzImage, which memtest86+ has too.
//!
//! Format: kernel documentation, `arch/x86/boot`, "The Real-Mode Kernel Header": `HdrS` at 0x202, the protocol's version at
//! 0x206, `setup_sects` at 0x1f1, `kernel_version` (from 0x200 on) at 0x20e, `loadflags` at 0x211, `xloadflags` at 0x236,
//! `cmdline_size` at 0x238, `pref_address` at 0x258, `init_size` at 0x260.

use super::{Image, Program, guess};
use anyhow::{Result, bail, ensure};

/// The oldest protocol that tells where the kernel runs and how much memory it takes there.
const OLDEST: u16 = 0x20a;

/// Bit 0 of `loadflags`: the protected-mode part is loaded at 1 MiB.
const LOADED_HIGH: u8 = 1;

/// Bytes of a sector.
const SECTOR: usize = 512;

/// How the version text of memtest86+ begins; the release follows.
const MEMTEST: &str = "Memtest86+ v";

/// The longest version text that is believed.
const VERSION_MAX: usize = 100;

/// Checks the bytes of a kernel.
pub(super) fn check(bytes: &[u8]) -> Result<Image> {
    if bytes.get(0x202..0x206) != Some(b"HdrS") {
        bail!("it is not an x86 bzImage: {}", guess(bytes));
    }
    let byte = |offset: usize| bytes.get(offset).copied().unwrap_or(0);
    let half = |offset: usize| u16::from_le_bytes([byte(offset), byte(offset + 1)]);
    let word = |offset: usize| u32::from(half(offset)) | u32::from(half(offset + 2)) << 16;
    let version = half(0x206);
    ensure!(
        version >= OLDEST,
        "its boot protocol is {}.{:02}; 2.10 or later is needed",
        version >> 8,
        version & 0xff
    );
    ensure!(
        byte(0x211) & LOADED_HIGH != 0,
        "it is a zImage, for the memory below 1 MiB; a bzImage is needed"
    );
    // 0 stands for 4, as in the days of floppy disks; the boot sector comes on top.
    let setup = (if byte(0x1f1) == 0 { 4 } else { usize::from(byte(0x1f1)) } + 1) * SECTOR;
    ensure!(bytes.len() > setup, "it is cut off: it ends before its protected-mode part");
    let preferred = u64::from(word(0x258)) | u64::from(word(0x25c)) << 32;
    let Some(memory) = preferred.checked_add(u64::from(word(0x260))) else {
        bail!("it wants to run at {preferred:#x}");
    };
    let text = match half(0x20e) {
        0 => String::new(),
        offset => text_at(bytes, usize::from(offset) + 0x200),
    };
    let (program, release) = match text.strip_prefix(MEMTEST) {
        Some(release) => (Program::Memtest, release),
        None => (Program::Linux, text.split(' ').next().unwrap_or_default()),
    };
    Ok(Image {
        program,
        memory,
        bootargs_max: usize::try_from(word(0x238))?,
        release: (!release.is_empty()).then(|| release.to_owned()),
    })
}

/// The printable text that ends with a zero byte at `offset`.
fn text_at(bytes: &[u8], offset: usize) -> String {
    let text = bytes.get(offset..).unwrap_or_default().iter().take(VERSION_MAX);
    text.take_while(|byte| byte.is_ascii_graphic() || **byte == b' ').map(|&byte| char::from(byte)).collect()
}

#[cfg(test)]
mod tests;
