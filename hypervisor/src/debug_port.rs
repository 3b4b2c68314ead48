//! The debug port: a guest writes a line to it, byte by byte, and reads the answer from it.
//!
//! Protocol: a command of the [monitor](crate::monitor), then a line feed; after that each read is
//! the next byte of the answer, and 0 once that is over. A new line forgets the old answer. **Bounds:** of a line
//! the first 64 bytes are kept.

use crate::monitor::Command;
use alloc::string::String;
use alloc::vec::Vec;

/// Most bytes of a line that are kept; no command is as long.
const LINE_MAX: usize = 64;

/// The state of the port.
#[derive(Clone, Debug, Default)]
pub struct DebugPort {
    line: Vec<u8>,
    answer: String,
    read: usize,
}

impl DebugPort {
    /// The guest writes `byte`; the command if that completes a line.
    pub fn write(&mut self, byte: u8) -> Option<Command> {
        if byte != b'\n' {
            if self.line.len() < LINE_MAX {
                self.line.push(byte);
            }
            return None;
        }
        (self.answer, self.read) = (String::new(), 0);
        let command = Command::parse(&self.line);
        self.line.clear();
        Some(command)
    }

    /// What the guest is to read from now on.
    pub fn answer(&mut self, text: String) {
        (self.answer, self.read) = (text, 0);
    }

    /// The guest reads a byte.
    pub fn read(&mut self) -> u8 {
        let byte = self.answer.as_bytes().get(self.read).copied();
        self.read += usize::from(byte.is_some());
        byte.unwrap_or(0)
    }
}

#[cfg(test)]
mod tests;
