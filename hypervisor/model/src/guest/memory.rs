//! What the guest should find in its memory: every word that was loaded for it or that it wrote.

use super::Map;
use slat::PAGE_SIZE;
use slat_model::Ram;
use std::sync::atomic::Ordering;

/// The guest's own account of its RAM.
pub(crate) struct Memory {
    base: u64,
    words: Vec<u64>,
}

impl Memory {
    /// Zeroes, but for what was loaded.
    pub(crate) fn new(map: &Map, loaded: &[(u64, &[u8])]) -> Self {
        let words = vec![0; (map.ram.end - map.ram.start) as usize / 8];
        let mut memory = Self { base: map.ram.start, words };
        for (gpa, bytes) in loaded {
            let first = memory.index(*gpa);
            for (word, bytes) in memory.words[first..].iter_mut().zip(bytes.chunks_exact(8)) {
                *word = u64::from_le_bytes(bytes.try_into().unwrap_or_default());
            }
        }
        memory
    }

    fn index(&self, gpa: u64) -> usize {
        ((gpa - self.base) / 8) as usize
    }

    /// The guest wrote a word.
    pub(crate) fn write(&mut self, gpa: u64, value: u64) {
        let index = self.index(gpa);
        self.words[index] = value;
    }

    /// Whether the frame at `hpa` holds what the guest should find in the page around `gpa`.
    pub(crate) fn is_in(&self, gpa: u64, ram: &Ram, hpa: u64) -> bool {
        let first = self.index(gpa & !(PAGE_SIZE - 1));
        let expected = &self.words[first..first + PAGE_SIZE as usize / 8];
        frame(ram, hpa).is_some_and(|found| {
            found.iter().zip(expected).all(|(found, expected)| found.load(Ordering::Relaxed) == *expected)
        })
    }
}

/// The words of the frame around `hpa`, if there is RAM.
pub(crate) fn frame(ram: &Ram, hpa: u64) -> Option<&[std::sync::atomic::AtomicU64]> {
    let first = ((hpa & !(PAGE_SIZE - 1)).checked_sub(ram.base())? / 8) as usize;
    ram.words().get(first..first + PAGE_SIZE as usize / 8)
}
