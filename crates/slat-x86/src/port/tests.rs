//! All 65,536 ports.

use super::*;

fn range(first: u16, last: u16) -> PortRange {
    PortRange::inclusive(Port(first), Port(last)).expect("in order")
}

#[test]
fn every_port_has_its_bit() {
    let ports = Intercepted::NONE.with(range(0x604, 0x605)).expect("room");
    let ports =
        ports.with(range(0xe9, 0xe9)).and_then(|ports| ports.with(range(0xffff, 0xffff))).expect("room");
    for port in 0..=u16::MAX {
        let expected = matches!(port, 0x604 | 0x605 | 0xe9 | 0xffff);
        assert_eq!(ports.contains(Port(port)), expected, "{port:#x}");
        assert_eq!(ports.byte(port / 8) >> (port % 8) & 1 == 1, expected, "{port:#x}");
    }
    // Behind the last port there is nothing.
    assert_eq!(ports.byte(8192), 0);
}

#[test]
fn all_and_none() {
    assert!((0..8192).all(|index| Intercepted::all().byte(index) == 0xff));
    assert!((0..8192).all(|index| Intercepted::NONE.byte(index) == 0));
}

#[test]
fn there_is_room_for_eight_ranges() {
    let full = (0..8).try_fold(Intercepted::NONE, |ports, i| ports.with(range(i * 16, i * 16 + 1)));
    let full = full.expect("eight");
    assert!((0..8).all(|i| full.contains(Port(i * 16 + 1)) && !full.contains(Port(i * 16 + 2))));
    assert_eq!(full.with(range(1000, 1000)), None);
}
