//! What several guests print on the one console of the machine: whole lines, each behind the guest's number.
//!
//! The bytes are a guest's. A line of it begins with `[N] ` and holds nothing that a terminal would obey or that would begin another
//! line, so it cannot be taken for a line of another guest or of the hypervisor (whose lines carry a nonce that no guest knows).

use alloc::format;
use alloc::vec::Vec;

/// Most bytes of a line; a longer one is broken.
const LINE_MAX: usize = 512;

/// The output of one guest on its way to the console.
#[derive(Clone, Debug)]
pub struct Lines {
    /// The guest's number, if there are several.
    guest: Option<u32>,
    line: Vec<u8>,
}

impl Lines {
    /// Nothing printed yet by this one of several guests; or by the only one, whose bytes pass as they are.
    #[must_use]
    pub fn new(guest: Option<u32>) -> Self {
        Self { guest, line: Vec::new() }
    }

    /// Takes `bytes`; `out` gets what is to be printed now, a whole line at a time.
    pub fn add(&mut self, bytes: &[u8], mut out: impl FnMut(&[u8])) {
        if self.guest.is_none() {
            return out(bytes);
        }
        for &byte in bytes {
            match byte {
                b'\n' => self.flush_line(&mut out),
                // Comes before a line end, or draws over what is there.
                b'\r' => {}
                b'\t' | 0x20..=0x7e | 0x80.. => self.line.push(byte),
                _ => self.line.push(b'?'),
            }
            if self.line.len() >= LINE_MAX {
                self.flush_line(&mut out);
            }
        }
    }

    /// The guest has ended: what it has left on its last line is printed, too.
    pub fn end(&mut self, mut out: impl FnMut(&[u8])) {
        if !self.line.is_empty() {
            self.flush_line(&mut out);
        }
    }

    fn flush_line(&mut self, out: &mut impl FnMut(&[u8])) {
        let Some(guest) = self.guest else { return };
        let mut whole = format!("[{guest}] ").into_bytes();
        whole.append(&mut self.line);
        whole.extend_from_slice(b"\r\n");
        out(&whole);
    }
}

#[cfg(test)]
mod tests;
