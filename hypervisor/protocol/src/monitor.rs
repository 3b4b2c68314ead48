//! The monitor: a guest is stopped by a key on the console, asked, and let go on.
//!
//! Protocol: [`ESCAPE`] as a byte on the machine's serial port opens the monitor, if it comes while it is closed. Then come lines of
//! commands, each ended by a line feed, several in one with semicolons between them. Each command is answered by one
//! [`Message::Monitor`](crate::Message::Monitor); `continue`, or the byte [`END`], closes the monitor and is answered too.

use alloc::string::String;
use serde::{Deserialize, Serialize};

/// Ctrl-], which opens the monitor.
pub const ESCAPE: u8 = 0x1d;

/// Ctrl-D, which closes it: the guest goes on.
pub const END: u8 = 0x04;

/// What the monitor says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Told {
    /// Some lines.
    pub text: String,
    /// Whether it waits for a command.
    pub open: bool,
}
