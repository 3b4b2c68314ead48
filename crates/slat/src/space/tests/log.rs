//! The dirty log, case by case.

use super::lifetimes::{count, is_invalidation};
use super::*;
use crate::device::DeviceId;
use crate::error::{CollectLogError, StartLogError, StopLogError};
use crate::fault::FaultOutcome;
use crate::space::AllocOptions;
use crate::table::{LogUnit, View};
use crate::test_util::Event;
use crate::tlb::Reach;

/// The formats of all ISAs, and nested paging with marks of the hardware.
macro_rules! on_all_logged_formats {
    ($check:ident) => {
        on_all_formats!($check);
        $check(marking_npt());
    };
}

pub(super) fn marking_npt() -> Npt {
    let capabilities = npt::Capabilities {
        physical_bits: 48,
        leaf_1g: true,
        no_execute: true,
        asids: 64,
        accessed_dirty: true,
    };
    Npt::new(capabilities, 4).expect("in range")
}

/// What the hardware does for an access of the guest to `gpa`, faults and their answers included; returns whether the guest
/// got what it wanted. Its TLBs forget at once.
pub(super) fn guest_access<F: Format, B: CustomBackend>(
    space: &AddrSpace<&HeapHal, F, B>,
    gpa: GuestPhysAddr,
    access: MappingFlags,
) -> bool {
    let format = space.format();
    let dirty = if access.contains(MappingFlags::WRITE) { format.dirty_bit() } else { 0 };
    let marks = format.accessed_bit() | dirty;
    for _ in 0..8 {
        let (slot, entry) = space.table.walk(gpa);
        if let View::Leaf(leaf) = space.table.view(slot.level, slot.index, entry) {
            let marked = entry & marks == marks;
            if leaf.flags.contains(access) && (marked || !format.marks_by_fault()) {
                slot.entries.set_bits(space.hal(), slot.index, marks);
                return true;
            }
        }
        if space.handle_page_fault(gpa, access).is_err() {
            return false;
        }
    }
    panic!("the guest never gets to {gpa:#x}");
}

fn write<F: Format>(space: &Space<'_, F>, page: u64) {
    assert!(guest_access(space, gpa(page * KIB4), MappingFlags::WRITE), "page {page}");
}

/// The pages that a collection tells: first and number of each run.
fn collect<F: Format>(space: &mut Space<'_, F>, start: u64, size: u64) -> Vec<(u64, u64)> {
    let mut runs = Vec::new();
    let pages = space
        .collect_dirty(gpa(start), size, |run| runs.push((run.start().as_u64() / KIB4, run.size() / KIB4)))
        .expect("logged");
    assert_eq!(pages, runs.iter().map(|(_, pages)| pages).sum::<u64>());
    runs
}

fn new_space<F: Format>(hal: &HeapHal, format: F) -> Space<'_, F> {
    Space::with_format(hal, format, gpa(0), 8 * GIB1, 0).expect("a root")
}

const SMALL: AllocOptions =
    AllocOptions { populate: true, largest_leaf: LeafSize::Size4K, fault_around: LeafSize::Size4K };

fn what_is_written_is_told_once<F: Format>(format: F) {
    let hal = HeapHal::new();
    let mut space = new_space(&hal, format);
    space.map_alloc_with(gpa(0), 2 * MIB2, RW, SMALL).expect("free");
    write(&space, 9);
    let used = hal.in_use();
    hal.record();
    space.start_dirty_log(gpa(0), 2 * MIB2, LogUnit::Page).expect("mapped");
    let events = hal.events();
    assert_eq!(count(&events, is_invalidation), 1);
    assert!(matches!(
        events.last(),
        Some(Event::InvalidateRanges(_, _, Reach::AllCpus) | Event::InvalidateSpace(Reach::AllCpus))
    ));
    assert_eq!(collect(&mut space, 0, 2 * MIB2), [], "what was written before is not told");
    for page in [3, 4, 511, 512, 900] {
        write(&space, page);
    }
    assert!(guest_access(&space, gpa(20 * KIB4), MappingFlags::READ));
    hal.record();
    assert_eq!(collect(&mut space, 0, 2 * MIB2), [(3, 2), (511, 2), (900, 1)]);
    let events = hal.events();
    assert_eq!(count(&events, is_invalidation), 1);
    assert!(is_invalidation(events.last().expect("it was just counted")), "nothing is changed after it");
    hal.record();
    assert_eq!(collect(&mut space, 0, 2 * MIB2), []);
    assert_eq!(count(&hal.events(), |event| !matches!(event, Event::Publish)), 0, "nothing to do");
    write(&space, 4);
    // A part of what is logged; the rest is told later.
    write(&space, 600);
    assert_eq!(collect(&mut space, MIB2, MIB2), [(600, 1)]);
    assert_eq!(collect(&mut space, 0, 2 * MIB2), [(4, 1)]);
    assert_eq!(hal.in_use(), used, "it costs no memory");
    write(&space, 5);
    space.stop_dirty_log(gpa(0), 2 * MIB2).expect("logged");
    assert!(space.mappings(space.range()).all(|leaf| leaf.flags.contains(RW)));
    assert_eq!(space.regions().count(), 1);
}

#[test]
fn what_is_written_is_told_once_and_what_is_not_is_not() {
    on_all_logged_formats!(what_is_written_is_told_once);
}

fn a_bitmap_adds_up<F: Format>(format: F) {
    let hal = HeapHal::new();
    let mut space = new_space(&hal, format);
    space.map_alloc_with(gpa(GIB1), 200 * KIB4, RW, SMALL).expect("free");
    space.start_dirty_log(gpa(GIB1), 200 * KIB4, LogUnit::Leaf).expect("mapped");
    let base = GIB1 / KIB4;
    for page in [0, 63, 64, 65, 127, 199] {
        write(&space, base + page);
    }
    let mut bitmap = [0, 0, 0, 1 << 40];
    let short = CollectLogError::BitmapTooSmall { needed: 4, given: 3 };
    assert_eq!(space.collect_dirty_bitmap(gpa(GIB1), 200 * KIB4, &mut bitmap[..3]), Err(short));
    assert_eq!(space.collect_dirty_bitmap(gpa(GIB1), 200 * KIB4, &mut bitmap), Ok(6));
    assert_eq!(bitmap, [1 | 1 << 63, 1 << 63 | 3, 0, 1 << 40 | 1 << 7]);
    (66..127).for_each(|page| write(&space, base + page));
    assert_eq!(space.collect_dirty_bitmap(gpa(GIB1), 200 * KIB4, &mut bitmap), Ok(61));
    assert_eq!(bitmap[1], u64::MAX);
}

#[test]
fn a_bitmap_adds_up_what_was_collected() {
    on_all_logged_formats!(a_bitmap_adds_up);
}

fn large_leaves<F: Format>(format: F) {
    // Where the hart itself sets the flag and nothing else can be kept in a leaf, and where it faults, too.
    let hal = HeapHal::new();
    let mut space = new_space(&hal, format);
    space.map_linear(gpa(0), hpa(0), 2 * GIB1, RW).expect("free");
    let large = space.stats().table.leaves_1g + space.stats().table.leaves_2m;
    if large == 0 {
        return;
    }
    let used = hal.in_use();
    hal.record();
    space.start_dirty_log(gpa(0), 2 * GIB1, LogUnit::Page).expect("mapped");
    let changes = count(&hal.events(), |event| matches!(event, Event::Store(..)));
    assert!(changes as u64 <= large, "{changes} changes of {large} leaves");
    assert_eq!(hal.in_use(), used, "nothing is split yet");
    assert!(guest_access(&space, gpa(5 * KIB4), MappingFlags::READ));
    assert_eq!(space.stats().table.leaves_4k, 0);
    hal.record();
    write(&space, 5);
    // Break-before-make: the block is dropped between the two.
    let all = |event: &Event| {
        matches!(
            event,
            Event::InvalidateRanges(_, _, Reach::AllCpus) | Event::InvalidateSpace(Reach::AllCpus)
        )
    };
    let block = format.leaf(1, hpa(0), RW);
    let breaks = format.needs_break(1, block, format.table(hpa(0x1000)));
    let levels = u64::from(space.stats().table.leaves_1g > 0) + 1;
    assert_eq!(count(&hal.events(), all) as u64 > 0, breaks);
    assert!(hal.in_use() as u64 - used as u64 <= levels);
    assert_eq!(space.stats().table.leaves_4k, 512);
    assert_eq!(collect(&mut space, 0, 2 * GIB1), [(5, 1)]);
    write(&space, 6);
    write(&space, 511);
    assert_eq!(collect(&mut space, 0, 2 * GIB1), [(6, 1), (511, 1)]);
    space.stop_dirty_log(gpa(0), 2 * GIB1).expect("logged");
    assert!(space.mappings(space.range()).all(|leaf| leaf.flags.contains(RW)));
    space.collapse(gpa(0), 2 * GIB1).expect("mapped");
    assert_eq!((hal.in_use(), space.stats().table.leaves_4k), (used, 0));

    // What comes back by a change of flags is held back as before, in one region and in some of many.
    space.map_trap(gpa(2 * GIB1), KIB4, DeviceId(1)).expect("free");
    for (unit, size) in [(LogUnit::Page, 2 * GIB1), (LogUnit::Leaf, 2 * GIB1 + KIB4)] {
        // With two units these are two regions.
        space.start_dirty_log(gpa(0), GIB1, LogUnit::Page).expect("mapped");
        space.start_dirty_log(gpa(GIB1), GIB1, unit).expect("mapped");
        for flags in [MappingFlags::READ, RW] {
            space.protect(gpa(0), size, flags).expect("mapped");
        }
        write(&space, 5);
        assert_eq!(collect(&mut space, 0, GIB1), [(5, 1)], "{unit:?}");
        space.stop_dirty_log(gpa(0), 2 * GIB1).expect("logged");
        space.collapse(gpa(0), 2 * GIB1).expect("mapped");
    }
    space.unmap(gpa(2 * GIB1), KIB4).expect("mapped");

    // As a whole.
    space.start_dirty_log(gpa(0), 2 * GIB1, LogUnit::Leaf).expect("mapped");
    write(&space, 5);
    assert_eq!(hal.in_use(), used);
    let size = space.query(gpa(0)).expect("mapped").size.bytes();
    assert_eq!(collect(&mut space, 0, 2 * GIB1), [(0, size / KIB4)]);
    // The part that is asked for; the rest is not lost.
    write(&space, 5);
    assert_eq!(collect(&mut space, 0, MIB2 / 2), [(0, 256)]);
    assert_eq!(collect(&mut space, MIB2 / 2, MIB2 / 2), [(256, 256)]);
    assert_eq!(collect(&mut space, 0, 2 * GIB1), [(0, size / KIB4)]);
    assert_eq!(collect(&mut space, 0, 2 * GIB1), []);
}

#[test]
fn large_leaves_are_split_by_the_first_write_or_told_as_a_whole() {
    on_all_logged_formats!(large_leaves);
}

fn without_a_frame_all_of_a_large_leaf_is_dirty<F: Format>(format: F) {
    let hal = HeapHal::new();
    let mut space = new_space(&hal, format);
    space.map_alloc(gpa(0), 2 * MIB2, RW, true).expect("free");
    if space.stats().table.leaves_2m == 0 {
        return;
    }
    space.start_dirty_log(gpa(0), 2 * MIB2, LogUnit::Page).expect("mapped");
    let used = hal.in_use();
    hal.fail_after(Some(0));
    write(&space, 700);
    hal.fail_after(None);
    assert_eq!(hal.in_use(), used);
    assert_eq!(collect(&mut space, 0, 2 * MIB2), [(512, 512)]);
    write(&space, 700);
    assert_eq!(collect(&mut space, 0, 2 * MIB2), [(700, 1)]);
    // A frame that was kept ready.
    space.top_up(1).expect("memory");
    hal.fail_after(Some(0));
    write(&space, 3);
    hal.fail_after(None);
    assert_eq!(collect(&mut space, 0, 2 * MIB2), [(3, 1)]);
}

#[test]
fn a_split_without_memory_tells_too_much() {
    on_all_logged_formats!(without_a_frame_all_of_a_large_leaf_is_dirty);
}

fn what_is_populated_is_dirty<F: Format>(format: F) {
    let hal = HeapHal::new();
    let mut space = new_space(&hal, format);
    let lazy =
        AllocOptions { populate: false, largest_leaf: LeafSize::Size4K, fault_around: LeafSize::Size2M };
    space.map_alloc_with(gpa(0), 2 * MIB2, RW, lazy).expect("free");
    space.map_alloc(gpa(2 * MIB2), MIB2, MappingFlags::READ, false).expect("free");
    space.start_dirty_log(gpa(0), 3 * MIB2, LogUnit::Page).expect("mapped");
    assert_eq!(collect(&mut space, 0, 3 * MIB2), []);
    assert!(guest_access(&space, gpa(7 * KIB4), MappingFlags::READ));
    assert_eq!(collect(&mut space, 0, 3 * MIB2), [(0, 512)], "the window around the fault");
    space.populate(gpa(600 * KIB4), 2 * KIB4).expect("memory");
    assert!(guest_access(&space, gpa(2 * MIB2), MappingFlags::READ), "what cannot be written as well");
    let last = space.query(gpa(2 * MIB2)).expect("populated").size.bytes() / KIB4;
    assert_eq!(collect(&mut space, 0, 3 * MIB2), [(600, 2), (1024, last)]);
    assert_eq!(collect(&mut space, 0, 3 * MIB2), []);
    space.discard(gpa(600 * KIB4), KIB4).expect("owned");
    assert_eq!(collect(&mut space, 0, 3 * MIB2), [], "its marks went with it");
    assert!(guest_access(&space, gpa(600 * KIB4), MappingFlags::READ));
    let told = collect(&mut space, 0, 3 * MIB2);
    assert!(told.iter().any(|(page, pages)| (*page..page + pages).contains(&600)), "{told:?}");
}

#[test]
fn what_is_populated_is_dirty_whoever_asked_for_it() {
    on_all_logged_formats!(what_is_populated_is_dirty);
}

type Change<F> = fn(&mut Space<'_, F>);

fn no_change_loses_a_mark<F: Format>(format: F) {
    let changes: [(&str, Change<F>); 9] = [
        ("protect", |space| space.protect(gpa(0), 512 * KIB4, MappingFlags::READ).expect("mapped")),
        ("no access", |space| space.protect(gpa(0), 512 * KIB4, MappingFlags::empty()).expect("mapped")),
        ("no access and back", |space| {
            space.protect(gpa(0), 512 * KIB4, MappingFlags::empty()).expect("mapped");
            space.protect(gpa(0), 512 * KIB4, RW).expect("mapped");
        }),
        ("another type", |space| {
            if space.format().check_flags(RW | MappingFlags::UNCACHED).is_ok() {
                space.protect(gpa(0), 512 * KIB4, RW | MappingFlags::UNCACHED).expect("mapped");
            }
        }),
        ("migrate", |space| assert_eq!(space.migrate(gpa(0), 512 * KIB4), Ok(512))),
        ("split", |space| space.protect(gpa(3 * KIB4), KIB4, MappingFlags::READ).expect("mapped")),
        ("collapse", |space| assert!(space.collapse(gpa(0), MIB2).is_ok())),
        ("collapse without the permission", |space| {
            space.protect(gpa(0), MIB2, MappingFlags::READ).expect("mapped");
            assert!(space.collapse(gpa(0), MIB2).is_ok());
        }),
        ("a batch", |space| {
            let mut debt = space.defer();
            debt.protect(gpa(0), 256 * KIB4, MappingFlags::empty()).expect("mapped");
            debt.protect(gpa(0), 256 * KIB4, RW).expect("mapped");
            debt.unmap(gpa(511 * KIB4), KIB4).expect("mapped");
            debt.discharge();
        }),
    ];
    for (name, change) in changes {
        for options in [SMALL, AllocOptions { populate: true, ..AllocOptions::default() }] {
            for unit in [LogUnit::Page, LogUnit::Leaf] {
                let hal = HeapHal::new();
                let mut space = new_space(&hal, format);
                space.map_alloc_with(gpa(0), MIB2, RW, options).expect("free");
                space.start_dirty_log(gpa(0), MIB2, unit).expect("mapped");
                let dirty = [2, 3, 100, 300];
                dirty.iter().for_each(|page| write(&space, *page));
                change(&mut space);
                let mut bitmap = [0_u64; 8];
                let mut collect = |space: &mut Space<'_, F>| {
                    bitmap = [0; 8];
                    for region in space.regions().collect::<Vec<_>>() {
                        let (start, size) = (region.range.start(), region.range.size());
                        let page = start.as_u64() / KIB4;
                        let note = |run: GuestPhysRange| {
                            let run = run.start().as_u64() / KIB4..run.end().as_u64() / KIB4;
                            run.for_each(|page| bitmap[page as usize / 64] |= 1 << (page % 64));
                        };
                        space.collect_dirty(start, size, note).expect("logged");
                        assert!(page < 512);
                    }
                    bitmap
                };
                let told = collect(&mut space);
                let is_told = |page: &u64| told[*page as usize / 64] >> (page % 64) & 1 == 1;
                assert!(
                    dirty.iter().all(is_told),
                    "{name} with {options:?} in {unit:?}: {told:x?}, {format:?}"
                );
                assert_eq!(collect(&mut space), [0; 8], "{name}");
                // And a write after it is told.
                space.protect(gpa(0), 511 * KIB4, RW).expect("mapped");
                let _ = collect(&mut space);
                write(&space, 200);
                assert_eq!(collect(&mut space)[3] >> 8 & 1, 1, "{name}");
            }
        }
    }
}

#[test]
fn no_change_of_the_table_loses_a_mark() {
    on_all_logged_formats!(no_change_loses_a_mark);
}

fn a_log_of_the_hardware<F: Format>(format: F) {
    let hal = HeapHal::new();
    let mut space = new_space(&hal, format);
    space.map_alloc_with(gpa(0), 2 * MIB2, RW, SMALL).expect("free");
    space.start_dirty_log(gpa(0), MIB2, LogUnit::Page).expect("mapped");
    for page in [3, 5, 300, 600] {
        write(&space, page);
    }
    let noted = [
        300 * KIB4,
        3 * KIB4 + 8,
        3 * KIB4,
        7 * KIB4,
        600 * KIB4,
        5 * GIB1,
        u64::MAX,
        u64::MAX << 12,
        1 << 63,
    ];
    let mut told = Vec::new();
    hal.record();
    let passed_over = space.collect_logged(noted.map(gpa), |page| told.push(page));
    assert_eq!(count(&hal.events(), is_invalidation), 1);
    assert_eq!(passed_over, 5, "not logged, not mapped, no addresses at all");
    let pages: Vec<_> = told.iter().map(|page| (page.start().as_u64() / KIB4, page.size())).collect();
    assert_eq!(pages, [(300, KIB4), (3, KIB4)]);
    assert_eq!(collect(&mut space, 0, MIB2), [(5, 1)], "whoever was not noted is still there");
    hal.record();
    assert_eq!(space.collect_logged([gpa(3 * KIB4)], |_| panic!("it is clean")), 0);
    assert_eq!(count(&hal.events(), is_invalidation), 0);
}

#[test]
fn a_log_of_the_hardware_costs_its_entries_and_finds_no_wild_address() {
    on_all_logged_formats!(a_log_of_the_hardware);
}

fn the_host_writes_too<F: Format>(format: F) {
    for options in [SMALL, AllocOptions { populate: true, ..AllocOptions::default() }] {
        let hal = HeapHal::new();
        let mut space = new_space(&hal, format);
        space.map_alloc_with(gpa(0), MIB2, RW, options).expect("free");
        space.start_dirty_log(gpa(0), MIB2, LogUnit::Page).expect("mapped");
        let mut bytes = [0; 8];
        space.memory().read(gpa(0x5000), &mut bytes).expect("mapped");
        assert_eq!(collect(&mut space, 0, MIB2), [], "a read is none");
        space.memory().write(gpa(0x3ffc), &[1; 8]).expect("mapped");
        let told = collect(&mut space, 0, MIB2);
        // Without a fault there is no reason to split.
        let whole = options != SMALL && told == [(0, 512)];
        assert!(told == [(3, 2)] || whole && format.dirty_bit() != 0, "{told:?} {format:?}");
        space.memory().write(gpa(0x3ffc), &[2; 4]).expect("mapped");
        assert_eq!(collect(&mut space, 0, MIB2).len(), 1);
        assert_eq!(collect(&mut space, 0, MIB2), []);
    }
}

#[test]
fn what_the_host_writes_is_told() {
    on_all_logged_formats!(the_host_writes_too);
}

#[test]
fn wrong_arguments_are_named_and_change_nothing() {
    let hal = HeapHal::new();
    let mut space = space(&hal);
    space.map_alloc(gpa(0x1000), 0x4000, RW, true).expect("free");
    space.map_trap(gpa(0x5000), 0x1000, DeviceId(3)).expect("free");
    space.map_alloc(gpa(0x6000), 0x1000, RW, true).expect("free");
    let range = |start, size| GuestPhysRange::new(gpa(start), size).expect("valid");
    let start = |space: &mut Space<'_>, at, size| space.start_dirty_log(gpa(at), size, LogUnit::Page);
    assert_eq!(start(&mut space, 0x6000, 0x2000), Err(StartLogError::NotMapped(gpa(0x7000))));
    assert!(matches!(start(&mut space, 0x6800, 0x1000), Err(StartLogError::BadRange(_))));
    assert!(matches!(start(&mut space, 0, 0), Err(StartLogError::BadRange(_))));
    assert!(matches!(
        start(&mut space, u64::MAX << 12, 0x1000),
        Err(StartLogError::BadRange(BadRange::Malformed { .. } | BadRange::OutsideSpace { .. }))
    ));
    let collect = |space: &mut Space<'_>, at, size| {
        space.collect_dirty(gpa(at), size, |_| panic!("nothing is visited"))
    };
    assert_eq!(collect(&mut space, 0x1000, 0x1000), Err(CollectLogError::NotLogged(range(0x1000, 0x4000))));
    assert_eq!(space.stop_dirty_log(gpa(0), 0x1000), Err(StopLogError::NotMapped(gpa(0))));
    assert_eq!(
        space.stop_dirty_log(gpa(0x1000), 0x1000),
        Err(StopLogError::NotLogged(range(0x1000, 0x4000)))
    );
    start(&mut space, 0x2000, 0x5000).expect("mapped");
    let logs: Vec<_> = space.regions().map(|region| region.log).collect();
    assert_eq!(logs, [None, Some(LogUnit::Page), None, Some(LogUnit::Page)], "no registers of a device");
    assert_eq!(collect(&mut space, 0x2000, 0x5000), Ok(0), "which are passed over");
    assert_eq!(start(&mut space, 0x4000, 0x1000), Err(StartLogError::AlreadyLogged(range(0x2000, 0x3000))));
    assert_eq!(collect(&mut space, 0, 0x1000), Err(CollectLogError::NotMapped(gpa(0))));
    assert!(matches!(collect(&mut space, 0x2000, 0x800), Err(CollectLogError::BadRange(_))));
    assert!(matches!(space.stop_dirty_log(gpa(1), 1), Err(StopLogError::BadRange(_))));
    // In pieces that are none of those in which it was begun.
    space.stop_dirty_log(gpa(0x3000), 0x1000).expect("logged");
    assert!(space.stop_dirty_log(gpa(0x3000), 0x1000).is_err());
    space.stop_dirty_log(gpa(0x2000), 0x1000).expect("logged");
    space.stop_dirty_log(gpa(0x4000), 0x3000).expect("logged");
    assert_eq!(space.regions().count(), 3);
}

/// Leaves of two regions that look alike while the log holds back from one what the other one never had.
fn regions_with_other_flags_are_not_joined<F: Format>(format: F) {
    let hal = HeapHal::new();
    let mut space = new_space(&hal, format);
    space.map_linear(gpa(0), hpa(0), MIB2 / 2, RW).expect("free");
    space.map_linear(gpa(MIB2 / 2), hpa(MIB2 / 2), MIB2 / 2, MappingFlags::READ).expect("free");
    space.start_dirty_log(gpa(0), MIB2, LogUnit::Page).expect("mapped");
    assert_eq!(space.collapse(gpa(0), MIB2), Ok(0));
    write(&space, 0);
    let read_only = space.query(gpa(MIB2 / 2)).expect("mapped");
    assert!(!read_only.flags.contains(MappingFlags::WRITE));
}

#[test]
fn leaves_of_regions_with_other_flags_are_not_joined() {
    on_all_logged_formats!(regions_with_other_flags_are_not_joined);
}

/// Two CPUs write to one large leaf, whose table both prepare.
fn beside_each_other<F: Format>(format: F) {
    let hal = HeapHal::new();
    let mut space = new_space(&hal, format);
    space.map_alloc(gpa(0), 4 * MIB2, RW, true).expect("free");
    let used = hal.in_use() as u64;
    let tables = space.stats().table.table_frames;
    space.start_dirty_log(gpa(0), 4 * MIB2, LogUnit::Page).expect("mapped");
    std::thread::scope(|scope| {
        for cpu in 0..4 {
            let space = &space;
            scope.spawn(move || (0..64).for_each(|page| write(space, page * 32 + cpu)));
        }
    });
    let mut told = 0;
    collect(&mut space, 0, 4 * MIB2).iter().for_each(|(page, pages)| {
        told += pages;
        assert_eq!((page % 32, *pages), (0, 4));
    });
    assert_eq!(told, 256);
    assert_eq!(hal.in_use() as u64, used + space.stats().table.table_frames - tables);
}

#[test]
fn writes_beside_each_other_are_told_and_no_frame_is_lost() {
    on_all_logged_formats!(beside_each_other);
}

#[test]
fn a_write_that_faults_says_so() {
    let hal = HeapHal::new();
    let mut space = space(&hal);
    space.map_alloc_with(gpa(0), 4 * KIB4, RW, SMALL).expect("free");
    space.start_dirty_log(gpa(0), 4 * KIB4, LogUnit::Page).expect("mapped");
    let fault = |access| space.handle_page_fault(gpa(KIB4), access);
    assert_eq!(fault(MappingFlags::READ), Ok(FaultOutcome::Spurious));
    assert!(!space.query(gpa(KIB4)).expect("mapped").dirty);
    assert_eq!(fault(MappingFlags::WRITE), Ok(FaultOutcome::MadeWritable));
    assert_eq!(fault(MappingFlags::WRITE), Ok(FaultOutcome::Spurious));
    let leaf = space.query(gpa(KIB4)).expect("mapped");
    assert_eq!((leaf.dirty, leaf.flags), (true, RW));
}
