//! Changing the flags of a range.
//!
//! Permissions change in place. A new memory type goes through break-before-make where the format asks for it: all
//! leaves of the range are broken, one invalidation, all are made again.

#![expect(unsafe_code, reason = "reads a whole table faster than entry by entry")]

use super::memory::Entries;
use super::{Leaf, Slot, Soft, Table, View, caches_differ};
use crate::addr::GuestPhysRange;
use crate::flags::{MappingFlags, level_bytes};
use crate::format::{CacheEvent, Format};
use crate::hal::Hal;
use crate::tlb::Pending;
use core::ops::Range;

/// Entries that are looked at before any of them is changed: few enough that the CPU reads ahead while it writes.
const CHUNK: usize = 64;

/// What is known of the leaves of a range whose flags change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Alike {
    /// All of it is mapped, with the same flags, so that not every leaf has to be looked at.
    Yes,
    /// They may differ.
    No {
        /// Whether a frame that is not the space's is to be copied before the guest writes to it.
        copied: bool,
    },
}

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
    pub(crate) fn protect(
        &self,
        pending: &mut Pending,
        range: GuestPhysRange,
        flags: MappingFlags,
        alike: Alike,
    ) {
        if !flags.is_accessible() {
            self.ungroup_all(pending, range);
        }
        let mut broken = false;
        let copied = alike == Alike::No { copied: true };
        let kept = self.kept(copied);
        // Neighbours nearly always have the same attributes: what was found out for one holds for the next.
        let mut rule = Rule { level: u8::MAX, old: 0, new: None };
        self.visit_runs(range, &mut |level, entries, indices, run| {
            let part = |part: &Range<usize>| {
                let at = |index: usize| (index - indices.start) as u64 * level_bytes(level);
                let start = run.start().checked_add(at(part.start))?;
                GuestPhysRange::new(start, (at(part.end) - at(part.start)).min(run.size())).ok()
            };
            let mut changed: Option<Range<usize>> = None;
            let mut next = indices.start;
            while next < indices.end {
                let entry = entries.load(next);
                let old = entry & !kept;
                if (rule.level, rule.old) != (level, old) {
                    rule = Rule { level, old, new: self.in_place(level, entry, flags, copied) };
                }
                let first = next;
                next = match rule.new {
                    Some(new) if new == old => next + 1,
                    Some(new) => {
                        let rest = next..indices.end;
                        let end = if alike == Alike::Yes {
                            let differences = || entries.differences(rest.clone(), old) & !kept;
                            debug_assert_eq!(differences(), 0, "leaves of one linear region differ");
                            self.replace(entries, rest, old ^ new);
                            indices.end
                        } else {
                            self.replace_all(entries, rest, old, new, kept)
                        };
                        changed = Some(changed.map_or(first, |changed| changed.start)..end);
                        end
                    }
                    None => {
                        if let Some(piece) = part(&(next..next + 1)) {
                            let slot = Slot { entries, index: next, level };
                            broken |= self.protect_one(pending, slot, entry, piece, flags, copied);
                        }
                        next + 1
                    }
                };
            }
            if let Some(part) = changed.and_then(|changed| part(&changed)) {
                pending.add(part, Self::leaf_size(level));
            }
        });
        if broken {
            self.settle(pending);
            self.visit(range, &mut |slot, entry, _| {
                let View::Soft(Soft::Broken(old)) = self.view(slot.level, slot.index, entry) else { return };
                if old.owned {
                    self.maintain_change(slot.level, old, flags);
                }
                self.make(pending, slot, self.encode(slot.level, with_flags(old, flags, copied)));
            });
        }
        self.hal.publish();
    }

    /// Replaces the attributes `old` by `new` from the first of `indices`, which has them, on as long as the entries
    /// have them; returns where it stopped, which may be before the last one.
    fn replace_all(&self, entries: Entries, indices: Range<usize>, old: u64, new: u64, kept: u64) -> usize {
        let (mut next, end) = (indices.start, indices.end);
        while next < end {
            let chunk = next..end.min(next + CHUNK);
            let differences = if self.marks() == 0 {
                // SAFETY: changes have the space for themselves, and this hardware marks nothing.
                unsafe { entries.differences_unwatched(chunk.clone(), old) }
            } else {
                entries.differences(chunk.clone(), old)
            };
            if differences & !kept != 0 {
                break;
            }
            next = chunk.end;
            self.replace(entries, chunk, old ^ new);
        }
        if next == indices.start {
            let differs = |index: &usize| entries.load(*index) & !kept != old;
            next = indices.clone().find(differs).unwrap_or(end);
            self.replace(entries, indices.start..next, old ^ new);
        }
        next
    }

    /// The bits of a present leaf that a change of its flags leaves alone, without regard to them; whose the frame is counts
    /// where it may be shared.
    #[inline]
    fn kept(&self, copied: bool) -> u64 {
        F::ADDRESS | if copied { 0 } else { F::OWNED } | self.marks() | self.format.group_bit()
    }

    /// Inverts `bits` in present leaves, whatever the hardware marks meanwhile.
    #[inline]
    fn replace(&self, entries: Entries, indices: Range<usize>, bits: u64) {
        if self.marks() == 0 {
            entries.invert(&self.hal, indices, bits);
        } else {
            entries.invert_atomically(&self.hal, indices, bits);
        }
    }

    /// The attributes that replace those of `entry` by a single store, if that is all there is to do.
    fn in_place(&self, level: u8, entry: u64, flags: MappingFlags, copied: bool) -> Option<u64> {
        // Which of a group it is makes no difference to its attributes.
        let old = match self.view(level, 0, entry) {
            View::Leaf(old) => old,
            // Nothing there: nothing to change.
            View::Absent => return Some(entry & !self.kept(copied)),
            _ => return None,
        };
        let new = self.grouped_like(entry, self.encode(level, with_flags(old, flags, copied)));
        let simple = flags.is_accessible()
            && !self.format.needs_break(level, entry, new)
            && !caches_differ(old.flags, flags);
        simple.then_some(new & !self.kept(copied))
    }

    /// Changes one entry with all that belongs to it; returns whether it was broken and has to be made again.
    fn protect_one(
        &self,
        pending: &mut Pending,
        slot: Slot,
        entry: u64,
        piece: GuestPhysRange,
        flags: MappingFlags,
        copied: bool,
    ) -> bool {
        let (old, present) = match self.view(slot.level, slot.index, entry) {
            View::Leaf(old) => (old, true),
            View::Soft(Soft::NoAccess(old) | Soft::Idle(old)) => (old, false),
            _ => return false,
        };
        let replacement = self.grouped_like(entry, self.encode(slot.level, with_flags(old, flags, copied)));
        if replacement == entry {
            return false;
        }
        // Without access a page keeps the memory type that it really had, so that its caches can be answered for later.
        let breaks = if flags.is_accessible() {
            self.format.needs_break(slot.level, entry, replacement)
        } else {
            old.owned && caches_differ(old.flags, flags)
        };
        if present && breaks {
            self.break_leaf(pending, slot, old, piece);
            return true;
        }
        if !present && flags.is_accessible() && pending.overlaps(piece) {
            // Earlier in this batch it lost its permissions, and CPUs may remember it as it was before.
            slot.store(&self.hal, Soft::Broken(old).encode());
            return true;
        }
        if old.owned && flags.is_accessible() {
            self.maintain_change(slot.level, old, flags);
        }
        if present {
            if flags.is_accessible() {
                self.replace(slot.entries, slot.index..slot.index + 1, entry ^ replacement);
            } else {
                self.take_out(slot, old, |old| Soft::NoAccess(Leaf { flags, ..old }));
            }
            pending.add(piece, Self::leaf_size(slot.level));
        } else {
            slot.store(&self.hal, replacement);
        }
        false
    }

    fn maintain_change(&self, level: u8, old: Leaf, flags: MappingFlags) {
        let from = CacheEvent::FromGuest(old.flags.memory_type());
        self.maintain(level, old.hpa, &[from, CacheEvent::ToGuest(flags)]);
    }
}

/// A leaf with other flags. Where a frame that is not the space's is to be copied before it is written to, the leaf does not
/// allow it.
fn with_flags(leaf: Leaf, flags: MappingFlags, copied: bool) -> Leaf {
    if !(copied && !leaf.owned && flags.contains(MappingFlags::WRITE)) {
        return Leaf { flags, ..leaf };
    }
    let mut flags = flags - MappingFlags::WRITE;
    if !flags.intersects(MappingFlags::READ | MappingFlags::EXECUTE) {
        // It could only be written to; that alone no format can express.
        flags.remove(MappingFlags::USER);
    }
    Leaf { flags, ..leaf }
}

#[cfg(all(test, not(loom)))]
mod tests;
