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
}

/// What can be read a word at a time.
pub(crate) trait Words {
    /// The word's value, or `None` outside of this memory.
    fn read(&self, hpa: u64) -> Option<u64>;
}

impl Words for Ram {
    fn read(&self, hpa: u64) -> Option<u64> {
        Self::read(self, hpa)
    }
}

/// One frame.
type Frame = Box<[u64; 512]>;

/// What some words of a [`Ram`] were. Only frames that were written take memory; the others read as zero.
#[derive(Clone, Debug)]
pub(crate) struct Mirror {
    base: u64,
    frames: Vec<Option<Frame>>,
}

impl Mirror {
    /// The mirror of `ram`, empty.
    pub(crate) fn new(ram: &Ram) -> Self {
        Self { base: ram.base, frames: vec![None; ram.words.len() / 512] }
    }

    fn place(&self, hpa: u64) -> Option<(usize, usize)> {
        let word = usize::try_from(hpa.checked_sub(self.base)? / 8).ok()?;
        Some((word / 512, word % 512))
    }

    /// Whether anything was ever remembered of the frame that begins here.
    pub(crate) fn holds(&self, frame: u64) -> bool {
        self.place(frame).and_then(|(frame, _)| self.frames.get(frame)).is_some_and(Option::is_some)
    }

    /// Remembers a word; nothing happens outside of the memory.
    pub(crate) fn write(&mut self, hpa: u64, value: u64) {
        let Some((frame, word)) = self.place(hpa) else { return };
        if let Some(frame) = self.frames.get_mut(frame) {
            frame.get_or_insert_with(|| Box::new([0; 512]))[word] = value;
        }
    }
}

impl Words for Mirror {
    fn read(&self, hpa: u64) -> Option<u64> {
        let (frame, word) = self.place(hpa)?;
        Some(self.frames.get(frame)?.as_ref().map_or(0, |frame| frame[word]))
    }
}
