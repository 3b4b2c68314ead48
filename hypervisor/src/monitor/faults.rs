//! The last faults of a guest, in a ring of fixed size.

use core::fmt;
use slat::{FaultError, FaultOutcome, LeafSize, NestedPageFaultInfo};

/// How many are kept.
pub const KEPT: usize = 32;

/// What became of a fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answered {
    /// What the library did or said.
    Library(Result<FaultOutcome, FaultError>),
    /// Churn had taken the page, and gave it back.
    Restored,
}

/// One fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fault {
    /// The vCPU.
    pub cpu: usize,
    /// Its program counter.
    pub pc: u64,
    /// What the hardware said.
    pub info: NestedPageFaultInfo,
    /// What became of it.
    pub answered: Answered,
}

/// The last [`KEPT`] faults.
#[derive(Clone, Debug)]
pub struct LastFaults {
    kept: [Option<Fault>; KEPT],
    count: u64,
}

impl LastFaults {
    /// None yet.
    #[must_use]
    pub const fn new() -> Self {
        Self { kept: [None; KEPT], count: 0 }
    }

    /// Adds a fault; the oldest one gives way.
    pub fn add(&mut self, fault: Fault) {
        if let Some(place) = self.kept.get_mut((self.count % KEPT as u64) as usize) {
            *place = Some(fault);
        }
        self.count += 1;
    }

    /// Those that are kept, the oldest first, each with its number from 1 on.
    pub fn iter(&self) -> impl Iterator<Item = (u64, &Fault)> {
        let first = self.count.saturating_sub(KEPT as u64);
        (first..self.count).filter_map(|number| {
            let fault = self.kept.get((number % KEPT as u64) as usize)?.as_ref()?;
            Some((number + 1, fault))
        })
    }
}

impl Default for LastFaults {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Display for LastFaults {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{} faults, the last of them:", self.count)?;
        self.iter().try_for_each(|(number, fault)| writeln!(f, "{number:>6} {fault}"))
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { cpu, pc, info, answered } = self;
        write!(f, "vCPU {cpu} PC {pc:#x}: {info}: {answered}")
    }
}

impl fmt::Display for Answered {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let leaf = |f: &mut fmt::Formatter<'_>, what, size: LeafSize| write!(f, "{what}, a leaf of {size}");
        match self {
            Self::Restored => f.write_str("given back by churn"),
            Self::Library(Err(error)) => write!(f, "refused, {error}"),
            Self::Library(Ok(outcome)) => match outcome {
                FaultOutcome::Populated(size) => leaf(f, "populated", *size),
                FaultOutcome::Copied(size) => leaf(f, "copied", *size),
                FaultOutcome::Spurious => f.write_str("mapped already"),
                FaultOutcome::Marked => f.write_str("marked"),
                FaultOutcome::MadeWritable => f.write_str("made writable"),
                FaultOutcome::Unshared => f.write_str("tables unshared"),
                FaultOutcome::Retry => f.write_str("to be repeated"),
                FaultOutcome::Wait => f.write_str("to be repeated later"),
                FaultOutcome::Trap(access) => write!(f, "emulated, offset {:#x}", access.offset),
            },
        }
    }
}

#[cfg(test)]
mod tests;
