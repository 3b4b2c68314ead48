//! Which harts have to be told of a change: those that may remember something of the space.
//!
//! Protocol. A hart [`enter`](HartSet::enter)s the set right before it writes the space's root register, and drops what it
//! remembers of the space **after** that write if it was not in the set. Whoever has changed the table reads
//! [`harts`](HartSet::harts) after its stores, and lets those forget. A hart that has another space (or none) in its root
//! register can be [`remove`](HartSet::remove)d at any time: it is told of nothing any more, and makes up for that by
//! dropping everything of the space when it enters again.
//!
//! **Invariant:** a hart that is not in the set either drops everything of the space before it next uses it, and that after
//! every store to the table that was made without telling it; or it does not use it.
//!
//! Why nothing is missed: the hart first says that it is in, then reads the table; the one that changes the table first
//! stores, then reads who is in. Between the two stands a sequentially consistent fence on both sides, so at least one of
//! the two sees what the other did: the hart is told, or its reads see the store. Its *reads* are those of the hardware's
//! walk, which no fence for data orders: that takes an HFENCE.GVMA (RISC-V privileged manual, "Hypervisor
//! Memory-Management Fence Instructions"), and so a hart that was not in the set executes one even if it was never there.
//! A hart that was in the set already has done so, and was told of everything since. A removal releases what the hart did
//! in the guest, so that frames may be reused when nobody is left to be told. `loom_tests.rs` goes through all interleavings.

use crate::sync::{AtomicU64, Ordering, fence};
use thiserror::Error;

/// Harts in a word.
const BITS: usize = 64;

/// The set was made for fewer harts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("hart {hart} of a set for {harts}")]
pub struct NoSuchHart {
    /// The number that was given.
    pub hart: usize,
    /// How many the set has room for.
    pub harts: usize,
}

/// The harts that may remember something of one space, by number from 0 to `64 * WORDS - 1`: hart IDs, or whatever the host
/// numbers them by.
#[derive(Debug)]
pub struct HartSet<const WORDS: usize = 1> {
    words: [AtomicU64; WORDS],
}

impl<const WORDS: usize> HartSet<WORDS> {
    /// Nobody.
    #[must_use]
    pub fn new() -> Self {
        Self { words: core::array::from_fn(|_| AtomicU64::new(0)) }
    }

    /// Hart `hart` is about to write the space's root register. Returns whether it must then, before it enters the guest,
    /// drop all that it remembers of the space: it was told of nothing until now. Costs a load where it is in the set
    /// already.
    ///
    /// # Errors
    /// [`NoSuchHart`]; the set is as it was.
    pub fn enter(&self, hart: usize) -> Result<bool, NoSuchHart> {
        let (word, bit) = self.place(hart)?;
        // Only the hart itself adds itself, and nobody removes it while it enters.
        if word.load(Ordering::Relaxed) & bit != 0 {
            return Ok(false);
        }
        let added = self.enter_unfenced(hart)?;
        fence(Ordering::SeqCst);
        Ok(added)
    }

    /// As [`enter`](Self::enter), in no order with what follows.
    pub(crate) fn enter_unfenced(&self, hart: usize) -> Result<bool, NoSuchHart> {
        let (word, bit) = self.place(hart)?;
        Ok(word.fetch_or(bit, Ordering::Relaxed) & bit == 0)
    }

    /// Hart `hart` does not have the space in its root register, and is told of nothing from now on. To be called on the
    /// hart itself, or while it cannot enter the space.
    ///
    /// # Errors
    /// [`NoSuchHart`].
    pub fn remove(&self, hart: usize) -> Result<(), NoSuchHart> {
        let (word, bit) = self.place(hart)?;
        // What the hart did in the guest comes before: whoever finds it gone may reuse the frames.
        word.fetch_and(!bit, Ordering::Release);
        Ok(())
    }

    /// The harts that have to forget what was changed before this call: for each word of 64 harts with any, the number of
    /// its first hart and a bit for each. These are what [`HartMask`](crate::format::gstage::HartMask) takes where numbers
    /// are hart IDs.
    pub fn harts(&self) -> impl Iterator<Item = (usize, u64)> + '_ {
        fence(Ordering::SeqCst);
        self.harts_unfenced()
    }

    /// As [`harts`](Self::harts), in no order with what was stored before.
    pub(crate) fn harts_unfenced(&self) -> impl Iterator<Item = (usize, u64)> + '_ {
        // After what those did that have been removed.
        let words = self.words.iter().map(|word| word.load(Ordering::Acquire)).enumerate();
        words.filter(|(_, word)| *word != 0).map(|(index, word)| (index * BITS, word))
    }

    fn place(&self, hart: usize) -> Result<(&AtomicU64, u64), NoSuchHart> {
        let word = self.words.get(hart / BITS).ok_or(NoSuchHart { hart, harts: WORDS * BITS })?;
        Ok((word, 1 << (hart % BITS)))
    }
}

impl<const WORDS: usize> Default for HartSet<WORDS> {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(all(test, not(loom)))]
mod tests;
