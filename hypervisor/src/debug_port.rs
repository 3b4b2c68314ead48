//! The debug port: a guest writes a line to it, byte by byte, and reads the answer from it.
//!
//! Protocol: `dump`, `query GPA` (hexadecimal with `0x`, or decimal) or `stats`, then a line feed; after that each read is
//! the next byte of the answer, and 0 once that is over. A new line forgets the old answer. **Bounds:** of a line
//! the first 64 bytes are kept.

use crate::vcpu::DebugCommand;
use alloc::string::String;
use alloc::vec::Vec;
use slat::GuestPhysAddr;

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
    pub fn write(&mut self, byte: u8) -> Option<DebugCommand> {
        if byte != b'\n' {
            if self.line.len() < LINE_MAX {
                self.line.push(byte);
            }
            return None;
        }
        (self.answer, self.read) = (String::new(), 0);
        let command = command(&self.line);
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

fn command(line: &[u8]) -> DebugCommand {
    let words = core::str::from_utf8(line).unwrap_or_default();
    let mut words = words.split_ascii_whitespace();
    match (words.next(), words.next(), words.next()) {
        (Some("dump"), None, None) => DebugCommand::Dump,
        (Some("stats"), None, None) => DebugCommand::Statistics,
        (Some("query"), Some(address), None) => {
            number(address).map_or(DebugCommand::Unknown, |gpa| DebugCommand::Query(GuestPhysAddr::new(gpa)))
        }
        _ => DebugCommand::Unknown,
    }
}

fn number(text: &str) -> Option<u64> {
    match text.strip_prefix("0x") {
        // `from_str_radix` would take a sign.
        Some(digits) if !digits.starts_with('+') => u64::from_str_radix(digits, 16).ok(),
        Some(_) => None,
        None => text.parse().ok(),
    }
}

#[cfg(test)]
mod tests;
