//! The parts of the walker by themselves: the short ways must lead where the long ones do.

use super::map::{OutOfMemory, Source};
use super::*;
use crate::addr::PAGE_SIZE;
use crate::frame::FrameStack;
use crate::space::tests::{
    GIB1, KIB4, MIB2, RW, RWX, ept_formats, formats, gpa, gstage_formats, hpa, npt_formats,
};
use crate::test_util::HeapHal;

/// A table with nothing in it.
pub(super) fn empty<F: Format>(hal: &HeapHal, format: F) -> Table<&HeapHal, F> {
    Table::new(hal, format, 0).expect("a root")
}

pub(super) fn range(start: u64, size: u64) -> GuestPhysRange {
    GuestPhysRange::new(gpa(start), size).expect("valid")
}

/// Maps `range` from `source`, with exactly as many frames for tables as the plan asks for.
pub(super) fn map<F: Format>(
    table: &Table<&HeapHal, F>,
    range: GuestPhysRange,
    flags: MappingFlags,
    mut source: impl Source,
) -> usize {
    let planned = table.plan(range, &mut source).map_err(|OutOfMemory| "out of memory").expect("memory");
    let mut frames = FrameStack::with(table.hal(), 0, planned).expect("memory");
    table.fill(range, flags, &mut source, &mut frames);
    assert!(frames.pop().is_none(), "the plan took more frames than {range} needs");
    planned
}

/// Maps `range` to the addresses from `hpa` on, in the largest leaves that fit.
pub(super) fn map_linear<F: Format>(
    table: &Table<&HeapHal, F>,
    range: GuestPhysRange,
    hpa: HostPhysAddr,
) -> usize {
    let largest = table.format().largest_leaf().level();
    map(table, range, RW, Linear { gpa: range.start(), hpa, end: range.end(), largest })
}

fn short_ways<F: Format>(formats: impl IntoIterator<Item = F>) -> usize {
    let mut taken = 0;
    for format in formats {
        let hal = HeapHal::new();
        let table = empty(&hal, format);
        let root_level = format.geometry().root_level();
        let last_of_root = (format.geometry().entries(root_level) as u64 - 1) << (9 * root_level);
        let pages = [0, 1, 511, 513, 3 * 512 + 7, 1 << 18 | 9, last_of_root | 2];
        for page in pages {
            map_linear(&table, range(page * PAGE_SIZE, PAGE_SIZE), hpa(page % 4096 * PAGE_SIZE));
        }
        for page in pages {
            let at = gpa(page * PAGE_SIZE + 0x123);
            let (long, entry) = table.walk(at);
            assert_eq!(
                (long.level, table.view(0, long.index, entry).leaf()),
                (0, Some(hpa(page % 4096 * PAGE_SIZE)))
            );
            let short = table.page_slot(at);
            assert_eq!(short.is_some(), matches!(root_level, 2 | 3), "{format:?}");
            if let Some(short) = short {
                let place = |slot: Slot| (slot.entries.hpa(), slot.index, slot.level);
                assert_eq!(place(short), place(long), "page {page:#x}");
                taken += 1;
            }
        }
        let beyond = gpa(format.geometry().limit().as_u64() | 0x1000);
        assert!(table.page_slot(beyond).is_none(), "no alias of page 1");
        map_linear(&table, range(8 * MIB2, MIB2), hpa(0));
        assert!(table.page_slot(gpa(8 * MIB2)).is_none(), "a large leaf");
        assert!(table.page_slot(gpa(9 * MIB2)).is_none(), "nothing there");
    }
    taken
}

impl View {
    /// The address of a leaf.
    fn leaf(self) -> Option<HostPhysAddr> {
        if let Self::Leaf(leaf) = self { Some(leaf.hpa) } else { None }
    }
}

#[test]
fn the_short_way_to_a_page_ends_where_the_long_one_does() {
    assert!(short_ways(formats()) > 0);
    assert!(short_ways(ept_formats()) > 0);
    assert!(short_ways(npt_formats()) > 0);
    assert!(short_ways(gstage_formats()) > 0);
}

#[test]
fn a_run_of_pages_lies_in_one_table() {
    let [_, three_levels, ..] = formats();
    let hal = HeapHal::new();
    let table = empty(&hal, three_levels);
    map_linear(&table, range(5 * KIB4, KIB4), hpa(0));
    let run = |first: u64, pages: u64| {
        table.page_run(range(first * KIB4, pages * KIB4)).map(|(slot, count)| (slot.index, count))
    };
    assert_eq!(run(0, 1), Some((0, 1)));
    assert_eq!(run(0, 512), Some((0, 512)));
    assert_eq!(run(510, 2), Some((510, 2)));
    assert_eq!(run(0, 513), None);
    assert_eq!(run(511, 2), None);
    assert_eq!(run(512, 1), None, "there is no table");
}

#[test]
fn pieces_are_the_range_cut_at_the_edges_of_entries() {
    let [_, three_levels, ..] = formats();
    let of = |level, start, size| -> Vec<(usize, u64, u64)> {
        pieces(three_levels.geometry(), level, range(start, size))
            .map(|(index, piece)| (index, piece.start().as_u64(), piece.size()))
            .collect()
    };
    assert_eq!(of(0, 2 * KIB4, 2 * KIB4), [(2, 2 * KIB4, KIB4), (3, 3 * KIB4, KIB4)]);
    assert_eq!(of(1, KIB4, KIB4), [(0, KIB4, KIB4)]);
    assert_eq!(
        of(1, MIB2 - KIB4, MIB2 + 2 * KIB4),
        [(0, MIB2 - KIB4, KIB4), (1, MIB2, MIB2), (2, 2 * MIB2, KIB4)]
    );
    assert_eq!(of(2, GIB1, GIB1), [(1, GIB1, GIB1)]);
}

#[test]
fn caches_care_about_the_type_and_about_the_first_permission_to_fetch() {
    let (user, execute) =
        (MappingFlags::READ | MappingFlags::USER, MappingFlags::READ | MappingFlags::EXECUTE);
    for fetch in [user, execute, RWX] {
        assert!(caches_differ(RW, fetch), "{fetch}");
        assert!(!caches_differ(fetch, RW), "{fetch} and back");
    }
    assert!(!caches_differ(user, execute), "fetched before");
    assert!(!caches_differ(RW, MappingFlags::READ));
    assert!(caches_differ(RW, RW | MappingFlags::UNCACHED));
    assert!(caches_differ(RW | MappingFlags::UNCACHED, RW));
}

#[test]
fn marks_are_the_bits_that_the_hardware_sets() {
    let hal = HeapHal::new();
    let [plain, _, marking] = ept_formats();
    assert_eq!(empty(&hal, plain).marks(), 0);
    assert_eq!(empty(&hal, marking).marks(), 1 << 8 | 1 << 9);
}

/// The hardware marks a leaf between the look at it and its end.
#[test]
fn a_leaf_that_is_taken_out_brings_its_last_marks_along() {
    let [_, _, marking] = ept_formats();
    let hal = HeapHal::new();
    let table = empty(&hal, marking);
    map_linear(&table, range(0, KIB4), hpa(0x5000));
    for marks in [0, 1 << 8, 1 << 9, 1 << 8 | 1 << 9] {
        let (slot, _) = table.walk(gpa(0));
        let known = Leaf::new(hpa(0x5000), RW, false);
        slot.store(&table.hal, table.encode(0, known) | marks);
        table.take_out(slot, known, Soft::NoAccess);
        let Some(Soft::NoAccess(left)) = Soft::decode(slot.load()) else { panic!("{:#x}", slot.load()) };
        assert_eq!((left.accessed, left.dirty), (marks & 1 << 8 != 0, marks & 1 << 9 != 0), "{marks:#x}");
        assert_eq!(Leaf { accessed: false, dirty: false, ..left }, known);
    }
}

#[test]
fn a_way_for_changes_says_whether_the_hardware_can_go_it() {
    let hal = HeapHal::new();
    let table = empty(&hal, formats()[1]);
    map_linear(&table, range(KIB4, KIB4), hpa(0));
    assert!(table.walk_for_change(gpa(KIB4)).2);
    // As a split leaves it until the invalidation.
    let (page, _) = table.walk(gpa(KIB4));
    let below_root = table.below(2, table.root_table().load(0)).expect("a table");
    let parent = table.slot(1, below_root, gpa(0));
    let linked = parent.load();
    parent.store(&table.hal, Soft::NewTable(page.entries.hpa()).encode());
    let (slot, _, seen) = table.walk_for_change(gpa(KIB4));
    assert_eq!((slot.entries.hpa(), slot.index, seen), (page.entries.hpa(), page.index, false));
    parent.store(&table.hal, linked);
}
