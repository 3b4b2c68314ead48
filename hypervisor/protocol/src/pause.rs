//! A guest that is stopped in the middle of its work: what is done with it then, and what came of that.

use crate::Span;
use alloc::string::String;
use alloc::vec::Vec;
use serde::{Deserialize, Serialize};

/// How pages begin that our user space writes while something is done with it: for mistakes on purpose, which have to hit what
/// the guest looks at.
pub const PATTERN: &str = "slat:";

/// The guest stops when it has printed a text, something is done with it, and it is told to go on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pause {
    /// The text. A guest that is restored has printed it already.
    pub text: String,
    /// What is done.
    pub then: Then,
    /// Memory of the machine in which a [snapshot](crate::snapshot) is put, or lies; empty for none. 4 KiB aligned.
    pub image: Span,
    /// What is then typed on the guest's serial port, a line each: for the guest, and for its forks in the order of their
    /// numbers.
    pub commands: Vec<String>,
}

/// What is done with a guest that was stopped.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "kind")]
pub enum Then {
    /// It is forked: there are so many guests more, which all go on from there.
    Fork {
        /// 1 to [`GUESTS_MAX`](crate::GUESTS_MAX) - 1.
        children: u32,
    },
    /// It moves to another guest's place while it works: that begins when it has printed the text once more.
    Migrate,
    /// It is written away, and ends.
    Snapshot,
    /// It begins as the guest that was written away, and is not stopped.
    Restore,
}

impl Then {
    /// How many guests there may be beside the first one.
    #[must_use]
    pub const fn more_guests(self) -> u32 {
        match self {
            Self::Fork { children } => children,
            Self::Migrate => 1,
            Self::Snapshot | Self::Restore => 0,
        }
    }
}

/// What forks cost.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Forked {
    /// Ticks of the clock in a second.
    pub ticks_per_second: u64,
    /// Frames of 4 KiB that were the guest's alone before.
    pub parent: OwnFrames,
    /// Each fork, in their order.
    pub forks: Vec<Fork>,
}

/// What one fork cost.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fork {
    /// The number of the new guest.
    pub guest: u32,
    /// Ticks for its address space.
    pub space_ticks: u64,
    /// Ticks for all of it: the space, the state of the CPU and of the serial port, until it can run.
    pub ticks: u64,
    /// Frames of 4 KiB that were taken for it.
    pub frames: u64,
}

/// What a move took.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Moved {
    /// Ticks of the clock in a second.
    pub ticks_per_second: u64,
    /// The number of the guest that it is now.
    pub guest: u32,
    /// Each round, in their order: the first one is all that was there, the last one was copied while the guest stood still.
    pub rounds: Vec<Round>,
    /// Ticks from when the guest stopped until it could go on.
    pub stop_ticks: u64,
}

/// A round of a move.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Round {
    /// Pages of 4 KiB that were copied.
    pub pages: u64,
    /// Ticks that it took.
    pub ticks: u64,
}

/// Frames of 4 KiB that are one guest's alone.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct OwnFrames {
    /// With its tables.
    pub tables: u64,
    /// With its memory.
    pub memory: u64,
}
