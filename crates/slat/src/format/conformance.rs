//! What every format must hold, stamped on each by [`conformance!`].

use super::{CacheEvent, Format, Kind};
use crate::addr::{GuestPhysAddr, HostPhysAddr};
use crate::flags::{LeafSize, MappingFlags, MemoryType, level_bytes};
use crate::hal::CacheActions;
use crate::table::{Leaf, Soft};

/// Stamps the suite on the formats that the expression yields (an iterable of values of one format type).
macro_rules! conformance {
    ($formats:expr) => {
        mod conformance {
            use super::*;
            use $crate::format::conformance as suite;

            #[test]
            fn kinds_exclude_each_other() {
                $formats.into_iter().for_each(suite::kinds_exclude_each_other);
            }

            #[test]
            fn leaves_survive_the_round_trip() {
                $formats.into_iter().for_each(suite::leaves_survive_the_round_trip);
            }

            #[test]
            fn what_cannot_be_expressed_is_refused() {
                $formats.into_iter().for_each(suite::what_cannot_be_expressed_is_refused);
            }

            #[test]
            fn software_entries_are_absent_for_the_hardware() {
                $formats.into_iter().for_each(suite::software_entries_are_absent_for_the_hardware);
            }

            #[test]
            fn indices_stay_inside_their_table() {
                $formats.into_iter().for_each(suite::indices_stay_inside_their_table);
            }

            #[test]
            fn a_clean_leaf_is_a_leaf() {
                $formats.into_iter().for_each(suite::a_clean_leaf_is_a_leaf);
            }

            #[test]
            fn permissions_change_in_place() {
                $formats.into_iter().for_each(suite::permissions_change_in_place);
            }

            #[test]
            fn a_leaf_never_jumps_to_another_frame() {
                $formats.into_iter().for_each(suite::a_leaf_never_jumps_to_another_frame);
            }
        }
    };
}
pub(crate) use conformance;

fn all_flags() -> impl Iterator<Item = MappingFlags> {
    (0..=u8::MAX).filter_map(MappingFlags::from_bits)
}

fn leaf_levels<F: Format>(format: &F) -> impl Iterator<Item = u8> + use<F> {
    0..=format.largest_leaf().level()
}

/// Addresses at both ends of the width, and some with every bit set once.
fn addresses<F: Format>(format: &F, align: u64) -> Vec<HostPhysAddr> {
    let bits = format.hpa_bits();
    let top = (1u64 << bits) - align;
    let single = (12..bits).map(|bit| 1u64 << bit).filter(|address| address & (align - 1) == 0);
    single.chain([0, top, (top / 2) & !(align - 1)]).map(HostPhysAddr::new).collect()
}

/// The flags that a leaf gives back: USER is silent where the format does not separate it.
fn expressed<F: Format>(format: &F, flags: MappingFlags) -> MappingFlags {
    if format.separates_user_execute() { flags } else { flags - MappingFlags::USER }
}

pub(crate) fn kinds_exclude_each_other<F: Format>(format: F) {
    for level in 0..format.geometry().levels {
        assert_eq!(format.kind(level, 0), Kind::Absent, "zero at level {level}");
        assert_eq!(format.next_table(0), None);
        for hpa in addresses(&format, 4096) {
            if level > 0 {
                let table = format.table(hpa);
                assert_eq!(format.kind(level, table), Kind::Table, "{table:#x} at level {level}");
                assert_eq!(format.address(table), hpa);
                assert_eq!(format.next_table(table), Some(hpa));
            }
        }
    }
    for level in leaf_levels(&format) {
        for flags in all_flags().filter(|flags| flags.is_accessible() && format.check_flags(*flags).is_ok()) {
            let leaf = format.leaf(level, HostPhysAddr::new(0), flags);
            assert_eq!(format.kind(level, leaf), Kind::Leaf, "{leaf:#x} ({flags}) at level {level}");
            assert_eq!(leaf & F::OWNED, 0, "the OWNED bit is slat's");
            assert!(level == 0 || format.next_table(leaf).is_none(), "{leaf:#x} is no table");
            assert_eq!(format.kind(level, leaf | F::OWNED), Kind::Leaf);
        }
    }
}

pub(crate) fn leaves_survive_the_round_trip<F: Format>(format: F) {
    let mut round_trips = 0;
    for level in leaf_levels(&format) {
        for flags in all_flags().filter(|flags| flags.is_accessible() && format.check_flags(*flags).is_ok()) {
            for hpa in addresses(&format, level_bytes(level)) {
                let leaf = format.leaf(level, hpa, flags);
                assert_eq!(format.address(leaf), hpa, "{leaf:#x} at level {level}");
                // What the loops over many leaves build on.
                let template = format.leaf(level, HostPhysAddr::new(0), flags);
                assert_eq!(template + (hpa.as_u64() >> F::ADDRESS_SHIFT), leaf, "{flags} at level {level}");
                let other = format.leaf(level, hpa, MappingFlags::READ | MappingFlags::EXECUTE) | F::OWNED;
                let marks = format.accessed_bit() | format.dirty_bit();
                let kept = F::ADDRESS | F::OWNED | marks;
                assert_eq!(template & kept, 0, "{template:#x} at level {level}");
                assert_eq!(other & kept | template, leaf | F::OWNED, "{flags} at level {level}");
                assert_eq!(format.flags(leaf | marks), expressed(&format, flags), "{leaf:#x}, marked");
                assert_eq!(format.kind(level, leaf | marks), Kind::Leaf, "{leaf:#x}, marked");
                assert_eq!(format.flags(leaf), expressed(&format, flags), "{leaf:#x} at level {level}");
                assert_eq!(format.flags(leaf | F::OWNED), expressed(&format, flags));
                round_trips += 1;
            }
        }
    }
    assert!(round_trips > 500, "only {round_trips} combinations");
}

pub(crate) fn what_cannot_be_expressed_is_refused<F: Format>(format: F) {
    use MappingFlags as M;
    for wanted in
        [M::READ, M::READ | M::WRITE, M::READ | M::EXECUTE | M::USER, M::all() - M::DEVICE - M::UNCACHED]
    {
        assert_eq!(format.check_flags(wanted), Ok(()), "{wanted} is what every guest needs");
    }
    assert_eq!(format.check_flags(M::READ | M::WRITE | M::DEVICE), Ok(()));
    for flags in all_flags().filter(|flags| flags.is_accessible()) {
        let leaf = format.leaf(0, HostPhysAddr::new(0x1000), flags);
        let changed = format.flags(leaf) != expressed(&format, flags) || format.kind(0, leaf) != Kind::Leaf;
        if changed {
            assert!(
                format.check_flags(flags).is_err(),
                "{flags} is silently changed to {}",
                format.flags(leaf)
            );
        }
    }
}

pub(crate) fn software_entries_are_absent_for_the_hardware<F: Format>(format: F) {
    for level in 0..format.geometry().levels {
        for hpa in addresses(&format, 4096) {
            for flags in all_flags() {
                let dirty = flags.contains(MappingFlags::WRITE);
                let owned = flags.contains(MappingFlags::READ);
                let leaf =
                    Leaf { accessed: !owned, dirty, clean: dirty == owned, ..Leaf::new(hpa, flags, owned) };
                let soft = [
                    Soft::NoAccess(leaf),
                    Soft::Broken(leaf),
                    Soft::RetiredLeaf(leaf),
                    Soft::Idle(leaf),
                    Soft::RetiredTable { hpa, owned: leaf.owned, shared: false },
                    Soft::RetiredTable { hpa, owned: leaf.owned, shared: true },
                    Soft::SharedTable(hpa),
                    Soft::NewTable(hpa),
                ];
                for soft in soft {
                    let entry = soft.encode();
                    assert_ne!(entry, 0, "{soft:?}");
                    assert_eq!(format.kind(level, entry), Kind::Absent, "{soft:?} at level {level}");
                    assert_eq!(format.next_table(entry), None, "{soft:?}");
                    assert_eq!(entry & format.group_bit(), 0, "{soft:?} is one of no group");
                    assert_eq!(Soft::decode(entry), Some(soft));
                }
            }
        }
    }
}

pub(crate) fn indices_stay_inside_their_table<F: Format>(format: F) {
    let geometry = format.geometry();
    let last = GuestPhysAddr::new(geometry.limit().as_u64() - 1);
    assert!(geometry.translates(last) && !geometry.translates(geometry.limit()));
    for level in 0..geometry.levels {
        let used = geometry.entries(level).min(1 << (geometry.gpa_bits - 12 - 9 * u32::from(level)));
        assert_eq!(geometry.index(level, last), used - 1, "level {level}");
        for gpa in [0, 0x1000, u64::MAX, u64::MAX >> 1, last.as_u64() + 1].map(GuestPhysAddr::new) {
            assert!(geometry.index(level, gpa) < geometry.entries(level));
        }
    }
    assert!(geometry.levels > LeafSize::Size2M.level());
    assert!(format.largest_leaf().level() < geometry.levels);
}

/// The dirty log's bit says nothing else, and a fresh leaf has it as a dirty one unless the hardware sets it.
pub(crate) fn a_clean_leaf_is_a_leaf<F: Format>(format: F) {
    let (bit, clean) = (format.log_bit(), format.log_bit_of_clean());
    assert_eq!((bit.count_ones(), clean & !bit), (1, 0));
    assert_eq!(bit & (F::ADDRESS | F::OWNED | F::WRITE | format.accessed_bit()), 0);
    if format.dirty_bit() != 0 {
        assert_eq!((bit, clean), (format.dirty_bit(), 0));
    }
    for level in leaf_levels(&format) {
        for flags in all_flags().filter(|flags| flags.is_accessible() && format.check_flags(*flags).is_ok()) {
            let leaf = format.leaf(level, HostPhysAddr::new(0), flags);
            assert_eq!(leaf & bit == clean, format.dirty_bit() != 0, "{leaf:#x} ({flags}) at level {level}");
            assert_eq!(leaf & F::WRITE != 0, flags.contains(MappingFlags::WRITE), "{leaf:#x} ({flags})");
            for entry in [leaf & !bit | clean, leaf & !bit | bit ^ clean] {
                assert_eq!(format.flags(entry), format.flags(leaf), "{entry:#x} at level {level}");
                assert_eq!(format.kind(level, entry), Kind::Leaf, "{entry:#x} at level {level}");
            }
        }
    }
}

pub(crate) fn permissions_change_in_place<F: Format>(format: F) {
    let flags = MappingFlags::READ | MappingFlags::WRITE;
    for level in leaf_levels(&format) {
        let leaf = format.leaf(level, HostPhysAddr::new(0), flags);
        assert!(!format.needs_break(level, leaf, leaf));
        let read_only = format.leaf(level, HostPhysAddr::new(0), MappingFlags::READ);
        assert!(!format.needs_break(level, leaf, read_only), "a permission changes in place");
    }
}

/// Two CPUs would write to both frames until the invalidation.
pub(crate) fn a_leaf_never_jumps_to_another_frame<F: Format>(format: F) {
    for level in leaf_levels(&format) {
        let [one, other] = [0, level_bytes(level)]
            .map(|hpa| format.leaf(level, HostPhysAddr::new(hpa), MappingFlags::READ | MappingFlags::WRITE));
        assert!(format.needs_break(level, one, other), "{one:#x} to {other:#x} at level {level}");
    }
}

/// For formats whose hardware asks for no break-before-make where the address stays what it is.
pub(crate) fn a_table_and_a_leaf_take_each_others_place_at_once<F: Format>(format: F) {
    if format.largest_leaf() != LeafSize::Size4K {
        let flags = MappingFlags::READ | MappingFlags::WRITE;
        let leaf = format.leaf(1, HostPhysAddr::new(0), flags);
        let table = format.table(HostPhysAddr::new(0x5000));
        assert!(!format.needs_break(1, leaf, table) && !format.needs_break(1, table, leaf));
    }
}

/// For formats whose hardware keeps its data caches coherent with the guest's accesses.
pub(crate) fn the_hardware_keeps_its_caches_coherent_for_data<F: Format>(format: F) {
    let flags = MappingFlags::READ | MappingFlags::WRITE;
    for event in [CacheEvent::ToGuest(flags), CacheEvent::FromGuest(MemoryType::WriteBack)] {
        assert_eq!(format.cache_actions(event), CacheActions::empty());
    }
}
