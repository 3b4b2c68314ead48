//! A backend of the user's own.

use super::*;
use crate::addr::HostPhysRange;
use crate::error::{FaultError, MapError, MigrateError, PopulateError};
use crate::fault::FaultOutcome;
use crate::test_util::Event;
use crate::tlb::Reach;
use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;

/// Takes frames of the host and writes down what it is told.
struct Book<'h> {
    hal: &'h HeapHal,
    answer: Cell<Result<(), BackendError>>,
    frame: Cell<Option<HostPhysAddr>>,
    out: RefCell<BTreeMap<u64, BackendPage>>,
    back: RefCell<Vec<(BackendPage, HostPhysAddr, bool)>>,
}

impl<'h> Book<'h> {
    fn new(hal: &'h HeapHal) -> Self {
        Self {
            hal,
            answer: Cell::new(Ok(())),
            frame: Cell::new(None),
            out: RefCell::default(),
            back: RefCell::default(),
        }
    }

    fn offsets_back(&self) -> Vec<u64> {
        self.back.borrow_mut().drain(..).map(|(page, ..)| page.offset).collect()
    }
}

#[expect(unsafe_code, reason = "implements a backend")]
// SAFETY: frames come from the host of the space, each to one page; what `frame` names is refused by slat.
unsafe impl CustomBackend for Book<'_> {
    fn take(&self, page: &BackendPage) -> Result<HostPhysAddr, BackendError> {
        self.answer.get()?;
        if let Some(frame) = self.frame.get() {
            return Ok(frame);
        }
        let frame = crate::Hal::alloc_frames(self.hal, 1, 1).ok_or(BackendError::OutOfMemory)?;
        assert!(self.out.borrow_mut().insert(frame.as_u64(), *page).is_none());
        Ok(frame)
    }

    unsafe fn give_back(&self, page: &BackendPage, frame: HostPhysAddr, written: bool) {
        self.back.borrow_mut().push((*page, frame, written));
        if self.frame.get() == Some(frame) {
            return;
        }
        let taken = self.out.borrow_mut().remove(&frame.as_u64()).expect("it was given");
        assert_eq!((taken.source, taken.offset, taken.gpa), (page.source, page.offset, page.gpa));
        // SAFETY: `take` took it, and it came back once.
        unsafe { crate::Hal::dealloc_frames(self.hal, frame, 1) };
    }
}

fn space_with<'h, F: Format>(
    hal: &'h HeapHal,
    format: F,
    book: &'h Book<'h>,
) -> AddrSpace<&'h HeapHal, F, &'h Book<'h>> {
    AddrSpace::with_backend(hal, format, gpa(0), 4 * GIB1, 1, book).expect("a root")
}

fn whole_life<F: Format>(format: F) {
    let hal = HeapHal::new();
    let book = Book::new(&hal);
    let mut space = space_with(&hal, format, &book);
    let start = GIB1 - 3 * KIB4;
    space.map_custom(gpa(start), 9, 0x5000, 6 * KIB4, RW).expect("free");
    assert_eq!(
        (book.out.borrow().len(), space.translate(gpa(start))),
        (0, None),
        "nothing before the first access"
    );
    let populated = Ok(FaultOutcome::Populated(LeafSize::Size4K));
    assert_eq!(space.handle_page_fault(gpa(start + 0x1238), MappingFlags::WRITE), populated);
    let (frame, page) =
        book.out.borrow().first_key_value().map(|(frame, page)| (*frame, *page)).expect("one");
    let expected = BackendPage { source: 9, offset: 0x6000, gpa: gpa(start + KIB4), flags: RW };
    assert_eq!((page, space.translate(gpa(start + 0x1238))), (expected, Some(hpa(frame + 0x238))));
    let again = space.handle_page_fault(gpa(start + 0x1000), MappingFlags::READ);
    assert_eq!((again, book.out.borrow().len()), (Ok(FaultOutcome::Spurious), 1));
    assert!(!space.query(gpa(start + 0x1000)).expect("there").owned);
    assert_eq!(space.populate(gpa(start), 6 * KIB4), Ok(5));
    assert_eq!(book.out.borrow().len(), 6);
    // Each part goes back after an invalidation that reaches all CPUs.
    hal.record();
    space.unmap(gpa(start + 2 * KIB4), 2 * KIB4).expect("mapped");
    let events = hal.events();
    assert_eq!(lifetimes::count(&events, lifetimes::is_invalidation), 1);
    lifetimes::assert_freed_after_invalidation(&events);
    assert_eq!(book.offsets_back(), [0x7000, 0x8000]);
    // No access is no reason to give a frame back.
    space.protect(gpa(start), KIB4, MappingFlags::empty()).expect("mapped");
    assert_eq!((space.translate(gpa(start)), book.out.borrow().len()), (None, 4));
    assert_eq!(space.discard(gpa(start), 2 * KIB4), Ok(2));
    let back = book.back.take();
    assert_eq!(back.iter().map(|(page, ..)| page.offset).collect::<Vec<_>>(), [0x5000, 0x6000]);
    let told = space.format().dirty_bit() != 0;
    // The write that faulted is told by whoever answered, if that is who sets marks.
    let by_fault = space.format().marks_by_fault();
    let wanted = |page: &BackendPage| !told || by_fault && page.offset == 0x6000;
    assert!(
        back.iter().all(|(page, _, written)| *written == wanted(page)),
        "nothing was written, where the hardware tells: {back:x?}"
    );
    assert_eq!(space.handle_page_fault(gpa(start + KIB4), MappingFlags::READ), populated);
    let region = space.region(gpa(start + KIB4)).expect("there").range;
    assert_eq!(space.migrate(gpa(start + KIB4), KIB4), Err(MigrateError::NotOwned(region)));
    drop(space);
    assert_eq!((book.out.borrow().len(), book.offsets_back()), (0, vec![0x6000, 0x9000, 0xa000]));
}

#[test]
fn a_custom_region_takes_on_demand_and_gives_back_after_an_invalidation() {
    on_all_formats!(whole_life);
}

fn what_was_written<F: Format>(format: F) {
    if format.dirty_bit() == 0 {
        return;
    }
    let hal = HeapHal::new();
    let book = Book::new(&hal);
    let mut space = space_with(&hal, format, &book);
    space.map_custom(gpa(0), 0, 0, 2 * KIB4, RW).expect("free");
    space.populate(gpa(0), 2 * KIB4).expect("memory");
    let (slot, _) = space.table.walk(gpa(KIB4));
    slot.entries.set_bits(&hal, slot.index, space.format().dirty_bit());
    space.clear().expect("no pins");
    let back: Vec<_> =
        book.back.take().into_iter().map(|(page, _, written)| (page.offset, written)).collect();
    assert_eq!(back, [(0, false), (KIB4, true)]);
}

#[test]
fn a_backend_is_told_what_the_guest_has_written() {
    on_all_formats!(what_was_written);
}

#[test]
fn what_the_backend_refuses_is_said() {
    let hal = HeapHal::new();
    let book = Book::new(&hal);
    let mut space = space_with(&hal, Stage2::default(), &book);
    space.map_custom(gpa(0), 0, 0, 4 * KIB4, RW).expect("free");
    let before = space.table.fingerprint();
    let fault = || space.handle_page_fault(gpa(KIB4), MappingFlags::READ);
    let populate = || space.populate(gpa(0), KIB4);
    for (answer, outcome, populated) in [
        (
            BackendError::OutOfMemory,
            Err(FaultError::OutOfMemory(gpa(KIB4))),
            PopulateError::OutOfMemory(gpa(0)),
        ),
        (BackendError::NotYet, Ok(FaultOutcome::Wait), PopulateError::Refused(gpa(0))),
        (BackendError::NoSuchPage, Err(FaultError::NoSuchPage(gpa(KIB4))), PopulateError::Refused(gpa(0))),
    ] {
        book.answer.set(Err(answer));
        assert_eq!((fault(), populate()), (outcome, Err(populated)));
    }
    book.answer.set(Ok(()));
    // Not aligned, too wide for the format, the last of all, and the host's own.
    let protected = HostPhysRange::new(hpa(0x7000_0000), KIB4).expect("valid");
    hal.protect(protected);
    for bad in [0x8000_0800, 1 << 48, u64::MAX - 0xfff, 0x7000_0000] {
        book.frame.set(Some(hpa(bad)));
        assert_eq!(fault(), Err(FaultError::BadFrame { gpa: gpa(KIB4), hpa: hpa(bad) }));
        assert_eq!(populate(), Err(PopulateError::Refused(gpa(0))));
        assert_eq!(book.back.take().len(), 2, "each was given back");
    }
    assert_eq!(space.table.fingerprint(), before);
    book.frame.set(None);
    // A table is missing: the frame goes back at once.
    hal.fail_after(Some(1));
    assert_eq!(fault(), Err(FaultError::OutOfMemory(gpa(KIB4))));
    hal.fail_after(None);
    assert_eq!((book.offsets_back(), book.out.borrow().len()), (vec![KIB4], 0));
    assert_eq!(fault(), Ok(FaultOutcome::Populated(LeafSize::Size4K)));
}

#[test]
fn a_custom_region_is_checked_like_any_other() {
    let hal = HeapHal::new();
    let book = Book::new(&hal);
    let mut space = space_with(&hal, Stage2::default(), &book);
    let limit = 1 << 48;
    assert_eq!(space.map_custom(gpa(0), 0, 0x800, KIB4, RW), Err(MapError::UnalignedOffset(0x800)));
    let beyond = |offset, size| Err(MapError::BeyondBackend { offset, size, most: limit });
    assert_eq!(space.map_custom(gpa(0), 0, limit, KIB4, RW), beyond(limit, KIB4));
    assert_eq!(space.map_custom(gpa(0), 0, limit - KIB4, 2 * KIB4, RW), beyond(limit - KIB4, 2 * KIB4));
    let last = u64::MAX - 0xfff;
    assert_eq!(space.map_custom(gpa(0), 0, last, KIB4, RW), beyond(last, KIB4));
    assert!(matches!(space.map_custom(gpa(0), 0, 0, 0, RW), Err(MapError::BadRange(_))));
    let flags = MappingFlags::WRITE | MappingFlags::EXECUTE;
    assert!(matches!(space.map_custom(gpa(0), 0, 0, KIB4, flags), Err(MapError::UnsupportedFlags(_))));
    hal.fail_after(Some(0));
    assert_eq!(space.map_custom(gpa(0), 0, 0, KIB4, RW), Err(MapError::OutOfMemory));
    hal.fail_after(None);
    assert_eq!(space.regions().count(), 0);
    space.map_custom(gpa(0), 0xffff, limit - KIB4, KIB4, RW).expect("the last page");
    assert!(matches!(space.map_custom(gpa(0), 0, 0, KIB4, RW), Err(MapError::AlreadyMapped { .. })));
    let backend = space.region(gpa(0)).expect("there").backend;
    assert_eq!(backend, Backend::Custom { source: 0xffff, offset: limit - KIB4 });
    assert_eq!(space.backend().out.borrow().len(), 0);
}

#[test]
fn neighbours_that_continue_each_other_are_one_region() {
    let hal = HeapHal::new();
    let book = Book::new(&hal);
    let mut space = space_with(&hal, Stage2::default(), &book);
    space.map_custom(gpa(0), 1, 0x3000, KIB4, RW).expect("free");
    space.map_custom(gpa(KIB4), 1, 0x4000, KIB4, RW).expect("free");
    space.map_custom(gpa(2 * KIB4), 1, 0x6000, KIB4, RW).expect("free");
    space.map_custom(gpa(3 * KIB4), 2, 0x7000, KIB4, RW).expect("free");
    assert_eq!(space.regions().map(|region| region.range.size()).collect::<Vec<_>>(), [2 * KIB4, KIB4, KIB4]);
    space.populate(gpa(0), 4 * KIB4).expect("memory");
    space.unmap(gpa(0), 4 * KIB4).expect("mapped");
    let back: Vec<_> = book.back.take().iter().map(|(page, ..)| (page.source, page.offset)).collect();
    assert_eq!(back, [(1, 0x3000), (1, 0x4000), (1, 0x6000), (2, 0x7000)]);
}

/// In one range: memory of the caller, of the space and of the backend. Each is given back as it should be.
fn mixed<F: Format>(format: F) {
    let hal = HeapHal::new();
    let book = Book::new(&hal);
    let mut space = space_with(&hal, format, &book);
    let root = hal.in_use();
    let large = hpa(1 << 30);
    space.map_linear(gpa(0), large, MIB2, RWX).expect("free");
    space.map_alloc(gpa(MIB2), MIB2, RW, true).expect("free");
    space.map_custom(gpa(2 * MIB2), 0, 0, MIB2, RW).expect("free");
    space.populate(gpa(2 * MIB2), 3 * KIB4).expect("memory");
    let mut debt = space.defer();
    debt.unmap(gpa(MIB2 / 2), 2 * MIB2).expect("mapped");
    assert_eq!(book.out.borrow().len(), 0, "what was lent goes back at once, also in a batch");
    debt.discharge();
    assert_eq!(space.translate(gpa(MIB2 / 2 - 1)), Some(hpa((1 << 30) + MIB2 / 2 - 1)));
    assert_eq!(space.translate(gpa(MIB2 / 2)), None);
    space.clear().expect("no pins");
    assert_eq!((hal.in_use(), book.back.take().len()), (root, 3));
    space.map_custom(gpa(0), 0, 0, KIB4, RW).expect("free");
    space.populate(gpa(0), KIB4).expect("memory");
    drop(space);
    assert_eq!((hal.in_use(), book.back.take().len()), (0, 1));
}

#[test]
fn a_range_of_all_kinds_goes_back_to_where_it_came_from() {
    on_all_formats!(mixed);
}

#[test]
fn leaves_that_were_joined_go_back_page_by_page() {
    let hal = HeapHal::new();
    let book = Book::new(&hal);
    let mut space = space_with(&hal, ept_formats()[0], &book);
    // Frames of the heap host never continue each other, so the backend gives a run of its own.
    let run = crate::Hal::alloc_frames(&hal, 512, 512).expect("memory");
    space.map_custom(gpa(0), 0, 0, MIB2, RW).expect("free");
    for page in 0..512 {
        let frame = run.checked_add(page * KIB4).expect("small");
        book.out.borrow_mut().insert(
            frame.as_u64(),
            BackendPage { source: 0, offset: page * KIB4, gpa: gpa(page * KIB4), flags: RW },
        );
        book.frame.set(Some(frame));
        space.populate(gpa(page * KIB4), KIB4).expect("memory");
    }
    book.frame.set(None);
    assert_eq!(space.collapse(gpa(0), MIB2), Ok(1));
    hal.record();
    space.unmap(gpa(0), MIB2).expect("mapped");
    let events = hal.events();
    assert!(events.iter().any(|event| matches!(event, Event::InvalidateRanges(_, _, Reach::AllCpus))));
    let offsets = book.offsets_back();
    assert_eq!(offsets, (0..512).map(|page| page * KIB4).collect::<Vec<_>>());
    assert!(book.out.borrow().is_empty());
}

#[test]
fn a_space_without_a_backend_has_no_custom_page() {
    let hal = HeapHal::new();
    let mut space = space(&hal);
    space.map_custom(gpa(0), 0, 0, KIB4, RW).expect("free");
    assert_eq!(space.handle_page_fault(gpa(0), MappingFlags::READ), Err(FaultError::NoSuchPage(gpa(0))));
    let book = Book::new(&hal);
    let backend: &dyn CustomBackend = &book;
    let mut lent =
        AddrSpace::with_backend(&hal, Stage2::default(), gpa(0), GIB1, 2, backend).expect("a root");
    lent.map_custom(gpa(0), 3, 0, KIB4, RW).expect("free");
    assert!(lent.handle_page_fault(gpa(0), MappingFlags::READ).is_ok());
    drop(lent);
    assert_eq!(book.back.take().len(), 1);
}

#[test]
fn caches_are_maintained_before_the_guest_and_before_the_backend_has_a_frame() {
    let hal = HeapHal::new();
    let book = Book::new(&hal);
    let mut space = space_with(&hal, Stage2::default(), &book);
    space.map_custom(gpa(0), 0, 0, KIB4, RWX).expect("free");
    hal.record();
    space.handle_page_fault(gpa(0), MappingFlags::READ).expect("there");
    let events = hal.events();
    let at = |what: &dyn Fn(&Event) -> bool| events.iter().position(what).expect("it happened");
    let frame = space.translate(gpa(0)).expect("there");
    let maintained = at(&|event| matches!(event, Event::Maintain(start, 1, _) if *start == frame));
    assert!(maintained < at(&|event| matches!(event, Event::Publish)));
    hal.record();
    space.unmap(gpa(0), KIB4).expect("mapped");
    let events = hal.events();
    let at = |what: &dyn Fn(&Event) -> bool| events.iter().position(what).expect("it happened");
    let maintained = at(&|event| matches!(event, Event::Maintain(start, 1, _) if *start == frame));
    assert!(at(&lifetimes::is_invalidation) < maintained);
    assert!(maintained < at(&|event| matches!(event, Event::Dealloc(start, 1) if *start == frame)));
}
