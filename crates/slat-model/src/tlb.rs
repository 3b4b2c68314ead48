//! What one CPU has cached: entries of the second level, entries that combine both stages, and which invalidation drops which.

use std::collections::BTreeMap;
use std::ops::Range;

use crate::access::{FaultKind, Permissions, Translation};
use crate::walk::{Leaf, Node};

/// The sizes of what entries translate: leaves and NAPOT ranges, and all that one table can translate but a root.
const SIZES: [u64; 6] = [1 << 12, 1 << 16, 1 << 21, 1 << 30, 1 << 39, 1 << 48];

/// Whether an invalidation that has to be ordered (TLBI, HINVAL) can drop an entry: the hardware may fetch it again until the
/// store that replaced it has been ordered by a barrier of the CPU that stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Order {
    /// Replaced by a store of this CPU, no barrier yet.
    Unordered { by: usize },
    /// Cannot be fetched since this time.
    Ordered { at: u64 },
}

/// What an entry of the second level holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum What {
    /// A pointer to a table.
    Table(Node),
    /// A leaf.
    Leaf(Leaf),
    /// Arm: a leaf combined with a stage 1 that is off. It is stage 1's for the TLBIs.
    Flat(Leaf),
    /// RISC-V: an entry that ends a walk.
    Invalid(FaultKind),
}

/// An entry of the second level.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Entry {
    /// EP4TA, ASID or VMID.
    pub(crate) tag: u64,
    /// The first guest physical address.
    pub(crate) base: u64,
    /// In bytes.
    pub(crate) size: u64,
    /// The level of the table entry that it was read from.
    pub(crate) level: u8,
    /// The host physical address of that entry, and its value.
    pub(crate) source: u64,
    pub(crate) raw: u64,
    pub(crate) what: What,
    pub(crate) order: Order,
}

impl Entry {
    pub(crate) fn covers(&self, gpa: u64) -> bool {
        gpa >= self.base && gpa - self.base < self.size
    }

    fn table(&self) -> Option<Node> {
        match self.what {
            What::Table(node) => Some(node),
            _ => None,
        }
    }

    /// Where it leads: the first host physical address, and how many bytes.
    fn target(&self) -> Option<(u64, u64)> {
        match self.what {
            What::Table(node) => Some((node.table, node.bytes())),
            What::Leaf(leaf) | What::Flat(leaf) => Some((leaf.hpa, leaf.size)),
            What::Invalid(_) => None,
        }
    }

    fn overlaps(&self, range: &Range<u64>) -> bool {
        self.base < range.end && range.start < self.base + self.size
    }
}

/// An entry that combines both stages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Combined {
    /// EP4TA, ASID of the VMCB, or VMID.
    pub(crate) tag: u64,
    /// Intel: the VPID. Elsewhere 0.
    pub(crate) vpid: u16,
    /// PCID, or the guest's ASID.
    pub(crate) asid: u64,
    pub(crate) global: bool,
    pub(crate) gva: u64,
    pub(crate) size: u64,
    /// Of both stages.
    pub(crate) permissions: Permissions,
    /// The second level's part, at `gva`.
    pub(crate) translation: Translation,
    /// Stores need no flag to be set in either stage.
    pub(crate) dirty: bool,
    /// The accesses that it serves: of the guest's user mode, or of its kernel.
    pub(crate) user: bool,
    /// Stage 1 was on.
    pub(crate) paging: bool,
    /// The guest physical range of the second-level leaf.
    pub(crate) gpa: u64,
    pub(crate) gpa_size: u64,
    /// The host physical address of the second-level leaf's entry.
    pub(crate) source: u64,
}

/// Which entries of the second level an invalidation drops.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Second {
    /// Guest physical addresses; `None` for all.
    pub(crate) range: Option<Range<u64>>,
    /// Only leaves of this level.
    pub(crate) level: Option<u8>,
    /// Pointers to tables too.
    pub(crate) tables: bool,
    /// Invalid entries above level 0 too.
    pub(crate) invalid_tables: bool,
}

impl Second {
    pub(crate) const ALL: Self = Self { range: None, level: None, tables: true, invalid_tables: true };

    fn drops(&self, entry: &Entry) -> bool {
        let kind = match entry.what {
            What::Table(_) => self.tables,
            What::Leaf(_) => self.level.is_none_or(|level| level == entry.level),
            What::Invalid(_) => self.invalid_tables || entry.level == 0,
            What::Flat(_) => false,
        };
        kind && self.range.as_ref().is_none_or(|range| entry.overlaps(range))
    }
}

/// Which combined entries an invalidation drops.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub(crate) struct First {
    /// Guest virtual addresses; `None` for all.
    pub(crate) gva: Option<Range<u64>>,
    /// Of a second-level leaf in this guest physical range.
    pub(crate) gpa: Option<Range<u64>>,
    /// Of this PCID or ASID.
    pub(crate) asid: Option<u64>,
    /// Intel: of this VPID.
    pub(crate) vpid: Option<u16>,
    /// Intel: of all VPIDs but 0.
    pub(crate) not_vpid_0: bool,
    /// Global entries stay.
    pub(crate) keeps_globals: bool,
}

impl First {
    fn drops(&self, entry: &Combined) -> bool {
        self.gva.as_ref().is_none_or(|range| entry.gva < range.end && range.start < entry.gva + entry.size)
            && self
                .gpa
                .as_ref()
                .is_none_or(|range| entry.gpa < range.end && range.start < entry.gpa + entry.gpa_size)
            && self.asid.is_none_or(|asid| asid == entry.asid || entry.global)
            && self.vpid.is_none_or(|vpid| vpid == entry.vpid)
            && !(self.not_vpid_0 && entry.vpid == 0)
            && !(self.keeps_globals && entry.global)
    }

    /// Entries that combine with a stage 1 that is off: global, virtual address as guest physical address.
    fn drops_flat(&self, entry: &Entry) -> bool {
        matches!(entry.what, What::Flat(_))
            && self.gva.as_ref().is_none_or(|range| entry.overlaps(range))
            && self.gpa.as_ref().is_none_or(|range| entry.overlaps(range))
            && !self.keeps_globals
    }
}

/// What an invalidation drops in one TLB.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Effect {
    /// Entries with this tag; `None` for all.
    pub(crate) tag: Option<u64>,
    pub(crate) second: Option<Second>,
    pub(crate) first: Option<First>,
}

/// Entries by tag and first address.
type Slots = BTreeMap<(u64, u64), Vec<Entry>>;

/// Where entries are that have something in common. What was dropped since may still be named.
type Index = BTreeMap<u64, Vec<(u64, u64)>>;

/// The TLB of one CPU.
#[derive(Clone, Debug, Default)]
pub(crate) struct Tlb {
    /// Pointers to tables, which a CPU has few of; leaves of stage 2 and invalid entries; leaves combined with a stage 1 that
    /// is off, which TLBIs tell from the others.
    tables: Slots,
    leaves: Slots,
    flat: Slots,
    pub(crate) combined: Vec<Combined>,
    /// Where entries are whose replacement no barrier has ordered.
    unordered: Vec<(u64, u64)>,
    /// By the table entry that they were read from.
    sources: Index,
    /// By the first host physical address of the page or the table that they lead to.
    targets: Index,
}

impl Tlb {
    /// Keeps an entry; if it is there already, only the order of its replacement is news.
    pub(crate) fn insert(&mut self, entry: Entry) {
        let key = (entry.tag, entry.base);
        if matches!(entry.order, Order::Unordered { .. }) {
            self.unordered.push(key);
        }
        let slots = match entry.what {
            What::Table(_) => &mut self.tables,
            What::Leaf(_) | What::Invalid(_) => &mut self.leaves,
            What::Flat(_) => &mut self.flat,
        };
        let slot = slots.entry(key).or_default();
        let same = |old: &&mut Entry| {
            (old.source, old.raw, old.level, old.size) == (entry.source, entry.raw, entry.level, entry.size)
                && old.what == entry.what
        };
        match slot.iter_mut().find(same) {
            Some(old) => old.order = entry.order,
            None => {
                slot.push(entry);
                // Nobody asks where invalid entries came from, and RISC-V's are many.
                if !matches!(entry.what, What::Invalid(_)) {
                    note(&mut self.sources, entry.source, key);
                }
                if let Some((target, _)) = entry.target() {
                    note(&mut self.targets, target, key);
                }
            }
        }
    }

    pub(crate) fn insert_combined(&mut self, entry: Combined) {
        if !self.combined.contains(&entry) {
            self.combined.push(entry);
        }
    }

    /// The entries that translate `gpa` for this tag.
    pub(crate) fn matching(&self, tag: u64, gpa: u64) -> impl Iterator<Item = &Entry> {
        let bases = SIZES.iter().map(move |size| gpa & !(size - 1));
        let mut last = None;
        bases
            .filter(move |base| last.replace(*base) != Some(*base))
            .flat_map(move |base| self.at((tag, base)))
            .filter(move |entry| entry.covers(gpa))
    }

    /// The entries with this tag that translate anything in `range`.
    pub(crate) fn overlapping(&self, tag: u64, range: &Range<u64>) -> impl Iterator<Item = &Entry> {
        let keys = (tag, range.start)..(tag, range.end);
        let inside = [&self.leaves, &self.flat, &self.tables]
            .into_iter()
            .flat_map(move |slots| slots.range(keys.clone()));
        let begun_before = self.matching(tag, range.start).filter(move |entry| entry.base < range.start);
        inside.flat_map(|(_, entries)| entries).chain(begun_before)
    }

    fn at(&self, key: (u64, u64)) -> impl Iterator<Item = &Entry> {
        [&self.leaves, &self.flat, &self.tables]
            .into_iter()
            .filter_map(move |slots| slots.get(&key))
            .flatten()
    }

    /// The pointers to tables with any tag.
    pub(crate) fn all_tables(&self) -> impl Iterator<Item = Node> + '_ {
        self.tables.values().flatten().filter_map(Entry::table)
    }

    /// The pointers to tables with this tag.
    pub(crate) fn tables(&self, tag: u64) -> impl Iterator<Item = Node> + '_ {
        self.tables
            .range((tag, 0)..=(tag, u64::MAX))
            .flat_map(|(_, entries)| entries)
            .filter_map(Entry::table)
    }

    /// The entries that were read from the table entry at `source`.
    pub(crate) fn read_from(&self, source: u64) -> impl Iterator<Item = &Entry> {
        let keys = self.sources.get(&source).into_iter().flatten();
        keys.flat_map(|key| self.at(*key)).filter(move |entry| entry.source == source)
    }

    /// The entries that lead to a page or a table in this memory.
    pub(crate) fn leading_to(&self, memory: &Range<u64>) -> impl Iterator<Item = &Entry> {
        let above =
            SIZES.iter().map(|size| memory.start & !(size - 1)).filter(|start| *start != memory.start);
        let above = above.filter_map(|start| self.targets.get(&start));
        let keys = above.chain(self.targets.range(memory.clone()).map(|(_, keys)| keys)).flatten();
        let memory = memory.clone();
        keys.flat_map(|key| self.at(*key)).filter(move |entry| {
            entry.target().is_some_and(|(start, bytes)| start < memory.end && memory.start < start + bytes)
        })
    }

    /// Drops what an invalidation drops that was issued at this time; `None` if it is not subject to barriers.
    pub(crate) fn invalidate(&mut self, effect: &Effect, issued: Option<u64>) {
        let due = |entry: &Entry| match (issued, entry.order) {
            (None, _) => true,
            (Some(issued), Order::Ordered { at }) => at <= issued,
            (Some(_), Order::Unordered { .. }) => false,
        };
        if let Some(second) = &effect.second {
            let range = second.range.as_ref();
            for slots in [&mut self.leaves, &mut self.tables] {
                drop_from(slots, effect.tag, range, |entry| second.drops(entry) && due(entry));
            }
        }
        if let Some(first) = &effect.first {
            let range = first.gva.as_ref().or(first.gpa.as_ref());
            drop_from(&mut self.flat, effect.tag, range, |entry| first.drops_flat(entry) && due(entry));
            let tagged = |entry: &Combined| effect.tag.is_none_or(|wanted| wanted == entry.tag);
            self.combined.retain(|entry| !(tagged(entry) && first.drops(entry)));
        }
    }

    /// A barrier has ordered stores: of one CPU, or of all that this one has seen.
    pub(crate) fn order(&mut self, by: Option<usize>, now: u64) {
        let Self { leaves, flat, tables, unordered, .. } = self;
        unordered.retain(|key| {
            let mut left = false;
            let slots = [&mut *leaves, &mut *flat, &mut *tables];
            for entry in slots.into_iter().filter_map(|slots| slots.get_mut(key)).flatten() {
                match entry.order {
                    Order::Unordered { by: cpu } if by.is_none_or(|by| by == cpu) => {
                        entry.order = Order::Ordered { at: now };
                    }
                    Order::Unordered { .. } => left = true,
                    Order::Ordered { .. } => {}
                }
            }
            left
        });
    }

    /// Intel: an EPT violation drops what would be used for its address (SDM, "Operations that Invalidate Cached Mappings").
    pub(crate) fn drop_violated(&mut self, tag: u64, gpa: u64) {
        let range = Some(gpa..gpa + 1);
        let second = Second { range: range.clone(), ..Second::ALL };
        let first = First { gpa: range, ..First::default() };
        self.invalidate(&Effect { tag: Some(tag), second: Some(second), first: Some(first) }, None);
    }
}

fn note(index: &mut Index, of: u64, key: (u64, u64)) {
    let keys = index.entry(of).or_default();
    if !keys.contains(&key) {
        keys.push(key);
    }
}

/// Drops entries with this tag (or any) of which `dropped` says so; all of those lie in `range`, if there is one.
fn drop_from(
    slots: &mut Slots,
    tag: Option<u64>,
    range: Option<&Range<u64>>,
    dropped: impl Fn(&Entry) -> bool,
) {
    let (Some(tag), Some(range)) = (tag, range) else {
        slots.retain(|&(of, _), entries| {
            if tag.is_none_or(|tag| tag == of) {
                entries.retain(|entry| !dropped(entry));
            }
            !entries.is_empty()
        });
        return;
    };
    // What begins in the range, and what covers its beginning.
    let mut keys: Vec<_> = SIZES.iter().map(|size| (tag, range.start & !(size - 1))).collect();
    keys.extend(slots.range((tag, range.start)..(tag, range.end.max(range.start))).map(|(key, _)| *key));
    for key in keys {
        if let Some(entries) = slots.get_mut(&key) {
            entries.retain(|entry| !dropped(entry));
            if entries.is_empty() {
                slots.remove(&key);
            }
        }
    }
}
