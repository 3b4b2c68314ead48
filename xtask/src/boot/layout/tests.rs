use super::{BLOCK, Layout, comfortable_memory, least_memory};
use slat_hv_protocol::MemoryMap;

const MAPS: [MemoryMap; 2] = [MemoryMap::AARCH64, MemoryMap::X86_64];

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
        assert_eq!(layout.pool.address + layout.pool.size, map.ram + layout.machine_memory);
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
        assert_eq!(layout.recording.address + layout.recording.size, map.ram + layout.machine_memory);
        assert_eq!(layout.offset(layout.kernel), map.blobs - map.ram);
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
    assert_eq!(comfortable_memory(30 << 20, 3 << 20), 48 << 20);
}
