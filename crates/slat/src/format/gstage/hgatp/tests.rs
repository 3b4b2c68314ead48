//! Harts of every kind, asked what they have of hgatp.

use super::*;
use std::vec::Vec;

/// hgatp of a hart with these modes and so many bits of VMID. A MODE that it does not have becomes `other`.
fn hart(modes: Modes, vmid_bits: u32, other: u64) -> impl FnMut(u64) -> u64 {
    move |value| {
        let has = Mode::ALL.into_iter().any(|mode| {
            modes.contains(mode.only()) && value >> 60 == [8, 9, 10][usize::from(mode.levels()) - 3]
        });
        let mode = if has { value >> 60 } else { other };
        let vmid = value >> 44 & 0x3fff & ((1 << vmid_bits) - 1);
        mode << 60 | vmid << 44 | value & ((1 << 44) - 4)
    }
}

#[test]
fn a_hart_has_what_it_gives_back() {
    for bits in 0..=14 {
        for modes in (0..8).map(Modes::from_bits_truncate) {
            // Another mode of its own, Bare, and one that does not exist.
            for other in [0, 8, 15] {
                if other == 8 && !modes.contains(Modes::SV39X4) {
                    continue;
                }
                let vmid_bits = if modes.is_empty() { 0 } else { bits };
                let wanted = HgatpProbe { modes, vmid_bits };
                assert_eq!(HgatpProbe::probe(hart(modes, bits, other)), wanted, "{other}");
            }
        }
    }
}

#[test]
fn a_vmid_has_as_many_bits_as_every_mode_holds() {
    // One mode holds fewer, and of another the second bit is stuck.
    let probe =
        |cut: [u64; 3]| HgatpProbe::probe(|value| value & !(cut[(value >> 60) as usize - 8] << 44)).vmid_bits;
    assert_eq!(probe([0; 3]), 14);
    assert_eq!(probe([0, 1 << 9, 0]), 9);
    assert_eq!(probe([1 << 3, 0, 0]), 3);
    assert_eq!(probe([0, 0, 1 << 1]), 1);
}

#[test]
fn only_modes_with_every_vmid_bit_are_tried() {
    let mut tried = Vec::new();
    let _ = HgatpProbe::probe(|value| {
        tried.push(value);
        value
    });
    // MODE, VMID of ones, and no root: nothing lies where the hart might look meanwhile.
    assert_eq!(tried, [0x83ff_f000_0000_0000, 0x93ff_f000_0000_0000, 0xa3ff_f000_0000_0000]);
}

#[test]
fn henvcfg_has_the_bits_that_stay() {
    let asked = |stays: u64| {
        let mut written = 0;
        let found = probe_henvcfg(|value| {
            written = value;
            value & stays | 0xf1
        });
        assert_eq!(written, 7 << 61, "STCE, PBMTE and ADUE");
        found
    };
    assert_eq!([0, 1 << 61, 1 << 62, 1 << 63, u64::MAX].map(asked), [0, 1 << 61, 1 << 62, 1 << 63, 7 << 61]);
}

#[test]
fn what_hgatp_cannot_hold_is_refused() {
    let value = |root, vmid, vmid_bits| checked_value(Mode::Sv48x4, vmid_bits, vmid, HostPhysAddr::new(root));
    assert_eq!(value(0x8000_4000, 5, 14), Ok(0x9000_5000_0008_0004));
    assert_eq!(value(0, 0, 0), Ok(9 << 60));
    assert_eq!(value((1 << 56) - 0x4000, 0x3fff, 14), Ok(0x93ff_ffff_ffff_fffc));
    for root in [0x8000_1000, 0x8000_2000, 0x8000_4001] {
        assert_eq!(value(root, 5, 14), Err(HgatpError::UnalignedRoot(HostPhysAddr::new(root))));
    }
    let wide = HostPhysAddr::new(1 << 56);
    assert_eq!(value(1 << 56, 0, 14), Err(HgatpError::RootTooWide(wide)));
    assert_eq!(value(0, 128, 7), Err(HgatpError::VmidTooWide { vmid: 128, vmid_bits: 7 }));
    assert_eq!(value(0, 127, 7), Ok(9 << 60 | 127 << 44));
    assert_eq!(value(0, 1, 0), Err(HgatpError::VmidTooWide { vmid: 1, vmid_bits: 0 }));
    // What is not checked is cut, and reaches into nothing else.
    assert_eq!(super::value(Mode::Sv39x4, 0xffff, HostPhysAddr::new(0)), 0x83ff_f000_0000_0000);
}

#[test]
fn the_vmid_has_fourteen_bits() {
    assert_eq!(vmid(8 << 60 | 5 << 44 | 0x8_0000), 5);
    assert_eq!(vmid(u64::MAX), 0x3fff);
    assert_eq!(vmid(!(0x3fff << 44)), 0);
}
