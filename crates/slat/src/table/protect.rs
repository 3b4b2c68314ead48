//! Changing the flags of a range.
//!
//! Permissions change in place. A new memory type goes through break-before-make where the format asks for it: all
//! leaves of the range are broken, one invalidation, all are made again.

use super::memory::Entries;
use super::{Leaf, Slot, Soft, Table, View, caches_differ, pieces};
use crate::addr::GuestPhysRange;
use crate::flags::{MappingFlags, level_bytes};
use crate::format::{CacheEvent, Format};
use crate::hal::Hal;
use crate::tlb::Pending;

/// What to do with leaves of one level and one set of attributes.
#[derive(Clone, Copy)]
struct Rule {
    level: u8,
    /// The leaf without address and ownership.
    old: u64,
    /// What replaces it in place; `None` asks for a closer look.
    new: Option<u64>,
}

impl<H: Hal, F: Format> Table<H, F> {
    /// Gives every leaf of `range` these flags; large leaves at its edges have been split. The invalidation is
    /// owed, also after a relaxation: a CPU may have cached the refusal.
    pub(crate) fn protect(&self, pending: &mut Pending, range: GuestPhysRange, flags: MappingFlags) {
        let mut broken = false;
        // Neighbours nearly always have the same attributes: what was found out for one holds for the next.
        let mut rule = Rule { level: u8::MAX, old: 0, new: None };
        self.visit_runs(range, &mut |level, entries, indices, run| {
            let mut changed: Option<core::ops::Range<usize>> = None;
            let mut index = indices.start;
            while index < indices.end {
                let entry = entries.load(index);
                let old = entry & !F::KEPT;
                if (rule.level, rule.old) != (level, old) {
                    rule = Rule { level, old, new: self.in_place(level, entry, flags) };
                }
                let begin = index;
                match rule.new {
                    Some(new) if new == old => index += 1,
                    Some(new) => {
                        index = self.replace_run(entries, index..indices.end, old, new);
                        changed = Some(changed.map_or(begin, |changed| changed.start)..index);
                    }
                    None => {
                        if let Some((_, piece)) = pieces(self.geometry, level, run).nth(index - indices.start)
                        {
                            let slot = Slot { entries, index, level };
                            broken |= self.protect_one(pending, slot, entry, piece, flags);
                        }
                        index += 1;
                    }
                }
            }
            if let Some(changed) = changed {
                let at = |index: usize| (index - indices.start) as u64 * level_bytes(level);
                let start = run.start().checked_add(at(changed.start));
                let size = (at(changed.end) - at(changed.start)).min(run.size());
                if let Some(Ok(part)) = start.map(|start| GuestPhysRange::new(start, size)) {
                    pending.add(part, Self::leaf_size(level));
                }
            }
        });
        if broken {
            self.settle(pending);
            self.visit(range, &mut |slot, entry, _| {
                let View::Soft(Soft::Broken(old)) = self.view(slot.level, entry) else { return };
                if old.owned {
                    self.maintain_change(slot.level, old, flags);
                }
                self.make(pending, slot, self.encode(slot.level, Leaf { flags, ..old }));
            });
        }
        self.hal.publish();
    }

    /// Replaces the attributes `old` by `new` from the first of `indices` on, as long as the entries have them;
    /// returns the index behind the last one replaced.
    fn replace_run(&self, entries: Entries, indices: core::ops::Range<usize>, old: u64, new: u64) -> usize {
        for index in indices.clone() {
            let entry = entries.load(index);
            if entry & !F::KEPT != old {
                return index;
            }
            entries.store(&self.hal, index, entry & F::KEPT | new);
        }
        indices.end
    }

    /// The attributes that replace those of `entry` by a single store, if that is all there is to do.
    fn in_place(&self, level: u8, entry: u64, flags: MappingFlags) -> Option<u64> {
        let old = match self.view(level, entry) {
            View::Leaf(old) => old,
            // Nothing there: nothing to change.
            View::Absent => return Some(entry & !F::KEPT),
            _ => return None,
        };
        let new = self.encode(level, Leaf { flags, ..old });
        let simple = flags.is_accessible()
            && !self.format.needs_break(level, entry, new)
            && !caches_differ(old.flags, flags);
        simple.then_some(new & !F::KEPT)
    }

    /// Changes one entry with all that belongs to it; returns whether it was broken and has to be made again.
    fn protect_one(
        &self,
        pending: &mut Pending,
        slot: Slot,
        entry: u64,
        piece: GuestPhysRange,
        flags: MappingFlags,
    ) -> bool {
        let (old, present) = match self.view(slot.level, entry) {
            View::Leaf(old) => (old, true),
            View::Soft(Soft::NoAccess(old)) => (old, false),
            _ => return false,
        };
        let replacement = self.encode(slot.level, Leaf { flags, ..old });
        if replacement == entry {
            return false;
        }
        if present && flags.is_accessible() && self.format.needs_break(slot.level, entry, replacement) {
            self.break_leaf(pending, slot, old, piece);
            return true;
        }
        if old.owned && flags.is_accessible() {
            self.maintain_change(slot.level, old, flags);
        }
        slot.store(&self.hal, replacement);
        if present {
            pending.add(piece, Self::leaf_size(slot.level));
        }
        false
    }

    fn maintain_change(&self, level: u8, old: Leaf, flags: MappingFlags) {
        let from = CacheEvent::FromGuest(old.flags.memory_type());
        self.maintain(level, old.hpa, &[from, CacheEvent::ToGuest(flags)]);
    }
}
