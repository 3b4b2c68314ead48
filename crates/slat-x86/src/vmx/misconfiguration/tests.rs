use super::{BadEntry, Misconfiguration as Bad, find, misconfiguration};
use slat::format::ept::{Capabilities, Ept};
use slat::format::{Format, Kind};
use slat::{GuestPhysAddr, HostPhysAddr, MappingFlags};

/// Everything but execute-only and five levels; 40 bits.
const CAPABILITIES: Capabilities = Capabilities {
    ept_vpid_cap: 1 << 6 | 1 << 14 | 1 << 16 | 1 << 17 | 1 << 21,
    physical_bits: 40,
    mode_based_execute: false,
    accessed_dirty: true,
};

#[test]
fn each_entry_is_judged_as_the_manual_says() {
    let table = [
        // Absent entries are never wrong, whatever else they say.
        (0, 0, None),
        (3, 0xffff_ffff_ffff_fff8, None),
        // Permissions.
        (0, 0x1032, Some(Bad::WriteWithoutRead)),
        (0, 0x1036, Some(Bad::WriteWithoutRead)),
        (0, 0x1034, Some(Bad::ExecuteWithoutRead)),
        (2, 0x1004, Some(Bad::ExecuteWithoutRead)),
        (0, 0x1037, None),
        // Memory types of leaves; bit 7 of the last level and ignored bits do not count.
        (0, 0x1017, Some(Bad::MemoryType(2))),
        (0, 0x101f, Some(Bad::MemoryType(3))),
        (0, 0x103f, Some(Bad::MemoryType(7))),
        (0, 0x100f, None),
        (0, 0x1027, None),
        (0, 0x102f, None),
        (0, 0xfff0_0000_0000_1ff7, None),
        // Large leaves.
        (1, 0x0020_00b7, None),
        (1, 0x0020_10b7, Some(Bad::LeafAlignment(0x1000))),
        (1, 0x0030_00b7, Some(Bad::LeafAlignment(0x10_0000))),
        (2, 0x4000_00b7, None),
        (2, 0x4020_00b7, Some(Bad::LeafAlignment(0x20_0000))),
        (1, 0x0020_009f, Some(Bad::MemoryType(3))),
        // Tables.
        (1, 0x1007, None),
        (1, 0x1107, None),
        (3, 0x1087, Some(Bad::TableBits(0x80))),
        (4, 0x1087, Some(Bad::TableBits(0x80))),
        (2, 0x100f, Some(Bad::TableBits(0x08))),
        (3, 0x1047, Some(Bad::TableBits(0x40))),
        // Width.
        (0, 1 << 40 | 0x1037, Some(Bad::AddressWidth(1 << 40))),
        (3, 1 << 51 | 0x1007, Some(Bad::AddressWidth(1 << 51))),
        (0, 1 << 39 | 0x1037, None),
    ];
    for (level, entry, expected) in table {
        assert_eq!(misconfiguration(&CAPABILITIES, level, entry), expected, "{level} {entry:#x}");
    }
}

#[test]
fn capabilities_decide() {
    let execute_only = Capabilities { ept_vpid_cap: CAPABILITIES.ept_vpid_cap | 1, ..CAPABILITIES };
    assert_eq!(misconfiguration(&execute_only, 0, 0x1034), None);
    let small = Capabilities { ept_vpid_cap: 1 << 6 | 1 << 14, ..CAPABILITIES };
    assert_eq!(misconfiguration(&small, 1, 0x0020_0087), Some(Bad::TableBits(0x80)));
    assert_eq!(misconfiguration(&small, 2, 0x4000_0087), Some(Bad::TableBits(0x80)));
    // Bit 10 makes an entry present with mode-based execute control, and not without.
    let modes = Capabilities { mode_based_execute: true, ..CAPABILITIES };
    assert_eq!(misconfiguration(&modes, 0, 0x1430), Some(Bad::ExecuteWithoutRead));
    assert_eq!(misconfiguration(&CAPABILITIES, 0, 0x1430), None);
    let wide = Capabilities { physical_bits: 64, ..CAPABILITIES };
    assert_eq!(misconfiguration(&wide, 0, 0x000f_ffff_ffff_f037), None);
}

#[test]
fn what_slat_encodes_is_never_wrong() {
    let format = Ept::new(CAPABILITIES, 4).expect("offered");
    for bits in 0..=MappingFlags::all().bits() {
        let flags = MappingFlags::from_bits_truncate(bits);
        if format.check_flags(flags).is_err() || flags.permissions().is_empty() {
            continue;
        }
        for level in 0..3 {
            let entry = format.leaf(level, HostPhysAddr::new(0x40_0000_0000), flags);
            assert_eq!(format.kind(level, entry), Kind::Leaf);
            assert_eq!(misconfiguration(&CAPABILITIES, level, entry), None, "{level} {flags}");
        }
    }
    for level in 1..4 {
        let entry = format.table(HostPhysAddr::new(0x1000));
        assert_eq!(misconfiguration(&CAPABILITIES, level, entry), None);
    }
}

#[test]
fn the_walk_finds_the_entry() {
    let gpa = GuestPhysAddr::new(0x1234_5678);
    // Index 0, 0, 0x91, 0x145.
    let with = |leaf: u64| {
        move |address: HostPhysAddr| match address.as_u64() {
            0x1000 => 0x2007,
            0x2000 => 0x3007,
            0x3488 => 0x4007,
            0x4a28 => leaf,
            other => panic!("{other:#x} is no part of the walk"),
        }
    };
    let root = HostPhysAddr::new(0x1000);
    let bad = BadEntry {
        level: 0,
        address: HostPhysAddr::new(0x4a28),
        entry: 0x5032,
        reason: Bad::WriteWithoutRead,
    };
    assert_eq!(find(&CAPABILITIES, root, 4, gpa, with(0x5032)), Some(bad));
    assert_eq!(bad.to_string(), "entry 0x5032 of level 0 at 0x4a28: writable and not readable");
    assert_eq!(find(&CAPABILITIES, root, 4, gpa, with(0x5037)), None);
    assert_eq!(find(&CAPABILITIES, root, 4, gpa, with(0)), None);
    // Higher up: the walk ends there, as the CPU's does.
    let high = find(&CAPABILITIES, root, 4, gpa, |_| 0x2087);
    assert_eq!(high.map(|bad| (bad.level, bad.reason)), Some((3, Bad::TableBits(0x80))));
    // A number of levels that does not exist is cut.
    assert_eq!(find(&CAPABILITIES, root, 255, gpa, |_| 0), None);
}
