//! What only a RISC-V hart does: faults for missing marks, invalid entries that it keeps, addresses that it does not
//! report and addresses that it does not translate.

use super::*;
use crate::addr::GuestVirtAddr;
use crate::error::{FaultError, QueryError};
use crate::fault::{FaultCause, FaultOutcome, NestedPageFaultInfo};
use crate::format::gstage::{Capabilities, Extensions, Mode, Modes};
use crate::guest::{GuestPageFault, GuestPageWalkInfo, GuestWalkError};
use crate::test_util::Event;
use crate::tlb::Reach;

const READ: MappingFlags = MappingFlags::READ;
const WRITE: MappingFlags = MappingFlags::WRITE;
const POPULATED: Result<FaultOutcome, FaultError> = Ok(FaultOutcome::Populated(LeafSize::Size4K));
const SMALL: AllocOptions =
    AllocOptions { populate: false, largest_leaf: LeafSize::Size4K, fault_around: LeafSize::Size4K };

fn hart(extensions: Extensions, accessed_dirty: bool, fence_new_entries: bool) -> Gstage {
    let modes = Modes::all();
    let capabilities =
        Capabilities { modes, extensions, accessed_dirty, fence_new_entries, ..Capabilities::BASELINE };
    Gstage::new(Mode::Sv39x4, capabilities).expect("offered")
}

/// Neither Svadu nor a wish for fences: marks are set in the answers to faults.
fn marking() -> Gstage {
    hart(Extensions::SVADE, true, false)
}

fn riscv(hal: &HeapHal, format: Gstage) -> Space<'_, Gstage> {
    AddrSpace::with_format(hal, format, gpa(0), 8 * GIB1, 0).expect("a root")
}

/// Whether the leaf of a page says that it was accessed, and that it is dirty.
fn marks(space: &Space<'_, Gstage>, at: u64) -> (bool, bool) {
    let leaf = space.query(gpa(at)).expect("mapped");
    (leaf.accessed, leaf.dirty)
}

fn of_page(at: u64) -> Event {
    let page = GuestPhysRange::new(gpa(at), KIB4).expect("valid");
    Event::InvalidateRanges(vec![page], LeafSize::Size4K, Reach::ThisCpu)
}

const OF_SPACE: Event = Event::InvalidateSpace(Reach::ThisCpu);

/// What was invalidated since the last call.
fn invalidations(hal: &HeapHal) -> Vec<Event> {
    let events = hal.events();
    hal.record();
    let invalidation = |event: &Event| {
        matches!(
            event,
            Event::InvalidateRanges(..) | Event::InvalidateSpace(_) | Event::InvalidateAllSpaces(_)
        )
    };
    events.into_iter().filter(invalidation).collect()
}

#[test]
fn a_fault_leaves_the_marks_that_the_access_would_fault_for() {
    let hal = HeapHal::new();
    let mut space = riscv(&hal, marking());
    space.map_alloc_with(gpa(0x4000), 4 * KIB4, RWX, SMALL).expect("free");
    space.map_alloc(gpa(MIB2), 2 * MIB2, RWX, false).expect("free");
    // The first fault of all needs tables, the others do not.
    for (at, access, wanted) in [
        (0x4000, READ, (true, false)),
        (0x5000, WRITE, (true, true)),
        (0x6000, READ, (true, false)),
        (0x7000, MappingFlags::EXECUTE, (true, false)),
    ] {
        assert_eq!(space.handle_page_fault(gpa(at + 0x10), access), POPULATED);
        assert_eq!(marks(&space, at), wanted, "{access} at {at:#x}");
    }
    for (at, access, wanted) in [(MIB2, WRITE, (true, true)), (2 * MIB2, READ, (true, false))] {
        let large = Ok(FaultOutcome::Populated(LeafSize::Size2M));
        assert_eq!(space.handle_page_fault(gpa(at + 0x1234), access), large);
        assert_eq!(marks(&space, at), wanted);
    }
}

#[test]
fn a_fault_for_a_missing_mark_sets_it() {
    let hal = HeapHal::new();
    let mut space = riscv(&hal, marking());
    let options = AllocOptions { populate: true, ..SMALL };
    space.map_alloc_with(gpa(0x4000), 2 * KIB4, RW, options).expect("free");
    space.map_linear(gpa(0x8000), hpa(0x9000_0000), KIB4, RW).expect("free");
    space.map_alloc(gpa(MIB2), MIB2, RW, true).expect("free");
    for at in [0x4000, 0x8000, MIB2] {
        let fault = |access| space.handle_page_fault(gpa(at + 0x123), access);
        assert_eq!(marks(&space, at), (false, false), "mapped beforehand");
        hal.record();
        assert_eq!(fault(READ), Ok(FaultOutcome::Marked));
        assert_eq!(marks(&space, at), (true, false));
        assert_eq!(invalidations(&hal), [of_page(at)], "the hart remembers the leaf without");
        assert_eq!(fault(READ), Ok(FaultOutcome::Spurious));
        assert_eq!(invalidations(&hal), [OF_SPACE], "and here something else, perhaps of a table");
        assert_eq!(fault(WRITE), Ok(FaultOutcome::Marked));
        assert_eq!(marks(&space, at), (true, true));
        assert_eq!(invalidations(&hal), [of_page(at)]);
        assert_eq!(fault(WRITE), Ok(FaultOutcome::Spurious));
        assert_eq!(fault(READ), Ok(FaultOutcome::Spurious));
        assert_eq!(invalidations(&hal), [OF_SPACE, OF_SPACE]);
    }
    assert_eq!(marks(&space, 0x5000), (false, false), "no other page");
    // At once by the first access, if that is a write.
    assert_eq!(space.handle_page_fault(gpa(0x5000), WRITE), Ok(FaultOutcome::Marked));
    assert_eq!(marks(&space, 0x5000), (true, true));
    // A refusal is a refusal.
    space.protect(gpa(0x4000), KIB4, READ).expect("mapped");
    let refused = space.handle_page_fault(gpa(0x4000), WRITE);
    assert!(matches!(refused, Err(FaultError::Permission { .. })), "{refused:?}");
    assert_eq!(marks(&space, 0x4000), (true, true), "what was written stays so");
}

#[test]
fn what_is_mapped_ahead_has_no_marks() {
    let hal = HeapHal::new();
    let mut space = riscv(&hal, marking());
    let options = AllocOptions { fault_around: LeafSize::Size2M, ..SMALL };
    space.map_alloc_with(gpa(0), 4 * KIB4, RW, options).expect("free");
    space.map_alloc_with(gpa(MIB2), 2 * KIB4, RW, SMALL).expect("free");
    assert_eq!(space.handle_page_fault(gpa(0x1000), WRITE), POPULATED);
    let around = [0, 1, 2, 3].map(|page| marks(&space, page * KIB4));
    assert_eq!(around, [(false, false), (true, true), (false, false), (false, false)]);
    assert_eq!(space.populate(gpa(MIB2), 2 * KIB4), Ok(2));
    assert_eq!(marks(&space, MIB2), (false, false));
    // The host writes in the name of nobody: it marks as a CPU would.
    space.write(gpa(MIB2), &[1]).expect("mapped");
    assert_eq!((marks(&space, MIB2), marks(&space, MIB2 + KIB4)), ((true, true), (false, false)));
}

#[test]
fn a_hart_that_sets_marks_gets_no_help() {
    let hal = HeapHal::new();
    for (extensions, tells, wanted) in
        [(Extensions::SVADU, true, (false, false)), (Extensions::SVADE, false, (true, true))]
    {
        let mut space = riscv(&hal, hart(extensions, tells, false));
        space.map_alloc_with(gpa(0x4000), KIB4, RW, SMALL).expect("free");
        space.map_linear(gpa(0x8000), hpa(0x9000_0000), KIB4, RW).expect("free");
        assert_eq!(space.handle_page_fault(gpa(0x4000), WRITE), POPULATED);
        for at in [0x4000, 0x8000] {
            assert_eq!(space.handle_page_fault(gpa(at), WRITE), Ok(FaultOutcome::Spurious));
            assert_eq!(marks(&space, at), wanted);
        }
    }
}

/// The supervisor chapter lets a hart keep an invalid entry of any level, and an address operand orders leaves only: a
/// refusal may come from a table that was not there yet.
#[test]
fn a_spurious_fault_forgets_tables_too() {
    let hal = HeapHal::new();
    let mut space = riscv(&hal, Gstage::default());
    space.map_alloc_with(gpa(0x4000), KIB4, RW, SMALL).expect("free");
    hal.record();
    assert_eq!(space.handle_page_fault(gpa(0x4000), READ), POPULATED);
    assert_eq!(invalidations(&hal), [], "lazily: the guest may fault once more");
    assert_eq!(space.handle_page_fault(gpa(0x4000), READ), Ok(FaultOutcome::Spurious));
    assert_eq!(invalidations(&hal), [OF_SPACE]);
}

#[test]
fn new_entries_are_fenced_at_once_if_that_is_wanted() {
    let hal = HeapHal::new();
    let mut space = riscv(&hal, hart(Extensions::empty(), false, true));
    space.map_alloc_with(gpa(0x4000), 4 * KIB4, RW, SMALL).expect("free");
    space.map_alloc(gpa(MIB2), 2 * MIB2, RW, false).expect("free");
    hal.record();
    let fault = |at| space.handle_page_fault(gpa(at), READ);
    assert_eq!(fault(0x4010), POPULATED);
    assert_eq!(invalidations(&hal), [OF_SPACE], "tables are new");
    assert_eq!(fault(0x5010), POPULATED);
    assert_eq!(invalidations(&hal), [of_page(0x5000)], "a leaf is");
    assert_eq!(fault(MIB2 + 0x5010), Ok(FaultOutcome::Populated(LeafSize::Size2M)));
    assert_eq!(invalidations(&hal), [OF_SPACE], "an entry of an upper table is");
    // After the store, and before the guest goes on.
    assert_eq!(fault(0x6010), POPULATED);
    let events = hal.events();
    let [.., Event::Store(..), Event::Publish, last] = &events[..] else { panic!("{events:?}") };
    assert_eq!(*last, of_page(0x6000));
    // Ahead of any access nobody waits for it.
    hal.record();
    assert_eq!(space.populate(gpa(0x4000), 4 * KIB4), Ok(1));
    assert_eq!(invalidations(&hal), []);
    for format in [hart(Extensions::SVVPTC, false, true), hart(Extensions::empty(), false, false)] {
        let mut space = riscv(&hal, format);
        space.map_alloc_with(gpa(0x4000), 2 * KIB4, RW, SMALL).expect("free");
        hal.record();
        assert_eq!(space.handle_page_fault(gpa(0x4000), READ), POPULATED);
        assert_eq!(space.handle_page_fault(gpa(0x5000), READ), POPULATED);
        assert_eq!(invalidations(&hal), []);
    }
}

/// Sv39, the root in page 1, which maps a GiB of the guest's own at linear address 0 and 1 GiB: user pages there.
const SV39: u64 = 8 << 60 | 1;

fn paging_guest(hal: &HeapHal, format: Gstage) -> Space<'_, Gstage> {
    let mut space = riscv(hal, format);
    space.map_alloc_with(gpa(0), 16 * KIB4, RW, SMALL).expect("free");
    for (slot, entry) in [(0x1000, 0xc7), (0x1008, 0xd7), (0x1010, 0x801_u64)] {
        space.write_obj(gpa(slot), entry).expect("populated");
    }
    space
}

fn info(at: u64, linear: u64, access: MappingFlags, cause: FaultCause, walk: bool) -> NestedPageFaultInfo {
    let gva = Some(GuestVirtAddr::new(linear));
    NestedPageFaultInfo { gpa: gpa(at), gva, access, cause, walk, width: None }
}

#[test]
fn a_fault_without_an_address_is_found_by_a_walk() {
    let hal = HeapHal::new();
    let space = paging_guest(&hal, Gstage::default());
    let locate = |vsatp, linear, access| {
        let paging = GuestPageWalkInfo::riscv(vsatp, 0, 0);
        space.locate_fault(&paging, GuestVirtAddr::new(linear), access)
    };
    let user = WRITE | MappingFlags::USER;
    use FaultCause::NotPresent;
    // Without paging; at the end of a walk; and on the way, where the walk's own access is what faults.
    assert_eq!(locate(0, 0x5008, WRITE), Ok(info(0x5008, 0x5008, WRITE, NotPresent, false)));
    assert_eq!(locate(SV39, 0x5008, WRITE), Ok(info(0x5008, 0x5008, WRITE, NotPresent, false)));
    let second = GIB1 + 0x6123;
    assert_eq!(locate(SV39, second, user), Ok(info(0x6123, second, user, NotPresent, false)));
    let third = 2 * GIB1 + (3 << 21) + 5;
    assert_eq!(locate(SV39, third, READ), Ok(info(0x2018, third, READ, NotPresent, true)));
    assert_eq!(locate(0, 0, READ), Ok(info(0, 0, READ, NotPresent, false)), "address 0 is one too");
    // Nothing faults any more: the page itself, so that the hart forgets.
    assert_eq!(locate(0, 0x1010, READ), Ok(info(0x1010, 0x1010, READ, NotPresent, false)));
    assert_eq!(space.handle_page_fault(gpa(0x1010), READ), Ok(FaultOutcome::Spurious));
    // The guest has taken its page away meanwhile: its own fault.
    let own = GuestPageFault::Riscv { scause: 15, stval: GuestVirtAddr::new(3 * GIB1) };
    assert_eq!(locate(SV39, 3 * GIB1, WRITE), Err(GuestWalkError::Guest(own)));
    assert!(matches!(locate(1 << 60, 0, WRITE), Err(GuestWalkError::Unsupported(_))));
}

/// A table page whose leaf lacks the accessed flag: the walk of the guest faults on it as the access would, and answering
/// the last page only would let the guest fault for ever.
#[test]
fn a_mark_that_the_guests_walk_misses_is_found() {
    let hal = HeapHal::new();
    let mut space = paging_guest(&hal, marking());
    let frame = space.translate(gpa(0x1000)).expect("written");
    let table = hal.read(frame, 4096);
    space.unmap(gpa(0x1000), KIB4).expect("mapped");
    space.map_alloc(gpa(0x1000), KIB4, RW, true).expect("free");
    hal.write(space.translate(gpa(0x1000)).expect("populated"), &table);
    let paging = GuestPageWalkInfo::riscv(SV39, 0, 0);
    let linear = GuestVirtAddr::new(0x5008);
    let locate = || space.locate_fault(&paging, linear, WRITE);
    use FaultCause::{AccessFlag, NotPresent};
    let on_table = info(0x1000, 0x5008, READ, AccessFlag, true);
    assert_eq!(locate(), Ok(on_table));
    assert_eq!(space.handle_nested_fault(&on_table), Ok(FaultOutcome::Marked));
    let on_page = info(0x5008, 0x5008, WRITE, NotPresent, false);
    assert_eq!(locate(), Ok(on_page));
    assert_eq!(space.populate(gpa(0x5000), KIB4), Ok(1));
    let on_page = info(0x5008, 0x5008, WRITE, AccessFlag, false);
    assert_eq!(locate(), Ok(on_page), "there, and not marked");
    assert_eq!(space.handle_page_fault(gpa(0x5008), READ), Ok(FaultOutcome::Marked));
    assert_eq!(locate(), Ok(on_page), "a write needs more");
    assert_eq!(space.handle_nested_fault(&on_page), Ok(FaultOutcome::Marked));
    assert!(space.translate_virt(&paging, linear, WRITE).is_ok());
    // A walk that marks the guest's entries writes to them.
    let marked =
        space.translate_virt(&GuestPageWalkInfo::riscv(SV39, 0, 1 << 61).setting_marks(), linear, WRITE);
    assert!(marked.is_ok(), "the guest's entry has its marks: {marked:?}");
}

/// Every way in: an address beyond 41, 50 or 59 bits is nobody's, also where its lower bits are those of a page.
#[test]
fn addresses_beyond_the_width_are_nobodys() {
    for (mode, bits) in [(Mode::Sv39x4, 41), (Mode::Sv48x4, 50), (Mode::Sv57x4, 59)] {
        let hal = HeapHal::new();
        let capabilities = Capabilities { modes: Modes::all(), ..Capabilities::BASELINE };
        let format = Gstage::new(mode, capabilities).expect("offered");
        let made = |base, size| AddrSpace::<_, Gstage>::with_format(&hal, format, gpa(base), size, 0);
        let too_wide = |base, size| matches!(made(base, size), Err(CreateError::TooWide { gpa_bits, .. }) if gpa_bits == bits);
        assert!(too_wide(0, (1 << bits) + KIB4) && too_wide(1 << bits, KIB4) && too_wide(1 << 63, KIB4));
        let mut space = made(0, 1 << bits).expect("as wide as can be");
        space.map_alloc(gpa(0), 2 * KIB4, RW, true).expect("free");
        let last = gpa((1 << bits) - KIB4);
        space.map_alloc(last, KIB4, RW, false).expect("free");
        assert_eq!(space.handle_page_fault(last, WRITE), POPULATED, "the last page is one");
        space.write(gpa(8), &[7]).expect("mapped");
        let before = space.stats();
        for wide in [1 << bits, 1 << bits | 8, 1 << 60, 1 << 63 | 0x1000, !7, u64::MAX] {
            let at = gpa(wide);
            let outside = FaultError::OutsideSpace { gpa: at, space: space.range() };
            assert_eq!(space.handle_page_fault(at, WRITE), Err(outside), "{wide:#x}");
            let fault = info(wide, 0, READ, FaultCause::NotPresent, false);
            assert_eq!(space.handle_nested_fault(&fault), Err(outside));
            assert_eq!(space.translate(at), None);
            assert_eq!(space.translate_and_get_limit(at), None);
            let outside = QueryError::OutsideSpace { gpa: at, space: space.range() };
            assert_eq!(space.query(at), Err(outside));
            assert_eq!(space.region(at), None);
            assert!(space.read(at, &mut [0]).is_err() && space.write(at, &[1]).is_err());
            // The guest's paging is off, so that its linear address is the physical one; or it names such a root.
            let paging = GuestPageWalkInfo::riscv(0, 0, 0);
            let linear = GuestVirtAddr::new(wide);
            let size = info(wide, wide, READ, FaultCause::AddressSize, false);
            assert_eq!(space.translate_virt(&paging, linear, READ), Err(GuestWalkError::Nested(size)));
            assert_eq!(space.locate_fault(&paging, linear, READ), Ok(size));
            let page = at.align_down(KIB4);
            assert!(space.map_alloc(page, KIB4, RW, true).is_err());
            assert!(space.map_linear(page, hpa(0), KIB4, RW).is_err());
            assert!(space.map_trap(page, KIB4, crate::device::DeviceId(1)).is_err());
            assert!(space.unmap(page, KIB4).is_err() && space.protect(page, KIB4, READ).is_err());
            assert!(space.populate(page, KIB4).is_err() && space.discard(page, KIB4).is_err());
            assert!(space.pin(page, KIB4).is_err() && space.unpin(page, KIB4).is_err());
            assert!(space.migrate(page, KIB4).is_err() && space.collapse(page, KIB4).is_err());
        }
        let across = gpa((1 << bits) - KIB4);
        assert!(space.unmap(across, 2 * KIB4).is_err() && space.populate(across, 2 * KIB4).is_err());
        // A table of the guest's there: 44 bits of page number are 56 of address.
        if bits < 56 {
            let root = 1u64 << (bits - 12);
            let paging = GuestPageWalkInfo::riscv(8 << 60 | root, 0, 0);
            let size = info(1 << bits, 0, READ, FaultCause::AddressSize, true);
            assert_eq!(space.locate_fault(&paging, GuestVirtAddr::new(0), READ), Ok(size));
        }
        assert_eq!(space.stats(), before, "nothing came of it");
        let mut kept = [0];
        space.read(gpa(8), &mut kept).expect("mapped");
        assert_eq!(kept, [7]);
    }
}
