//! What is reported of a store is what stands there afterwards.

use super::*;
use crate::frame::OwnedFrames;
use crate::test_util::{Event, HeapHal};

/// A table of 512 entries of which the first eight have these values.
fn with_entries(hal: &HeapHal, values: [u64; 8], test: impl FnOnce(Entries)) {
    let mut frame = OwnedFrames::alloc(hal, 1, 1).expect("memory");
    frame.zero_table();
    // SAFETY: a frame that was just taken, and that lives until the test is done.
    let entries = unsafe { Entries::new(hal, frame.start(), 512) };
    for (index, value) in values.into_iter().enumerate() {
        entries.store(hal, index, value);
    }
    test(entries);
}

#[test]
fn differences_are_the_bits_in_which_any_entry_differs() {
    let hal = HeapHal::new();
    with_entries(&hal, [0x11, 0x10, 0x30, 0x10, 0x90, 0, 0, 0], |entries| {
        for (range, wanted) in [(0..1, 1), (1..2, 0), (1..3, 0x20), (0..4, 0x21), (1..5, 0xa0), (2..2, 0)] {
            assert_eq!(entries.differences(range.clone(), 0x10), wanted, "{range:?}");
            // SAFETY: nobody else knows of the table.
            assert_eq!(unsafe { entries.differences_unwatched(range, 0x10) }, wanted);
        }
    });
}

/// Runs `change` and compares what it reports with what it leaves.
fn reported(change: impl Fn(&HeapHal, &Entries)) -> [u64; 8] {
    let hal = HeapHal::new();
    let mut left = [0; 8];
    with_entries(&hal, [0x11, 0x12, 0x14, 0x18, 0x21, 0x22, 0x24, 0x28], |entries| {
        hal.record();
        change(&hal, &entries);
        for event in hal.events() {
            let Event::Store(at, value) = event else { panic!("{event:?}") };
            let index = (at.as_u64() - entries.hpa().as_u64()) / 8;
            assert_eq!(entries.load(index as usize), value, "entry {index}");
        }
        left = core::array::from_fn(|index| entries.load(index));
    });
    left
}

#[test]
fn every_way_to_store_reports_what_it_stores() {
    let inverted = [0x11, 0x1d, 0x1b, 0x17, 0x21, 0x22, 0x24, 0x28];
    assert_eq!(reported(|hal, entries| entries.invert(hal, 1..4, 0xf)), inverted);
    assert_eq!(reported(|hal, entries| entries.invert_atomically(hal, 1..4, 0xf)), inverted);
    let set = [0x11, 0x12, 0x17, 0x18, 0x21, 0x22, 0x24, 0x28];
    assert_eq!(reported(|hal, entries| entries.set_bits(hal, 2, 0x7)), set);
    let filled = [0x11, 7, 10, 13, 0x21, 0x22, 0x24, 0x28];
    assert_eq!(reported(|hal, entries| entries.fill(hal, 1..4, 7, 3)), filled);
    assert_eq!(reported(|hal, entries| entries.fill_unlinked(hal, 1..4, 7, 3)), filled);
    let stored = [0x11, 9, 0x14, 0x18, 0x21, 0x22, 0x24, 0x28];
    assert_eq!(reported(|hal, entries| entries.store(hal, 1, 9)), stored);
    assert_eq!(reported(|hal, entries| entries.store_unlinked(hal, 1, 9)), stored);
    assert_eq!(reported(|hal, entries| assert_eq!(entries.swap(hal, 1, 9), 0x12)), stored);
    assert_eq!(reported(|hal, entries| assert!(entries.compare_exchange(hal, 1, 0x12, 9))), stored);
}

#[test]
fn an_exchange_that_fails_stores_and_reports_nothing() {
    let hal = HeapHal::new();
    with_entries(&hal, [1; 8], |entries| {
        hal.record();
        assert!(!entries.compare_exchange(&hal, 0, 2, 3));
        assert_eq!((entries.load(0), hal.events()), (1, std::vec::Vec::new()));
    });
}

#[test]
#[should_panic(expected = "beyond its table")]
fn an_index_beyond_the_table_is_refused() {
    let hal = HeapHal::new();
    with_entries(&hal, [0; 8], |entries| assert_eq!(entries.load(512), 0));
}

#[test]
#[should_panic(expected = "beyond their table")]
fn a_run_beyond_the_table_is_refused() {
    let hal = HeapHal::new();
    with_entries(&hal, [0; 8], |entries| assert_eq!(entries.differences(511..513, 0), 0));
}
