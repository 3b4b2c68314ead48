//! Dumps: physical memory out of files.
//!
//! Invariant: the pieces are in order and do not overlap, and each lies within its file: [`Dump::read`] needs no more than a
//! binary search, whatever the files say. Files are mapped, never read through: what is not looked at costs nothing.

mod core_file;
mod source;

use crate::PhysicalMemory;
use anyhow::{Context, Result, bail, ensure};
pub(crate) use core_file::Cpu;
pub(crate) use source::Source;
use std::fs::File;
use std::io;
use std::ops::Deref;
use std::path::Path;

/// The bytes of a file, wherever they are.
pub enum Bytes {
    /// Mapped into memory.
    Mapped(memmap2::Mmap),
    /// Read.
    Owned(Vec<u8>),
}

impl Deref for Bytes {
    type Target = [u8];

    #[inline]
    fn deref(&self) -> &[u8] {
        match self {
            Self::Mapped(map) => map,
            Self::Owned(bytes) => bytes,
        }
    }
}

/// Makes the bytes of a file readable. The program maps it; a test need not.
pub type Opener = fn(&File) -> io::Result<Bytes>;

/// Physical memory, as far as it was dumped.
pub(crate) struct Dump {
    files: Vec<Bytes>,
    pieces: Vec<Piece>,
    /// What the dump says of the CPUs.
    pub(crate) cpus: Vec<Cpu>,
}

/// A part of a file that is a part of memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Piece {
    /// The physical address of its first byte, a multiple of 8.
    base: u64,
    /// Bytes, a multiple of 8, not 0; `base + size` does not overflow.
    size: u64,
    /// Which file.
    file: usize,
    /// Where in the file.
    offset: u64,
}

impl Piece {
    /// The part of it that consists of whole words, if there is any. What cannot be addressed is left out.
    fn whole_words(self) -> Option<Self> {
        let skip = self.base.next_multiple_of(8) - self.base;
        let base = self.base.checked_add(skip)?;
        let size = self.size.checked_sub(skip)?.min(u64::MAX - base) & !7;
        let piece = Self { base, size, offset: self.offset + skip, ..self };
        (size > 0).then_some(piece)
    }

    fn end(&self) -> u64 {
        self.base + self.size
    }

    /// Whether both are the same bytes of the same file where they overlap.
    fn agrees(&self, other: &Self) -> bool {
        self.file == other.file
            && self.base.wrapping_sub(self.offset) == other.base.wrapping_sub(other.offset)
    }
}

/// What is done about files that lack something.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Tolerance {
    /// Whether a file may be shorter than its header says: what is not there is not in the dump.
    pub(crate) truncated: bool,
}

impl Dump {
    /// Opens the files of `sources`.
    pub(crate) fn open(sources: &[Source], tolerance: Tolerance, opener: Opener) -> Result<Self> {
        let mut dump = Self { files: Vec::new(), pieces: Vec::new(), cpus: Vec::new() };
        for Source { path, base } in sources {
            let bytes = open(path, opener)?;
            dump.add(bytes, *base, tolerance).with_context(|| path.display().to_string())?;
        }
        dump.put_in_order()?;
        Ok(dump)
    }

    /// A dump that is these bytes, as a file is one.
    pub(crate) fn of_bytes(bytes: Vec<u8>, base: Option<u64>, tolerance: Tolerance) -> Result<Self> {
        let mut dump = Self { files: Vec::new(), pieces: Vec::new(), cpus: Vec::new() };
        dump.add(Bytes::Owned(bytes), base, tolerance)?;
        dump.put_in_order()?;
        Ok(dump)
    }

    /// Adds a file: raw memory from `base` on, or a core file, which knows its addresses.
    fn add(&mut self, bytes: Bytes, base: Option<u64>, tolerance: Tolerance) -> Result<()> {
        let file = self.files.len();
        match base {
            None if core_file::is_elf(&bytes) => {
                let (pieces, cpus) = core_file::parse(&bytes, tolerance)?;
                self.pieces
                    .extend(pieces.into_iter().filter_map(|piece| Piece { file, ..piece }.whole_words()));
                self.cpus.extend(cpus);
            }
            None if bytes.starts_with(b"KDUMP   ") || bytes.starts_with(b"makedumpfile") => {
                bail!("it is compressed (kdump): have QEMU's dump-guest-memory write it without -z, -l, -s")
            }
            base => {
                let base = base.unwrap_or(0);
                let size = bytes.len() as u64;
                ensure!(size >= 8, "it is empty");
                ensure!(
                    base.checked_add(size).is_some(),
                    "from {base:#x} on it reaches beyond the end of memory"
                );
                self.pieces.extend(Piece { base, size, file, offset: 0 }.whole_words());
            }
        }
        self.files.push(bytes);
        Ok(())
    }

    /// Sorts the pieces, and joins those that say the same twice.
    fn put_in_order(&mut self) -> Result<()> {
        self.pieces.sort_by_key(|piece| (piece.base, piece.size));
        let mut pieces: Vec<Piece> = Vec::with_capacity(self.pieces.len());
        for piece in self.pieces.drain(..) {
            match pieces.last_mut() {
                Some(last) if piece.base < last.end() => {
                    ensure!(
                        last.agrees(&piece),
                        "two parts of the dump overlap: {:#x}-{:#x} and {:#x}-{:#x}",
                        last.base,
                        last.end(),
                        piece.base,
                        piece.end()
                    );
                    last.size = last.end().max(piece.end()) - last.base;
                }
                Some(last) if piece.base == last.end() && last.agrees(&piece) => last.size += piece.size,
                _ => pieces.push(piece),
            }
        }
        ensure!(!pieces.is_empty(), "there is no memory in the dump");
        self.pieces = pieces;
        Ok(())
    }

    /// The ranges of memory that there are, in order: first and last address.
    pub(crate) fn ranges(&self) -> impl Iterator<Item = (u64, u64)> + '_ {
        self.pieces.iter().map(|piece| (piece.base, piece.end() - 1))
    }

    /// Bytes of memory.
    pub(crate) fn size(&self) -> u64 {
        self.pieces.iter().map(|piece| piece.size).sum()
    }
}

impl PhysicalMemory for Dump {
    #[inline]
    fn read(&self, address: u64) -> Option<u64> {
        let index = self.pieces.partition_point(|piece| piece.base <= address).checked_sub(1)?;
        let piece = self.pieces.get(index)?;
        let within = address - piece.base;
        if within >= piece.size {
            return None;
        }
        let offset = usize::try_from(piece.offset + within).ok()?;
        let bytes = self.files.get(piece.file)?.get(offset..)?.first_chunk()?;
        Some(u64::from_le_bytes(*bytes))
    }
}

fn open(path: &Path, opener: Opener) -> Result<Bytes> {
    let file = File::open(path).with_context(|| format!("cannot open {}", path.display()))?;
    let metadata = file.metadata().with_context(|| format!("cannot read {}", path.display()))?;
    ensure!(metadata.is_file(), "{}: it is no regular file, and only those can be mapped", path.display());
    // An empty file cannot be mapped, and nothing could be found in it.
    ensure!(metadata.len() > 0, "{}: it is empty", path.display());
    opener(&file).with_context(|| format!("cannot map {}", path.display()))
}

#[cfg(test)]
pub(crate) mod tests;
