//! Ageing, case by case. That it disturbs nothing else is in `log_naive.rs`.

use super::lifetimes::{count, is_invalidation};
use super::log::{guest_access, marking_npt};
use super::*;
use crate::error::ScanError;
use crate::fault::FaultOutcome;
use crate::space::{AllocOptions, SharedMemory};
use crate::test_util::Event;

const SMALL: AllocOptions =
    AllocOptions { populate: true, largest_leaf: LeafSize::Size4K, fault_around: LeafSize::Size4K };

macro_rules! on_all {
    ($check:ident) => {
        on_all_formats!($check);
        $check(marking_npt());
    };
}

fn new_space<F: Format>(hal: &HeapHal, format: F) -> Space<'_, F> {
    Space::with_format(hal, format, gpa(0), 8 * GIB1, 0).expect("a root")
}

fn read<F: Format>(space: &Space<'_, F>, page: u64) {
    assert!(guest_access(space, gpa(page * KIB4), MappingFlags::READ), "page {page}");
}

/// Scans the first pages; returns those that were visited: first, number, age.
fn scan<F: Format>(space: &mut Space<'_, F>, ages: &mut [u8], least: u8) -> Vec<(u64, u64, u8)> {
    let (mut idle, size) = (Vec::new(), ages.len() as u64 * KIB4);
    let visit = |leaf: GuestPhysRange, age| {
        idle.push((leaf.start().as_u64() / KIB4, leaf.size() / KIB4, age));
    };
    let pages = space.scan_idle(gpa(0), size, ages, least, visit).expect("a range of the space");
    assert_eq!(pages, idle.iter().map(|(_, pages, _)| pages).sum::<u64>());
    idle
}

fn ages_count_scans<F: Format>(format: F) {
    let hal = HeapHal::new();
    let mut space = new_space(&hal, format);
    space.map_alloc_with(gpa(0), 5 * KIB4, RWX, SMALL).expect("free");
    space.map_alloc_with(gpa(5 * KIB4), KIB4, RW, AllocOptions { populate: false, ..SMALL }).expect("free");
    space.pin(gpa(4 * KIB4), KIB4).expect("populated");
    (0..5).for_each(|page| read(&space, page));
    let used = hal.in_use();
    let frames: Vec<_> = (0..5).map(|page| space.translate(gpa(page * KIB4))).collect();
    let mut ages = [9; 8];
    hal.record();
    assert_eq!(scan(&mut space, &mut ages, 1), []);
    let events = hal.events();
    assert_eq!((ages, count(&events, is_invalidation)), ([0; 8], 1));
    assert!(is_invalidation(events.last().expect("it was just counted")));
    read(&space, 1);
    hal.record();
    assert_eq!(scan(&mut space, &mut ages, 1), [(0, 1, 1), (2, 1, 1), (3, 1, 1)]);
    assert_eq!((ages, count(&hal.events(), is_invalidation)), ([1, 0, 1, 1, 0, 0, 0, 0], 1));
    hal.record();
    assert_eq!(scan(&mut space, &mut ages, 2), [(0, 1, 2), (2, 1, 2), (3, 1, 2)]);
    assert_eq!(ages, [2, 1, 2, 2, 0, 0, 0, 0]);
    assert_eq!(count(&hal.events(), |event| !matches!(event, Event::Publish)), 0, "nobody used anything");
    // Idle or not, they are the guest's.
    assert_eq!((0..5).map(|page| space.translate(gpa(page * KIB4))).collect::<Vec<_>>(), frames);
    assert_eq!(space.translate_and_get_limit(gpa(0)).map(|(hpa, _)| hpa), frames[0]);
    assert!(space.query(gpa(2 * KIB4)).is_ok_and(|leaf| leaf.flags.contains(RW)));
    // The host uses them too.
    space.memory().read(gpa(2 * KIB4), &mut [0; 8]).expect("mapped");
    assert!(guest_access(&space, gpa(3 * KIB4), MappingFlags::WRITE));
    assert_eq!(scan(&mut space, &mut ages, 2), [(0, 1, 3), (1, 1, 2)]);
    (0..300).for_each(|_| drop(scan(&mut space, &mut ages, 255)));
    assert_eq!((ages[0], hal.in_use()), (255, used));
}

#[test]
fn ages_count_the_scans_without_a_use() {
    on_all!(ages_count_scans);
}

fn large_leaves_age_as_one<F: Format>(format: F) {
    let hal = HeapHal::new();
    let mut space = new_space(&hal, format);
    space.map_alloc(gpa(0), 2 * MIB2, RW, true).expect("free");
    if space.stats().table.leaves_2m == 0 {
        return;
    }
    let mut ages = [0; 1024];
    (0..2).for_each(|block| read(&space, block * 512 + 7));
    scan(&mut space, &mut ages, 1);
    read(&space, 600);
    assert_eq!(scan(&mut space, &mut ages, 1), [(0, 512, 1)]);
    assert_eq!((ages[511], ages[512]), (1, 0));
    // A part of one is never idle, so that the rest is not forgotten.
    assert_eq!(scan(&mut space, &mut ages[..256], 1), [(0, 256, 2)]);
    read(&space, 0);
    assert_eq!(scan(&mut space, &mut ages[..256], 1), []);
    assert_eq!(scan(&mut space, &mut ages, 1), [(512, 512, 1)]);
    assert_eq!(space.stats().table.leaves_2m, 2);
}

#[test]
fn large_leaves_age_as_a_whole() {
    on_all!(large_leaves_age_as_one);
}

fn what_is_idle_can_be_changed<F: Format>(format: F) {
    for change in 0..9 {
        let hal = HeapHal::new();
        let mut space = new_space(&hal, format);
        space.map_linear(gpa(MIB2), hpa(MIB2), 2 * KIB4, RW).expect("free");
        space.map_alloc_with(gpa(0), 8 * KIB4, RW, SMALL).expect("free");
        let frame = space.translate(gpa(0)).expect("populated");
        hal.write(frame, b"contents");
        let mut ages = [0; 1024];
        (0..2).for_each(|_| drop(scan(&mut space, &mut ages, 1)));
        let stats = space.stats().table;
        assert_eq!((stats.owned_frames, stats.leaves_4k), (8, 10));
        let mut children = Vec::new();
        match change {
            0 => {}
            1 => space.protect(gpa(0), 8 * KIB4, MappingFlags::READ).expect("mapped"),
            2 => {
                space.protect(gpa(0), 8 * KIB4, MappingFlags::empty()).expect("mapped");
                assert!(space.handle_page_fault(gpa(0), MappingFlags::READ).is_err());
                space.protect(gpa(0), 8 * KIB4, RWX).expect("mapped");
            }
            3 => assert_eq!(space.migrate(gpa(0), 8 * KIB4), Ok(8)),
            4 => {
                space.unmap(gpa(KIB4), 4 * KIB4).expect("mapped");
                assert_eq!(space.stats().table.owned_frames, 4);
            }
            5 => assert_eq!(space.discard(gpa(KIB4), 4 * KIB4), Ok(4)),
            6 => {
                children.push(space.fork(1).expect("memory"));
                assert!(guest_access(&children[0], gpa(0), MappingFlags::WRITE));
                assert_ne!(children[0].translate(gpa(0)), space.translate(gpa(0)));
            }
            7 => {
                children.push(space.fork(1).expect("memory"));
                space.pin(gpa(0), KIB4).expect("memory");
                assert_ne!(children[0].translate(gpa(0)), space.translate(gpa(0)));
            }
            _ => space.protect(gpa(MIB2), 2 * KIB4, MappingFlags::READ).expect("mapped"),
        }
        read(&space, 0);
        let page = space.translate(gpa(0)).expect("used");
        assert_eq!(hal.read(page, 8), b"contents", "{change}");
        read(&space, 513);
        let written = guest_access(&space, gpa(KIB4 + MIB2), MappingFlags::WRITE);
        assert_eq!(written, change != 8);
        assert_eq!(guest_access(&space, gpa(0), MappingFlags::WRITE), change != 1);
        drop(children);
        drop(space);
        assert_eq!(hal.in_use(), 0, "{change}");
    }
}

#[test]
fn what_is_idle_can_be_changed_as_anything_else() {
    on_all!(what_is_idle_can_be_changed);
}

#[test]
fn where_the_hardware_does_not_tell_an_access_fault_does() {
    let hal = HeapHal::new();
    let mut space = space(&hal);
    space.map_alloc_with(gpa(0), 2 * KIB4, RW, SMALL).expect("free");
    scan(&mut space, &mut [0; 2], 1);
    let (slot, entry) = space.table.walk(gpa(0));
    assert_eq!(space.format().kind(slot.level, entry), crate::format::Kind::Absent);
    let fault = |page: u64, access| space.handle_page_fault(gpa(page * KIB4), access);
    hal.record();
    assert_eq!(fault(0, MappingFlags::READ), Ok(FaultOutcome::Marked));
    assert_eq!(count(&hal.events(), is_invalidation), 0, "nobody remembers that there was nothing");
    assert_eq!(fault(0, MappingFlags::READ), Ok(FaultOutcome::Spurious));
    assert_eq!(fault(1, MappingFlags::WRITE), Ok(FaultOutcome::Marked));
    assert!(space.populate(gpa(0), 2 * KIB4).is_ok_and(|pages| pages == 0));
}

/// A linear region of eight pages, all of them idle.
fn idle_linear<F: Format>(hal: &HeapHal, format: F) -> Space<'_, F> {
    let mut space = new_space(hal, format);
    space.map_linear(gpa(0), hpa(0x10_1000), 8 * KIB4, RW).expect("free");
    scan(&mut space, &mut [0; 8], 1);
    space
}

/// Leaves of a linear region, some of which are idle, do not all look alike.
fn linear<F: Format>(space: &mut Space<'_, F>) {
    let frame = |page: u64| hpa(0x10_1000 + page * KIB4);
    read(space, 0);
    read(space, 5);
    space.protect(gpa(0), 8 * KIB4, MappingFlags::READ).expect("mapped");
    for page in 0..8 {
        read(space, page);
        let leaf = space.query(gpa(page * KIB4)).expect("there");
        let (hpa, flags) = (leaf.hpa.as_u64() + (page * KIB4 - leaf.gpa.as_u64()), leaf.flags);
        assert_eq!((hpa, flags), (frame(page).as_u64(), MappingFlags::READ), "page {page}");
        assert!(!guest_access(space, gpa(page * KIB4), MappingFlags::WRITE), "page {page}");
    }
}

fn linear_alone<F: Format>(format: F) {
    linear(&mut idle_linear(&HeapHal::new(), format));
}

fn linear_of_another<F: Format>(format: F) {
    let hal = HeapHal::new();
    let mut first = idle_linear(&hal, format);
    let snapshot = first.snapshot().expect("memory");
    let mut space = new_space(&hal, format);
    space.reset(&snapshot).expect("memory");
    drop((first, snapshot));
    space.consolidate();
    assert_eq!(space.stats().versions, 0);
    linear(&mut space);
}

#[test]
fn a_linear_region_is_protected_whole_though_some_of_it_is_idle() {
    on_all!(linear_alone);
    on_all!(linear_of_another);
}

fn idle_copy_on_write<F: Format>(format: F) {
    let hal = HeapHal::new();
    let memory = SharedMemory::new(&hal, KIB4).expect("memory");
    let mut space = new_space(&hal, format);
    space.map_private(gpa(0), &memory, 0, KIB4, RW).expect("free");
    read(&space, 0);
    scan(&mut space, &mut [0], 1);
    let copied = Ok(FaultOutcome::Copied(LeafSize::Size4K));
    assert_eq!(space.handle_page_fault(gpa(0), MappingFlags::WRITE), copied);
}

#[test]
fn a_write_to_an_idle_page_copies_it_at_once() {
    on_all!(idle_copy_on_write);
}

#[test]
fn populating_ahead_is_no_use() {
    let hal = HeapHal::new();
    let mut space = space(&hal);
    space.map_alloc_with(gpa(0), 2 * KIB4, RW, SMALL).expect("free");
    let mut ages = [0; 2];
    scan(&mut space, &mut ages, 1);
    assert_eq!(space.populate(gpa(0), 2 * KIB4), Ok(0));
    assert_eq!(scan(&mut space, &mut ages, 1).len(), 2);
}

#[test]
fn wrong_arguments_are_named() {
    let hal = HeapHal::new();
    let mut space = space(&hal);
    space.map_alloc_with(gpa(0), 2 * KIB4, RW, SMALL).expect("free");
    let mut ages = [7; 2];
    let result = space.scan_idle(gpa(0), 3 * KIB4, &mut ages, 1, |_, _| panic!("nothing is asked"));
    assert_eq!(result, Err(ScanError::AgesTooShort { needed: 3, given: 2 }));
    let result = space.scan_idle(gpa(8 * GIB1), KIB4, &mut ages, 1, |_, _| panic!("nothing is asked"));
    assert!(matches!(result, Err(ScanError::BadRange(BadRange::OutsideSpace { .. }))));
    assert_eq!(ages, [7; 2]);
    let _child = space.fork(3).expect("memory");
    hal.fail_after(Some(0));
    let result = space.scan_idle(gpa(0), 2 * KIB4, &mut ages, 1, |_, _| panic!("nothing is asked"));
    hal.fail_after(None);
    assert_eq!((result, ages), (Err(ScanError::OutOfMemory), [7; 2]));
    assert_eq!(scan(&mut space, &mut ages, 1), []);
}
