//! What a space takes of its host: tables, memory for regions, and nothing for what nobody has touched.

use slat::format::Format;
use slat::format::ept::{self, Ept};
use slat::format::gstage::{self, Gstage};
use slat::format::npt::{self, Npt};
use slat::format::stage2::{self, Stage2};
use slat::test_util::HeapHal;
use slat::{AddrSpace, GuestPhysAddr, HostPhysAddr, MappingFlags, PAGE_SIZE};

const GIB: u64 = 1 << 30;
const RW: MappingFlags = MappingFlags::READ.union(MappingFlags::WRITE);
/// The most bytes for a region, once there are enough of them to share a frame.
const REGION_BYTES: usize = 64;

fn space<F: Format>(hal: &HeapHal, format: F) -> AddrSpace<&HeapHal, F> {
    AddrSpace::with_format(hal, format, GuestPhysAddr::new(0), 4 * GIB, 1).expect("a root")
}

fn stage2() -> Stage2 {
    let features = stage2::Features { pa_bits: 48, ..stage2::Features::BASELINE };
    Stage2::new(features, Some(48)).expect("48 bits are within the width of the CPU")
}

fn ept() -> Ept {
    let ept_vpid_cap = 1 << 6 | 1 << 14 | 1 << 16 | 1 << 17;
    let capabilities = ept::Capabilities { ept_vpid_cap, ..ept::Capabilities::BASELINE };
    Ept::new(capabilities, 4).expect("the capabilities cover four levels")
}

fn npt() -> Npt {
    let capabilities = npt::Capabilities {
        physical_bits: 48,
        leaf_1g: true,
        no_execute: true,
        asids: 64,
        accessed_dirty: false,
    };
    Npt::new(capabilities, 4).expect("48 bits are within the width of the CPU")
}

/// A root of so many frames, one table each for 512 GiB and for 1 GiB, and one for each 2 MiB of 1 GiB.
fn takes_one_table_for_2_mib<F: Format>(format: F, root: u64) {
    let hal = HeapHal::new();
    let mut space = space(&hal, format);
    // Off by a page, so that no larger leaf fits.
    let hpa = HostPhysAddr::new(GIB + PAGE_SIZE);
    space.map_linear(GuestPhysAddr::new(0), hpa, GIB, RW).expect("free");
    let stats = space.stats();
    assert_eq!(stats.table.leaves_4k, GIB / PAGE_SIZE);
    assert_eq!(stats.table.table_frames, root + 1 + 1 + 512);
    assert_eq!(hal.in_use(), stats.table.table_frames as usize + stats.region_frames, "nothing beside that");
}

#[test]
fn a_gib_of_small_leaves_takes_515_tables_in_four_levels() {
    takes_one_table_for_2_mib(stage2(), 1);
    takes_one_table_for_2_mib(ept(), 1);
    takes_one_table_for_2_mib(npt(), 1);
    // The root of the G-stage is four frames.
    let capabilities =
        gstage::Capabilities { modes: gstage::Modes::all(), vmid_bits: 14, ..gstage::Capabilities::BASELINE };
    takes_one_table_for_2_mib(Gstage::new(gstage::Mode::Sv48x4, capabilities).expect("offered"), 4);
}

#[test]
fn a_region_that_nobody_touched_takes_no_table() {
    let hal = HeapHal::new();
    let mut space = space(&hal, stage2());
    let empty = space.stats();
    assert_eq!((empty.table.table_frames, empty.region_frames, hal.in_use()), (1, 0, 1), "the root");
    space.map_alloc(GuestPhysAddr::new(GIB), 2 * GIB, RW, false).expect("free");
    let stats = space.stats();
    assert_eq!(stats.table, empty.table, "no table and no frame");
    assert_eq!((stats.region_frames, hal.in_use()), (1, 2), "the region itself");
}

/// Frames for `count` regions, of which every second page is one, inserted in the order of `place`.
fn region_frames(count: u64, place: impl Fn(u64) -> u64) -> usize {
    let hal = HeapHal::new();
    let mut space = space(&hal, stage2());
    for index in 0..count {
        let gpa = GuestPhysAddr::new(2 * place(index) * PAGE_SIZE);
        space.map_alloc(gpa, PAGE_SIZE, RW, false).expect("free");
    }
    let stats = space.stats();
    assert_eq!(stats.regions as u64, count);
    assert_eq!(hal.in_use(), stats.table.table_frames as usize + stats.region_frames);
    stats.region_frames
}

#[test]
fn a_region_takes_at_most_64_bytes() {
    assert_eq!(region_frames(1, |index| index), 1, "one frame is the least");
    for count in [1_000, 100_000] {
        let ascending = region_frames(count, |index| index);
        let descending = region_frames(count, |index| count - 1 - index);
        // 7919 is a prime that divides neither count, so its multiples meet every place once.
        let scattered = region_frames(count, |index| index * 7919 % count);
        let most = count as usize * REGION_BYTES / PAGE_SIZE as usize;
        for (order, frames) in
            [("ascending", ascending), ("descending", descending), ("scattered", scattered)]
        {
            assert!(frames <= most, "{count} regions, {order}: {frames} frames instead of {most}");
        }
    }
}
