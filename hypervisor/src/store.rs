//! Where the pages of guests go that are paged out: a run of the machine's memory that is no part of the pool, as a disk would be.
//!
//! Layout: an entry for each page of each guest, then slots of one page each. A page all of whose words are the same (most of those
//! are zero) is kept in its entry and takes no slot. Whatever a page was once given stays until it is given anew: a page that the guest
//! does not write to goes out again without being copied.
//!
//! **Checksums.** An entry has one of its contents, its guest and its number. What is read is checked against it: a page that was
//! damaged, or lies where another one's entry says, is an error and never a guest's memory.

use crate::guest::Content;
use alloc::vec::Vec;
use slat::{BackendError, BackendPage, PAGE_SIZE, Pager};
use slat_hv_protocol::Mistake;
use slat_hv_protocol::pause::PATTERN;
use spin::Mutex;
use thiserror::Error;

const PAGE: usize = PAGE_SIZE as usize;

/// Bytes of an entry: where the page is, its checksum, and the word that it consists of.
const ENTRY: usize = 24;

/// An entry's place: the page was never given; it consists of one word; it is in slot 0, and so on.
const NOWHERE: u64 = 0;
const IN_ENTRY: u64 = 1;
const FIRST_SLOT: u64 = 2;

/// Why there is no store.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum StoreError {
    /// There is not even room to know where the pages are.
    #[error("the store of paged-out pages needs {needed} bytes to begin with, and has {given}")]
    TooSmall {
        /// Bytes for the entries and one slot.
        needed: u64,
        /// Bytes that there are.
        given: u64,
    },
}

/// What became of one guest's pages.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct StoreCounts {
    /// Pages given.
    pub given: u64,
    /// Of those, how many consist of one word.
    pub same: u64,
    /// Pages read that had been given.
    pub read: u64,
    /// Pages that were not what had been given.
    pub damaged: u64,
}

/// The store of all guests.
pub struct Store(Mutex<State>);

struct State {
    area: &'static mut [u8],
    /// Pages of each guest.
    pages: u64,
    /// Where the slots begin.
    slots: usize,
    /// Slots that have been used at some time; those behind them never were.
    used: u64,
    /// Slots that were used and are free.
    free: Vec<u64>,
    /// Most slots in use at one time.
    peak: u64,
    counts: Vec<StoreCounts>,
    /// A mistake that is still to be made.
    mistake: Mistake,
}

impl Store {
    /// A store in `area` for `guests` guests with `memory` bytes each, which has nothing yet.
    ///
    /// A mistake on purpose: by [`Mistake::LostPageOut`] one page that begins with [`PATTERN`] is not kept; by
    /// [`Mistake::DamagedPageOut`] a bit of one in the store changes.
    ///
    /// # Errors
    /// [`StoreError::TooSmall`].
    pub fn new(
        area: &'static mut [u8],
        guests: u32,
        memory: u64,
        mistake: Mistake,
    ) -> Result<Self, StoreError> {
        let pages = memory / PAGE_SIZE;
        let given = area.len() as u64;
        let needed = pages.saturating_mul(u64::from(guests)).saturating_mul(ENTRY as u64);
        let needed = needed.saturating_add(PAGE_SIZE);
        let slots = usize::try_from(needed - PAGE_SIZE).ok().filter(|_| needed <= given);
        let Some(slots) = slots else { return Err(StoreError::TooSmall { needed, given }) };
        if let Some(entries) = area.get_mut(..slots) {
            entries.fill(0);
        }
        let counts = (0..guests).map(|_| StoreCounts::default()).collect();
        Ok(Self(Mutex::new(State {
            area,
            pages,
            slots,
            used: 0,
            free: Vec::new(),
            peak: 0,
            counts,
            mistake,
        })))
    }

    /// What became of the pages of guest `guest`.
    pub fn counts(&self, guest: u16) -> StoreCounts {
        self.0.lock().counts.get(usize::from(guest)).copied().unwrap_or_default()
    }

    /// Slots that there are, and how many were in use at one time at the most.
    pub fn slots(&self) -> (u64, u64) {
        let state = self.0.lock();
        (state.slot_count(), state.peak)
    }

    /// Keeps `bytes` as page `number` of guest `guest`.
    ///
    /// # Errors
    /// [`BackendError::OutOfMemory`] when all slots are taken, [`BackendError::NoSuchPage`].
    pub fn put(&self, guest: u16, number: u64, bytes: &[u8]) -> Result<(), BackendError> {
        self.0.lock().put(guest, number, bytes)
    }

    /// Writes what page `number` of guest `guest` was given at last to `bytes`; `false` if that was nothing.
    ///
    /// # Errors
    /// [`BackendError::NoSuchPage`], also if what is there is not what was given.
    pub fn get(&self, guest: u16, number: u64, bytes: &mut [u8]) -> Result<bool, BackendError> {
        self.0.lock().get(guest, number, bytes)
    }
}

#[derive(Clone, Copy)]
struct Entry {
    place: u64,
    checksum: u64,
    word: u64,
}

impl State {
    fn slot_count(&self) -> u64 {
        (self.area.len().saturating_sub(self.slots) / PAGE) as u64
    }

    /// Where the entry of a page begins.
    fn entry_at(&self, guest: u16, number: u64) -> Option<usize> {
        let is_there = usize::from(guest) < self.counts.len() && number < self.pages;
        let index = u64::from(guest).checked_mul(self.pages)?.checked_add(number).filter(|_| is_there)?;
        usize::try_from(index).ok()?.checked_mul(ENTRY)
    }

    fn entry(&self, at: usize) -> Option<Entry> {
        let [place, checksum, word] = [at, at + 8, at + 16].map(|at| self.word(at));
        Some(Entry { place: place?, checksum: checksum?, word: word? })
    }

    fn word(&self, at: usize) -> Option<u64> {
        self.area.get(at..)?.first_chunk().map(|word| u64::from_le_bytes(*word))
    }

    fn set_entry(&mut self, at: usize, entry: Entry) {
        let words = [entry.place, entry.checksum, entry.word];
        let place = self.area.get_mut(at..).unwrap_or_default();
        for (place, word) in place.chunks_exact_mut(8).zip(words) {
            place.copy_from_slice(&word.to_le_bytes());
        }
    }

    fn slot(&mut self, number: u64) -> Option<&mut [u8]> {
        let start = usize::try_from(number).ok()?.checked_mul(PAGE)?.checked_add(self.slots)?;
        self.area.get_mut(start..start.checked_add(PAGE)?)
    }

    /// A slot that is free.
    fn take_slot(&mut self) -> Option<u64> {
        let slot = match self.free.pop() {
            Some(slot) => slot,
            None if self.used < self.slot_count() => {
                self.used += 1;
                self.used - 1
            }
            None => return None,
        };
        self.peak = self.peak.max(self.used - self.free.len() as u64);
        Some(slot)
    }

    fn put(&mut self, guest: u16, number: u64, bytes: &[u8]) -> Result<(), BackendError> {
        let at = self.entry_at(guest, number).ok_or(BackendError::NoSuchPage)?;
        let old = self.entry(at).ok_or(BackendError::NoSuchPage)?;
        let is_hit = self.mistake != Mistake::None && bytes.starts_with(PATTERN.as_bytes());
        let mistake = if is_hit { core::mem::take(&mut self.mistake) } else { Mistake::None };
        if mistake == Mistake::LostPageOut {
            return Ok(());
        }
        let checksum = checksum(guest, number, bytes);
        let had = old.place.checked_sub(FIRST_SLOT).filter(|slot| *slot < self.used);
        let place = if let Some(word) = only_word(bytes) {
            if let Some(slot) = had {
                self.free.try_reserve(1).map_err(|_| BackendError::OutOfMemory)?;
                self.free.push(slot);
            }
            self.set_entry(at, Entry { place: IN_ENTRY, checksum, word });
            None
        } else {
            let slot = had.or_else(|| self.take_slot()).ok_or(BackendError::OutOfMemory)?;
            self.set_entry(at, Entry { place: slot + FIRST_SLOT, checksum, word: 0 });
            Some(slot)
        };
        if let Some(kept) = place.and_then(|slot| self.slot(slot)) {
            kept.copy_from_slice(bytes);
            if let (Mistake::DamagedPageOut, Some(last)) = (mistake, kept.last_mut()) {
                *last ^= 1;
            }
        }
        if let Some(counts) = self.counts.get_mut(usize::from(guest)) {
            counts.given += 1;
            counts.same += u64::from(place.is_none());
        }
        Ok(())
    }

    fn get(&mut self, guest: u16, number: u64, bytes: &mut [u8]) -> Result<bool, BackendError> {
        let at = self.entry_at(guest, number).ok_or(BackendError::NoSuchPage)?;
        let entry = self.entry(at).ok_or(BackendError::NoSuchPage)?;
        match entry.place {
            NOWHERE if (entry.checksum, entry.word) == (0, 0) => return Ok(false),
            IN_ENTRY => {
                bytes.chunks_exact_mut(8).for_each(|place| place.copy_from_slice(&entry.word.to_le_bytes()))
            }
            place => match place.checked_sub(FIRST_SLOT).and_then(|slot| self.slot(slot)) {
                Some(kept) => bytes.copy_from_slice(kept),
                // The entry itself is damaged, and the checksum is not that of zeroes.
                None => bytes.fill(0),
            },
        }
        let right = checksum(guest, number, bytes) == entry.checksum;
        if let Some(counts) = self.counts.get_mut(usize::from(guest)) {
            counts.read += 1;
            counts.damaged += u64::from(!right);
        }
        if right { Ok(true) } else { Err(BackendError::NoSuchPage) }
    }
}

/// The word that all words of `bytes` are, if they are all the same.
fn only_word(bytes: &[u8]) -> Option<u64> {
    let mut words = bytes.chunks_exact(8);
    let first: &[u8; 8] = words.next()?.first_chunk()?;
    words.all(|word| word == first).then(|| u64::from_le_bytes(*first))
}

/// Of a page: each step can be undone if the word is known, so that no change within one word goes unnoticed.
fn checksum(guest: u16, number: u64, bytes: &[u8]) -> u64 {
    let words = bytes.chunks_exact(8).filter_map(|word| word.first_chunk());
    let words = words.map(|word| u64::from_le_bytes(*word));
    [u64::from(guest), number]
        .into_iter()
        .chain(words)
        .fold(0, |sum: u64, word| (sum.rotate_left(23) ^ word).wrapping_mul(0x9e37_79b9_7f4a_7c15))
}

/// The pager of one guest's space: the store, and before it has anything of a page, what the guest begins with. The default is of
/// spaces that page nothing.
#[derive(Clone, Default)]
pub struct Swap<'a> {
    store: Option<&'a Store>,
    content: Content<'a>,
}

impl<'a> Swap<'a> {
    /// The pager of a guest that finds `content` in its memory when it begins.
    pub fn new(store: &'a Store, content: Content<'a>) -> Self {
        Self { store: Some(store), content }
    }

    /// The store, if there is one.
    pub fn store(&self) -> Option<&'a Store> {
        self.store
    }
}

impl Pager for Swap<'_> {
    fn page_in(&self, page: &BackendPage, bytes: &mut [u8]) -> Result<(), BackendError> {
        let store = self.store.ok_or(BackendError::NoSuchPage)?;
        if !store.get(page.source, page.offset / PAGE_SIZE, bytes)? {
            self.content.fill(page.gpa.as_u64(), bytes);
        }
        Ok(())
    }

    fn page_out(&self, page: &BackendPage, bytes: &[u8]) -> Result<(), BackendError> {
        let store = self.store.ok_or(BackendError::NoSuchPage)?;
        store.put(page.source, page.offset / PAGE_SIZE, bytes)
    }
}

#[cfg(test)]
mod tests;
