//! What is sorted and compared: ranges of host physical memory, and what they are.

use super::{AuditSite, AuditViolation, ReachableLeaf};
use crate::addr::{GuestPhysAddr, GuestPhysRange, HostPhysAddr, HostPhysRange};
use crate::flags::MappingFlags;
use crate::space::Backend;
use bitflags::bitflags;

bitflags! {
    #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
    pub(super) struct Traits: u8 {
        /// No guest may reach it.
        const RESERVED = 1 << 0;
        /// Several spaces may write to it.
        const DECLARED = 1 << 1;
        /// A space keeps it for itself.
        const OWN_FRAMES = 1 << 2;
        /// The guest of a space reaches it.
        const LEAF = 1 << 3;
        const WRITABLE = 1 << 4;
        const EXECUTABLE = 1 << 5;
        /// It belongs to the space.
        const OWNED = 1 << 6;
        /// It is shared memory.
        const SHARED = 1 << 7;
    }
}

/// Room for one record of an [`Audit`](super::Audit), lent by the caller: 40 bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct AuditRecord {
    pub(super) start: u64,
    pub(super) end: u64,
    /// First guest-physical address, of a leaf.
    pub(super) gpa: u64,
    /// The index of the space, of a leaf or of frames of its own.
    pub(super) space: u32,
    pub(super) traits: Traits,
}

impl PartialOrd for AuditRecord {
    fn partial_cmp(&self, other: &Self) -> Option<core::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for AuditRecord {
    /// What is declared first, then by address; where that is the same, in the order of the spaces and of their addresses.
    fn cmp(&self, other: &Self) -> core::cmp::Ordering {
        let key = |record: &Self| {
            let declared = record.traits.contains(Traits::DECLARED);
            (!declared, record.start, record.space, record.gpa, record.end, record.traits.bits())
        };
        key(self).cmp(&key(other))
    }
}

impl AuditRecord {
    pub(super) fn of_range(range: HostPhysRange, traits: Traits) -> Self {
        let (start, end) = (range.start().as_u64(), range.end().as_u64());
        Self { start, end, gpa: 0, space: 0, traits }
    }

    pub(super) fn of_leaf(space: u32, leaf: &ReachableLeaf) -> Self {
        let mut traits = Traits::LEAF;
        traits.set(Traits::WRITABLE, leaf.flags.contains(MappingFlags::WRITE));
        traits.set(Traits::EXECUTABLE, leaf.executable);
        traits.set(Traits::OWNED, leaf.owned);
        traits.set(Traits::SHARED, matches!(leaf.backend, Some(Backend::Shared { .. })));
        Self { gpa: leaf.gpa.start().as_u64(), space, ..Self::of_range(leaf.hpa, traits) }
    }

    pub(super) fn range(&self) -> HostPhysRange {
        range(self.start, self.end)
    }

    /// The part of this leaf that maps `hpa`, which lies in it.
    pub(super) fn site(&self, hpa: HostPhysRange) -> AuditSite {
        let inside = hpa.start().as_u64() - self.start;
        let gpa = GuestPhysRange::new(GuestPhysAddr::new(self.gpa + inside), hpa.size());
        let gpa = gpa.unwrap_or_else(|_| unreachable!("a leaf lies inside the width of its format"));
        AuditSite { space: self.space as usize, gpa, hpa }
    }

    /// Whether `next` goes on where this ends, for the host and for the guest.
    fn continues(&self, next: &Self) -> bool {
        let leaf = self.traits.contains(Traits::LEAF);
        let guest = !leaf || next.gpa == self.gpa + (self.end - self.start);
        self.end == next.start && self.traits == next.traits && guest
    }
}

fn range(start: u64, end: u64) -> HostPhysRange {
    HostPhysRange::between(HostPhysAddr::new(start), HostPhysAddr::new(end))
        .unwrap_or_else(|| unreachable!("records are of ranges, and these are not empty"))
}

/// Joins records of one space that come one after the other.
#[derive(Default)]
pub(super) struct Runs {
    run: Option<AuditRecord>,
}

impl Runs {
    /// Adds a record; hands the run before it to `sink` if it does not go on.
    pub(super) fn add(&mut self, record: AuditRecord, sink: &mut dyn FnMut(AuditRecord)) {
        match &mut self.run {
            Some(run) if run.continues(&record) => run.end = record.end,
            other => {
                if let Some(done) = other.replace(record) {
                    sink(done);
                }
            }
        }
    }

    /// Hands over the last run.
    pub(super) fn end(self, sink: &mut dyn FnMut(AuditRecord)) {
        if let Some(last) = self.run {
            sink(last);
        }
    }
}

/// Joins sorted ranges that overlap or touch, at the front; returns those.
pub(super) fn join(sorted: &mut [AuditRecord]) -> &[AuditRecord] {
    let mut joined = 0_usize;
    for index in 0..sorted.len() {
        let next = sorted[index];
        match joined.checked_sub(1).and_then(|last| sorted.get_mut(last)) {
            Some(last) if next.start <= last.end => last.end = last.end.max(next.end),
            _ => {
                sorted[joined] = next;
                joined += 1;
            }
        }
    }
    &sorted[..joined]
}

/// Reports what is wrong with two records that overlap; `declared` are the joined ranges that may have several writers.
pub(super) fn judge_pair(
    one: &AuditRecord,
    other: &AuditRecord,
    declared: &[AuditRecord],
    report: &mut dyn FnMut(AuditViolation),
) {
    let common = range(one.start.max(other.start), one.end.min(other.end));
    let has = |record: &AuditRecord, traits| record.traits.contains(traits);
    let (leaf, what) = match (has(one, Traits::LEAF), has(other, Traits::LEAF)) {
        (true, true) => return judge_leaves(one, other, common, declared, report),
        (true, false) => (one, other),
        (false, true) => (other, one),
        (false, false) => return,
    };
    let site = leaf.site(common);
    report(if has(what, Traits::RESERVED) {
        AuditViolation::Reserved(site)
    } else {
        AuditViolation::TableReachable { site, owner: what.space as usize }
    });
}

fn judge_leaves(
    one: &AuditRecord,
    other: &AuditRecord,
    common: HostPhysRange,
    declared: &[AuditRecord],
    report: &mut dyn FnMut(AuditViolation),
) {
    let (both, either) = (one.traits & other.traits, one.traits | other.traits);
    let alias = one.space == other.space;
    // Whoever maps memory of the caller twice into one guest has said so twice.
    let meant = both.contains(Traits::SHARED) || alias && !either.contains(Traits::OWNED);
    if !both.contains(Traits::WRITABLE) || meant {
        return;
    }
    let mut tell = |start, end| {
        let piece = range(start, end);
        let (first, second) = (one.site(piece), other.site(piece));
        report(if alias {
            AuditViolation::Aliased { first, second }
        } else {
            AuditViolation::TwoWriters { first, second }
        });
    };
    // What lies between the ranges that are declared.
    let (mut at, end) = (common.start().as_u64(), common.end().as_u64());
    let first = declared.partition_point(|range| range.end <= at);
    for range in declared.iter().skip(first).take_while(|range| range.start < end) {
        if at < range.start {
            tell(at, range.start);
        }
        at = range.end;
    }
    if at < end {
        tell(at, end);
    }
}
