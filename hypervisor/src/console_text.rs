//! Looks for a text in what a guest prints, byte by byte, wherever its calls cut it.

use alloc::string::String;
use alloc::vec::Vec;

/// The text, and what was printed last.
#[derive(Clone, Debug)]
pub struct ConsoleText {
    /// What is looked for; never empty.
    text: Vec<u8>,
    /// The bytes printed last, at most as many as the text has.
    last: Vec<u8>,
}

impl ConsoleText {
    /// Looks for `text`; `None` if that is empty, as it would be everywhere.
    #[must_use]
    pub fn new(text: String) -> Option<Self> {
        let text = text.into_bytes();
        (!text.is_empty()).then(|| Self { last: Vec::with_capacity(text.len()), text })
    }

    /// Takes in one byte that the guest printed; whether the text ends with it.
    ///
    /// Cost: that of a move by one byte of as many bytes as the text has.
    pub fn push(&mut self, byte: u8) -> bool {
        if self.last.len() == self.text.len() {
            self.last.remove(0);
        }
        self.last.push(byte);
        self.last == self.text
    }
}

#[cfg(test)]
mod tests;
