//! Core files as QEMU's `dump-guest-memory` writes them: 64-bit little-endian ELF, memory in `PT_LOAD` segments by their physical
//! addresses, CPUs in notes. Formats: System V ABI, "Object Files" and "Program Loading"; QEMU's notes have the name `QEMU`,
//! type 0, and a version of their own.
//!
//! Nothing in the file is believed: each offset and size is checked against the file before it is used.

use super::{Piece, Tolerance};
use anyhow::{Context, Result, bail, ensure};

/// What the dump says of a CPU.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Cpu {
    /// CR0.
    pub(crate) cr0: u64,
    /// CR3.
    pub(crate) cr3: u64,
    /// CR4.
    pub(crate) cr4: u64,
    /// The instruction pointer.
    pub(crate) rip: u64,
}

const ELF_HEADER: u64 = 64;
const PROGRAM_HEADER: u64 = 56;
const SECTION_HEADER: u64 = 64;
const ET_CORE: u16 = 4;
const PT_LOAD: u32 = 1;
const PT_NOTE: u32 = 4;
/// The count of program headers stands elsewhere.
const PN_XNUM: u16 = 0xffff;
/// More CPUs than any machine has, and notes of a hostile file cost no more memory than that.
const MOST_CPUS: usize = 4096;

/// Where things lie in QEMU's note of a CPU, version 1: a version, a size, 18 registers, ten segments of 24 bytes, CR0 to CR4.
const NOTE_VERSION: u32 = 1;
const NOTE_RIP: u64 = 8 + 16 * 8;
const NOTE_CR0: u64 = 8 + 18 * 8 + 10 * 24;
const NOTE_CR3: u64 = NOTE_CR0 + 3 * 8;
const NOTE_CR4: u64 = NOTE_CR0 + 4 * 8;

/// Whether it is an ELF file of any kind.
pub(super) fn is_elf(bytes: &[u8]) -> bool {
    bytes.starts_with(b"\x7fELF")
}

/// The pieces of memory in a core file, as they are in it (`file` is 0), and its CPUs.
pub(super) fn parse(bytes: &[u8], tolerance: Tolerance) -> Result<(Vec<Piece>, Vec<Cpu>)> {
    let file = Reader(bytes);
    ensure!(file.size() >= ELF_HEADER, "the ELF header is cut off");
    match (bytes[4], bytes[5]) {
        (2, 1) => {}
        (1, _) => bail!("it is a 32-bit ELF file: the guest was not in 64-bit mode when it was dumped"),
        (_, 2) => bail!("it is a big-endian ELF file"),
        _ => bail!("its ELF header names no class or byte order"),
    }
    ensure!(
        file.u16(16)? == ET_CORE,
        "it is an ELF file, but no core file; for raw memory that begins like one give --base"
    );
    let (mut pieces, mut cpus) = (Vec::new(), Vec::new());
    for (index, header) in program_headers(&file)?.enumerate() {
        let kind = file.u32(header)?;
        let (offset, size) = (file.u64(header + 8)?, file.u64(header + 32)?);
        let there = file.size().saturating_sub(offset).min(size);
        ensure!(
            kind != PT_LOAD && kind != PT_NOTE || there == size || tolerance.truncated,
            "segment {index} should end at byte {:#x} of the file, which has {:#x}: it is cut off \
             (--truncated reads what there is)",
            u128::from(offset) + u128::from(size),
            file.size()
        );
        if kind == PT_LOAD && there > 0 {
            let base = file.u64(header + 24)?;
            ensure!(
                base.checked_add(there).is_some(),
                "segment {index} reaches beyond the end of memory: {there:#x} bytes from {base:#x} on"
            );
            pieces.push(Piece { base, size: there, file: 0, offset });
        } else if kind == PT_NOTE && there > 0 {
            notes(&file, offset, there, &mut cpus)
                .or_else(|error| if tolerance.truncated { Ok(()) } else { Err(error) })
                .with_context(|| format!("the notes in segment {index}"))?;
        }
    }
    Ok((pieces, cpus))
}

/// Where the program headers are, all of them within the file.
fn program_headers(file: &Reader<'_>) -> Result<impl Iterator<Item = u64> + use<>> {
    let (table, size) = (file.u64(32)?, u64::from(file.u16(54)?));
    let count = match file.u16(56)? {
        PN_XNUM => {
            let sections = file.u64(40)?;
            ensure!(
                sections != 0 && file.has(sections, SECTION_HEADER),
                "the number of its segments is in a section header that is not there"
            );
            u64::from(file.u32(sections + 44)?)
        }
        count => u64::from(count),
    };
    ensure!(count > 0, "it has no segments");
    ensure!(
        size >= PROGRAM_HEADER,
        "its program headers have {size} bytes each; {PROGRAM_HEADER} are needed"
    );
    // Neither product nor sum can overflow: the count has 32 bits, the size 16.
    ensure!(file.has(table, count * size), "its table of {count} program headers is not within the file");
    Ok((0..count).map(move |index| table + index * size))
}

/// Adds the CPUs of the notes in so many bytes from `offset` on, which are within the file.
fn notes(file: &Reader<'_>, offset: u64, size: u64, cpus: &mut Vec<Cpu>) -> Result<()> {
    let end = offset + size;
    let mut at = offset;
    // Each round goes on by at least the header.
    while end - at >= 12 {
        let (name_size, size) = (u64::from(file.u32(at)?), u64::from(file.u32(at + 4)?));
        let kind = file.u32(at + 8)?;
        let name = at + 12;
        let description = name + name_size.next_multiple_of(4);
        let next = description + size.next_multiple_of(4);
        // The last one may go without its padding.
        ensure!(description + size <= end, "a note at byte {at:#x} of the file is longer than its segment");
        let is_qemu = kind == 0 && name_size == 5 && file.bytes(name, 5)? == b"QEMU\0";
        if is_qemu && size >= NOTE_CR4 + 8 && file.u32(description)? == NOTE_VERSION {
            ensure!(cpus.len() < MOST_CPUS, "there are more than {MOST_CPUS} CPUs in it");
            let register = |offset| file.u64(description + offset);
            let (cr0, cr3, cr4) = (register(NOTE_CR0)?, register(NOTE_CR3)?, register(NOTE_CR4)?);
            cpus.push(Cpu { cr0, cr3, cr4, rip: register(NOTE_RIP)? });
        }
        if next >= end {
            break;
        }
        at = next;
    }
    Ok(())
}

/// Reads little-endian numbers, and says where there is none.
struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn size(&self) -> u64 {
        self.0.len() as u64
    }

    fn has(&self, offset: u64, size: u64) -> bool {
        offset.checked_add(size).is_some_and(|end| end <= self.size())
    }

    fn bytes(&self, offset: u64, size: usize) -> Result<&'a [u8]> {
        let start = usize::try_from(offset).ok();
        let bytes = start.and_then(|start| self.0.get(start..start.checked_add(size)?));
        bytes.with_context(|| format!("it is cut off: there is nothing at byte {offset:#x}"))
    }

    fn array<const N: usize>(&self, offset: u64) -> Result<[u8; N]> {
        let bytes = self.bytes(offset, N)?.first_chunk();
        bytes.copied().context("it is cut off")
    }

    fn u16(&self, offset: u64) -> Result<u16> {
        self.array(offset).map(u16::from_le_bytes)
    }

    fn u32(&self, offset: u64) -> Result<u32> {
        self.array(offset).map(u32::from_le_bytes)
    }

    fn u64(&self, offset: u64) -> Result<u64> {
        self.array(offset).map(u64::from_le_bytes)
    }
}
