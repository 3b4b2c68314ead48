//! A guest that was written away: all that is needed to let it go on, in one run of bytes.
//!
//! **Layout,** in little-endian words: [`MAGIC`], [`VERSION`], the length of all in bytes, a checksum of all (with 0 in its own place),
//! the length of the state in bytes, the number of pages; then the [`State`] as JSON, filled up with blanks so that the pages begin at a
//! multiple of 4 KiB; then the pages of the guest's memory that are not zero, 4 KiB each; then the guest-physical address of each, in
//! ascending order. **Invariant:** what [`Snapshot::read`] returns is complete and unchanged: of what is cut off, damaged, of another
//! version or something else it says so.

use crate::Span;
use alloc::string::String;
use alloc::vec::Vec;
use core::fmt;
use serde::{Deserialize, Serialize};

/// The first bytes.
pub const MAGIC: [u8; 8] = *b"SLATSNAP";

/// The version of the layout and of the state.
pub const VERSION: u64 = 1;

/// Bytes of a page.
pub const PAGE: usize = 4096;

const HEADER_WORDS: usize = 6;
const HEADER: usize = 8 * HEADER_WORDS;
const CHECKSUM: usize = 3;

/// Bytes that the state may take beside the pages: far more than it does.
const STATE_MAX: u64 = 1 << 16;

/// The room that a snapshot of a guest with so many bytes of RAM takes at the most.
#[must_use]
pub const fn most_bytes(memory: u64) -> u64 {
    memory + memory / PAGE as u64 * 8 + STATE_MAX + 2 * PAGE as u64
}

/// What a guest is, apart from its memory.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct State {
    /// The architecture of host and guest.
    pub arch: String,
    /// The kind of second-level table that it had: the mode of hgatp. It need not have the same again.
    pub mode: String,
    /// What its CPU was like, which has to be the same again: the ISA as the guest was told.
    pub isa: String,
    /// Its RAM, guest-physical.
    pub ram: Span,
    /// The regions of its address space.
    pub regions: Vec<Region>,
    /// The state of its CPU.
    pub cpu: Vec<u64>,
    /// The state of its serial port.
    pub port: Vec<u8>,
}

/// A region of a guest's address space.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Region {
    /// Its addresses, guest-physical.
    pub range: Span,
    /// What the guest may do, as slat's flags.
    pub flags: u32,
    /// What is there.
    pub kind: String,
}

/// Why bytes are no snapshot that a guest can go on from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SnapshotError {
    /// Something else.
    NoSnapshot,
    /// Another version.
    Version(u64),
    /// So many bytes are there, of so many.
    Length(u64, u64),
    /// It has changed since it was made.
    Damaged,
    /// The checksum is right, but what was written makes no sense.
    Nonsense(&'static str),
    /// There is no room for it.
    NoRoom,
}

impl fmt::Display for SnapshotError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoSnapshot => f.write_str("it is no snapshot of a guest: the magic number is missing"),
            Self::Version(found) => write!(f, "it is of version {found}, and {VERSION} is wanted"),
            Self::Length(found, wanted) if found < wanted => {
                write!(f, "it is cut off: {found} bytes of {wanted} are there")
            }
            Self::Length(found, wanted) => {
                write!(f, "something follows it: {found} bytes instead of {wanted}")
            }
            Self::Damaged => f.write_str("it is damaged: its checksum is another one"),
            Self::Nonsense(what) => write!(f, "its {what} makes no sense"),
            Self::NoRoom => f.write_str("there is no room for it"),
        }
    }
}

impl core::error::Error for SnapshotError {}

/// Takes word after word in. Each step can be undone if the word is known, so that a change within one word cannot go unnoticed.
#[derive(Clone, Copy)]
struct Checksum(u64);

impl Checksum {
    fn add(&mut self, word: u64) {
        self.0 = (self.0.rotate_left(23) ^ word).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    }

    /// Of all words of `bytes`, with 0 for the checksum itself.
    fn of(bytes: &[u8]) -> u64 {
        let mut sum = Self(0);
        for (index, word) in bytes.chunks_exact(8).enumerate() {
            sum.add(if index == CHECKSUM { 0 } else { word_of(word) });
        }
        sum.0
    }
}

fn word_of(bytes: &[u8]) -> u64 {
    bytes.first_chunk().map_or(0, |word| u64::from_le_bytes(*word))
}

/// Writes a snapshot.
pub struct Writer<'a> {
    area: &'a mut [u8],
    state: u64,
    at: usize,
    pages: Vec<u64>,
}

impl<'a> Writer<'a> {
    /// A snapshot in `area`, of which it takes the beginning.
    ///
    /// # Errors
    /// [`SnapshotError::NoRoom`].
    pub fn new(area: &'a mut [u8], state: &State) -> Result<Self, SnapshotError> {
        let mut json = serde_json::to_vec(state).map_err(|_| SnapshotError::Nonsense("state"))?;
        json.resize((HEADER + json.len()).next_multiple_of(PAGE) - HEADER, b' ');
        let at = HEADER + json.len();
        let to = area.get_mut(HEADER..at).ok_or(SnapshotError::NoRoom)?;
        to.copy_from_slice(&json);
        Ok(Self { area, state: json.len() as u64, at, pages: Vec::new() })
    }

    /// Adds the page at `gpa`, which is above those that were added before, unless it is all zero.
    ///
    /// # Errors
    /// [`SnapshotError::NoRoom`].
    pub fn add(&mut self, gpa: u64, page: &[u8; PAGE]) -> Result<(), SnapshotError> {
        if page.iter().all(|byte| *byte == 0) {
            return Ok(());
        }
        let to = self.area.get_mut(self.at..self.at + PAGE).ok_or(SnapshotError::NoRoom)?;
        to.copy_from_slice(page);
        self.at += PAGE;
        self.pages.push(gpa);
        Ok(())
    }

    /// The length of the snapshot in bytes, and its pages. It is complete.
    ///
    /// # Errors
    /// [`SnapshotError::NoRoom`].
    pub fn finish(self) -> Result<(u64, u64), SnapshotError> {
        let Self { area, state, at, pages } = self;
        let count = pages.len() as u64;
        let length = at + 8 * pages.len();
        let whole = area.get_mut(..length).ok_or(SnapshotError::NoRoom)?;
        let (front, index) = whole.split_at_mut(at);
        for (to, gpa) in index.chunks_exact_mut(8).zip(pages) {
            to.copy_from_slice(&gpa.to_le_bytes());
        }
        let header = [word_of(&MAGIC), VERSION, length as u64, 0, state, count];
        for (to, word) in front.chunks_exact_mut(8).zip(header) {
            to.copy_from_slice(&word.to_le_bytes());
        }
        let sum = Checksum::of(whole).to_le_bytes();
        if let Some(to) = whole.get_mut(8 * CHECKSUM..8 * CHECKSUM + 8) {
            to.copy_from_slice(&sum);
        }
        Ok((length as u64, count))
    }
}

/// A snapshot.
#[derive(Clone, Debug)]
pub struct Snapshot<'a> {
    /// What the guest is.
    pub state: State,
    pages: &'a [u8],
    index: &'a [u8],
}

impl<'a> Snapshot<'a> {
    /// The snapshot that `bytes` are.
    ///
    /// # Errors
    /// [`SnapshotError`].
    pub fn read(bytes: &'a [u8]) -> Result<Self, SnapshotError> {
        if !bytes.starts_with(&MAGIC) {
            return Err(SnapshotError::NoSnapshot);
        }
        let found = bytes.len() as u64;
        let header = bytes.get(..HEADER).ok_or(SnapshotError::Length(found, HEADER as u64))?;
        let word = |index: usize| header.get(8 * index..).map_or(0, word_of);
        if word(1) != VERSION {
            return Err(SnapshotError::Version(word(1)));
        }
        if word(2) != found {
            return Err(SnapshotError::Length(found, word(2)));
        }
        if found % 8 != 0 || Checksum::of(bytes) != word(CHECKSUM) {
            return Err(SnapshotError::Damaged);
        }
        let length = |index| usize::try_from(word(index)).ok();
        let parts = || {
            let (state, rest) = bytes.get(HEADER..)?.split_at_checked(length(4)?)?;
            let (pages, index) = rest.split_at_checked(length(5)?.checked_mul(PAGE)?)?;
            (index.len() == length(5)?.checked_mul(8)?).then_some((state, pages, index))
        };
        let (state, pages, index) = parts().ok_or(SnapshotError::Nonsense("header"))?;
        let state = serde_json::from_slice::<State>(state).map_err(|_| SnapshotError::Nonsense("state"))?;
        let snapshot = Self { state, pages, index };
        let Span { address, size } = snapshot.state.ram;
        let mut next = address;
        for (gpa, _) in snapshot.pages() {
            let offset = gpa.wrapping_sub(address);
            if gpa < next || offset >= size || offset % PAGE as u64 != 0 {
                return Err(SnapshotError::Nonsense("list of pages"));
            }
            next = gpa.saturating_add(1);
        }
        Ok(snapshot)
    }

    /// The pages that are not zero, by their guest-physical addresses.
    pub fn pages(&self) -> impl Iterator<Item = (u64, &'a [u8])> + use<'a> {
        self.index.chunks_exact(8).map(word_of).zip(self.pages.chunks_exact(PAGE))
    }
}

/// What a snapshot took.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Saved {
    /// Its length in bytes.
    pub bytes: u64,
    /// Pages of 4 KiB in it.
    pub pages: u64,
    /// Pages of 4 KiB of the guest's RAM.
    pub of_pages: u64,
    /// Ticks that it took.
    pub ticks: u64,
    /// Ticks of the clock in a second.
    pub ticks_per_second: u64,
}

#[cfg(test)]
mod tests;
