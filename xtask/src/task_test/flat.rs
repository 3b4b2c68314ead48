//! Turns a linked program into the flat binary that boot protocols want: every loadable segment at its distance
//! from the lowest one.

use anyhow::{Context, Result, ensure};
use object::read::elf::{ElfFile64, ProgramHeader};
use object::{LittleEndian, elf};

/// The largest flat binary that is believed; a stray segment at an odd address would make a huge one.
const LARGEST: u64 = 64 << 20;

/// The flat binary of the ELF file `bytes`. Memory beyond a segment's file bytes is written out as zeroes.
pub(crate) fn flatten(bytes: &[u8]) -> Result<Vec<u8>> {
    let file = ElfFile64::<LittleEndian>::parse(bytes).context("not a 64-bit little-endian ELF file")?;
    let endian = LittleEndian;
    let headers = file.elf_program_headers();
    let loads = || {
        headers.iter().filter(|header| header.p_type(endian) == elf::PT_LOAD && header.p_memsz(endian) > 0)
    };
    let start =
        loads().map(|header| header.p_paddr(endian)).min().context("the ELF file has nothing to load")?;
    let mut flat = Vec::new();
    for header in loads() {
        let offset = header.p_paddr(endian) - start;
        let end = offset.saturating_add(header.p_memsz(endian));
        ensure!(end <= LARGEST, "the ELF file spreads over {end} bytes");
        let data = header.data(endian, bytes).ok().context("a segment lies outside the ELF file")?;
        let (offset, end) = (usize::try_from(offset)?, usize::try_from(end)?);
        if flat.len() < end {
            flat.resize(end, 0);
        }
        let target = flat.get_mut(offset..offset + data.len()).context("a segment is larger in the file")?;
        target.copy_from_slice(data);
    }
    Ok(flat)
}

#[cfg(test)]
mod tests;
