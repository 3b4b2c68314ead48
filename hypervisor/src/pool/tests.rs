use super::*;
use core::alloc::Layout;
use slat::CacheActions;

pub(crate) struct Nothing;

impl Maintenance for Nothing {
    fn invalidate(&self, _: &Invalidation<'_>) {}
    fn maintain_cache(&self, _: *mut u8, _: &CacheMaintenance) {}
    fn publish(&self) {}
    fn record(&self, _: Event) {}
    fn is_memory(&self, range: HostPhysRange) -> bool {
        range.end().as_u64() > 1 << 32
    }
}

/// A pool over `frames` frames of the test's own heap, which is leaked: the pool outlives the test's borrow.
pub(crate) fn pool(frames: usize, poison: bool) -> Pool<Nothing> {
    let layout =
        Layout::from_size_align(frames * 4096, (frames * 4096).next_power_of_two()).expect("a valid layout");
    // SAFETY: the layout is not empty.
    let memory = unsafe { std::alloc::alloc_zeroed(layout) };
    let span = Span { address: memory.expose_provenance() as u64, size: layout.size() as u64 };
    // SAFETY: the allocation is never freed and nobody else knows it; a process maps its memory "one to one".
    unsafe { Pool::new(span, poison, Nothing) }
}

fn give(pool: &Pool<Nothing>, start: HostPhysAddr, count: usize) {
    // SAFETY: the tests give back what they took, and keep no pointer.
    unsafe { pool.dealloc_frames(start, count) };
}

#[test]
fn what_is_not_a_power_of_two_leaves_the_rest_in_the_pool() {
    let pool = pool(512, false);
    let odd = pool.alloc_frames(3, 1).expect("512 are free");
    let rest = (0..509).map_while(|_| pool.alloc_frames(1, 1)).count();
    assert_eq!(rest, 509);
    assert_eq!(pool.alloc_frames(1, 1), None);
    assert!(odd.is_aligned(4096));
    assert_eq!(pool.counts(), Frames { taken: 512, zeroed: 0, returned: 0, peak: 512 });
}

#[test]
fn frames_come_back_in_other_groupings() {
    let pool = pool(1024, false);
    let block = pool.alloc_frames(512, 512).expect("1024 are free");
    assert!(block.is_aligned(2 << 20));
    for i in 0..512 {
        give(&pool, HostPhysAddr::new(block.as_u64() + i * 4096), 1);
    }
    let all = pool.alloc_frames(1024, 1).expect("everything merged again");
    give(&pool, all, 1000);
    give(&pool, HostPhysAddr::new(all.as_u64() + 1000 * 4096), 24);
    assert!(pool.alloc_frames(1024, 1024).is_some());
    let counts = pool.counts();
    assert_eq!((counts.taken, counts.returned, counts.peak), (512 + 1024 + 1024, 512 + 1024, 1024));
}

#[test]
fn alignment_beyond_the_size_is_kept() {
    let pool = pool(1024, false);
    let _odd = pool.alloc_frames(1, 1);
    let root = pool.alloc_frames(2, 16).expect("free");
    assert!(root.is_aligned(16 * 4096));
    assert_eq!(pool.alloc_frames(2048, 1), None);
    assert_eq!(pool.alloc_frames(0, 1), None);
    assert_eq!(pool.alloc_frames(usize::MAX, 1), None);
}

#[test]
fn returned_frames_are_poisoned() {
    let pool = pool(512, true);
    let frame = pool.alloc_frames(1, 1).expect("free");
    give(&pool, frame, 1);
    // SAFETY: the memory stays allocated (it is leaked), is initialised, and nobody writes to it now.
    let contents = unsafe { core::slice::from_raw_parts(pool.phys_to_virt(frame), 4096) };
    assert!(contents.iter().all(|&byte| byte == POISON));
}

#[test]
fn cache_maintenance_and_zeroing_are_counted() {
    let pool = pool(512, false);
    let start = pool.alloc_frames(8, 8).expect("free");
    pool.maintain_cache(&CacheMaintenance { start, frames: 8, actions: CacheActions::CLEAN_TO_POU });
    // SAFETY: the frames were just taken, and nobody uses them.
    unsafe { pool.zero_frames(start, 8) };
    // SAFETY: the memory stays allocated (it is leaked), is initialised, and nobody writes to it now.
    let contents = unsafe { core::slice::from_raw_parts(pool.phys_to_virt(start), 8 * 4096) };
    assert!(contents.iter().all(|&byte| byte == 0));
    assert_eq!((pool.cache_frames(), pool.counts().zeroed), (8, 8));
}

#[test]
fn what_is_memory_and_not_the_pools_is_the_hypervisors_own() {
    let memory = Span { address: 1 << 40, size: 0x10_000 };
    // SAFETY: nothing is taken from it.
    let pool = unsafe { Pool::new(memory, false, Nothing) };
    let protected =
        |start, size| pool.is_protected(HostPhysRange::new(HostPhysAddr::new(start), size).expect("a range"));
    assert!(!protected(0x900_0000, 0x1000), "a device");
    assert!(!protected(1 << 40, 0x10_000));
    assert!(protected((1 << 40) - 0x1000, 0x1000) && protected((1 << 40) + 0x10_000, 0x1000));
    assert!(protected((1 << 40) - 0x1000, 0x2000) && protected((1 << 40) + 0xf000, 0x2000));
}
