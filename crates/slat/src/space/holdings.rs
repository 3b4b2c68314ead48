//! What a space gives its guest, and what it keeps for itself: for the audit.

use super::{AddrSpace, CustomBackend, Region};
use crate::addr::{GuestPhysRange, HostPhysAddr, HostPhysRange, PAGE_SIZE};
use crate::audit::sealed::Sealed;
use crate::audit::{Audited, Holding, ReachableLeaf};
use crate::flags::{LeafSize, MappingFlags, level_bytes};
use crate::format::Format;
use crate::hal::Hal;
use crate::table::Part;

impl<H: Hal, F: Format, B: CustomBackend> Sealed for AddrSpace<H, F, B> {}

impl<H: Hal, F: Format, B: CustomBackend> Audited for AddrSpace<H, F, B> {
    fn holdings(&self, visit: &mut dyn FnMut(Holding)) {
        let fetch = if self.format().separates_user_execute() {
            MappingFlags::EXECUTE.union(MappingFlags::USER)
        } else {
            MappingFlags::EXECUTE
        };
        let mut region: Option<Region> = None;
        self.table.inventory(&mut |part| match part {
            Part::Frames(start, count) => visit(own_frames(start, count)),
            Part::Leaf(gpa, level, leaf) => {
                if !region.is_some_and(|region| region.range.contains(gpa)) {
                    region = self.regions.find(gpa);
                }
                let bytes = level_bytes(level);
                if let (Ok(gpa), Ok(hpa)) =
                    (GuestPhysRange::new(gpa, bytes), HostPhysRange::new(leaf.hpa, bytes))
                {
                    visit(Holding::Leaf(ReachableLeaf {
                        gpa,
                        hpa,
                        size: LeafSize::from_level(level).unwrap_or(LeafSize::Size1G),
                        flags: leaf.flags,
                        executable: leaf.flags.intersects(fetch),
                        owned: leaf.owned,
                        backend: region.map(|region| region.backend),
                    }));
                }
            }
        });
        self.regions.visit_frames(&mut |frame| visit(own_frames(frame, 1)));
        self.shared.visit_frames(&mut |start, count| visit(own_frames(start, count)));
    }

    fn owed(&self) -> &[GuestPhysRange] {
        self.pending.ranges()
    }
}

fn own_frames(start: HostPhysAddr, count: usize) -> Holding {
    let range = HostPhysRange::new(start, count as u64 * PAGE_SIZE);
    Holding::OwnFrames(range.unwrap_or_else(|_| unreachable!("frames of the host lie inside its memory")))
}
