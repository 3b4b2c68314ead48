//! What a space has changed in its table and not yet invalidated.

use super::Scope;
use crate::addr::{GuestPhysAddr, GuestPhysRange};
use crate::flags::LeafSize;

/// Ranges kept apart; beyond that, further ones are merged into the last, and the whole space is invalidated.
const RANGES: usize = 8;

/// The debt of a space: where to invalidate, and where frames and tables wait for that.
#[derive(Debug)]
pub(crate) struct Pending {
    ranges: [GuestPhysRange; RANGES],
    len: usize,
    stride: LeafSize,
    /// The merged ranges cover more than was changed, or a table with live entries went away whole.
    whole: bool,
    /// Entries wait for their frames to be given back, or for a table to take their place.
    unfinished: bool,
}

impl Pending {
    /// Nothing is owed.
    pub(crate) const NONE: Self = {
        let Ok(nothing) = GuestPhysRange::new(GuestPhysAddr::new(0), 1) else { unreachable!() };
        Self { ranges: [nothing; RANGES], len: 0, stride: LeafSize::Size1G, whole: false, unfinished: false }
    };

    pub(crate) fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Nothing is owed any more.
    pub(crate) fn clear(&mut self) {
        self.len = 0;
        self.stride = LeafSize::Size1G;
        self.whole = false;
        self.unfinished = false;
    }

    /// Adds a range in which leaves of `stride` and up were changed.
    pub(crate) fn add(&mut self, range: GuestPhysRange, stride: LeafSize) {
        self.stride = self.stride.min(stride);
        let touching = |other: &GuestPhysRange| other.start() <= range.end() && range.start() <= other.end();
        if let Some(other) = self.ranges.iter_mut().take(self.len).find(|other| touching(other)) {
            *other = other.hull(range);
        } else if let Some(free) = self.ranges.get_mut(self.len) {
            *free = range;
            self.len += 1;
        } else {
            // The hull takes in pages that were not changed: dropping the whole space says so honestly.
            self.whole = true;
            let last = &mut self.ranges[RANGES - 1];
            *last = last.hull(range);
        }
    }

    /// Whether something in `range` may still be cached.
    pub(crate) fn overlaps(&self, range: GuestPhysRange) -> bool {
        self.ranges().iter().any(|other| other.intersection(range).is_some())
    }

    /// Adds that no invalidation by address will do.
    pub(crate) fn add_whole(&mut self) {
        self.whole = true;
    }

    /// Adds a range in which entries wait for the invalidation.
    pub(crate) fn add_unfinished(&mut self, range: GuestPhysRange) {
        self.unfinished = true;
        // The invalidation covers it too, without making the stride smaller: what has to be dropped is added by itself.
        self.add(range, LeafSize::Size1G);
    }

    /// Whether entries wait for the invalidation.
    pub(crate) fn has_unfinished(&self) -> bool {
        self.unfinished
    }

    /// What to invalidate.
    pub(crate) fn scope(&self) -> Scope<'_> {
        if self.whole { Scope::Space } else { Scope::Ranges { ranges: self.ranges(), stride: self.stride } }
    }

    /// Where to look for entries that waited.
    pub(crate) fn ranges(&self) -> &[GuestPhysRange] {
        self.ranges.get(..self.len).unwrap_or(&[])
    }
}
