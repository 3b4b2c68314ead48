//! What a balloon takes comes back as zeroes.

use super::*;
use crate::device::DeviceId;
use crate::error::DiscardError;
use crate::fault::FaultOutcome;

fn whole_life<F: Format>(format: F) {
    let hal = HeapHal::new();
    let mut space = AddrSpace::with_format(&hal, format, gpa(0), 4 * GIB1, 1).expect("a root");
    space.map_alloc(gpa(0), 2 * MIB2, RW, true).expect("free");
    let full = hal.in_use();
    let first = space.translate(gpa(KIB4)).expect("populated");
    hal.write(first, &[1; 8]);
    // In the middle of a large leaf.
    hal.record();
    assert_eq!(space.discard(gpa(KIB4), 2 * KIB4), Ok(2));
    let events = hal.events();
    lifetimes::assert_freed_after_invalidation(&events);
    assert_eq!(lifetimes::count(&events, lifetimes::is_invalidation), 1);
    assert_eq!(space.regions().count(), 1, "the region stays");
    let translations = [0, 1, 2, 3].map(|page| space.translate(gpa(page * KIB4)).is_some());
    assert_eq!(translations, [true, false, false, true]);
    assert_eq!(hal.in_use(), full + 1 - 2, "a table more for the split");
    let populated = Ok(FaultOutcome::Populated(LeafSize::Size4K));
    assert_eq!(space.handle_page_fault(gpa(KIB4), MappingFlags::READ), populated);
    let again = space.translate(gpa(KIB4)).expect("populated");
    assert_eq!(hal.read(again, 8), [0; 8]);
    // Tables that nothing is left in go too; pages without access lose their frames as well.
    space.protect(gpa(MIB2), KIB4, MappingFlags::empty()).expect("mapped");
    assert_eq!(space.discard(gpa(0), 2 * MIB2), Ok(1023));
    let tables = space.stats().table;
    assert_eq!((tables.leaves_4k, tables.leaves_2m, tables.owned_frames), (0, 0, 0));
    assert_eq!(hal.in_use() as u64, tables.table_frames + space.stats().region_frames as u64);
    assert_eq!(space.regions().count(), 3);
    hal.record();
    assert_eq!(space.discard(gpa(0), 2 * MIB2), Ok(0));
    assert_eq!(lifetimes::count(&hal.events(), lifetimes::is_invalidation), 0, "nothing to forget");
    assert_eq!(
        space.handle_page_fault(gpa(MIB2 + KIB4), MappingFlags::READ),
        Ok(FaultOutcome::Populated(LeafSize::Size4K)),
        "the region no longer covers the whole block"
    );
}

#[test]
fn discarded_pages_come_back_as_zeroes() {
    on_all_formats!(whole_life);
}

#[test]
fn what_cannot_be_discarded_is_said() {
    let hal = HeapHal::new();
    let mut space = space(&hal);
    let shared = SharedMemory::new(&hal, KIB4).expect("memory");
    space.map_alloc(gpa(0), KIB4, RW, true).expect("free");
    space.map_linear(gpa(KIB4), hpa(1 << 30), KIB4, RW).expect("free");
    space.map_trap(gpa(2 * KIB4), KIB4, DeviceId(0)).expect("free");
    space.map_shared(gpa(3 * KIB4), &shared, 0, KIB4, RW, true).expect("free");
    let before = space.table.fingerprint();
    for page in 1..4 {
        let region = GuestPhysRange::new(gpa(page * KIB4), KIB4).expect("valid");
        assert_eq!(space.discard(gpa(page * KIB4), KIB4), Err(DiscardError::NotOwned(region)));
    }
    let first = GuestPhysRange::new(gpa(KIB4), KIB4).expect("valid");
    assert_eq!(space.discard(gpa(0), 4 * KIB4), Err(DiscardError::NotOwned(first)));
    assert_eq!(space.discard(gpa(4 * KIB4), KIB4), Err(DiscardError::NotMapped(gpa(4 * KIB4))));
    assert!(matches!(space.discard(gpa(0), 0), Err(DiscardError::BadRange(_))));
    assert_eq!(space.table.fingerprint(), before);
    space.map_alloc(gpa(MIB2), MIB2, RW, true).expect("free");
    let before = space.table.fingerprint();
    hal.fail_after(Some(0));
    assert_eq!(space.discard(gpa(MIB2), KIB4), Err(DiscardError::OutOfMemory));
    assert_eq!(space.table.fingerprint(), before);
    assert_eq!(space.discard(gpa(MIB2), MIB2), Ok(512), "a whole leaf needs no memory");
}

#[test]
fn a_forgotten_debt_is_discharged_with_the_next_discard() {
    let hal = HeapHal::new();
    let mut space = space(&hal);
    space.map_alloc(gpa(0), 4 * KIB4, RW, true).expect("free");
    let mut debt = space.defer();
    debt.unmap(gpa(0), KIB4).expect("mapped");
    core::mem::forget(debt);
    let before = hal.in_use();
    assert_eq!(space.discard(gpa(2 * KIB4), KIB4), Ok(1));
    assert_eq!(hal.in_use(), before - 2);
}
