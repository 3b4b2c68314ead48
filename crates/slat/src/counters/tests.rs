//! Each counter, and that nothing is counted twice or on the wrong CPU.

use super::*;
use crate::addr::GuestPhysRange;
use crate::device::{DeviceAccess, DeviceId};
use crate::flags::MappingFlags;
use crate::format::stage2::Stage2;
use crate::space::tests::{KIB4, MIB2, RW, RWX, gpa, hpa};
use crate::space::{AddrSpace, AllocOptions};
use crate::test_util::{Event, HeapHal};
use crate::tlb::TagPool;
use std::string::ToString;
use std::sync::atomic::AtomicUsize;
use std::vec::Vec;

type Host<'h, N> = Counted<&'h HeapHal, 2, N>;

fn space<'h, N: Fn() -> usize>(hal: &'h HeapHal, cpu: N) -> AddrSpace<Host<'h, N>, Stage2> {
    AddrSpace::with_format(Counted::new(hal, cpu), Stage2::default(), gpa(0), 8 << 30, 5).expect("a root")
}

/// The numbers in the order of the fields.
fn list(totals: Totals) -> [u64; 24] {
    [
        totals.populated_4k,
        totals.populated_2m,
        totals.populated_1g,
        totals.spurious,
        totals.marked,
        totals.copied,
        totals.made_writable,
        totals.unshared,
        totals.retried,
        totals.trapped,
        totals.outside_space,
        totals.no_region,
        totals.permission,
        totals.no_such_page,
        totals.bad_frame,
        totals.out_of_memory,
        totals.ranges_on_all_cpus,
        totals.ranges_on_this_cpu,
        totals.space_on_all_cpus,
        totals.space_on_this_cpu,
        totals.all_spaces_on_all_cpus,
        totals.all_spaces_on_this_cpu,
        totals.frames_taken,
        totals.frames_returned,
    ]
}

/// Every way in which a fault can end.
fn answers() -> [Result<FaultOutcome, FaultError>; 16] {
    let (at, host) = (gpa(0x1000), hpa(0x1000));
    let range = GuestPhysRange::new(at, KIB4).expect("valid");
    let access = MappingFlags::READ;
    let device = DeviceAccess { device: DeviceId(3), offset: 0, access, width: None };
    [
        Ok(FaultOutcome::Populated(LeafSize::Size4K)),
        Ok(FaultOutcome::Populated(LeafSize::Size2M)),
        Ok(FaultOutcome::Populated(LeafSize::Size1G)),
        Ok(FaultOutcome::Spurious),
        Ok(FaultOutcome::Marked),
        Ok(FaultOutcome::Copied(LeafSize::Size4K)),
        Ok(FaultOutcome::MadeWritable),
        Ok(FaultOutcome::Unshared),
        Ok(FaultOutcome::Retry),
        Ok(FaultOutcome::Trap(device)),
        Err(FaultError::OutsideSpace { gpa: at, space: range }),
        Err(FaultError::NoRegion(at)),
        Err(FaultError::Permission { gpa: at, access, region: range, allowed: access }),
        Err(FaultError::NoSuchPage(at)),
        Err(FaultError::BadFrame { gpa: at, hpa: host }),
        Err(FaultError::OutOfMemory(at)),
    ]
}

#[test]
fn each_end_of_a_fault_has_a_counter_of_its_own() {
    for (index, answer) in answers().iter().enumerate() {
        let counters = Counters::new();
        counters.fault(answer);
        counters.fault(answer);
        let mut wanted = [0; 24];
        wanted[index] = 2;
        let totals = counters.snapshot();
        assert_eq!(list(totals), wanted, "{answer:?}");
        assert_eq!(totals.faults(), 2, "{answer:?}");
        assert_eq!(totals.populated(), if index < 3 { 2 } else { 0 }, "{answer:?}");
        assert_eq!(totals.refused(), if answer.is_err() { 2 } else { 0 }, "{answer:?}");
        assert_eq!(totals.invalidations(), (0, 0));
    }
}

#[test]
fn each_invalidation_is_counted_by_what_and_where() {
    let ranges = [GuestPhysRange::new(gpa(0), KIB4).expect("valid")];
    let ranges = Scope::Ranges { ranges: &ranges, stride: LeafSize::Size4K };
    let mut index = 16;
    for scope in [ranges, Scope::Space, Scope::AllSpaces] {
        for (reach, wanted) in [(Reach::AllCpus, (3, 0)), (Reach::ThisCpu, (0, 3))] {
            let counters = Counters::default();
            (0..3).for_each(|_| counters.invalidation(scope, reach));
            let mut all = [0; 24];
            all[index] = 3;
            assert_eq!(list(counters.snapshot()), all, "{scope:?} {reach:?}");
            assert_eq!(counters.snapshot().invalidations(), wanted);
            assert_eq!(counters.snapshot().faults(), 0);
            index += 1;
        }
    }
}

/// Totals in which every number is another one: the first is `first`, then one more each.
fn all_different(first: u64) -> Totals {
    let next = core::cell::Cell::new(first);
    let number = || next.replace(next.get() + 1);
    Totals {
        populated_4k: number(),
        populated_2m: number(),
        populated_1g: number(),
        spurious: number(),
        marked: number(),
        copied: number(),
        made_writable: number(),
        unshared: number(),
        retried: number(),
        trapped: number(),
        outside_space: number(),
        no_region: number(),
        permission: number(),
        no_such_page: number(),
        bad_frame: number(),
        out_of_memory: number(),
        ranges_on_all_cpus: number(),
        ranges_on_this_cpu: number(),
        space_on_all_cpus: number(),
        space_on_this_cpu: number(),
        all_spaces_on_all_cpus: number(),
        all_spaces_on_this_cpu: number(),
        frames_taken: number(),
        frames_returned: number(),
    }
}

#[test]
fn sums_are_those_of_every_number() {
    let (one, other) = (all_different(1), all_different(100));
    let wanted: Vec<u64> = (0..24).map(|index| 101 + 2 * index).collect();
    assert_eq!(list(one + other).to_vec(), wanted);
    assert_eq!([one, other].into_iter().sum::<Totals>(), one + other);
    assert_eq!([one, other, one].into_iter().sum::<Totals>(), one + one + other);
    assert_eq!(core::iter::empty().sum::<Totals>(), Totals::default());
    assert_eq!(all_different(1).populated(), 1 + 2 + 3);
    assert_eq!(all_different(1).refused(), 11 + 12 + 13 + 14 + 15 + 16);
    assert_eq!(all_different(1).faults(), (1..=16).sum());
    assert_eq!(all_different(1).invalidations(), (17 + 19 + 21, 18 + 20 + 22));
}

#[test]
fn totals_as_text_name_every_number() {
    let wanted = "136 faults: populated 1 x 4K, 2 x 2M, 3 x 1G; 4 spurious, 5 for marks, 6 copied, 7 made writable, 8 unshared, \
        9 to be repeated, 10 for devices, 81 refused\n\
        refused: 11 outside of the space, 12 in no region, 13 by permission, 14 without a page, 15 bad frames, 16 out of memory\n\
        invalidations on all CPUs and on one: 17 and 18 of ranges, 19 and 20 of a space, 21 and 22 of all spaces\n\
        frames: 23 taken, 24 given back\n";
    assert_eq!(all_different(1).to_string(), wanted);
}

#[test]
fn slots_do_not_share_cache_lines() {
    assert_eq!(align_of::<Counters>(), 128);
    assert_eq!(size_of::<[Counters; 2]>(), 2 * size_of::<Counters>());
}

#[test]
fn a_space_on_a_counted_host_has_statistics_of_its_own() {
    let hal = HeapHal::new();
    let mut one = space(&hal, || 0);
    let mut other = space(&hal, || 0);
    hal.record();
    one.map_alloc(gpa(0), MIB2, RWX, false).expect("free");
    let read_only = AllocOptions { largest_leaf: LeafSize::Size4K, ..AllocOptions::default() };
    one.map_alloc_with(gpa(GAP), 0x4000, MappingFlags::READ, read_only).expect("free");
    one.map_trap(gpa(2 * GAP), KIB4, DeviceId(1)).expect("free");
    other.map_alloc(gpa(0), KIB4, RW, true).expect("free");
    let fault = |at: u64, access| one.handle_page_fault(gpa(at), access);
    fault(0x1234, MappingFlags::WRITE).expect("a block");
    fault(0x1234, MappingFlags::WRITE).expect("spurious");
    fault(GAP, MappingFlags::READ).expect("a page");
    fault(2 * GAP + 8, MappingFlags::READ).expect("a device");
    fault(GAP, MappingFlags::WRITE).expect_err("read only");
    fault(3 * GAP, MappingFlags::READ).expect_err("a hole");
    fault(1 << 40, MappingFlags::READ).expect_err("outside");
    hal.fail_after(Some(0));
    fault(GAP + KIB4, MappingFlags::READ).expect_err("no memory");
    hal.fail_after(None);
    one.unmap(gpa(0), MIB2).expect("mapped");
    let totals = one.hal().totals();
    let wanted = Totals {
        populated_4k: 1,
        populated_2m: 1,
        spurious: 1,
        trapped: 1,
        permission: 1,
        no_region: 1,
        outside_space: 1,
        out_of_memory: 1,
        ranges_on_all_cpus: 1,
        ranges_on_this_cpu: 1,
        ..frames_of(totals)
    };
    assert_eq!(totals, wanted);
    assert_eq!(totals.faults(), 8);
    let events = hal.events();
    let seen = |reach| {
        let this =
            |event: &&Event| matches!(event, Event::InvalidateRanges(_, _, reached) if *reached == reach);
        events.iter().filter(this).count() as u64
    };
    assert_eq!(totals.invalidations(), (seen(Reach::AllCpus), seen(Reach::ThisCpu)), "as the host saw them");
    let of_other = other.hal().totals();
    assert_eq!(of_other, frames_of(of_other), "and no more");
    let taken = totals.frames_taken + of_other.frames_taken;
    assert_eq!(taken, hal.taken() as u64);
    assert_eq!((taken - totals.frames_returned) as usize, hal.in_use());
}

/// Where the next region of a test begins.
const GAP: u64 = 1 << 30;

#[test]
fn what_happens_on_a_cpu_is_counted_with_it_and_beyond_the_last_with_the_last() {
    let hal = HeapHal::new();
    let cpu = AtomicUsize::new(0);
    let mut space = space(&hal, || cpu.load(Ordering::Relaxed));
    space.map_alloc(gpa(0), 0x4000, RW, false).expect("free");
    let before: Vec<_> = space.hal().slots().iter().map(Counters::snapshot).collect();
    assert_eq!((list(before[1]), before[0].frames_taken), ([0; 24], hal.taken() as u64));
    for (page, number) in [0, 1, 2, usize::MAX].into_iter().enumerate() {
        cpu.store(number, Ordering::Relaxed);
        space.handle_page_fault(gpa(page as u64 * KIB4), MappingFlags::READ).expect("mapped");
    }
    let populated: Vec<_> = space.hal().slots().iter().map(|slot| slot.snapshot().populated_4k).collect();
    assert_eq!(populated, [1, 3]);
    assert_eq!(space.hal().totals().populated_4k, 4);
    assert!(core::ptr::eq(*space.hal().host(), &hal));
    // One frame of each fault, and two tables of the first.
    let frames: Vec<_> = space.hal().slots().iter().map(|slot| slot.snapshot().frames_taken).collect();
    assert_eq!(frames, [before[0].frames_taken + 3, 3]);
}

#[test]
fn the_window_around_a_fault_and_pages_populated_ahead_are_no_faults() {
    let hal = HeapHal::new();
    let mut space = space(&hal, || 0);
    let options =
        AllocOptions { populate: false, largest_leaf: LeafSize::Size4K, fault_around: LeafSize::Size2M };
    space.map_alloc_with(gpa(0), 0x4000, RW, options).expect("free");
    space.map_alloc(gpa(GAP), 0x4000, RW, false).expect("free");
    space.handle_page_fault(gpa(0), MappingFlags::READ).expect("mapped");
    space.populate(gpa(GAP), 0x4000).expect("memory");
    assert_eq!(space.stats().table.leaves_4k, 8);
    let totals = space.hal().totals();
    assert_eq!((totals.faults(), totals.populated_4k), (1, 1));
}

#[test]
fn a_reference_to_a_counted_host_counts_and_a_plain_host_does_not() {
    let hal = HeapHal::new();
    assert!(hal.counters().is_none());
    assert!(<&HeapHal as Hal>::counters(&&hal).is_none());
    let counted: Counted<&HeapHal, 1> = Counted::new(&hal, || 7);
    let by_reference = &counted;
    by_reference.counters().expect("counted").invalidation(Scope::Space, Reach::AllCpus);
    assert_eq!(counted.totals().space_on_all_cpus, 1);
    assert!(core::ptr::eq(counted.counters().expect("counted"), &counted.slots()[0]));
}

#[test]
fn everything_else_goes_through_to_the_host() {
    let hal = HeapHal::new();
    let counted: Counted<&HeapHal, 1> = Counted::new(&hal, || 0);
    hal.record();
    let start = counted.alloc_frames(2, 2).expect("memory");
    assert_eq!(counted.phys_to_virt(start), hal.phys_to_virt(start));
    // SAFETY: the frames were just taken.
    unsafe { counted.zero_frames(start, 2) };
    assert_eq!(hal.read(start, 2 * 4096), [0; 2 * 4096]);
    counted.publish();
    counted.table_stored(start, 3);
    let run = |start| crate::HostPhysRange::new(start, 4096).expect("valid");
    hal.protect(run(HostPhysAddr::new(0x9000)));
    assert!(counted.is_protected(run(HostPhysAddr::new(0x9000))) && !counted.is_protected(run(start)));
    let by_reference: &dyn Fn(HostPhysAddr) -> bool =
        &|start| <&Counted<_, 1> as Hal>::is_protected(&&counted, run(start));
    assert!(by_reference(HostPhysAddr::new(0x9000)) && !by_reference(start));
    let actions = crate::CacheActions::CLEAN_TO_POU;
    counted.maintain_cache(&CacheMaintenance { start, frames: 2, actions });
    // SAFETY: as above, and nobody uses them any more.
    unsafe { counted.dealloc_frames(start, 2) };
    let wanted = [
        Event::Alloc(start, 2),
        Event::Zeroed(start, 2),
        Event::Publish,
        Event::Store(start, 3),
        Event::Maintain(start, 2, actions),
        Event::Dealloc(start, 2),
    ];
    assert_eq!(hal.events(), wanted);
    assert_eq!((counted.totals().frames_taken, counted.totals().frames_returned), (2, 2));
    hal.fail_after(Some(0));
    assert_eq!(counted.alloc_frames(1, 1), None);
    assert_eq!(counted.totals().frames_taken, 2, "a refusal is no frame");
}

/// A host that has a pointer to the caller's memory, and notes which of its caches are maintained.
struct WithLinear {
    hal: HeapHal,
    maintained: std::sync::Mutex<Vec<(usize, CacheMaintenance)>>,
}

// SAFETY: every promise is kept by the host inside; nobody follows the made-up pointers.
unsafe impl Hal for WithLinear {
    fn alloc_frames(&self, count: usize, align: usize) -> Option<HostPhysAddr> {
        self.hal.alloc_frames(count, align)
    }
    unsafe fn dealloc_frames(&self, start: HostPhysAddr, count: usize) {
        // SAFETY: the same contract.
        unsafe { self.hal.dealloc_frames(start, count) }
    }
    fn phys_to_virt(&self, hpa: HostPhysAddr) -> *mut u8 {
        self.hal.phys_to_virt(hpa)
    }
    fn linear_to_virt(&self, range: crate::HostPhysRange) -> Option<*mut u8> {
        let near = range.end().as_u64() <= 1 << 20;
        near.then(|| core::ptr::without_provenance_mut(range.start().as_u64() as usize + 0x7000_0000))
    }
    fn maintain_linear_cache(&self, start: *mut u8, maintenance: &CacheMaintenance) {
        self.maintained.lock().expect("alive").push((start.addr(), *maintenance));
    }
}

#[test]
fn memory_of_the_callers_is_reached_through_the_host() {
    let host = WithLinear { hal: HeapHal::new(), maintained: std::sync::Mutex::default() };
    let counted: Counted<&WithLinear, 1> = Counted::new(&host, || 0);
    let run = |start| crate::HostPhysRange::new(HostPhysAddr::new(start), 4096).expect("valid");
    assert_eq!(counted.linear_to_virt(run(0x3000)).map(|pointer| pointer.addr()), Some(0x7000_3000));
    assert_eq!(counted.linear_to_virt(run(1 << 20)), None);
    let actions = crate::CacheActions::CLEAN_TO_POU;
    let maintenance = CacheMaintenance { start: HostPhysAddr::new(0x3000), frames: 1, actions };
    counted.maintain_linear_cache(core::ptr::without_provenance_mut(0x7000_3000), &maintenance);
    assert_eq!(*host.maintained.lock().expect("alive"), [(0x7000_3000, maintenance)]);
    let frame = counted.alloc_frames(1, 1).expect("memory");
    assert_eq!(counted.phys_to_virt(frame), host.hal.phys_to_virt(frame));
    // SAFETY: just taken.
    unsafe { counted.dealloc_frames(frame, 1) };
}

#[test]
fn the_end_of_a_space_and_of_a_generation_are_counted() {
    let hal = HeapHal::new();
    let counted: Counted<&HeapHal, 1> = Counted::new(&hal, || 0);
    hal.record();
    let tags = TagPool::new(&counted, 1, 1).expect("memory");
    for _ in 0..3 {
        // A single tag: each space begins a generation.
        let space: AddrSpace<&Counted<&HeapHal, 1>, Stage2> =
            AddrSpace::with_format(&counted, Stage2::default(), gpa(0), GAP, 0).expect("a root");
        space.activate(&tags, 0).expect("a CPU");
    }
    let events = hal.events();
    let seen = events.iter().filter(|event| matches!(event, Event::InvalidateAllSpaces(Reach::ThisCpu)));
    let seen = seen.count() as u64;
    assert!(seen > 0, "{events:?}");
    let totals = counted.totals();
    assert_eq!(totals, Totals { space_on_all_cpus: 3, all_spaces_on_this_cpu: seen, ..frames_of(totals) });
}

/// The totals with nothing but the frames.
fn frames_of(totals: Totals) -> Totals {
    let Totals { frames_taken, frames_returned, .. } = totals;
    Totals { frames_taken, frames_returned, ..Totals::default() }
}

#[test]
fn no_addition_is_lost_where_cpus_count_with_one_slot() {
    let counters = Counters::new();
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| (0..500).for_each(|_| counters.fault(&Ok(FaultOutcome::Spurious))));
        }
    });
    assert_eq!(counters.snapshot().spurious, 2000);
}

#[test]
fn statistics_of_a_space_as_text_name_every_number() {
    let table = crate::Census { leaves_4k: 1, leaves_2m: 2, leaves_1g: 3, table_frames: 4, owned_frames: 5 };
    let stats =
        crate::Stats { table, regions: 6, region_frames: 7, shared_frames: 1, spare_frames: 8, versions: 0 };
    let wanted = "leaves: 1 x 4K, 2 x 2M, 3 x 1G; 5 frames of the space's own\n\
        tables: 4 frames, 8 kept ready\n\
        regions: 6 in 8 frames\n";
    assert_eq!(stats.to_string(), wanted);
}
