//! Demand paging, alone and on many CPUs at once.

use super::*;
use crate::device::{AccessWidth, DeviceAccess, DeviceId};
use crate::error::{FaultError, PopulateError, TopUpError};
use crate::fault::{FaultCause, FaultOutcome, NestedPageFaultInfo};
use crate::space::AllocOptions;
use crate::test_util::Event;
use crate::tlb::Reach;
use std::sync::Barrier;

const SMALL: AllocOptions =
    AllocOptions { populate: false, largest_leaf: LeafSize::Size4K, fault_around: LeafSize::Size4K };

#[test]
fn a_fault_populates_once_and_a_second_one_keeps_the_data() {
    let hal = HeapHal::new();
    let mut space = space(&hal);
    space.map_alloc_with(gpa(0x4000), 0x2000, RWX, SMALL).expect("free");
    let root_and_regions = hal.in_use();
    assert_eq!(space.stats().table.table_frames, 2, "a lazy region takes no table");
    let populated = Ok(FaultOutcome::Populated(LeafSize::Size4K));
    assert_eq!(space.handle_page_fault(gpa(0x4abc), MappingFlags::WRITE), populated);
    let frame = space.translate(gpa(0x4000)).expect("populated");
    assert_eq!(hal.read(frame, 4096), vec![0; 4096], "nothing of the previous owner");
    assert_eq!(hal.in_use(), root_and_regions + 3, "two tables and the frame");

    hal.write(frame, b"guest data");
    hal.record();
    assert_eq!(space.handle_page_fault(gpa(0x4ffc), MappingFlags::READ), Ok(FaultOutcome::Spurious));
    assert_eq!(space.translate(gpa(0x4000)), Some(frame));
    assert_eq!(hal.read(frame, 10), b"guest data");
    let events = hal.events();
    let [Event::InvalidateRanges(ranges, LeafSize::Size4K, Reach::ThisCpu)] = &events[..] else {
        panic!("{events:?}");
    };
    assert_eq!(ranges[0].start(), gpa(0x4000));
}

#[test]
fn the_largest_leaf_that_fits_is_used() {
    let hal = HeapHal::new();
    let mut space = space(&hal);
    // From the middle of one 2 MiB block to the middle of another.
    space.map_alloc(gpa(MIB2 / 2), 3 * MIB2, RWX, false).expect("free");
    let fault = |at| space.handle_page_fault(gpa(at), MappingFlags::READ);
    assert_eq!(fault(MIB2 + 0x1234), Ok(FaultOutcome::Populated(LeafSize::Size2M)));
    assert_eq!(fault(MIB2 - 1), Ok(FaultOutcome::Populated(LeafSize::Size4K)), "the block leaves the region");
    hal.limit_runs(Some(511));
    assert_eq!(fault(2 * MIB2), Ok(FaultOutcome::Populated(LeafSize::Size4K)), "no large frame left");
    hal.limit_runs(None);
    assert_eq!(
        fault(2 * MIB2 + 0x1000),
        Ok(FaultOutcome::Populated(LeafSize::Size4K)),
        "beside a small leaf"
    );
    let stats = space.stats().table;
    assert_eq!((stats.leaves_2m, stats.leaves_4k), (1, 3));
    assert_eq!(stats.owned_frames, 512 + 3);
}

#[test]
fn a_fault_populates_the_window_around_it() {
    let hal = HeapHal::new();
    let mut space = space(&hal);
    let options = AllocOptions { fault_around: LeafSize::Size2M, ..SMALL };
    // The window is cut to the region: it begins 3 pages into one block and ends 2 pages into the next.
    space.map_alloc_with(gpa(0x3000), MIB2 - 0x1000, RWX, options).expect("free");
    let mut seen = Vec::new();
    let outcome = space.handle_page_fault_with(gpa(0x9000), MappingFlags::READ, |start, bytes| {
        assert_eq!(bytes.len(), 4096);
        seen.push(start.as_u64() / KIB4);
    });
    assert_eq!(outcome, Ok(FaultOutcome::Populated(LeafSize::Size4K)));
    assert_eq!(seen[0], 9, "the page of the fault comes first");
    seen.sort_unstable();
    assert_eq!(seen, (3..512).collect::<Vec<_>>(), "each page once");
    assert_eq!(space.stats().table.leaves_4k, 509);
    // Without memory for the window, the fault itself is still answered.
    hal.fail_after(Some(2));
    assert_eq!(
        space.handle_page_fault(gpa(MIB2 + 0x1fff), MappingFlags::READ),
        Ok(FaultOutcome::Populated(LeafSize::Size4K))
    );
    assert_eq!(space.stats().table.leaves_4k, 510);
    hal.fail_after(None);
    assert_eq!(
        space.handle_page_fault(gpa(MIB2), MappingFlags::READ),
        Ok(FaultOutcome::Populated(LeafSize::Size4K))
    );
    // A window that large leaves fill costs one leaf each.
    let options = AllocOptions { fault_around: LeafSize::Size1G, ..AllocOptions::default() };
    space.map_alloc_with(gpa(GIB1), 8 * MIB2, RWX, options).expect("free");
    assert_eq!(
        space.handle_page_fault(gpa(GIB1 + MIB2 + 5), MappingFlags::READ),
        Ok(FaultOutcome::Populated(LeafSize::Size2M))
    );
    assert_eq!(space.stats().table.leaves_2m, 8);
}

#[test]
fn contents_are_there_before_the_guest_sees_the_page() {
    let hal = HeapHal::new();
    let mut space = space(&hal);
    space.map_alloc_with(gpa(0x4000), 0x2000, RWX, SMALL).expect("free");
    hal.record();
    space
        .handle_page_fault_with(gpa(0x5678), MappingFlags::EXECUTE, |start, bytes| {
            assert_eq!((start, bytes.len()), (gpa(0x5000), 4096));
            assert!(bytes.iter().all(|byte| *byte == 0));
            assert_eq!(hal.events().iter().filter(|event| matches!(event, Event::Store(..))).count(), 0);
            bytes[..6].copy_from_slice(b"kernel");
        })
        .expect("a lazy page");
    let frame = space.translate(gpa(0x5000)).expect("populated");
    assert_eq!(hal.read(frame, 6), b"kernel");
    // The caches are clean before the leaf can be seen, and nothing is invalidated for a new page.
    let events = hal.events();
    let maintained =
        events.iter().position(|event| matches!(event, Event::Maintain(at, 1, _) if *at == frame));
    let linked = events.iter().rposition(|event| matches!(event, Event::Store(..)));
    assert!(maintained.is_some_and(|at| Some(at) < linked), "{events:?}");
    assert_eq!(events.last(), Some(&Event::Publish));
    assert!(
        !events.iter().any(|event| matches!(event, Event::InvalidateRanges(..) | Event::InvalidateSpace(_)))
    );
}

#[test]
fn pages_without_access_stay_where_they_are() {
    let hal = HeapHal::new();
    let mut space = space(&hal);
    space.map_alloc_with(gpa(0x4000), 0x2000, RWX, SMALL).expect("free");
    space.handle_page_fault(gpa(0x4000), MappingFlags::WRITE).expect("lazy");
    let frame = space.translate(gpa(0x4000)).expect("populated");
    hal.write(frame, b"kept");
    space.protect(gpa(0x4000), 0x2000, MappingFlags::empty()).expect("mapped");
    assert_eq!(space.translate(gpa(0x4000)), None);
    let refused = space.handle_page_fault(gpa(0x4000), MappingFlags::READ);
    assert!(matches!(refused, Err(FaultError::Permission { .. })), "{refused:?}");
    assert_eq!(space.stats().table.owned_frames, 1);
    space.protect(gpa(0x4000), 0x2000, RW).expect("mapped");
    assert_eq!(space.translate(gpa(0x4000)), Some(frame));
    assert_eq!(hal.read(frame, 4), b"kept");
}

#[test]
fn user_execution_is_separate_only_where_the_format_says_so() {
    let fetch = MappingFlags::EXECUTE | MappingFlags::USER;
    for (xnx, supervisor_only) in [(false, true), (true, false)] {
        let hal = HeapHal::new();
        let format = Stage2::new(Features { xnx, ..Features::BASELINE }, None).expect("in range");
        let mut space = Space::with_format(&hal, format, gpa(0), GIB1, 0).expect("a root");
        space.map_alloc(gpa(0), 0x1000, RW | MappingFlags::EXECUTE, false).expect("free");
        space.map_alloc(gpa(0x1000), 0x1000, RWX, false).expect("free");
        assert_eq!(space.handle_page_fault(gpa(0), fetch).is_ok(), supervisor_only);
        assert!(space.handle_page_fault(gpa(0), MappingFlags::EXECUTE).is_ok());
        assert!(space.handle_page_fault(gpa(0x1000), fetch).is_ok());
    }
}

#[test]
fn threads_that_fault_together_share_one_frame() {
    const THREADS: usize = 4;
    for largest_leaf in [LeafSize::Size4K, LeafSize::Size2M] {
        let hal = HeapHal::new();
        let mut space = space(&hal);
        let pages = if largest_leaf == LeafSize::Size4K { 600 } else { 8 };
        let step = largest_leaf.bytes();
        let options = AllocOptions { populate: false, largest_leaf, ..AllocOptions::default() };
        space.map_alloc_with(gpa(0), pages * step, RWX, options).expect("free");
        let before = hal.in_use();
        let barrier = Barrier::new(THREADS);
        let seen: Vec<Vec<_>> = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..THREADS)
                .map(|_| {
                    scope.spawn(|| {
                        let page = |index: u64| {
                            let at = gpa(index * step);
                            space.handle_page_fault(at, MappingFlags::WRITE).expect("lazy");
                            space.translate(at).expect("populated")
                        };
                        barrier.wait();
                        (0..pages).map(page).collect()
                    })
                })
                .collect();
            threads.into_iter().map(|thread| thread.join().expect("no panic")).collect()
        });
        assert!(seen.windows(2).all(|pair| pair[0] == pair[1]), "all threads see the same frames");
        let stats = space.stats().table;
        assert_eq!(stats.owned_frames, pages * step / KIB4);
        let tables = stats.table_frames - 2;
        assert_eq!(hal.in_use() as u64, before as u64 + stats.owned_frames + tables, "losers gave all back");
    }
}

#[test]
fn two_spaces_with_two_hosts_run_side_by_side() {
    let work = || {
        let hal = HeapHal::new();
        let mut space = space(&hal);
        for round in 0..50 {
            space.map_alloc(gpa(0), 4 * MIB2, RWX, round % 2 == 0).expect("free");
            for page in (0..4 * MIB2).step_by(0x1_1000) {
                space.handle_page_fault(gpa(page), MappingFlags::READ).expect("mapped");
            }
            space.unmap(gpa(MIB2 / 2), MIB2).expect("mapped");
            space.clear().expect("no pins");
        }
        let empty = space.stats();
        assert_eq!((empty.table.table_frames, empty.table.owned_frames, empty.regions), (2, 0, 0));
        drop(space);
        assert_eq!(hal.in_use(), 0);
        hal.taken()
    };
    let counts =
        std::thread::scope(|scope| [scope.spawn(work), scope.spawn(work)].map(|thread| thread.join()));
    let [a, b] = counts.map(|count| count.expect("no panic"));
    assert_eq!(a, b, "neither saw anything of the other");
}

#[test]
fn populating_ahead_saves_the_faults() {
    let hal = HeapHal::new();
    let mut space = space(&hal);
    space.map_alloc_with(gpa(0), 4 * KIB4, RWX, SMALL).expect("free");
    space.map_linear(gpa(4 * KIB4), hpa(0), KIB4, RW).expect("free");
    space.map_alloc_with(gpa(5 * KIB4), KIB4, MappingFlags::empty(), SMALL).expect("free");
    space.map_alloc(gpa(MIB2), 3 * MIB2, RWX, false).expect("free");
    space.handle_page_fault(gpa(KIB4), MappingFlags::READ).expect("lazy");
    assert_eq!(space.populate(gpa(0), 6 * KIB4), Ok(3));
    assert_eq!(space.populate(gpa(MIB2 + KIB4), MIB2), Ok(1024), "large leaves reach beyond the range");
    assert_eq!(space.populate(gpa(MIB2), 2 * MIB2), Ok(0));
    assert_eq!(space.handle_page_fault(gpa(2 * KIB4), MappingFlags::WRITE), Ok(FaultOutcome::Spurious));
    assert_eq!(space.populate(gpa(0), 7 * KIB4), Err(PopulateError::NotMapped(gpa(6 * KIB4))));
    hal.fail_after(Some(0));
    assert_eq!(space.populate(gpa(MIB2), 3 * MIB2), Err(PopulateError::OutOfMemory(gpa(3 * MIB2))));
    hal.fail_after(None);
}

#[test]
fn a_topped_up_fault_takes_only_the_guests_frame() {
    for format in formats() {
        let hal = HeapHal::new();
        let mut space = Space::with_format(&hal, format, gpa(0), 8 * GIB1, 0).expect("a root");
        space.map_alloc_with(gpa(0), 8 * GIB1, RWX, SMALL).expect("free");
        let tables = usize::from(format.geometry().levels) - 1;
        hal.fail_after(Some(1));
        assert_eq!(space.top_up(1), if tables > 1 { Err(TopUpError) } else { Ok(()) });
        hal.fail_after(None);
        assert_eq!(space.top_up(1), Ok(()));
        assert_eq!(space.stats().spare_frames, tables);
        hal.fail_after(Some(1));
        let fault = space.handle_page_fault(gpa(5 * GIB1), MappingFlags::READ);
        assert_eq!(fault, Ok(FaultOutcome::Populated(LeafSize::Size4K)), "{format:?}");
        assert_eq!(space.stats().spare_frames, 0, "the first fault of all needs every table");
        hal.fail_after(None);
        assert_eq!(space.top_up(usize::MAX), Ok(()), "as many as can be kept");
        let kept = space.stats().spare_frames;
        assert_eq!(kept, 32);
        space.clear().expect("no pins");
        assert_eq!(space.stats().spare_frames, 0);
        space.top_up(2).expect("memory");
    }
}

#[test]
fn a_fault_of_an_exit_is_answered_like_one_by_its_address() {
    let hal = HeapHal::new();
    let mut space = space(&hal);
    space.map_alloc_with(gpa(0x4000), 0x2000, RWX, SMALL).expect("free");
    space.map_trap(gpa(0x9000), 0x1000, DeviceId(3)).expect("free");
    let info = |at, access, width| NestedPageFaultInfo {
        gpa: gpa(at),
        gva: None,
        access,
        cause: FaultCause::NotPresent,
        walk: false,
        width,
    };
    let write = |at| info(at, MappingFlags::WRITE, None);
    assert_eq!(space.handle_nested_fault(&write(0x4abc)), Ok(FaultOutcome::Populated(LeafSize::Size4K)));
    let frame = space.translate(gpa(0x4000)).expect("populated");
    assert_eq!(hal.read(frame, 8), [0; 8]);
    let filled = space.handle_nested_fault_with(&write(0x5000), |at, bytes| {
        assert_eq!((at, bytes.len()), (gpa(0x5000), 4096));
        bytes.fill(7);
    });
    assert_eq!(filled, Ok(FaultOutcome::Populated(LeafSize::Size4K)));
    assert_eq!(hal.read(space.translate(gpa(0x5000)).expect("populated"), 8), [7; 8]);
    for width in [None, Some(AccessWidth::Word)] {
        let access = DeviceAccess { device: DeviceId(3), offset: 0x18, access: MappingFlags::READ, width };
        let answer = space.handle_nested_fault(&info(0x9018, MappingFlags::READ, width));
        assert_eq!(answer, Ok(FaultOutcome::Trap(access)));
    }
    assert_eq!(space.handle_nested_fault(&write(0x8000)), Err(FaultError::NoRegion(gpa(0x8000))));
}
