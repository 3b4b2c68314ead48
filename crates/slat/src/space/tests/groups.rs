//! Leaves of 64 KiB: where they are made, what is found in them, and that a change of a part never leaves a part.

use super::*;
use crate::device::DeviceId;
use crate::error::{MapError, ProtectError, UnmapError};
use crate::fault::FaultOutcome;
use crate::format::Kind;
use crate::format::gstage::{Capabilities, Extensions, Mode, Modes};
use crate::table::{Ownership, Part, Soft, Table, View};
use crate::test_util::Event;
use crate::tlb::Pending;
use std::ops::Range;
use std::vec::Vec;

const KIB64: u64 = 16 * KIB4;
/// From a group, cut in two, into a large leaf.
const ACROSS: u64 = MIB2 - KIB64 - KIB4;
const N: u64 = 1 << 63;
const ACCESSED: u64 = 1 << 6;
const DIRTY: u64 = 1 << 7;

/// Without marks, with marks by the hart, and by faults; leaves of 64 KiB on all.
fn formats() -> [Gstage; 3] {
    let [_, hart, fault] = gstage_formats();
    let plain = Capabilities { accessed_dirty: false, ..fault.capabilities() };
    [Gstage::new(Mode::Sv39x4, plain).expect("offered"), hart, fault]
}

/// The entries of a leaf table around `at`.
fn entries(table: &Table<&HeapHal, Gstage>, at: u64) -> Vec<u64> {
    let (slot, _) = table.walk(gpa(at));
    assert_eq!(slot.level, 0);
    (0..512).map(|index| slot.entries.load(index)).collect()
}

/// The indices of entries that are one of sixteen; that they are, all of them and alike, is checked.
fn grouped(entries: &[u64]) -> Vec<usize> {
    let of_group = |group: &&[u64]| group.iter().any(|entry| entry & N != 0);
    for group in entries.chunks(16).filter(of_group) {
        for entry in group {
            let (entry, first) = (entry & !(ACCESSED | DIRTY), group[0] & !(ACCESSED | DIRTY));
            assert_eq!(entry, first, "alike but for their marks");
            assert_eq!(entry >> 10 & 0xf, 8, "64 KiB");
        }
    }
    (0..512).filter(|index| entries[*index] & N != 0).collect()
}

fn gstage(hal: &HeapHal, format: Gstage) -> Space<'_, Gstage> {
    AddrSpace::with_format(hal, format, gpa(0), 8 * GIB1, 0).expect("a root")
}

/// All pages of a range lead where they should.
fn leads(space: &Space<'_, Gstage>, pages: Range<u64>, to: u64) {
    for page in pages {
        let (at, wanted) = (gpa(page * KIB4 + 0x123), hpa(to + page * KIB4 + 0x123));
        assert_eq!(space.translate(at), Some(wanted), "page {page}");
        let mapping = space.query(at).expect("mapped");
        let offset = at.as_u64() - mapping.gpa.as_u64();
        assert_eq!(mapping.hpa.as_u64() + offset, wanted.as_u64(), "page {page}");
    }
}

#[test]
fn groups_are_made_where_both_addresses_and_the_size_allow_it() {
    for format in formats() {
        for (first, pages, shift, wanted) in [
            (0, 512, 16, 0..512),
            (16, 16, 0, 16..32),
            (5, 40, 0, 16..32),
            (5, 43, 16, 16..48),
            (17, 15, 0, 0..0),
            (16, 15, 0, 0..0),
            (16, 32, 1, 0..0),
            (16, 32, 15, 0..0),
        ] {
            for table_is_there in [false, true] {
                let hal = HeapHal::new();
                let mut space = gstage(&hal, format);
                if table_is_there {
                    space.map_linear(gpa(511 * KIB4), hpa(0), KIB4, RW).expect("free");
                }
                let pages = pages - u64::from(table_is_there && first + pages > 511);
                let to = GIB1 + shift * KIB4;
                space.map_linear(gpa(first * KIB4), hpa(to + first * KIB4), pages * KIB4, RW).expect("free");
                let end = if table_is_there && wanted.end == 512 { 496 } else { wanted.end };
                let found = grouped(&entries(&space.table, first * KIB4));
                assert_eq!(found, (wanted.start..end).collect::<Vec<_>>(), "{first} {pages} {shift}");
                leads(&space, first..first + pages, to);
            }
        }
    }
}

#[test]
fn no_group_is_made_where_none_is_wanted_or_the_hart_has_none() {
    let wanted = formats()[0].capabilities();
    let without = Capabilities { extensions: Extensions::SVPBMT, ..wanted };
    for capabilities in [Capabilities { napot_leaves: false, ..wanted }, without] {
        let format = Gstage::new(Mode::Sv39x4, capabilities).expect("offered");
        let hal = HeapHal::new();
        let mut space = gstage(&hal, format);
        space.map_linear(gpa(0), hpa(KIB64), MIB2, RW).expect("free");
        assert!(grouped(&entries(&space.table, 0)).is_empty());
        assert_eq!(format.kind(0, format.leaf(0, hpa(0x8000), RW) | N), Kind::Absent);
    }
    let hal = HeapHal::new();
    let mut space = gstage(&hal, formats()[0]);
    // Without access nothing is there that a CPU could remember.
    space.map_linear(gpa(0), hpa(KIB64), MIB2, MappingFlags::empty()).expect("free");
    assert!(grouped(&entries(&space.table, 0)).is_empty());
    space.protect(gpa(0), MIB2, RW).expect("mapped");
    leads(&space, 0..512, KIB64);
}

/// A change of pages `start..end` of 48, all of which are in groups at first.
type Change = fn(&mut Space<'_, Gstage>, u64, u64);

#[test]
fn a_change_of_a_part_makes_ordinary_leaves_of_the_group_with_one_invalidation() {
    let unmap: Change =
        |space, start, end| space.unmap(gpa(start * KIB4), (end - start) * KIB4).expect("mapped");
    let read_only: Change = |space, start, end| {
        space.protect(gpa(start * KIB4), (end - start) * KIB4, MappingFlags::READ).expect("mapped");
    };
    let no_access: Change = |space, start, end| {
        space.protect(gpa(start * KIB4), (end - start) * KIB4, MappingFlags::empty()).expect("mapped");
    };
    let all = [(unmap, false, false), (read_only, true, true), (no_access, false, false)];
    for format in formats() {
        for (change, stays, groups_stay) in all {
            for (start, end) in [(0, 1), (15, 16), (3, 9), (14, 18), (16, 32), (20, 48), (0, 48), (5, 47)] {
                let hal = HeapHal::new();
                let mut space = gstage(&hal, format);
                space.map_linear(gpa(0), hpa(GIB1), 48 * KIB4, RW).expect("free");
                space.map_linear(gpa(MIB2 - KIB4), hpa(0), KIB4, RW).expect("free");
                assert_eq!(grouped(&entries(&space.table, 0)).len(), 48);
                hal.record();
                change(&mut space, start, end);
                let events = hal.events();
                let ranges = |event: &Event| match event {
                    Event::InvalidateRanges(ranges, ..) => Some(ranges.clone()),
                    _ => None,
                };
                let dropped: Vec<_> = events.iter().filter_map(ranges).flatten().collect();
                let invalidations = events.iter().filter(|event| ranges(event).is_some()).count();
                assert_eq!(invalidations, 1, "{start}..{end}");
                // All of a group that was cut is dropped.
                for page in start / 16 * 16..end.next_multiple_of(16) {
                    let cut = |edge: u64| edge % 16 != 0 && edge / 16 == page / 16;
                    let changed = (start..end).contains(&page) || cut(start) || cut(end);
                    let drops = dropped.iter().any(|range| range.contains(gpa(page * KIB4)));
                    assert!(drops || !changed, "page {page} of {start}..{end}");
                }
                let found = grouped(&entries(&space.table, 0));
                let whole = |group: u64| {
                    let (first, last) = (group * 16, group * 16 + 16);
                    let apart = last <= start || end <= first;
                    apart || groups_stay && start <= first && last <= end
                };
                let wanted: Vec<_> =
                    (0..48).filter(|page| whole(page / 16)).map(|page| page as usize).collect();
                assert_eq!(found, wanted, "{start}..{end}");
                leads(&space, 0..start, GIB1);
                leads(&space, end..48, GIB1);
                if stays {
                    leads(&space, start..end, GIB1);
                }
                for page in 0..48 {
                    let query = space.query(gpa(page * KIB4));
                    let flags = query.map_or(MappingFlags::empty(), |mapping| mapping.flags);
                    let writes = flags.contains(MappingFlags::WRITE);
                    assert_eq!(writes, !(start..end).contains(&page), "page {page}");
                }
            }
        }
    }
}

#[test]
fn what_had_no_access_comes_back_where_it_was() {
    for format in formats() {
        let hal = HeapHal::new();
        let mut space = gstage(&hal, format);
        space.map_linear(gpa(0), hpa(GIB1), 32 * KIB4, RW).expect("free");
        space.protect(gpa(KIB64), KIB64, MappingFlags::empty()).expect("mapped");
        space.protect(gpa(7 * KIB4), 12 * KIB4, RW).expect("mapped");
        leads(&space, 0..19, GIB1);
        space.protect(gpa(0), 32 * KIB4, RW).expect("mapped");
        leads(&space, 0..32, GIB1);
    }
}

/// The hart marks any of the sixteen, whichever page it uses.
#[test]
fn marks_are_those_of_all_sixteen() {
    let [plain, hart, fault] = formats();
    for format in [hart, fault] {
        let marked: [(u64, &[u64]); 5] = [
            (0, &[7]),
            (ACCESSED, &[0]),
            (ACCESSED, &[4, 15]),
            (ACCESSED | DIRTY, &[15]),
            (ACCESSED | DIRTY, &[3, 9]),
        ];
        for (marks, marked) in marked {
            let known = (marks & ACCESSED != 0, marks & DIRTY != 0);
            let of = |space: &Space<'_, Gstage>, page: u64| {
                let all = space.mappings(GuestPhysRange::new(gpa(page * KIB4), 1).expect("a page"));
                all.map(|leaf| (leaf.accessed, leaf.dirty)).next().expect("a leaf")
            };
            let changes: [Change; 3] = [
                |_, _, _| {},
                |space, start, end| space.unmap(gpa(start * KIB4), (end - start) * KIB4).expect("mapped"),
                |space, _, _| {
                    space.protect(gpa(0), 32 * KIB4, MappingFlags::empty()).expect("mapped");
                },
            ];
            for change in changes {
                let hal = HeapHal::new();
                let mut space = gstage(&hal, format);
                space.map_linear(gpa(0), hpa(GIB1), 33 * KIB4, RW).expect("free");
                for page in marked {
                    let (slot, _) = space.table.walk(gpa(page * KIB4));
                    slot.entries.set_bits(space.hal(), slot.index, marks);
                }
                change(&mut space, 3, 4);
                for page in (0..16).filter(|page| *page != 3) {
                    assert_eq!(of(&space, page), known, "page {page}");
                }
                assert_eq!(of(&space, 16), (false, false), "another group");
            }
        }
    }
    let hal = HeapHal::new();
    let mut space = gstage(&hal, plain);
    space.map_linear(gpa(0), hpa(GIB1), KIB64, RW).expect("free");
    let leaf = space.query(gpa(0)).expect("mapped");
    assert!(leaf.accessed && leaf.dirty, "nobody tells");
}

/// A fault for a mark is answered in the entry that the hart used, so that it makes progress, whatever the others have.
#[test]
fn a_mark_by_fault_is_set_in_the_entry_of_its_own_page() {
    let [.., format] = formats();
    let hal = HeapHal::new();
    let mut space = gstage(&hal, format);
    space.map_linear(gpa(0), hpa(GIB1), KIB64, RW).expect("free");
    for page in [3, 5] {
        let outcome = space.handle_page_fault(gpa(page * KIB4), MappingFlags::WRITE);
        assert_eq!(outcome, Ok(FaultOutcome::Marked), "page {page}");
        let entry = entries(&space.table, 0)[page as usize];
        assert_eq!(entry & (ACCESSED | DIRTY), ACCESSED | DIRTY);
    }
}

#[test]
fn a_group_joins_into_a_large_leaf_and_a_split_makes_groups_again() {
    for format in formats() {
        let hal = HeapHal::new();
        let mut space = gstage(&hal, format);
        space.map_linear(gpa(0), hpa(GIB1), 2 * MIB2, RW).expect("free");
        space.protect(gpa(20 * KIB4), KIB4, MappingFlags::READ).expect("mapped");
        let found = grouped(&entries(&space.table, 0));
        assert_eq!(found, (0..512).filter(|index| !(16..32).contains(index)).collect::<Vec<_>>());
        leads(&space, 0..1024, GIB1);
        space.protect(gpa(20 * KIB4), KIB4, RW).expect("mapped");
        assert_eq!(space.collapse(gpa(0), MIB2), Ok(1));
        leads(&space, 0..1024, GIB1);
        space.unmap(gpa(0), 2 * MIB2).expect("mapped");
        // Memory of the space's own comes in ordinary leaves, for the host's short way to it.
        space.map_alloc(gpa(0), MIB2, RW, true).expect("free");
        space.protect(gpa(20 * KIB4), KIB4, MappingFlags::READ).expect("mapped");
        assert!(grouped(&entries(&space.table, 0)).is_empty());
        drop(space);
        assert_eq!(hal.in_use(), 0);
    }
}

#[test]
fn the_host_reaches_a_group_in_one_run() {
    for format in formats() {
        let hal = HeapHal::new();
        let mut space = gstage(&hal, format);
        space.map_linear(gpa(5 * KIB4), hpa(GIB1 + 5 * KIB4), 40 * KIB4, RW).expect("free");
        for page in [5, 15, 16, 20, 31, 32, 44] {
            let at = page * KIB4 + 0x10;
            let reached = space.table.reach(gpa(at), GIB1, MappingFlags::READ, true).expect("there");
            assert_eq!((reached.hpa, reached.bytes), (hpa(GIB1 + at), 45 * KIB4 - at), "page {page}");
        }
    }
}

#[test]
fn what_is_retired_and_what_is_counted_has_its_own_address() {
    for format in formats() {
        let hal = HeapHal::new();
        let mut space = gstage(&hal, format);
        space.map_linear(gpa(0), hpa(GIB1), KIB64 + KIB4, RW).expect("free");
        let table = &space.table;
        let mut found = Vec::new();
        table.inventory(&mut |part| {
            if let Part::Leaf(at, 0, leaf) = part {
                found.push((at.as_u64(), leaf.hpa.as_u64()));
            }
        });
        let wanted = |pages: Range<u64>| pages.map(|page| (page * KIB4, GIB1 + page * KIB4));
        assert_eq!(found, wanted(0..17).collect::<Vec<_>>());
        assert_eq!(table.census().leaves_4k, 17);
        let mut pending = Pending::NONE;
        let group = GuestPhysRange::new(gpa(0), KIB64).expect("valid");
        table.retire(&mut pending, group, Ownership::Lent);
        let (slot, _) = table.walk(gpa(0));
        for index in 0..16 {
            let View::Soft(Soft::RetiredLeaf(leaf)) = table.view(0, index, slot.entries.load(index)) else {
                panic!("{index} is not retired")
            };
            assert_eq!(leaf.hpa, hpa(GIB1 + index as u64 * KIB4));
        }
        table.settle(&mut pending);
    }
}

/// An operation that can fail for want of memory, on groups; the error says whether that was it.
type Operation = fn(&mut Space<'_, Gstage>) -> Result<(), bool>;

#[test]
fn every_single_allocation_may_fail_on_groups() {
    let operations: [(&str, Operation); 4] = [
        ("map", |space| {
            let result = space.map_linear(gpa(4 * MIB2 - KIB64), hpa(GIB1), 3 * KIB64, RW);
            result.map_err(|error| error == MapError::OutOfMemory)
        }),
        ("unmap in a group", |space| {
            space.unmap(gpa(KIB64 + KIB4), KIB4).map_err(|error| error == UnmapError::OutOfMemory)
        }),
        ("protect from a group into a large leaf", |space| {
            let result = space.protect(gpa(ACROSS), MIB2, MappingFlags::READ);
            result.map_err(|error| error == ProtectError::OutOfMemory)
        }),
        ("take access away from a group into a large leaf", |space| {
            let result = space.protect(gpa(ACROSS), MIB2, MappingFlags::empty());
            result.map_err(|error| error == ProtectError::OutOfMemory)
        }),
    ];
    for format in formats() {
        for (name, operation) in operations {
            let mut failures = 0;
            for n in 0.. {
                let hal = HeapHal::new();
                let mut space = gstage(&hal, format);
                space.map_linear(gpa(0), hpa(0), 3 * MIB2, RW).expect("free");
                space.protect(gpa(3 * KIB4), KIB4, MappingFlags::READ).expect("mapped");
                fill_regions(&mut space, &hal);
                let before = (space.table.fingerprint(), space.regions().collect::<Vec<_>>(), hal.in_use());
                assert!(before.0.iter().any(|(_, entry)| entry & N != 0));
                hal.fail_after(Some(n));
                let result = operation(&mut space);
                hal.fail_after(None);
                let Err(out_of_memory) = result else { break };
                assert!(out_of_memory, "{name}: allocation {n} failed with another error");
                failures += 1;
                let after = (space.table.fingerprint(), space.regions().collect::<Vec<_>>(), hal.in_use());
                assert_eq!(after, before, "{name}: allocation {n} failed");
                operation(&mut space).expect("with memory it goes through afterwards");
                drop(space);
                assert_eq!(hal.in_use(), 0, "{name}: every frame goes back");
            }
            assert!(failures > 0, "{name} took no memory");
        }
    }
}

/// Maps single pages until one more region takes a frame.
fn fill_regions(space: &mut Space<'_, Gstage>, hal: &HeapHal) {
    for page in 0.. {
        hal.fail_after(Some(0));
        let result = space.map_trap(gpa(GIB1 + 2 * page * KIB4), KIB4, DeviceId(0));
        hal.fail_after(None);
        if result.is_err() {
            return;
        }
    }
}

#[test]
fn modes_have_groups_alike() {
    for mode in Mode::ALL {
        let capabilities = Capabilities { modes: Modes::all(), ..formats()[0].capabilities() };
        let format = Gstage::new(mode, capabilities).expect("offered");
        let hal = HeapHal::new();
        let mut space = gstage(&hal, format);
        space.map_linear(gpa(KIB4), hpa(GIB1 + KIB4), MIB2, RW).expect("free");
        space.unmap(gpa(20 * KIB4), KIB4).expect("mapped");
        leads(&space, 1..20, GIB1);
        leads(&space, 21..513, GIB1);
    }
}
