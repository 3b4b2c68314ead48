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

/// The TLB of one CPU.
#[derive(Clone, Debug, Default)]
pub(crate) struct Tlb {
    entries: BTreeMap<(u64, u64), Vec<Entry>>,
    pub(crate) combined: Vec<Combined>,
}

impl Tlb {
    /// Keeps an entry; if it is there already, only the order of its replacement is news.
    pub(crate) fn insert(&mut self, entry: Entry) {
        let slot = self.entries.entry((entry.tag, entry.base)).or_default();
        let same = |old: &&mut Entry| {
            (old.source, old.raw, old.level, old.size) == (entry.source, entry.raw, entry.level, entry.size)
                && old.what == entry.what
        };
        match slot.iter_mut().find(same) {
            Some(old) => old.order = entry.order,
            None => slot.push(entry),
        }
    }

    pub(crate) fn insert_combined(&mut self, entry: Combined) {
        if !self.combined.contains(&entry) {
            self.combined.push(entry);
        }
    }

    /// The entries that translate `gpa` for this tag.
    pub(crate) fn matching(&self, tag: u64, gpa: u64) -> impl Iterator<Item = &Entry> {
        let mut bases: Vec<u64> = SIZES.iter().map(|size| gpa & !(size - 1)).collect();
        bases.dedup();
        bases
            .into_iter()
            .filter_map(move |base| self.entries.get(&(tag, base)))
            .flatten()
            .filter(move |entry| entry.covers(gpa))
    }

    /// The entries with this tag that translate anything in `range`.
    pub(crate) fn overlapping(&self, tag: u64, range: &Range<u64>) -> impl Iterator<Item = &Entry> {
        let inside =
            self.entries.range((tag, range.start)..(tag, range.end)).flat_map(|(_, entries)| entries);
        let begun_before = self.matching(tag, range.start).filter(move |entry| entry.base < range.start);
        inside.chain(begun_before)
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &Entry> {
        self.entries.values().flatten()
    }

    /// The pointers to tables with this tag.
    pub(crate) fn tables(&self, tag: u64) -> Vec<(Node, Order)> {
        let of_tag = self.entries.range((tag, 0)..=(tag, u64::MAX)).flat_map(|(_, entries)| entries);
        let table = |entry: &Entry| match entry.what {
            What::Table(node) => Some((node, entry.order)),
            _ => None,
        };
        of_tag.filter_map(table).collect()
    }

    /// Drops what an invalidation drops that was issued at this time; `None` if it is not subject to barriers.
    pub(crate) fn invalidate(&mut self, effect: &Effect, issued: Option<u64>) {
        let due = |order: Order| match (issued, order) {
            (None, _) => true,
            (Some(issued), Order::Ordered { at }) => at <= issued,
            (Some(_), Order::Unordered { .. }) => false,
        };
        self.entries.retain(|&(tag, _), entries| {
            if effect.tag.is_none_or(|wanted| wanted == tag) {
                entries.retain(|entry| {
                    let dropped = effect.second.as_ref().is_some_and(|second| second.drops(entry))
                        || effect.first.as_ref().is_some_and(|first| first.drops_flat(entry));
                    !(dropped && due(entry.order))
                });
            }
            !entries.is_empty()
        });
        if let Some(first) = &effect.first {
            let tagged = |entry: &Combined| effect.tag.is_none_or(|wanted| wanted == entry.tag);
            self.combined.retain(|entry| !(tagged(entry) && first.drops(entry)));
        }
    }

    /// A barrier has ordered stores: of one CPU, or of all that this one has seen.
    pub(crate) fn order(&mut self, by: Option<usize>, now: u64) {
        for entry in self.entries.values_mut().flatten() {
            if let Order::Unordered { by: cpu } = entry.order {
                if by.is_none_or(|by| by == cpu) {
                    entry.order = Order::Ordered { at: now };
                }
            }
        }
    }

    /// Intel: an EPT violation drops what would be used for its address (SDM, "Operations that Invalidate Cached Mappings").
    pub(crate) fn drop_violated(&mut self, tag: u64, gpa: u64) {
        let range = Some(gpa..gpa + 1);
        let second = Second { range: range.clone(), ..Second::ALL };
        let first = First { gpa: range, ..First::default() };
        self.invalidate(&Effect { tag: Some(tag), second: Some(second), first: Some(first) }, None);
    }
}
