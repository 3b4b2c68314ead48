//! What guests print that matters: the signs of their user space.
//!
//! Protocol: our own user space prints the lines of [`initramfs`], each maybe with the kernel's time before it. Where several
//! guests share a console, each line begins with the number of its guest: `[0] `.

use crate::guests::{commands, initramfs};
use std::time::Duration;

/// What one guest printed that matters.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Printed {
    /// From the emulator's start to the first sign of user space.
    pub(crate) seconds_to_init: Option<f64>,
    /// The checksum that the guest printed.
    pub(crate) sha256: Option<String>,
    /// What came of what it was told to do.
    pub(crate) results: Vec<String>,
    /// The guest printed its end marker.
    pub(crate) reached_end: bool,
    /// The guest's own complaint.
    pub(crate) error: Option<String>,
}

impl Printed {
    /// Takes in one line, printed so long after the emulator's start; `own` says whether the user space is ours, with our
    /// markers.
    pub(super) fn take(&mut self, line: &str, own: bool, elapsed: Duration) {
        let after = |marker: &str| line.split_once(marker).map(|(_, rest)| rest.trim().to_owned());
        let init = if own {
            line.contains(initramfs::UP)
        } else {
            line.contains("Run /") && line.contains("as init process")
        };
        if init && self.seconds_to_init.is_none() {
            self.seconds_to_init = Some(elapsed.as_secs_f64());
        }
        if !own {
            return;
        }
        if let Some(sum) = after(initramfs::SHA256) {
            self.sha256 = Some(sum);
        } else if let Some(result) = after(commands::RESULT) {
            self.results.push(result);
        } else if let Some(error) = after(initramfs::ERROR) {
            self.error = Some(error);
        } else if line.contains(initramfs::END) {
            self.reached_end = true;
        }
    }
}

/// The number of the guest that a line is of, and the line without it; `None` if it has none, as the lines of the firmware.
pub(super) fn numbered(line: &str) -> Option<(usize, &str)> {
    let (number, rest) = line.strip_prefix('[')?.split_once("] ")?;
    // The kernel's own `[    1.234567] ` is no number.
    let is_number = !number.is_empty() && number.bytes().all(|byte| byte.is_ascii_digit());
    Some((number.parse().ok().filter(|_| is_number)?, rest))
}

#[cfg(test)]
mod tests;
