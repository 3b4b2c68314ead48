//! Versions: states of a table that several spaces share.
//!
//! A fork or a snapshot freezes what the table is into a version. From then on the space, its fork and their forks begin
//! with the version's tables and leaves, which nobody writes to any more, and make their own where they differ
//! (`shared.rs`, `cow.rs`). **Invariants.** What an entry of a version owns (a table by an ordinary entry, a leaf by
//! [`Format::OWNED`]) is that version's; everything else in it is an older version's, which it holds. A version lives as long
//! as a space or a younger version holds it, so whoever holds one can read all of it at any time, and a fault never gives
//! anything back that another CPU may still be reading: **one count for a whole state takes the place of a count for each
//! frame.**
//!
//! A version that a single younger one holds is merged into it ([`compact`](Table::compact)): what was replaced since goes
//! back to the host. That costs as much as there was replaced.

#![expect(unsafe_code, reason = "keeps versions in frames of the host")]

use super::memory::Slot;
use super::{Leaf, Soft, Table, View};
use crate::addr::{GuestPhysAddr, HostPhysAddr, PAGE_SIZE};
use crate::flags::level_bytes;
use crate::format::Format;
use crate::frame::FrameStack;
use crate::hal::Hal;
use crate::sync::{AtomicU64, Ordering, fence, spin_loop};
use crate::tlb::{Reach, Scope};

/// Entries of the root in one frame.
#[cfg(not(loom))]
const ENTRIES: usize = 250;
#[cfg(loom)]
const ENTRIES: usize = 4;

const NOTHING: u64 = u64::MAX;

/// A version, by the frame that it begins in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Version(HostPhysAddr);

/// A frame of a version: the entries of the root that are not zero. The first words count in the first frame only.
#[repr(C)]
struct Chunk {
    /// Spaces and younger versions that need it.
    holders: AtomicU64,
    /// 1 while something is merged into it, or its base is looked at by somebody for whom it could vanish.
    merging: AtomicU64,
    /// The version on which this one is based, or [`NOTHING`].
    base: AtomicU64,
    /// The next frame, or [`NOTHING`].
    next: u64,
    len: usize,
    /// In ascending order.
    entries: [RootEntry; ENTRIES],
}

struct RootEntry {
    index: usize,
    value: AtomicU64,
}

const _: () = assert!(cfg!(loom) || size_of::<Chunk>() <= PAGE_SIZE as usize);

/// What becomes of an entry when the version below is merged into its table.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Merged {
    /// It stays as it is.
    Kept,
    /// What it points to belongs to this table now.
    Owned,
}

impl<H: Hal, F: Format> Table<H, F> {
    /// A frame of a version that is held.
    fn chunk(&self, frame: HostPhysAddr) -> &Chunk {
        // SAFETY: `freeze` made it in a frame of this host, and it stays as long as it is held, which it is by the space
        // whose table this is (or by a version that it holds).
        unsafe { &*self.hal.phys_to_virt(frame).cast::<Chunk>() }
    }

    fn head(&self, version: Version) -> &Chunk {
        self.chunk(version.0)
    }

    fn base(&self, version: Version) -> Option<Version> {
        let base = self.head(version).base.load(Ordering::Acquire);
        (base != NOTHING).then_some(Version(HostPhysAddr::new(base)))
    }

    /// The entries of the root that a version has, with their indices.
    fn root_entries_of(&self, version: Version) -> impl Iterator<Item = (usize, &AtomicU64)> {
        let mut next = Some(self.head(version));
        core::iter::from_fn(move || {
            let chunk = next?;
            next = (chunk.next != NOTHING).then(|| self.chunk(HostPhysAddr::new(chunk.next)));
            Some(chunk)
        })
        .flat_map(|chunk| chunk.entries.iter().take(chunk.len).map(|entry| (entry.index, &entry.value)))
    }

    fn root_entry_of(&self, version: Version, index: usize) -> Option<&AtomicU64> {
        let mut chunk = self.head(version);
        loop {
            let used = chunk.entries.get(..chunk.len)?;
            if let Ok(at) = used.binary_search_by_key(&index, |entry| entry.index) {
                return used.get(at).map(|entry| &entry.value);
            }
            if chunk.next == NOTHING || used.last().is_some_and(|last| last.index > index) {
                return None;
            }
            chunk = self.chunk(HostPhysAddr::new(chunk.next));
        }
    }

    /// What an entry means. What a version owns is in no group, so that it does not matter where the entry stands.
    fn view_of(&self, level: u8, entry: u64) -> View {
        self.view(level, 0, entry)
    }

    /// Whether the table shares anything with a version.
    #[inline]
    pub(crate) fn has_version(&self) -> bool {
        self.version.is_some()
    }

    /// Whether others need the version on which the table is based, and with it all below.
    #[inline]
    pub(super) fn shares_version(&self) -> bool {
        // Acquire, as in `take_over`.
        self.version.is_some_and(|version| self.head(version).holders.load(Ordering::Acquire) > 1)
    }

    /// How many versions the table is based on, one below the other.
    pub(crate) fn versions(&self) -> usize {
        let mut count = 0;
        self.with_chain(|_| count += 1);
        count
    }

    /// Whether the table is what its version is, with nothing of its own.
    pub(crate) fn is_as_version(&self) -> bool {
        let Some(version) = self.version else { return false };
        let (root, level) = (self.root_table(), self.geometry.root_level());
        let mut next = 0;
        let same = |(index, value): (usize, &AtomicU64)| {
            let empty = (next..index).all(|between| root.load(between) == 0);
            next = index + 1;
            // What the hardware marked meanwhile makes no difference.
            let shared = self.as_shared(level, value.load(Ordering::Acquire));
            empty && (root.load(index) ^ shared) & !self.marks() == 0
        };
        self.root_entries_of(version).all(same) && (next..root.len()).all(|behind| root.load(behind) == 0)
    }

    /// The number of frames that [`freeze`](Self::freeze) takes now.
    pub(crate) fn plan_freeze(&self) -> usize {
        let root = self.root_table();
        let used = (0..root.len()).filter(|index| root.load(*index) != 0).count();
        used.div_ceil(ENTRIES).max(1)
    }

    /// Makes what the table is a version, on which it is based once it is [told so](Self::set_version); no debt is pending.
    /// `frames` has as many as [`plan_freeze`](Self::plan_freeze) asked for. Until every CPU has forgotten the space, the guest
    /// may go on writing.
    pub(crate) fn freeze(&self, frames: &mut FrameStack<'_, H>) -> Version {
        let (root, level) = (self.root_table(), self.geometry.root_level());
        let base = self.version.map_or(NOTHING, |version| version.0.as_u64());
        let (mut first, mut last): (Option<HostPhysAddr>, Option<HostPhysAddr>) = (None, None);
        let mut len = ENTRIES;
        for index in 0..root.len() {
            let mut entry = root.load(index);
            if entry == 0 && !(first.is_none() && index + 1 == root.len()) {
                continue;
            }
            if len == ENTRIES {
                let Some(frame) = frames.pop() else { unreachable!("plan_freeze counted the frames") };
                let frame = frame.into_raw();
                self.make_chunk(frame, base);
                if let Some(last) = last {
                    // SAFETY: the frame is a chunk that nobody else knows of yet.
                    unsafe { (*self.hal.phys_to_virt(last).cast::<Chunk>()).next = frame.as_u64() };
                }
                (first, last, len) = (first.or(Some(frame)), Some(frame), 0);
            }
            if entry == 0 {
                continue;
            }
            loop {
                let shared = self.as_shared(level, entry);
                if shared == entry || root.compare_exchange(&self.hal, index, entry, shared) {
                    break;
                }
                // The hardware has marked a leaf meanwhile.
                entry = root.load(index);
            }
            if let Some(last) = last {
                // SAFETY: as above, so that no other reference to it exists.
                let chunk = unsafe { &mut *self.hal.phys_to_virt(last).cast::<Chunk>() };
                chunk.entries[len] = RootEntry { index, value: AtomicU64::new(entry) };
                len += 1;
                chunk.len = len;
            }
        }
        self.hal.publish();
        let Some(first) = first else { unreachable!("plan_freeze asks for a frame at the least") };
        Version(first)
    }

    /// Bases the table on a version that it holds, and that holds the one on which it was based until now.
    pub(crate) fn set_version(&mut self, version: Version) {
        self.version = Some(version);
    }

    fn make_chunk(&self, frame: HostPhysAddr, base: u64) {
        let chunk = Chunk {
            holders: AtomicU64::new(1),
            merging: AtomicU64::new(0),
            base: AtomicU64::new(base),
            next: NOTHING,
            len: 0,
            entries: core::array::from_fn(|_| RootEntry { index: 0, value: AtomicU64::new(0) }),
        };
        // SAFETY: the frame was taken for this and is as large (asserted above), and aligned to 4 KiB.
        unsafe { self.hal.phys_to_virt(frame).cast::<Chunk>().write(chunk) };
    }

    /// Holds the version of the table once more, until it is [let go](Self::let_go).
    pub(crate) fn hold_version(&self) -> Option<Version> {
        let version = self.version?;
        self.head(version).holders.fetch_add(1, Ordering::Relaxed);
        Some(version)
    }

    /// Lets a version go that was [held](Self::hold_version).
    pub(crate) fn let_go(&self, version: Version) {
        self.release(version);
    }

    /// Begins an empty table, of which no CPU remembers anything, with what `version` is, one that somebody holds on the same host, made by
    /// a table of the same format. What the table shared until now it lets go.
    pub(crate) fn begin_as(&mut self, version: Version) {
        self.head(version).holders.fetch_add(1, Ordering::Relaxed);
        let (root, level) = (self.root_table(), self.geometry.root_level());
        for (index, value) in self.root_entries_of(version) {
            root.store(&self.hal, index, self.as_shared(level, value.load(Ordering::Acquire)));
        }
        let old = self.version.replace(version);
        self.hal.publish();
        if let Some(old) = old {
            self.release(old);
        }
    }

    /// Lets a version go that nothing in the table comes from any more, and that no CPU can reach by way of it.
    fn release(&self, version: Version) {
        let mut next = Some(version);
        while let Some(version) = next {
            let head = self.head(version);
            if head.holders.fetch_sub(1, Ordering::Release) > 1 {
                return;
            }
            // What the others did with it comes before the end.
            fence(Ordering::Acquire);
            let level = self.geometry.root_level();
            for (index, value) in self.root_entries_of(version) {
                self.free_entry(level, index, value.load(Ordering::Relaxed), true);
            }
            next = self.base(version);
            self.free_chunks(version);
        }
    }

    /// Lets all versions go: the table is empty, and every CPU has forgotten the space.
    pub(crate) fn release_version(&mut self) {
        if let Some(version) = self.version.take() {
            self.release(version);
        }
    }

    fn free_chunks(&self, version: Version) {
        let mut frame = version.0.as_u64();
        while frame != NOTHING {
            let at = HostPhysAddr::new(frame);
            frame = self.chunk(at).next;
            // SAFETY: a chunk has a frame of this host to itself; nobody holds the version any more.
            unsafe { self.hal.dealloc_frames(at, 1) };
        }
    }

    /// Gives back what versions keep that only this table needed and has replaced since, after one invalidation if there is
    /// anything. Returns the number of versions that are no more.
    pub(crate) fn consolidate(&mut self) -> usize {
        let mut merged = 0;
        while let Some(version) = self.version {
            if self.head(version).holders.load(Ordering::Acquire) > 1 {
                break;
            }
            if merged == 0 {
                // A CPU may still walk a table of the version by what it remembers of the entries above.
                self.invalidate(Scope::Space, Reach::AllCpus);
            }
            let (root, level) = (self.root_table(), self.geometry.root_level());
            for (index, value) in self.root_entries_of(version) {
                let slot = Slot { entries: root, index, level };
                self.merge_into(slot, value.load(Ordering::Relaxed));
            }
            self.version = self.base(version);
            self.free_chunks(version);
            merged += 1;
        }
        self.hal.publish();
        merged + self.version.map_or(0, |version| self.compact(version))
    }

    /// Merges older versions into those that alone hold them, from `version` on downwards, which stays what it is. No CPU
    /// walks what is given back: it was replaced before the version above was frozen, and all were told then.
    ///
    /// Other spaces may do the same at once. **Whoever looks at a version without holding it directly has locked it, or the one
    /// above it,** and one that is locked is not merged, so that it stays until he has done with it.
    pub(crate) fn compact(&self, version: Version) -> usize {
        let (mut merged, mut upper) = (0, version);
        if !self.try_lock(upper) {
            return merged;
        }
        loop {
            let Some(lower) = self.base(upper).filter(|lower| self.try_lock(*lower)) else {
                self.unlock(upper);
                return merged;
            };
            if self.head(lower).holders.load(Ordering::Acquire) > 1 {
                self.unlock(upper);
                upper = lower;
            } else {
                self.merge_versions(upper, lower);
                merged += 1;
            }
        }
    }

    /// The version on which the table is based, for [`compact`](Self::compact).
    pub(crate) fn version(&self) -> Option<Version> {
        self.version
    }

    fn try_lock(&self, version: Version) -> bool {
        let merging = &self.head(version).merging;
        merging.compare_exchange(0, 1, Ordering::Acquire, Ordering::Relaxed).is_ok()
    }

    fn unlock(&self, version: Version) {
        self.head(version).merging.store(0, Ordering::Release);
    }

    /// Calls `visit` for each version of the table, none of which vanishes meanwhile.
    fn with_chain(&self, mut visit: impl FnMut(Version)) {
        let mut next = self.version;
        while let Some(version) = next {
            while !self.try_lock(version) {
                spin_loop();
            }
            visit(version);
            next = self.base(version);
        }
        let mut locked = self.version;
        while let Some(version) = locked {
            // Read first: unlocked, the one below may vanish.
            locked = self.base(version);
            self.unlock(version);
        }
    }

    /// Calls `visit` for each frame in which versions of the table keep tables and themselves.
    pub(super) fn visit_versions(&self, visit: &mut dyn FnMut(HostPhysAddr)) {
        self.with_chain(|version| {
            let mut frame = version.0.as_u64();
            while frame != NOTHING {
                visit(HostPhysAddr::new(frame));
                frame = self.chunk(HostPhysAddr::new(frame)).next;
            }
            for (_, value) in self.root_entries_of(version) {
                self.visit_tables(self.geometry.root_level(), value.load(Ordering::Acquire), visit);
            }
        });
    }

    fn visit_tables(&self, level: u8, entry: u64, visit: &mut dyn FnMut(HostPhysAddr)) {
        let View::Table(table) = self.view_of(level, entry) else { return };
        visit(table);
        if level > 1 {
            let entries = self.entries(level - 1, table);
            (0..entries.len()).for_each(|index| self.visit_tables(level - 1, entries.load(index), visit));
        }
    }

    fn merge_versions(&self, upper: Version, lower: Version) {
        let level = self.geometry.root_level();
        for (index, below) in self.root_entries_of(lower) {
            let below = below.load(Ordering::Relaxed);
            let Some(above) = self.root_entry_of(upper, index) else {
                self.free_entry(level, index, below, true);
                continue;
            };
            let mut entry = above.load(Ordering::Acquire);
            if self.merge(level, entry, below) == Merged::Owned {
                while let Err(other) = above.compare_exchange(
                    entry,
                    self.as_owned(level, entry),
                    Ordering::AcqRel,
                    Ordering::Acquire,
                ) {
                    entry = other;
                }
            }
        }
        let base = self.head(lower).base.load(Ordering::Acquire);
        self.head(upper).base.store(base, Ordering::Release);
        self.free_chunks(lower);
    }

    fn merge_into(&self, slot: Slot, below: u64) {
        let mut entry = slot.load();
        if self.merge(slot.level, entry, below) == Merged::Owned {
            while !slot.compare_exchange(&self.hal, entry, self.as_owned(slot.level, entry)) {
                entry = slot.load();
            }
        }
    }

    /// Gives back what `below`, an entry of `level` of a version, owns and `above`, which stands in its place, does not need;
    /// or says that it belongs to the table of `above` now.
    fn merge(&self, level: u8, above: u64, below: u64) -> Merged {
        let above = self.view_of(level, above);
        match self.view_of(level, below) {
            View::Table(table) => match above {
                View::SharedTable(same) if same == table => return Merged::Owned,
                View::Table(copy) => {
                    let (copies, originals) = (self.entries(level - 1, copy), self.entries(level - 1, table));
                    for index in 0..originals.len() {
                        let slot = Slot { entries: copies, index, level: level - 1 };
                        self.merge_into(slot, originals.load(index));
                    }
                    self.free_emptied_table(table);
                }
                _ => self.free_table(level - 1, table, true),
            },
            View::Leaf(leaf) | View::Soft(Soft::NoAccess(leaf) | Soft::Idle(leaf)) if leaf.owned => {
                match above {
                    View::Leaf(kept) | View::Soft(Soft::NoAccess(kept) | Soft::Idle(kept))
                        if kept.hpa == leaf.hpa =>
                    {
                        if !kept.owned {
                            return Merged::Owned;
                        }
                    }
                    View::Table(pieces) => self.merge_pieces(level - 1, pieces, leaf),
                    _ => self.give_back(level, leaf),
                }
            }
            // Not the version's own.
            _ => {}
        }
        Merged::Kept
    }

    /// As [`merge`](Self::merge) for the table of `level` into which a large leaf of the version was split.
    fn merge_pieces(&self, level: u8, table: HostPhysAddr, leaf: Leaf) {
        let entries = self.entries(level, table);
        for index in 0..entries.len() {
            let hpa = HostPhysAddr::new(leaf.hpa.as_u64() + index as u64 * level_bytes(level));
            let piece = Soft::NoAccess(Leaf { hpa, ..leaf }).encode();
            self.merge_into(Slot { entries, index, level }, piece);
        }
    }

    /// The entry, with what it points to belonging to the table that it stands in.
    pub(super) fn as_owned(&self, level: u8, entry: u64) -> u64 {
        match self.view_of(level, entry) {
            View::SharedTable(table) => self.format.table(table),
            View::Leaf(_) => entry | F::OWNED,
            View::Soft(Soft::NoAccess(leaf)) => Soft::NoAccess(Leaf { owned: true, ..leaf }).encode(),
            View::Soft(Soft::Idle(leaf)) => Soft::Idle(Leaf { owned: true, ..leaf }).encode(),
            _ => entry,
        }
    }

    /// Takes the frame of a leaf of `level` at `gpa` over from the version that owns it, if nobody but this table needs that
    /// one: it owns nothing there any more then. Beside faults that try the same.
    pub(super) fn take_over(&self, gpa: GuestPhysAddr, level: u8, hpa: HostPhysAddr) -> TakenOver {
        let mut next = self.version;
        while let Some(version) = next {
            // Acquire: what others did with it, before they let it go, was done before.
            if self.head(version).holders.load(Ordering::Acquire) > 1 {
                return TakenOver::Shared;
            }
            if let Some(taken) = self.take_from(version, gpa, level, hpa) {
                return taken;
            }
            next = self.base(version);
        }
        // Another CPU was faster.
        TakenOver::Gone
    }

    /// The entry that translates `gpa` in a version, as far as the tables are its own.
    pub(super) fn entry_of(&self, version: Version, gpa: GuestPhysAddr) -> Option<Place<'_>> {
        let level = self.geometry.root_level();
        let mut place = Place::Root(self.root_entry_of(version, self.geometry.index(level, gpa))?, level);
        while let View::Table(table) = self.view_of(place.level(), place.load()) {
            place = Place::Below(self.slot(place.level() - 1, table, gpa));
        }
        Some(place)
    }

    fn take_from(
        &self,
        version: Version,
        gpa: GuestPhysAddr,
        level: u8,
        hpa: HostPhysAddr,
    ) -> Option<TakenOver> {
        let place = self.entry_of(version, gpa)?;
        let mut entry = place.load();
        let leaf = self.view_of(place.level(), entry).any_leaf()?;
        if !leaf.owned {
            return None;
        }
        if place.level() != level || leaf.hpa != hpa {
            // A piece of a large leaf, which the version can only give away as a whole.
            return Some(TakenOver::Shared);
        }
        loop {
            let without = self.as_shared(level, entry);
            if without == entry {
                return Some(TakenOver::Gone);
            }
            if place.compare_exchange(&self.hal, entry, without) {
                return Some(TakenOver::Taken);
            }
            entry = place.load();
        }
    }
}

/// An entry of a version.
#[derive(Clone, Copy)]
pub(super) enum Place<'v> {
    /// One of the root, whose level this is.
    Root(&'v AtomicU64, u8),
    /// One of a table below.
    Below(Slot),
}

impl Place<'_> {
    pub(super) fn level(self) -> u8 {
        match self {
            Self::Root(_, level) => level,
            Self::Below(slot) => slot.level,
        }
    }

    pub(super) fn load(self) -> u64 {
        match self {
            Self::Root(value, _) => value.load(Ordering::Acquire),
            Self::Below(slot) => slot.load(),
        }
    }

    pub(super) fn compare_exchange<H: Hal>(self, hal: &H, old: u64, new: u64) -> bool {
        match self {
            Self::Root(value, _) => {
                value.compare_exchange(old, new, Ordering::AcqRel, Ordering::Acquire).is_ok()
            }
            Self::Below(slot) => slot.compare_exchange(hal, old, new),
        }
    }
}

/// Whether a frame could be taken over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum TakenOver {
    /// It is the table's now.
    Taken,
    /// Others need it as well.
    Shared,
    /// Another CPU of this table took it.
    Gone,
}
