//! Changing the flags of a range.
//!
//! Permissions change in place. A new memory type goes through break-before-make where the format asks for it: all
//! leaves of the range are broken, one invalidation, all are made again.

use super::{Leaf, Soft, Table, View, caches_differ};
use crate::addr::GuestPhysRange;
use crate::flags::MappingFlags;
use crate::format::{CacheEvent, Format};
use crate::hal::Hal;
use crate::tlb::Pending;

impl<H: Hal, F: Format> Table<H, F> {
    /// Gives every leaf of `range` these flags; large leaves at its edges have been split. The invalidation is
    /// owed, also after a relaxation: a CPU may have cached the refusal.
    pub(crate) fn protect(&self, pending: &mut Pending, range: GuestPhysRange, flags: MappingFlags) {
        let mut broken = false;
        self.visit(range, &mut |slot, entry, piece| {
            let (View::Leaf(old) | View::Soft(Soft::NoAccess(old))) = self.view(slot.level, entry) else {
                return;
            };
            let present = matches!(self.view(slot.level, entry), View::Leaf(_));
            let new = Leaf { flags, ..old };
            let replacement = self.encode(slot.level, new);
            if replacement == entry {
                return;
            }
            if present && flags.is_accessible() && self.format.needs_break(slot.level, entry, replacement) {
                self.break_leaf(pending, slot, old, piece);
                broken = true;
                return;
            }
            if old.owned && flags.is_accessible() && (caches_differ(old.flags, flags) || !present) {
                self.maintain_change(slot.level, old, flags);
            }
            slot.store(&self.hal, replacement);
            if present {
                pending.add(piece, Self::leaf_size(slot.level));
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

    fn maintain_change(&self, level: u8, old: Leaf, flags: MappingFlags) {
        let from = CacheEvent::FromGuest(old.flags.memory_type());
        self.maintain(level, old.hpa, &[from, CacheEvent::ToGuest(flags)]);
    }
}
