//! The header of a Linux bzImage, and where the kernel and its companions go in guest RAM. Other programs have that header
//! too, memtest86+ for one.
//!
//! Reference: Linux, `Documentation/x86/boot.rst`; section names below. The guest begins at the 32-bit entry ("32-bit Boot
//! Protocol"): protected mode without paging, RSI at the zero page. The loader's data lies below 64 KiB, the kernel where
//! it prefers to be, the initial RAM disk at the end of RAM.

use slat_hv_protocol::Span;
use thiserror::Error;

/// Guest-physical address of the segment descriptors.
pub const GDT: u64 = 0x6000;
/// Guest-physical address of the zero page.
pub const ZERO_PAGE: u64 = 0x7000;
/// Guest-physical address of the command line.
pub const COMMAND_LINE: u64 = 0x8000;

/// Guest-physical address of the window of old devices, which is plain RAM here, up to 1 MiB.
pub const WINDOW: u64 = 0xa_0000;
/// What lies from here to the window a PC's firmware keeps for itself.
const LOW_END: u64 = 0x9_f000;
const HIGH_START: u64 = 0x10_0000;

/// The descriptors that the boot protocol wants: flat 32-bit code at selector 0x10, data at 0x18.
pub const SEGMENTS: [u64; 4] = [0, 0, 0x00cf_9b00_0000_ffff, 0x00cf_9300_0000_ffff];

const PAGE: u64 = 4096;
/// Version 2.10, the first with `pref_address` and `init_size`.
const OLDEST: u16 = 0x020a;
/// Where a kernel that cannot be moved lies.
const FIXED_ADDRESS: u64 = HIGH_START;

/// Offsets of fields in the image and in the zero page ("Details of Header Fields").
mod field {
    pub(super) const HEADER: usize = 0x1f1;
    pub(super) const SETUP_SECTORS: usize = 0x1f1;
    pub(super) const SYSTEM_SIZE: usize = 0x1f4;
    pub(super) const VIDEO_MODE: usize = 0x1fa;
    pub(super) const BOOT_FLAG: usize = 0x1fe;
    pub(super) const JUMP_DISTANCE: usize = 0x201;
    pub(super) const MAGIC: usize = 0x202;
    pub(super) const VERSION: usize = 0x206;
    pub(super) const LOADER: usize = 0x210;
    pub(super) const LOAD_FLAGS: usize = 0x211;
    pub(super) const ENTRY_32: usize = 0x214;
    pub(super) const INITRD_ADDRESS: usize = 0x218;
    pub(super) const INITRD_SIZE: usize = 0x21c;
    pub(super) const COMMAND_LINE: usize = 0x228;
    pub(super) const INITRD_MAX: usize = 0x22c;
    pub(super) const RELOCATABLE: usize = 0x234;
    pub(super) const COMMAND_LINE_SIZE: usize = 0x238;
    pub(super) const PREFERRED: usize = 0x258;
    pub(super) const INIT_SIZE: usize = 0x260;
    /// Up to here the header may reach in the zero page.
    pub(super) const HEADER_END: usize = 0x290;
    /// Number of entries of the memory map, and the map ("Zero Page").
    pub(super) const MAP_ENTRIES: usize = 0x1e8;
    pub(super) const MAP: usize = 0x2d0;
}

/// Bit of `loadflags`: the protected-mode code belongs above 1 MiB.
const LOADED_HIGH: u8 = 1;
/// `type_of_loader`: one without a number.
const UNKNOWN_LOADER: u8 = 0xff;
/// `vid_mode`: as it is.
const NORMAL_MODE: u16 = 0xffff;

/// What the header says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// Offset in the file of the protected-mode code.
    pub code: usize,
    /// Bytes of the protected-mode code.
    pub code_size: u64,
    /// Where that is to lie.
    pub address: u64,
    /// Bytes that the kernel needs from there on until it reads the memory map.
    pub init_size: u64,
    /// Highest address of a byte of the initial RAM disk.
    pub initrd_max: u64,
    /// Most bytes of the command line, without its NUL.
    pub command_line_max: u64,
    /// Offset behind the header's last byte.
    end: usize,
}

/// Why a kernel cannot be started.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum LinuxError {
    /// No header.
    #[error("the kernel is not a bzImage: the {0} is missing")]
    NoHeader(&'static str),
    /// The protocol is too old.
    #[error("the kernel's boot protocol {major}.{minor:02} is older than 2.10", major = .0 >> 8, minor = .0 & 0xff)]
    TooOld(u16),
    /// The protected-mode code belongs below 1 MiB.
    #[error("the kernel is a zImage, which belongs below 1 MiB")]
    LoadedLow,
    /// The file ends too early.
    #[error("the kernel is cut off: its header speaks of {needed} bytes, and there are {given}")]
    Truncated {
        /// Bytes that the header speaks of.
        needed: u64,
        /// Bytes that there are.
        given: u64,
    },
    /// The kernel does not take a command line of this length.
    #[error("the command line has {given} bytes, and the kernel takes {most}")]
    CommandLine {
        /// Its length.
        given: u64,
        /// What the kernel takes.
        most: u64,
    },
    /// Kernel and initrd need more memory.
    #[error("{needed} bytes of guest memory are needed for kernel and initrd, and there are {given}")]
    TooLittleMemory {
        /// Bytes needed.
        needed: u64,
        /// Bytes given.
        given: u64,
    },
    /// The initrd ends up where the kernel cannot reach it.
    #[error("the initrd does not fit below {0:#x}, where the kernel can reach it")]
    InitrdOutOfReach(u64),
}

impl Header {
    /// Reads the header of `image`.
    ///
    /// # Errors
    /// [`LinuxError`], when this is no kernel that can be started.
    pub fn parse(image: &[u8]) -> Result<Self, LinuxError> {
        let number = |offset: usize, length: usize| {
            let bytes = image.get(offset..offset + length)?;
            Some(bytes.iter().rev().fold(0, |number, byte| number << 8 | u64::from(*byte)))
        };
        if number(field::BOOT_FLAG, 2) != Some(0xaa55) {
            return Err(LinuxError::NoHeader("boot flag 0xaa55"));
        }
        if image.get(field::MAGIC..field::MAGIC + 4) != Some(b"HdrS") {
            return Err(LinuxError::NoHeader("magic number HdrS"));
        }
        let given = image.len() as u64;
        let cut = |needed| LinuxError::Truncated { needed, given };
        let get = |offset, length| number(offset, length).ok_or(cut((offset + length) as u64));
        let version = get(field::VERSION, 2)? as u16;
        if version < OLDEST {
            return Err(LinuxError::TooOld(version));
        }
        if get(field::LOAD_FLAGS, 1)? as u8 & LOADED_HIGH == 0 {
            return Err(LinuxError::LoadedLow);
        }
        let init_size = get(field::INIT_SIZE, 4)?;
        // The jump over the header ends where the header does.
        let end = field::MAGIC + get(field::JUMP_DISTANCE, 1)? as usize;
        // For the oldest kernels, 0 stood for 4.
        let sectors = match get(field::SETUP_SECTORS, 1)? {
            0 => 4,
            sectors => sectors,
        };
        let code = (sectors as usize + 1) * 512;
        let code_size = get(field::SYSTEM_SIZE, 4)? * 16;
        // The size is rounded up to 16 bytes, the file is not.
        let needed = (code as u64 + code_size.saturating_sub(15)).max(end as u64);
        if code_size == 0 || needed > given {
            return Err(cut(needed.max(code as u64 + 1)));
        }
        let address = match get(field::RELOCATABLE, 1)? {
            0 => FIXED_ADDRESS,
            _ => get(field::PREFERRED, 8)?.max(FIXED_ADDRESS),
        };
        Ok(Self {
            code,
            code_size,
            address,
            init_size: init_size.max(code_size),
            initrd_max: get(field::INITRD_MAX, 4)?,
            command_line_max: get(field::COMMAND_LINE_SIZE, 4)?.min(HIGH_START / 16),
            end: end.min(field::HEADER_END),
        })
    }

    /// Where everything goes in `memory` bytes of guest RAM from 0 on, with an initrd of `initrd_size` bytes (0 for none) and a
    /// command line of `command_line` bytes.
    ///
    /// # Errors
    /// [`LinuxError`], when there is no room.
    pub fn layout(&self, initrd_size: u64, command_line: u64, memory: u64) -> Result<Layout, LinuxError> {
        // Loader's data, command line and NUL included, stays below the window.
        let most = self.command_line_max.min(LOW_END - COMMAND_LINE - 1);
        if command_line > most {
            return Err(LinuxError::CommandLine { given: command_line, most });
        }
        let kernel_end = self.address.saturating_add(self.init_size);
        let pages = initrd_size.checked_next_multiple_of(PAGE).unwrap_or(u64::MAX);
        let needed = kernel_end.checked_next_multiple_of(PAGE).unwrap_or(u64::MAX).saturating_add(pages);
        if needed > memory {
            return Err(LinuxError::TooLittleMemory { needed, given: memory });
        }
        let top = memory.min(self.initrd_max.saturating_add(1)) & !(PAGE - 1);
        let initrd = top.checked_sub(pages).filter(|initrd| *initrd >= kernel_end || initrd_size == 0);
        let initrd = initrd.ok_or(LinuxError::InitrdOutOfReach(self.initrd_max.saturating_add(1)))?;
        Ok(Layout { kernel: self.address, initrd: Span { address: initrd, size: initrd_size } })
    }

    /// The protected-mode code in `image`, whose header this is.
    #[must_use]
    pub fn code<'i>(&self, image: &'i [u8]) -> &'i [u8] {
        let rest = image.get(self.code..).unwrap_or_default();
        rest.get(..usize::try_from(self.code_size).unwrap_or(usize::MAX)).unwrap_or(rest)
    }

    /// The zero page ("Zero Page"): the header of `image` with what a loader fills in, and the memory map.
    #[must_use]
    pub fn zero_page(&self, image: &[u8], layout: &Layout, memory: u64) -> [u8; PAGE as usize] {
        let mut page = [0; PAGE as usize];
        if let Some(header) = image.get(field::HEADER..self.end) {
            page[field::HEADER..self.end].copy_from_slice(header);
        }
        let mut set = |offset: usize, bytes: &[u8]| page[offset..offset + bytes.len()].copy_from_slice(bytes);
        let initrd = layout.initrd;
        set(field::VIDEO_MODE, &NORMAL_MODE.to_le_bytes());
        set(field::LOADER, &[UNKNOWN_LOADER]);
        // Only that: there is no heap for the real-mode code, which does not run.
        set(field::LOAD_FLAGS, &[LOADED_HIGH]);
        for (offset, value) in [
            (field::ENTRY_32, layout.kernel),
            (field::INITRD_ADDRESS, if initrd.size == 0 { 0 } else { initrd.address }),
            (field::INITRD_SIZE, initrd.size),
            (field::COMMAND_LINE, COMMAND_LINE),
        ] {
            // All of it lies in guest RAM, below 4 GiB.
            set(offset, &(value as u32).to_le_bytes());
        }
        let map = memory_map(memory);
        set(field::MAP_ENTRIES, &[map.len() as u8]);
        for (index, (start, size, kind)) in map.into_iter().enumerate() {
            let entry = field::MAP + 20 * index;
            set(entry, &start.to_le_bytes());
            set(entry + 8, &size.to_le_bytes());
            set(entry + 16, &kind.to_le_bytes());
        }
        page
    }
}

/// The memory map of a guest with so many bytes of RAM: start, length, and 1 for RAM or 2 for reserved.
#[must_use]
pub const fn memory_map(memory: u64) -> [(u64, u64, u32); 3] {
    const USABLE: u32 = 1;
    const RESERVED: u32 = 2;
    [
        (0, LOW_END, USABLE),
        (LOW_END, HIGH_START - LOW_END, RESERVED),
        (HIGH_START, memory.saturating_sub(HIGH_START), USABLE),
    ]
}

/// Where things lie in guest RAM, beside the loader's data.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Layout {
    /// The protected-mode code; its first byte is the 32-bit entry.
    pub kernel: u64,
    /// The initial RAM disk.
    pub initrd: Span,
}

#[cfg(test)]
mod tests;
