//! What accesses leave in the table and ask of the caches.

use super::*;
use crate::hal::CacheActions;
use crate::test_util::Event;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

/// EPT with accessed and dirty flags.
fn marking() -> Ept {
    let [.., format] = ept_formats();
    assert_ne!(format.dirty_bit(), 0);
    format
}

/// Accessed and dirty, leaf by leaf.
fn marks(space: &AddrSpace<&HeapHal, Ept>) -> Vec<(bool, bool)> {
    space.mappings(space.range()).map(|mapping| (mapping.accessed, mapping.dirty)).collect()
}

#[test]
fn an_access_marks_the_leaves_that_it_touches_and_no_others() {
    const NONE: (bool, bool) = (false, false);
    const USED: (bool, bool) = (true, false);
    const WRITTEN: (bool, bool) = (true, true);
    let hal = HeapHal::new();
    let mut space = space_of(&hal, marking());
    let populated = AllocOptions { populate: true, ..SMALL };
    space.map_alloc_with(gpa(0), 4 * KIB4, RW, populated).expect("free");
    assert_eq!(marks(&space), [NONE; 4]);
    space.read(gpa(KIB4 - 1), &mut [0; 2]).expect("readable");
    assert_eq!(marks(&space), [USED, USED, NONE, NONE]);
    space.write(gpa(2 * KIB4), &[1]).expect("writable");
    assert_eq!(marks(&space), [USED, USED, WRITTEN, NONE]);
    space.memory().fill(gpa(KIB4 + 5), KIB4, 1).expect("writable");
    assert_eq!(marks(&space), [USED, WRITTEN, WRITTEN, NONE]);
    // Both copies of the test: the page is known by now, and by the shortest way.
    for _ in 0..2 {
        space.read_obj::<u64>(gpa(3 * KIB4)).expect("readable");
        assert_eq!(marks(&space), [USED, WRITTEN, WRITTEN, USED]);
    }
    for _ in 0..2 {
        space.write_obj(gpa(3 * KIB4), 1u64).expect("writable");
        assert_eq!(marks(&space), [USED, WRITTEN, WRITTEN, WRITTEN]);
    }
    space.memory().atomic_load::<u64>(gpa(0)).expect("readable");
    assert_eq!(marks(&space)[0], USED);
    space.memory().atomic_compare_exchange(gpa(0), 77u64, 1).expect("writable").expect_err("another value");
    assert_eq!(marks(&space)[0], WRITTEN);
    // A refused access leaves no mark.
    let hal = HeapHal::new();
    let mut space = space_of(&hal, marking());
    space.map_alloc_with(gpa(0), KIB4, READ, populated).expect("free");
    space.map_linear(gpa(KIB4), hpa(0x100_0000), KIB4, RW).expect("free");
    space.write_obj(gpa(0), 1u8).expect_err("read-only");
    space.write_obj(gpa(KIB4), 1u8).expect_err("unreachable");
    assert_eq!(marks(&space), [NONE, NONE]);
}

#[test]
fn a_large_leaf_and_memory_of_the_caller_are_marked_too() {
    let hal = HeapHal::new();
    let start = hal.alloc_frames(3, 1).expect("frames");
    {
        let mut space = space_of(&hal, marking());
        space.map_linear(gpa(0), start, 3 * KIB4, RW).expect("free");
        space.map_alloc(gpa(MIB2), 2 * MIB2, RW, true).expect("free");
        space.write(gpa(KIB4 - 1), &[1, 2]).expect("writable");
        space.read(gpa(MIB2 + 5), &mut [0]).expect("readable");
        space.write(gpa(2 * MIB2 + MIB2 / 2), &[1, 2]).expect("writable");
        let (read, written) = ((true, false), (true, true));
        assert_eq!(marks(&space), [written, written, (false, false), read, written]);
        // A piece for reading leaves no dirty mark, one for writing does.
        space.translated_byte_buffer(gpa(2 * KIB4), 1, READ).next().expect("a piece").expect("mapped");
        assert_eq!(marks(&space)[2], read);
        space.translated_byte_buffer(gpa(2 * KIB4), 1, WRITE).next().expect("a piece").expect("mapped");
        assert_eq!(marks(&space)[2], written);
    }
    // SAFETY: taken above; the space that mapped them is gone.
    unsafe { hal.dealloc_frames(start, 3) };
}

/// A host that looks at a byte of the guest whenever an entry is stored.
struct Watching {
    heap: HeapHal,
    /// The byte to look at, and what it was at each store.
    seen: Mutex<(Option<HostPhysAddr>, Vec<u8>)>,
    /// How often it was asked for a pointer.
    asked: AtomicUsize,
}

impl Watching {
    fn new() -> Self {
        Self { heap: HeapHal::new(), seen: Mutex::default(), asked: AtomicUsize::new(0) }
    }
}

// SAFETY: everything is the heap's.
unsafe impl Hal for Watching {
    fn alloc_frames(&self, count: usize, align: usize) -> Option<HostPhysAddr> {
        self.heap.alloc_frames(count, align)
    }

    unsafe fn dealloc_frames(&self, start: HostPhysAddr, count: usize) {
        // SAFETY: the same contract.
        unsafe { self.heap.dealloc_frames(start, count) }
    }

    fn phys_to_virt(&self, hpa: HostPhysAddr) -> *mut u8 {
        self.asked.fetch_add(1, Ordering::Relaxed);
        self.heap.phys_to_virt(hpa)
    }

    fn table_stored(&self, _entry: HostPhysAddr, _value: u64) {
        let mut seen = self.seen.lock().expect("no panic");
        if let Some(byte) = seen.0 {
            let now = self.heap.read(byte, 1)[0];
            seen.1.push(now);
        }
    }
}

#[test]
fn dirty_comes_before_the_data() {
    let hal = Watching::new();
    let mut space =
        AddrSpace::<&Watching, Ept>::with_format(&hal, marking(), gpa(0), GIB1, 0).expect("a root");
    space.map_alloc_with(gpa(0), 6 * KIB4, RW, AllocOptions { populate: true, ..SMALL }).expect("free");
    let memory = space.memory();
    let accesses: [&dyn Fn(GuestPhysAddr); 6] = [
        &|gpa| memory.write(gpa, &[1]).expect("writable"),
        &|gpa| memory.fill(gpa, 1, 1).expect("writable"),
        &|gpa| memory.write_obj(gpa, 1u8).expect("writable"),
        &|gpa| memory.atomic_store(gpa, 1u8).expect("writable"),
        &|gpa| assert_eq!(memory.atomic_swap(gpa, 1u8), Ok(0)),
        &|gpa| assert_eq!(memory.atomic_compare_exchange(gpa, 0u8, 1), Ok(Ok(0))),
    ];
    for (page, access) in accesses.iter().enumerate() {
        let at = gpa(page as u64 * KIB4);
        let byte = space.translate(at).expect("populated");
        *hal.seen.lock().expect("no panic") = (Some(byte), Vec::new());
        access(at);
        let (_, seen) = std::mem::take(&mut *hal.seen.lock().expect("no panic"));
        assert_eq!(seen, [0], "access {page}: one mark, and the byte is the old one");
        assert_eq!(hal.heap.read(byte, 1), [1]);
    }
}

/// A word in a page that is there costs four tables and the page, whatever the format marks: no second walk, no region.
#[test]
fn a_word_that_is_there_costs_one_walk() {
    for format in [marking(), Ept::default()] {
        let hal = Watching::new();
        let mut space =
            AddrSpace::<&Watching, Ept>::with_format(&hal, format, gpa(0), GIB1, 0).expect("a root");
        space.map_alloc_with(gpa(0), 2 * KIB4, RW, AllocOptions { populate: true, ..SMALL }).expect("free");
        space.write_obj(gpa(0), 7u64).expect("writable");
        let asked = |access: &dyn Fn()| {
            let before = hal.asked.load(Ordering::Relaxed);
            access();
            hal.asked.load(Ordering::Relaxed) - before
        };
        assert_eq!(asked(&|| assert_eq!(space.read_obj(gpa(0)), Ok(7u64))), 5);
        assert_eq!(asked(&|| assert_eq!(space.read_obj(gpa(2)), Ok(0u16))), 5);
        assert_eq!(asked(&|| assert_eq!(space.write_obj(gpa(4), 1u32), Ok(()))), 5);
        assert_eq!(asked(&|| assert_eq!(space.memory().atomic_load(gpa(4)), Ok(1u32))), 5);
        assert_eq!(asked(&|| assert_eq!(space.memory().atomic_swap(gpa(4), 2u32), Ok(1))), 5);
        assert_eq!(asked(&|| space.read(gpa(16), &mut [0; 16]).expect("readable")), 5);
    }
}

/// The maintenance that the host was asked for: first frame relative to `base`, frames, and what.
fn maintained(hal: &HeapHal, base: HostPhysAddr) -> Vec<(u64, usize, CacheActions)> {
    let events = hal.events().into_iter();
    let events = events.filter_map(|event| match event {
        Event::Maintain(start, frames, actions) => {
            Some((start.checked_offset_from(base).expect("above") / KIB4, frames, actions))
        }
        _ => None,
    });
    events.collect()
}

#[test]
fn uncached_memory_is_maintained_around_the_access() {
    const CLEAN: CacheActions = CacheActions::CLEAN_INVALIDATE_TO_POC;
    let hal = HeapHal::new();
    let start = hal.alloc_frames(3, 1).expect("frames");
    {
        let mut space = space_of(&hal, Stage2::default());
        let uncached = RW | MappingFlags::UNCACHED;
        space.map_linear(gpa(0), start, 3 * KIB4, uncached).expect("free");
        space.map_alloc(gpa(MIB2), MIB2, uncached, true).expect("free");
        let own = space.translate(gpa(MIB2)).expect("populated");
        for (at, base) in [(0, start), (MIB2, own)] {
            hal.record();
            space.read(gpa(at + 5), &mut [0; 8]).expect("readable");
            assert_eq!(maintained(&hal, base), [(0, 1, CLEAN)]);
            space.write(gpa(at + 2 * KIB4 - 1), &[1, 2]).expect("writable");
            assert_eq!(maintained(&hal, base), [(1, 2, CLEAN); 2], "before and after");
            space.memory().fill(gpa(at), 3 * KIB4, 7).expect("writable");
            assert_eq!(maintained(&hal, base), [(0, 3, CLEAN); 2]);
            space.read_obj::<u64>(gpa(at + KIB4)).expect("readable");
            space.write_obj(gpa(at + KIB4), 1u64).expect("writable");
            assert_eq!(maintained(&hal, base), [(1, 1, CLEAN); 3]);
            let not_coherent = error(at, 0, AccessRefusal::NotCoherent);
            assert_eq!(space.memory().atomic_load::<u32>(gpa(at)), Err(not_coherent));
            assert_eq!(space.memory().atomic_store::<u32>(gpa(at), 1), Err(not_coherent));
            assert_eq!(maintained(&hal, base), []);
            // A piece maintains what it is asked for.
            let mut buffer = space.translated_byte_buffer(gpa(at), 3 * KIB4, RW);
            let piece = buffer.next().expect("a piece").expect("mapped");
            assert_eq!((piece.len(), buffer.next().is_none()), (3 * KIB4, true));
            piece.write(KIB4 - 1, &[1, 2]).expect("inside");
            assert_eq!(maintained(&hal, base), [(0, 2, CLEAN); 2]);
            piece.read(2 * KIB4, &mut [0; 2]).expect("inside");
            assert_eq!(maintained(&hal, base), [(2, 1, CLEAN)]);
            piece.write_volatile(KIB4, 1u16).expect("inside");
            assert_eq!(piece.read_volatile(KIB4), Ok(1u16));
            assert_eq!(maintained(&hal, base), [(1, 1, CLEAN); 3]);
            piece.read(3 * KIB4, &mut []).expect("nothing");
            assert_eq!(maintained(&hal, base), []);
        }
        // A copy maintains both sides: the source before, the target before and after.
        space.memory().copy_to(gpa(0), &space.memory(), gpa(MIB2), 8).expect("mapped");
        let order: Vec<_> = maintained(&hal, start).iter().map(|(page, ..)| *page == 0).collect();
        assert_eq!(order, [true, false, false]);
    }
    // SAFETY: taken above; the space that mapped them is gone.
    unsafe { hal.dealloc_frames(start, 3) };
}

#[test]
fn memory_that_the_guest_reaches_through_the_caches_is_not_maintained() {
    let hal = HeapHal::new();
    let mut cached = space_of(&hal, Stage2::default());
    cached.map_alloc(gpa(0), 2 * KIB4, RW, true).expect("free");
    let mut coherent = space_of(&hal, marking());
    coherent.map_alloc(gpa(0), 2 * KIB4, RW | MappingFlags::UNCACHED, true).expect("free");
    hal.record();
    cached.write(gpa(5), &pattern(5000)).expect("writable");
    assert_eq!(read_back(&cached, 5, 5000), pattern(5000));
    coherent.write(gpa(5), &pattern(5000)).expect("writable");
    assert_eq!(read_back(&coherent, 5, 5000), pattern(5000));
    assert_eq!(coherent.memory().atomic_swap(gpa(0), 1u8), Ok(0), "x86 keeps its caches coherent");
    assert_eq!(maintained(&hal, hpa(0)), []);
}

/// RISC-V: stores do not reach fetches by themselves, and an atomic access is one of data all the same.
#[test]
fn memory_that_can_be_executed_takes_atomic_accesses() {
    let hal = HeapHal::new();
    let [_, svpbmt, _] = gstage_formats();
    let mut space = space_of(&hal, svpbmt);
    space.map_alloc(gpa(0), KIB4, RWX | MappingFlags::UNCACHED, true).expect("free");
    let memory = space.memory();
    assert_eq!(memory.atomic_swap(gpa(0), 5u64), Ok(0));
    assert_eq!(memory.atomic_load::<u64>(gpa(0)), Ok(5));
}

#[test]
fn cleaning_maintains_what_is_populated_in_whole_pages() {
    const CLEAN: CacheActions = CacheActions::CLEAN_INVALIDATE_TO_POC;
    let hal = HeapHal::new();
    let linear = hal.alloc_frames(2, 1).expect("frames");
    {
        let mut space = space_of(&hal, Stage2::default());
        space.map_alloc(gpa(MIB2), MIB2, RW, true).expect("free");
        space.map_alloc_with(gpa(2 * MIB2), 3 * KIB4, RW | MappingFlags::EXECUTE, SMALL).expect("free");
        space
            .map_alloc_with(gpa(GIB1), KIB4, MappingFlags::empty(), AllocOptions { populate: true, ..SMALL })
            .expect("free");
        space.write(gpa(2 * MIB2 + KIB4), &[1]).expect("writable");
        space.map_linear(gpa(3 * MIB2), linear, 2 * KIB4, RW).expect("free");
        let device = RW | MappingFlags::DEVICE;
        space.map_linear(gpa(3 * MIB2 + 2 * KIB4), hpa(0x900_0000), KIB4, device).expect("free");
        space.map_linear(gpa(4 * MIB2), hpa(0xa00_0000), MIB2, RW).expect("free");
        let large = space.translate(gpa(MIB2)).expect("populated");
        let small = space.translate(gpa(2 * MIB2 + KIB4)).expect("populated");
        let second = space.translate(gpa(3 * MIB2 + KIB4)).expect("mapped");
        let memory = space.memory();
        hal.record();
        assert_eq!(memory.clean(gpa(MIB2 + 3 * KIB4 - 1), 2), Ok(()));
        assert_eq!(maintained(&hal, large), [(2, 2, CLEAN)]);
        assert_eq!(memory.clean(gpa(MIB2 + 5), 1), Ok(()));
        assert_eq!(maintained(&hal, large), [(0, 1, CLEAN)]);
        assert_eq!(memory.clean(gpa(0), 4 * MIB2), Ok(()), "holes and devices are passed over");
        let code = CLEAN | CacheActions::INVALIDATE_INSTRUCTIONS;
        let events: Vec<_> = hal
            .events()
            .into_iter()
            .map(|event| match event {
                Event::Maintain(start, frames, actions) => (start, frames, actions),
                other => panic!("{other:?}"),
            })
            .collect();
        assert_eq!(events, [(large, 512, CLEAN), (small, 1, code), (linear, 1, CLEAN), (second, 1, CLEAN)]);
        let at = 4 * MIB2 + 5;
        assert_eq!(memory.clean(gpa(at), 8), Err(error(at, 0, AccessRefusal::Unreachable)));
        let done = MIB2 - KIB4;
        assert_eq!(
            memory.clean(gpa(3 * MIB2 + KIB4), MIB2),
            Err(error(4 * MIB2, done, AccessRefusal::Unreachable))
        );
        assert_eq!(maintained(&hal, linear), [(1, 1, CLEAN)]);
        assert_eq!(memory.clean(gpa(8), u64::MAX), Err(error(8, 0, AccessRefusal::Wraps)));
        assert_eq!(memory.clean(gpa(u64::MAX), 0), Ok(()));
        assert_eq!(memory.clean(gpa(GIB1), u64::MAX - GIB1), Ok(()), "no access, nothing to see");
        assert_eq!(memory.clean(gpa(GIB1), u64::MAX - GIB1 + 1), Ok(()));
        assert_eq!(maintained(&hal, hpa(0)), []);
        let done = 4 * MIB2 - (MIB2 + 8);
        let stopped = memory.clean(gpa(MIB2 + 8), u64::MAX - MIB2 - 7);
        assert_eq!(stopped, Err(error(4 * MIB2, done, AccessRefusal::Unreachable)), "up to the last address");
        assert_eq!(maintained(&hal, hpa(0)).len(), 4);
        assert_eq!(maintained(&hal, hpa(0)), []);
    }
    // SAFETY: taken above; the space that mapped them is gone.
    unsafe { hal.dealloc_frames(linear, 2) };
}
