//! Host physical memory.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// One contiguous range of host physical memory, in 8-byte words. Clones share the memory.
#[derive(Clone, Debug)]
pub struct Ram {
    base: u64,
    words: Arc<[AtomicU64]>,
}

impl Ram {
    /// Zeroed memory of `bytes` at host physical `base`; both are multiples of 4096.
    ///
    /// # Panics
    /// If one is not, or the end does not fit in 64 bits.
    #[must_use]
    pub fn new(base: u64, bytes: u64) -> Self {
        assert!(base % 4096 == 0 && bytes % 4096 == 0, "RAM is made of whole frames");
        assert!(base.checked_add(bytes).is_some(), "RAM ends below 2^64");
        Self { base, words: (0..bytes / 8).map(|_| AtomicU64::new(0)).collect() }
    }

    /// The word that holds the 8 bytes at `hpa` (rounded down), or `None` outside of this memory.
    #[must_use]
    pub fn word(&self, hpa: u64) -> Option<&AtomicU64> {
        self.words.get(usize::try_from(hpa.checked_sub(self.base)? / 8).ok()?)
    }

    /// All words, the first one at [`base`](Self::base). The address of this slice is the same for all clones.
    #[must_use]
    pub fn words(&self) -> &[AtomicU64] {
        &self.words
    }

    /// The host physical address of the first byte.
    #[must_use]
    pub fn base(&self) -> u64 {
        self.base
    }

    /// The size in bytes.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.words.len() as u64 * 8
    }

    /// The word's value, or `None` outside of this memory.
    #[must_use]
    pub fn read(&self, hpa: u64) -> Option<u64> {
        Some(self.word(hpa)?.load(Ordering::SeqCst))
    }

    /// Stores a word; whether `hpa` is in this memory.
    pub fn write(&self, hpa: u64, value: u64) -> bool {
        self.word(hpa).map(|word| word.store(value, Ordering::SeqCst)).is_some()
    }

    /// Memory of the same place and contents that is not shared.
    pub(crate) fn duplicate(&self) -> Self {
        let words = self.words.iter().map(|word| AtomicU64::new(word.load(Ordering::SeqCst))).collect();
        Self { base: self.base, words }
    }
}
