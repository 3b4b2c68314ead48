use super::{BLOCK, Layout, comfortable_memory, least_memory};
use slat_hv_protocol::MemoryMap;

const MAPS: [MemoryMap; 3] = [MemoryMap::AARCH64, MemoryMap::X86_64, MemoryMap::RISCV64];

/// What follows the last thing in RAM.
fn room(map: &MemoryMap) -> u64 {
    if *map == MemoryMap::RISCV64 { 32 << 20 } else { 0 }
}

#[test]
fn blobs_and_pool_are_aligned_and_apart() {
    for map in MAPS {
        let layout = Layout::new(&map, 33_000_001, 3_000_001, 128 << 20);
        assert_eq!(layout.kernel.address, map.blobs);
        for span in [layout.initrd, layout.pool] {
            assert_eq!(span.address % BLOCK, 0);
        }
        assert!(layout.kernel.address + layout.kernel.size <= layout.initrd.address);
        assert!(layout.initrd.address + layout.initrd.size <= layout.pool.address);
        assert!(layout.pool.size >= (128 << 20) + (32 << 20));
        assert_eq!(layout.pool.address + layout.pool.size + room(&map), map.ram + layout.machine_memory);
        assert_eq!(layout.machine_memory % BLOCK, 0);
    }
}

#[test]
fn a_recording_lies_behind_the_pool() {
    for map in MAPS {
        let plain = Layout::new(&map, BLOCK, 0, BLOCK);
        let layout = plain.with_recording();
        assert_eq!(layout.pool, plain.pool);
        assert_eq!(layout.recording.address, layout.pool.address + layout.pool.size);
        let end = layout.recording.address + layout.recording.size;
        assert_eq!(end + room(&map), map.ram + layout.machine_memory);
        assert_eq!(layout.offset(layout.kernel), map.blobs - map.ram);
    }
}

#[test]
fn a_trace_lies_behind_everything_else() {
    for map in MAPS {
        let plain = Layout::new(&map, BLOCK, 0, BLOCK);
        for before in [plain, plain.with_recording(), plain.with_image(5 << 20)] {
            let layout = before.with_trace();
            let same = [layout.pool, layout.recording, layout.image];
            assert_eq!(same, [before.pool, before.recording, before.image]);
            for span in same {
                assert!(span.address + span.size <= layout.trace.address);
            }
            assert_eq!((layout.trace.address % BLOCK, layout.machine_memory % BLOCK), (0, 0));
            let end = layout.trace.address + layout.trace.size;
            assert_eq!(end + room(&map), map.ram + layout.machine_memory);
        }
    }
}

#[test]
fn no_initrd_takes_no_room() {
    let layout = Layout::new(&MemoryMap::AARCH64, BLOCK, 0, BLOCK);
    assert_eq!(layout.initrd.size, 0);
    assert_eq!(layout.pool.address, MemoryMap::AARCH64.blobs + BLOCK);
}

#[test]
fn the_least_memory_counts_the_ram_disk_twice_and_room_to_work() {
    assert_eq!(least_memory(30 << 20, 3 << 20), 44 << 20);
    assert_eq!(comfortable_memory(30 << 20, 3 << 20, 0), 48 << 20);
    assert_eq!(comfortable_memory(30 << 20, 3 << 20, 32 << 20), 80 << 20);
}

#[test]
fn nothing_lies_on_the_device_tree_however_large_the_machine() {
    const MIB: u64 = 1 << 20;
    let map = MemoryMap::RISCV64;
    for pool_size in (2..4096).step_by(2).map(|mib| mib * MIB) {
        let plain = Layout::with_pool(&map, 31 * MIB, 3 * MIB, pool_size);
        let with_store = plain.with_recording().with_store(pool_size + 3);
        let all = with_store.with_trace();
        for layout in [plain, plain.with_recording(), plain.with_store(pool_size), with_store, all] {
            let end = map.ram + layout.machine_memory;
            // As QEMU 7.2 does it with a tree of 1 MiB: aligned down to 16 MiB, below 3 GiB.
            let tree = (end.min(3 << 30) - MIB) / (16 * MIB) * (16 * MIB);
            for span in [layout.kernel, layout.initrd, layout.pool, layout.recording, layout.store] {
                let is_apart = span.address + span.size <= tree || span.address >= tree + MIB;
                assert!(is_apart, "{span:?} with the tree at {tree:#x}");
                assert!(span.address + span.size <= end);
            }
        }
    }
}

#[test]
fn a_pool_can_be_smaller_than_the_guests() {
    for map in MAPS {
        let layout = Layout::with_pool(&map, BLOCK, BLOCK, 3 * BLOCK - 1);
        assert_eq!(layout.pool.size, 3 * BLOCK);
        assert_eq!(layout.pool.address, Layout::new(&map, BLOCK, BLOCK, 128 << 20).pool.address);
    }
}

#[test]
fn a_store_lies_behind_the_pool_and_the_recording() {
    for map in MAPS {
        let plain = Layout::with_pool(&map, BLOCK, BLOCK, 8 * BLOCK);
        for (layout, last) in
            [(plain, plain.pool), (plain.with_recording(), plain.with_recording().recording)]
        {
            let layout = layout.with_store(BLOCK + 1);
            assert_eq!(
                layout.store,
                slat_hv_protocol::Span { address: last.address + last.size, size: 2 * BLOCK }
            );
            assert_eq!(
                layout.store.address + layout.store.size + room(&map),
                map.ram + layout.machine_memory
            );
        }
    }
}
