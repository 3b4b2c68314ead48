//! Takes the serial port apart: the hypervisor's messages, and the guest's console, which is shown as it comes.
//!
//! Protocol: a message begins with the protocol's prefix, the run's nonce and a space, wherever it stands in the
//! stream (the guest may be in the middle of a line), and ends with its line. Everything else is the guest's,
//! byte by byte. Only bytes that may be the beginning of a message are held back.

use slat_hv_protocol::{LINE_PREFIX, Message, decode_message};

/// A message longer than this is none.
const MESSAGE_MAX: usize = 1 << 16;

/// One piece of the stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Piece {
    /// Bytes of the guest's console.
    Console(Vec<u8>),
    /// One line of the guest's console is complete; without its line end.
    Line(String),
    /// A message of the hypervisor.
    Message(Box<Message>),
    /// A line that is marked as a message and cannot be decoded.
    Garbled(String),
}

/// The state between two reads.
pub(crate) struct Console {
    nonce: String,
    marker: Vec<u8>,
    /// Bytes not yet handed on: a possible beginning of the marker, or a message as far as it came.
    held: Vec<u8>,
    in_message: bool,
    line: Vec<u8>,
}

impl Console {
    /// For the run with this nonce.
    pub(crate) fn new(nonce: &str) -> Self {
        let marker = format!("{LINE_PREFIX}{nonce} ").into_bytes();
        Self { nonce: nonce.to_owned(), marker, held: Vec::new(), in_message: false, line: Vec::new() }
    }

    /// Takes in what was read.
    pub(crate) fn push(&mut self, bytes: &[u8]) -> Vec<Piece> {
        let mut pieces = Vec::new();
        let mut console = Vec::new();
        for &byte in bytes {
            self.held.push(byte);
            if self.in_message {
                if byte == b'\n' || self.held.len() > MESSAGE_MAX {
                    flush(&mut console, &mut pieces);
                    let line = String::from_utf8_lossy(&std::mem::take(&mut self.held)).into_owned();
                    pieces.push(match decode_message(&self.nonce, &line) {
                        Some(message) => Piece::Message(Box::new(message)),
                        None => Piece::Garbled(line.trim_end().to_owned()),
                    });
                    self.in_message = false;
                }
            } else if self.held == self.marker {
                self.in_message = true;
            } else {
                while !self.marker.starts_with(&self.held) {
                    let first = self.held.remove(0);
                    self.show(first, &mut console, &mut pieces);
                }
            }
        }
        flush(&mut console, &mut pieces);
        pieces
    }

    /// The stream is over.
    pub(crate) fn finish(&mut self) -> Vec<Piece> {
        let mut pieces = Vec::new();
        let held = std::mem::take(&mut self.held);
        if self.in_message {
            pieces.push(Piece::Garbled(String::from_utf8_lossy(&held).into_owned()));
        } else {
            let mut console = Vec::new();
            for byte in held {
                self.show(byte, &mut console, &mut pieces);
            }
            flush(&mut console, &mut pieces);
            if !self.line.is_empty() {
                pieces.push(Piece::Line(take_line(&mut self.line)));
            }
        }
        self.in_message = false;
        pieces
    }

    fn show(&mut self, byte: u8, console: &mut Vec<u8>, pieces: &mut Vec<Piece>) {
        console.push(byte);
        if byte == b'\n' {
            flush(console, pieces);
            pieces.push(Piece::Line(take_line(&mut self.line)));
        } else if self.line.len() < MESSAGE_MAX {
            self.line.push(byte);
        }
    }
}

fn flush(console: &mut Vec<u8>, pieces: &mut Vec<Piece>) {
    if !console.is_empty() {
        pieces.push(Piece::Console(std::mem::take(console)));
    }
}

fn take_line(line: &mut Vec<u8>) -> String {
    String::from_utf8_lossy(&std::mem::take(line)).trim_end_matches('\r').to_owned()
}

#[cfg(test)]
mod tests;
