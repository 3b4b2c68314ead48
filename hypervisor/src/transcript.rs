//! What a guest has written somewhere: its beginning is kept for the report, all of it is counted.

use alloc::string::String;
use alloc::vec::Vec;

/// Most bytes that are kept: the report is one line on the serial port.
const KEPT_MAX: usize = 1024;

/// A text that grows at its end.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Transcript {
    kept: Vec<u8>,
    bytes: u64,
}

impl Transcript {
    /// Adds `bytes`. What is beyond the first KiB of all that was ever added is only counted.
    pub fn add(&mut self, bytes: &[u8]) {
        self.bytes = self.bytes.saturating_add(bytes.len() as u64);
        let room = KEPT_MAX.saturating_sub(self.kept.len());
        self.kept.extend(bytes.iter().take(room));
    }

    /// How many bytes were added.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// The beginning as text, with nothing in it that a terminal would obey: carriage returns are dropped, other control
    /// characters but line ends are replaced, and so is what is no UTF-8.
    #[must_use]
    pub fn text(&self) -> String {
        let text = String::from_utf8_lossy(&self.kept);
        let kept = text.chars().filter(|&character| character != '\r');
        let harmless = |character: char| {
            if character.is_control() && character != '\n' { char::REPLACEMENT_CHARACTER } else { character }
        };
        kept.map(harmless).collect()
    }
}

#[cfg(test)]
mod tests;
