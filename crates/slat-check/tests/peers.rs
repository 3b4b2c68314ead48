//! What went wrong elsewhere and must not go wrong here, one test for each behaviour. Where a sequence of operations is
//! enough, the driver judges it by all of its checks.

use slat::format::ept::{Capabilities, Ept};
use slat::format::gstage::{self, Gstage};
use slat::format::{Format, stage2::Stage2};
use slat::test_util::HeapHal;
use slat::{AddrSpace, GuestPhysAddr, HostPhysAddr, LeafSize, MapError, MappingFlags, PAGE_SIZE};
use slat_check::driver::Settings;
use slat_check::operation::{BatchEnd, Command, Operation, Step};
use slat_check::run::platforms;
use slat_check::shape::{Shape, Span};

const RW: MappingFlags = MappingFlags::READ.union(MappingFlags::WRITE);
const RWX: MappingFlags = MappingFlags::PERMISSIONS;
const EDGE: u64 = (1 << 30) + (2 << 20);
const MIB2: u64 = 2 << 20;

fn span(first: u8, intervals: u8) -> Span {
    Span { first, length: intervals - 1 }
}

fn alloc(span: Span, flags: MappingFlags, populate: bool, largest: LeafSize) -> Operation {
    Operation::MapAlloc { span, flags, populate, largest, around: LeafSize::Size4K }
}

fn linear(span: Span, flags: MappingFlags) -> Operation {
    Operation::MapLinear { span, flags, shift: 0 }
}

fn access(cpu: u8, page: u8, access: MappingFlags) -> Operation {
    Operation::Access { cpu, page, access }
}

/// Runs a sequence on every format whose name begins with `part`, with and without each allocation failing once.
fn check(part: &str, shape: &Shape, operations: &[Operation]) {
    let both = |operation: &Operation| [0, 1].map(|space| Command { space, operation: operation.clone() });
    for (name, platform) in platforms().into_iter().filter(|(name, _)| name.starts_with(part)) {
        for (seed, (cpus, spaces, failing)) in
            [(1, 1, false), (2, 1, true), (4, 2, false)].into_iter().enumerate()
        {
            let commands: Vec<Command> =
                operations.iter().flat_map(both).take(operations.len() * spaces).collect();
            let commands: Vec<Command> = if spaces == 1 {
                operations
                    .iter()
                    .map(|operation| Command { space: 0, operation: operation.clone() })
                    .collect()
            } else {
                commands
            };
            let settings = Settings { cpus, spaces, failing, seed: seed as u64 };
            if let Err(failure) = platform.run(shape, settings, None, &commands) {
                panic!("{name}, {cpus} CPUs: {failure}");
            }
        }
    }
}

fn gpa(value: u64) -> GuestPhysAddr {
    GuestPhysAddr::new(value)
}

fn hpa(value: u64) -> HostPhysAddr {
    HostPhysAddr::new(value)
}

fn heap_space(hal: &HeapHal) -> AddrSpace<&HeapHal, Stage2> {
    AddrSpace::with_format(hal, Stage2::default(), gpa(0), 8 << 30, 1).expect("a root")
}

#[test]
fn a_second_fault_on_a_page_keeps_its_frame_and_contents() {
    let mut operations = vec![alloc(span(0, 12), RWX, false, LeafSize::Size4K)];
    for page in 0..6 {
        operations.push(access(0, page, MappingFlags::WRITE));
        for cpu in 0..4 {
            operations.push(Operation::Fault { cpu, page, access: MappingFlags::WRITE });
            operations.push(access(cpu, page, MappingFlags::WRITE));
        }
    }
    check("", &Shape::pages(EDGE), &operations);
}

#[test]
fn a_mapping_that_fails_half_way_leaves_nothing_behind() {
    // Each allocation of each operation fails once, and everything is compared bit for bit.
    let operations = [
        alloc(span(0, 12), RW, true, LeafSize::Size4K),
        Operation::Unmap(span(3, 6)),
        linear(span(3, 6), RWX),
        alloc(span(2, 3), RW, true, LeafSize::Size4K),
        linear(span(0, 12), RW),
        Operation::Unmap(span(0, 12)),
    ];
    check("", &Shape::pages(1 << 30), &operations);
}

#[test]
fn frames_reach_the_guest_without_the_previous_contents() {
    let mut operations = vec![];
    for round in 0..4 {
        operations.push(alloc(span(0, 12), RWX, round % 2 == 0, LeafSize::Size4K));
        operations.extend((0..12).map(|page| access(round, page, MappingFlags::WRITE)));
        operations.push(Operation::Migrate(span(0, 4)));
        operations.push(if round % 2 == 0 { Operation::Clear } else { Operation::Drop });
    }
    check("", &Shape::pages(EDGE), &operations);
}

#[test]
fn unmapping_a_page_of_a_large_leaf_keeps_the_others() {
    for map in [linear(span(1, 2), RWX), alloc(span(1, 2), RWX, true, LeafSize::Size2M)] {
        let operations = [
            map,
            access(0, 2, MappingFlags::WRITE),
            access(1, 4, MappingFlags::WRITE),
            Operation::Unmap(span(1, 1)),
            access(1, 1, MappingFlags::READ),
            access(0, 2, MappingFlags::READ),
            Operation::Clear,
        ];
        check("", &Shape::one_block(EDGE), &operations);
    }
}

#[test]
fn addresses_that_are_too_wide_are_refused_and_alias_nothing() {
    let mut operations = vec![alloc(span(0, 12), RWX, true, LeafSize::Size4K)];
    operations.extend((0..=63).map(Operation::Refused));
    check("", &Shape::pages(EDGE), &operations);
}

#[test]
fn the_limit_of_a_translation_ends_where_memory_is_no_longer_contiguous() {
    let hal = HeapHal::new();
    let mut space = heap_space(&hal);
    let page = PAGE_SIZE;
    space.map_linear(gpa(0), hpa(0x10_0000), 2 * page, RW).unwrap();
    space.map_linear(gpa(2 * page), hpa(0x10_0000 + 2 * page), page, RW).unwrap();
    space.map_linear(gpa(3 * page), hpa(0x90_0000), page, RW).unwrap();
    assert_eq!(space.translate_and_get_limit(gpa(0x10)), Some((hpa(0x10_0010), 3 * page - 0x10)));
    assert_eq!(space.translate_and_get_limit(gpa(3 * page)), Some((hpa(0x90_0000), page)));
    // Frames of the host are contiguous by accident only, and here never.
    space.map_alloc(gpa(0x10_0000), 4 * page, RW, true).unwrap();
    let (_, limit) = space.translate_and_get_limit(gpa(0x10_0000)).unwrap();
    assert_eq!(limit, page);
    assert_eq!(space.translate_and_get_limit(gpa(0x20_0000)), None);
}

#[test]
fn empty_tables_are_given_back_and_do_not_stand_in_the_way_of_a_large_leaf() {
    let hal = HeapHal::new();
    let mut space = heap_space(&hal);
    let before = hal.in_use();
    space.map_linear(gpa(MIB2 + PAGE_SIZE), hpa(0x1000), 3 * PAGE_SIZE, RW).unwrap();
    space.unmap(gpa(MIB2 + PAGE_SIZE), 3 * PAGE_SIZE).unwrap();
    assert_eq!(space.stats().table.table_frames, 2, "only the root");
    assert_eq!(hal.in_use(), before + space.stats().region_frames);
    space.map_linear(gpa(MIB2), hpa(MIB2), MIB2, RW).unwrap();
    assert_eq!(space.stats().table.leaves_2m, 1);
    drop(space);
    let operations = [
        linear(span(1, 1), RW),
        Operation::Unmap(span(1, 1)),
        linear(span(1, 2), RW),
        Operation::Unmap(span(1, 2)),
        alloc(span(2, 1), RW, true, LeafSize::Size4K),
        Operation::Unmap(span(2, 1)),
        alloc(span(1, 2), RW, true, LeafSize::Size2M),
    ];
    check("", &Shape::one_block(EDGE), &operations);
}

#[test]
fn arithmetic_on_addresses_neither_wraps_nor_panics_and_errors_say_what_is_wrong() {
    let hal = HeapHal::new();
    let mut space = heap_space(&hal);
    // A host address above the guest's, and below it.
    space.map_linear(gpa(0x1000), hpa(0x8000_0000), PAGE_SIZE, RW).unwrap();
    space.map_linear(gpa(0x8000_0000), hpa(0x1000), PAGE_SIZE, RW).unwrap();
    assert_eq!(space.translate(gpa(0x8000_0123)), Some(hpa(0x1123)));
    for start in [u64::MAX, u64::MAX - PAGE_SIZE + 1, 1 << 63] {
        let start = start & !(PAGE_SIZE - 1);
        for size in [0, PAGE_SIZE, 2 * PAGE_SIZE, !(PAGE_SIZE - 1)] {
            let mapped = space.map_alloc(gpa(start), size, RW, true);
            assert!(matches!(mapped, Err(MapError::BadRange(_))), "{mapped:?}");
            assert!(space.unmap(gpa(start), size).is_err() && space.protect(gpa(start), size, RW).is_err());
        }
        let wide = space.map_linear(gpa(0x10_0000), hpa(start), 2 * PAGE_SIZE, RW);
        assert!(matches!(wide, Err(MapError::HostTooWide { .. })), "{wide:?}");
    }
    hal.fail_after(Some(0));
    assert_eq!(space.map_alloc(gpa(0x4000_0000), PAGE_SIZE, RW, true), Err(MapError::OutOfMemory));
    hal.fail_after(None);
}

#[test]
fn ept_entries_are_never_misconfigured_and_need_what_the_cpu_offers() {
    let plain = Ept::new(Capabilities::BASELINE, 4).unwrap();
    for (flags, taken) in [
        (MappingFlags::WRITE, false),
        (MappingFlags::WRITE | MappingFlags::EXECUTE, false),
        (MappingFlags::EXECUTE, false),
        (MappingFlags::READ, true),
    ] {
        assert_eq!(plain.check_flags(flags).is_ok(), taken, "{flags}");
    }
    assert_eq!(plain.largest_leaf(), LeafSize::Size4K);
    assert!(Ept::new(Capabilities::BASELINE, 5).is_err());
    assert!(Ept::new(Capabilities { accessed_dirty: true, ..Capabilities::BASELINE }, 4).is_err());
    // All flags there are: what is taken, the model walks without a misconfiguration and with the right memory type.
    let mut operations = vec![];
    for bits in 0..64 {
        operations.push(linear(span(0, 3), MappingFlags::from_bits_truncate(bits)));
        operations.extend([RW - MappingFlags::WRITE, MappingFlags::WRITE].map(|kind| access(0, 0, kind)));
        operations.push(Operation::Clear);
    }
    check("ept", &Shape::three_pages(EDGE), &operations);
}

#[test]
fn arm_execution_writes_and_memory_types_are_what_was_asked_for() {
    let mut operations = vec![];
    for bits in 0..64 {
        operations.push(alloc(span(0, 3), MappingFlags::from_bits_truncate(bits), true, LeafSize::Size4K));
        let kinds = [MappingFlags::READ, MappingFlags::WRITE, MappingFlags::EXECUTE];
        operations.extend(kinds.map(|kind| access(0, 0, kind)));
        operations.push(access(1, 1, MappingFlags::EXECUTE | MappingFlags::USER));
        operations.push(Operation::Clear);
    }
    check("stage2", &Shape::three_pages(EDGE), &operations);
    // The zero entry is nothing at any level.
    let format = Stage2::default();
    assert!((0..3).all(|level| format.kind(level, 0) == slat::format::Kind::Absent));
}

#[test]
fn riscv_roots_widths_and_user_bits_are_those_of_the_hart() {
    use gstage::Mode::{Sv39x4, Sv48x4, Sv57x4};
    for (mode, bits) in [(Sv39x4, 41), (Sv48x4, 50), (Sv57x4, 59)] {
        let capabilities = gstage::Capabilities {
            modes: gstage::Modes::all(),
            vmid_bits: 14,
            ..gstage::Capabilities::BASELINE
        };
        let format = Gstage::new(mode, capabilities).unwrap();
        let geometry = format.geometry();
        assert_eq!((geometry.gpa_bits, geometry.entries(geometry.root_level())), (bits, 2048));
        let hal = HeapHal::new();
        let space = AddrSpace::with_format(&hal, format, gpa(0), 1 << bits, 1).unwrap();
        assert!(space.root().is_aligned(4 * PAGE_SIZE));
        assert!(AddrSpace::with_format(&hal, format, gpa(0), (1 << bits) + PAGE_SIZE, 1).is_err());
    }
    // The model's hart refuses a root that is not aligned or of another mode, and every access is one of user mode.
    let mut operations = vec![alloc(span(0, 12), RWX, false, LeafSize::Size4K)];
    operations.extend((0..12).flat_map(|page| [0, 1].map(|cpu| access(cpu, page, MappingFlags::WRITE))));
    check("gstage", &Shape::pages(1 << 30), &operations);
}

#[test]
fn every_cpu_of_every_isa_forgets_what_was_taken_away_and_nothing_else_is_disturbed() {
    let mut operations = vec![alloc(span(0, 12), RWX, true, LeafSize::Size4K)];
    let everyone = |page: u8| (0..4).map(move |cpu| access(cpu, page, MappingFlags::WRITE));
    operations.extend((0..12).flat_map(everyone));
    operations.push(Operation::Unmap(span(5, 2)));
    operations.push(Operation::Protect(span(2, 2), MappingFlags::READ));
    let steps = vec![
        Step::Unmap(span(0, 1)),
        Step::Protect(span(8, 1), MappingFlags::READ),
        Step::Unmap(span(10, 1)),
        Step::Protect(span(3, 1), RW),
    ];
    operations.push(Operation::Batch(steps, BatchEnd::Discharge));
    operations.extend((0..12).flat_map(everyone));
    operations.push(Operation::Unmap(span(11, 1)));
    operations.push(Operation::Clear);
    check("", &Shape::pages(1 << 30), &operations);
}

#[test]
fn marks_survive_changes_of_flags_and_leaves_are_broken_before_they_are_made() {
    let types = [RWX, MappingFlags::READ, RW | MappingFlags::UNCACHED, RW | MappingFlags::DEVICE, RWX];
    for map in
        [alloc(span(1, 2), RWX, true, LeafSize::Size2M), alloc(span(0, 4), RWX, true, LeafSize::Size4K)]
    {
        let mut operations = vec![map, access(0, 2, MappingFlags::WRITE), access(1, 1, MappingFlags::WRITE)];
        for flags in types {
            operations.push(Operation::Protect(span(1, 1), flags));
            operations.push(access(0, 1, MappingFlags::READ));
            operations.push(Operation::Protect(span(1, 2), flags));
            operations.push(access(1, 2, MappingFlags::WRITE));
        }
        operations.extend([Operation::Collapse(span(0, 4)), Operation::Migrate(span(1, 2))]);
        check("", &Shape::one_block(EDGE), &operations);
    }
}

#[test]
fn protecting_and_paging_on_demand_work_from_the_fault_to_the_access() {
    let mut operations = vec![Operation::MapAlloc {
        span: span(0, 12),
        flags: RWX,
        populate: false,
        largest: LeafSize::Size2M,
        around: LeafSize::Size2M,
    }];
    for page in [0, 6, 11] {
        operations.push(access(0, page, MappingFlags::READ));
        operations.push(Operation::Protect(span(page, 1), MappingFlags::READ));
        operations.push(access(1, page, MappingFlags::WRITE));
        operations.push(Operation::Protect(span(page, 1), RWX));
        operations.push(access(1, page, MappingFlags::WRITE));
        operations.push(access(3, page, MappingFlags::EXECUTE));
    }
    check("", &Shape::pages(EDGE), &operations);
}

#[test]
fn two_hosts_live_side_by_side() {
    std::thread::scope(|scope| {
        for pages in [1, 7] {
            scope.spawn(move || {
                let hal = HeapHal::new();
                let mut space = heap_space(&hal);
                space.map_alloc(gpa(0), pages * PAGE_SIZE, RW, true).unwrap();
                assert_eq!(space.stats().table.owned_frames, pages);
                drop(space);
                assert_eq!(hal.in_use(), 0);
            });
        }
    });
}
