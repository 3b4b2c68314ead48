//! AMD nested paging against the manual.

use super::*;
use crate::format::conformance as suite;
use MappingFlags as M;

const FULL: Capabilities =
    Capabilities { physical_bits: 48, leaf_1g: true, no_execute: true, asids: 32_768, accessed_dirty: false };

fn formats() -> Vec<Npt> {
    let mut formats = vec![Npt::default()];
    for physical_bits in [40, 48, 52] {
        for levels in [4, 5] {
            let capabilities = Capabilities { physical_bits, ..FULL };
            formats.push(Npt::new(capabilities, levels).expect("in range"));
            let capabilities = Capabilities { accessed_dirty: true, ..capabilities };
            formats.push(Npt::new(capabilities, levels).expect("in range"));
        }
    }
    formats
}

crate::format::conformance::conformance!(formats());

/// Known-good entries, put together by hand from "Page-Translation-Table Entry Fields".
#[test]
fn entries_are_those_of_the_manual() {
    let format = Npt::new(FULL, 4).expect("in range");
    let rw = M::READ | M::WRITE;
    let cases = [
        // P, U/S, A, D; R/W is bit 1, NX bit 63.
        (0, 0x1_2345_6000, M::READ | M::EXECUTE, 0x0000_0001_2345_6065),
        (0, 0x1_2345_6000, rw | M::EXECUTE | M::USER, 0x0000_0001_2345_6067),
        (0, 0x1_2345_6000, rw, 0x8000_0001_2345_6067),
        // Bit 7: a large page.
        (1, 0x1_2340_0000, rw, 0x8000_0001_2340_00e7),
        (2, 0x1_4000_0000, rw | M::EXECUTE, 0x0000_0001_4000_00e7),
        // UC- is entry 2 of the PAT, UC is entry 3.
        (0, 0xfee0_0000, rw | M::DEVICE, 0x8000_0000_fee0_0077),
        (0, 0xfee0_0000, rw | M::DEVICE | M::UNCACHED, 0x8000_0000_fee0_007f),
        (0, 0xfee0_0000, rw | M::UNCACHED, 0x8000_0000_fee0_0277),
    ];
    for (level, hpa, flags, entry) in cases {
        let got = format.leaf(level, HostPhysAddr::new(hpa), flags);
        assert_eq!(got, entry, "{flags} at level {level}: {got:#x}, not {entry:#x}");
    }
    assert_eq!(format.table(HostPhysAddr::new(0x5000)), 0x5027);
    assert_eq!(format.root_register(HostPhysAddr::new(0x5000), 9), 0x5000);
}

#[test]
fn every_present_entry_is_user_and_has_no_reserved_bit() {
    for format in formats() {
        let reserved = ADDRESS & !((1u64 << format.hpa_bits()) - 1);
        for level in 0..=format.largest_leaf().level() {
            let top = HostPhysAddr::new((1u64 << format.hpa_bits()) - crate::flags::level_bytes(level));
            for flags in (0..64).filter_map(M::from_bits).filter(|flags| flags.is_accessible()) {
                let entry = format.leaf(level, top, flags);
                assert_ne!(entry & USER, 0);
                // 2M: 20:13, 1G: 29:13; bit 12 is a PAT bit there.
                let low = (crate::flags::level_bytes(level) - 1) & !0xfff;
                assert_eq!(entry & (reserved | low), 0, "{entry:#x} at level {level}");
            }
        }
        let table = format.table(HostPhysAddr::new((1u64 << format.hpa_bits()) - 4096));
        // Bit 8 (and 7) must be zero in the upper levels.
        assert_eq!((table & USER, table & (reserved | 1 << 8 | LARGE)), (USER, 0));
    }
}

#[test]
fn what_the_format_lacks_is_refused() {
    let format = Npt::new(FULL, 4).expect("in range");
    for flags in [M::EXECUTE, M::WRITE, M::WRITE | M::EXECUTE, M::USER] {
        assert!(format.check_flags(flags).is_err(), "{flags}");
    }
    assert!(format.check_flags(M::empty()).is_ok());
    let no_nx = Npt::new(Capabilities { no_execute: false, ..FULL }, 4).expect("in range");
    assert!(no_nx.check_flags(M::READ).is_err() && no_nx.check_flags(M::READ | M::EXECUTE).is_ok());
    assert_eq!(Npt::new(FULL, 3), Err(ConfigError::Levels(3)));
    let wide = Capabilities { physical_bits: 31, ..FULL };
    assert_eq!(Npt::new(wide, 4), Err(ConfigError::PhysicalBits(31)));
    assert_eq!(
        [1, 64, 100, 32_768]
            .map(|asids| Npt::new(Capabilities { asids, ..FULL }, 4).map(|format| format.tag_bits())),
        [Ok(0), Ok(6), Ok(6), Ok(15)]
    );
}

/// Values of EXITINFO1 put together by hand from "Nested versus Guest Page Faults, Fault Ordering".
#[test]
fn faults_say_what_the_guest_did() {
    use crate::fault::FaultCause::{NotPresent, Permission};
    let cases = [
        // Bit 32: the final address; bit 2: as every nested access, one of user mode.
        (0x1_0000_0004, M::READ, NotPresent, false),
        (0x1_0000_0006, M::WRITE, NotPresent, false),
        (0x1_0000_0007, M::WRITE, Permission, false),
        (0x1_0000_0015, M::EXECUTE, Permission, false),
        // Bit 33: the guest's tables.
        (0x2_0000_0006, M::WRITE, NotPresent, true),
        (0x2_0000_0017, M::WRITE, Permission, true),
    ];
    for (exitinfo1, access, cause, walk) in cases {
        let info = decode_fault(exitinfo1, 0x1_2345).expect("the guest's doing");
        assert_eq!((info.access, info.cause, info.walk), (access, cause, walk), "{exitinfo1:#x}");
        assert_eq!((info.gpa.as_u64(), info.gva), (0x1_2345, None));
    }
    assert_eq!(decode_fault(0x1_0000_000d, 0), Err(ReservedBit(0x1_0000_000d)));
}

#[test]
fn the_edges_of_what_a_cpu_can_be() {
    let bits =
        |physical_bits| Npt::new(Capabilities { physical_bits, ..FULL }, 4).map(|format| format.hpa_bits());
    assert_eq!([32, 52].map(bits), [Ok(32), Ok(52)]);
    assert_eq!(bits(53), Err(ConfigError::PhysicalBits(53)));
    assert_eq!(Npt::new(FULL, 5).map(|format| format.geometry().gpa_bits), Ok(57));
    assert_eq!(Npt::new(FULL, 6), Err(ConfigError::Levels(6)));
    let tag_bits = |asids| Npt::new(Capabilities { asids, ..FULL }, 4).map(|format| format.tag_bits());
    assert_eq!([0, u32::MAX].map(tag_bits), [Ok(0), Ok(16)]);
    assert_eq!(Npt::new(FULL, 4).map(|format| format.capabilities()), Ok(FULL));
}

#[test]
fn a_table_and_a_leaf_take_each_others_place_at_once() {
    formats().into_iter().for_each(suite::a_table_and_a_leaf_take_each_others_place_at_once);
}

#[test]
fn the_hardware_keeps_its_caches_coherent_for_data() {
    formats().into_iter().for_each(suite::the_hardware_keeps_its_caches_coherent_for_data);
}

#[test]
fn marks_are_the_hardwares_where_they_are_wanted() {
    let marking = Npt::new(Capabilities { accessed_dirty: true, ..FULL }, 4).expect("in range");
    let rwx = M::READ | M::WRITE | M::EXECUTE;
    // A is bit 5, D bit 6.
    assert_eq!(marking.leaf(0, HostPhysAddr::new(0x5000), rwx), 0x5007);
    assert_eq!(marking.leaf(1, HostPhysAddr::new(0x20_0000), rwx), 0x20_0087);
    assert_eq!((marking.accessed_bit(), marking.dirty_bit()), (1 << 5, 1 << 6));
    let set = Npt::new(FULL, 4).expect("in range");
    assert_eq!((set.accessed_bit(), set.dirty_bit()), (0, 0));
    // What the hardware would set in a table is set.
    assert_eq!(marking.table(HostPhysAddr::new(0x5000)), 0x5027);
}
