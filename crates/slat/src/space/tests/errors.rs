//! Wrong arguments and missing memory: a typed error that names the cause, and nothing changed.

use super::*;
use crate::addr::{GuestPhysRange, RangeError};
use crate::error::{FaultError, MapError, MigrateError, ProtectError, QueryError, StartLogError, UnmapError};
use crate::space::AllocOptions;
use crate::table::LogUnit;

fn range(start: u64, size: u64) -> GuestPhysRange {
    GuestPhysRange::new(gpa(start), size).expect("valid")
}

#[test]
fn a_space_that_cannot_be_is_refused() {
    let hal = HeapHal::new();
    let create =
        |base, size, tag| Space::with_format(&hal, Stage2::default(), gpa(base), size, tag).map(drop);
    let bad = |reason| Err(CreateError::BadRange(reason));
    assert_eq!(create(0, 0, 0), bad(BadRange::Malformed { start: gpa(0), reason: RangeError::Empty }));
    let top = u64::MAX - 0xfff;
    assert_eq!(
        create(top, 0x2000, 0),
        bad(BadRange::Malformed { start: gpa(top), reason: RangeError::Wraps })
    );
    assert_eq!(create(0x800, 0x1000, 0), bad(BadRange::Unaligned(range(0x800, 0x1000))));
    let wide = range(1 << 39, (1 << 39) + 0x1000);
    assert_eq!(
        create(1 << 39, (1 << 39) + 0x1000, 0),
        Err(CreateError::TooWide { range: wide, gpa_bits: 40 })
    );
    assert_eq!(create(1 << 39, 1 << 39, 0), Ok(()), "up to the last address");
    assert_eq!(create(0, 0x1000, 256), Err(CreateError::TagTooWide { tag: 256, tag_bits: 8 }));
    hal.fail_after(Some(0));
    assert_eq!(create(0, 0x1000, 0), Err(CreateError::OutOfMemory));
    assert_eq!(hal.in_use(), 0);
}

#[test]
fn wrong_arguments_change_nothing() {
    let hal = HeapHal::new();
    let mut space = space(&hal);
    space.map_linear(gpa(0x10_0000), hpa(0x5000), 0x4000, RW).expect("free");
    space.map_alloc(gpa(MIB2), MIB2, RWX, true).expect("free");
    let before = (space.table.fingerprint(), space.regions().collect::<Vec<_>>(), hal.in_use());

    let outside = |start, size| BadRange::OutsideSpace { range: range(start, size), space: space.range };
    let map_cases = [
        (0, 0, MapError::BadRange(BadRange::Malformed { start: gpa(0), reason: RangeError::Empty })),
        (0x800, 0x1000, MapError::BadRange(BadRange::Unaligned(range(0x800, 0x1000)))),
        (0x1000, 0x800, MapError::BadRange(BadRange::Unaligned(range(0x1000, 0x800)))),
        (8 * GIB1, 0x1000, MapError::BadRange(outside(8 * GIB1, 0x1000))),
        (8 * GIB1 - 0x1000, 0x2000, MapError::BadRange(outside(8 * GIB1 - 0x1000, 0x2000))),
        (1 << 40, 0x1000, MapError::BadRange(outside(1 << 40, 0x1000))),
        (1 << 63, 0x1000, MapError::BadRange(outside(1 << 63, 0x1000))),
    ];
    let overlap =
        MapError::AlreadyMapped { wanted: range(0x10_3000, 0x2000), existing: range(0x10_0000, 0x4000) };
    for (start, size, error) in map_cases.into_iter().chain([(0x10_3000, 0x2000, overlap)]) {
        assert_eq!(space.map_linear(gpa(start), hpa(0), size, RW), Err(error));
        assert_eq!(space.map_alloc(gpa(start), size, RW, true), Err(error));
        assert_eq!(space.map_alloc(gpa(start), size, RW, false), Err(error));
    }
    let linear = |space: &mut Space<'_>, at, size| space.map_linear(gpa(0), hpa(at), size, RW);
    assert_eq!(linear(&mut space, 0x800, 0x1000), Err(MapError::UnalignedHost(hpa(0x800))));
    let too_wide = |start| Err(MapError::HostTooWide { start: hpa(start), bits: 40 });
    assert_eq!(linear(&mut space, 1 << 40, 0x1000), too_wide(1 << 40));
    assert_eq!(linear(&mut space, (1 << 40) - 0x1000, 0x2000), too_wide((1 << 40) - 0x1000));
    assert_eq!(linear(&mut space, u64::MAX - 0xfff, 0x2000), too_wide(u64::MAX - 0xfff));
    let execute_only = space.map_linear(gpa(0), hpa(0), 0x1000, MappingFlags::EXECUTE);
    assert!(matches!(execute_only, Err(MapError::UnsupportedFlags(_))));
    let execute_only = space.protect(gpa(MIB2), 0x1000, MappingFlags::EXECUTE);
    assert!(matches!(execute_only, Err(ProtectError::UnsupportedFlags(_))));

    // Holes: the first address that is not covered is named.
    assert_eq!(space.unmap(gpa(0x10_2000), 0x4000), Err(UnmapError::NotMapped(gpa(0x10_4000))));
    assert_eq!(space.protect(gpa(0xf_f000), 0x2000, RW), Err(ProtectError::NotMapped(gpa(0xf_f000))));
    assert_eq!(space.migrate(gpa(0), 0x1000), Err(MigrateError::NotMapped(gpa(0))));
    let linear = range(0x10_0000, 0x4000);
    assert_eq!(space.migrate(gpa(0x10_1000), 0x1000), Err(MigrateError::NotOwned(linear)));

    assert_eq!((space.table.fingerprint(), space.regions().collect::<Vec<_>>(), hal.in_use()), before);
}

#[test]
fn questions_and_faults_name_what_is_wrong() {
    let hal = HeapHal::new();
    let mut space = space(&hal);
    space.map_alloc(gpa(0x1000), 0x2000, MappingFlags::READ, false).expect("free");
    let whole = space.range();
    let wide = gpa(1 << 40 | 0x1000);
    assert_eq!(space.query(wide), Err(QueryError::OutsideSpace { gpa: wide, space: whole }));
    assert_eq!(space.translate(wide), None, "no alias of 0x1000");
    assert_eq!(space.query(gpa(0)), Err(QueryError::NotMapped(gpa(0))));
    let region = range(0x1000, 0x2000);
    assert_eq!(space.query(gpa(0x1fff)), Err(QueryError::NotPresent { gpa: gpa(0x1fff), region }));
    assert_eq!(
        space.handle_page_fault(wide, MappingFlags::READ),
        Err(FaultError::OutsideSpace { gpa: wide, space: whole })
    );
    assert_eq!(space.handle_page_fault(gpa(0), MappingFlags::READ), Err(FaultError::NoRegion(gpa(0))));
    let (access, allowed) = (MappingFlags::WRITE, MappingFlags::READ);
    assert_eq!(
        space.handle_page_fault(gpa(0x1008), access),
        Err(FaultError::Permission { gpa: gpa(0x1008), access, region, allowed })
    );
    hal.fail_after(Some(0));
    assert_eq!(
        space.handle_page_fault(gpa(0x1008), MappingFlags::READ),
        Err(FaultError::OutOfMemory(gpa(0x1008)))
    );
    hal.fail_after(None);
    assert_eq!(
        std::format!("{}", FaultError::Permission { gpa: gpa(0x1008), access, region, allowed }),
        "access `-w--` to 0x1008 is not allowed by region 0x1000..0x3000 `r---`"
    );
}

/// An operation that can fail for want of memory, on a prepared space.
type Operation<F> = fn(&mut Space<'_, F>) -> Result<(), bool>;

/// Whether the result is an "out of memory".
macro_rules! outcome {
    ($result:expr, $error:ident) => {
        match $result {
            Ok(_) => Ok(()),
            Err(error) => Err(matches!(error, $error::OutOfMemory { .. })),
        }
    };
}

fn every_single_allocation_may_fail<F: Format>(formats: impl IntoIterator<Item = F>) {
    let operations: [(&str, Operation<F>); 13] = [
        ("map linear", |space| outcome!(space.map_linear(gpa(0x5000), hpa(0x9000), 3 * MIB2, RW), MapError)),
        ("map lazy", |space| outcome!(space.map_alloc(gpa(0x5000), 3 * MIB2, RW, false), MapError)),
        ("map eager", |space| {
            outcome!(space.map_alloc(gpa(MIB2 - 0x3000), MIB2 + 0x6000, RW, true), MapError)
        }),
        ("map eager, small leaves", |space| {
            let options =
                AllocOptions { populate: true, largest_leaf: LeafSize::Size4K, ..AllocOptions::default() };
            outcome!(space.map_alloc_with(gpa(0x5000), 0x6000, RW, options), MapError)
        }),
        ("unmap in the middle of a block", |space| {
            outcome!(space.unmap(gpa(GIB1 + 0x3000), 0x2000), UnmapError)
        }),
        ("unmap over the edges of two blocks", |space| {
            outcome!(space.unmap(gpa(GIB1 + MIB2 - 0x1000), 0x2000), UnmapError)
        }),
        ("unmap in a 1 GiB block", |space| outcome!(space.unmap(gpa(4 * GIB1 + 0x1000), 0x1000), UnmapError)),
        ("protect in a block", |space| {
            outcome!(space.protect(gpa(GIB1 + 0x3000), 0x2000, MappingFlags::READ), ProtectError)
        }),
        ("log in a block", |space| {
            outcome!(space.start_dirty_log(gpa(GIB1 + 0x3000), 0x2000, LogUnit::Page), StartLogError)
        }),
        ("log over the edges of two blocks", |space| {
            outcome!(space.start_dirty_log(gpa(GIB1 + MIB2 - 0x1000), 0x2000, LogUnit::Leaf), StartLogError)
        }),
        ("migrate", |space| outcome!(space.migrate(gpa(GIB1 + MIB2 - 0x2000), MIB2 + 0x4000), MigrateError)),
        ("first fault", |space| {
            outcome!(space.handle_page_fault(gpa(2 * GIB1 + MIB2 + 0x1000), MappingFlags::READ), FaultError)
        }),
        ("fault in a large leaf", |space| {
            outcome!(space.handle_page_fault(gpa(3 * GIB1 + 1), MappingFlags::READ), FaultError)
        }),
    ];
    for format in formats {
        for (name, operation) in operations {
            let mut failures = 0;
            for n in 0.. {
                let hal = HeapHal::new();
                let mut space = Space::with_format(&hal, format, gpa(0), 8 * GIB1, 0).expect("a root");
                space.map_alloc(gpa(GIB1), 3 * MIB2, RWX, true).expect("free");
                let small = AllocOptions {
                    populate: false,
                    largest_leaf: LeafSize::Size4K,
                    ..AllocOptions::default()
                };
                space.map_alloc_with(gpa(2 * GIB1), GIB1, RWX, small).expect("free");
                space.map_alloc(gpa(3 * GIB1), GIB1, RWX, false).expect("free");
                space.map_linear(gpa(4 * GIB1), hpa(0), GIB1, RW).expect("free");
                let before = (space.table.fingerprint(), space.regions().collect::<Vec<_>>(), hal.in_use());
                hal.fail_after(Some(n));
                let result = operation(&mut space);
                hal.fail_after(None);
                match result {
                    Ok(()) => break,
                    Err(out_of_memory) => {
                        assert!(out_of_memory, "{name}: allocation {n} failed with another error")
                    }
                }
                failures += 1;
                let after = (space.table.fingerprint(), space.regions().collect::<Vec<_>>(), hal.in_use());
                assert_eq!(after, before, "{name}: allocation {n} failed");
                operation(&mut space).expect("with memory it goes through afterwards");
            }
            assert!(failures > 0 || name == "map lazy", "{name} took no memory");
        }
    }
}

#[test]
fn every_single_allocation_may_fail_stage2() {
    every_single_allocation_may_fail(formats());
}

#[test]
fn every_single_allocation_may_fail_ept() {
    every_single_allocation_may_fail(ept_formats());
}

#[test]
fn every_single_allocation_may_fail_npt() {
    every_single_allocation_may_fail(npt_formats());
}

#[test]
fn every_single_allocation_may_fail_gstage() {
    every_single_allocation_may_fail(gstage_formats());
}
