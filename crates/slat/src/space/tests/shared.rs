//! Memory that several spaces map.

use super::*;
use crate::addr::HostPhysRange;
use crate::error::{FaultError, MapError, MigrateError};
use crate::fault::FaultOutcome;
use crate::test_util::Event;

fn spaces<F: Format>(hal: &HeapHal, format: F) -> [AddrSpace<&HeapHal, F>; 2] {
    [1, 2].map(|tag| AddrSpace::with_format(hal, format, gpa(0), 4 * GIB1, tag).expect("a root"))
}

fn two_spaces<F: Format>(format: F) {
    let hal = HeapHal::new();
    let memory = SharedMemory::new(&hal, 2 * MIB2).expect("memory");
    assert_eq!((memory.size(), memory.frames(), hal.in_use()), (2 * MIB2, 2, 2));
    let [mut one, mut other] = spaces(&hal, format);
    one.map_shared(gpa(MIB2), &memory, 0, 2 * MIB2, RW, true).expect("free");
    assert!(leaves(&one, MIB2, 2 * MIB2).iter().all(|(.., level)| *level == 1), "as large as can be");
    other.map_shared(gpa(KIB4), &memory, KIB4, MIB2, MappingFlags::READ, false).expect("free");
    assert_eq!(other.translate(gpa(KIB4)), None, "on first use");
    let fault = other.handle_page_fault(gpa(2 * KIB4), MappingFlags::READ);
    assert_eq!(
        fault,
        Ok(FaultOutcome::Populated(LeafSize::Size4K)),
        "the region does not hold the whole block"
    );
    assert_eq!(other.translate(gpa(2 * KIB4)), one.translate(gpa(MIB2 + 2 * KIB4)));
    let write = other.handle_page_fault(gpa(2 * KIB4), MappingFlags::WRITE);
    assert!(matches!(write, Err(FaultError::Permission { .. })), "flags are each space's own");
    assert_eq!(other.handle_page_fault(gpa(2 * KIB4), MappingFlags::READ), Ok(FaultOutcome::Spurious));
    assert!(!one.query(gpa(MIB2)).expect("there").owned);
    // In part, twice, and as a whole.
    one.unmap(gpa(MIB2 + KIB4), KIB4).expect("mapped");
    one.map_shared(gpa(0x10_0000), &memory, MIB2, KIB4, RW, true).expect("free");
    assert_eq!(one.translate(gpa(0x10_0000)), one.translate(gpa(2 * MIB2)), "one page at two addresses");
    assert_eq!((one.stats().shared_frames, other.stats().shared_frames), (1, 1));
    drop(memory);
    let frame = one.translate(gpa(MIB2)).expect("there");
    one.unmap(gpa(MIB2), KIB4).expect("mapped");
    one.unmap(gpa(MIB2 + 2 * KIB4), 2 * MIB2 - 2 * KIB4).expect("mapped");
    assert_eq!(hal.read(frame, 8), [0; 8], "others hold it still");
    one.clear().expect("no pins");
    assert_eq!(one.stats().shared_frames, 0);
    assert_eq!(hal.read(frame, 8), [0; 8], "the other space does");
    hal.record();
    drop(other);
    let events = hal.events();
    let invalidated = events.iter().position(lifetimes::is_invalidation).expect("an invalidation");
    let freed =
        events.iter().position(|event| matches!(event, Event::Dealloc(..))).expect("frames came back");
    assert!(invalidated < freed, "{events:?}");
    let root = one.stats().table.table_frames as usize;
    assert_eq!(hal.in_use(), root, "it is gone with the last one");
}

#[test]
fn two_spaces_see_one_memory_that_lives_as_long_as_either() {
    on_all_formats!(two_spaces);
}

fn lazily_large<F: Format>(format: F) {
    let hal = HeapHal::new();
    let memory = SharedMemory::new(&hal, 2 * MIB2).expect("memory");
    let [mut one, mut other] = spaces(&hal, format);
    one.map_shared(gpa(GIB1), &memory, 0, 2 * MIB2, RW, false).expect("free");
    other.map_shared(gpa(KIB4), &memory, 0, 2 * MIB2, RW, false).expect("free");
    let fault = one.handle_page_fault(gpa(GIB1 + MIB2 + 0x5123), MappingFlags::WRITE);
    assert_eq!(fault, Ok(FaultOutcome::Populated(LeafSize::Size2M)));
    assert_eq!(leaves(&one, GIB1, 2 * MIB2).len(), 1, "half of it");
    assert_eq!(memory.frames(), 2 + 2 + 512, "a run, and two tables on the way");
    let fault = other.handle_page_fault(gpa(KIB4 + MIB2 + 0x5000), MappingFlags::WRITE);
    assert_eq!(fault, Ok(FaultOutcome::Populated(LeafSize::Size4K)), "not congruent");
    assert_eq!(other.translate(gpa(KIB4 + MIB2 + 0x5123)), one.translate(gpa(GIB1 + MIB2 + 0x5123)));
    assert_eq!(other.populate(gpa(KIB4), 2 * MIB2), Ok(1023));
    assert_eq!(one.populate(gpa(GIB1), 2 * MIB2), Ok(512));
    for offset in [0, 0x1234, MIB2 - 1, MIB2, 2 * MIB2 - 1] {
        let frame = one.translate(gpa(GIB1 + offset)).expect("populated");
        assert_eq!(Some(frame), other.translate(gpa(KIB4 + offset)));
        assert_eq!(hal.read(frame, 1), [0], "it was taken from the host");
    }
    assert_eq!(memory.frames(), 2 + 2 + 1024);
}

#[test]
fn frames_are_taken_on_first_use_whichever_space_that_is() {
    on_all_formats!(lazily_large);
}

#[test]
fn a_mapping_takes_no_more_than_it_needs() {
    let hal = HeapHal::new();
    let memory = SharedMemory::new(&hal, 2 * MIB2).expect("memory");
    memory.populate().expect("memory");
    let [mut one, _] = spaces(&hal, Stage2::default());
    let before = hal.in_use();
    // The frame of the memories, a table for two large leaves, one for the regions.
    hal.fail_after(Some(3));
    one.map_shared(gpa(0), &memory, 0, 2 * MIB2, RW, true).expect("three frames are enough");
    assert_eq!(hal.in_use(), before + 3);
    assert_eq!(one.stats().shared_frames, 1);
}

#[test]
fn a_fragmented_host_gives_single_frames() {
    let hal = HeapHal::new();
    hal.limit_runs(Some(1));
    let memory = SharedMemory::new(&hal, MIB2).expect("memory");
    memory.populate().expect("memory");
    assert_eq!(memory.frames(), 2 + 3 + 512, "three tables on the way");
    let [mut one, _] = spaces(&hal, Npt::default());
    one.map_shared(gpa(0), &memory, 0, MIB2, RW, true).expect("free");
    assert_eq!(leaves(&one, 0, MIB2).len(), 512);
    hal.fail_after(Some(0));
    memory.populate().expect("all of it is there");
}

#[test]
fn wrong_sizes_and_offsets_are_said() {
    let hal = HeapHal::new();
    for size in [0, 1, KIB4 - 1, KIB4 + 1, (1 << 48) + KIB4] {
        let error = SharedMemory::new(&hal, size).map(drop).expect_err("no size");
        assert_eq!(error, SharedMemoryError::BadSize(size));
    }
    let largest = SharedMemory::new(&hal, 1 << 48).expect("two frames");
    for successes in 0..2 {
        hal.fail_after(Some(successes));
        let error = SharedMemory::new(&hal, KIB4).map(drop).expect_err("no memory");
        assert_eq!(error, SharedMemoryError::OutOfMemory);
    }
    hal.fail_after(None);
    assert_eq!(format!("{largest:?}"), "SharedMemory { size: 281474976710656, .. }");
    let memory = SharedMemory::new(&hal, 4 * KIB4).expect("memory");
    let [mut space, _] = spaces(&hal, Stage2::default());
    let before = hal.in_use();
    for populate in [false, true] {
        let mut map = |at, offset, size| space.map_shared(gpa(at), &memory, offset, size, RW, populate);
        let beyond = |offset, size| Err(MapError::BeyondBackend { offset, size, most: 4 * KIB4 });
        assert_eq!(map(0, 1, KIB4), Err(MapError::UnalignedOffset(1)));
        assert_eq!(map(0, 4 * KIB4, KIB4), beyond(4 * KIB4, KIB4));
        assert_eq!(map(0, KIB4, 4 * KIB4), beyond(KIB4, 4 * KIB4));
        assert_eq!(map(0, u64::MAX - 0xfff, KIB4), beyond(u64::MAX - 0xfff, KIB4));
        assert!(matches!(map(1, 0, KIB4), Err(MapError::BadRange(_))));
        assert_eq!(hal.in_use(), before);
    }
    space.map_alloc(gpa(0), KIB4, RW, false).expect("free");
    let overlap = space.map_shared(gpa(0), &memory, 0, KIB4, RW, false);
    assert!(matches!(overlap, Err(MapError::AlreadyMapped { .. })));
    space.map_shared(gpa(KIB4), &memory, KIB4, 3 * KIB4, RW, false).expect("to its end");
    let region = space.region(gpa(KIB4)).expect("there");
    assert_eq!(space.migrate(gpa(KIB4), KIB4), Err(MigrateError::NotOwned(region.range)));
    assert_eq!(region.backend, Backend::Shared { memory: SharedId(0), offset: KIB4 });
    assert!(space.dump().to_string().contains("shared memory 0 + 0x1000\n"));
}

/// Every allocation fails once: the space is as it was, and nothing is lost.
fn every_allocation_may_fail_on<F: Format>(format: F) {
    for successes in 0.. {
        let hal = HeapHal::new();
        hal.limit_runs(Some(16));
        let memory = SharedMemory::new(&hal, 3 * KIB4).expect("memory");
        let [mut space, _other] = spaces(&hal, format);
        let before = (space.table.fingerprint(), hal.in_use() as u64 - memory.frames());
        hal.fail_after(Some(successes));
        let result = space.map_shared(gpa(GIB1 - KIB4), &memory, 0, 3 * KIB4, RW, true);
        hal.fail_after(None);
        if result.is_ok() {
            assert!(successes > 6);
            break;
        }
        assert_eq!(result, Err(MapError::OutOfMemory));
        assert_eq!((space.table.fingerprint(), hal.in_use() as u64 - memory.frames()), before);
        assert_eq!((space.regions().count(), space.stats().shared_frames), (0, 0));
    }
}

#[test]
fn every_allocation_of_a_shared_mapping_may_fail() {
    on_all_formats!(every_allocation_may_fail_on);
}

#[test]
fn a_fault_without_memory_is_said_and_can_be_repeated() {
    let hal = HeapHal::new();
    let memory = SharedMemory::new(&hal, KIB4).expect("memory");
    let [mut space, _] = spaces(&hal, Ept::default());
    space.map_shared(gpa(0), &memory, 0, KIB4, RW, false).expect("free");
    for successes in 0.. {
        hal.fail_after(Some(successes));
        let result = space.handle_page_fault(gpa(0), MappingFlags::WRITE);
        hal.fail_after(None);
        if result.is_ok() {
            break;
        }
        assert_eq!(result, Err(FaultError::OutOfMemory(gpa(0))));
    }
}

#[test]
fn a_space_has_256_shared_memories_and_no_more() {
    let hal = HeapHal::new();
    let memories: Vec<_> = (0..257).map(|_| SharedMemory::new(&hal, KIB4).expect("memory")).collect();
    let [mut space, _] = spaces(&hal, Npt::default());
    let at = |index: usize| gpa(index as u64 * KIB4);
    for (index, memory) in memories.iter().enumerate().take(256) {
        space.map_shared(at(index), memory, 0, KIB4, RW, false).expect("free");
    }
    let most = MapError::TooManyShared { most: 256 };
    assert_eq!(space.map_shared(at(256), &memories[256], 0, KIB4, RW, false), Err(most));
    space.map_shared(at(300), &memories[255], 0, KIB4, RW, false).expect("one that it has");
    space.unmap(at(300), KIB4).expect("mapped");
    space.unmap(at(7), KIB4).expect("mapped");
    space.map_shared(at(256), &memories[256], 0, KIB4, RW, false).expect("there is room");
    let frames = |space: &mut AddrSpace<&HeapHal, Npt>, index| {
        space.populate(at(index), KIB4).expect("memory");
        space.translate(at(index))
    };
    let all: Vec<_> = (0..257).filter(|index| *index != 7).map(|index| frames(&mut space, index)).collect();
    let mut different = all.clone();
    different.sort_unstable();
    different.dedup();
    assert_eq!((different.len(), different[0].is_some()), (256, true), "each region has its own");
    drop(memories);
    drop(space);
    assert_eq!(hal.in_use(), 0);
}

#[test]
fn handles_and_spaces_on_several_threads_let_go_once() {
    let hal = HeapHal::new();
    let memory = SharedMemory::new(&hal, 16 * KIB4).expect("memory");
    std::thread::scope(|scope| {
        for tag in 1..5 {
            let memory = memory.clone();
            let hal = &hal;
            scope.spawn(move || {
                let format = Stage2::default();
                let mut space = AddrSpace::with_format(hal, format, gpa(0), GIB1, tag).expect("a root");
                space.map_shared(gpa(0), &memory, 0, 16 * KIB4, RW, false).expect("free");
                for page in 0..16 {
                    let fault = space.handle_page_fault(gpa(page * KIB4), MappingFlags::WRITE);
                    assert_eq!(fault, Ok(FaultOutcome::Populated(LeafSize::Size4K)));
                }
                memory.clone().populate().expect("memory");
            });
        }
    });
    assert_eq!(hal.in_use() as u64, memory.frames());
    assert_eq!(memory.frames(), 2 + 3 + 16);
    drop(memory);
    assert_eq!(hal.in_use(), 0);
}

#[test]
fn protected_memory_is_nobodys() {
    let hal = HeapHal::new();
    let mut space = space(&hal);
    let run = |start, size| HostPhysRange::new(hpa(start), size).expect("valid");
    hal.protect(run(0x1000_0000, MIB2));
    let mut map = |start, size| space.map_linear(gpa(0), hpa(start), size, RW);
    for (start, size) in
        [(0x1000_0000, KIB4), (0x1000_0000 + MIB2 - KIB4, KIB4), (0x0fff_f000, 2 * KIB4), (0, GIB1)]
    {
        assert_eq!(map(start, size), Err(MapError::HostProtected(run(start, size))));
    }
    map(0x0fff_f000, KIB4).expect("just before");
    space.unmap(gpa(0), KIB4).expect("mapped");
    space.map_linear(gpa(0), hpa(0x1000_0000 + MIB2), KIB4, RW).expect("just behind");
    // A frame that the host should never have handed out is given back, and counts as none.
    space.map_alloc(gpa(GIB1), KIB4, RW, false).expect("free");
    let before = hal.in_use();
    hal.protect(HostPhysRange::new(hal.next_frame(), MIB2).expect("valid"));
    let fault = space.handle_page_fault(gpa(GIB1), MappingFlags::WRITE);
    assert_eq!((fault, hal.in_use()), (Err(FaultError::OutOfMemory(gpa(GIB1))), before));
}

#[test]
fn a_run_with_protected_memory_at_its_end_is_not_taken() {
    let hal = HeapHal::new();
    let mut space = space(&hal);
    space.map_alloc(gpa(0), MIB2, RW, false).expect("free");
    let start = hal.next_frame().as_u64().next_multiple_of(MIB2);
    hal.protect(HostPhysRange::new(hpa(start + MIB2 - KIB4), KIB4).expect("valid"));
    assert_eq!(
        space.handle_page_fault(gpa(0), MappingFlags::WRITE),
        Ok(FaultOutcome::Populated(LeafSize::Size4K)),
        "a large leaf would reach it"
    );
}

/// A host that knows by a number what it is.
#[derive(Clone, Copy)]
struct Numbered<'h>(&'h HeapHal, u32);

#[expect(unsafe_code, reason = "implements Hal")]
// SAFETY: every promise is kept by the host inside.
unsafe impl crate::Hal for Numbered<'_> {
    fn alloc_frames(&self, count: usize, align: usize) -> Option<HostPhysAddr> {
        self.0.alloc_frames(count, align)
    }
    unsafe fn dealloc_frames(&self, start: HostPhysAddr, count: usize) {
        // SAFETY: the same contract.
        unsafe { self.0.dealloc_frames(start, count) }
    }
    fn phys_to_virt(&self, hpa: HostPhysAddr) -> *mut u8 {
        self.0.phys_to_virt(hpa)
    }
    fn invalidate(&self, invalidation: &crate::Invalidation<'_>) {
        self.0.invalidate(invalidation);
    }
}

#[test]
fn memory_of_another_host_is_refused() {
    let (hal, other) = (HeapHal::new(), HeapHal::new());
    let [mut space, _] = spaces(&hal, Stage2::default());
    let memory = SharedMemory::new(&other, KIB4).expect("memory");
    assert_eq!(space.map_shared(gpa(0), &memory, 0, KIB4, RW, true), Err(MapError::OtherHost));
    assert_eq!((space.regions().count(), memory.frames()), (0, 2));
    // A copy of a host counts as another one unless it says what it is.
    let memory = SharedMemory::new(Numbered(&hal, 1), KIB4).expect("memory");
    let numbered = AddrSpace::with_format(Numbered(&hal, 1), Stage2::default(), gpa(0), GIB1, 3);
    let mut numbered = numbered.expect("a root");
    assert_eq!(numbered.map_shared(gpa(0), &memory, 0, KIB4, RW, true), Err(MapError::OtherHost));
    let (one, same) = (Numbered(&hal, 1), &Numbered(&hal, 2));
    assert!(crate::Hal::is_same_host(&one, &one) && !crate::Hal::is_same_host(&one, same));
    assert!(crate::Hal::is_same_host(&same, &same) && !crate::Hal::is_same_host(&same, &&one));
    assert_ne!(one.1, same.1);
    let counted = crate::Counted::<_, 1>::new(&hal, || 0);
    let another = crate::Counted::<_, 1>::new(&hal, || 0);
    assert!(crate::Hal::is_same_host(&counted, &another), "each space has counters of its own");
    assert!(!crate::Hal::is_same_host(&counted, &crate::Counted::<_, 1>::new(&other, || 0)));
}
