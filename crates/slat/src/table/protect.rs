//! Changing the flags of a range.
//!
//! Permissions change in place. A new memory type goes through break-before-make where the format asks for it: all
//! leaves of the range are broken, one invalidation, all are made again.

use super::{Leaf, Slot, Soft, Table, View, caches_differ};
use crate::addr::GuestPhysRange;
use crate::flags::MappingFlags;
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
        let mut run: Option<(GuestPhysRange, u8)> = None;
        self.visit(range, &mut |slot, entry, piece| {
            if (rule.level, rule.old) != (slot.level, entry & !F::KEPT) {
                rule = Rule {
                    level: slot.level,
                    old: entry & !F::KEPT,
                    new: self.in_place(slot.level, entry, flags),
                };
            }
            let Some(new) = rule.new else {
                broken |= self.protect_one(pending, slot, entry, piece, flags);
                return;
            };
            let replacement = entry & F::KEPT | new;
            if replacement == entry {
                return;
            }
            slot.store(&self.hal, replacement);
            run = match run {
                Some((before, level)) if before.end() == piece.start() && level == slot.level => {
                    Some((before.hull(piece), level))
                }
                other => {
                    if let Some((before, level)) = other {
                        pending.add(before, Self::leaf_size(level));
                    }
                    Some((piece, slot.level))
                }
            };
        });
        if let Some((before, level)) = run {
            pending.add(before, Self::leaf_size(level));
        }
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

    /// The attributes that replace those of `entry` by a single store, if that is all there is to do.
    fn in_place(&self, level: u8, entry: u64, flags: MappingFlags) -> Option<u64> {
        let View::Leaf(old) = self.view(level, entry) else { return None };
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
