//! Every port and every register that has a bit.

use super::*;
use slat::device::{Port, PortRange};
use slat::test_util::HeapHal;

fn byte<H: Hal>(maps: &PermissionMaps<H>, index: usize) -> u8 {
    (maps.frames.word(index & !7) >> (8 * (index & 7))) as u8
}

#[test]
fn every_port_has_its_bit() {
    let hal = HeapHal::new();
    let range = |first, last| PortRange::inclusive(Port(first), Port(last)).expect("in order");
    let ports = Intercepted::NONE.with(range(0x604, 0x605)).expect("room");
    let ports = ports.with(range(0xffff, 0xffff)).expect("room").with(range(0, 0)).expect("room");
    let maps = PermissionMaps::new(&hal, &ports).expect("frames");
    for port in 0..=u16::MAX {
        let bit = byte(&maps, usize::from(port / 8)) >> (port % 8) & 1;
        assert_eq!(bit == 1, matches!(port, 0 | 0x604 | 0x605 | 0xffff), "{port:#x}");
    }
    // An access of four bytes at the last port.
    assert!((0x2000..0x3000).all(|index| byte(&maps, index) == 0xff));
    assert_eq!(maps.io().as_u64() % 4096, 0);
    assert_eq!(maps.msr(), maps.io().as_u64() + 0x3000);
    drop(maps);
    assert_eq!(hal.in_use(), 0);
}

#[test]
fn registers_pass_as_their_rules_say() {
    let hal = HeapHal::new();
    let maps = PermissionMaps::new(&hal, &Intercepted::NONE).expect("frames");
    // APM vol. 2, "MSR Permissions Map".
    for (first, offset) in [(0, 0), (0xc000_0000_u32, 0x800), (0xc001_0000, 0x1000)] {
        for register in 0..0x2000 {
            let bits = byte(&maps, 0x3000 + offset + register as usize / 4) >> (2 * (register % 4)) & 3;
            let index = first + register;
            let expected = u8::from(!msr::passes(index, false)) | u8::from(!msr::passes(index, true)) << 1;
            assert_eq!(bits, expected, "{index:#x}");
        }
    }
    assert!((0x4800..0x5000).all(|index| byte(&maps, index) == 0xff));
    // EFER: the guest would see SVME. STAR is its own, and the time-stamp counter can be read.
    let bits = |index: usize, register: u32| byte(&maps, index) >> (2 * (register % 4)) & 3;
    assert_eq!(bits(0x3800 + 0x20, 0x80), 3);
    assert_eq!(bits(0x3800 + 0x20, 0x81), 0);
    assert_eq!(bits(0x3004, 0x10), 2);
}

#[test]
fn without_frames_there_are_no_maps() {
    let hal = HeapHal::new();
    hal.fail_after(Some(0));
    assert!(PermissionMaps::new(&hal, &Intercepted::NONE).is_none());
}
