//! Churn: random unmapping, moving and write-protecting of the guest's pages while it runs.
//!
//! This module draws and keeps the books; the run loop carries the operations out. The sequence depends on the seed
//! and on the order of the guest's faults only. Protocol: a page that was drawn to be unmapped or write-protected is
//! *taken* and is not drawn again until the guest has asked for it and [`Churn::give_back`] was called.

use alloc::collections::BTreeSet;
use alloc::vec::Vec;
use slat::PAGE_SIZE;
use slat_hv_protocol::{Churn as Settings, ChurnReport};

/// Draws that may meet a page that is taken before a draw is given up.
const ATTEMPTS: u32 = 16;

/// What to do to a page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operation {
    /// Take every permission away; the page keeps its frame.
    Unmap,
    /// Give it another frame with the same contents.
    Move,
    /// Take the permission to write away.
    WriteProtect,
}

/// The state of churn during one run.
#[derive(Clone, Debug)]
pub struct Churn {
    settings: Settings,
    random: SplitMix64,
    /// Every page of guest RAM that has a frame.
    populated: Vec<u64>,
    taken: BTreeSet<u64>,
    report: ChurnReport,
}

impl Churn {
    /// Churn that has not begun.
    #[must_use]
    pub fn new(settings: Settings) -> Self {
        Self {
            settings,
            random: SplitMix64(settings.seed),
            populated: Vec::new(),
            taken: BTreeSet::new(),
            report: ChurnReport::default(),
        }
    }

    /// Operations for each exit.
    #[must_use]
    pub fn per_exit(&self) -> u32 {
        self.settings.per_exit
    }

    /// What was done until now.
    #[must_use]
    pub fn report(&self) -> ChurnReport {
        self.report
    }

    /// Tells that the pages in `bytes` from `gpa` on have frames now.
    pub fn populated(&mut self, gpa: u64, bytes: u64) {
        self.populated.extend((0..bytes / PAGE_SIZE).map(|i| gpa + i * PAGE_SIZE));
    }

    /// The next operation and its page, or `None` when the limit is reached or no page was found.
    pub fn draw(&mut self) -> Option<(u64, Operation)> {
        let ChurnReport { unmapped, moved, write_protected } = self.report;
        if unmapped + moved + write_protected >= self.settings.limit {
            return None;
        }
        let page = (0..ATTEMPTS).find_map(|_| {
            let index = self.random.below(self.populated.len())?;
            self.populated.get(index).copied().filter(|page| !self.taken.contains(page))
        })?;
        let operation = match self.random.below(3)? {
            0 => Operation::Unmap,
            1 => Operation::Move,
            _ => Operation::WriteProtect,
        };
        Some((page, operation))
    }

    /// Notes that `operation` was carried out on `page`.
    pub fn done(&mut self, page: u64, operation: Operation) {
        let count = match operation {
            Operation::Unmap => &mut self.report.unmapped,
            Operation::Move => &mut self.report.moved,
            Operation::WriteProtect => &mut self.report.write_protected,
        };
        *count += 1;
        if operation != Operation::Move {
            self.taken.insert(page);
        }
    }

    /// The page at this address, which was to be given back, could not be: it stays taken.
    pub fn keep(&mut self, page: u64) {
        self.taken.insert(page);
    }

    /// Whether the page around `gpa` is taken; if so, it is no longer, and the caller maps it again.
    pub fn give_back(&mut self, gpa: u64) -> Option<u64> {
        let page = gpa & !(PAGE_SIZE - 1);
        self.taken.remove(&page).then_some(page)
    }
}

/// Sebastiano Vigna's SplitMix64: small, and any seed will do.
#[derive(Clone, Debug)]
struct SplitMix64(u64);

impl SplitMix64 {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ z >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ z >> 31
    }

    /// A number below `bound`, or `None` if there is none. The bias of 2^-64 per value does not matter here.
    fn below(&mut self, bound: usize) -> Option<usize> {
        let product = u128::from(self.next()) * bound as u128;
        (bound != 0).then_some((product >> 64) as usize)
    }
}

#[cfg(test)]
mod tests;
