//! Copies of shared memory that come about page by page.

use super::paged::POPULATED;
use super::*;
use crate::error::{FaultError, MapError, MigrateError};
use crate::fault::FaultOutcome;

const COPIED: Result<FaultOutcome, FaultError> = Ok(FaultOutcome::Copied(LeafSize::Size4K));

fn space_on<F: Format>(hal: &HeapHal, format: F, tag: u16) -> Space<'_, F> {
    AddrSpace::with_format(hal, format, gpa(0), 4 * GIB1, tag).expect("a root")
}

/// Shared memory of `pages` pages, each of which has its number in front, and the space that writes to it.
fn image<F: Format>(hal: &HeapHal, format: F, pages: u64) -> (SharedMemory<&HeapHal>, Space<'_, F>) {
    let memory = SharedMemory::new(hal, pages * KIB4).expect("memory");
    let mut owner = space_on(hal, format, 1);
    owner.map_shared(gpa(0), &memory, 0, pages * KIB4, RW, true).expect("free");
    (0..pages).for_each(|page| owner.write_obj(gpa(page * KIB4), page + 1).expect("there"));
    (memory, owner)
}

/// What the first words of some pages are.
fn words<F: Format>(space: &Space<'_, F>, start: u64, pages: u64) -> Vec<u64> {
    (0..pages).map(|page| space.read_obj(gpa(start + page * KIB4)).expect("memory")).collect()
}

fn frames<F: Format>(spaces: &[&Space<'_, F>], memory: &SharedMemory<&HeapHal>) -> u64 {
    let own = |space: &&Space<'_, F>| super::paged::known(*space) + space.stats().shared_frames as u64;
    spaces.iter().map(own).sum::<u64>() + memory.frames()
}

fn whole_life<F: Format>(format: F) {
    let hal = HeapHal::new();
    let (memory, owner) = image(&hal, format, 8);
    let mut guest = space_on(&hal, format, 2);
    let start = MIB2 - 3 * KIB4;
    guest.map_private(gpa(start), &memory, 2 * KIB4, 6 * KIB4, RW).expect("free");
    let at = |page: u64| gpa(start + page * KIB4);
    assert_eq!(guest.handle_page_fault(at(0), MappingFlags::READ), POPULATED);
    let leaf = guest.query(at(0)).expect("there");
    assert_eq!((leaf.hpa, leaf.owned), (owner.translate(gpa(2 * KIB4)).expect("there"), false));
    assert!(!leaf.flags.contains(MappingFlags::WRITE), "{:?}", leaf.flags);
    assert_eq!(hal.in_use() as u64, frames(&[&owner, &guest], &memory));
    // The first write: one invalidation, and only then the copy can be seen.
    hal.record();
    assert_eq!(guest.handle_page_fault(at(0), MappingFlags::WRITE), COPIED);
    let events = hal.events();
    assert_eq!(
        lifetimes::count(&events, lifetimes::is_invalidation),
        1 + usize::from(format.fences_new_entries())
    );
    let copy = guest.query(at(0)).expect("there");
    assert!(copy.owned && copy.flags == RW && copy.hpa != leaf.hpa);
    let stored = events.iter().rposition(
        |event| matches!(event, crate::test_util::Event::Store(_, value) if format.address(*value) == copy.hpa),
    );
    let invalidated = events.iter().position(lifetimes::is_invalidation);
    assert!(invalidated < stored, "{events:x?}");
    assert_eq!(guest.handle_page_fault(at(0), MappingFlags::WRITE), Ok(FaultOutcome::Spurious));
    // A write to a page that is not there gets its copy at once.
    assert_eq!(guest.handle_page_fault(at(1), MappingFlags::WRITE), POPULATED);
    assert!(guest.query(at(1)).expect("there").owned);
    assert_eq!(words(&guest, start, 6), [3, 4, 5, 6, 7, 8]);
    guest.write_obj(at(0), 100u64).expect("there");
    guest.write_obj(at(2), 102u64).expect("there");
    owner.write_obj(gpa(2 * KIB4), 200u64).expect("there");
    owner.write_obj(gpa(5 * KIB4), 203u64).expect("there");
    assert_eq!(words(&guest, start, 6), [100, 4, 102, 203, 7, 8]);
    assert_eq!(words(&owner, 0, 8), [1, 2, 200, 4, 5, 203, 7, 8]);
    assert_eq!(hal.in_use() as u64, frames(&[&owner, &guest], &memory));
    // Flags that come back do not let the guest write to what it shares.
    guest.protect(gpa(start), 6 * KIB4, MappingFlags::READ).expect("mapped");
    guest.protect(gpa(start), 6 * KIB4, RW).expect("mapped");
    assert!(!guest.query(at(3)).expect("there").flags.contains(MappingFlags::WRITE));
    assert_eq!(guest.handle_page_fault(at(3), MappingFlags::WRITE), COPIED);
    assert_ne!(guest.translate(at(3)), owner.translate(gpa(5 * KIB4)));
    assert_ne!(guest.handle_page_fault(at(0), MappingFlags::WRITE), COPIED, "it has its copy");
    // Nor does a time without any access.
    guest.protect(at(4), KIB4, MappingFlags::empty()).expect("mapped");
    guest.protect(at(4), KIB4, RW).expect("mapped");
    assert!(!guest.query(at(4)).expect("there").flags.contains(MappingFlags::WRITE));
    assert_eq!(guest.handle_page_fault(at(4), MappingFlags::WRITE), COPIED);
    // What is given up is what the memory has; what is moved would be a copy.
    assert_eq!(guest.discard(at(0), 2 * KIB4), Ok(2));
    assert_eq!(words(&guest, start, 2), [200, 4]);
    let region = guest.region(at(0)).expect("there").range;
    assert_eq!(guest.migrate(at(0), KIB4), Err(MigrateError::NotOwned(region)));
    hal.record();
    guest.unmap(at(1), 3 * KIB4).expect("mapped");
    lifetimes::assert_freed_after_invalidation(&hal.events());
    assert_eq!(hal.in_use() as u64, frames(&[&owner, &guest], &memory));
    // The memory lives as long as somebody maps it.
    drop(owner);
    drop(memory);
    assert_eq!(guest.read_obj::<u64>(at(5)), Ok(8));
    guest.clear().expect("no pins");
    assert_eq!(hal.in_use() as u64, guest.stats().table.table_frames);
}

#[test]
fn a_private_page_is_the_memory_until_it_is_written_to() {
    on_all_formats!(whole_life);
}

/// The memory is one run of 2 MiB, read through one leaf.
fn large<F: Format>(format: F) {
    let hal = HeapHal::new();
    let (memory, owner) = image(&hal, format, 512);
    let mut guest = space_on(&hal, format, 2);
    guest.map_private(gpa(GIB1), &memory, 0, MIB2, RW).expect("free");
    assert_eq!(guest.populate(gpa(GIB1), MIB2), Ok(512));
    assert_eq!(leaves(&guest, GIB1, MIB2).len(), 1);
    assert_eq!(guest.handle_page_fault(gpa(GIB1 + 7 * KIB4), MappingFlags::WRITE), COPIED);
    let owned = guest.mappings(guest.range()).filter(|leaf| leaf.owned).count();
    assert_eq!((owned, leaves(&guest, GIB1, MIB2).len()), (1, 512));
    guest.write_obj(gpa(GIB1 + 7 * KIB4), 0u64).expect("there");
    assert_eq!(words(&owner, 0, 9), [1, 2, 3, 4, 5, 6, 7, 8, 9]);
    assert_eq!(words(&guest, GIB1, 9), [1, 2, 3, 4, 5, 6, 7, 0, 9]);
    // Given up, it is joined again, and the guest can write to none of it.
    assert_eq!(guest.discard(gpa(GIB1 + 7 * KIB4), KIB4), Ok(1));
    guest.populate(gpa(GIB1), MIB2).expect("memory");
    assert_eq!(guest.collapse(gpa(GIB1), MIB2), Ok(1));
    assert!(!guest.query(gpa(GIB1)).expect("there").flags.contains(MappingFlags::WRITE));
    assert_eq!(guest.handle_page_fault(gpa(GIB1), MappingFlags::WRITE), COPIED);
    assert_eq!(hal.in_use() as u64, frames(&[&owner, &guest], &memory));
}

#[test]
fn a_large_leaf_is_split_when_a_page_of_it_is_written_to() {
    on_all_formats!(large);
}

fn pinned_and_forked<F: Format>(format: F) {
    let hal = HeapHal::new();
    let (memory, owner) = image(&hal, format, 4);
    let mut guest = space_on(&hal, format, 2);
    guest.map_private(gpa(0), &memory, 0, 4 * KIB4, RW).expect("free");
    guest.populate(gpa(0), 4 * KIB4).expect("memory");
    // A device that writes must not write to the memory.
    guest.pin(gpa(KIB4), KIB4).expect("memory");
    let own: Vec<_> = guest.mappings(guest.range()).map(|leaf| leaf.owned).collect();
    assert_eq!(own, [false, true, false, false]);
    guest.unpin(gpa(KIB4), KIB4).expect("pinned");
    guest.write_obj(gpa(0), 100u64).expect("there");
    let mut child = guest.fork(3).expect("memory");
    child.write_obj(gpa(0), 200u64).expect("there");
    child.write_obj(gpa(2 * KIB4), 202u64).expect("there");
    guest.write_obj(gpa(3 * KIB4), 103u64).expect("there");
    assert_eq!(words(&owner, 0, 4), [1, 2, 3, 4]);
    assert_eq!(words(&guest, 0, 4), [100, 2, 3, 103]);
    assert_eq!(words(&child, 0, 4), [200, 2, 202, 4]);
    child.unmap(gpa(0), 4 * KIB4).expect("mapped");
    drop((owner, memory, guest));
    assert_eq!(child.stats().regions, 0);
    drop(child);
    assert_eq!(hal.in_use(), 0);
}

#[test]
fn a_pin_copies_and_a_fork_goes_on_copying() {
    on_all_formats!(pinned_and_forked);
}

fn every_allocation_may_fail<F: Format>(format: F) {
    for large in [false, true] {
        for n in 0.. {
            let hal = HeapHal::new();
            let (memory, owner) = image(&hal, format, 512);
            let mut guest = space_on(&hal, format, 2);
            hal.fail_after(Some(n));
            let mapped = guest.map_private(gpa(GIB1), &memory, 0, MIB2, RW);
            hal.fail_after(None);
            if mapped.is_err() {
                assert_eq!((mapped, guest.regions().count()), (Err(MapError::OutOfMemory), 0));
                assert_eq!(hal.in_use() as u64, frames(&[&owner, &guest], &memory));
                continue;
            }
            if large {
                guest.populate(gpa(GIB1), MIB2).expect("memory");
            }
            let before = guest.translate(gpa(GIB1));
            hal.fail_after(Some(n.saturating_sub(2)));
            let written = guest.handle_page_fault(gpa(GIB1), MappingFlags::WRITE);
            hal.fail_after(None);
            assert_eq!(hal.in_use() as u64, frames(&[&owner, &guest], &memory));
            if written.is_ok() {
                assert!(n > 2, "a frame and a table at the least");
                break;
            }
            assert_eq!(written, Err(FaultError::OutOfMemory(gpa(GIB1))));
            assert_eq!((guest.translate(gpa(GIB1)), guest.read_obj(gpa(GIB1))), (before, Ok(1u64)));
        }
    }
}

#[test]
fn every_allocation_of_a_copy_may_fail() {
    on_all_formats!(every_allocation_may_fail);
}

/// The target is what the source goes on with: it is copied by the write, and the source is the copy from there on.
fn overlapping<F: Format>(format: F) {
    let hal = HeapHal::new();
    let (memory, owner) = image(&hal, format, 4);
    let pattern: Vec<u8> = (0..16384).map(|at| (at % 251) as u8).collect();
    owner.write(gpa(0), &pattern).expect("there");
    let mut private = space_on(&hal, format, 2);
    private.map_private(gpa(0), &memory, 0, 4 * KIB4, RW).expect("free");
    let mut parent = space_on(&hal, format, 3);
    parent.map_alloc(gpa(0), 4 * KIB4, RW, false).expect("free");
    parent.write(gpa(0), &pattern).expect("there");
    let child = parent.fork(4).expect("memory");
    for (from, to, size) in [(0x238, 0x7fd, 0x700), (0x800, 0x1200, 0x1800), (0x3000, 0x2f00, 0x1000)] {
        for space in [&private, &child] {
            space.populate(gpa(0), 4 * KIB4).expect("memory");
            let mut expected = vec![0; pattern.len()];
            space.read(gpa(0), &mut expected).expect("there");
            (0..size).for_each(|at| expected[to + at] = expected[from + at]);
            let memory = space.memory();
            memory.copy_to(gpa(from as u64), &memory, gpa(to as u64), size as u64).expect("there");
            let mut found = vec![0; pattern.len()];
            space.read(gpa(0), &mut found).expect("there");
            let differs = found.iter().zip(&expected).position(|(found, expected)| found != expected);
            assert_eq!(differs, None, "{from:#x} to {to:#x}");
        }
    }
    for space in [&owner, &parent] {
        let mut found = vec![0; pattern.len()];
        space.read(gpa(0), &mut found).expect("there");
        assert_eq!(found, pattern, "nobody else sees it");
    }
}

#[test]
fn a_copy_onto_itself_reads_what_it_has_written() {
    on_all_formats!(overlapping);
}

#[test]
fn a_private_mapping_is_checked_like_a_shared_one() {
    let (hal, other) = (HeapHal::new(), HeapHal::new());
    let (memory, mut space) = image(&hal, Stage2::default(), 4);
    let mut map = |offset, size| space.map_private(gpa(GIB1), &memory, offset, size, RW);
    assert_eq!(map(0x800, KIB4), Err(MapError::UnalignedOffset(0x800)));
    let beyond = |offset, size| Err(MapError::BeyondBackend { offset, size, most: 4 * KIB4 });
    assert_eq!(map(4 * KIB4, KIB4), beyond(4 * KIB4, KIB4));
    assert_eq!(map(0, 5 * KIB4), beyond(0, 5 * KIB4));
    assert_eq!(map(KIB4, 3 * KIB4), Ok(()));
    assert!(matches!(map(0, KIB4), Err(MapError::AlreadyMapped { .. })));
    let elsewhere = SharedMemory::new(&other, KIB4).expect("memory");
    assert_eq!(space.map_private(gpa(0x10000), &elsewhere, 0, KIB4, RW), Err(MapError::OtherHost));
    let backend = space.region(gpa(GIB1)).expect("there").backend;
    assert_eq!(backend, Backend::Private { memory: SharedId(0), offset: KIB4 });
    assert!(std::format!("{}", space.dump()).contains("private copy of shared memory 0 + 0x1000"));
    // Write-only memory of stage 2: nothing can be shared of it.
    space.map_private(gpa(2 * GIB1), &memory, 0, KIB4, MappingFlags::WRITE).expect("free");
    space.populate(gpa(2 * GIB1), KIB4).expect("memory");
    assert!(space.query(gpa(2 * GIB1)).expect("there").owned);
}
