//! Intel EPT against the manual.

use super::*;
use crate::format::conformance as suite;
use MappingFlags as M;

/// Everything but five levels and mode-based execute control: IA32_VMX_EPT_VPID_CAP of a Tiger Lake as Bochs has it.
const TIGER_LAKE: Capabilities =
    Capabilities { ept_vpid_cap: 0xf01_06b3_4141, physical_bits: 46, ..Capabilities::BASELINE };

fn formats() -> Vec<Ept> {
    let five =
        Capabilities { ept_vpid_cap: TIGER_LAKE.ept_vpid_cap | 1 << 7, physical_bits: 52, ..TIGER_LAKE };
    let plain = Capabilities { ept_vpid_cap: five.ept_vpid_cap & !1 & !(1 << 17), ..five };
    let mut formats = vec![Ept::default()];
    for capabilities in [TIGER_LAKE, five, plain] {
        for (mode_based_execute, accessed_dirty) in
            [(false, false), (true, false), (false, true), (true, true)]
        {
            for levels in [4, 5] {
                let options = Capabilities { mode_based_execute, accessed_dirty, ..capabilities };
                formats.extend(Ept::new(options, levels));
            }
        }
    }
    assert_eq!(formats.len(), 21);
    formats
}

crate::format::conformance::conformance!(formats());

/// Known-good entries, put together by hand from "Format of an EPT PDPTE that Maps a 1-GByte Page" and its like.
#[test]
fn entries_are_those_of_the_manual() {
    let plain = Ept::new(TIGER_LAKE, 4).expect("offered");
    let mode_based = Ept::new(Capabilities { mode_based_execute: true, ..TIGER_LAKE }, 4).expect("offered");
    let rw = M::READ | M::WRITE;
    let cases = [
        // Write-back is type 6.
        (plain, 0, 0x1_2345_6000, rw | M::EXECUTE, 0x1_2345_6037),
        (plain, 0, 0x1_2345_6000, rw | M::EXECUTE | M::USER, 0x1_2345_6037),
        (plain, 0, 0x1_2345_6000, M::READ, 0x1_2345_6031),
        (plain, 0, 0x1_2345_6000, M::EXECUTE, 0x1_2345_6034),
        // Bit 7: a large page.
        (plain, 1, 0x1_2340_0000, rw, 0x1_2340_00b3),
        (plain, 2, 0x1_4000_0000, rw, 0x1_4000_00b3),
        // Uncacheable is type 0; bit 6 ignores the guest's PAT; write-combining is type 1.
        (plain, 0, 0xfee0_0000, rw | M::DEVICE, 0xfee0_0003),
        (plain, 0, 0xfee0_0000, rw | M::DEVICE | M::UNCACHED, 0xfee0_0043),
        (plain, 0, 0xfee0_0000, rw | M::UNCACHED, 0xfee0_000b),
        // Bit 10: execution in user mode.
        (mode_based, 0, 0x1000, rw | M::EXECUTE, 0x1037),
        (mode_based, 0, 0x1000, rw | M::USER, 0x1433),
    ];
    for (format, level, hpa, flags, entry) in cases {
        assert_eq!(format.check_flags(flags), Ok(()), "{flags}");
        let got = format.leaf(level, HostPhysAddr::new(hpa), flags);
        assert_eq!(got, entry, "{flags} at level {level}: {got:#x}, not {entry:#x}");
    }
    assert_eq!(plain.table(HostPhysAddr::new(0x5000)), 0x5007);
    assert_eq!(mode_based.table(HostPhysAddr::new(0x5000)), 0x5407);
    let flagged = Ept::new(Capabilities { accessed_dirty: true, ..TIGER_LAKE }, 4).expect("offered");
    // Bit 8 of a table entry is set ahead; bits 8 and 9 of a leaf are the CPU's to set.
    assert_eq!(flagged.table(HostPhysAddr::new(0x5000)), 0x5107);
    assert_eq!(flagged.leaf(0, HostPhysAddr::new(0x1000), rw), 0x1033);
    assert_eq!((flagged.accessed_bit(), flagged.dirty_bit()), (0x100, 0x200));
    assert_eq!((plain.accessed_bit(), plain.dirty_bit()), (0, 0));
}

/// "EPT Misconfigurations": what the hardware would refuse with exit reason 49.
fn is_misconfiguration(format: &Ept, level: u8, entry: u64) -> bool {
    let (r, w, x) = (entry & 1 != 0, entry & 2 != 0, entry & 4 != 0);
    let user = format.capabilities.mode_based_execute && entry & 1 << 10 != 0;
    if !(r || w || x || user) {
        return false;
    }
    let large = level == 0 || entry & 1 << 7 != 0;
    let reserved_address =
        entry >> format.capabilities.physical_bits & ((1 << (52 - format.capabilities.physical_bits)) - 1);
    let reserved_low = match (level, large) {
        (0, _) => 0,
        (1, true) => entry & 0x1f_f000,
        (2, true) => entry & 0x3fff_f000,
        (1 | 2, false) => entry & 0x78,
        _ => entry & 0xf8,
    };
    let bad_type = large && matches!(entry >> 3 & 7, 2 | 3 | 7);
    let no_1g = level == 2 && large && format.capabilities.ept_vpid_cap >> 17 & 1 == 0;
    w && !r
        || !r && (x || user) && format.capabilities.ept_vpid_cap & 1 == 0
        || reserved_address != 0
        || reserved_low != 0
        || bad_type
        || no_1g
}

#[test]
fn no_entry_is_a_misconfiguration() {
    let mut entries = 0;
    for format in formats() {
        let top = 1u64 << format.hpa_bits();
        for level in 0..format.geometry().levels {
            if level > 0 {
                for hpa in [0, top - 0x1000] {
                    assert!(!is_misconfiguration(&format, level, format.table(HostPhysAddr::new(hpa))));
                }
            }
            if level > format.largest_leaf().level() {
                continue;
            }
            let bytes = crate::flags::level_bytes(level);
            for flags in (0..64).filter_map(M::from_bits).filter(|flags| flags.is_accessible()) {
                let entry = format.leaf(level, HostPhysAddr::new(top - bytes), flags);
                let usable = format.check_flags(flags).is_ok();
                assert!(
                    !usable || !is_misconfiguration(&format, level, entry),
                    "{entry:#x} at level {level}"
                );
                entries += 1;
            }
        }
    }
    assert!(entries > 1000);
    let format = Ept::new(TIGER_LAKE, 4).expect("offered");
    for (level, entry) in [(0, 0x1032), (1, 0x1000_10b7), (3, 0x10b7), (0, 0x101f), (0, 1 << 50 | 1)] {
        assert!(is_misconfiguration(&format, level, entry), "{entry:#x}: the check itself can fail");
    }
}

#[test]
fn the_root_register_is_an_eptp() {
    let four = Ept::new(TIGER_LAKE, 4).expect("offered");
    assert_eq!(four.root_register(HostPhysAddr::new(0x1234_5000), 7), 0x1234_501e);
    let five = Capabilities { ept_vpid_cap: TIGER_LAKE.ept_vpid_cap | 1 << 7, ..TIGER_LAKE };
    let five = Ept::new(five, 5).expect("offered");
    assert_eq!(five.root_register(HostPhysAddr::new(0x1234_5000), 7), 0x1234_5026);
    let flagged = Ept::new(Capabilities { accessed_dirty: true, ..TIGER_LAKE }, 4).expect("offered");
    assert_eq!(flagged.root_register(HostPhysAddr::new(0x1234_5000), 7), 0x1234_505e, "bit 6");
    assert_eq!((four.geometry().gpa_bits, five.geometry().gpa_bits), (48, 57));
}

#[test]
fn what_the_cpu_lacks_is_refused() {
    assert_eq!(Ept::new(TIGER_LAKE, 5), Err(ConfigError::Levels(5)));
    assert_eq!(Ept::new(TIGER_LAKE, 3), Err(ConfigError::Levels(3)));
    let no_write_back = Capabilities { ept_vpid_cap: 1 << 6, ..TIGER_LAKE };
    assert_eq!(Ept::new(no_write_back, 4), Err(ConfigError::NoWriteBack));
    let no_flags = Capabilities { ept_vpid_cap: 1 << 6 | 1 << 14, accessed_dirty: true, ..TIGER_LAKE };
    assert_eq!(Ept::new(no_flags, 4), Err(ConfigError::NoAccessedDirty));
    let wide = Capabilities { physical_bits: 53, ..TIGER_LAKE };
    assert_eq!(Ept::new(wide, 4), Err(ConfigError::PhysicalBits(53)));
    let plain = Ept::default();
    assert_eq!(plain.largest_leaf(), LeafSize::Size4K);
    assert!(plain.check_flags(M::EXECUTE).is_err() && plain.check_flags(M::WRITE).is_err());
    assert!(plain.check_flags(M::WRITE | M::EXECUTE).is_err());
}

/// Exit qualifications put together by hand from "Exit Qualification for EPT Violations".
#[test]
fn violations_say_what_the_guest_did() {
    use crate::fault::FaultCause::{NotPresent, Permission};
    let mbec = Ept::new(Capabilities { mode_based_execute: true, ..TIGER_LAKE }, 4).expect("offered");
    let cases = [
        // Bits 7 and 8: a linear address, and its translation.
        (0x181, M::READ, NotPresent, false),
        (0x182, M::WRITE, NotPresent, false),
        (0x184, M::EXECUTE, NotPresent, false),
        // Bits 5:3: read and execute are allowed.
        (0x1aa, M::WRITE, Permission, false),
        // A read-modify-write.
        (0x183, M::WRITE, NotPresent, false),
        // In the guest's tables; with accessed and dirty flags that is a write as well.
        (0x081, M::READ, NotPresent, true),
        (0x0ab, M::WRITE, Permission, true),
    ];
    for (qualification, access, cause, walk) in cases {
        let violation = Violation { qualification, gpa: 0x1_2345, linear: 0xffff_8000_0000_0345 };
        let info = mbec.decode_fault(&violation);
        assert_eq!((info.access, info.cause, info.walk), (access, cause, walk), "{qualification:#x}");
        assert_eq!((info.gpa.as_u64(), info.gva.map(|gva| gva.as_u64())), (0x1_2345, Some(violation.linear)));
    }
    // Bit 6 means something only with mode-based execute control; without bit 7 there is no linear address.
    let user_only = Violation { qualification: 0x1c4, ..Violation::default() };
    assert_eq!(mbec.decode_fault(&user_only).cause, Permission);
    assert_eq!(Ept::default().decode_fault(&user_only).cause, NotPresent);
    let unknown = Violation { qualification: 0x002, gpa: 0x1000, linear: 7 };
    let info = mbec.decode_fault(&unknown);
    assert_eq!((info.gva, info.walk, info.access), (None, false, M::WRITE));
}

#[test]
fn the_baseline_is_offered_and_has_nothing_more() {
    assert_eq!(Ept::new(Capabilities::BASELINE, 4), Ok(Ept::default()));
    assert_eq!(Ept::new(Capabilities::BASELINE, 5), Err(ConfigError::Levels(5)));
    assert_eq!(Ept::default().capabilities(), Capabilities::BASELINE);
    assert_eq!(Capabilities::BASELINE.ept_vpid_cap, 0x4040, "bits 6 and 14");
}

#[test]
fn no_access_at_all_can_always_be_asked_for() {
    let no_execute_only = Capabilities { ept_vpid_cap: TIGER_LAKE.ept_vpid_cap & !1, ..TIGER_LAKE };
    for mode_based_execute in [false, true] {
        let format = Ept::new(Capabilities { mode_based_execute, ..no_execute_only }, 4).expect("offered");
        assert_eq!(format.check_flags(M::empty()), Ok(()));
        assert!(format.check_flags(M::EXECUTE).is_err());
    }
}

#[test]
fn vpids_are_sixteen_bits_and_invept_is_what_the_cpu_has() {
    assert_eq!(Ept::default().tag_bits(), 16);
    for (bit, features) in [(25, TlbFeatures::SINGLE_CONTEXT), (26, TlbFeatures::empty())] {
        let ept_vpid_cap = Capabilities::BASELINE.ept_vpid_cap | 1 << bit;
        let format = Ept::new(Capabilities { ept_vpid_cap, ..Capabilities::BASELINE }, 4).expect("offered");
        assert_eq!(format.tlb_features(), features);
    }
}

#[test]
fn physical_addresses_have_between_32_and_52_bits() {
    let with = |physical_bits| {
        Ept::new(Capabilities { physical_bits, ..TIGER_LAKE }, 4).map(|format| format.hpa_bits())
    };
    assert_eq!([31, 53].map(with), [31, 53].map(|bits| Err(ConfigError::PhysicalBits(bits))));
    assert_eq!([32, 52].map(with), [Ok(32), Ok(52)]);
}

#[test]
fn a_table_and_a_leaf_take_each_others_place_at_once() {
    formats().into_iter().for_each(suite::a_table_and_a_leaf_take_each_others_place_at_once);
}

#[test]
fn the_hardware_keeps_its_caches_coherent_for_data() {
    formats().into_iter().for_each(suite::the_hardware_keeps_its_caches_coherent_for_data);
}
