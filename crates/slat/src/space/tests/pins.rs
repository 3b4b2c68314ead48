//! Pinned pages stay where they are.

use super::*;
use crate::device::DeviceId;
use crate::error::{ClearError, DiscardError, MigrateError, PinError, PopulateError, UnmapError, UnpinError};

fn range(start: u64, size: u64) -> GuestPhysRange {
    GuestPhysRange::new(gpa(start), size).expect("valid")
}

fn pins<F: Format>(space: &AddrSpace<&HeapHal, F>) -> Vec<(u64, u64, u16)> {
    space.regions().map(|region| (region.range.start().as_u64(), region.range.size(), region.pins)).collect()
}

fn whole_life<F: Format>(format: F) {
    let hal = HeapHal::new();
    let mut space = AddrSpace::with_format(&hal, format, gpa(0), 4 * GIB1, 1).expect("a root");
    space.map_alloc(gpa(0), 8 * KIB4, RW, false).expect("free");
    space.pin(gpa(2 * KIB4), 3 * KIB4).expect("memory");
    assert_eq!(leaves(&space, 0, 8 * KIB4).len(), 3, "it is populated");
    space.pin(gpa(4 * KIB4), 2 * KIB4).expect("memory");
    let pinned = [(0, 2, 0), (2, 2, 1), (4, 1, 2), (5, 1, 1), (6, 2, 0)];
    assert_eq!(pins(&space), pinned.map(|(start, size, pins)| (start * KIB4, size * KIB4, pins)));
    let frames = leaves(&space, 0, 8 * KIB4);
    let first = range(2 * KIB4, 2 * KIB4);
    assert_eq!(space.unmap(gpa(0), 8 * KIB4), Err(UnmapError::Pinned(first)));
    assert_eq!(space.unmap(gpa(5 * KIB4), KIB4), Err(UnmapError::Pinned(range(5 * KIB4, KIB4))));
    assert_eq!(space.defer().unmap(gpa(2 * KIB4), KIB4), Err(UnmapError::Pinned(first)));
    assert_eq!(space.migrate(gpa(KIB4), 2 * KIB4), Err(MigrateError::Pinned(first)));
    assert_eq!(space.discard(gpa(KIB4), 2 * KIB4), Err(DiscardError::Pinned(first)));
    assert_eq!(space.clear(), Err(ClearError::Pinned(first)));
    assert_eq!((leaves(&space, 0, 8 * KIB4), pins(&space).len()), (frames.clone(), 5));
    // Flags are the guest's business.
    space.protect(gpa(0), 8 * KIB4, MappingFlags::empty()).expect("mapped");
    space.protect(gpa(0), 8 * KIB4, RW).expect("mapped");
    assert_eq!(leaves(&space, 0, 8 * KIB4), frames);
    assert_eq!(space.unpin(gpa(KIB4), 4 * KIB4), Err(UnpinError::NotPinned(gpa(KIB4))));
    assert_eq!(space.unpin(gpa(4 * KIB4), 3 * KIB4), Err(UnpinError::NotPinned(gpa(6 * KIB4))));
    assert_eq!(space.unpin(gpa(7 * KIB4), 2 * KIB4), Err(UnpinError::NotPinned(gpa(7 * KIB4))));
    assert_eq!(space.unpin(gpa(GIB1), KIB4), Err(UnpinError::NotPinned(gpa(GIB1))));
    // In other parts than it was pinned.
    space.unpin(gpa(2 * KIB4), 4 * KIB4).expect("pinned");
    assert_eq!(pins(&space), [(0, 4 * KIB4, 0), (4 * KIB4, KIB4, 1), (5 * KIB4, 3 * KIB4, 0)]);
    space.unmap(gpa(0), 4 * KIB4).expect("no pin");
    space.unpin(gpa(4 * KIB4), KIB4).expect("pinned");
    assert_eq!(pins(&space), [(4 * KIB4, 4 * KIB4, 0)], "one region again");
    space.pin(gpa(4 * KIB4), KIB4).expect("memory");
    drop(space);
    assert_eq!(hal.in_use(), 0, "a pin does not outlive the space");
}

#[test]
fn pinned_pages_stay_until_they_are_unpinned() {
    on_all_formats!(whole_life);
}

#[test]
fn what_cannot_be_pinned_is_said() {
    let hal = HeapHal::new();
    let mut space = space(&hal);
    space.map_alloc(gpa(0), 2 * KIB4, RW, false).expect("free");
    space.map_trap(gpa(2 * KIB4), KIB4, DeviceId(0)).expect("free");
    space.map_alloc(gpa(4 * KIB4), 2 * KIB4, MappingFlags::empty(), false).expect("free");
    let before = pins(&space);
    let hole = PinError::Populate(PopulateError::NotMapped(gpa(3 * KIB4)));
    assert_eq!(space.pin(gpa(2 * KIB4), 2 * KIB4), Err(hole));
    assert!(matches!(space.pin(gpa(1), KIB4), Err(PinError::Populate(PopulateError::BadRange(_)))));
    assert!(matches!(space.unpin(gpa(1), KIB4), Err(UnpinError::BadRange(_))));
    assert_eq!(space.pin(gpa(KIB4), 2 * KIB4), Err(PinError::NoMemory(range(2 * KIB4, KIB4))));
    assert_eq!(space.pin(gpa(4 * KIB4), KIB4), Err(PinError::NoAccess(gpa(4 * KIB4))));
    assert_eq!(pins(&space), before);
    // Populated, and then without access: the frame is there.
    space.protect(gpa(4 * KIB4), 2 * KIB4, RW).expect("mapped");
    space.populate(gpa(4 * KIB4), KIB4).expect("memory");
    space.protect(gpa(4 * KIB4), 2 * KIB4, MappingFlags::empty()).expect("mapped");
    assert_eq!(space.pin(gpa(4 * KIB4), 2 * KIB4), Err(PinError::NoAccess(gpa(5 * KIB4))));
    space.pin(gpa(4 * KIB4), KIB4).expect("there");
}

#[test]
fn linear_memory_can_be_pinned() {
    let hal = HeapHal::new();
    let mut space = space(&hal);
    space.map_linear(gpa(0), hpa(1 << 30), GIB1, RW).expect("free");
    space.pin(gpa(MIB2), MIB2).expect("there");
    assert_eq!(space.unmap(gpa(0), GIB1), Err(UnmapError::Pinned(range(MIB2, MIB2))));
    space.unmap(gpa(0), MIB2).expect("no pin");
    space.unpin(gpa(MIB2), MIB2).expect("pinned");
}

#[test]
fn pins_are_counted_up_to_a_limit() {
    let hal = HeapHal::new();
    let mut space = space(&hal);
    space.map_alloc(gpa(0), KIB4, RW, true).expect("free");
    for _ in 0..2047 {
        space.pin(gpa(0), KIB4).expect("there");
    }
    assert_eq!(space.pin(gpa(0), KIB4), Err(PinError::TooMany(range(0, KIB4))));
    assert_eq!(pins(&space), [(0, KIB4, 2047)]);
    assert!(space.dump().to_string().contains(", pinned 2047 x"));
}

/// Every allocation that a pin and an unpin can need fails once: nothing has changed then.
#[test]
fn without_memory_the_pins_are_as_they_were() {
    for successes in 0.. {
        let hal = HeapHal::new();
        let mut space = space(&hal);
        // One full node, so that a cut needs frames.
        for page in 0..170 {
            space.map_alloc(gpa(page * 8 * KIB4), 4 * KIB4, RW, false).expect("free");
        }
        let before = pins(&space);
        hal.fail_after(Some(successes));
        let result = space.pin(gpa(KIB4), 2 * KIB4);
        hal.fail_after(None);
        match result {
            Err(PinError::OutOfMemory | PinError::Populate(PopulateError::OutOfMemory(_))) => {
                assert_eq!(pins(&space), before);
            }
            other => {
                assert_eq!(other, Ok(()));
                assert!(successes > 3, "tables, frames and nodes are needed");
                break;
            }
        }
    }
    let hal = HeapHal::new();
    let mut space = space(&hal);
    for page in 0..170 {
        space.map_alloc(gpa(page * 8 * KIB4), 4 * KIB4, RW, false).expect("free");
        space.pin(gpa(page * 8 * KIB4), 4 * KIB4).expect("memory");
    }
    hal.fail_after(Some(0));
    let unpinned = (0..170).take_while(|page| {
        let before = pins(&space);
        let result = space.unpin(gpa(page * 8 * KIB4 + KIB4), KIB4);
        assert!(result.is_ok() || (result, &before) == (Err(UnpinError::OutOfMemory), &pins(&space)));
        result.is_ok()
    });
    let unpinned = unpinned.count() as u64;
    assert!(unpinned < 170, "the nodes cannot hold three times as many regions");
    hal.fail_after(None);
    space.unpin(gpa(unpinned * 8 * KIB4 + KIB4), KIB4).expect("memory");
}

#[test]
fn any_number_of_pinned_regions_is_seen() {
    let hal = HeapHal::new();
    let mut space = space(&hal);
    for page in 0..6 {
        let flags = if page % 2 == 0 { RW } else { RWX };
        space.map_alloc(gpa(page * KIB4), KIB4, flags, true).expect("free");
    }
    for page in 0..4 {
        space.pin(gpa(page * KIB4), KIB4).expect("there");
        assert_eq!(space.unmap(gpa(0), 6 * KIB4), Err(UnmapError::Pinned(range(0, KIB4))));
    }
    assert_eq!(space.unmap(gpa(3 * KIB4), 3 * KIB4), Err(UnmapError::Pinned(range(3 * KIB4, KIB4))));
    space.unmap(gpa(4 * KIB4), 2 * KIB4).expect("no pin");
}
