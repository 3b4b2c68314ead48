//! Real CPUs, and such as lack something.

use super::{Capabilities, Facts, Unsupported};
use slat::format::Format;
use slat::format::npt::{self, Npt};

/// As QEMU 7.2 answers for `-cpu EPYC`.
pub(crate) fn epyc_facts() -> Facts {
    Facts {
        leaf_1: [0x0080_0f12, 0, 0xfed8_3203, 0x178b_fbff],
        leaf_7: [0, 0x209c_01a9, 0, 0],
        leaf_d: [7, 0x340, 0x340, 0],
        extended_1: [0x0080_0f12, 0, 0x0040_01f7, 0x2fd3_fbff],
        extended_8: [0x3028, 0, 0, 0],
        svm: [1, 16, 0, 1 | 1 << 16 | 1 << 28],
        vm_cr: 0,
        efer: 0xd01,
        cr4: 0x620,
    }
}

pub(crate) fn epyc() -> Capabilities {
    Capabilities::from_facts(&epyc_facts()).expect("it has SVM")
}

/// One that has everything.
pub(crate) fn rome() -> Capabilities {
    let facts = Facts { svm: [1, 0x8000, 0, 0x1ebf_bdff], ..epyc_facts() };
    Capabilities::from_facts(&facts).expect("it has SVM")
}

#[test]
fn a_cpu_without_assists_is_told_from_one_with_all() {
    let few = epyc();
    assert!(!few.next_rip && !few.flush_by_asid && !few.decode_assists && !few.vmcb_clean);
    assert_eq!((few.asids, few.physical_bits, few.levels), (16, 40, 4));
    assert!(few.leaf_1g && few.no_execute && few.pse36 && few.rdtscp && !few.to_be_unlocked);
    assert_eq!((few.components, few.xsave_bytes), (7, 0x340));
    let all = rome();
    assert!(all.next_rip && all.flush_by_asid && all.decode_assists && all.vmcb_clean);
    for (bit, expected) in [
        (3, [true, false, false, false]),
        (5, [false, true, false, false]),
        (6, [false, false, true, false]),
        (7, [false, false, false, true]),
    ] {
        let facts = Facts { svm: [1, 16, 0, 1 | 1 << bit], ..epyc_facts() };
        let found = Capabilities::from_facts(&facts).expect("it has SVM");
        let all = [found.next_rip, found.vmcb_clean, found.flush_by_asid, found.decode_assists];
        assert_eq!(all, expected, "bit {bit}");
    }
}

#[test]
fn what_is_missing_is_named() {
    let refused = |change: fn(&mut Facts)| {
        let mut facts = epyc_facts();
        change(&mut facts);
        Capabilities::from_facts(&facts).err()
    };
    assert_eq!(refused(|facts| facts.extended_1[2] &= !(1 << 2)), Some(Unsupported::NoSvm));
    assert_eq!(refused(|facts| facts.vm_cr = 0x18), Some(Unsupported::Disabled(0x18)));
    assert_eq!(refused(|facts| facts.svm[3] &= !1), Some(Unsupported::NoNestedPaging));
    assert_eq!(refused(|facts| facts.svm[1] = 1), Some(Unsupported::Asids(1)));
    assert_eq!(refused(|facts| facts.svm[1] = 2), None);
    for bits in [31, 53, 255] {
        let mut facts = epyc_facts();
        facts.extended_8[0] = bits;
        assert_eq!(Capabilities::from_facts(&facts), Err(Unsupported::PhysicalBits(bits)));
    }
    // A development host, or a CPU of another vendor.
    assert_eq!(Capabilities::from_facts(&Facts::default()), Err(Unsupported::NoSvm));
}

#[test]
fn the_firmwares_switch_can_be_turned_unless_it_is_locked() {
    let with = |vm_cr| Capabilities::from_facts(&Facts { vm_cr, ..epyc_facts() });
    assert!(with(0x10).is_ok_and(|found| found.to_be_unlocked));
    assert!(with(0x08).is_ok_and(|found| !found.to_be_unlocked));
}

#[test]
fn without_the_leaf_physical_addresses_have_36_bits() {
    let facts = Facts { extended_8: [0; 4], ..epyc_facts() };
    assert!(Capabilities::from_facts(&facts).is_ok_and(|found| found.physical_bits == 36));
}

#[test]
fn the_hosts_own_mode_decides_about_nested_tables() {
    let facts = Facts { efer: 0x501, cr4: 0x1620, ..epyc_facts() };
    let found = Capabilities::from_facts(&facts).expect("it has SVM");
    assert_eq!((found.levels, found.no_execute), (5, false));
    let expected = npt::Capabilities {
        physical_bits: 40,
        leaf_1g: true,
        no_execute: false,
        asids: 16,
        accessed_dirty: false,
    };
    assert_eq!(found.npt(false), expected);
    assert_eq!(found.npt(true), npt::Capabilities { accessed_dirty: true, ..expected });
    let format = Npt::new(found.npt(true), found.levels).expect("in range");
    assert_eq!(format.tag_bits(), 4);
}

#[test]
fn a_guest_may_set_what_the_cpu_has() {
    let found = epyc();
    // No LA57 (bit 12), VMXE (13), PCIDE (17), PKE (22), CET (23); UMIP (11) is not in QEMU's.
    assert_eq!(found.cr4, 0x35_07ff, "{:#x}", found.cr4);
    assert_eq!(found.efer, 0x4d01);
    let facts = Facts { leaf_1: [0; 4], leaf_7: [0; 4], extended_1: [0, 0, 1 << 2, 0], ..epyc_facts() };
    let least = Capabilities::from_facts(&facts).expect("it has SVM");
    assert_eq!((least.cr4, least.efer, least.components), (0x104, 0x501, 0));
    assert!(!least.leaf_1g && !least.pse36 && !least.rdtscp);
}
