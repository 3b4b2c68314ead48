//! Mapping, unmapping, protecting and asking, on every geometry.

use super::*;
use crate::addr::GuestPhysRange;
use crate::space::AllocOptions;
use crate::space::regions::LEAF;

#[test]
fn linear_mappings_take_the_largest_leaves() {
    for format in formats() {
        let hal = HeapHal::new();
        let mut space = Space::with_format(&hal, format, gpa(0), 8 * GIB1, 0).expect("a root");
        // 1 GiB-aligned in the middle, ragged at both ends.
        space
            .map_linear(gpa(GIB1 - MIB2 - KIB4), hpa(5 * GIB1 - MIB2 - KIB4), GIB1 + 2 * MIB2 + 2 * KIB4, RW)
            .expect("free");
        let stats = space.stats().table;
        let giant = u64::from(format.largest_leaf() == LeafSize::Size1G);
        assert_eq!((stats.leaves_1g, stats.leaves_4k), (giant, 2), "{format:?}");
        assert_eq!(stats.leaves_2m, 2 + (1 - giant) * 512, "{format:?}");
        assert_eq!(stats.owned_frames, 0);
        for at in [GIB1 - MIB2 - KIB4, GIB1 - MIB2 + 5, GIB1, 2 * GIB1 - 1, 2 * GIB1 + MIB2 + KIB4 - 1] {
            assert_eq!(space.translate(gpa(at)), Some(hpa(at + 4 * GIB1)), "{at:#x}");
        }
        assert_eq!(space.translate(gpa(2 * GIB1 + MIB2 + KIB4)), None);
    }
}

#[test]
fn misaligned_linear_mappings_take_small_leaves() {
    let hal = HeapHal::new();
    let mut space = space(&hal);
    space.map_linear(gpa(0), hpa(0x1000), 2 * MIB2, RW).expect("free");
    assert_eq!(space.stats().table.leaves_4k, 1024);
    assert_eq!(space.translate(gpa(MIB2 + 0x345)), Some(hpa(MIB2 + 0x1345)));
}

#[test]
fn populating_falls_back_to_what_the_host_has() {
    let hal = HeapHal::new();
    let mut space = space(&hal);
    let giant = AllocOptions { populate: true, largest_leaf: LeafSize::Size1G, ..AllocOptions::default() };
    hal.limit_runs(Some(512));
    space.map_alloc_with(gpa(GIB1), GIB1, RWX, giant).expect("in 2 MiB leaves");
    let stats = space.stats().table;
    assert_eq!((stats.leaves_1g, stats.leaves_2m, stats.owned_frames), (0, 512, GIB1 / KIB4));
    space.clear().expect("no pins");
    hal.limit_runs(Some(1));
    let mut small = Space::with_format(&hal, Stage2::default(), gpa(0), GIB1, 1).map(drop);
    assert_eq!(small, Err(CreateError::OutOfMemory), "the concatenated root is two frames in one run");
    let three = Stage2::new(Features { pa_bits: 48, ..Features::BASELINE }, Some(39)).expect("in range");
    small = Space::with_format(&hal, three, gpa(0), GIB1, 1).map(|mut space| {
        space.map_alloc(gpa(0), MIB2, RWX, true).expect("in 4 KiB leaves");
        assert_eq!(space.stats().table.leaves_4k, 512);
    });
    assert_eq!(small, Ok(()));
}

#[test]
fn empty_tables_go_back_and_block_nothing() {
    for format in formats() {
        let hal = HeapHal::new();
        let mut space = Space::with_format(&hal, format, gpa(0), 8 * GIB1, 0).expect("a root");
        space.map_alloc(gpa(0), KIB4, RWX, true).expect("free");
        let regions = space.stats().region_frames;
        space.unmap(gpa(0), KIB4).expect("mapped");
        let root_tables = u64::from(format.geometry().root_tables);
        assert_eq!(space.stats().table.table_frames, root_tables, "{format:?}");
        assert_eq!(hal.in_use() as u64, root_tables + regions as u64);
        space.map_linear(gpa(0), hpa(GIB1), GIB1, RW).expect("free");
        let largest = space.query(gpa(0)).expect("mapped").size;
        assert_eq!(largest, format.largest_leaf(), "no leftover table is in the way");
        space.unmap(gpa(0x5000), KIB4).expect("mapped");
        assert_eq!(space.translate(gpa(0x4fff)), Some(hpa(GIB1 + 0x4fff)));
        assert_eq!(space.translate(gpa(0x5000)), None);
        assert_eq!(space.translate(gpa(GIB1 - 1)), Some(hpa(2 * GIB1 - 1)));
        space.unmap(gpa(0), 0x5000).expect("mapped");
        space.unmap(gpa(0x6000), GIB1 - 0x6000).expect("mapped");
        assert_eq!(space.stats().table.table_frames, root_tables, "{format:?}");
    }
}

#[test]
fn regions_split_and_join() {
    let hal = HeapHal::new();
    let mut space = space(&hal);
    let names = |space: &Space<'_>| -> Vec<String> {
        space.regions().map(|region| std::format!("{} {}", region.range, region.flags)).collect()
    };
    space.map_linear(gpa(0x1000), hpa(0x11000), 0x4000, RW).expect("free");
    space.map_linear(gpa(0x5000), hpa(0x15000), 0x1000, RW).expect("free");
    assert_eq!(names(&space), ["0x1000..0x6000 rw--"], "it continues");
    space.map_linear(gpa(0x6000), hpa(0x20000), 0x1000, RW).expect("free");
    assert_eq!(space.regions().count(), 2, "another place in host memory");
    space.protect(gpa(0x2000), 0x1000, MappingFlags::READ).expect("mapped");
    assert_eq!(names(&space)[..3], ["0x1000..0x2000 rw--", "0x2000..0x3000 r---", "0x3000..0x6000 rw--"]);
    assert_eq!(
        space.region(gpa(0x3000)).map(|region| region.backend),
        Some(Backend::Linear { hpa: hpa(0x13000) })
    );
    space.protect(gpa(0x2000), 0x1000, RW).expect("mapped");
    assert_eq!(space.regions().count(), 2, "uniform again");
    space.unmap(gpa(0x4000), 0x2800 & !0xfff).expect("across two regions");
    assert_eq!(names(&space), ["0x1000..0x4000 rw--", "0x6000..0x7000 rw--"]);
    for (at, there) in [(0x1000, true), (0x3fff, true), (0x4000, false), (0x5fff, false), (0x6000, true)] {
        assert_eq!(space.translate(gpa(at)).is_some(), there, "{at:#x}");
        assert_eq!(space.region(gpa(at)).is_some(), there, "{at:#x}");
    }
}

#[test]
fn a_space_takes_many_regions_and_gives_their_memory_back() {
    let hal = HeapHal::new();
    let mut space = space(&hal);
    for page in (0..2000).rev() {
        space.map_alloc(gpa(page * 2 * KIB4), KIB4, RW, false).expect("free");
    }
    let stats = space.stats();
    assert_eq!(stats.regions, 2000);
    assert!(stats.region_frames * 4096 / stats.regions <= 64, "{} frames", stats.region_frames);
    assert_eq!(stats.table.table_frames, 2, "lazy regions take no table");
    for page in 0..2000 {
        assert!(
            space.region(gpa(page * 2 * KIB4)).is_some()
                && space.region(gpa((page * 2 + 1) * KIB4)).is_none()
        );
    }
    space.clear().expect("no pins");
    assert_eq!(space.stats().region_frames, 0);
}

/// Splitting a region takes room for two more, wherever the node that they are in happens to be full.
#[test]
fn regions_split_when_their_memory_is_full() {
    for count in LEAF - 4..=LEAF + 2 {
        let hal = HeapHal::new();
        let mut space = space(&hal);
        for region in 0..count as u64 {
            space.map_alloc(gpa(region * 4 * KIB4), 3 * KIB4, RW, false).expect("free");
        }
        assert_eq!(space.stats().region_frames == 1, count <= LEAF, "{count}");
        space.protect(gpa(KIB4), KIB4, MappingFlags::READ).expect("mapped");
        assert_eq!(space.regions().count(), count + 2);
        assert_eq!(space.stats().region_frames == 1, count + 2 <= LEAF, "{count}");
        let unmapped = space.unmap(gpa(4 * KIB4 + KIB4), KIB4);
        assert_eq!((unmapped, space.regions().count()), (Ok(()), count + 3));
        let last = gpa((count as u64 - 1) * 4 * KIB4 + KIB4);
        space.protect(last, KIB4, MappingFlags::READ).expect("mapped");
        assert_eq!(space.regions().count(), count + 5);
        space.unmap(gpa(0), KIB4).expect("mapped");
        assert_eq!(space.regions().next().map(|region| region.range.start()), Some(gpa(KIB4)));
    }
}

#[test]
fn the_limit_is_what_is_contiguous() {
    let hal = HeapHal::new();
    let mut space = space(&hal);
    // Two regions that continue each other, then one that does not.
    space.map_linear(gpa(0x1000), hpa(0x8_1000), 0x2000, RW).expect("free");
    space.map_linear(gpa(0x3000), hpa(0x8_3000), 0x1000, MappingFlags::READ).expect("free");
    space.map_linear(gpa(0x4000), hpa(0x9_0000), 0x1000, RW).expect("free");
    assert_eq!(space.translate_and_get_limit(gpa(0x1234)), Some((hpa(0x8_1234), 0x2dcc)));
    assert_eq!(space.translate_and_get_limit(gpa(0x4fff)), Some((hpa(0x9_0fff), 1)));
    assert_eq!(space.translate_and_get_limit(gpa(0x5000)), None);
    // Frames of the host are contiguous only by accident: the region has 3 pages, the limit is one.
    space.map_alloc(gpa(0x10_0000), 0x3000, RW, true).expect("free");
    let (_, limit) = space.translate_and_get_limit(gpa(0x10_0010)).expect("populated");
    assert_eq!(limit, 0xff0);
    space.map_linear(gpa(GIB1), hpa(0), GIB1, RW).expect("free");
    assert_eq!(space.translate_and_get_limit(gpa(GIB1 + 5)), Some((hpa(5), GIB1 - 5)));
    space.protect(gpa(GIB1 + MIB2), KIB4, MappingFlags::empty()).expect("mapped");
    assert_eq!(space.translate_and_get_limit(gpa(GIB1 + 5)), Some((hpa(5), MIB2 - 5)));
}

#[test]
fn a_query_tells_the_whole_leaf() {
    let hal = HeapHal::new();
    let mut space = space(&hal);
    let device = RW | MappingFlags::DEVICE;
    space.map_linear(gpa(0x900_0000), hpa(0x900_0000), 0x1000, device).expect("free");
    let mapping = space.query(gpa(0x900_0123)).expect("mapped");
    assert_eq!((mapping.gpa, mapping.hpa, mapping.flags), (gpa(0x900_0000), hpa(0x900_0000), device));
    assert_eq!((mapping.size, mapping.owned), (LeafSize::Size4K, false));
    space.map_alloc(gpa(MIB2), 2 * MIB2, RWX, true).expect("free");
    let range = GuestPhysRange::new(gpa(MIB2 + 0x5000), 0x800_0000 + 0x20_0000).expect("valid");
    let found: Vec<_> = space.mappings(range).map(|mapping| (mapping.gpa, mapping.size)).collect();
    assert_eq!(found, [(gpa(MIB2), LeafSize::Size2M), (gpa(2 * MIB2), LeafSize::Size2M)]);
    let all = GuestPhysRange::new(gpa(0), u64::MAX).expect("valid");
    assert_eq!(space.mappings(all).count(), 3, "cut to the space");
}

#[test]
fn a_space_describes_itself() {
    let hal = HeapHal::new();
    let mut space = space(&hal);
    space.map_linear(gpa(0x900_0000), hpa(0x900_0000), 0x3000, RW | MappingFlags::DEVICE).expect("free");
    space.map_alloc(gpa(0x4000_0000), 4 * MIB2, RWX, false).expect("free");
    space.handle_page_fault(gpa(0x4000_0000), MappingFlags::READ).expect("lazy");
    space.protect(gpa(0x900_1000), 0x1000, MappingFlags::empty()).expect("mapped");
    let text = space.dump().to_string();
    let lines: Vec<_> = text.lines().collect();
    assert!(lines[0].starts_with("space 0x0..0x200000000, root 0x80000000, 3 levels, tag 5"), "{text}");
    assert_eq!(lines[1], "  0x9000000..0x9001000 rw-- device linear -> 0x9000000");
    assert_eq!(lines[2], "    0x9000000..0x9001000 -> 0x9000000 rw-- device 1 x 4K");
    assert_eq!(lines[4], "    0x9001000..0x9002000 -> 0x9001000 ---- 1 x 4K", "{text}");
    assert!(lines[7].starts_with("  0x40000000..0x40800000 rwxu alloc, leaves up to 2M"), "{text}");
    assert!(lines[8].ends_with("rwx- 1 x 2M owned"), "{text}");
    let debug = std::format!("{space:?}");
    assert!(debug.contains("root: HostPhysAddr(0x80000000)") && debug.contains("regions: ["), "{debug}");
    assert_eq!(space.root_register(), 0x0005_0000_8000_0000, "VMID and base");
}

#[test]
fn several_regions_at_once_give_everything_back() {
    for count in 2..5 {
        let hal = HeapHal::new();
        let mut space = space(&hal);
        for region in 0..count {
            let flags = if region % 2 == 0 { RW } else { RWX };
            let options =
                AllocOptions { populate: true, largest_leaf: LeafSize::Size4K, ..AllocOptions::default() };
            space.map_alloc_with(gpa(region * MIB2), MIB2, flags, options).expect("free");
        }
        let owned = space.stats().table.owned_frames;
        let before = hal.in_use() as u64;
        space.unmap(gpa(0), count * MIB2).expect("mapped");
        assert_eq!(hal.in_use() as u64, before - owned - count - 1, "pages, their tables, the regions");
        assert_eq!(owned, 512 * count);
    }
}
