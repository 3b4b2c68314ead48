//! What is owed to the TLBs, and when frames go back.

use super::*;
use crate::test_util::Event;
use crate::tlb::Reach;

pub(super) fn is_invalidation(event: &Event) -> bool {
    matches!(event, Event::InvalidateRanges(..) | Event::InvalidateSpace(_))
}

pub(super) fn count(events: &[Event], which: impl Fn(&Event) -> bool) -> usize {
    events.iter().filter(|event| which(event)).count()
}

/// Every frame that came back did so after the last invalidation, and there was one.
pub(super) fn assert_freed_after_invalidation(events: &[Event]) {
    let invalidated = events.iter().rposition(is_invalidation).expect("an invalidation");
    let freed =
        events.iter().position(|event| matches!(event, Event::Dealloc(..))).expect("a frame came back");
    assert!(invalidated < freed, "{events:?}");
}

#[test]
fn one_unmap_is_one_invalidation_and_then_the_frames_go_back() {
    let hal = HeapHal::new();
    let mut space = space(&hal);
    space.map_alloc(gpa(0), 0x8000, RWX, true).expect("free");
    hal.record();
    space.unmap(gpa(0x2000), 0x3000).expect("mapped");
    let events = hal.events();
    assert_freed_after_invalidation(&events);
    assert_eq!(count(&events, is_invalidation), 1);
    let Some(Event::InvalidateRanges(ranges, stride, reach)) =
        events.iter().find(|event| is_invalidation(event))
    else {
        panic!("{events:?}");
    };
    assert_eq!((ranges.len(), *stride, *reach), (1, LeafSize::Size4K, Reach::AllCpus));
    assert_eq!((ranges[0].start(), ranges[0].end()), (gpa(0x2000), gpa(0x5000)));
    assert_eq!(count(&events, |event| matches!(event, Event::Dealloc(_, 1))), 3);
    // The caches are cleaned before the host may reuse a frame.
    let maintained =
        events.iter().position(|event| matches!(event, Event::Maintain(..))).expect("maintained");
    assert!(events.iter().position(|event| matches!(event, Event::Dealloc(..))) > Some(maintained));
}

#[test]
fn a_batch_is_one_invalidation() {
    let hal = HeapHal::new();
    let mut space = space(&hal);
    space.map_alloc(gpa(0), 0x20000, RWX, true).expect("free");
    hal.record();
    let mut debt = space.defer();
    for page in [0x1000, 0x5000, 0x9000] {
        debt.unmap(gpa(page), 0x1000).expect("mapped");
    }
    debt.protect(gpa(0x6000), 0x1000, MappingFlags::READ).expect("mapped");
    assert_eq!(
        count(&hal.events(), |event| is_invalidation(event) || matches!(event, Event::Dealloc(..))),
        0
    );
    debt.discharge();
    let events = hal.events();
    assert_eq!(count(&events, is_invalidation), 1);
    assert_freed_after_invalidation(&events);
    assert_eq!(count(&events, |event| matches!(event, Event::Dealloc(..))), 3);
}

#[test]
fn many_scattered_changes_drop_the_whole_space() {
    let hal = HeapHal::new();
    let mut space = space(&hal);
    space.map_alloc(gpa(0), 64 * KIB4, RWX, true).expect("free");
    hal.record();
    let mut debt = space.defer();
    for page in (0..64).step_by(2) {
        debt.unmap(gpa(page * KIB4), KIB4).expect("mapped");
    }
    debt.discharge();
    let events = hal.events();
    assert_eq!(count(&events, |event| *event == Event::InvalidateSpace(Reach::AllCpus)), 1);
    assert_eq!(count(&events, |event| matches!(event, Event::Dealloc(..))), 32);
}

#[test]
fn a_split_breaks_invalidates_and_makes() {
    let hal = HeapHal::new();
    let mut space = space(&hal);
    space.map_alloc(gpa(0), MIB2, RWX, true).expect("free");
    let block = space.query(gpa(0)).expect("mapped");
    assert_eq!(block.size, LeafSize::Size2M);
    for page in 0..512 {
        hal.write(hpa(block.hpa.as_u64() + page * KIB4), &page.to_le_bytes());
    }
    hal.record();
    space.unmap(gpa(0x7000), 0x1000).expect("mapped");
    let events = hal.events();
    // The table is complete before the block goes: 512 stores, then the invalid entry, the page, the TLBs, the table.
    let filled = events.iter().take_while(|event| matches!(event, Event::Alloc(..) | Event::Store(..)));
    let filled: Vec<_> = filled.collect();
    assert_eq!(filled.len(), 1 + 512 + 2, "{:?}", events.iter().take(3).collect::<Vec<_>>());
    let [.., Event::Store(slot, broken), Event::Store(page, gone)] = filled[..] else { panic!() };
    assert_eq!(broken & 1, 0, "the block is made invalid");
    assert_eq!((page.as_u64() & 0xfff, gone & 1), (7 * 8, 0), "the page is gone from the new table");
    assert_eq!(count(&events, is_invalidation), 1, "one for both");
    let at = events.iter().position(is_invalidation).expect("an invalidation");
    let linked = |event: &&Event| matches!(event, Event::Store(at, table) if at == slot && table & 3 == 3);
    assert_eq!(events[..at].iter().filter(linked).count(), 0, "the TLBs forget the block first");
    assert_eq!(events[at..].iter().filter(linked).count(), 1, "only then the table takes its place");

    assert_eq!(space.translate(gpa(0x7000)), None);
    for page in (0..512).filter(|page| *page != 7) {
        let frame = space.translate(gpa(page * KIB4)).expect("the other pages stay");
        assert_eq!(hal.read(frame, 8), page.to_le_bytes());
    }
}

#[test]
fn permissions_change_in_place_and_memory_types_do_not() {
    let hal = HeapHal::new();
    let mut space = space(&hal);
    space.map_alloc(gpa(0), 0x4000, RWX, true).expect("free");
    hal.record();
    space.protect(gpa(0), 0x4000, MappingFlags::READ).expect("mapped");
    let events = hal.events();
    let stores = |events: &[Event]| -> Vec<u64> {
        let value = |event: &Event| if let Event::Store(_, value) = event { Some(*value) } else { None };
        events.iter().filter_map(value).collect()
    };
    assert_eq!(stores(&events).len(), 4);
    assert!(stores(&events).iter().all(|entry| entry & 1 == 1), "valid at every instant");
    assert_eq!(count(&events, is_invalidation), 1);

    space.protect(gpa(0), 0x4000, RW | MappingFlags::UNCACHED).expect("mapped");
    let events = hal.events();
    let at = events.iter().position(is_invalidation).expect("an invalidation");
    assert_eq!(count(&events, is_invalidation), 1, "one for all four pages");
    assert!(stores(&events[..at]).iter().all(|entry| entry & 1 == 0), "first all are broken");
    assert!(stores(&events[at..]).iter().all(|entry| entry & 1 == 1), "then all are made");
    assert_eq!(stores(&events).len(), 8);
    assert_eq!(
        count(&events[at..], |event| matches!(event, Event::Maintain(..))),
        4,
        "clean for the new type"
    );

    // A relaxation is invalidated as well: CPUs may remember the refusal.
    space.protect(gpa(0), 0x1000, RWX | MappingFlags::UNCACHED).expect("mapped");
    assert_eq!(count(&hal.events(), is_invalidation), 1);
    space.protect(gpa(0), 0x1000, RWX | MappingFlags::UNCACHED).expect("mapped");
    assert_eq!(count(&hal.events(), is_invalidation), 0, "nothing changed");
}

#[test]
fn a_move_keeps_the_contents_and_frees_the_old_frame_last() {
    let hal = HeapHal::new();
    let mut space = space(&hal);
    space.map_alloc(gpa(0), 0x3000, RWX, true).expect("free");
    let old = space.translate(gpa(0x1000)).expect("populated");
    hal.write(old, b"moved with it");
    hal.record();
    assert_eq!(space.migrate(gpa(0x1000), 0x1000), Ok(1));
    let new = space.translate(gpa(0x1000)).expect("still there");
    assert_ne!(new, old);
    assert_eq!(hal.read(new, 13), b"moved with it");
    let events = hal.events();
    assert_freed_after_invalidation(&events);
    let place = |wanted: &dyn Fn(&Event) -> bool| events.iter().position(wanted).expect("it happened");
    let broken = place(&|event| matches!(event, Event::Store(_, entry) if entry & 1 == 0));
    let invalidated = place(&is_invalidation);
    let made = place(&|event| matches!(event, Event::Store(_, entry) if entry & 1 == 1));
    assert!(broken < invalidated && invalidated < made);
    assert_eq!(events.last(), Some(&Event::Publish));
}

#[test]
fn moving_across_the_edges_of_large_leaves() {
    let hal = HeapHal::new();
    let mut space = space(&hal);
    space.map_alloc(gpa(0), 3 * MIB2, RWX, true).expect("free");
    let tag = |page: u64| (page ^ 0xdead_beef).to_le_bytes();
    for page in 0..3 * 512 {
        hal.write(space.translate(gpa(page * KIB4)).expect("populated"), &tag(page));
    }
    let before: Vec<_> = (0..3 * 512).map(|page| space.translate(gpa(page * KIB4))).collect();
    assert_eq!(space.migrate(gpa(MIB2 - 0x2000), MIB2 + 0x5000), Ok(2 + 512 + 3));
    for page in 0..3 * 512 {
        let frame = space.translate(gpa(page * KIB4)).expect("all are there");
        assert_eq!(hal.read(frame, 8), tag(page), "page {page}");
        let moved = (510..1027).contains(&page);
        assert_eq!(Some(frame) != before[page as usize], moved, "page {page}");
    }
    assert_eq!(
        space.query(gpa(MIB2)).map(|mapping| mapping.size),
        Ok(LeafSize::Size2M),
        "whole leaves stay whole"
    );
}

#[test]
fn mapping_invalidates_nothing() {
    let hal = HeapHal::new();
    let mut space = space(&hal);
    hal.record();
    space.map_linear(gpa(0), hpa(0x10_0000), MIB2, RW).expect("free");
    space.map_alloc(gpa(GIB1), 2 * MIB2, RWX, true).expect("free");
    space.map_alloc(gpa(2 * GIB1), GIB1, RWX, false).expect("free");
    space.handle_page_fault(gpa(2 * GIB1 + 5), MappingFlags::READ).expect("lazy");
    assert_eq!(count(&hal.events(), is_invalidation), 0);
}

#[test]
fn dropping_invalidates_before_anything_goes_back() {
    let hal = HeapHal::new();
    let mut space = space(&hal);
    space.map_alloc(gpa(0), 2 * MIB2, RWX, true).expect("free");
    space.unmap(gpa(0x3000), 0x1000).expect("mapped");
    space.protect(gpa(0x5000), 0x1000, MappingFlags::empty()).expect("mapped");
    hal.record();
    drop(space);
    let events = hal.events();
    let root = events.iter().position(|event| *event == Event::InvalidateSpace(Reach::AllCpus));
    let leaf = events.iter().position(|event| matches!(event, Event::Maintain(..)));
    assert!(root.is_some() && root < leaf, "{events:?}");
    assert_eq!(hal.in_use(), 0);
}

/// The pages whose translations the TLBs are told to forget, as Arm's sequence has it; `None` for all.
fn forgotten(events: &[Event]) -> Option<Vec<u64>> {
    use crate::format::stage2::{Instruction, instructions};
    let event = events.iter().find(|event| is_invalidation(event)).expect("an invalidation");
    let Event::InvalidateRanges(ranges, stride, reach) = event else { return None };
    let scope = crate::tlb::Scope::Ranges { ranges, stride: *stride };
    let (table, features) = (crate::tlb::TableKind::Stage2, crate::tlb::TlbFeatures::empty());
    let invalidation = crate::Invalidation { root: 0, scope, reach: *reach, table, features };
    let mut pages = Vec::new();
    for instruction in instructions(&invalidation) {
        match instruction {
            Instruction::Ipas2e1is(page) => pages.push(page),
            Instruction::Vmalls12e1is => return None,
            _ => {}
        }
    }
    Some(pages)
}

#[test]
fn a_table_that_goes_whole_takes_all_its_pages_along() {
    let hal = HeapHal::new();
    let mut space = space(&hal);
    let small =
        crate::AllocOptions { populate: true, largest_leaf: LeafSize::Size4K, ..AllocOptions::default() };
    space.map_alloc_with(gpa(0), 2 * MIB2, RWX, small).expect("free");
    hal.record();
    space.unmap(gpa(0), MIB2).expect("mapped");
    assert_eq!(forgotten(&hal.events()), None, "512 pages are more than are dropped one by one");
}

#[test]
fn the_smallest_leaf_of_a_batch_sets_the_step() {
    let hal = HeapHal::new();
    let mut space = space(&hal);
    space.map_alloc(gpa(0), 2 * MIB2, RWX, true).expect("free");
    let small =
        crate::AllocOptions { populate: true, largest_leaf: LeafSize::Size4K, ..AllocOptions::default() };
    space.map_alloc_with(gpa(GIB1), 0x3000, RWX, small).expect("free");
    for small_first in [false, true] {
        let mut orders = [(0, MIB2), (GIB1, 0x3000)];
        if small_first {
            orders.reverse();
        }
        let flags = if small_first { RW } else { MappingFlags::READ };
        hal.record();
        let mut debt = space.defer();
        for (start, size) in orders {
            debt.protect(gpa(start), size, flags).expect("mapped");
        }
        debt.discharge();
        assert_eq!(forgotten(&hal.events()), None, "515 steps of 4 KiB");
    }
    hal.record();
    space.protect(gpa(0), 2 * MIB2, MappingFlags::READ).expect("mapped");
    assert_eq!(forgotten(&hal.events()), Some(vec![0, 512]), "one for each large leaf");
}

#[test]
fn a_removed_table_costs_the_whole_space_where_addresses_do_not_reach_it() {
    fn events<F: Format>(format: F) -> Vec<Event> {
        let hal = HeapHal::new();
        let mut space = Space::with_format(&hal, format, gpa(0), GIB1, 0).expect("a root");
        space.map_alloc(gpa(0), 2 * KIB4, RW, true).expect("free");
        hal.record();
        space.unmap(gpa(0), KIB4).expect("mapped");
        assert!(!hal.events().contains(&Event::InvalidateSpace(Reach::AllCpus)), "the table stays");
        space.unmap(gpa(KIB4), KIB4).expect("mapped");
        hal.events()
    }
    let whole = Event::InvalidateSpace(Reach::AllCpus);
    assert!(!events(Stage2::default()).contains(&whole));
    assert!(events(Gstage::default()).contains(&whole), "HFENCE.GVMA by address orders leaves only");
}

#[test]
fn a_leaf_may_lie_in_regions_that_differ_in_pins_alone() {
    let hal = HeapHal::new();
    let mut space = space(&hal);
    for half in [0, MIB2 / 2] {
        space.map_linear(gpa(half), hpa(half), MIB2 / 2, RW).expect("free");
    }
    space.pin(gpa(0), KIB4).expect("memory");
    assert_eq!((space.regions().count(), space.stats().table.leaves_4k), (2, 512));
    assert_eq!(space.collapse(gpa(0), MIB2), Ok(1));
}

#[test]
fn collapse_is_the_way_back_from_a_split() {
    let hal = HeapHal::new();
    let mut space = space(&hal);
    space.map_alloc(gpa(0), 2 * MIB2, RWX, true).expect("free");
    let before = (space.table.fingerprint(), space.stats());
    let frame = space.translate(gpa(0x5000)).expect("populated");
    hal.write(frame, b"stays");
    space.protect(gpa(0x5000), 0x1000, MappingFlags::READ).expect("mapped");
    assert_eq!(space.collapse(gpa(0), 2 * MIB2), Ok(0), "not uniform");
    space.protect(gpa(0x5000), 0x1000, RWX).expect("mapped");
    assert_eq!(space.collapse(gpa(0x1000), 2 * MIB2 - 0x1000), Ok(0), "the range must cover the larger leaf");
    hal.record();
    assert_eq!(space.collapse(gpa(0), 2 * MIB2), Ok(1));
    let events = hal.events();
    let [
        Event::Store(broken_at, broken),
        invalidation,
        Event::Store(made_at, made),
        Event::Dealloc(_, 1),
        ..,
    ] = &events[..]
    else {
        panic!("{events:?}");
    };
    assert_eq!((broken_at, broken & 1, made & 3), (made_at, 0, 1), "break, then make a block");
    assert!(is_invalidation(invalidation) && forgotten(&events).is_none(), "512 pages and the walk to them");
    assert_eq!((space.table.fingerprint(), space.stats()), before);
    assert_eq!(space.translate(gpa(0x5000)), Some(frame));
    assert_eq!(hal.read(frame, 5), b"stays");
}

#[test]
fn collapse_climbs_to_the_largest_leaf_on_every_format() {
    fn climb<F: Format>(format: F) {
        let hal = HeapHal::new();
        let mut space = Space::with_format(&hal, format, gpa(0), 4 * GIB1, 0).expect("a root");
        space.map_linear(gpa(GIB1), hpa(2 * GIB1), GIB1, RW).expect("free");
        let before = (space.table.fingerprint(), space.stats());
        space.protect(gpa(GIB1 + 0x5000), 0x1000, MappingFlags::READ).expect("mapped");
        space.protect(gpa(GIB1 + 0x5000), 0x1000, RW).expect("mapped");
        let joined = space.collapse(gpa(GIB1), GIB1);
        assert_eq!(joined, Ok(u64::from(format.largest_leaf().level())), "{format:?}");
        assert_eq!((space.table.fingerprint(), space.stats()), before, "{format:?}");
    }
    formats().into_iter().for_each(climb);
    ept_formats().into_iter().for_each(climb);
    npt_formats().into_iter().for_each(climb);
    gstage_formats().into_iter().for_each(climb);
}

#[test]
fn every_removed_table_is_named() {
    let hal = HeapHal::new();
    let mut space = space(&hal);
    // Without access nothing but the walk to the two tables can be cached.
    space.map_linear(gpa(MIB2 - KIB4), hpa(0), 2 * KIB4, MappingFlags::empty()).expect("free");
    hal.record();
    space.unmap(gpa(MIB2 - KIB4), 2 * KIB4).expect("mapped");
    assert_eq!(forgotten(&hal.events()), Some(vec![511, 512]), "one page of each table");
}

#[test]
fn more_spaces_than_tags_share_them_by_generations() {
    let hal = HeapHal::new();
    // Two bits: tags 1 to 3 for five spaces on one CPU.
    let tags = TagPool::new(&hal, 2, 1).expect("memory");
    let spaces: Vec<Space<'_>> = (0..5)
        .map(|_| AddrSpace::with_format(&hal, Stage2::default(), gpa(0), GIB1, 0).expect("a root"))
        .collect();
    hal.record();
    let mut flushes = Vec::new();
    for space in &spaces {
        let register = space.activate(&tags, 0).expect("CPU 0");
        assert_eq!(register, space.root_register());
        assert_eq!(register >> 48, u64::from(space.tag()));
        flushes.push(!hal.events().is_empty());
    }
    assert_eq!(flushes, [true, false, false, true, false], "who was before, and the change of generations");
    assert_eq!(spaces[2].tag(), 3, "the CPU ran it when the generation changed");
    assert_eq!(spaces[0].activate(&tags, 0), Ok(spaces[0].root_register()));
    assert!(matches!(&hal.events()[..], [Event::InvalidateAllSpaces(Reach::ThisCpu)] | []));
    assert_eq!(spaces[0].activate(&tags, 1), Err(TagError::NoSuchCpu { cpu: 1, cpus: 1 }));
}

fn changes_at_edges_take_one_invalidation<F: Format>(format: F) {
    let hal = HeapHal::new();
    let mut space = AddrSpace::with_format(&hal, format, gpa(0), 4 * GIB1, 0).expect("a root");
    space.map_linear(gpa(0), hpa(0), 4 * GIB1, RW).expect("free");
    let (start, end) = (MIB2 + 5 * KIB4, 3 * GIB1 + MIB2 + 7 * KIB4);
    let mut take = |what: &str, change: &mut dyn FnMut(&mut AddrSpace<&HeapHal, F>)| {
        hal.record();
        change(&mut space);
        let events = hal.events();
        assert_eq!(count(&events, is_invalidation), 1, "{what} on {format:?}");
        for at in [start - 1, start, end - 1, end] {
            let gone = (start..end).contains(&at) && what != "protect";
            assert_eq!(space.translate(gpa(at)).is_some(), !gone, "{at:#x} after {what}");
        }
    };
    // Two leaves of 1 GiB, each split twice, and all that lies between.
    take("protect", &mut |space| space.protect(gpa(start), end - start, MappingFlags::READ).expect("mapped"));
    take("unmap", &mut |space| space.unmap(gpa(start), end - start).expect("mapped"));
    take("protect a page", &mut |space| {
        space.protect(gpa(end + MIB2), KIB4, MappingFlags::READ).expect("mapped")
    });
    take("a batch", &mut |space| {
        let mut debt = space.defer();
        debt.unmap(gpa(end + 2 * MIB2), KIB4).expect("mapped");
        debt.protect(gpa(end + 3 * MIB2), KIB4, MappingFlags::READ).expect("mapped");
        debt.discharge();
    });
}

#[test]
fn a_change_with_splits_takes_one_invalidation_on_every_format() {
    formats().into_iter().for_each(changes_at_edges_take_one_invalidation);
    ept_formats().into_iter().for_each(changes_at_edges_take_one_invalidation);
    npt_formats().into_iter().for_each(changes_at_edges_take_one_invalidation);
    gstage_formats().into_iter().for_each(changes_at_edges_take_one_invalidation);
}
