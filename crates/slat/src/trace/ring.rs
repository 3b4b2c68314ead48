//! The ring: who writes waits for nobody, who reads gets whole events or learns that they are gone.
//!
//! **Protocol.** The words are a header of eight, of which the first counts the events and the second those that were
//! dropped, then slots of eight words, as many as fit and are a power of two. A writer takes a number from the count; the
//! event of number `n` belongs into slot `n` modulo the slots, whose first word is its stamp: 0 in the beginning,
//! `2 * n + 1` while the event is written, `2 * n + 2` when it is there. A stamp only grows. The writer sets the odd one
//! by a compare-exchange from an even and older one; if the slot is busy (a writer that was overtaken by a whole
//! round, or that died in it) or newer, it drops its event and counts that. A reader takes an event if the stamp
//! was the same even one before and after.

use super::event::{Event, WORDS};
use crate::sync::{AtomicU64, Ordering, fence};
use core::fmt;
use thiserror::Error;

/// Words before the first slot: the count of events, the count of what was dropped, and the rest of a cache line.
const HEADER_WORDS: usize = 8;

/// Words of a slot: the stamp and the event.
const SLOT_WORDS: usize = 1 + WORDS;

/// A ring of [`Event`]s in memory of the caller's. Any number of CPUs write and read at the same time; a writer may be
/// interrupted by another one on its own CPU.
///
/// It is a view: two rings over the same words are the same ring.
#[derive(Clone, Copy)]
pub struct Ring<'m> {
    header: &'m [AtomicU64],
    /// A power of two of slots, or none.
    slots: &'m [AtomicU64],
}

/// Why there is no event of some number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum Absent {
    /// A newer one is in its place.
    #[error("a newer event is in its place")]
    Overwritten,
    /// It has not been written (completely) yet; or never will be, because its writer was dropped.
    #[error("it is not there yet, or was dropped")]
    Unwritten,
    /// The words in its place are no event: memory that something else wrote to.
    #[error("what stands in its place is no event")]
    Garbled,
}

impl<'m> Ring<'m> {
    /// The ring in these words: zeroes in the beginning, or a ring from before, or from elsewhere. `8 * (N + 1)` words hold
    /// `N` events if that is a power of two, else the next lower one. Cache lines of their own want memory that is
    /// aligned to 64 bytes. Memory for no event counts what it is given, or nothing at all, and keeps none.
    #[must_use]
    pub const fn new(words: &'m [AtomicU64]) -> Self {
        let (header, rest) =
            words.split_at(if words.len() < HEADER_WORDS { words.len() } else { HEADER_WORDS });
        let fit = rest.len() / SLOT_WORDS;
        let slots = if fit == 0 { 0 } else { 1 << fit.ilog2() };
        let (slots, _) = rest.split_at(slots * SLOT_WORDS);
        Self { header, slots }
    }

    /// How many events there is room for.
    #[must_use]
    pub const fn capacity(&self) -> usize {
        self.slots.len() / SLOT_WORDS
    }

    /// How many events there were until now: the number of the next one.
    #[must_use]
    pub fn recorded(&self) -> u64 {
        self.header.first().map_or(0, |count| count.load(Ordering::Acquire))
    }

    /// How many of those were dropped because their slot was busy: it takes a writer that others overtake by a whole ring
    /// while it writes its eight words.
    #[must_use]
    pub fn dropped(&self) -> u64 {
        self.header.get(1).map_or(0, |count| count.load(Ordering::Relaxed))
    }

    /// The hook's answer on CPU `cpu`: see [`Hal::tracer`](crate::Hal::tracer).
    #[must_use]
    #[inline]
    pub const fn on_cpu(&self, cpu: usize) -> Tracer<'m> {
        Tracer { ring: *self, cpu: cpu as u16 }
    }

    /// Adds an event.
    pub fn record(&self, event: &Event) {
        let Some(count) = self.header.first() else { return };
        let number = count.fetch_add(1, Ordering::Relaxed);
        let Some((stamp, words)) = self.slot(number) else { return };
        let (writing, written) = stamps(number);
        let before = stamp.load(Ordering::Relaxed);
        let free = before % 2 == 0 && before < writing;
        // Acquire: what the last writer of this slot stored comes before what this one does.
        if !free || stamp.compare_exchange(before, writing, Ordering::Acquire, Ordering::Relaxed).is_err() {
            if let Some(dropped) = self.header.get(1) {
                dropped.fetch_add(1, Ordering::Relaxed);
            }
            return;
        }
        // Whoever reads one of the new words finds, after its own fence, that the stamp has changed.
        fence(Ordering::Release);
        for (word, value) in words.iter().zip(event.encode()) {
            word.store(value, Ordering::Relaxed);
        }
        stamp.store(written, Ordering::Release);
    }

    /// The event of this number, counted from 0 since the ring began.
    ///
    /// # Errors
    /// [`Absent`]: why there is none.
    pub fn get(&self, number: u64) -> Result<Event, Absent> {
        let Some((stamp, words)) = self.slot(number) else {
            return Err(if number < self.recorded() { Absent::Overwritten } else { Absent::Unwritten });
        };
        let (_, written) = stamps(number);
        let check = |stamp: u64| match stamp {
            stamp if stamp == written => Ok(()),
            stamp if stamp > written => Err(Absent::Overwritten),
            _ => Err(Absent::Unwritten),
        };
        check(stamp.load(Ordering::Acquire))?;
        let mut copy = [0; WORDS];
        for (value, word) in copy.iter_mut().zip(words) {
            *value = word.load(Ordering::Relaxed);
        }
        fence(Ordering::Acquire);
        check(stamp.load(Ordering::Relaxed))?;
        Event::decode(copy).ok_or(Absent::Garbled)
    }

    /// The events that are there, each with its number, from the oldest to the newest one at the time of the call. A gap in
    /// the numbers is what was overwritten meanwhile, was dropped, or is being written.
    pub fn events(&self) -> impl Iterator<Item = (u64, Event)> + use<'m> {
        self.since(0)
    }

    /// As [`events`](Self::events), those of number `first` and above: what came after the last look.
    pub fn since(&self, first: u64) -> impl Iterator<Item = (u64, Event)> + use<'m> {
        let (ring, end) = (*self, self.recorded());
        let oldest = end.saturating_sub(self.capacity() as u64);
        (first.max(oldest)..end).filter_map(move |number| Some((number, ring.get(number).ok()?)))
    }

    /// The stamp and the words of the slot of an event.
    fn slot(&self, number: u64) -> Option<(&'m AtomicU64, &'m [AtomicU64])> {
        let mask = self.capacity().checked_sub(1)?;
        // A number is below 2^63: nothing counts that far.
        let start = (number as usize & mask) * SLOT_WORDS;
        self.slots.get(start..start + SLOT_WORDS)?.split_first()
    }
}

/// The stamp of a slot while the event of this number is written, and when it is there.
const fn stamps(number: u64) -> (u64, u64) {
    let writing = number.wrapping_mul(2).wrapping_add(1);
    (writing, writing.wrapping_add(1))
}

impl fmt::Debug for Ring<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Ring")
            .field("capacity", &self.capacity())
            .field("recorded", &self.recorded())
            .field("dropped", &self.dropped())
            .finish()
    }
}

/// A ring, and the CPU that is about to write to it.
#[derive(Clone, Copy, Debug)]
pub struct Tracer<'m> {
    pub(super) ring: Ring<'m>,
    pub(super) cpu: u16,
}

impl<'m> Tracer<'m> {
    /// The ring.
    #[must_use]
    pub const fn ring(&self) -> Ring<'m> {
        self.ring
    }

    /// The CPU.
    #[must_use]
    pub const fn cpu(&self) -> u16 {
        self.cpu
    }
}

#[cfg(all(test, not(loom)))]
mod tests;
