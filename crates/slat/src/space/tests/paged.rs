//! More memory than there are frames: pages come from a pager and go back to it.

use super::*;
use crate::error::{DiscardError, FaultError, MapError, PageOutError, PopulateError};
use crate::fault::FaultOutcome;
use crate::test_util::{Event, MemoryPager};
use std::sync::Mutex;

pub(super) type Paged<'h, F, P = &'h MemoryPager> = AddrSpace<&'h HeapHal, F, PagerBackend<P>>;

pub(super) const POPULATED: Result<FaultOutcome, FaultError> = Ok(FaultOutcome::Populated(LeafSize::Size4K));

pub(super) fn space_with<'h, F: Format, P: Pager>(hal: &'h HeapHal, format: F, pager: P) -> Paged<'h, F, P> {
    AddrSpace::with_backend(hal, format, gpa(0), 4 * GIB1, 1, PagerBackend(pager)).expect("a root")
}

/// Contents that say which page they are of.
pub(super) fn contents(source: u16, offset: u64) -> Vec<u8> {
    let words = (0..512).map(|word| u64::from(source) << 48 | offset ^ word);
    words.flat_map(u64::to_le_bytes).collect()
}

/// The guest writes to a page, and the hardware marks it, or it faults.
pub(super) fn write<F: Format, P: Pager>(space: &Paged<'_, F, P>, at: u64, value: u64) {
    space.write_obj(gpa(at), value).expect("memory");
}

/// All frames that are in use, as the space knows of them.
pub(super) fn known<F: Format, B: CustomBackend>(space: &AddrSpace<&HeapHal, F, B>) -> u64 {
    let stats = space.stats();
    stats.table.table_frames + stats.table.owned_frames + (stats.region_frames + stats.spare_frames) as u64
}

fn whole_life<F: Format>(format: F) {
    let hal = HeapHal::new();
    let pager = MemoryPager::new();
    let mut space = space_with(&hal, format, &pager);
    let start = GIB1 - 3 * KIB4;
    space.map_paged(gpa(start), 9, 0x5000, 6 * KIB4, RW).expect("free");
    let empty = hal.in_use();
    assert_eq!((pager.page_ins(), space.translate(gpa(start))), (0, None), "nothing before the first access");
    pager.put(9, 0x6000, &contents(9, 0x6000));
    assert_eq!(space.handle_page_fault(gpa(start + 0x1238), MappingFlags::READ), POPULATED);
    let leaf = space.query(gpa(start + 0x1000)).expect("there");
    assert_eq!((leaf.owned, leaf.size, leaf.flags), (true, LeafSize::Size4K, RW));
    assert_eq!(hal.read(leaf.hpa, 4096), contents(9, 0x6000));
    assert_eq!(space.handle_page_fault(gpa(start + 0x1000), MappingFlags::READ), Ok(FaultOutcome::Spurious));
    assert_eq!(space.populate(gpa(start), 6 * KIB4), Ok(5));
    assert_eq!((pager.page_ins(), hal.in_use() as u64), (6, known(&space)));
    write(&space, start + 2 * KIB4 + 8, 77);
    let told = space.format().dirty_bit() != 0;
    // Three of six: one invalidation for all, then the contents and the frames.
    hal.record();
    let out = space.page_out(gpa(start + KIB4), 3 * KIB4).expect("paged");
    let written = if told { 1 } else { 3 };
    assert_eq!(out, PagedOut { pages: 3, written, ..PagedOut::default() });
    let events = hal.events();
    assert_eq!(lifetimes::count(&events, lifetimes::is_invalidation), 1);
    lifetimes::assert_freed_after_invalidation(&events);
    assert_eq!((pager.page_outs() as u64, hal.in_use() as u64), (written, known(&space)));
    assert_eq!(space.mappings(space.range()).count(), 3);
    // They come back with their contents.
    assert_eq!(space.read_obj::<u64>(gpa(start + 2 * KIB4 + 8)), Ok(77));
    assert_eq!(space.read_obj::<u64>(gpa(start + KIB4 + 16)), Ok(9 << 48 | 0x6000 ^ 2));
    assert_eq!(space.read_obj::<u64>(gpa(start + 3 * KIB4)), Ok(0));
    // Everything, without access or with it: no table is left.
    space.protect(gpa(start), KIB4, MappingFlags::empty()).expect("mapped");
    write(&space, start + 5 * KIB4, 78);
    hal.record();
    let out = space.page_out(gpa(start), 6 * KIB4).expect("paged");
    let events = hal.events();
    assert_eq!((out.pages, lifetimes::count(&events, lifetimes::is_invalidation)), (6, 1));
    assert_eq!((hal.in_use(), space.table.fingerprint()), (empty, vec![]));
    assert_eq!(space.read_obj::<u64>(gpa(start + 5 * KIB4)), Ok(78));
    space.page_out(gpa(start), 6 * KIB4).expect("paged");
    // Nothing is there: nothing to do.
    hal.record();
    assert_eq!(space.page_out(gpa(start), 6 * KIB4), Ok(PagedOut::default()));
    assert_eq!(lifetimes::count(&hal.events(), lifetimes::is_invalidation), 0);
    assert_eq!(space.regions().count(), 2, "one has no access");
    space.protect(gpa(start), KIB4, RW).expect("mapped");
    assert_eq!(space.regions().count(), 1);
    assert_eq!(space.read_obj::<u64>(gpa(start)), Ok(0));
}

#[test]
fn a_page_goes_out_after_an_invalidation_and_comes_back_as_it_was() {
    on_all_formats!(whole_life);
}

fn what_was_not_written<F: Format>(format: F) {
    let hal = HeapHal::new();
    let pager = MemoryPager::new();
    let mut space = space_with(&hal, format, &pager);
    space.map_paged(gpa(0), 0, 0, 4 * KIB4, RW).expect("free");
    space.populate(gpa(0), 4 * KIB4).expect("memory");
    let told = format.dirty_bit() != 0;
    // The hardware marks one, the host another; a third was written before it lost its permissions.
    let mark = |page: u64| {
        let (slot, _) = space.table.walk(gpa(page * KIB4));
        slot.entries.set_bits(&hal, slot.index, space.format().dirty_bit());
    };
    if told {
        mark(1);
        mark(3);
    }
    write(&space, 2 * KIB4, 1);
    space.protect(gpa(3 * KIB4), KIB4, MappingFlags::empty()).expect("mapped");
    let out = space.page_out(gpa(0), 4 * KIB4).expect("paged");
    assert_eq!((out.pages, out.written), (4, if told { 3 } else { 4 }));
    assert_eq!(pager.get(0, 0).is_some(), !told, "what nobody has written to is as it was");
    // Paged in, it counts as not written again.
    space.populate(gpa(0), 3 * KIB4).expect("memory");
    let out = space.page_out(gpa(0), 3 * KIB4).expect("paged");
    assert_eq!((out.pages, out.written), (3, if told { 0 } else { 3 }));
}

#[test]
fn what_was_not_written_to_is_dropped_where_the_hardware_tells() {
    on_all_formats!(what_was_not_written);
}

/// A pager that refuses some pages.
struct Picky<'p> {
    pager: &'p MemoryPager,
    refuses: Mutex<Vec<(u64, BackendError)>>,
}

impl Pager for Picky<'_> {
    fn page_in(&self, page: &BackendPage, bytes: &mut [u8]) -> Result<(), BackendError> {
        self.pager.page_in(page, bytes)
    }

    fn page_out(&self, page: &BackendPage, bytes: &[u8]) -> Result<(), BackendError> {
        let refuses = self.refuses.lock().expect("no panic");
        match refuses.iter().find(|(offset, _)| *offset == page.offset) {
            Some((_, error)) => Err(*error),
            None => self.pager.page_out(page, bytes),
        }
    }
}

fn refused<F: Format>(format: F) {
    let hal = HeapHal::new();
    let pager = MemoryPager::new();
    let picky = Picky { pager: &pager, refuses: Mutex::default() };
    let mut space = space_with(&hal, format, &picky);
    // Two whole tables, and a page of a third.
    let pages = 1025;
    space.map_paged(gpa(0), 0, 0, pages * KIB4, RW).expect("free");
    space.populate(gpa(0), pages * KIB4).expect("memory");
    (0..pages).for_each(|page| write(&space, page * KIB4, page));
    space.protect(gpa(7 * KIB4), KIB4, MappingFlags::empty()).expect("mapped");
    let (before, frames) = (space.table.fingerprint(), hal.in_use());
    let all = (0..pages).map(|page| (page * KIB4, BackendError::OutOfMemory));
    *picky.refuses.lock().expect("no panic") = all.collect();
    let out = space.page_out(gpa(0), pages * KIB4).expect("paged");
    let first_refused = Some((gpa(0), BackendError::OutOfMemory));
    assert_eq!(out, PagedOut { refused: pages, first_refused, ..PagedOut::default() });
    assert_eq!((space.table.fingerprint(), hal.in_use()), (before, frames), "everything is as it was");
    // Some: one that has no access, one in another table.
    let some = vec![(7 * KIB4, BackendError::NotYet), (700 * KIB4, BackendError::NoSuchPage)];
    *picky.refuses.lock().expect("no panic") = some;
    let out = space.page_out(gpa(0), pages * KIB4).expect("paged");
    assert_eq!((out.pages, out.refused), (pages - 2, 2));
    assert_eq!(out.first_refused, Some((gpa(7 * KIB4), BackendError::NotYet)));
    assert_eq!(
        leaves(&space, 0, pages * KIB4).iter().map(|leaf| leaf.0 / KIB4).collect::<Vec<_>>(),
        [7, 700]
    );
    assert_eq!((space.translate(gpa(7 * KIB4)), hal.in_use() as u64), (None, known(&space)));
    picky.refuses.lock().expect("no panic").clear();
    space.protect(gpa(7 * KIB4), KIB4, RW).expect("mapped");
    for page in 0..pages {
        assert_eq!(space.read_obj::<u64>(gpa(page * KIB4)), Ok(page));
    }
    assert_eq!(hal.in_use() as u64, known(&space));
}

#[test]
fn what_the_pager_refuses_stays_as_it_was() {
    on_all_formats!(refused);
}

/// A pager that looks at what happened before it is asked.
struct Witness<'h> {
    hal: &'h HeapHal,
    seen: Mutex<Vec<usize>>,
}

impl Pager for Witness<'_> {
    fn page_in(&self, page: &BackendPage, bytes: &mut [u8]) -> Result<(), BackendError> {
        bytes.copy_from_slice(&contents(page.source, page.offset));
        Ok(())
    }

    fn page_out(&self, page: &BackendPage, bytes: &[u8]) -> Result<(), BackendError> {
        assert_eq!(bytes, contents(page.source, page.offset));
        let events = self.hal.events();
        self.seen.lock().expect("no panic").push(lifetimes::count(&events, lifetimes::is_invalidation));
        Ok(())
    }
}

fn order<F: Format>(format: F) {
    let hal = HeapHal::new();
    let witness = Witness { hal: &hal, seen: Mutex::default() };
    let mut space = space_with(&hal, format, &witness);
    space.map_paged(gpa(0), 3, 0, 8 * KIB4, RW).expect("free");
    space.populate(gpa(0), 8 * KIB4).expect("memory");
    for page in [2, 5] {
        space.write_obj(gpa(page * KIB4), (3 << 48) | (page * KIB4)).expect("memory");
    }
    hal.record();
    space.page_out(gpa(KIB4), 5 * KIB4).expect("paged");
    let seen = witness.seen.lock().expect("no panic").clone();
    let first = seen.first().copied();
    assert_eq!(
        (first, seen.iter().sum()),
        (Some(1), 1),
        "one invalidation, before the first page is handed over"
    );
}

#[test]
fn the_pager_is_given_what_nobody_can_change_any_more() {
    on_all_formats!(order);
}

#[test]
fn a_paged_region_is_checked_like_any_other() {
    let hal = HeapHal::new();
    let pager = MemoryPager::new();
    let mut space = space_with(&hal, Stage2::default(), &pager);
    let limit = 1 << 48;
    assert_eq!(space.map_paged(gpa(0), 0, 0x800, KIB4, RW), Err(MapError::UnalignedOffset(0x800)));
    let beyond = |offset, size| Err(MapError::BeyondBackend { offset, size, most: limit });
    assert_eq!(space.map_paged(gpa(0), 0, limit - KIB4, 2 * KIB4, RW), beyond(limit - KIB4, 2 * KIB4));
    assert!(matches!(space.map_paged(gpa(0), 0, 0, 0, RW), Err(MapError::BadRange(_))));
    let flags = MappingFlags::WRITE | MappingFlags::EXECUTE;
    assert!(matches!(space.map_paged(gpa(0), 0, 0, KIB4, flags), Err(MapError::UnsupportedFlags(_))));
    hal.fail_after(Some(0));
    assert_eq!(space.map_paged(gpa(0), 0, 0, KIB4, RW), Err(MapError::OutOfMemory));
    hal.fail_after(None);
    space.map_paged(gpa(0), 0xffff, limit - KIB4, KIB4, RW).expect("the last page");
    assert!(matches!(space.map_paged(gpa(0), 0, 0, KIB4, RW), Err(MapError::AlreadyMapped { .. })));
    let backend = space.region(gpa(0)).expect("there").backend;
    assert_eq!(backend, Backend::Paged { source: 0xffff, offset: limit - KIB4 });
    // Neighbours that continue each other are one; a custom region is another kind.
    space.map_paged(gpa(KIB4), 1, 0, KIB4, RW).expect("free");
    space.map_paged(gpa(2 * KIB4), 1, KIB4, KIB4, RW).expect("free");
    space.map_custom(gpa(3 * KIB4), 1, 2 * KIB4, KIB4, RW).expect("free");
    assert_eq!(space.regions().map(|region| region.range.size()).collect::<Vec<_>>(), [KIB4, 2 * KIB4, KIB4]);
    let custom = space.region(gpa(3 * KIB4)).expect("there").range;
    space.populate(gpa(KIB4), 2 * KIB4).expect("memory");
    let before = space.table.fingerprint();
    assert_eq!(space.page_out(gpa(KIB4), 3 * KIB4), Err(PageOutError::NotPaged(custom)));
    assert_eq!(space.page_out(gpa(2 * KIB4), 9 * KIB4), Err(PageOutError::NotMapped(gpa(4 * KIB4))));
    assert!(matches!(space.page_out(gpa(1), KIB4), Err(PageOutError::BadRange(_))));
    space.pin(gpa(2 * KIB4), KIB4).expect("memory");
    let pinned = space.region(gpa(2 * KIB4)).expect("there").range;
    assert_eq!(space.page_out(gpa(KIB4), 2 * KIB4), Err(PageOutError::Pinned(pinned)));
    assert_eq!(space.discard(gpa(KIB4), 2 * KIB4), Err(DiscardError::Pinned(pinned)));
    assert_eq!(space.table.fingerprint(), before);
    let dump = std::format!("{}", space.dump());
    assert!(dump.contains("paged 65535 + 0xfffffffff000"), "{dump}");

    let mut none = Space::with_format(&hal, Stage2::default(), gpa(0), GIB1, 0).expect("a root");
    assert_eq!(none.map_paged(gpa(0), 0, 0, KIB4, RW), Err(MapError::NoPager));
    assert_eq!(none.regions().count(), 0);
}

fn pages_that_are_on_their_way<F: Format>(format: F) {
    let hal = HeapHal::new();
    let pager = MemoryPager::waiting();
    let mut space = space_with(&hal, format, &pager);
    space.map_paged(gpa(0), 2, 0, 4 * KIB4, RW).expect("free");
    let before = (space.table.fingerprint(), hal.in_use());
    assert_eq!(space.handle_page_fault(gpa(KIB4), MappingFlags::WRITE), Ok(FaultOutcome::Wait));
    let refused = space.read_obj::<u64>(gpa(KIB4)).map_err(|error| error.reason);
    assert_eq!(refused, Err(AccessRefusal::NotYet));
    assert_eq!(space.populate(gpa(0), KIB4), Err(PopulateError::Refused(gpa(0))));
    assert!(space.pin(gpa(0), KIB4).is_err());
    assert_eq!((space.table.fingerprint(), hal.in_use()), before);
    pager.put(2, KIB4, &contents(2, KIB4));
    assert_eq!(space.handle_page_fault(gpa(KIB4), MappingFlags::WRITE), POPULATED);
    assert_eq!(space.read_obj::<u64>(gpa(KIB4 + 8)), Ok(2 << 48 | KIB4 ^ 1));
    // An access of the host pages in as well.
    pager.put(2, 0, &contents(2, 0));
    assert_eq!(space.read_obj::<u64>(gpa(8)), Ok(2 << 48 | 1));
}

#[test]
fn a_fault_waits_for_contents_that_are_not_here_yet() {
    on_all_formats!(pages_that_are_on_their_way);
}

fn every_allocation_may_fail<F: Format>(format: F) {
    let pager = MemoryPager::new();
    pager.put(0, 0x3000, &contents(0, 0x3000));
    for n in 0.. {
        let hal = HeapHal::new();
        let mut space = space_with(&hal, format, &pager);
        space.map_paged(gpa(GIB1), 0, 0, MIB2, RW).expect("free");
        let before = (space.table.fingerprint(), hal.in_use());
        hal.fail_after(Some(n));
        let answer = space.handle_page_fault(gpa(GIB1 + 0x3000), MappingFlags::READ);
        if answer == POPULATED {
            // To page out takes nothing.
            hal.fail_after(Some(0));
            assert_eq!(space.page_out(gpa(GIB1), MIB2).map(|out| out.pages), Ok(1));
            assert!(
                n >= u64::from(format.geometry().levels) as usize,
                "a frame and a table for each level below the root"
            );
            break;
        }
        assert_eq!(answer, Err(FaultError::OutOfMemory(gpa(GIB1 + 0x3000))));
        assert_eq!((space.table.fingerprint(), hal.in_use()), before, "allocation {n} failed");
        hal.fail_after(None);
        assert_eq!(space.read_obj::<u64>(gpa(GIB1 + 0x3008)), Ok(0x3000 ^ 1));
    }
}

#[test]
fn every_allocation_of_a_page_in_may_fail() {
    on_all_formats!(every_allocation_may_fail);
}

fn pinned<F: Format>(format: F) {
    let hal = HeapHal::new();
    let pager = MemoryPager::new();
    let mut space = space_with(&hal, format, &pager);
    space.map_paged(gpa(0), 0, 0, 3 * KIB4, RW).expect("free");
    space.populate(gpa(0), 3 * KIB4).expect("memory");
    space.pin(gpa(KIB4), KIB4).expect("memory");
    // A device writes, which leaves no mark.
    let frame = space.translate(gpa(KIB4)).expect("pinned");
    hal.write(frame, &contents(0, KIB4));
    assert_eq!(space.evict(9, 99).pages, 2, "all but the pinned one");
    space.unpin(gpa(KIB4), KIB4).expect("pinned");
    assert_eq!(space.page_out(gpa(0), 3 * KIB4).map(|out| (out.pages, out.written)), Ok((1, 1)));
    assert_eq!(pager.get(0, KIB4), Some(contents(0, KIB4)));
    // Also to a page to which the guest has no access.
    space.pin(gpa(0), KIB4).expect("memory");
    space.protect(gpa(0), KIB4, MappingFlags::empty()).expect("mapped");
    let (slot, entry) = space.table.walk(gpa(0));
    let Some(crate::table::Soft::NoAccess(leaf)) = crate::table::Soft::decode(entry) else {
        panic!("{entry:#x}")
    };
    // As if its log had been collected meanwhile.
    slot.store(&hal, crate::table::Soft::NoAccess(crate::table::Leaf { dirty: false, ..leaf }).encode());
    hal.write(leaf.hpa, &contents(0, 0));
    space.unpin(gpa(0), KIB4).expect("pinned");
    assert_eq!(space.page_out(gpa(0), KIB4).map(|out| out.written), Ok(1));
    assert_eq!(pager.get(0, 0), Some(contents(0, 0)));
}

#[test]
fn what_was_pinned_counts_as_written() {
    on_all_formats!(pinned);
}

#[test]
fn a_paged_region_keeps_its_small_leaves() {
    let hal = HeapHal::new();
    let pager = MemoryPager::new();
    let mut space = space_with(&hal, Stage2::default(), &pager);
    // Blocks of both kinds that could be joined: linear around paged, whose frames are made to follow each other.
    space.map_linear(gpa(0), hpa(0x4000_0000), MIB2, RW).expect("free");
    space.map_paged(gpa(MIB2), 0, 0, MIB2, RW).expect("free");
    space.map_linear(gpa(2 * MIB2), hpa(0x5000_0000), MIB2, RW).expect("free");
    for at in [0, 2 * MIB2] {
        space.protect(gpa(at), KIB4, MappingFlags::READ).expect("mapped");
        space.protect(gpa(at), KIB4, RW).expect("mapped");
    }
    space.populate(gpa(MIB2), MIB2).expect("memory");
    // As an allocator that hands out one frame after the other would have it.
    let block = crate::Hal::alloc_frames(&hal, 512, 512).expect("memory");
    let old: Vec<_> = leaves(&space, MIB2, MIB2).iter().map(|leaf| leaf.1).collect();
    for page in 0..512 {
        let (slot, entry) = space.table.walk(gpa(MIB2 + page * KIB4));
        let frame = block.as_u64() + page * KIB4;
        slot.store(&hal, entry & !<Stage2 as Format>::ADDRESS | frame);
    }
    assert_eq!(space.collapse(gpa(0), 3 * MIB2), Ok(2));
    assert_eq!(leaves(&space, 0, 3 * MIB2).len(), 514);
    #[expect(unsafe_code, reason = "the test has put other frames in their places")]
    old.iter().for_each(|frame| {
        // SAFETY: no entry names them any more.
        unsafe { crate::Hal::dealloc_frames(&hal, *frame, 1) };
    });
    assert_eq!(space.page_out(gpa(MIB2), MIB2).map(|out| out.pages), Ok(512));
}

fn other_changes<F: Format>(format: F) {
    let hal = HeapHal::new();
    let pager = MemoryPager::new();
    let mut space = space_with(&hal, format, &pager);
    space.map_paged(gpa(0), 0, 0, 4 * KIB4, RW).expect("free");
    (0..4).for_each(|page| write(&space, page * KIB4, page + 1));
    // Moved, it is as much written as before.
    let old = space.translate(gpa(0));
    assert_eq!(space.migrate(gpa(0), 4 * KIB4), Ok(4));
    assert_ne!(space.translate(gpa(0)), old);
    assert_eq!(space.page_out(gpa(0), KIB4).map(|out| out.written), Ok(1));
    // Given up, the pager has what it had.
    assert_eq!(space.read_obj::<u64>(gpa(0)), Ok(1));
    write(&space, 0, 9);
    assert_eq!(space.discard(gpa(0), 2 * KIB4), Ok(2));
    assert_eq!((space.read_obj::<u64>(gpa(0)), space.read_obj::<u64>(gpa(KIB4))), (Ok(1), Ok(0)));
    // After a debt that was forgotten: its pages are no longer anybody's.
    let mut debt = space.defer();
    debt.unmap(gpa(2 * KIB4), KIB4).expect("mapped");
    core::mem::forget(debt);
    assert_eq!(space.page_out(gpa(0), 2 * KIB4).map(|out| out.pages), Ok(2));
    assert_eq!(space.page_out(gpa(3 * KIB4), KIB4).map(|out| out.pages), Ok(1));
    assert_eq!((pager.get(0, 2 * KIB4), space.table.fingerprint()), (None, vec![]));
    // One page in a batch that loses its access, and goes while others may remember it.
    space.populate(gpa(0), 2 * KIB4).expect("memory");
    let mut debt = space.defer();
    debt.protect(gpa(0), KIB4, MappingFlags::empty()).expect("mapped");
    core::mem::forget(debt);
    hal.record();
    assert_eq!(space.page_out(gpa(0), KIB4).map(|out| out.pages), Ok(1));
    let events = hal.events();
    lifetimes::assert_freed_after_invalidation(&events);
    assert!(events.iter().any(|event| matches!(event, Event::Dealloc(..))));
    // Nothing of the page is remembered, but the tables above it may be.
    space.protect(gpa(0), KIB4, RW).expect("mapped");
    space.page_out(gpa(0), 2 * KIB4).expect("paged");
    space.populate(gpa(0), KIB4).expect("memory");
    space.protect(gpa(0), KIB4, MappingFlags::empty()).expect("mapped");
    hal.record();
    assert_eq!(space.page_out(gpa(0), KIB4).map(|out| out.pages), Ok(1));
    lifetimes::assert_freed_after_invalidation(&hal.events());
    space.clear().expect("no pins");
    assert_eq!(hal.in_use() as u64, space.stats().table.table_frames);
}

#[test]
fn other_changes_of_paged_regions() {
    on_all_formats!(other_changes);
}

#[test]
fn a_table_that_goes_costs_the_whole_space_where_addresses_do_not_reach_it() {
    fn check<F: Format>(format: F) {
        let hal = HeapHal::new();
        let pager = MemoryPager::new();
        let mut space = space_with(&hal, format, &pager);
        space.map_paged(gpa(0), 0, 0, 4 * KIB4, RW).expect("free");
        space.populate(gpa(0), 4 * KIB4).expect("memory");
        for (pages, table) in [(2, false), (4, true)] {
            hal.record();
            space.page_out(gpa(0), pages * KIB4).expect("paged");
            let whole = lifetimes::count(&hal.events(), |event| matches!(event, Event::InvalidateSpace(_)));
            let wanted = table && !format.invalidation_by_address_reaches_tables();
            assert_eq!(whole, usize::from(wanted), "{pages} pages");
        }
    }
    on_all_formats!(check);
}

#[test]
fn what_was_written_past_the_caches_is_what_the_pager_is_given() {
    let hal = HeapHal::new();
    let pager = MemoryPager::new();
    let mut space = space_with(&hal, Stage2::default(), &pager);
    space.map_paged(gpa(0), 0, 0, KIB4, RW | MappingFlags::UNCACHED).expect("free");
    space.populate(gpa(0), KIB4).expect("memory");
    let frame = space.translate(gpa(0)).expect("populated");
    hal.record();
    space.page_out(gpa(0), KIB4).expect("paged");
    let events = hal.events();
    let maintained =
        events.iter().position(|event| matches!(event, Event::Maintain(at, 1, _) if *at == frame));
    let invalidated = events.iter().position(lifetimes::is_invalidation);
    let freed = events.iter().position(|event| matches!(event, Event::Dealloc(at, 1) if *at == frame));
    assert!(invalidated < maintained && maintained < freed && maintained.is_some(), "{events:x?}");
}

#[test]
fn two_cpus_that_fault_on_a_page_have_one_frame() {
    fn race<F: Format + Sync>(format: F) {
        let hal = HeapHal::new();
        let pager = MemoryPager::new();
        let mut space = space_with(&hal, format, &pager);
        space.map_paged(gpa(0), 0, 0, 64 * KIB4, RW).expect("free");
        let barrier = std::sync::Barrier::new(2);
        let faults = || {
            barrier.wait();
            let fault = |page| space.handle_page_fault(gpa(page * KIB4), MappingFlags::WRITE);
            (0..64).filter(|page| fault(*page) == POPULATED).count()
        };
        let populated = std::thread::scope(|scope| {
            let other = scope.spawn(faults);
            faults() + other.join().expect("no panic")
        });
        assert_eq!((populated, hal.in_use() as u64), (64, known(&space)));
    }
    formats().into_iter().for_each(race);
}

fn forked<F: Format>(format: F) {
    let hal = HeapHal::new();
    let (pager, other) = (MemoryPager::new(), MemoryPager::new());
    let mut parent = space_with(&hal, format, &pager);
    parent.map_paged(gpa(MIB2 - 4 * KIB4), 0, 0, 8 * KIB4, RW).expect("free");
    let at = |page: u64| MIB2 - 4 * KIB4 + page * KIB4;
    (0..7).for_each(|page| write(&parent, at(page), page + 1));
    // One is out, and what the parent's pager has of it is what the fork's has at that moment.
    assert_eq!(parent.page_out(gpa(at(2)), KIB4).map(|out| out.pages), Ok(1));
    other.put(0, 2 * KIB4, &pager.get(0, 2 * KIB4).expect("it was written"));
    let mut child = parent.fork_with(&hal, PagerBackend(&other), 2).expect("memory");
    // What both have stays.
    assert_eq!(parent.page_out(gpa(at(0)), 8 * KIB4), Ok(PagedOut::default()));
    assert_eq!((parent.evict(99, 99).pages, child.evict(99, 99).pages), (0, 0));
    write(&parent, at(0), 100);
    write(&child, at(1), 101);
    write(&child, at(2), 102);
    assert_eq!(parent.page_out(gpa(at(0)), 8 * KIB4).map(|out| (out.pages, out.written)), Ok((1, 1)));
    let out = child.page_out(gpa(at(0)), 8 * KIB4).expect("paged");
    assert_eq!((out.pages, out.written), (2, 2), "its copy, and what it has paged in itself");
    let seen = |space: &Paged<'_, F>| {
        (0..8).map(|page| space.read_obj::<u64>(gpa(at(page))).expect("memory")).collect::<Vec<_>>()
    };
    assert_eq!(seen(&parent), [100, 2, 3, 4, 5, 6, 7, 0]);
    assert_eq!(seen(&child), [1, 101, 102, 4, 5, 6, 7, 0]);
    // Alone again, everything can go.
    drop(child);
    parent.consolidate();
    assert_eq!(parent.page_out(gpa(at(0)), 8 * KIB4).map(|out| out.pages), Ok(8));
    assert_eq!((parent.table.fingerprint(), hal.in_use() as u64), (vec![], known(&parent)));
    assert_eq!(seen(&parent), [100, 2, 3, 4, 5, 6, 7, 0]);
}

#[test]
fn a_fork_shares_what_is_there_and_asks_its_own_pager_for_the_rest() {
    on_all_formats!(forked);
}

fn logged<F: Format>(format: F) {
    let hal = HeapHal::new();
    let pager = MemoryPager::new();
    let mut space = space_with(&hal, format, &pager);
    space.map_paged(gpa(0), 0, 0, 4 * KIB4, RW).expect("free");
    (0..4).for_each(|page| write(&space, page * KIB4, page + 1));
    space.start_dirty_log(gpa(0), 4 * KIB4, crate::LogUnit::Page).expect("mapped");
    let collect = |space: &mut Paged<'_, F>| {
        let mut pages = vec![];
        let each = |range: GuestPhysRange| {
            pages.extend((0..range.size() / KIB4).map(|page| range.start().as_u64() / KIB4 + page))
        };
        space.collect_dirty(gpa(0), 4 * KIB4, each).expect("logged");
        pages
    };
    write(&space, KIB4, 100);
    // What nobody was told of stays; of the others it is not known any more what was written to them.
    let before = space.translate(gpa(KIB4));
    let out = space.page_out(gpa(0), 4 * KIB4).expect("paged");
    assert_eq!((out.pages, out.written, out.logged, out.refused), (3, 3, 1, 0));
    assert_eq!(space.translate(gpa(KIB4)), before);
    assert_eq!(space.evict(9, 99).pages, 0);
    assert_eq!(collect(&mut space), [1]);
    assert_eq!(space.evict(9, 99), PagedOut { pages: 1, written: 1, ..PagedOut::default() });
    // What comes in is news to whoever follows the log.
    assert_eq!(space.read_obj::<u64>(gpa(KIB4)), Ok(100));
    assert_eq!(space.read_obj::<u64>(gpa(2 * KIB4)), Ok(3));
    assert_eq!(collect(&mut space), [1, 2]);
    write(&space, 2 * KIB4, 102);
    assert_eq!(collect(&mut space), [2]);
    // The log took the mark away, and ends: the write is not forgotten.
    space.stop_dirty_log(gpa(0), 4 * KIB4).expect("logged");
    let out = space.page_out(gpa(0), 4 * KIB4).expect("paged");
    assert_eq!((out.pages, out.written, out.logged), (2, 2, 0));
    assert_eq!(space.read_obj::<u64>(gpa(2 * KIB4)), Ok(102));
}

#[test]
fn what_is_logged_goes_once_it_was_told() {
    on_all_formats!(logged);
}

#[test]
fn a_pager_alone_lends_no_frames() {
    let (hal, pager) = (HeapHal::new(), MemoryPager::new());
    let mut space = space_with(&hal, Stage2::default(), &pager);
    space.map_custom(gpa(0), 0, 0, KIB4, RW).expect("free");
    assert_eq!(space.handle_page_fault(gpa(0), MappingFlags::READ), Err(FaultError::NoSuchPage(gpa(0))));
}
