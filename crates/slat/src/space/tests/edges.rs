//! What only shows at an edge: of a range, of a table, of the address space, between two CPUs.

use super::lifetimes::{count, is_invalidation};
use super::*;
use crate::fault::FaultOutcome;
use crate::test_util::Event;
use crate::tlb::Reach;

const SMALL: AllocOptions =
    AllocOptions { populate: true, largest_leaf: LeafSize::Size4K, fault_around: LeafSize::Size4K };

fn invalidated(events: &[Event]) -> Vec<(u64, u64)> {
    let ranges = events.iter().filter_map(|event| match event {
        Event::InvalidateRanges(ranges, ..) => Some(ranges),
        _ => None,
    });
    ranges.flatten().map(|range| (range.start().as_u64(), range.size())).collect()
}

#[test]
fn leaves_join_only_where_their_first_frame_is_aligned_for_the_large_one() {
    for shift in [KIB4, 2 * KIB4, MIB2 / 2] {
        let hal = HeapHal::new();
        let mut space = space(&hal);
        space.map_linear(gpa(0), hpa(GIB1 + shift), MIB2, RW).expect("free");
        assert_eq!(space.collapse(gpa(0), MIB2), Ok(0), "{shift:#x}");
        assert_eq!(space.translate(gpa(MIB2 - 1)), Some(hpa(GIB1 + shift + MIB2 - 1)));
    }
}

fn collapse_invalidates<F: Format>(formats: impl IntoIterator<Item = F>) {
    for format in formats {
        let hal = HeapHal::new();
        let mut space = Space::with_format(&hal, format, gpa(0), 4 * GIB1, 0).expect("a root");
        space.map_linear(gpa(0), hpa(0), MIB2, RW).expect("free");
        space.protect(gpa(KIB4), KIB4, MappingFlags::READ).expect("mapped");
        space.protect(gpa(KIB4), KIB4, RW).expect("mapped");
        hal.record();
        assert_eq!(space.collapse(gpa(0), MIB2), Ok(1));
        let events = hal.events();
        assert_eq!(count(&events, is_invalidation), 1);
        let whole = count(&events, |event| *event == Event::InvalidateSpace(Reach::AllCpus)) == 1;
        assert_eq!(whole, !format.invalidation_by_address_reaches_tables(), "{format:?}");
    }
}

#[test]
fn a_collapse_drops_its_range_or_the_space_as_the_format_needs_it() {
    collapse_invalidates(formats());
    collapse_invalidates(ept_formats());
    collapse_invalidates(npt_formats());
    collapse_invalidates(gstage_formats());
}

/// The guest used a page, or wrote to some, which the large leaf passes on.
#[test]
fn a_collapse_keeps_the_marks_of_every_small_leaf() {
    let [_, _, format] = ept_formats();
    let (accessed, dirty) = (format.accessed_bit(), format.dirty_bit());
    for (bits, pages) in [(0, 0..1), (accessed, 7..8), (accessed | dirty, 511..512), (accessed | dirty, 2..4)]
    {
        let hal = HeapHal::new();
        let mut space = Space::with_format(&hal, format, gpa(0), GIB1, 0).expect("a root");
        space.map_linear(gpa(0), hpa(MIB2), MIB2, RW).expect("free");
        space.protect(gpa(KIB4), KIB4, MappingFlags::READ).expect("mapped");
        space.protect(gpa(KIB4), KIB4, RW).expect("mapped");
        for page in pages {
            let (slot, _) = space.table.walk(gpa(page * KIB4));
            assert_eq!(slot.level, 0);
            slot.entries.set_bits(&&hal, slot.index, bits);
        }
        assert_eq!(space.collapse(gpa(0), MIB2), Ok(1));
        let leaf = space.query(gpa(0)).expect("mapped");
        assert_eq!((leaf.accessed, leaf.dirty), (bits != 0, bits & dirty != 0), "{bits:#x}");
        assert_eq!((leaf.hpa, leaf.flags - MappingFlags::USER, leaf.size), (hpa(MIB2), RW, LeafSize::Size2M));
    }
}

/// The end of the last entry has the index of the first one again.
#[test]
fn a_cut_in_the_first_leaf_reaches_to_the_end_of_the_width() {
    let format = formats()[1];
    let width = format.geometry().limit().as_u64();
    let hal = HeapHal::new();
    let mut space = Space::with_format(&hal, format, gpa(0), width, 0).expect("a root");
    space.map_linear(gpa(0), hpa(0), width, RW).expect("free");
    space.protect(gpa(KIB4), width - KIB4, MappingFlags::READ).expect("mapped");
    assert_eq!(space.query(gpa(0)).map(|leaf| leaf.flags - MappingFlags::USER), Ok(RW));
    assert_eq!(space.query(gpa(width - 1)).map(|leaf| leaf.size), Ok(LeafSize::Size1G));
}

#[test]
fn what_was_not_there_for_the_hardware_needs_no_invalidation() {
    let hal = HeapHal::new();
    let mut space = space(&hal);
    space.map_alloc(gpa(0), MIB2, RW, true).expect("free");
    space.protect(gpa(0), MIB2, MappingFlags::empty()).expect("mapped");
    hal.record();
    space.protect(gpa(KIB4), KIB4, MappingFlags::READ).expect("a split, and a page of it");
    space.protect(gpa(8 * KIB4), 2 * KIB4, MappingFlags::UNCACHED).expect("still no access");
    assert_eq!(count(&hal.events(), is_invalidation), 0);
    // The page appears by a single store: nobody remembers what was there before.
    space.protect(gpa(12 * KIB4), KIB4, MappingFlags::READ).expect("mapped");
    assert_eq!(count(&hal.events(), |event| matches!(event, Event::Store(..))), 1);
    assert_eq!(space.query(gpa(KIB4)).map(|leaf| leaf.flags), Ok(MappingFlags::READ));
    assert!(space.query(gpa(0)).is_err());
}

#[test]
fn only_what_a_protect_changed_is_invalidated() {
    let hal = HeapHal::new();
    let mut space = space(&hal);
    space.map_linear(gpa(0), hpa(0), 8 * KIB4, RW).expect("free");
    space.protect(gpa(0), 2 * KIB4, MappingFlags::READ).expect("mapped");
    space.protect(gpa(5 * KIB4), 3 * KIB4, MappingFlags::READ).expect("mapped");
    hal.record();
    space.protect(gpa(0), 8 * KIB4, MappingFlags::READ).expect("mapped");
    assert_eq!(invalidated(&hal.events()), [(2 * KIB4, 3 * KIB4)]);
}

#[test]
fn caches_are_maintained_for_frames_of_the_space_that_the_guest_can_reach() {
    let hal = HeapHal::new();
    let mut space = space(&hal);
    space.map_linear(gpa(0), hpa(GIB1), 2 * KIB4, RW).expect("free");
    space.map_alloc(gpa(MIB2), 2 * KIB4, RW, true).expect("free");
    let maintained = |hal: &HeapHal| count(&hal.events(), |event| matches!(event, Event::Maintain(..)));
    hal.record();
    space.protect(gpa(0), KIB4, RWX).expect("mapped");
    assert_eq!(maintained(&hal), 0, "the frames are the caller's");
    space.protect(gpa(MIB2), KIB4, RWX).expect("mapped");
    assert_eq!(maintained(&hal), 1);
    space.protect(gpa(MIB2), KIB4, MappingFlags::empty()).expect("mapped");
    assert_eq!(maintained(&hal), 0, "nobody reaches it");
}

#[test]
fn a_page_without_access_keeps_its_memory_type() {
    let hal = HeapHal::new();
    let mut space = space(&hal);
    space.map_linear(gpa(0), hpa(0), KIB4, RW | MappingFlags::UNCACHED).expect("free");
    space.protect(gpa(0), KIB4, MappingFlags::UNCACHED).expect("mapped");
    let all = GuestPhysRange::new(gpa(0), KIB4).expect("a page");
    assert_eq!(space.mappings(all).map(|leaf| leaf.flags).collect::<Vec<_>>(), [MappingFlags::UNCACHED]);
}

fn pages_without_access_go_back<F: Format>(formats: impl IntoIterator<Item = F>) {
    for format in formats {
        let hal = HeapHal::new();
        let mut space = Space::with_format(&hal, format, gpa(0), GIB1, 0).expect("a root");
        space.map_alloc_with(gpa(0), 8 * KIB4, RW, SMALL).expect("free");
        space.protect(gpa(2 * KIB4), 4 * KIB4, MappingFlags::empty()).expect("mapped");
        let before = hal.in_use();
        space.unmap(gpa(2 * KIB4), 2 * KIB4).expect("mapped");
        assert_eq!(hal.in_use(), before - 2, "{format:?}");
        assert!(space.table.walk(gpa(2 * KIB4)).1 == 0, "nothing is left");
        // The other two go with the table, among those that the guest can reach.
        drop(space);
        assert_eq!(hal.in_use(), 0);
    }
}

#[test]
fn pages_without_access_go_back_as_others_do() {
    pages_without_access_go_back(formats());
    pages_without_access_go_back(ept_formats());
    pages_without_access_go_back(npt_formats());
    pages_without_access_go_back(gstage_formats());
}

/// The last page is not the space's, but an earlier one, which waits in the same table, is.
#[test]
fn a_table_that_is_emptied_in_two_steps_gives_back_what_waited_in_it() {
    let hal = HeapHal::new();
    let mut space = space(&hal);
    space.map_alloc_with(gpa(0), KIB4, RW, SMALL).expect("free");
    space.map_linear(gpa(KIB4), hpa(GIB1), KIB4, RW).expect("free");
    let mut debt = space.defer();
    debt.unmap(gpa(0), KIB4).expect("mapped");
    debt.unmap(gpa(KIB4), KIB4).expect("mapped");
    debt.discharge();
    let stats = space.stats();
    assert_eq!(
        (stats.table.owned_frames, hal.in_use() as u64),
        (0, stats.table.table_frames + stats.region_frames as u64)
    );
}

#[test]
fn what_waits_in_two_neighbouring_tables_goes_back_from_both() {
    let hal = HeapHal::new();
    let mut space = space(&hal);
    space.map_alloc_with(gpa(0), 4 * MIB2, RW, SMALL).expect("free");
    let before = hal.in_use();
    let mut debt = space.defer();
    // One range for the TLBs, on both sides of an edge.
    debt.unmap(gpa(3 * MIB2 - KIB4), KIB4).expect("mapped");
    debt.unmap(gpa(3 * MIB2), KIB4).expect("mapped");
    debt.discharge();
    assert_eq!(hal.in_use(), before - 2);
}

#[test]
fn tables_below_a_table_that_goes_whole_go_back_also_where_no_leaf_does() {
    let hal = HeapHal::new();
    let mut space = space(&hal);
    let before = space.stats().table.table_frames;
    space.map_linear(gpa(GIB1), hpa(MIB2), GIB1, RW).expect("in leaves of 2 MiB");
    space.protect(gpa(GIB1 + KIB4), KIB4, MappingFlags::READ).expect("one of them in pages");
    assert_eq!(space.stats().table.table_frames, before + 2);
    let in_use = hal.in_use();
    space.unmap(gpa(GIB1), GIB1).expect("mapped");
    assert_eq!(space.stats().table.table_frames, before);
    assert_eq!(hal.in_use(), in_use - 2);
}

/// While one CPU prepares a large leaf, another one, for which the host has nothing but single frames, maps a page of it.
#[test]
fn a_large_leaf_that_comes_too_late_makes_room_for_a_page() {
    let hal = HeapHal::new();
    let mut space = space(&hal);
    space.map_alloc(gpa(0), MIB2, RW, false).expect("free");
    let mut inits = Vec::new();
    let outcome = space.handle_page_fault_with(gpa(5 * KIB4), MappingFlags::READ, |start, bytes| {
        if inits.is_empty() {
            hal.limit_runs(Some(1));
            let other = space.handle_page_fault(gpa(9 * KIB4), MappingFlags::READ);
            assert_eq!(other, Ok(FaultOutcome::Populated(LeafSize::Size4K)));
        }
        inits.push((start, bytes.len() as u64));
    });
    assert_eq!(outcome, Ok(FaultOutcome::Populated(LeafSize::Size4K)));
    assert_eq!(inits, [(gpa(0), MIB2), (gpa(5 * KIB4), KIB4)]);
    let stats = space.stats().table;
    assert_eq!((stats.leaves_4k, stats.leaves_2m, stats.owned_frames), (2, 0, 2));
}

/// The other CPU only added the table; what was prepared still fits.
#[test]
fn a_page_that_lost_a_race_for_its_table_is_used_all_the_same() {
    let hal = HeapHal::new();
    let mut space = space(&hal);
    space.map_alloc_with(gpa(0), MIB2, RW, AllocOptions { populate: false, ..SMALL }).expect("free");
    let mut inits = 0;
    let outcome = space.handle_page_fault_with(gpa(5 * KIB4), MappingFlags::READ, |_, bytes| {
        if inits == 0 {
            space.handle_page_fault(gpa(9 * KIB4), MappingFlags::READ).expect("memory");
        }
        inits += 1;
        bytes[0] = 7;
    });
    assert_eq!((outcome, inits), (Ok(FaultOutcome::Populated(LeafSize::Size4K)), 1));
    let frame = space.translate(gpa(5 * KIB4)).expect("populated");
    assert_eq!(hal.read(frame, 1), [7]);
    assert_eq!(space.stats().table.owned_frames, 2);
}

#[test]
fn a_space_says_where_it_is() {
    let hal = HeapHal::new();
    let space = Space::with_format(&hal, Stage2::default(), gpa(GIB1), 3 * MIB2, 0).expect("a root");
    assert_eq!((space.base(), space.size()), (gpa(GIB1), 3 * MIB2));
    assert_eq!(space.range(), GuestPhysRange::new(gpa(GIB1), 3 * MIB2).expect("valid"));
}

#[test]
fn the_last_address_of_the_host_can_be_mapped() {
    let hal = HeapHal::new();
    let mut space = space(&hal);
    space.map_linear(gpa(0), hpa((1 << 40) - KIB4), KIB4, RW).expect("it fits to the byte");
    assert_eq!(space.translate(gpa(0xfff)), Some(hpa((1 << 40) - 1)));
    assert!(space.map_linear(gpa(MIB2), hpa((1 << 40) - KIB4), 2 * KIB4, RW).is_err());
}
