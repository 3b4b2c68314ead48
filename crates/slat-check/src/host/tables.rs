//! Which frames are tables that the hardware can get to, and what they translate.

use super::{Allocator, Host, WORDS, frame_index};
use crate::platform::{Platform, address_in};
use crate::specification::Architecture;
use slat::PAGE_SIZE;

impl<P: Platform> Host<P> {
    /// If `entry` lies in a table that is linked: the guest-physical addresses that it translates. Tables to which
    /// it now points are linked as well.
    pub(super) fn linked(&self, entry: u64, value: u64) -> Option<(u64, u64)> {
        let mut allocator = self.allocator.borrow_mut();
        let (level, base) = allocator.frames.get(frame_index(entry)?)?.table?;
        let shift = 12 + 9 * u32::from(level);
        let start = base + ((entry % PAGE_SIZE / 8) << shift);
        self.link(&mut allocator, level, start, value);
        Some((start, 1 << shift))
    }

    /// As [`watch_root`](Self::watch_root), of a root in which something stands already.
    pub fn watch_tree(&self, hpa: u64) {
        self.watch_root(hpa);
        for entry in 0..self.platform.geometry().entries(self.platform.geometry().root_level()) as u64 {
            let entry = hpa + 8 * entry;
            self.linked(entry, self.ram.read(entry).unwrap_or(0));
        }
    }

    fn link(&self, allocator: &mut Allocator, level: u8, start: u64, value: u64) {
        let Some(next) = address_in(self.rules.architecture, value).filter(|_| level > 0) else { return };
        let Some(index) = frame_index(next) else { return };
        match allocator.frames.get_mut(index) {
            // Large leaves look the same, but nobody stores to them as to tables.
            Some(frame) if frame.taken && frame.table.is_none() && !self.is_leaf(level, value) => {
                frame.table = Some((level - 1, start));
            }
            _ => return,
        }
        if level > 1 {
            for entry in 0..WORDS {
                let below = start + (entry << (3 + 9 * u32::from(level)));
                let value = self.ram.read(next + 8 * entry).unwrap_or(0);
                self.link(allocator, level - 1, below, value);
            }
        }
    }

    /// Whether an entry above level 0 is a large leaf, by the manuals.
    fn is_leaf(&self, level: u8, value: u64) -> bool {
        level <= 2
            && match self.rules.architecture {
                Architecture::Ept | Architecture::Npt => value & 0x80 != 0,
                Architecture::Stage2 => value & 2 == 0,
                Architecture::Gstage => value & 0xe != 0,
            }
    }
}
