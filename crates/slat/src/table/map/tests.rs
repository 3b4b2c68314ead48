//! Plans are exact, and the runs that save time write what single leaves would have written.

use super::super::tests::{empty, map, map_linear, range};
use super::*;
use crate::space::tests::{
    GIB1, KIB4, MIB2, RW, RWX, ept_formats, formats, gpa, gstage_formats, hpa, npt_formats,
};
use crate::test_util::{Event, HeapHal};
use std::vec::Vec;

fn linear(start: u64, size: u64, at: u64, largest: u8) -> Linear {
    Linear { gpa: gpa(start), hpa: hpa(at), end: gpa(start + size), largest }
}

#[test]
fn a_linear_source_offers_leaves_that_fit_and_no_larger_than_asked_for() {
    let mut source = linear(MIB2, 3 * MIB2, GIB1, 1);
    assert!(source.plan(1, gpa(2 * MIB2)));
    assert!(!source.plan(1, gpa(2 * MIB2 + KIB4)), "not aligned");
    assert!(!source.plan(1, gpa(4 * MIB2)), "behind the end");
    assert!(!linear(0, GIB1, GIB1, 1).plan(2, gpa(0)), "larger than asked for");
    assert!(!linear(0, MIB2, KIB4, 1).plan(1, gpa(0)), "the host's address is not aligned");
    assert_eq!(source.next(0, gpa(MIB2 + KIB4)), Some(hpa(GIB1 + KIB4)));
    assert_eq!(source.next(1, gpa(3 * MIB2)), Some(hpa(GIB1 + 2 * MIB2)));
    assert_eq!(source.next(1, gpa(3 * MIB2 + KIB4)), None);
    assert_eq!(source.next(2, gpa(MIB2)), None);
}

#[test]
fn a_linear_source_runs_as_far_as_its_leaves_fit() {
    let mut source = linear(MIB2, 3 * MIB2, GIB1, 1);
    assert_eq!(source.run(0, range(MIB2 + KIB4, 3 * KIB4)), Some((hpa(GIB1 + KIB4), 3)));
    assert_eq!(source.run(1, range(2 * MIB2, 2 * MIB2)), Some((hpa(GIB1 + MIB2), 2)));
    assert_eq!(source.run(1, range(2 * MIB2, MIB2 + KIB4)), Some((hpa(GIB1 + MIB2), 1)));
    assert_eq!(source.run(1, range(MIB2 + KIB4, 2 * MIB2)), None);
    assert_eq!(source.run(1, range(2 * MIB2, KIB4)), None);
    assert_eq!(source.run(2, range(MIB2, 3 * MIB2)), None);
}

/// Ranges, one after the other in one table, with what is there already and what is not.
fn plans_are_exact<F: Format>(formats: impl IntoIterator<Item = F>) {
    for format in formats {
        let hal = HeapHal::new();
        let table = empty(&hal, format);
        let mut tables = hal.in_use();
        for (start, size, at) in [
            (MIB2 - KIB4, KIB4, 0),
            (MIB2, KIB4, 0),
            // Tables on both sides are there.
            (MIB2 - 3 * KIB4, 2 * KIB4, KIB4),
            (MIB2 + KIB4, MIB2, KIB4),
            (4 * MIB2, 3 * MIB2, 4 * MIB2),
            (8 * MIB2 - KIB4, MIB2 + 2 * KIB4, 8 * MIB2 - KIB4),
            (GIB1 - MIB2, 2 * MIB2, KIB4),
            (2 * GIB1 - KIB4, GIB1 + 2 * KIB4, 2 * GIB1 - KIB4),
            (4 * GIB1 + KIB4, MIB2, 4 * GIB1 + KIB4),
        ] {
            tables += map_linear(&table, range(start, size), hpa(at));
            assert_eq!(hal.in_use(), tables, "{format:?}, {start:#x}");
            for offset in [0, size / 2 / KIB4 * KIB4, size - KIB4] {
                assert_eq!(
                    table.translate(gpa(start + offset)),
                    Some(hpa(at + offset)),
                    "{format:?}, {start:#x}"
                );
            }
        }
    }
}

#[test]
fn a_plan_counts_the_tables_that_are_missing_and_no_others() {
    plans_are_exact(formats());
    plans_are_exact(ept_formats());
    plans_are_exact(npt_formats());
    plans_are_exact(gstage_formats());
}

#[test]
fn where_all_tables_are_there_a_mapping_takes_no_frame() {
    let hal = HeapHal::new();
    let table = empty(&hal, formats()[2]);
    assert!(map_linear(&table, range(0, KIB4), hpa(0)) > 0);
    assert!(map_linear(&table, range(MIB2, KIB4), hpa(0)) > 0);
    hal.fail_after(Some(0));
    assert_eq!(map_linear(&table, range(MIB2 - KIB4, KIB4), hpa(0)), 0);
    assert_eq!(map_linear(&table, range(KIB4, MIB2 - 2 * KIB4), hpa(KIB4)), 0);
    hal.fail_after(None);
}

#[test]
fn contiguous_leaves_are_written_once_each() {
    let hal = HeapHal::new();
    let table = empty(&hal, formats()[1]);
    map_linear(&table, range(0, KIB4), hpa(0));
    hal.record();
    map_linear(&table, range(KIB4, 5 * KIB4), hpa(KIB4));
    let stores = hal.events().into_iter().filter(|event| matches!(event, Event::Store(..))).count();
    assert_eq!(stores, 5);
}

fn runs_end_before_tables<F: Format>(formats: impl IntoIterator<Item = F>) {
    for format in formats {
        for flags in [RW, MappingFlags::empty()] {
            let hal = HeapHal::new();
            let table = empty(&hal, format);
            // A table at index 5.
            map_linear(&table, range(5 * MIB2, KIB4), hpa(0));
            let (page, _) = table.walk(gpa(5 * MIB2));
            let (beside, _) = table.walk(gpa(4 * MIB2));
            assert_eq!((beside.level, beside.index), (1, 4));
            let entries = beside.entries;
            let leaf = Leaf::new(hpa(GIB1), flags, false);
            let stands = entries.load(5);
            assert_eq!(table.fill_run(1, entries, true, 2..8, leaf), 3, "up to the table");
            assert_eq!(entries.load(5), stands);
            assert_eq!(table.fill_run(1, entries, true, 5..8, leaf), 0);
            assert_eq!(table.fill_run(1, entries, true, 6..8, leaf), 2);
            let at = |level, entry| match table.view(level, 0, entry) {
                View::Leaf(leaf) | View::Soft(super::super::Soft::NoAccess(leaf)) => Some(leaf),
                _ => None,
            };
            let leaves: Vec<_> =
                (0..10).map(|index| at(1, entries.load(index)).map(|leaf| leaf.hpa)).collect();
            let run = |first, count: usize| (0..count as u64).map(move |n| Some(hpa(first + n * MIB2)));
            let wanted: Vec<_> = [None, None]
                .into_iter()
                .chain(run(GIB1, 3))
                .chain([None])
                .chain(run(GIB1, 2))
                .chain([None, None])
                .collect();
            assert_eq!(leaves, wanted, "{format:?}");
            // Pages are written wherever they are asked for: nothing but pages can stand there.
            assert_eq!(table.fill_run(0, page.entries, true, 0..4, Leaf::new(hpa(0x9000), flags, false)), 4);
            assert_eq!(at(0, page.entries.load(3)), Some(Leaf::new(hpa(0xc000), flags, false)), "{format:?}");
            // In a table that nobody sees, what stands there means nothing.
            assert_eq!(table.fill_run(1, entries, false, 4..7, leaf), 3);
            assert_eq!(at(1, entries.load(5)), Some(Leaf::new(hpa(GIB1 + MIB2), flags, false)));
            entries.store(&table.hal, 5, stands);
        }
    }
}

#[test]
fn a_run_of_leaves_ends_before_a_table() {
    runs_end_before_tables(formats());
    runs_end_before_tables(ept_formats());
    runs_end_before_tables(npt_formats());
    runs_end_before_tables(gstage_formats());
}

/// Leaves of 2 MiB one by one, without any run.
struct Single;

impl Source for Single {
    const OWNED: bool = false;

    fn plan(&mut self, level: u8, _gpa: GuestPhysAddr) -> bool {
        level == 1
    }

    fn plan_pages(&mut self, _range: GuestPhysRange) -> Result<(), OutOfMemory> {
        panic!("all of it fits")
    }

    fn run(&mut self, _level: u8, _range: GuestPhysRange) -> Option<(HostPhysAddr, usize)> {
        None
    }

    fn next(&mut self, level: u8, gpa: GuestPhysAddr) -> Option<HostPhysAddr> {
        (level == 1).then(|| hpa(gpa.as_u64()))
    }
}

/// A frame comes with what its last owner left, which for EPT looks like tables.
#[test]
fn what_a_new_table_was_before_means_nothing() {
    for format in ept_formats() {
        let hal = HeapHal::new();
        let table = empty(&hal, format);
        map(&table, range(0, GIB1), RWX, Single);
        assert_eq!(table.translate(gpa(511 * MIB2)), Some(hpa(511 * MIB2)));
    }
}

/// How often each frame of `level` is maintained before an entry names it.
fn maintained_before_mapped<F: Format>(format: F) -> usize {
    let hal = HeapHal::new();
    let table = empty(&hal, format);
    hal.record();
    let mut source = Frames::new(table.hal(), format, RWX, 0);
    let planned =
        table.plan(range(0, 2 * KIB4), &mut source).map_err(|OutOfMemory| "no memory").expect("memory");
    let mut frames = FrameStack::with(table.hal(), 0, planned).expect("memory");
    table.fill(range(0, 2 * KIB4), RWX, &mut source, &mut frames);
    let mut maintained = Vec::new();
    for event in hal.events() {
        match event {
            Event::Maintain(start, 1, actions) => {
                assert!(!actions.is_empty(), "maintenance of nothing");
                maintained.push(start);
            }
            Event::Store(_, entry) => {
                let (now, leaf) = (maintained.len(), table.format().address(entry));
                assert!(now == 0 || now == 2 || maintained.contains(&leaf), "{leaf:?} is mapped first");
            }
            _ => {}
        }
    }
    maintained.len()
}

#[test]
fn frames_are_maintained_before_they_are_mapped_where_the_format_asks_for_it() {
    assert_eq!(formats().map(maintained_before_mapped), [2; 4]);
    assert_eq!(ept_formats().map(maintained_before_mapped), [0; 3]);
}
