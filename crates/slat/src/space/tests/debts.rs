//! Debts that are batched or forgotten, and what they must not cost.

use super::lifetimes::{assert_freed_after_invalidation, count, is_invalidation};
use super::*;
use crate::fault::FaultOutcome;
use crate::test_util::Event;

/// The TLBs forget the block before the table takes its place.
fn assert_linked_after_invalidation(events: &[Event]) {
    let first = events.iter().position(is_invalidation).expect("an invalidation");
    let linked = events.iter().position(|event| matches!(event, Event::Store(..))).expect("the table");
    assert!(first < linked, "{events:?}");
}

#[test]
fn a_forgotten_split_does_not_keep_the_guest_waiting() {
    let hal = HeapHal::new();
    let mut space = space(&hal);
    space.map_alloc(gpa(0), 2 * MIB2, RW, true).expect("free");
    let frame = space.translate(gpa(0x9000)).expect("populated");
    let mut debt = space.defer();
    debt.unmap(gpa(0x7000), KIB4).expect("mapped");
    debt.protect(gpa(MIB2), KIB4, MappingFlags::READ).expect("mapped");
    std::mem::forget(debt);
    assert_eq!(space.translate(gpa(0x9000)), Some(frame), "the hardware faults, but the page is known");
    assert_eq!(space.mappings(space.range()).count(), 511 + 512, "but all pages are known");
    hal.record();
    assert_eq!(space.handle_page_fault(gpa(0x9123), MappingFlags::WRITE), Ok(FaultOutcome::Spurious));
    let events = hal.events();
    assert_linked_after_invalidation(&events);
    assert_eq!(space.translate(gpa(0x9000)), Some(frame), "with its contents");
    assert_eq!(
        count(&events, |event| matches!(event, Event::Dealloc(..))),
        0,
        "the debt still owns the page"
    );
    // The next change discharges what was forgotten.
    space.protect(gpa(0x9000), KIB4, MappingFlags::READ).expect("mapped");
    assert_eq!(count(&hal.events(), |event| matches!(event, Event::Dealloc(..))), 1);
    assert!(space.translate(gpa(MIB2 + KIB4)).is_some());
}

#[test]
fn a_forgotten_split_of_host_memory_does_not_keep_the_guest_waiting() {
    let hal = HeapHal::new();
    let mut space = space(&hal);
    space.map_linear(gpa(0), HostPhysAddr::new(0), MIB2, RW).expect("free");
    let mut debt = space.defer();
    debt.protect(gpa(0x1000), KIB4, MappingFlags::READ).expect("mapped");
    std::mem::forget(debt);
    hal.record();
    assert_eq!(space.handle_page_fault(gpa(0x9123), MappingFlags::WRITE), Ok(FaultOutcome::Spurious));
    assert_linked_after_invalidation(&hal.events());
    hal.record();
    assert_eq!(space.handle_page_fault(gpa(0x9123), MappingFlags::WRITE), Ok(FaultOutcome::Spurious));
    assert_eq!(count(&hal.events(), |event| matches!(event, Event::Store(..))), 0, "it is linked once");
    assert_eq!(space.translate(gpa(0x9000)), Some(HostPhysAddr::new(0x9000)));
}

#[test]
fn a_forgotten_table_does_not_keep_the_guest_waiting() {
    let hal = HeapHal::new();
    let mut space = space(&hal);
    space.map_alloc(gpa(0), 2 * KIB4, RW, false).expect("free");
    space.handle_page_fault(gpa(0), MappingFlags::WRITE).expect("memory");
    let mut debt = space.defer();
    debt.unmap(gpa(0), KIB4).expect("mapped");
    std::mem::forget(debt);
    // The unmap emptied the table, which waits for the debt; the second page needs it.
    let populated = FaultOutcome::Populated(LeafSize::Size4K);
    assert_eq!(space.handle_page_fault(gpa(KIB4), MappingFlags::WRITE), Ok(populated));
    assert!(space.translate(gpa(KIB4)).is_some() && space.translate(gpa(0)).is_none());
    let owned = |space: &Space<'_>| space.stats().table.owned_frames;
    assert_eq!(owned(&space), 2, "the debt still owns the first page");
    space.protect(gpa(KIB4), KIB4, MappingFlags::READ).expect("mapped");
    assert_eq!(owned(&space), 1);
}

#[test]
fn a_batch_that_takes_all_permissions_and_gives_others_invalidates_in_between() {
    let hal = HeapHal::new();
    let mut space = space(&hal);
    space.map_alloc(gpa(0), 2 * KIB4, RW, true).expect("free");
    hal.record();
    let mut debt = space.defer();
    debt.protect(gpa(0), KIB4, MappingFlags::empty()).expect("mapped");
    debt.protect(gpa(0), 2 * KIB4, RW | MappingFlags::UNCACHED).expect("mapped");
    debt.discharge();
    let events = hal.events();
    let made = |event: &Event| matches!(event, Event::Store(_, entry) if entry & 1 == 1);
    let first = events.iter().position(made).expect("the page comes back");
    assert!(
        events[..first].iter().any(is_invalidation),
        "CPUs may remember the other memory type: {events:?}"
    );
    // In an operation of its own nothing is remembered any more.
    space.protect(gpa(0), KIB4, MappingFlags::empty() | MappingFlags::UNCACHED).expect("mapped");
    hal.record();
    space.protect(gpa(0), KIB4, RW).expect("mapped");
    assert_eq!(count(&hal.events(), is_invalidation), 0);
}

#[test]
fn a_page_without_access_has_its_caches_cleaned_when_its_type_changes() {
    let hal = HeapHal::new();
    let fwb = Features { pa_bits: 48, fwb: true, ..Features::BASELINE };
    let format = Stage2::new(fwb, Some(39)).expect("in range");
    let mut space = AddrSpace::with_format(&hal, format, gpa(0), GIB1, 0).expect("a root");
    space.map_alloc(gpa(0), KIB4, RW | MappingFlags::UNCACHED, true).expect("free");
    hal.record();
    // The guest wrote past the caches. Whoever reads through them next must not find what they held before.
    space.protect(gpa(0), KIB4, MappingFlags::empty()).expect("mapped");
    space.protect(gpa(0), KIB4, RW).expect("mapped");
    let events = hal.events();
    let cleaned = |event: &Event| matches!(event, Event::Maintain(..));
    assert!(events.iter().any(cleaned), "{events:?}");
}

#[test]
fn a_forgotten_debt_is_not_lost() {
    let hal = HeapHal::new();
    let mut space = space(&hal);
    space.map_alloc(gpa(0), 0x20000, RWX, true).expect("free");
    let mut debt = space.defer();
    debt.unmap(gpa(0x1000), 0x1000).expect("mapped");
    core::mem::forget(debt);
    hal.record();
    space.map_alloc(gpa(0x1000), 0x1000, RW, true).expect("free again");
    let events = hal.events();
    assert_freed_after_invalidation(&events);
    let mut debt = space.defer();
    debt.unmap(gpa(0x8000), 0x1000).expect("mapped");
    core::mem::forget(debt);
    drop(space);
    assert_eq!(hal.in_use(), 0);
}
