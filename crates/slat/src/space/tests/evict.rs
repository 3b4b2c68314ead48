//! The clock of eviction.

use super::paged::{POPULATED, Paged, known, space_with, write};
use super::*;
use crate::error::FaultError;
use crate::test_util::MemoryPager;

/// Which pages of the first `count` are there.
fn resident<F: Format, P: Pager>(space: &Paged<'_, F, P>, count: u64) -> Vec<u64> {
    (0..count).filter(|page| space.translate(gpa(page * KIB4)).is_some()).collect()
}

/// The guest uses a page, as its hardware sees it.
fn use_page<F: Format, P: Pager>(space: &Paged<'_, F, P>, hal: &HeapHal, page: u64) {
    let (slot, _) = space.table.walk(gpa(page * KIB4));
    slot.entries.set_bits(hal, slot.index, space.format().accessed_bit());
}

fn clock<F: Format>(format: F) {
    let hal = HeapHal::new();
    let pager = MemoryPager::new();
    let mut space = space_with(&hal, format, &pager);
    space.map_paged(gpa(0), 0, 0, 8 * KIB4, RW).expect("free");
    space.populate(gpa(0), 8 * KIB4).expect("memory");
    assert_eq!((space.evict(0, 99), space.evict(9, 0)), (PagedOut::default(), PagedOut::default()));
    // Round robin where nobody says what was used.
    hal.record();
    assert_eq!(space.evict(2, 99).pages, 2);
    assert_eq!(lifetimes::count(&hal.events(), lifetimes::is_invalidation), 1);
    assert_eq!(resident(&space, 8), [2, 3, 4, 5, 6, 7]);
    space.populate(gpa(0), KIB4).expect("memory");
    assert_eq!(space.evict(1, 99).pages, 1, "it goes on where it stopped");
    assert_eq!(resident(&space, 8), [0, 3, 4, 5, 6, 7]);
    space.page_out(gpa(0), KIB4).expect("paged");
    assert_eq!(resident(&space, 8), [3, 4, 5, 6, 7]);
    if format.accessed_bit() != 0 {
        // What was used has a second chance, and is used again or not.
        [3, 4, 6].into_iter().for_each(|page| use_page(&space, &hal, page));
        assert_eq!(space.evict(2, 99).pages, 2);
        assert_eq!(resident(&space, 8), [3, 4, 6]);
        use_page(&space, &hal, 4);
        hal.record();
        assert_eq!(space.evict(1, 99).pages, 1);
        assert_eq!(lifetimes::count(&hal.events(), lifetimes::is_invalidation), 1, "marks and pages in one");
        assert_eq!(resident(&space, 8), [4, 6]);
        // All were used: the one after the hand goes in the second round.
        [4, 6].into_iter().for_each(|page| use_page(&space, &hal, page));
        assert_eq!(space.evict(1, 99).pages, 1);
        assert_eq!(resident(&space, 8).len(), 1);
        // A mark that goes takes an invalidation, or a CPU that remembers it would not set it again.
        let last = resident(&space, 8)[0];
        use_page(&space, &hal, last);
        hal.record();
        assert_eq!(space.evict(1, 1).pages, 0, "it was looked at, and that is all");
        assert_eq!(lifetimes::count(&hal.events(), lifetimes::is_invalidation), 1);
        assert!(!space.query(gpa(last * KIB4)).expect("there").accessed);
    }
    if format.accessed_bit() != 0 {
        // What the guest may not use any more has no second chance.
        let last = resident(&space, 8)[0];
        use_page(&space, &hal, last);
        space.protect(gpa(last * KIB4), KIB4, MappingFlags::empty()).expect("mapped");
        assert_eq!(space.evict(1, 1).pages, 1);
        space.protect(gpa(last * KIB4), KIB4, RW).expect("mapped");
    }
    let left = resident(&space, 8).len() as u64;
    assert_eq!(space.evict(99, u64::MAX).pages, left);
    assert_eq!(space.evict(99, u64::MAX), PagedOut::default());
    assert_eq!(space.table.fingerprint(), vec![], "no table is left either");
    assert_eq!(hal.in_use() as u64, known(&space));
}

#[test]
fn a_clock_with_a_second_chance_where_the_hardware_tells() {
    on_all_formats!(clock);
}

/// Other regions, in the same tables and between; pages without access; a wrap in the middle of a table.
fn among_others<F: Format>(format: F) {
    let hal = HeapHal::new();
    let pager = MemoryPager::new();
    let mut space = space_with(&hal, format, &pager);
    space.map_alloc(gpa(0), 2 * KIB4, RW, true).expect("free");
    space.map_paged(gpa(2 * KIB4), 0, 0, 4 * KIB4, RW).expect("free");
    space.map_linear(gpa(8 * KIB4), hpa(1 << 30), KIB4, RW).expect("free");
    space.map_paged(gpa(9 * KIB4), 1, 0, 3 * KIB4, RW).expect("free");
    space.map_paged(gpa(2 * GIB1), 2, 0, 2 * KIB4, RW).expect("free");
    let all = [2, 3, 4, 5, 9, 10, 11, 2 * GIB1 / KIB4, 2 * GIB1 / KIB4 + 1];
    all.iter().for_each(|page| write(&space, page * KIB4, *page));
    let cleared = |space: &mut Paged<'_, F, _>| {
        for page in all {
            let (slot, entry) = space.table.walk(gpa(page * KIB4));
            let accessed = space.format().accessed_bit();
            slot.entries.invert(&hal, slot.index..slot.index + 1, entry & accessed);
        }
    };
    cleared(&mut space);
    space.protect(gpa(3 * KIB4), KIB4, MappingFlags::empty()).expect("mapped");
    space.pin(gpa(10 * KIB4), KIB4).expect("memory");
    assert_eq!(space.evict(1, 99).pages, 1);
    // Round by the end, and back into the first table: all but what is pinned.
    let frames = hal.in_use();
    let out = space.evict(99, u64::MAX);
    assert_eq!((out.pages, out.written, out.refused), (7, 7, 0));
    assert!(hal.in_use() + 7 < frames, "the tables of the last region went too");
    assert_eq!(resident(&space, 12), [0, 1, 8, 10]);
    assert_eq!(hal.in_use() as u64, known(&space));
    space.unpin(gpa(10 * KIB4), KIB4).expect("pinned");
    space.protect(gpa(3 * KIB4), KIB4, RW).expect("mapped");
    for page in all {
        assert_eq!(space.read_obj::<u64>(gpa(page * KIB4)), Ok(page));
    }
    // Refused: it stays, and the hand has moved on.
    pager.refuse(Some(BackendError::OutOfMemory));
    cleared(&mut space);
    all.iter().for_each(|page| write(&space, page * KIB4, *page));
    cleared(&mut space);
    let before = space.table.fingerprint();
    let out = space.evict(99, u64::MAX);
    assert_eq!((out.pages, out.refused), (0, 9));
    assert_eq!(space.table.fingerprint(), before);
    pager.refuse(None);
    assert_eq!(space.evict(99, u64::MAX).pages, 9);
}

#[test]
fn eviction_leaves_everything_else_alone() {
    on_all_formats!(among_others);
}

/// Memory twice as large as what the host has, in an order that revisits and skips.
fn over_commit<F: Format>(format: F) {
    const PAGES: u64 = 1200;
    let hal = HeapHal::new();
    let pager = MemoryPager::new();
    let mut space = space_with(&hal, format, &pager);
    space.map_paged(gpa(MIB2 - 40 * KIB4), 5, 0, PAGES * KIB4, RW).expect("free");
    let limit = hal.in_use() + PAGES as usize / 2;
    hal.limit_in_use(Some(limit));
    let (mut expected, mut random, mut evicted) = (vec![0u64; PAGES as usize], 1u64, 0);
    for step in 0..3 * PAGES {
        random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(step);
        let page = (random >> 33) % PAGES;
        let at = gpa(MIB2 - 40 * KIB4 + page * KIB4 + page % 512 * 8);
        let access = if random >> 62 == 0 { MappingFlags::READ } else { MappingFlags::WRITE };
        while space.translate(at).is_none() {
            match space.handle_page_fault(at, access) {
                Err(FaultError::OutOfMemory(_)) => {
                    let out = space.evict(8, u64::MAX);
                    assert!(out.pages > 0);
                    evicted += out.pages;
                }
                answer => assert_eq!(answer, POPULATED),
            }
        }
        let known_word = &mut expected[page as usize];
        assert_eq!(space.read_obj::<u64>(at), Ok(*known_word));
        if access == MappingFlags::WRITE {
            *known_word = random;
            space.write_obj(at, random).expect("there");
        }
        assert!(hal.in_use() <= limit);
    }
    assert!(evicted > PAGES && pager.page_ins() as u64 > PAGES, "{evicted} pages were evicted");
    assert_eq!(hal.in_use() as u64, known(&space));
    let dropped = evicted > pager.page_outs() as u64;
    assert_eq!(
        dropped,
        format.dirty_bit() != 0,
        "what was only read goes without a word, where that is known"
    );
}

#[test]
fn memory_beyond_what_the_host_has_keeps_its_contents() {
    on_all_formats!(over_commit);
}
