//! The regions of a space: what is mapped where, by which backend, with which flags.
//!
//! A tree of nodes of one frame each, so that a space needs no heap: up to 170 regions are a single sorted node, and
//! 100,000 take three steps. Finding and changing cost the logarithm of the number of regions; a change of many costs
//! as much as there are. **Invariants:** regions never overlap, and neighbours that could be one region are one. A
//! change is made in two steps: [`reserve`](Tree::reserve) takes all frames that it may need, and nothing after that
//! can fail.

mod node;
mod tree;

use super::backend::Backend;
use crate::addr::{GuestPhysAddr, GuestPhysRange};
use crate::flags::MappingFlags;
use crate::hal::Hal;
use crate::table::{LogUnit, Ownership};
use core::fmt;
pub(super) use node::{MOST_PINS, OFFSET_LIMIT};
use tree::{Place, Tree};

/// Regions in a leaf: 24 bytes each, and 16 of the node.
pub(crate) const LEAF: usize = 170;
/// Children of an inner node: 16 bytes each, and as many of the node.
const INNER: usize = 255;

/// The regions of a space.
pub(crate) type Regions = Tree<LEAF, INNER>;

/// A range of guest-physical addresses with one backend and one set of flags.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Region {
    /// The addresses.
    pub range: GuestPhysRange,
    /// What the guest may do, and the memory type.
    pub flags: MappingFlags,
    /// Where the frames come from.
    pub backend: Backend,
    /// How many pins hold it: see [`pin`](crate::AddrSpace::pin).
    pub pins: u16,
    /// Whether it is logged what the guest writes to, and in which unit.
    pub log: Option<LogUnit>,
    /// Whether a fork of the space has it too.
    pub in_children: bool,
}

impl Region {
    /// A region that nothing special has been asked for.
    pub(super) const fn new(range: GuestPhysRange, flags: MappingFlags, backend: Backend) -> Self {
        Self { range, flags, backend, pins: 0, log: None, in_children: true }
    }

    /// This region and `next`, if the two are really one.
    fn joined(&self, next: &Self) -> Option<Self> {
        let alike = (self.flags, self.pins, self.log, self.in_children)
            == (next.flags, next.pins, next.log, next.in_children);
        if self.range.end() != next.range.start() || !alike {
            return None;
        }
        let continues = match (self.backend, next.backend) {
            (Backend::Linear { hpa }, Backend::Linear { hpa: other }) => {
                hpa.checked_add(self.range.size()) == Some(other)
            }
            (backend, other) => backend.advanced(self.range.size()) == other,
        };
        continues.then(|| Self { range: self.range.hull(next.range), ..*self })
    }
}

impl<const L: usize, const I: usize> Tree<L, I> {
    /// The region that contains `gpa`. Logarithmic.
    pub(crate) fn find(&self, gpa: GuestPhysAddr) -> Option<Region> {
        let (start, packed) = self.find_packed(gpa)?;
        packed.unpack(start)
    }

    /// The flags of the region that contains `gpa`, if a fault there takes a single frame where only a page is
    /// missing. Logarithmic; what most faults need to know and no more.
    #[inline(always)]
    pub(crate) fn single_page_flags(&self, gpa: GuestPhysAddr) -> Option<MappingFlags> {
        let (_, packed) = self.find_packed(gpa)?;
        packed.populates_single_pages().then(|| packed.flags_alone())
    }

    #[inline(always)]
    fn find_packed(&self, gpa: GuestPhysAddr) -> Option<(u64, node::Packed)> {
        let leaf = self.leaf(self.leaf_of(gpa.as_u64())?);
        let (start, packed) = leaf.before(gpa.as_u64())?;
        packed.covers(start, gpa.as_u64()).then_some((start, packed))
    }

    /// All regions in ascending order.
    pub(crate) fn iter(&self) -> Iter<'_, L, I> {
        Iter { tree: self, place: self.descend(0), index: 0, end: u64::MAX }
    }

    /// The regions that overlap `range`, in ascending order. Finding the first one is logarithmic.
    pub(crate) fn overlapping(&self, range: GuestPhysRange) -> Iter<'_, L, I> {
        let start = range.start().as_u64();
        let place = self.descend(start);
        let index = place.map_or(0, |place| {
            let leaf = self.leaf(place.leaf);
            let behind = leaf.count_to(start);
            let before = behind.checked_sub(1).and_then(|before| leaf.region(before));
            behind - usize::from(before.is_some_and(|region| region.range.end() > range.start()))
        });
        Iter { tree: self, place, index, end: range.end().as_u64() }
    }

    /// What covers `range`, or the first address of it that no region covers. Logarithmic where one region does.
    #[inline]
    pub(crate) fn cover(&self, range: GuestPhysRange) -> Result<Cover, GuestPhysAddr> {
        let start = range.start().as_u64();
        let place = self.descend(start).ok_or(range.start())?;
        let leaf = self.leaf(place.leaf);
        let index = leaf.count_to(start).checked_sub(1).ok_or(range.start())?;
        if let Some(region) = leaf.region(index).filter(|region| region.range.contains_range(range)) {
            let exact = (index > 0 && region.range == range).then_some((place, index));
            let alike = matches!(region.backend, Backend::Linear { .. });
            return Ok(Cover { alike, exact, ..Cover::of(&region) });
        }
        self.cover_by_many(range)
    }

    fn cover_by_many(&self, range: GuestPhysRange) -> Result<Cover, GuestPhysAddr> {
        if let Some(hole) = self.first_hole(range) {
            return Err(hole);
        }
        let none = Cover::NONE;
        Ok(self.overlapping(range).fold(none, |cover, region| {
            let other = Cover::of(&region);
            Cover {
                owned: cover.owned | other.owned,
                lent: cover.lent | other.lent,
                pinned: cover.pinned | other.pinned,
                logged: cover.logged | other.logged,
                ..cover
            }
        }))
    }

    /// The first address of `range` that no region covers.
    pub(crate) fn first_hole(&self, range: GuestPhysRange) -> Option<GuestPhysAddr> {
        let mut covered = range.start();
        for region in self.overlapping(range) {
            if region.range.start() > covered {
                return Some(covered);
            }
            covered = region.range.end();
            if covered >= range.end() {
                return None;
            }
        }
        Some(covered)
    }

    /// Adds a region in a hole and joins it with its neighbours; room for one was reserved.
    pub(crate) fn insert<H: Hal>(&mut self, hal: &H, region: Region) {
        let (key, end) = (region.range.start().as_u64(), region.range.end().as_u64());
        let (mut extended, mut touches) = (false, false);
        if let Some(Place { leaf, next }) = self.descend(key) {
            let leaf = self.leaf_mut(leaf);
            let index = leaf.count_to(key);
            touches = leaf.keys().get(index).copied().or(next) == Some(end);
            extended = leaf.extend_before(index, &region);
        }
        if !extended {
            self.add(&region);
        }
        if touches {
            self.rewrite(region.range, Some);
        }
        self.trim(hal);
    }

    /// Replaces what the regions say about `range`, which they cover as `cover` says, by `change` of each part, a region
    /// with the same addresses or nothing; room for two more was reserved.
    pub(crate) fn update<H: Hal>(
        &mut self,
        hal: &H,
        range: GuestPhysRange,
        cover: Cover,
        change: impl FnMut(Region) -> Option<Region>,
    ) {
        match cover.exact {
            Some((place, index)) => self.rewrite_from(place, index, range, change),
            None => {
                self.cut_at(range.start());
                self.cut_at(range.end());
                self.rewrite(range, change);
            }
        }
        self.trim(hal);
    }

    /// Removes what the regions say about `range`, which they cover as `cover` says; room for two more was reserved.
    pub(crate) fn remove<H: Hal>(&mut self, hal: &H, range: GuestPhysRange, cover: Cover) {
        match cover.exact {
            // A hole joins nothing, and the first region of the leaf stays.
            Some((place, index)) => {
                self.remove_one(place.leaf, index, range);
                self.trim(hal);
            }
            None => self.update(hal, range, cover, |_| None),
        }
    }

    /// Splits the region around `gpa` so that one begins there.
    fn cut_at(&mut self, gpa: GuestPhysAddr) {
        let Some(Place { leaf, .. }) = self.descend(gpa.as_u64()) else { return };
        let leaf = self.leaf_mut(leaf);
        let Some(index) = leaf.count_to(gpa.as_u64()).checked_sub(1) else { return };
        let Some(region) = leaf.region(index) else { return };
        let halves = (
            GuestPhysRange::between(region.range.start(), gpa),
            GuestPhysRange::between(gpa, region.range.end()),
        );
        if let (Some(below), Some(above)) = halves {
            let backend = region.backend.advanced(below.size());
            leaf.set_region(index, &Region { range: below, ..region });
            self.add(&Region { range: above, backend, ..region });
        }
    }
}

impl<const L: usize, const I: usize> fmt::Debug for Tree<L, I> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.iter()).finish()
    }
}

/// How regions cover a range; good until the regions change.
pub(crate) struct Cover {
    /// Whether some of it is memory of the space.
    pub(crate) owned: bool,
    /// Whether the frames of some of it are to go back to a backend.
    pub(crate) lent: bool,
    /// Whether some of it is pinned.
    pub(crate) pinned: bool,
    /// Whether the writes to some of it are logged.
    pub(crate) logged: bool,
    /// Whether all of it is mapped, with the same flags, unless the space holds some back.
    pub(crate) alike: bool,
    /// Where the region is whose addresses are the range, if it is one and has a neighbour before it in its leaf. So
    /// that the most frequent change costs one descent.
    exact: Option<(Place, usize)>,
}

impl Cover {
    /// Of nothing.
    pub(super) const NONE: Self =
        Self { owned: false, lent: false, pinned: false, logged: false, alike: false, exact: None };

    /// What is to be known of one region that covers a range.
    fn of(region: &Region) -> Self {
        let lent = matches!(
            region.backend,
            Backend::Shared { .. } | Backend::Private { .. } | Backend::Custom { .. }
        );
        let owned = region.backend.is_copied_on_write();
        Self { owned, lent, pinned: region.pins > 0, logged: region.log.is_some(), ..Self::NONE }
    }

    /// Whose the frames of the range are.
    pub(crate) fn ownership(&self) -> Ownership {
        match (self.lent, self.owned) {
            (true, _) => Ownership::Lent,
            (false, true) => Ownership::Owned,
            (false, false) => Ownership::Foreign,
        }
    }
}

/// Regions in ascending order.
pub(crate) struct Iter<'t, const L: usize, const I: usize> {
    tree: &'t Tree<L, I>,
    place: Option<Place>,
    index: usize,
    /// Regions that begin here or above do not count.
    end: u64,
}

impl<const L: usize, const I: usize> Iterator for Iter<'_, L, I> {
    type Item = Region;

    fn next(&mut self) -> Option<Region> {
        loop {
            let place = self.place?;
            if let Some(region) = self.tree.leaf(place.leaf).region(self.index) {
                self.index += 1;
                return Some(region).filter(|region| region.range.start().as_u64() < self.end);
            }
            // The leaf behind is found by its first key: leaves that are not linked are easier to split and merge.
            let next = place.next.filter(|next| *next < self.end);
            self.place = next.and_then(|next| self.tree.descend(next));
            self.index = 0;
        }
    }
}

#[cfg(all(test, not(loom)))]
mod tests;
