//! Forks and snapshots: what each space sees, what it costs, and that nothing is lost.

mod cut;
mod naive;

use super::*;
use crate::error::{ForkError, InheritError, ResetError};
use crate::fault::FaultOutcome;
use crate::space::{AllocOptions, SharedMemory};
use crate::test_util::Event;
use crate::tlb::Reach;

const READ: MappingFlags = MappingFlags::READ;
const WRITE: MappingFlags = MappingFlags::WRITE;
const SMALL: AllocOptions =
    AllocOptions { populate: true, largest_leaf: LeafSize::Size4K, fault_around: LeafSize::Size4K };

/// A space with memory at zero, every page of which holds its number.
fn filled<F: Format>(hal: &HeapHal, format: F, size: u64, options: AllocOptions) -> Space<'_, F> {
    let mut space = Space::with_format(hal, format, gpa(0), 8 * GIB1, 1).expect("a root");
    space.map_alloc_with(gpa(0), size, RW, options).expect("memory");
    (0..size / KIB4).for_each(|page| write(&space, page, page));
    space
}

fn write<F: Format>(space: &Space<'_, F>, page: u64, value: u64) {
    space.write_obj(gpa(page * KIB4), value).expect("memory");
}

fn read<F: Format>(space: &Space<'_, F>, page: u64) -> u64 {
    space.read_obj(gpa(page * KIB4)).expect("memory")
}

fn invalidations(events: &[Event]) -> usize {
    let all = |event: &&Event| {
        matches!(
            event,
            Event::InvalidateSpace(Reach::AllCpus) | Event::InvalidateRanges(_, _, Reach::AllCpus)
        )
    };
    events.iter().filter(all).count()
}

#[test]
fn a_fork_takes_three_frames_and_one_invalidation_whatever_the_size() {
    for size in [MIB2, 64 * MIB2] {
        for format in ept_formats() {
            let hal = HeapHal::new();
            let mut parent = filled(&hal, format, size, SMALL);
            let before = hal.in_use();
            hal.record();
            let child = parent.fork(2).expect("memory");
            assert_eq!(invalidations(&hal.events()), 1);
            assert_eq!(hal.in_use() - before, 3, "a root, the regions, and the version");
            hal.record();
            let again = parent.fork(3).expect("memory");
            assert_eq!(invalidations(&hal.events()), 0, "nothing was written since");
            assert_eq!(hal.in_use() - before, 5, "the same version");
            assert_eq!((parent.stats().versions, again.stats().versions), (1, 1));
            let snapshot = parent.snapshot().expect("memory");
            assert_eq!(hal.in_use() - before, 7, "it lacks nothing, so it is the same version again");
            drop((parent, child, again, snapshot));
            assert_eq!(hal.in_use(), 0);
        }
    }
}

#[test]
fn a_snapshot_says_what_it_is_of() {
    let hal = HeapHal::new();
    let snapshot = space(&hal).snapshot().expect("memory");
    assert!(format!("{snapshot:?}").starts_with("Snapshot { space: AddrSpace {"), "{snapshot:?}");
}

/// Where a table entry has permissions, this CPU may remember that nothing can be written through the shared one.
fn unshared<F: Format>(format: F) {
    let hal = HeapHal::new();
    let mut parent = filled(&hal, format, KIB4, SMALL);
    parent.map_linear(gpa(GIB1), hpa(0x10_0000), KIB4, RW).expect("free");
    let child = parent.fork(2).expect("memory");
    hal.record();
    assert_eq!(child.handle_page_fault(gpa(GIB1), WRITE), Ok(FaultOutcome::Unshared));
    let local = |event: &&Event| {
        matches!(
            event,
            Event::InvalidateSpace(Reach::ThisCpu) | Event::InvalidateRanges(_, _, Reach::ThisCpu)
        )
    };
    let wanted = F::TABLES_HAVE_PERMISSIONS || format.fences_new_entries();
    assert_eq!(hal.events().iter().filter(local).count(), usize::from(wanted));
}

#[test]
fn the_refusal_of_a_shared_table_is_forgotten() {
    on_all_formats!(unshared);
}

fn both_sides_write<F: Format>(format: F) {
    for options in [SMALL, AllocOptions { largest_leaf: LeafSize::Size2M, ..SMALL }] {
        let hal = HeapHal::new();
        let mut parent = filled(&hal, format, 2 * MIB2, options);
        let child = parent.fork(2).expect("memory");
        assert_eq!(child.translate(gpa(0x1000)), parent.translate(gpa(0x1000)), "one frame for both");
        assert_eq!(child.query(gpa(0x1000)).expect("there").flags, READ, "until one writes");
        write(&parent, 1, 100);
        write(&child, 2, 200);
        write(&child, 513, 300);
        for page in 0..1024 {
            let wanted = |own: &[(u64, u64)]| own.iter().find(|own| own.0 == page).map_or(page, |own| own.1);
            assert_eq!(read(&parent, page), wanted(&[(1, 100)]), "page {page} of the parent");
            assert_eq!(read(&child, page), wanted(&[(2, 200), (513, 300)]), "page {page} of the fork");
        }
        assert_eq!(child.stats().table.owned_frames, 2, "private pages");
        drop(parent);
        assert_eq!((read(&child, 1), read(&child, 2), read(&child, 1023)), (1, 200, 1023));
        drop(child);
        assert_eq!(hal.in_use(), 0);
    }
}

#[test]
fn each_of_two_spaces_keeps_what_it_writes_to_itself() {
    on_all_formats!(both_sides_write);
}

fn last_owner<F: Format>(format: F) {
    let hal = HeapHal::new();
    let mut parent = filled(&hal, format, MIB2, SMALL);
    let child = parent.fork(2).expect("memory");
    let frame = parent.translate(gpa(0x3000));
    drop(child);
    let fault = |page: u64| parent.handle_page_fault(gpa(page * KIB4), WRITE);
    assert_eq!(fault(3), Ok(FaultOutcome::MadeWritable), "nobody else has it");
    assert_eq!(parent.translate(gpa(0x3000)), frame);
    let fault = |page: u64| parent.handle_page_fault(gpa(page * KIB4), WRITE);
    assert!(matches!(fault(3), Ok(FaultOutcome::Spurious | FaultOutcome::Marked)));
    assert_eq!(parent.consolidate(), 1);
    assert_eq!(parent.stats().versions, 0);
    let stats = parent.stats();
    let counted = stats.table.owned_frames + stats.table.table_frames + stats.region_frames as u64;
    assert_eq!(
        (stats.table.owned_frames, hal.in_use() as u64),
        (512, counted),
        "nothing is left of the fork"
    );
    assert_eq!((read(&parent, 3), read(&parent, 4)), (3, 4));
    drop(parent);
    assert_eq!(hal.in_use(), 0);
}

#[test]
fn the_last_owner_takes_the_frame_over() {
    on_all_formats!(last_owner);
}

/// A server that forks, goes on, and forks again, with some forks alive at any time.
fn generations<F: Format>(format: F) {
    let hal = HeapHal::new();
    let mut parent = filled(&hal, format, MIB2, SMALL);
    let mut children = std::collections::VecDeque::new();
    let mut most = 0;
    for generation in 0..12 {
        children.push_back((generation, parent.fork(2).expect("memory")));
        write(&parent, generation % 3, 1000 + generation);
        if children.len() > 2 {
            children.pop_front();
        }
        for (born, child) in &children {
            for page in 0..3 {
                let last = (0..*born).rev().find(|other| other % 3 == page);
                assert_eq!(read(child, page), last.map_or(page, |last| 1000 + last), "generation {born}");
            }
        }
        if generation == 4 {
            most = hal.in_use();
        }
    }
    assert!(hal.in_use() <= most, "{} frames, {most} at first: old generations pile up", hal.in_use());
    assert!(parent.stats().versions <= 4);
    drop(children);
    drop(parent);
    assert_eq!(hal.in_use(), 0);
}

#[test]
fn generations_of_forks_do_not_pile_up() {
    on_all_formats!(generations);
}

fn resets<F: Format>(format: F) {
    let hal = HeapHal::new();
    let mut space = filled(&hal, format, 2 * MIB2, SMALL);
    let mut snapshot = space.snapshot().expect("memory");
    let mut in_use = None;
    for round in 0..3 {
        for page in [0, 5, 700] {
            write(&space, page, 9000 + page + round);
        }
        space.unmap(gpa(MIB2), KIB4).expect("mapped");
        space.map_alloc(gpa(GIB1), KIB4, RW, true).expect("free");
        hal.record();
        space.reset(&snapshot).expect("its own");
        let events = hal.events();
        assert_eq!(invalidations(&events), 1);
        let stores = events.iter().filter(|event| matches!(event, Event::Store(..))).count();
        assert!((stores as u64) < 64, "{stores} stores for a few pages");
        for page in [0, 5, 512, 700, 1023] {
            assert_eq!(read(&space, page), page);
        }
        assert_eq!(space.region(gpa(GIB1)), None, "the regions are those of then");
        let used = *in_use.get_or_insert(hal.in_use());
        assert_eq!(hal.in_use(), used, "round {round}");
    }
    let fork = snapshot.fork(7).expect("memory");
    write(&space, 3, 1);
    assert_eq!((read(&fork, 3), read(snapshot.space(), 3)), (3, 3));
    drop((snapshot, fork, space));
    assert_eq!(hal.in_use(), 0);
}

#[test]
fn a_space_goes_back_to_its_snapshot() {
    on_all_formats!(resets);
}

#[test]
fn what_a_fork_has_is_said_by_backend_and_by_request() {
    let hal = HeapHal::new();
    let shared = SharedMemory::new(&hal, 4 * KIB4).expect("memory");
    let mut parent = filled(&hal, ept_formats()[0], 64 * KIB4, SMALL);
    let at = |pages: u64| gpa(GIB1 + pages * KIB4);
    parent.map_shared(at(0), &shared, 0, 4 * KIB4, RW, true).expect("free");
    parent.map_linear(at(8), hpa(0x10_0000), 4 * KIB4, RW).expect("free");
    parent.map_trap(at(16), KIB4, crate::device::DeviceId(1)).expect("free");
    parent.map_linear(at(24), hpa(0x20_0000), 4 * KIB4, RW).expect("free");
    parent.set_in_children(at(24), 4 * KIB4, false).expect("mapped");
    parent.set_in_children(gpa(0x8000), 2 * KIB4, false).expect("mapped");
    assert!(matches!(parent.set_in_children(at(12), KIB4, false), Err(InheritError::NotMapped(_))));
    let child = parent.fork(2).expect("memory");
    assert_eq!(child.region(at(24)), None);
    assert_eq!(child.region(gpa(0x8000)), None);
    assert!(child.region(at(16)).is_some());
    assert!(child.translate(at(24)).is_none() && child.translate(gpa(0x9000)).is_none());
    assert_eq!(child.translate(gpa(0xa000)), parent.translate(gpa(0xa000)));
    assert_eq!(parent.translate(at(24)), Some(hpa(0x20_0000)), "the parent has it still");

    // A write goes to memory that both have.
    for space in [&parent, &child] {
        let outcome = space.handle_page_fault(at(8), WRITE);
        assert!(matches!(outcome, Ok(FaultOutcome::Unshared | FaultOutcome::Spurious)), "{outcome:?}");
        assert_eq!(space.query(at(8)).map(|leaf| (leaf.hpa, leaf.flags)), Ok((hpa(0x10_0000), RW)));
    }
    let page = GIB1 / KIB4;
    write(&parent, page + 1, 77);
    assert_eq!(read(&child, page + 1), 77, "shared memory");
    drop(shared);
    drop(parent);
    assert_eq!(read(&child, page + 1), 77, "which lives on");
    assert_eq!(read(&child, 3), 3);
    drop(child);
    assert_eq!(hal.in_use(), 0);
}

fn pinned<F: Format>(format: F) {
    let hal = HeapHal::new();
    let mut parent = filled(&hal, format, MIB2, SMALL);
    parent.pin(gpa(0x4000), 2 * KIB4).expect("memory");
    let frame = parent.translate(gpa(0x4000)).expect("pinned");
    let child = parent.fork(2).expect("memory");
    assert_eq!(parent.translate(gpa(0x4000)), Some(frame));
    assert_eq!(parent.query(gpa(0x4000)).expect("there").flags, RW, "no fault moves it");
    assert_ne!(child.translate(gpa(0x4000)), Some(frame));
    hal.write(frame, &123u64.to_le_bytes());
    assert_eq!((read(&parent, 4), read(&child, 4), read(&child, 5)), (123, 4, 5));
    assert_eq!(child.regions().map(|region| region.pins).max(), Some(0));
    // A page that is shared is copied before it is pinned.
    let shared = parent.translate(gpa(0x9000));
    parent.pin(gpa(0x9000), KIB4).expect("memory");
    assert_ne!(parent.translate(gpa(0x9000)), shared);
    assert!(matches!(
        parent.reset(&parent_snapshot(&mut filled(&hal, format, KIB4, SMALL))),
        Err(ResetError::Pinned(_))
    ));
    drop((parent, child));
    assert_eq!(hal.in_use(), 0);
}

fn parent_snapshot<'h, F: Format>(space: &mut Space<'h, F>) -> crate::Snapshot<&'h HeapHal, F, NoBackend> {
    space.snapshot().expect("memory")
}

#[test]
fn pinned_pages_stay_and_forks_get_copies() {
    on_all_formats!(pinned);
}

#[test]
fn what_cannot_be_forked_or_gone_back_to_is_refused() {
    let (hal, other) = (HeapHal::new(), HeapHal::new());
    let mut space = filled(&hal, npt_formats()[0], KIB4, SMALL);
    assert_eq!(space.fork(1 << 15).err(), Some(ForkError::TagTooWide { tag: 1 << 15, tag_bits: 6 }));
    assert_eq!(space.fork_with(&other, NoBackend, 2).err(), Some(ForkError::OtherHost));
    let elsewhere = filled(&other, npt_formats()[0], KIB4, SMALL).snapshot().expect("memory");
    assert_eq!(space.reset(&elsewhere).err(), Some(ResetError::OtherHost));
    let mut small = Space::with_format(&hal, npt_formats()[0], gpa(0), GIB1, 2).expect("a root");
    assert_eq!(space.reset(&small.snapshot().expect("memory")).err(), Some(ResetError::OtherShape));
    assert_eq!(read(&space, 0), 0);
}

fn failing<F: Format>(format: F) {
    let hal = HeapHal::new();
    let mut parent = filled(&hal, format, 2 * MIB2, AllocOptions { largest_leaf: LeafSize::Size2M, ..SMALL });
    parent.map_alloc(gpa(GIB1), KIB4, RW, true).expect("free");
    parent.set_in_children(gpa(GIB1), KIB4, false).expect("mapped");
    parent.pin(gpa(0x5000), KIB4).expect("memory");
    let table = parent.table.fingerprint();
    let before = hal.in_use();
    let mut allowed = 0;
    let child = loop {
        hal.fail_after(Some(allowed));
        match parent.fork(2) {
            Ok(child) => break child,
            Err(error) => assert_eq!(error, ForkError::OutOfMemory),
        }
        hal.fail_after(None);
        assert_eq!(hal.in_use(), before, "after {allowed} frames");
        assert_eq!(parent.table.fingerprint(), table, "bit for bit");
        allowed += 1;
    };
    assert!(allowed > 3);
    // A fault, too, leaves everything as it was if any of its frames is missing.
    hal.fail_after(None);
    let before = hal.in_use();
    let mut allowed = 0;
    loop {
        hal.fail_after(Some(allowed));
        let answer = child.handle_page_fault(gpa(MIB2 + 0x1000), WRITE);
        hal.fail_after(None);
        assert_eq!(read(&child, 513), 513);
        match answer {
            Ok(outcome) => break assert_eq!(outcome, FaultOutcome::Copied(LeafSize::Size4K)),
            Err(error) => assert_eq!(error, crate::FaultError::OutOfMemory(gpa(MIB2 + 0x1000))),
        }
        allowed += 1;
    }
    assert!(allowed > 0 && hal.in_use() > before);
    drop((parent, child));
    assert_eq!(hal.in_use(), 0);
}

#[test]
fn every_single_allocation_of_a_fork_may_fail() {
    on_all_formats!(failing);
}

/// With frames kept ready, a first write below tables that are shared takes the guest's own frame from the host and nothing
/// else, also where a large leaf is split for it.
fn topped_up<F: Format>(format: F) {
    for options in [SMALL, AllocOptions { largest_leaf: LeafSize::Size2M, ..SMALL }] {
        let hal = HeapHal::new();
        let mut parent = filled(&hal, format, MIB2, options);
        let child = parent.fork(2).expect("memory");
        hal.fail_after(Some(1));
        let unprepared = child.handle_page_fault(gpa(0x3000), WRITE);
        hal.fail_after(None);
        let mut other = parent.fork(3).expect("memory");
        other.top_up(1).expect("memory");
        hal.fail_after(Some(1));
        let prepared = other.handle_page_fault(gpa(0x3000), WRITE);
        hal.fail_after(None);
        assert_eq!(prepared, Ok(FaultOutcome::Copied(LeafSize::Size4K)));
        assert_eq!(unprepared, Err(crate::FaultError::OutOfMemory(gpa(0x3000))), "tables take frames, too");
        other.clear().expect("nothing is pinned");
        drop((parent, child, other));
        assert_eq!(hal.in_use(), 0);
    }
}

#[test]
fn a_first_write_takes_one_frame_from_the_host_if_tables_are_kept_ready() {
    on_all_formats!(topped_up);
}
