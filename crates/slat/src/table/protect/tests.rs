//! Which changes are one store, and how far one decision reaches.

use super::super::tests::{empty, map_linear, range};
use super::*;
use crate::format::ept::Ept;
use crate::space::tests::{KIB4, MIB2, RW, RWX, ept_formats, formats, gpa, gstage_formats, hpa, npt_formats};
use crate::test_util::HeapHal;

fn changes_in_place<F: Format>(formats: impl IntoIterator<Item = F>) {
    for format in formats {
        let hal = HeapHal::new();
        let table = empty(&hal, format);
        let leaf = |flags, accessed| Leaf { accessed, ..Leaf::new(hpa(0x5000), flags, true) };
        for level in 0..=1 {
            let entry = table.encode(level, leaf(RW, true));
            let read = table.encode(level, leaf(MappingFlags::READ, false));
            let attributes = |entry: u64| Some(entry & !table.kept(false));
            assert_eq!(
                table.in_place(level, entry, MappingFlags::READ, false),
                attributes(read),
                "{format:?}"
            );
            assert_eq!(table.in_place(level, entry, RW, false), attributes(entry), "the same again");
            assert_eq!(table.in_place(level, entry, MappingFlags::empty(), false), None, "it goes away");
            assert_eq!(table.in_place(level, entry, RWX, false), None, "caches have to be maintained first");
            let no_access = Soft::NoAccess(leaf(RW, false)).encode();
            assert_eq!(table.in_place(level, no_access, RW, false), None, "it is not there");
            assert_eq!(table.in_place(level, 0, RW, false), Some(0), "nothing stays nothing");
            let unknown = 1 << 54 | 0x7000;
            let absent = format.kind(level, unknown) == crate::format::Kind::Absent;
            if absent {
                let wanted = Some(unknown & !table.kept(false));
                assert_eq!(table.in_place(level, unknown, RW, false), wanted, "an address is no attribute");
            }
        }
    }
}

#[test]
fn permissions_change_in_place_while_the_leaf_stays_and_its_caches_with_it() {
    changes_in_place(formats());
    changes_in_place(ept_formats());
    changes_in_place(npt_formats());
    changes_in_place(gstage_formats());
}

#[test]
fn a_new_memory_type_is_not_put_in_place() {
    let hal = HeapHal::new();
    let format = formats()[1];
    let table = empty(&hal, format);
    let entry = table.encode(0, Leaf::new(hpa(0x5000), RW, true));
    assert_eq!(table.in_place(0, entry, RW | MappingFlags::UNCACHED, false), None);
}

#[test]
fn a_change_leaves_address_owner_and_marks_alone() {
    let [plain, _, marking] = ept_formats();
    for (format, marks) in [(plain, 0), (marking, 1 << 8 | 1 << 9)] {
        let hal = HeapHal::new();
        let kept = empty(&hal, format).kept(false);
        assert_eq!(kept, Ept::ADDRESS | Ept::OWNED | marks);
        assert!(kept & Ept::ADDRESS != 0 && kept & Ept::OWNED != 0);
    }
}

/// Pages with RW from the first on, and with READ from `differs` on; where `replace_all` stops, and what it left.
fn replaced<F: Format>(format: F, pages: usize, differs: usize) -> usize {
    let hal = HeapHal::new();
    let table = empty(&hal, format);
    let [old, new, other] = [RW, MappingFlags::READ, RW | MappingFlags::EXECUTE]
        .map(|flags| table.encode(0, Leaf::new(hpa(0), flags, false)) & !table.kept(false));
    map_linear(&table, range(0, MIB2 - KIB4), hpa(0));
    let (slot, _) = table.walk(gpa(0));
    let entries = slot.entries;
    for index in 0..pages {
        let attributes = if index < differs { old } else { other };
        // Marks differ from page to page, and are none of its business.
        let mark = if index % 2 == 0 { table.marks() } else { 0 };
        entries.store(
            &table.hal,
            index,
            attributes | format.leaf(0, hpa(index as u64 * KIB4), RW) & F::ADDRESS | mark,
        );
    }
    let behind = entries.load(pages);
    let end = table.replace_all(entries, 0..pages, old, new, table.kept(false));
    for index in 0..pages {
        let entry = entries.load(index);
        let wanted = if index < end {
            new
        } else if index < differs {
            old
        } else {
            other
        };
        assert_eq!(entry & !table.kept(false), wanted, "page {index} of {pages}");
        assert_eq!(format.address(entry), hpa(index as u64 * KIB4));
        assert_eq!(entry & table.marks(), if index % 2 == 0 { table.marks() } else { 0 });
    }
    assert_eq!(entries.load(pages), behind);
    assert!(end > 0 && end <= differs.min(pages), "it got as far as {end}");
    end
}

#[test]
fn many_are_replaced_as_far_as_they_are_alike() {
    let [plain, _, marking] = ept_formats();
    for format in [plain, marking] {
        for pages in [1, CHUNK - 1, CHUNK, CHUNK + 1, 3 * CHUNK + 2] {
            assert_eq!(replaced(format, pages, usize::MAX), pages, "all are alike");
            for differs in [1, 2, CHUNK - 1, CHUNK, CHUNK + 1, 2 * CHUNK, 2 * CHUNK + 3] {
                let end = replaced(format, pages, differs);
                // Whole chunks, or up to the first difference within the first one.
                let wanted = if differs < pages.min(CHUNK) { differs } else { differs / CHUNK * CHUNK };
                assert_eq!(end, if differs >= pages { pages } else { wanted }, "{differs} of {pages}");
            }
        }
    }
}
