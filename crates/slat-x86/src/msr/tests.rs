//! Which registers exist.

use super::*;
use std::vec::Vec;

/// Every register number that any manual names, and their neighbours.
fn numbers() -> impl Iterator<Item = u32> {
    (0..0x2000).chain(0xc000_0000..0xc000_2000).chain(0xc001_0000..0xc001_2000).chain([u32::MAX, 0x4000_0000])
}

#[test]
fn what_passes_is_the_guests_own() {
    let both: Vec<u32> = numbers().filter(|&index| passes(index, true)).collect();
    let own = [
        0x174,
        0x175,
        0x176,
        0x277,
        0xc000_0081,
        0xc000_0082,
        0xc000_0083,
        0xc000_0084,
        0xc000_0100,
        0xc000_0101,
        0xc000_0102,
        0xc000_0103,
    ];
    assert_eq!(both, own);
    let reads: Vec<u32> = numbers().filter(|&index| passes(index, false) && !passes(index, true)).collect();
    assert_eq!(reads, [0x10]);
    assert!(SWITCHED.iter().all(|index| own.contains(index)));
}

#[test]
fn what_could_reach_the_machine_does_not_exist() {
    // x2APIC, VMX, SVM's host save area, physical performance counters, TSC deadline, speculation control, XSS, microcode.
    let machine =
        (0x800..0x900).chain(0x480..0x500).chain([0xc001_0117, 0xc1, 0x6e0, 0x48, 0x49, 0xda0, 0x79]);
    machine.for_each(|index| assert_eq!(rule(index), Rule::Refused, "{index:#x}"));
    assert!((0x200..=0x26f).all(|index| rule(index) == Rule::Refused));
}

#[test]
fn what_is_answered_is_answered_so() {
    let cases = [
        (0x1b, Rule::Host),
        (0x1a0, Rule::Host),
        (0xc001_0015, Rule::Host),
        (0x3a, Rule::ReadOnly(1)),
        (0xfe, Rule::ReadOnly(0)),
        (0x2ff, Rule::Constant(0x806)),
        (0x8b, Rule::Constant(0)),
        (0x17, Rule::Constant(0)),
        (0x179, Rule::Constant(0)),
        (0x17b, Rule::Constant(0)),
        (0x17c, Rule::Refused),
        (0x1d9, Rule::Constant(0)),
        (0xc001_0010, Rule::Constant(0)),
        (0xc001_001f, Rule::Constant(0)),
        (0xc001_0114, Rule::ReadOnly(0x18)),
        (0xc001_1029, Rule::Constant(2)),
        (0xc000_0080, Rule::Control(Control::Efer)),
    ];
    cases.iter().for_each(|&(index, expected)| assert_eq!(rule(index), expected, "{index:#x}"));
}

#[test]
fn whoever_passes_may_pass() {
    for first in [0, 0xc000_0000, 0xc001_0000] {
        for index in first..first + 0x2000 {
            assert_eq!(may_pass(index, 1), passes(index, false), "{index:#x}");
        }
        for index in (first..first + 0x2000).step_by(64) {
            assert_eq!(
                may_pass(index, 64),
                (index..index + 64).any(|index| may_pass(index, 1)),
                "{index:#x}"
            );
        }
    }
}
