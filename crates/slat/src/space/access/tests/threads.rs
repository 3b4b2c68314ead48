//! Accesses of the host beside faults of vCPUs, on threads.

use super::*;
use crate::test_util::cases;
use std::sync::Barrier;

/// A host thread and a vCPU meet on every page: one frame each, whoever comes first, and nothing written is lost.
#[test]
fn accesses_and_faults_that_race_share_one_frame() {
    let pages = cases(300) as u64;
    for format in ept_formats() {
        let hal = HeapHal::new();
        let mut space = space_of(&hal, format);
        space.map_alloc_with(gpa(0), pages * KIB4, RW, SMALL).expect("free");
        let before = hal.in_use() as u64;
        let barrier = Barrier::new(2);
        let guest = || {
            barrier.wait();
            for page in 0..pages {
                space.handle_page_fault(gpa(page * KIB4), WRITE).expect("lazy");
                // The guest writes where it was told.
                let frame = space.translate(gpa(page * KIB4)).expect("populated");
                hal.write(HostPhysAddr::new(frame.as_u64() + 8), &[page as u8 | 1]);
            }
        };
        let host = || {
            barrier.wait();
            for page in 0..pages {
                space.write_obj(gpa(page * KIB4), page + 1).expect("lazy");
                let counter = gpa(page * KIB4 + 16);
                let old = space.memory().atomic_swap(counter, 7u32);
                assert_eq!(old, Ok(0));
            }
        };
        std::thread::scope(|scope| {
            scope.spawn(guest);
            scope.spawn(host);
        });
        for page in 0..pages {
            assert_eq!(space.read_obj(gpa(page * KIB4)), Ok(page + 1));
            assert_eq!(space.read_obj(gpa(page * KIB4 + 8)), Ok(page as u8 | 1));
            assert_eq!(space.read_obj(gpa(page * KIB4 + 16)), Ok(7u32));
            assert!(space.query(gpa(page * KIB4)).is_ok_and(|mapping| mapping.dirty));
        }
        let stats = space.stats().table;
        assert_eq!(stats.owned_frames, pages);
        let tables = stats.table_frames - u64::from(format.geometry().root_tables);
        assert_eq!(hal.in_use() as u64, before + pages + tables, "losers gave all back");
    }
}

/// Two threads count in the same words of the guest.
#[test]
fn atomics_of_two_threads_lose_nothing() {
    let hal = HeapHal::new();
    let mut space = space_of(&hal, Ept::default());
    space.map_alloc_with(gpa(0), KIB4, RW, SMALL).expect("free");
    let rounds = cases(500) as u32;
    let count = || {
        let memory = space.memory();
        for _ in 0..rounds {
            let mut old = memory.atomic_load::<u32>(gpa(64)).expect("lazy");
            while let Err(now) = memory.atomic_compare_exchange(gpa(64), old, old + 1).expect("lazy") {
                old = now;
            }
        }
    };
    std::thread::scope(|scope| {
        scope.spawn(count);
        scope.spawn(count);
    });
    assert_eq!(space.read_obj(gpa(64)), Ok(2 * rounds));
}
