use super::*;

fn access(port: u16, width: AccessWidth, direction: PortDirection) -> PortAccess {
    PortAccess { port: Port(port), width, direction, string: false, repeat: false }
}

fn out(port: u16, width: AccessWidth, rax: u64) -> Action {
    action(&access(port, width, PortDirection::Out), rax)
}

fn input(port: u16, width: AccessWidth) -> Action {
    action(&access(port, width, PortDirection::In), 0)
}

use AccessWidth::{Byte, Dword, Word};

#[test]
fn the_power_goes_off_by_a_word() {
    assert_eq!(out(0x604, Word, 0xffff_2000), Action::PowerOff);
    assert_eq!(out(0x604, Dword, 0x2000), Action::PowerOff);
    for (port, width, value) in
        [(0x604, Word, 0x3c00), (0x604, Byte, 0x20), (0x605, Byte, 0x21), (0x603, Word, 0x2000)]
    {
        assert_eq!(out(port, width, value), Action::Ignore, "{value:#x} to {port:#x}");
    }
    // What a program can do that has only bytes.
    assert_eq!((out(0x604, Byte, 0), out(0x605, Byte, 0x20)), (Action::Ignore, Action::PowerOff));
    assert_eq!(input(0x604, Word), Action::Pass);
}

#[test]
fn what_resets_a_pc_resets_the_guest() {
    assert_eq!(out(0x64, Byte, 0x1234_56fe), Action::Reset);
    assert_eq!(out(0x63, Word, 0xfe00), Action::Reset);
    assert_eq!(out(0x64, Byte, 0xd1), Action::Pass);
    assert_eq!((out(0x92, Byte, 3), out(0x92, Byte, 2)), (Action::Reset, Action::Pass));
    assert_eq!((out(0xcf9, Byte, 6), out(0xcf9, Byte, 2)), (Action::Reset, Action::Pass));
    // The address of a device's configuration.
    assert_eq!(out(0xcf8, Dword, 0x8000_ff00), Action::Pass);
    assert_eq!(input(0x64, Byte), Action::Pass);
}

#[test]
fn the_emulators_do_not_hear_of_it() {
    for (port, width) in [(0xf4, Byte), (0xf3, Word), (0xf1, Dword), (0x8900, Byte), (0x88ff, Dword)] {
        assert_eq!(out(port, width, 0x5353_5353), Action::Ignore, "{port:#x}");
        assert_eq!(input(port, width), Action::Ignore, "{port:#x}");
    }
    assert_eq!(out(0xf5, Byte, 1), Action::Pass);
}

#[test]
fn the_debug_port_is_one_byte() {
    assert_eq!(out(0xe9, Byte, 0x1141), Action::DebugWrite(0x41));
    assert_eq!(input(0xe9, Byte), Action::DebugRead);
    assert_eq!(out(0xe8, Word, 0x4100), Action::Pass);
}

#[test]
fn memory_to_ports_is_nothing_for_us() {
    for direction in [PortDirection::In, PortDirection::Out] {
        let access = PortAccess { string: true, ..access(0x64, Byte, direction) };
        assert_eq!(action(&access, 0xfe), Action::String);
    }
}

#[test]
fn all_of_them_lead_to_exits() {
    let ports = |monitor| {
        let intercepted = intercepted(monitor);
        (0..=u16::MAX).filter(|port| intercepted.contains(Port(*port))).collect::<std::vec::Vec<_>>()
    };
    let always = [0x64, 0x92, 0xe9, 0xf4, 0x604, 0x605, 0xcf9, 0x8900];
    assert_eq!(ports(false), always);
    // The monitor has to see what the guest reads from COM1.
    let (serial, others): (std::vec::Vec<_>, std::vec::Vec<_>) =
        ports(true).into_iter().partition(|port| !always.contains(port));
    assert_eq!((serial, others), ((0x3f8..0x400).collect(), always.into()));
}

#[test]
fn a_read_changes_as_much_of_rax_as_it_is_wide() {
    let merged =
        |width, direction| merged(&access(0x64, width, direction), 0x1122_3344_5566_7788, 0xaabb_ccdd_eeff);
    assert_eq!(merged(Byte, PortDirection::In), 0x1122_3344_5566_77ff);
    assert_eq!(merged(Word, PortDirection::In), 0x1122_3344_5566_eeff);
    assert_eq!(merged(Dword, PortDirection::In), 0xccdd_eeff);
    assert_eq!(merged(Dword, PortDirection::Out), 0x1122_3344_5566_7788);
}
