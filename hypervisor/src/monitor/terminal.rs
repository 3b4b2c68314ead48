//! The console as the monitor uses it: a key that stops the guest, lines that are typed, answers.
//!
//! Protocol: the hypervisor asks the terminal for bytes after each exit of the guest. [`ESCAPE`] opens the monitor; from then on every
//! byte is the monitor's, until `continue` or [`END`]. Several commands may stand in a line, with semicolons between them. What comes
//! before [`ESCAPE`] is the guest's.

use super::Command;
use alloc::vec::Vec;
pub use slat_hv_protocol::monitor::{END, ESCAPE};

/// Most bytes of a line that are kept.
const LINE_MAX: usize = 256;

const BACKSPACE: [u8; 2] = [0x08, 0x7f];

/// The hypervisor's part of a console.
pub trait Terminal: Sync {
    /// The next byte that is the hypervisor's to read, if one has come: while the monitor is closed it may leave those alone that the
    /// guest is about to read by itself, and then notices [`ESCAPE`] among what the guest reads.
    fn poll(&self) -> Option<u8>;

    /// The next byte, whoever would read it otherwise: the monitor is open.
    fn take(&self) -> Option<u8>;

    /// Shows `text`. `open` says whether the monitor waits for a line then.
    fn tell(&self, text: &str, open: bool);
}

/// A line as it is typed.
#[derive(Clone, Debug, Default)]
pub struct Line(Vec<u8>);

impl Line {
    /// Adds a byte; the commands of the line if that ends it, none of an empty one.
    pub fn push(&mut self, byte: u8) -> Option<Vec<Command>> {
        match byte {
            b'\n' | b'\r' => {
                let line = core::mem::take(&mut self.0);
                return Some(commands(&line));
            }
            END => {
                self.0.clear();
                return Some(Vec::from([Command::Continue]));
            }
            _ if BACKSPACE.contains(&byte) => {
                self.0.pop();
            }
            // What would be no part of any command is none of a line.
            b' '..=b'~' | b'\t' if self.0.len() < LINE_MAX => self.0.push(byte),
            _ => {}
        }
        None
    }
}

fn commands(line: &[u8]) -> Vec<Command> {
    let parts = line.split(|byte| *byte == b';').filter(|part| !part.trim_ascii().is_empty());
    parts.map(Command::parse).collect()
}

#[cfg(test)]
mod tests;
