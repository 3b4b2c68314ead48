//! What a space leaves in its ring.

#![expect(unsafe_code, reason = "a host with a clock of its own")]

use super::{Event, FaultAnswer, InvalidationScope, Operation, Refusal, Ring, Traced, Tracer, What};
use crate::addr::{GuestPhysAddr, HostPhysAddr, HostPhysRange};
use crate::counters::{Counted, Counters};
use crate::device::DeviceId;
use crate::flags::{LeafSize, MappingFlags};
use crate::format::Format;
use crate::format::ept::Ept;
use crate::format::gstage::Gstage;
use crate::format::npt::Npt;
use crate::format::stage2::Stage2;
use crate::hal::{CacheMaintenance, Hal};
use crate::space::{AddrSpace, AllocOptions, PagerBackend, SharedMemory};
use crate::table::LogUnit;
use crate::test_util::{HeapHal, MemoryPager};
use crate::tlb::{Invalidation, Reach, TableKind};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::vec::Vec;

const RW: MappingFlags = MappingFlags::READ.union(MappingFlags::WRITE);

fn gpa(address: u64) -> GuestPhysAddr {
    GuestPhysAddr::new(address)
}

fn memory(events: usize) -> Vec<AtomicU64> {
    (0..8 * (events + 1)).map(|_| AtomicU64::new(0)).collect()
}

/// A heap whose clock goes on by one whenever it is asked.
#[derive(Default)]
struct Clock {
    frames: HeapHal,
    time: AtomicU64,
}

// SAFETY: every promise is kept by the heap.
unsafe impl Hal for Clock {
    fn alloc_frames(&self, count: usize, align: usize) -> Option<HostPhysAddr> {
        self.frames.alloc_frames(count, align)
    }

    unsafe fn dealloc_frames(&self, start: HostPhysAddr, count: usize) {
        // SAFETY: the same contract.
        unsafe { self.frames.dealloc_frames(start, count) }
    }

    fn phys_to_virt(&self, hpa: HostPhysAddr) -> *mut u8 {
        self.frames.phys_to_virt(hpa)
    }

    fn invalidate(&self, invalidation: &Invalidation<'_>) {
        self.frames.invalidate(invalidation);
    }

    fn trace_time(&self) -> u64 {
        self.time.fetch_add(1, Ordering::Relaxed)
    }
}

fn cpu_3() -> usize {
    3
}

type Host<'h> = Traced<'h, &'h Clock>;

fn whats(ring: &Ring<'_>) -> Vec<What> {
    ring.events().map(|(_, event)| event.what).collect()
}

/// A tag that the format has.
fn tag<F: Format + Default>() -> u16 {
    if F::default().tag_bits() == 0 { 0 } else { 5 }
}

/// Runs `run` on an empty space of 4 GiB, and returns its events, those of its end included.
fn events_of<F: Format + Default>(run: impl FnOnce(&mut AddrSpace<Host<'_>, F>)) -> Vec<Event> {
    let (memory, clock) = (memory(256), Clock::default());
    let ring = Ring::new(&memory);
    let host = Traced::new(&clock, &ring, cpu_3 as fn() -> usize);
    let mut space =
        AddrSpace::<_, F>::with_format(host, F::default(), gpa(0), 4 << 30, tag::<F>()).expect("a root");
    run(&mut space);
    drop(space);
    assert!(ring.recorded() < 256, "all of them are there");
    ring.events().map(|(_, event)| event).collect()
}

fn operation(operation: Operation, start: u64, size: u64, result: Result<u64, Refusal>) -> What {
    What::Operation { operation, start: gpa(start), size, result }
}

#[test]
fn faults_operations_and_invalidations_are_told_in_order_with_time_and_place() {
    fn check<F: Format + Default>() {
        let root = std::cell::Cell::new(HostPhysAddr::new(0));
        let events = events_of::<F>(|space| {
            root.set(space.root());
            space.map_alloc(gpa(0x1000), 0x4000, RW, false).expect("free");
            space.handle_page_fault(gpa(0x2345), MappingFlags::WRITE).expect("lazy");
            space.unmap(gpa(0x2000), 0x1000).expect("mapped");
            assert!(space.handle_page_fault(gpa(0x2345), MappingFlags::READ).is_err());
        });
        let found: Vec<_> = events.iter().map(|event| event.what).collect();
        let fault = |access, answer, leaf| What::Fault { gpa: gpa(0x2345), access, answer, leaf };
        let (all, ranges) = (Reach::AllCpus, InvalidationScope::Ranges);
        let end = What::Invalidation { scope: InvalidationScope::Space, reach: all, start: gpa(0), size: 0 };
        let ranges = What::Invalidation { scope: ranges, reach: all, start: gpa(0x2000), size: 0x1000 };
        // Some formats ask for all of the space, as nothing less reaches a table that went away.
        let one = if found.get(2) == Some(&end) { end } else { ranges };
        assert!(F::TABLE != TableKind::Stage2 || one == ranges);
        assert_eq!(
            found,
            [
                operation(Operation::MapAlloc, 0x1000, 0x4000, Ok(0)),
                fault(MappingFlags::WRITE, FaultAnswer::Populated, Some(LeafSize::Size4K)),
                one,
                operation(Operation::Unmap, 0x2000, 0x1000, Ok(0)),
                fault(MappingFlags::READ, FaultAnswer::NoRegion, None),
                operation(Operation::Drop, 0, 4 << 30, Ok(0)),
                end,
            ]
        );
        assert!(events.iter().all(|event| (event.cpu, event.tag, event.root) == (3, tag::<F>(), root.get())));
        // The clock is asked twice for each event, and the invalidation lies inside of the unmapping.
        let times: Vec<_> = events.iter().map(|event| (event.begin, event.end)).collect();
        assert_eq!(times, [(0, 1), (2, 3), (5, 6), (4, 7), (8, 9), (10, 11), (12, 13)]);
    }
    check::<Stage2>();
    check::<Ept>();
    check::<Npt>();
    check::<Gstage>();
}

#[test]
fn every_operation_leaves_one_event_with_what_it_returned() {
    let (memory, clock) = (memory(256), Clock::default());
    let ring = Ring::new(&memory);
    let host = || Traced::new(&clock, &ring, cpu_3 as fn() -> usize);
    let backend = PagerBackend(MemoryPager::new());
    let shared = SharedMemory::new(host(), 0x10000).expect("memory");
    let mut space =
        AddrSpace::<_, Ept, _>::with_backend(host(), Ept::default(), gpa(0), 1 << 30, 1, &backend)
            .expect("a root");
    let page = HostPhysAddr::new(0x8_0000_0000);
    space.map_linear(gpa(0), page, 0x1000, RW).expect("free");
    space.map_alloc(gpa(0x10000), 0x4000, RW, true).expect("free");
    space.map_trap(gpa(0x20000), 0x1000, DeviceId(1)).expect("free");
    space.map_shared(gpa(0x30000), &shared, 0, 0x1000, RW, true).expect("free");
    space.map_private(gpa(0x40000), &shared, 0, 0x1000, RW).expect("free");
    space.map_paged(gpa(0x60000), 1, 0, 0x3000, RW).expect("free");
    space.protect(gpa(0x10000), 0x1000, MappingFlags::READ).expect("mapped");
    let mut debt = space.defer();
    debt.protect(gpa(0x10000), 0x1000, RW).expect("mapped");
    debt.unmap(gpa(0), 0x1000).expect("mapped");
    debt.discharge();
    assert_eq!(space.migrate(gpa(0x10000), 0x2000), Ok(2));
    assert_eq!(space.discard(gpa(0x10000), 0x1000), Ok(1));
    assert_eq!(space.populate(gpa(0x10000), 0x4000), Ok(1));
    assert_eq!(space.collapse(gpa(0x10000), 0x4000), Ok(0));
    space.pin(gpa(0x10000), 0x1000).expect("memory");
    space.unpin(gpa(0x10000), 0x1000).expect("pinned");
    space.start_dirty_log(gpa(0x10000), 0x4000, LogUnit::Page).expect("mapped");
    space.memory().write(gpa(0x11000), &[1]).expect("memory");
    assert_eq!(space.collect_dirty(gpa(0x10000), 0x4000, |_| {}), Ok(1));
    space.memory().write(gpa(0x12000), &[1]).expect("memory");
    assert_eq!(space.collect_logged([gpa(0x12000), gpa(0)], |_| {}), 1);
    space.stop_dirty_log(gpa(0x10000), 0x4000).expect("logged");
    let mut ages = [0; 4];
    space.scan_idle(gpa(0x10000), 0x4000, &mut ages, 255, |_, _| {}).expect("room");
    space.populate(gpa(0x60000), 0x3000).expect("memory");
    assert_eq!(space.page_out(gpa(0x60000), 0x2000).expect("paged").pages, 2);
    assert_eq!(space.evict(1, 100).pages, 1);
    space.set_in_children(gpa(0x20000), 0x1000, false).expect("mapped");
    let fork = space.fork(2).expect("memory");
    drop(fork);
    let snapshot = space.snapshot().expect("memory");
    space.reset(&snapshot).expect("the same");
    drop(snapshot);
    space.consolidate();
    space.clear().expect("nothing is pinned");
    drop(space);

    let done: Vec<_> = whats(&ring)
        .into_iter()
        .filter_map(|what| match what {
            What::Operation { operation, result, .. } => Some((operation, result.expect("done"))),
            _ => None,
        })
        .collect();
    use Operation as O;
    assert_eq!(
        done,
        [
            (O::MapLinear, 0),
            (O::MapAlloc, 0),
            (O::MapTrap, 0),
            (O::MapShared, 0),
            (O::MapPrivate, 0),
            (O::MapPaged, 0),
            (O::Protect, 0),
            (O::Protect, 0),
            (O::Unmap, 0),
            (O::Migrate, 2),
            (O::Discard, 1),
            (O::Populate, 1),
            (O::Collapse, 0),
            (O::Pin, 0),
            (O::Unpin, 0),
            (O::StartDirtyLog, 0),
            (O::CollectDirty, 1),
            (O::CollectLogged, 1),
            (O::StopDirtyLog, 0),
            (O::ScanIdle, 0),
            (O::Populate, 3),
            (O::PageOut, 2),
            (O::Evict, 1),
            (O::SetInChildren, 0),
            (O::Fork, 0),
            (O::Drop, 0),
            (O::Snapshot, 0),
            (O::Reset, 0),
            (O::Drop, 0),
            (O::Consolidate, 2),
            (O::Clear, 0),
            (O::Drop, 0),
        ]
    );
    let missing: Vec<_> =
        O::ALL.iter().filter(|name| done.iter().all(|(operation, _)| operation != *name)).collect();
    assert_eq!(missing, [&O::MapCustom, &O::PopulateAround], "they have tests of their own");
}

#[test]
fn refusals_are_told_with_the_arguments_as_they_were() {
    let events = events_of::<Ept>(|space| {
        space.map_alloc(gpa(0x1000), 0x2000, RW, true).expect("free");
        space.pin(gpa(0x1000), 0x1000).expect("memory");
        assert!(space.map_alloc(gpa(0x1000), 0x1000, RW, false).is_err());
        assert!(space.map_alloc(gpa(u64::MAX), u64::MAX, RW, false).is_err());
        assert!(space.map_custom(gpa(0x8000), 0, 1, 0x1000, RW).is_err());
        assert!(space.unmap(gpa(0x1000), 0x1000).is_err());
        assert!(space.protect(gpa(0x8000), 0x1000, RW).is_err());
        assert!(space.clear().is_err());
        assert!(space.collect_dirty(gpa(0x1000), 0x1000, |_| {}).is_err());
        assert!(space.pin(gpa(0x8000), 0x1000).is_err());
        space.hal().host().frames.limit_in_use(Some(0));
        assert!(space.map_alloc(gpa(0x8000), 0x1000, RW, true).is_err());
    });
    let refused: Vec<_> = events
        .iter()
        .filter(|event| matches!(event.what, What::Operation { result: Err(_), .. }))
        .map(|event| event.what)
        .collect();
    assert_eq!(
        refused,
        [
            operation(Operation::MapAlloc, 0x1000, 0x1000, Err(Refusal::AlreadyThere)),
            operation(Operation::MapAlloc, u64::MAX, u64::MAX, Err(Refusal::BadArgument)),
            operation(Operation::MapCustom, 0x8000, 0x1000, Err(Refusal::BadArgument)),
            operation(Operation::Unmap, 0x1000, 0x1000, Err(Refusal::Pinned)),
            operation(Operation::Protect, 0x8000, 0x1000, Err(Refusal::NotMapped)),
            operation(Operation::Clear, 0, 4 << 30, Err(Refusal::Pinned)),
            operation(Operation::CollectDirty, 0x1000, 0x1000, Err(Refusal::NotSuited)),
            operation(Operation::Pin, 0x8000, 0x1000, Err(Refusal::NotMapped)),
            operation(Operation::MapAlloc, 0x8000, 0x1000, Err(Refusal::OutOfMemory)),
        ]
    );
}

#[test]
fn the_window_around_a_fault_is_an_operation_inside_of_it() {
    let events = events_of::<Stage2>(|space| {
        let options =
            AllocOptions { populate: false, largest_leaf: LeafSize::Size4K, fault_around: LeafSize::Size2M };
        space.map_alloc_with(gpa(0x20_0000), 0x10_0000, RW, options).expect("free");
        space.handle_page_fault(gpa(0x25_0000), MappingFlags::READ).expect("lazy");
    });
    let [_, around, fault, ..] = &events[..] else { panic!("{events:?}") };
    // The leaf of the fault itself was there before.
    assert_eq!(around.what, operation(Operation::PopulateAround, 0x20_0000, 0x10_0000, Ok(255)));
    assert!(matches!(fault.what, What::Fault { answer: FaultAnswer::Populated, .. }));
    assert!(fault.begin < around.begin && around.end < fault.end);
}

#[test]
fn what_is_no_fault_of_the_guest_leaves_none() {
    let events = events_of::<Ept>(|space| {
        space.map_alloc(gpa(0), 0x4000, RW, false).expect("free");
        space.memory().write(gpa(0x1000), &[1; 0x2000]).expect("memory");
        space.populate(gpa(0), 0x4000).expect("memory");
    });
    assert!(!events.iter().any(|event| matches!(event.what, What::Fault { .. })), "{events:?}");
}

/// A host that counts how often it is asked for what, and hands everything on.
#[derive(Default)]
struct Asked {
    clock: Clock,
    counters: Counters,
    hooks: AtomicUsize,
}

// SAFETY: every promise is kept by the heap.
unsafe impl Hal for Asked {
    fn alloc_frames(&self, count: usize, align: usize) -> Option<HostPhysAddr> {
        self.clock.alloc_frames(count, align)
    }

    unsafe fn dealloc_frames(&self, start: HostPhysAddr, count: usize) {
        // SAFETY: the same contract.
        unsafe { self.clock.dealloc_frames(start, count) }
    }

    fn phys_to_virt(&self, hpa: HostPhysAddr) -> *mut u8 {
        self.clock.phys_to_virt(hpa)
    }

    fn linear_to_virt(&self, _range: HostPhysRange) -> Option<*mut u8> {
        self.hooks.fetch_add(1, Ordering::Relaxed);
        None
    }

    fn invalidate(&self, _invalidation: &Invalidation<'_>) {
        self.hooks.fetch_add(0x10, Ordering::Relaxed);
    }

    fn maintain_cache(&self, _maintenance: &CacheMaintenance) {
        self.hooks.fetch_add(0x100, Ordering::Relaxed);
    }

    fn maintain_linear_cache(&self, _start: *mut u8, _maintenance: &CacheMaintenance) {
        self.hooks.fetch_add(0x1000, Ordering::Relaxed);
    }

    fn publish(&self) {
        self.hooks.fetch_add(0x1_0000, Ordering::Relaxed);
    }

    fn is_protected(&self, _range: HostPhysRange) -> bool {
        self.hooks.fetch_add(0x10_0000, Ordering::Relaxed);
        true
    }

    fn table_stored(&self, _entry: HostPhysAddr, _value: u64) {
        self.hooks.fetch_add(0x100_0000, Ordering::Relaxed);
    }

    unsafe fn zero_frames(&self, _start: HostPhysAddr, _count: usize) {
        self.hooks.fetch_add(0x1000_0000, Ordering::Relaxed);
    }

    fn counters(&self) -> Option<&Counters> {
        Some(&self.counters)
    }

    fn trace_time(&self) -> u64 {
        77
    }
}

#[test]
fn a_traced_host_hands_everything_on() {
    let (host, memory) = (Asked::default(), memory(1));
    let cpu_9: fn() -> usize = || 9;
    let traced = Traced::new(&host, &Ring::new(&memory), cpu_9);
    let range = HostPhysRange::new(HostPhysAddr::new(0), 0x1000).expect("valid");
    let maintenance =
        CacheMaintenance { start: range.start(), frames: 1, actions: crate::hal::CacheActions::all() };
    assert!(traced.linear_to_virt(range).is_none() && traced.is_protected(range));
    traced.invalidate(&Invalidation {
        root: 0,
        scope: crate::Scope::Space,
        reach: Reach::AllCpus,
        table: TableKind::Ept,
        features: crate::TlbFeatures::empty(),
    });
    traced.maintain_cache(&maintenance);
    traced.maintain_linear_cache(core::ptr::null_mut(), &maintenance);
    traced.publish();
    traced.table_stored(range.start(), 0);
    // SAFETY: this host does nothing.
    unsafe { traced.zero_frames(range.start(), 1) };
    assert_eq!(host.hooks.load(Ordering::Relaxed), 0x1111_1111);
    assert!(core::ptr::eq(traced.counters().expect("counted"), &host.counters));
    assert!(core::ptr::eq(*traced.host(), &host));
    assert!(traced.is_same_host(&Traced::new(&host, &traced.ring(), cpu_9)));
    let frame = traced.alloc_frames(1, 1).expect("a frame");
    assert_eq!((host.clock.frames.in_use(), traced.phys_to_virt(frame)), (1, host.phys_to_virt(frame)));
    // SAFETY: it was taken just now.
    unsafe { traced.dealloc_frames(frame, 1) };
    assert_eq!(host.clock.frames.in_use(), 0);

    // Tracers and times go through references and counters.
    let counted: Counted<_, 1> = Counted::new(&traced, cpu_3);
    let reference = &counted;
    let tracer = Hal::tracer(&reference).expect("traced");
    assert_eq!((tracer.cpu(), tracer.ring().capacity(), Hal::trace_time(&reference)), (9, 1, 77));
    assert!(Counted::<_, 1>::new(&host, cpu_3 as fn() -> usize).tracer().is_none());
}

#[test]
fn without_a_tracer_nobody_asks_for_the_time() {
    let clock = Clock::default();
    let mut space =
        AddrSpace::<_, Ept>::with_format(&clock, Ept::default(), gpa(0), 1 << 30, 1).expect("a root");
    assert!(Hal::tracer(space.hal()).is_none());
    space.map_alloc(gpa(0), 0x4000, RW, true).expect("free");
    space.unmap(gpa(0), 0x4000).expect("mapped");
    assert!(space.handle_page_fault(gpa(0), MappingFlags::READ).is_err());
    drop(space);
    assert_eq!(clock.time.load(Ordering::Relaxed), 0);
}

#[test]
fn the_default_clock_goes_on() {
    let (host, memory) = (HeapHal::new(), memory(4));
    let times: Vec<_> = (0..3).map(|_| host.trace_time()).collect();
    assert!(times.is_sorted(), "{times:?}");
    assert!(cfg!(miri) || times[0] < times[2], "{times:?}");
    let tracer: Tracer<'_> = Ring::new(&memory).on_cpu(70_000);
    assert_eq!(tracer.cpu(), 70_000_u32 as u16);
}
