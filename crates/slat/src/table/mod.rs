//! The table: one walker, and one file per verb.
//!
//! **Invariants.** Entries outside of every region are zero once no debt is pending. A table is filled before it is
//! linked and given back after it was unlinked and invalidated. A present leaf never changes its address, memory
//! type or size except through [`break_leaf`](Table::break_leaf), an invalidation and [`make`](Table::make) where
//! the format asks for it. Every verb takes the frames that it needs beforehand, so that it cannot fail half way.

mod age;
mod bbm;
mod collapse;
mod cow;
mod group;
mod inventory;
mod leaves;
mod log;
mod map;
mod memory;
mod migrate;
mod page_out;
mod pinned;
mod populate;
mod protect;
mod reach;
mod retire;
mod retired;
mod shared;
mod soft;
mod split;
mod version;
mod walk;
mod writable;

pub(crate) use cow::Unshared;
pub(crate) use inventory::Part;
pub use leaves::Census;
pub use leaves::Mapping;
pub use log::LogUnit;
pub(crate) use map::{Frames, Linear, OutOfMemory, Source};
pub(crate) use memory::Slot;
pub(crate) use migrate::NewFrames;
pub(crate) use page_out::Verdict;
pub(crate) use populate::{Init, Populated, Refused, Supplier, Want};
pub(crate) use protect::Alike;
pub(crate) use reach::Reached;
pub(crate) use retire::Ownership;
pub(crate) use shared::Extent;
pub(crate) use soft::{Leaf, Soft};
pub(crate) use writable::MadeWritable;

use crate::addr::{GuestPhysAddr, GuestPhysRange, HostPhysAddr};
use crate::flags::{LeafSize, MappingFlags, level_bytes};
use crate::format::{CacheEvent, Format, Geometry, Kind};
use crate::frame::{OwnedFrames, Spares, frames_of_level};
use crate::hal::{CacheActions, CacheMaintenance, Hal};
use crate::observe::Begin;
use crate::tlb::{Invalidation, Pending, Reach, Scope, Tag};
#[cfg(feature = "tracing")]
use crate::trace::What;
use memory::Entries;
use reach::Plain;
pub(crate) use version::Version;

/// A page table of format `F` in frames of the host `H`.
///
/// Verbs that owe an invalidation note it in the [`Pending`] of the space. All verbs take `&self`, because hardware
/// shares the table anyway; that structural verbs exclude each other is the business of the space (`&mut self`).
pub(crate) struct Table<H: Hal, F: Format> {
    hal: H,
    format: F,
    geometry: Geometry,
    root: HostPhysAddr,
    root_entries: usize,
    /// Which leaves the host can use at once, by the bits of the access.
    plain: [Plain; 4],
    tag: Tag,
    spares: Spares,
    /// What it shares with forks and snapshots.
    version: Option<Version>,
    /// Whether a CPU may ever have walked it.
    walked: bool,
}

/// What an entry means.
#[derive(Clone, Copy, Debug)]
pub(crate) enum View {
    Absent,
    Table(HostPhysAddr),
    /// A table of a version, which nobody changes: the hardware can at the most read through it.
    SharedTable(HostPhysAddr),
    Leaf(Leaf),
    Soft(Soft),
}

impl View {
    /// The leaf, whether the guest has access to it or not.
    fn any_leaf(self) -> Option<Leaf> {
        match self {
            Self::Leaf(leaf) | Self::Soft(Soft::NoAccess(leaf) | Soft::Idle(leaf)) => Some(leaf),
            _ => None,
        }
    }
}

impl<H: Hal, F: Format> Table<H, F> {
    /// An empty table, or the host back if it has no frames for the root.
    pub(crate) fn new(hal: H, format: F, tag: u16) -> Option<Self> {
        let geometry = format.geometry();
        let tables = usize::from(geometry.root_tables);
        let mut root = OwnedFrames::alloc(&hal, tables, tables)?;
        root.zero_table();
        let root = root.into_raw();
        let root_entries = geometry.entries(geometry.root_level());
        let (plain, tag, spares) = (Plain::all(&format), Tag::fixed(tag), Spares::new());
        Some(Self {
            hal,
            format,
            geometry,
            root,
            root_entries,
            plain,
            tag,
            spares,
            version: None,
            walked: true,
        })
    }

    /// As [`new`](Self::new), a table that no CPU will ever walk: it only keeps frames.
    pub(crate) fn new_unwalked(hal: H, format: F) -> Option<Self> {
        let mut table = Self::new(hal, format, 0)?;
        table.walked = false;
        Some(table)
    }

    /// Says that no CPU will ever walk the table.
    pub(crate) fn set_unwalked(&mut self) {
        self.walked = false;
    }

    /// Gives back what was retired in a table that no CPU has walked yet.
    pub(crate) fn settle_unwalked(&self, pending: &mut Pending) {
        pending.ranges().iter().for_each(|range| self.reap(*range));
        pending.clear();
    }

    pub(crate) fn hal(&self) -> &H {
        &self.hal
    }

    pub(crate) fn format(&self) -> &F {
        &self.format
    }

    pub(crate) fn root(&self) -> HostPhysAddr {
        self.root
    }

    pub(crate) fn tag(&self) -> &Tag {
        &self.tag
    }

    pub(crate) fn root_register(&self) -> u64 {
        self.format.root_register(self.root, self.tag.number())
    }

    /// Makes this CPU forget all guests: the tags have new owners.
    pub(crate) fn invalidate_all_spaces_locally(&self) {
        self.invalidate(Scope::AllSpaces, Reach::ThisCpu);
    }

    #[inline(always)]
    #[expect(unsafe_code, reason = "names table memory, which memory.rs then reaches")]
    fn root_table(&self) -> Entries {
        // SAFETY: as in `entries`; the root has as many entries.
        unsafe { Entries::new(&self.hal, self.root, self.root_entries) }
    }

    #[expect(unsafe_code, reason = "names table memory, which memory.rs then reaches")]
    fn entries(&self, level: u8, hpa: HostPhysAddr) -> Entries {
        // SAFETY: `hpa` is the root or was read from a table entry of this level's parent (or is a frame just taken
        // to become a table), so it is a table in frames taken from our host; tables are given back only by
        // `&mut self` operations and on drop, while no `Entries` is held.
        unsafe { Entries::new(&self.hal, hpa, self.geometry.entries(level)) }
    }

    /// As [`entries`](Self::entries) for a table below the root.
    #[inline(always)]
    #[expect(unsafe_code, reason = "names table memory, which memory.rs then reaches")]
    fn lower_entries(&self, hpa: HostPhysAddr) -> Entries {
        // SAFETY: as in `entries`; every table below the root has 512 entries.
        unsafe { Entries::new(&self.hal, hpa, 512) }
    }

    fn slot(&self, level: u8, table: HostPhysAddr, gpa: GuestPhysAddr) -> Slot {
        Slot { entries: self.entries(level, table), index: self.geometry.index(level, gpa), level }
    }

    /// What `entry`, which stands at `index` in a table of `level`, means.
    #[inline]
    pub(crate) fn view(&self, level: u8, index: usize, entry: u64) -> View {
        if entry == 0 {
            return View::Absent;
        }
        match self.format.kind(level, entry) {
            Kind::Table => match self.format.next_table(entry) {
                Some(next) => View::Table(next),
                None => View::SharedTable(self.format.address(entry)),
            },
            Kind::Leaf => View::Leaf(Leaf {
                hpa: self.format.address(self.format.single(index, entry)),
                flags: self.format.flags(entry),
                owned: entry & F::OWNED != 0,
                accessed: entry & self.format.accessed_bit() != 0,
                dirty: entry & self.format.dirty_bit() != 0,
                clean: self.format.dirty_bit() == 0
                    && entry & self.format.log_bit() == self.format.log_bit_of_clean(),
            }),
            Kind::Absent => match Soft::decode(entry) {
                Some(Soft::SharedTable(next)) => View::SharedTable(next),
                soft => soft.map_or(View::Absent, View::Soft),
            },
        }
    }

    /// The entry of a fresh leaf with flags that allow something, its frame the space's.
    #[inline(always)]
    fn owned_leaf(&self, level: u8, hpa: HostPhysAddr, flags: MappingFlags) -> u64 {
        self.format.leaf(level, hpa, flags) | F::OWNED
    }

    /// The entry of a leaf: present if the flags allow anything, a software entry otherwise. One that is clean lacks the
    /// permission to write.
    fn encode(&self, level: u8, leaf: Leaf) -> u64 {
        if !leaf.flags.is_accessible() {
            return Soft::NoAccess(leaf).encode();
        }
        if leaf.clean {
            return self.encode_clean(level, leaf);
        }
        self.format.leaf(level, leaf.hpa, leaf.flags)
            | if leaf.owned { F::OWNED } else { 0 }
            | if leaf.accessed { self.format.accessed_bit() } else { 0 }
            | if leaf.dirty { self.format.dirty_bit() } else { 0 }
    }

    /// The bits of a present leaf that the hardware may set at any time.
    #[inline]
    fn marks(&self) -> u64 {
        self.format.accessed_bit() | self.format.dirty_bit()
    }

    /// Puts `replacement`, which the hardware takes for absent, in the place of a present leaf, with the marks that
    /// the leaf had in the end.
    fn take_out(&self, slot: Slot, leaf: Leaf, replacement: impl Fn(Leaf) -> Soft) {
        debug_assert_eq!(slot.load() & self.format.group_bit(), 0, "one of a group by itself");
        if self.marks() == 0 {
            // That it was there, and not idle, is as good as a mark.
            slot.store(&self.hal, replacement(Leaf { accessed: true, ..leaf }).encode());
            return;
        }
        let absent = replacement(leaf).encode();
        let last = slot.swap(&self.hal, absent);
        let marked = Leaf {
            accessed: last & self.format.accessed_bit() != 0,
            dirty: last & self.format.dirty_bit() != 0,
            ..leaf
        };
        // Absent already: the hardware marks it no more.
        if replacement(marked).encode() != absent {
            slot.store(&self.hal, replacement(marked).encode());
        }
    }

    /// The table below an entry, also if it takes its place there only after the invalidation: the way of changes,
    /// which have the space for themselves. Tables of a version are not on it.
    fn below(&self, level: u8, entry: u64) -> Option<HostPhysAddr> {
        // Of no leaf, so that it does not matter where the entry stands.
        match self.view(level, 0, entry) {
            View::Table(next) | View::Soft(Soft::NewTable(next)) => Some(next),
            _ => None,
        }
    }

    /// Calls `visit` for every entry of the range that is neither absent nor a table, with the part of the range
    /// that the entry covers.
    fn visit(&self, range: GuestPhysRange, visit: &mut impl FnMut(Slot, u64, GuestPhysRange)) {
        self.visit_runs(range, &mut |level, entries, indices, run| {
            for (index, (_, piece)) in indices.zip(pieces(self.geometry, level, run)) {
                let entry = entries.load(index);
                if entry != 0 {
                    visit(Slot { entries, index, level }, entry, piece);
                }
            }
        });
    }

    /// Calls `visit` for every run of neighbouring entries of one table that are not tables themselves, with the
    /// part of the range that the run covers. Absent entries may be among them.
    fn visit_runs(
        &self,
        range: GuestPhysRange,
        visit: &mut impl FnMut(u8, Entries, core::ops::Range<usize>, GuestPhysRange),
    ) {
        self.visit_runs_in(self.geometry.root_level(), self.root, range, visit);
    }

    fn visit_runs_in(
        &self,
        level: u8,
        table: HostPhysAddr,
        range: GuestPhysRange,
        visit: &mut impl FnMut(u8, Entries, core::ops::Range<usize>, GuestPhysRange),
    ) {
        let entries = self.entries(level, table);
        if level == 0 {
            let first = self.geometry.index(0, range.start());
            let count = (range.size() / crate::PAGE_SIZE) as usize;
            visit(0, entries, first..first + count, range);
            return;
        }
        for (index, piece) in pieces(self.geometry, level, range) {
            let entry = entries.load(index);
            if let Some(next) = self.below(level, entry) {
                self.visit_runs_in(level - 1, next, piece, visit);
            } else if entry != 0 {
                visit(level, entries, index..index + 1, piece);
            }
        }
    }

    /// Keeps frames ready for the tables that `faults` faults at the same time can need at the worst.
    pub(crate) fn top_up(&self, faults: usize) -> Result<(), OutOfMemory> {
        let wanted = faults.saturating_mul(usize::from(self.geometry.root_level())).min(Spares::PLACES);
        while self.spares.len() < wanted {
            self.spares.put(OwnedFrames::alloc(&self.hal, 1, 1).ok_or(OutOfMemory)?);
        }
        Ok(())
    }

    /// How many frames are kept ready.
    pub(crate) fn spares(&self) -> usize {
        self.spares.len()
    }

    /// Gives the frames that are kept ready back.
    pub(crate) fn drop_spares(&self) {
        while self.spares.take(&self.hal).is_some() {}
    }

    /// Cache maintenance of the frames of a leaf for one or more events.
    #[inline]
    pub(crate) fn maintain(&self, level: u8, hpa: HostPhysAddr, events: &[CacheEvent]) {
        let actions = events.iter().map(|event| self.format.cache_actions(*event));
        let actions = actions.fold(CacheActions::empty(), CacheActions::union);
        if !actions.is_empty() {
            self.hal.maintain_cache(&CacheMaintenance {
                start: hpa,
                frames: frames_of_level(level),
                actions,
            });
        }
    }

    fn invalidate(&self, scope: Scope<'_>, reach: Reach) {
        if let Some(counters) = self.hal.counters() {
            counters.invalidation(scope, reach);
        }
        let begin = Begin::now(&self.hal);
        self.hal.invalidate(&Invalidation {
            root: self.root_register(),
            scope,
            reach,
            table: F::TABLE,
            features: self.format.tlb_features(),
        });
        #[cfg(feature = "tracing")]
        begin.end(&self.hal, (self.tag().number(), self.root()), || What::invalidation(scope, reach));
        #[cfg(not(feature = "tracing"))]
        let _ = begin;
    }

    /// Makes every CPU forget the space.
    pub(crate) fn invalidate_space(&self) {
        self.invalidate(Scope::Space, Reach::AllCpus);
    }

    /// Makes this CPU forget what it knows of the page of `gpa`.
    pub(crate) fn invalidate_locally(&self, gpa: GuestPhysAddr) {
        if let Ok(page) = GuestPhysRange::new(gpa.align_down(crate::PAGE_SIZE), crate::PAGE_SIZE) {
            self.invalidate(Scope::Ranges { ranges: &[page], stride: LeafSize::Size4K }, Reach::ThisCpu);
        }
    }

    /// Makes this CPU forget all that it knows of the space.
    pub(crate) fn invalidate_space_locally(&self) {
        self.invalidate(Scope::Space, Reach::ThisCpu);
    }

    /// Makes this CPU forget why it refused an access to `gpa`, whose leaf would allow it: an older leaf, or that an entry
    /// of one of the tables above was absent, which no address reaches on some formats.
    pub(crate) fn forget_refusal(&self, gpa: GuestPhysAddr) {
        if self.format.invalidation_by_address_reaches_tables() {
            self.invalidate_locally(gpa);
        } else {
            self.invalidate_space_locally();
        }
    }

    /// Discharges the debt: one invalidation, then everything that waited for it is given back or takes its place.
    pub(crate) fn settle(&self, pending: &mut Pending) {
        self.settle_with(pending, |_| {});
    }

    /// As [`settle`](Self::settle); between the two, when no CPU can reach what was taken out and all of it still
    /// stands in the table, `look` looks at the table.
    pub(crate) fn settle_with(&self, pending: &mut Pending, look: impl FnOnce(&Self)) {
        if pending.is_empty() {
            return look(self);
        }
        self.invalidate(pending.scope(), Reach::AllCpus);
        look(self);
        if pending.has_unfinished() {
            for range in pending.ranges() {
                self.reap(*range);
            }
        }
        pending.clear();
    }

    /// Every non-zero entry of the table, by the address of the entry: what "bit for bit as before" compares.
    #[cfg(all(test, not(loom)))]
    pub(crate) fn fingerprint(&self) -> Vec<(u64, u64)> {
        fn collect<H: Hal, F: Format>(
            table: &Table<H, F>,
            level: u8,
            at: HostPhysAddr,
            all: &mut Vec<(u64, u64)>,
        ) {
            let entries = table.entries(level, at);
            for index in 0..entries.len() {
                let entry = entries.load(index);
                if entry != 0 {
                    all.push((at.as_u64() + 8 * index as u64, entry));
                }
                if let Some(next) = if level > 0 { table.below(level, entry) } else { None } {
                    collect(table, level - 1, next, all);
                }
            }
        }
        let mut all = Vec::new();
        collect(self, self.geometry.root_level(), self.root, &mut all);
        all
    }

    fn leaf_size(level: u8) -> LeafSize {
        LeafSize::from_level(level).unwrap_or(LeafSize::Size1G)
    }
}

impl<H: Hal, F: Format> Drop for Table<H, F> {
    fn drop(&mut self) {
        if self.walked {
            // Whatever a CPU still caches under our tag must be gone before the frames have another owner.
            self.invalidate(Scope::Space, Reach::AllCpus);
        }
        self.free_root();
        self.release_version();
        self.drop_spares();
    }
}

/// The entries of a table of `level` that `range` touches: index, and the part of the range that each covers.
///
/// The range lies within what one table of this level translates.
fn pieces(
    geometry: Geometry,
    level: u8,
    range: GuestPhysRange,
) -> impl Iterator<Item = (usize, GuestPhysRange)> {
    let bytes = level_bytes(level);
    let mut next = Some(range.start());
    core::iter::from_fn(move || {
        let start = next?;
        let boundary =
            start.align_down(bytes).checked_add(bytes).map_or(range.end(), |end| end.min(range.end()));
        next = (boundary < range.end()).then_some(boundary);
        Some((geometry.index(level, start), GuestPhysRange::between(start, boundary)?))
    })
}

/// Whether the flags differ in a way that the caches care about.
fn caches_differ(old: MappingFlags, new: MappingFlags) -> bool {
    let fetch = MappingFlags::EXECUTE | MappingFlags::USER;
    old.memory_type() != new.memory_type() || !old.intersects(fetch) && new.intersects(fetch)
}

#[cfg(all(test, not(loom)))]
mod tests;
